"""`repro reproduce`: the notebooks in order, executed by papermill in this very environment.

Every notebook's parameters are checked before the first one starts. A failing cell is reported with its traceback, the
notebook stays in build/ as far as it got, the others still run, and the exit status says so.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from repro import paths
from repro.engine.atomic import write_text
from repro.engine.study import PARAMETERS, UPDATE
from repro.errors import ReproError

KERNEL = "repro-this-python"
START_TIMEOUT = 180  # seconds; a cold disk reads torch slowly


@dataclass(frozen=True)
class NotebookRun:
    """What became of one notebook: wall seconds, where the executed one lies, the error if it failed."""

    name: str
    seconds: float
    path: Path
    error: str | None = None


def chosen(names: Sequence[str], folder: Path | None = None) -> list[Path]:
    """The numbered notebooks of a folder (default: notebooks/) that `names` mean, in order: full name, file name or
    number ("01"); all of them for no name."""
    folder = folder or paths.root() / "notebooks"
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    found = set() if names else set(every)
    for stem in (Path(name).name.removesuffix(".ipynb") for name in names):
        hits = {path for path in every if stem in (path.stem, path.stem.split("_", 1)[0])}
        if len(hits) != 1:
            raise ReproError(f"no notebook {stem!r}: there are {', '.join(path.stem for path in every) or 'none'}")
        found |= hits
    if not every:
        raise ReproError(f"no notebook found in {folder}: files named NN_title.ipynb needed")
    return [path for path in every if path in found]


@contextmanager
def this_kernel(update: bool = False, parameters: str = "") -> Iterator[str]:
    """The name of a kernel that runs this interpreter, whatever kernels, profiles and backends the user has set up.

    `update`: whether notebooks write into figures/; `parameters`: what provenance says beside notebook and profile
    (both for `repro.engine.study.Lesson`). For the time of the block JUPYTER_PATH and IPYTHONDIR point into a temporary
    folder, REPRO_HEADLESS=1 makes widgets draw plain images, and matplotlib draws inline.
    """
    with tempfile.TemporaryDirectory(prefix="repro-kernel-", ignore_cleanup_errors=True) as folder:
        spec = Path(folder) / "kernels" / KERNEL / "kernel.json"
        spec.parent.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=40"]
        spec.write_text(json.dumps({"argv": argv, "display_name": KERNEL, "language": "python"}))
        ours = {
            "JUPYTER_PATH": os.pathsep.join(filter(None, (folder, os.environ.get("JUPYTER_PATH")))),
            "IPYTHONDIR": str(Path(folder) / "ipython"),
            "REPRO_HEADLESS": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            PARAMETERS: parameters,
        } | ({UPDATE: "1"} if update else {})
        before = dict(os.environ)
        os.environ.update(ours)
        try:
            yield KERNEL
        finally:
            os.environ.clear()
            os.environ.update(before)


def reproduce(
    names: Sequence[str] = (),
    profile: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    update: bool = False,
    *,
    folder: Path | None = None,
    build: Path | None = None,
) -> list[NotebookRun]:
    """Execute notebooks in order and keep them, normalised, in `build`.

    `names`: see `chosen`. `profile` and `parameters` go to every notebook chosen and are checked against each before
    one runs; what is None is left at the notebook's default. `update` copies each that succeeded back to `folder`,
    without papermill's cell. Raises `ReproError` for a bad name or value; the result holds the error of a failing cell.
    """
    sources = chosen(names, folder)
    values = dict(parameters or {}) | ({} if profile is None else {"profile": profile})
    nodes = {path: read(path) for path in sources}
    for path, node in nodes.items():
        check(node, path.stem, values)
        known = declared(node, path.stem)
        for key, value in values.items():
            if update and value != known[key].default:
                own = f"committed outputs are those of its own default, {known[key].default!r}"
                raise ReproError(f"notebook {path.stem} cannot be updated with {key}={value!r}: {own}")
    runs = []
    # Other parameters draw other pictures than those that ship.
    others = [shlex.quote(f"{key}={value}") for key, value in sorted(values.items()) if key != "profile"]
    with this_kernel(update=not others, parameters=" ".join([" --parameters", *others] if others else [])) as kernel:
        for number, path in enumerate(sources, start=1):
            head = f"[{number}/{len(sources)}] {path.stem}"
            count = sum(cell.cell_type == "code" for cell in nodes[path].cells)
            print(f"{head}: {count} code cells", flush=True)
            run = _execute(path, nodes[path], values, kernel, build or paths.build(), update)
            print(f"{head}: {'done' if run.error is None else 'FAILED'} in {run.seconds:.1f} s", flush=True)
            if run.error is not None:
                print(f"{run.error}\n{path.stem} stays in {run.path} as far as it got", file=sys.stderr, flush=True)
            runs.append(run)
    return runs


def _execute(path: Path, source: Any, values: dict, kernel: str, build: Path, update: bool) -> NotebookRun:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    out = build / path.name
    build.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)  # so that what lies there is never an older run's
    bar = {"desc": path.stem, "disable": not sys.stderr.isatty(), "leave": False}
    error, start = None, time.perf_counter()
    try:
        papermill.execute_notebook(
            path, out, values, kernel_name=kernel, language="python", cwd=path.parent, progress_bar=bar,
            start_timeout=START_TIMEOUT,
        )  # fmt: skip
    except PapermillExecutionError as failure:
        error = f"{path.stem}, code cell {failure.exec_count}:\n" + "\n".join(failure.traceback)
    except (DeadKernelError, CellTimeoutError) as failure:
        error = f"{path.stem}: {_last_started(out)}: {failure}"
    seconds = time.perf_counter() - start
    executed = read(out) if error is None else None
    if executed and (
        skipped := [c for c in executed.cells if c.get("execution_count", 1) is None and c.source.strip()]
    ):
        error = f"{path.stem}: the cell that begins {skipped[0].source.strip().splitlines()[0]!r} never ran"
    if error is None:
        top = path.resolve().parent.parent  # what must not enter a committed notebook -> what stands for it
        hide = {str(top): ".", sys.prefix: "<python>", sys.base_prefix: "<python>", str(Path.home()): "~"}
        _write(out, normalise(executed, source, hide=hide, keep_injected=True))
        if update:
            _write(path, normalise(executed, source, hide=hide))
    return NotebookRun(path.stem, seconds, out, error)


def _last_started(out: Path) -> str:
    """Where a kernel that died was: papermill marks every cell completed then, but only these have a start time."""
    cells = read(out).cells if out.exists() else []
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    where = f"in the cell that begins {started[-1].source.splitlines()[0]!r}" if started else "before the first cell"
    return f"the kernel died {where}"


def _write(path: Path, node: Any) -> None:
    import nbformat

    nbformat.validate(node)
    write_text(path, nbformat.writes(node).rstrip("\n") + "\n")


@dataclass
class Reproduce:
    """Run the notebooks in order; they recompute records from the shipped checkpoints and write tables and figures."""

    notebooks: tyro.conf.Positional[tuple[str, ...]] = ()
    """Notebooks to run, by number or name; all of them by default."""
    profile: str = "small"
    """The notebooks' `profile` parameter: smoke, small or paper."""
    parameters: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Other parameters, handed to every notebook chosen, checked by name, type, range and choice before any runs. What
    they draw goes to build/, with them in its provenance."""
    update: bool = False
    """Copy the executed notebooks back into notebooks/, without papermill's cell."""

    def run(self) -> int:
        """0, or 1 where a notebook failed."""
        values = self._values()
        runs = reproduce(self.notebooks, self.profile, values, self.update)
        failed = [run.name for run in runs if run.error is not None]
        seconds = sum(run.seconds for run in runs)
        print(f"{len(runs) - len(failed)} of {len(runs)} notebooks done in {seconds:.0f} s", flush=True)
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
            return 1
        if self.profile == "small" and not self.notebooks and not self.parameters:
            self._conclude()
        return 0

    @staticmethod
    def _conclude() -> None:
        """What stands on all notebooks together: verdicts, the README's picture and tables, the index of figures/."""
        from repro.engine import claims, front

        claims.write(claims.all_verdicts(), "repro claims")
        front.draw()
        print("README.md and figures/README.md:", "updated" if front.update() else "unchanged", flush=True)

    def _values(self) -> dict[str, Any]:
        """`steps=50` as typed -> a value of the type that the chosen notebooks declare."""
        known: dict[str, Parameter] = {}
        for path in chosen(self.notebooks):
            known |= declared(read(path), path.stem)
        values = {}
        for text in self.parameters:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier() or name in values:
                raise ReproError(f"parameter {text!r}: NAME=VALUE, each name once, is accepted, 'steps=50' for example")
            values[name] = known[name].parse(value) if name in known else value
        return values


