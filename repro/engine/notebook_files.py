"""Notebooks as files: which typed parameters one declares, and what of an executed one is worth keeping.

A parameter is a line in the cell tagged `parameters`, `steps: int = 50  # sampler steps, 2 to 100`, as papermill reads
it. Papermill itself takes a misspelt name with a log line and any value; here they are checked. What the comment says
holds: a range of numbers ("2 to 100"), choices after a colon ("sampler: ddim, ddpm or ancestral").
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import ReproError

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
