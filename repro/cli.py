"""`repro …`: one dataclass per command, parsed by tyro; a user's mistake is one sentence and exit status 2."""

import importlib
import io
import re
import sys
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

from repro import __version__
from repro.errors import ReproError, nearest

_ENGINE, _PAIRS = "repro.engine.commands", "repro.use.training"
# command: (module, dataclass, help, examples). Modules are imported only for the command that runs.
COMMANDS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "doctor": (_ENGINE, "Doctor", "check this installation: versions, hardware, weights, images", ("",)),
    "list": (_ENGINE, "List", "list experiments, of one method or all, with their state", ("", "editing")),
    "train": (_ENGINE, "Train", "train, or go on with, an experiment, or own pairs (my.toml)",
              ("ddpm-fashion-smoke-s0", "rddm-raindrop-smres-s0 --until 50000", "my.toml --check-only")),
    "evaluate": (_ENGINE, "Evaluate", "make or check records of experiments, or measure own pairs (my.toml)",
                 ("editing", "rddm-raindrop-smres-s0 --full")),
    "reproduce": (_ENGINE, "Reproduce", "execute the notebooks: regenerate every table and figure",
                  ("", "01 --update", "03 --parameters seed=5")),
    "claims": (_ENGINE, "Claims", "print the claim ledger with its verdicts", ("", "rddm")),
    "provenance": (_ENGINE, "ShowProvenance", "print the records and the command behind a file",
                   ("figures/tables/ddpm_fid.md",)),
    "compare": (_ENGINE, "TablesCompare", "compare two folders of tables, cell by cell", ("old/figures figures",)),
    "bench": ("repro.benchmarks", "Bench", "measure speed against a peer in the same run", ("training",)),
    "edit": ("repro.use.edit", "Edit", "edit a photo: blur, grain, colours of another, inpainting, sharpening",
             ("photo.jpg --blur 0.6 --seed 1", "photo.jpg --reference sunset.jpg -o warm.png",
              "photo.jpg --mask hole.png", "photo.jpg --grain 0.08 --sharpen 2 0.02", "photo.jpg --film 0.5")),
    "restore": ("repro.use.restore", "Restore", "restore a photo, or a folder: low light, raindrops, blur, JPEG",
                ("photo.jpg --task lowlight -o out.png", "photos --task raindrops --method rddm -o restored",
                 "photo.jpg --checkpoint my-run/network")),
    "data check": ("repro.data.datasets", "DataCheck", "verify a data set against its known layout and counts",
                   ("lol --root ~/data/LOL",)),
    "data flist": ("repro.data.files", "DataFlist", "write the list of a folder's images",
                   ("photos --out photos.flist",)),
}  # fmt: skip

# The same commands with a TOML file of own pairs (see `repro/use/rddm.toml`) in place of names.
PAIRS = {
    "train": (_PAIRS, "TrainPairs", "train on own pairs, as one TOML file defines it", ("my.toml",)),
    "evaluate": (_PAIRS, "EvaluatePairs", "measure a network on the held-out pairs of its TOML file", ("my.toml",)),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0 done, 1 something measured disagrees or failed, 2 bad input."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign gets a question mark
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<{max(map(len, COMMANDS))}}  {text}" for name, (_, _, text, _) in COMMANDS.items())
        print(f"usage: repro COMMAND [options]\n\n{rows}\n\n`repro COMMAND --help` lists a command's options.")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    for words in (2, 1):
        if (name := " ".join(argv[:words])) in COMMANDS:
            return _run(name, argv[words:])
    hint = nearest(" ".join(argv[:2]), COMMANDS) or nearest(argv[0], COMMANDS) or f"there are {', '.join(COMMANDS)}"
    print(f"repro: unknown command {argv[0]!r}: {hint}", file=sys.stderr)
    return 2


def _run(name: str, arguments: list[str]) -> int:
    import tyro

    of_pairs = name in PAIRS and any(argument.lower().endswith(".toml") for argument in arguments)
    module, kind, text, examples = (PAIRS if of_pairs else COMMANDS)[name]
    listed = "\n".join(f"  repro {name} {example}".rstrip() for example in examples)
    about = {"prog": f"repro {name}", "description": f"{text}\n\nexamples:\n{listed}"}
    try:
        if module == _ENGINE:
            import repro.methods  # noqa: F401 (registers them)
        kind = _plain(getattr(importlib.import_module(module), kind))
        with redirect_stderr(box := io.StringIO()):
            command = tyro.cli(kind, args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **about)
        return int(command.run() or 0)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        status, why = 2, _sentence(box.getvalue())
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        status, why = 130, "stopped; what was saved stays"
    except ReproError as error:
        status, why = 2, f"{error}"
    except ImportError as error:
        status, why = 2, f"the installation is broken ({error}); `make install` makes it again"
    except OSError as error:  # a clone or a disk that cannot be written, a name that is too long
        if error.filename is None:
            raise
        status, why = 2, f"{error.filename}: {error.strerror}"
    print(f"repro {name}: {why}", file=sys.stderr)
    return status


def _sentence(box: str) -> str:
    """The parser's error, several lines in a box, as one sentence."""
    text = " ".join(re.sub("[│╭╮╰╯]|─+|-{4,}", " ", box.split("\n", 1)[1]).split())
    if found := re.search(r"parsing (\S+): .*?('.*?').* helptext: \S+ ([A-Z .]+) ", text):
        return f"{found[1]}: got {found[2]}; accepted: {found[3]}"
    return re.sub(r" For full helptext.*|\(required\)", "", text)


@cache
def _plain(command: type) -> type:
    """The dataclass with help in words: what an option takes by its name, and no default where that says nothing."""
    import tyro

    for name, kind in get_type_hints(command, include_extras=True).items():
        bare, *own = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        inner = next((part for part in get_args(bare) if type(None) in get_args(bare)), bare)  # of an optional one
        parts = get_args(inner) if get_origin(inner) is tuple else (inner,)
        words = " ".join(_KINDS.get(part, "...") for part in parts)
        if tyro.conf.Positional[int].__metadata__[0] in own:
            words = name.upper() + (" ..." if parts[-1] is ... else "")
            words = f"[{words}]" if hasattr(command, name) else words  # a field with a default is such an attribute
        own_name = next((part.metavar for part in own if getattr(part, "metavar", None)), None)
        metavar = None if bare is bool else own_name or words
        hint = lambda value: "" if value in _NOTHING else f"(default: {value})"  # noqa: E731
        argument = tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)
        command.__annotations__[name] = Annotated[(bare, *own, argument)]
    return command


_KINDS = {int: "INTEGER", float: "NUMBER", str: "NAME", Path: "PATH"}
_NOTHING = ("None", "True", "False", "''", "")  # defaults that say nothing