INJECTED = "injected-parameters"  # the tag of the cell that papermill adds
PROFILES = ("smoke", "small", "paper")
KINDS = {"int": int, "float": float, "str": str, "bool": bool}
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"


@dataclass(frozen=True)
class Parameter:
    """A declared parameter: its name, annotation (a key of `KINDS`), default value, and the comment beside it."""

    name: str
    annotation: str
    default: Any
    comment: str = ""

    def accepts(self, value: Any) -> bool:
        """Whether a value has the annotated type; an int passes for a float, a bool for nothing but bool."""
        kind = int | float if self.annotation == "float" else KINDS[self.annotation]
        return isinstance(value, kind) and isinstance(value, bool) == (self.annotation == "bool")

    @property
    def choices(self) -> tuple[Any, ...]:
        """What the comment lists after its last colon, where the default is among it and no "…" leaves any out."""
        if self.name == "profile":
            return PROFILES
        listed = re.split(r", | or ", self.comment.rpartition(": ")[2])
        found = tuple(self.parse(word.strip()) for word in listed)
        return found if len(found) > 1 and self.default in found and "…" not in self.comment else ()

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the largest number that the comment allows."""
        if self.name == "seed":
            return 0, 2**64 - 1
        limits = re.search(rf"({_NUMBER}) to ({_NUMBER})", self.comment)
        return (float(limits[1]), float(limits[2])) if limits and self.annotation in ("int", "float") else None

    def refusal(self, value: Any) -> str:
        """What is accepted instead of a value; "" where it is."""
        if not self.accepts(value):
            return self.annotation
        if self.choices and value not in self.choices:
            return ", ".join(map(str, self.choices))
        if self.range and not self.range[0] <= value <= self.range[1]:
            return "{:g} to {:g}".format(*self.range) if self.name != "seed" else "0 to 2^64 - 1"
        return ""

    def parse(self, text: str) -> Any:
        """A value as typed on the command line; text that is none of the annotated type stays text, to be refused."""
        kind = {"true": True, "false": False}.__getitem__ if self.annotation == "bool" else KINDS[self.annotation]
        try:
            return kind(text.lower() if self.annotation == "bool" else text)
        except (KeyError, ValueError):
            return text


def read(path: Path) -> Any:
    """The notebook at `path` as an nbformat node of version 4."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises its own, json's and plain AttributeErrors for damaged files
        raise ReproError(f"{path} is not a readable notebook: {error}".splitlines()[0]) from None


