"""`repro reproduce`: the notebooks in order, executed by papermill in this very environment.

Every notebook's parameters are checked before the first one starts. A failing cell is reported with its traceback, the
notebook stays in build/ as far as it got, the others still run, and the exit status says so.
"""

from __future__ import annotations

import json
import os
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
from repro.engine import notebook_files
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
    nodes = {path: notebook_files.read(path) for path in sources}
    for path, node in nodes.items():
        notebook_files.check(node, path.stem, values)
        known = notebook_files.declared(node, path.stem)
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
    executed = notebook_files.read(out) if error is None else None
    if executed and (
        skipped := [c for c in executed.cells if c.get("execution_count", 1) is None and c.source.strip()]
    ):
        error = f"{path.stem}: the cell that begins {skipped[0].source.strip().splitlines()[0]!r} never ran"
    if error is None:
        top = path.resolve().parent.parent  # what must not enter a committed notebook -> what stands for it
        hide = {str(top): ".", sys.prefix: "<python>", sys.base_prefix: "<python>", str(Path.home()): "~"}
        _write(out, notebook_files.normalise(executed, source, hide=hide, keep_injected=True))
        if update:
            _write(path, notebook_files.normalise(executed, source, hide=hide))
    return NotebookRun(path.stem, seconds, out, error)


def _last_started(out: Path) -> str:
    """Where a kernel that died was: papermill marks every cell completed then, but only these have a start time."""
    cells = notebook_files.read(out).cells if out.exists() else []
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
        from repro.engine import claims, front, readme

        claims.write(claims.all_verdicts(), "repro claims")
        front.draw()
        print("README.md and figures/README.md:", "updated" if readme.update() else "unchanged", flush=True)

    def _values(self) -> dict[str, Any]:
        """`steps=50` as typed -> a value of the type that the chosen notebooks declare."""
        known: dict[str, notebook_files.Parameter] = {}
        for path in chosen(self.notebooks):
            known |= notebook_files.declared(notebook_files.read(path), path.stem)
        values = {}
        for text in self.parameters:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier() or name in values:
                raise ReproError(f"parameter {text!r}: NAME=VALUE, each name once, is accepted, 'steps=50' for example")
            values[name] = known[name].parse(value) if name in known else value
        return values
