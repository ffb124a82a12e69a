"""`repro reproduce`: the notebooks in order, executed by papermill in this very environment.

A parameter is a line in the cell tagged `parameters`, `steps: int = 50  # sampler steps, 2 to 100`. Papermill takes a
misspelt name with a log line and any value; here all are checked before the first notebook starts, by what the comment
says: a range of numbers ("2 to 100"), choices after a colon ("sampler: ddim or ddpm"), or their list ("repro.x.NAMES").
"""

import ast
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import nbformat

from repro import paths
from repro.engine.records import PROFILES
from repro.engine.study import PARAMETERS, UPDATE
from repro.errors import ReproError, one_of

INJECTED = "injected-parameters"  # the tag of the cell that papermill adds
KINDS = {"int": int, "float": float, "str": str, "bool": bool}


class Parameter(NamedTuple):
    """A declared parameter: its name, annotation (a key of `KINDS`), default value, and the comment beside it."""

    name: str
    annotation: str
    default: Any
    comment: str

    def refusal(self, value: Any) -> str:
        """What is accepted instead of a value; "" where it is. An int passes for a float, a bool only for a bool."""
        kind = int | float if self.annotation == "float" else KINDS[self.annotation]
        if not isinstance(value, kind) or isinstance(value, bool) != (self.annotation == "bool"):
            return self.annotation
        words = re.split(r", | or ", self.comment.rpartition(": ")[2])
        choices = PROFILES if self.name == "profile" else [self.parse(word.strip()) for word in words]
        if listed := re.search(r"(repro[.\w]+)\.(\w+)", self.comment):  # a list in the package
            choices = list(dict.fromkeys([self.default, *getattr(import_module(listed[1]), listed[2])]))
        complete = len(choices) > 1 and self.default in choices and "…" not in self.comment
        if complete and value not in choices:
            return ", ".join(map(str, choices))
        if self.name == "seed" and not 0 <= value < 2**64:
            return "0 to 2^64 - 1"
        limits = re.search(r"(-?[0-9]+(?:\.[0-9]+)?) to (-?[0-9]+(?:\.[0-9]+)?)", self.comment)
        if limits and self.annotation in ("int", "float") and not float(limits[1]) <= value <= float(limits[2]):
            return limits[0]
        return ""

    def parse(self, text: str) -> Any:
        """A value as typed on the command line; text that is none of the annotated type stays text, to be refused."""
        if self.annotation == "bool":
            return {"true": True, "false": False}.get(text.lower(), text)
        try:
            return KINDS[self.annotation](text)
        except ValueError:
            return text


def declared(nb: Any) -> dict[str, Parameter]:
    """The parameters of the cell tagged `parameters`; empty without one."""
    from papermill.translators import PythonTranslator

    cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    found = [each for cell in cells for each in PythonTranslator.inspect(cell)]
    return {p.name: Parameter(p.name, p.inferred_type_name, ast.literal_eval(p.default), p.help) for p in found}


