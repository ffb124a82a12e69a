"""`repro …`: one dataclass per command, told to tyro; a user's mistake is one sentence and exit status 2."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

# command: (module, dataclass, help). Modules are imported only for the command that runs.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "doctor": ("repro.engine.doctor", "Doctor", "check this installation: versions, hardware, weights, images"),
    "list": ("repro.engine.commands_train", "List", "list experiments, with their state"),
    "train": ("repro.engine.commands_train", "Train", "train an experiment, or go on with a killed one"),
    "evaluate": ("repro.engine.commands_train", "Evaluate", "make the records of an experiment"),
    "reproduce": ("repro.engine.notebooks", "Reproduce", "execute the notebooks: regenerate every table and figure"),
    "claims": ("repro.engine.commands", "Claims", "print the claim ledger with its verdicts"),
    "whence": ("repro.engine.commands", "Whence", "print the records and the command behind a generated file"),
    "compare": ("repro.engine.commands", "TablesCompare", "compare two folders of tables, cell by cell"),
    "bench": ("repro.benchmarks", "Bench", "measure speed against a peer in the same run"),
    "edit": ("repro.editing.commands", "Edit", "edit a photo: blur, grain, colours of another, inpainting, sharpening"),
    "data check": ("repro.data.commands", "DataCheck", "verify a data set against its known layout and counts"),
    "data build": ("repro.data.commands", "DataBuild", "make a data set of this repository's own: editing-bench"),
    "data flist": ("repro.data.commands", "DataFlist", "write the list of a folder's images"),
}


@dataclass(frozen=True)
class _Parsed:
    command: str
    arguments: list[str]


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items())
    return f"usage: repro COMMAND [options]\n\n{rows}\n\n`repro COMMAND --help` tells a command's options.\n"


def _split(argv: list[str]) -> _Parsed | None:
    """The longest known command at the front of `argv`."""
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return _Parsed(name, argv[words:])
    return None


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0 done, 1 something measured disagrees or failed, 2 bad input."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        from repro import __version__

        print(__version__)
        return 0
    parsed = _split(argv)
    if parsed is None:
        import difflib

        near = difflib.get_close_matches(" ".join(argv[:2]), COMMANDS, n=1) or difflib.get_close_matches(
            argv[0], COMMANDS, n=1
        )
        hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(COMMANDS)}"
        print(f"repro: unknown command {argv[0]!r}{hint}", file=sys.stderr)
        return 2
    return _run(parsed)


def _run(parsed: _Parsed) -> int:
    import tyro

    from repro.errors import ReproError

    module, name, text = COMMANDS[parsed.command]
    try:
        command = tyro.cli(
            getattr(importlib.import_module(module), name),
            prog=f"repro {parsed.command}",
            description=text,
            args=parsed.arguments,
        )
        return int(command.run() or 0)
    except ReproError as error:
        print(f"repro {parsed.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"repro {parsed.command}: stopped; what was saved stays", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