def declared(nb: Any, name: str) -> dict[str, Parameter]:
    """The parameters of the cell tagged `parameters`; empty without one. `name` is for messages."""
    from papermill.translators import PythonTranslator

    cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    found: dict[str, Parameter] = {}
    for cell in cells:
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        try:
            for known in PythonTranslator.inspect(cell):
                default = ast.literal_eval(known.default)
                parameter = Parameter(known.name, known.inferred_type_name, default, known.help)
                if parameter.accepts(default):
                    found[known.name] = parameter
        except (KeyError, ValueError, SyntaxError):
            pass
        if len(found) != len(lines) or len(cells) > 1:
            raise ReproError(
                f"notebook {name}: one cell tagged 'parameters' is accepted, of lines such as 'steps: int = 50' with a "
                f"literal of the type, one of {', '.join(KINDS)}; found {lines}"
            )
    return found


def check(nb: Any, name: str, values: Mapping[str, Any]) -> None:
    """Refuse a parameter that the notebook does not declare, or a value of another type, range or choice."""
    known = declared(nb, name)
    for key, value in values.items():
        if key not in known:
            raise ReproError(f"notebook {name} has no parameter {key!r}: it takes {', '.join(sorted(known)) or 'none'}")
        if accepted := known[key].refusal(value):
            found = f"{value!r} ({type(value).__name__})"
            raise ReproError(f"notebook {name}: parameter {key} is {found}, {accepted} is accepted")