def check(nb: Any, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as given, or as text, in the types that the notebook declares. Raises `ReproError` for one that it
    does not declare and for a value of another type, range or choice."""
    known, values = declared(nb), {}
    for key, value in given.items():
        parameter = known[one_of(f"notebook {name}: parameter", key, known)]
        values[key] = parameter.parse(value) if isinstance(value, str) else value
        if accepted := parameter.refusal(values[key]):
            found = f"{values[key]!r} ({type(values[key]).__name__})"
            raise ReproError(f"notebook {name}: parameter {key} is {found}, {accepted} is accepted")
    return values


def chosen(names: Sequence[str]) -> list[Path]:
    """The numbered notebooks that `names` mean, in order: full name, file name or number ("01"); all for no name."""
    every = sorted((paths.root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    known = {key: path for path in every for key in (path.stem, path.stem[:2])}
    stems = [one_of("notebook", Path(name).name.removesuffix(".ipynb"), known) for name in names]
    return sorted({known[stem] for stem in stems}) or every


@contextmanager
def own_environment(update: bool = False, parameters: str = "") -> Iterator[None]:
    """Notebooks run in this interpreter, whatever kernels and backends the user has set up, without progress bars,
    widgets as plain images. `update`: whether they write into figures/; `parameters`: for the provenance."""
    values = {"JUPYTER_PREFER_ENV_PATH": "1", "REPRO_HEADLESS": "1", "TQDM_DISABLE": "1", PARAMETERS: parameters}
    values |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline", UPDATE: "1" * update}
    folder = tempfile.TemporaryDirectory(prefix="repro-ipython-", ignore_cleanup_errors=True)
    with folder, patch.dict(os.environ, {**values, "IPYTHONDIR": folder.name}):  # and all as it was afterwards
        os.environ.pop("JUPYTER_PATH", None)
        yield


class NotebookRun(NamedTuple):
    """What became of one notebook: wall seconds, where the executed one lies, the error if it failed."""

    name: str
    seconds: float
    path: Path
    error: str | None = None


def reproduce(
    names: Sequence[str] = (), profile: str = "small", parameters: Mapping[str, Any] | None = None, update: bool = False
) -> list[NotebookRun]:
    """Execute notebooks (see `chosen`) in order and keep them, normalised, in build/; after a failure the others still
    run. `profile` and `parameters` go to all of them. `update` copies each that succeeded back to notebooks/, without
    papermill's cell. Raises `ReproError` for a bad name or value."""
    given = {"profile": profile, **(parameters or {})}
    nodes = {path: nbformat.read(path, as_version=4) for path in chosen(names)}
    values = {path: check(node, path.stem, given) for path, node in nodes.items()}
    # Other parameters draw other images than those that ship.
    others = [shlex.quote(f"{key}={value}") for key, value in sorted(given.items()) if key != "profile"]
    if update and (others or profile != "small"):
        raise ReproError("committed outputs are those of the default parameters and the profile small: no --update")
    runs = []
    with own_environment(not others, " ".join([" --parameters", *others] if others else [])):
        for number, (path, node) in enumerate(nodes.items(), start=1):
            head = f"[{number}/{len(nodes)}] {path.stem}"
            print(f"{head}: {sum(cell.cell_type == 'code' for cell in node.cells)} code cells", flush=True)
            out, start = paths.build() / path.name, time.perf_counter()
            error = _execute(path, out, values[path])
            runs.append(NotebookRun(path.stem, time.perf_counter() - start, out, error))
            print(f"{head}: {'done' if error is None else 'FAILED'} in {runs[-1].seconds:.1f} s", flush=True)
            if error is not None:
                print(f"{path.stem}{error}\n{path.stem} stays in {out} as far as it got", file=sys.stderr, flush=True)
                continue
            for file in [out] + [path] * update:
                kept = normalise(nbformat.read(out, as_version=4), path.resolve().parent.parent, injected=file == out)
                paths.write_text(file, nbformat.writes(kept).rstrip("\n") + "\n")
    return runs


def _execute(path: Path, out: Path, values: Mapping[str, Any]) -> str | None:
    """Run the notebook at `path` into `out`; its error with the traceback, or None."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)  # so that what lies there is never an older run's
    bar = {"desc": path.stem, "disable": not sys.stderr.isatty(), "leave": False}
    try:
        papermill.execute_notebook(
            path, out, values, kernel_name="python3", cwd=path.parent, progress_bar=bar,
            start_timeout=180,  # seconds; a cold disk reads torch slowly
            extra_arguments=["--log-level=40"],  # of the kernel: errors only
        )  # fmt: skip
    except PapermillExecutionError as failure:
        return f", code cell {failure.exec_count}:\n" + "\n".join(failure.traceback)
    except DeadKernelError as failure:
        return f": the kernel died: {failure}"
    cells = nbformat.read(out, as_version=4).cells
    skipped = [c for c in cells if c.get("execution_count", 1) is None and c.source.strip()]
    return f": the cell that begins {skipped[0].source.strip().splitlines()[0]!r} never ran" if skipped else None


# What changes from run to run, or from machine to machine, without saying anything.
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
_CELL_FILE = re.compile(r"\S*[/\\]ipykernel_\d+[/\\]\d+\.py")


def normalise(nb: Any, root: Path, injected: bool = False) -> Any:
    """Take out of an executed notebook, in place, what does not follow from its code: metadata that papermill and
    editors leave, papermill's cell (unless `injected`), timestamps, widget views and state, memory addresses, and the
    paths of the clone (`root`), the interpreter and the user's folder."""
    hide = {str(root): ".", sys.prefix: "<python>", sys.base_prefix: "<python>", str(Path.home()): "~"}

    def clean(text: str) -> str:
        for path in sorted(hide, key=len, reverse=True):  # the longest first: one may lie inside another
            text = re.sub(rf"(?<![\w./:-]){re.escape(path)}(?![\w.-])", hide[path], text)
        return _ADDRESS.sub("at 0x…", _CELL_FILE.sub("<cell>", text))

    nb.cells = [cell for cell in nb.cells if injected or INJECTED not in cell.metadata.get("tags", [])]
    for cell in nb.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter") and v}
        if INJECTED in cell.metadata.get("tags", []):
            cell.id = INJECTED
    for count, cell in enumerate((cell for cell in nb.cells if cell.cell_type == "code"), start=1):
        cell.execution_count, outputs = count, []
        for output in cell.outputs:
            data = output.get("data", {})
            if any(kind.startswith("application/vnd.jupyter.widget") for kind in data):
                continue  # shows nothing by itself
            data |= {kind: clean(text) for kind, text in data.items() if kind.startswith("text/")}
            if "execution_count" in output:
                output.execution_count = count
            # Neighbouring pieces of one stream are one output: where a stream is cut depends on timing.
            if "name" in output and outputs and outputs[-1].get("name") == output.name:
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        for output in (output for output in outputs if "text" in output):
            output.text = clean(output.text)
        cell.outputs = outputs
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    nb.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nb