# What changes from run to run, or from machine to machine, without saying anything.
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
_CELL_FILE = re.compile(r"\S*[/\\]ipykernel_\d+[/\\]\d+\.py")
_BAR = re.compile(r"\d+%\|.*\|.*\[.*\]|\d+it \[.*\]")
_CELL_METADATA = ("papermill", "execution", "ExecuteTime", "scrolled", "collapsed")


def normalise(nb: Any, source: Any, *, hide: Mapping[str, str] | None = None, keep_injected: bool = False) -> Any:
    """What of an executed notebook is worth keeping: a new node, a function of the code and what it drew alone.

    Gone: papermill's metadata and (unless `keep_injected`) its cell, timestamps, widget views and state, progress
    bars, memory addresses. Counts run 1, 2, …; cell ids are those of `source`, the notebook before it ran.
    `hide` maps machine paths to what stands for them; a path inside a longer word or address is left alone.
    """
    import nbformat

    nb = nbformat.from_dict(nb)
    injected = [cell for cell in nb.cells if INJECTED in cell.metadata.get("tags", [])]
    nb.cells = [cell for cell in nb.cells if cell not in injected]
    hide = hide or {}
    for index, cell in enumerate(nb.cells):
        cell.id = source.cells[index].id if source.get("nbformat_minor", 0) >= 5 else f"cell-{index:02d}"
    if injected and keep_injected:
        tagged = [i for i, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", [])]
        nb.cells.insert(tagged[0] + 1 if tagged else 0, injected[0])
        injected[0].id = INJECTED
    count = 0
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k not in _CELL_METADATA})
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill leaves an empty list in every cell
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [kept for output in _joined(cell.outputs) if (kept := _output(output, count, hide))]
    nb.metadata = nbformat.from_dict({k: v for k, v in nb.metadata.items() if k not in ("papermill", "widgets")})
    nb.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    nb.metadata.language_info = {"name": "python"}
    nb.nbformat, nb.nbformat_minor = 4, max(5, nb.get("nbformat_minor", 5))
    return nb


def _joined(outputs: list) -> list:
    """Neighbouring pieces of one stream as one output: where a stream is cut depends on timing."""
    joined: list = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1]["text"] += output.text
        else:
            joined.append(output)
    return joined


def _output(output: Any, count: int, hide: Mapping[str, str]) -> Any | None:
    """One output, cleaned, or None where nothing is left of it."""
    if output.output_type == "stream":
        lines = [line.rsplit("\r", 1)[-1] for line in output.text.replace("\r\n", "\n").split("\n")]
        output.text = _clean("\n".join(line for line in lines if not _BAR.search(line)), hide)
        return output if output.text.strip() else None
    if output.output_type == "error":
        output.traceback = [_clean(line, hide) for line in output.traceback]
        return output
    if any(kind.startswith("application/vnd.jupyter.widget") for kind in output.data):
        output.data = {kind: data for kind, data in output.data.items() if kind.startswith("image/")}
        if not output.data:
            return None  # a view without the kernel that held it shows nothing
    for kind, data in output.data.items():
        if isinstance(data, str) and kind.startswith("text/"):
            output.data[kind] = _clean(data, hide)
    if output.output_type == "execute_result":
        output.execution_count = count
    return output


def _clean(text: str, hide: Mapping[str, str]) -> str:
    for path in sorted(hide, key=len, reverse=True):  # the longest first: one may lie inside another
        text = re.sub(rf"(?<![\w./:-]){re.escape(path)}(?![\w.-])", lambda _, to=hide[path]: to, text)
    return _ADDRESS.sub("at 0x…", _CELL_FILE.sub("<cell>", text))
