"""Notebooks as files: which typed parameters one declares, and what of an executed one is worth keeping.

A parameter is an annotated assignment in the cell tagged `parameters`, `steps: int = 50  # sampler steps, 2 to 100`.
Read with `ast`, since papermill's own inspection misses `int | None` and takes a misspelt name with a log line. What
its comment says holds: a range of numbers ("2 to 100"), choices after a colon ("sampler: ddim, ddpm or ancestral").
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import ReproError

INJECTED = "injected-parameters"  # the tag of the cell that papermill adds
PROFILES = ("smoke", "small", "paper")
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
PLAIN = {"int": int, "float": float, "str": str, "bool": bool, "None": type(None)}


@dataclass(frozen=True)
class Parameter:
    """A declared parameter: its name, annotation as written, default value, and the comment beside it."""

    name: str
    annotation: str
    default: Any
    comment: str = ""

    def accepts(self, value: Any) -> bool:
        """Whether a value has the annotated type; an int passes for a float, a bool for nothing but bool."""
        return _accepts(ast.parse(self.annotation, mode="eval").body, value)

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
        said = re.search(rf"({_NUMBER}) to ({_NUMBER})", self.comment)
        numbers = isinstance(self.default, int | float) and not isinstance(self.default, bool)
        return (float(said[1]), float(said[2])) if said and numbers else None

    def refusal(self, value: Any) -> str:
        """What is accepted instead of a value; "" where it is."""
        if not self.accepts(value):
            return self.annotation
        if self.choices and value not in self.choices:
            return ", ".join(map(str, self.choices))
        if value is not None and self.range and not self.range[0] <= value <= self.range[1]:
            return "{:g} to {:g}".format(*self.range) if self.name != "seed" else "0 to 2^64 - 1"
        return ""

    def parse(self, text: str) -> Any:
        """A value typed on the command line: `50`, `0.5`, `true`, `[10, 50]`, or plain text where a str is accepted."""
        if text.lower() in ("true", "false") and self.accepts(True):
            return text.lower() == "true"
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
        return value if self.accepts(value) or not self.accepts(text) else text


def _accepts(node: ast.expr, value: Any) -> bool:
    match node:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(quoted)):
            return _accepts(ast.parse(quoted, mode="eval").body, value)
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id=name) if name in PLAIN:
            return isinstance(value, PLAIN[name])
        case ast.Name(id="list" | "tuple" as kind):
            return isinstance(value, list if kind == "list" else tuple)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _accepts(left, value) or _accepts(right, value)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=options):
            accepted = ast.literal_eval(options)
            among = accepted if isinstance(accepted, tuple) else (accepted,)
            return any(type(value) is type(each) and value == each for each in among)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(_accepts(item, each) for each in value)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[item, ast.Constant(value=inner)])) if (
            inner is ...
        ):
            return isinstance(value, tuple) and all(_accepts(item, each) for each in value)
    raise ReproError(
        f"parameter annotation {ast.unparse(node)!r} is not understood: "
        "int, float, str, bool, None, Literal[...], list[...], tuple[..., ...] and unions of them with | are"
    )


def read(path: Path) -> Any:
    """The notebook at `path` as an nbformat node of version 4."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise ReproError(f"{path}: no such notebook") from None
    except Exception as error:  # nbformat raises its own, json's and plain AttributeErrors for damaged files
        raise ReproError(f"{path} is not a readable notebook: {error}".splitlines()[0]) from None


def declared(nb: Any, name: str) -> dict[str, Parameter]:
    """The parameters of the cell tagged `parameters`; empty without one. `name` is for messages."""
    cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    if not cells:
        return {}
    if len(cells) > 1:
        raise ReproError(f"notebook {name} has {len(cells)} cells tagged 'parameters', one is accepted")
    try:
        body = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise ReproError(f"notebook {name}: the cell tagged 'parameters' does not parse: {error.msg}") from None
    found = {}
    said = _comments(cells[0].source)
    for line in body:
        if isinstance(line, ast.ImportFrom | ast.Import):
            continue  # `from typing import Literal`
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None):
            raise ReproError(
                f"notebook {name}: the cell tagged 'parameters' holds {ast.unparse(line)!r}, "
                "annotated assignments such as 'steps: int = 50' are accepted"
            )
        parameter = Parameter(
            line.target.id, ast.unparse(line.annotation), _literal(line.value, name), said.get(line.end_lineno, "")
        )
        if not parameter.accepts(parameter.default):
            raise ReproError(f"notebook {name}: {ast.unparse(line)!r} has a default of another type")
        found[parameter.name] = parameter
    return found


def _comments(source: str) -> dict[int | None, str]:
    """The comment of each line that has one, lines counted from 1."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _literal(node: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ReproError(
            f"notebook {name}: the default {ast.unparse(node)!r} in the cell tagged 'parameters' is not a literal"
        ) from None


def check(nb: Any, name: str, values: Mapping[str, Any]) -> None:
    """Refuse a parameter that the notebook does not declare, or a value of another type, range or choice."""
    known = declared(nb, name)
    for key, value in values.items():
        if key not in known:
            raise ReproError(f"notebook {name} has no parameter {key!r}: it takes {', '.join(sorted(known)) or 'none'}")
        if accepted := known[key].refusal(value):
            raise ReproError(
                f"notebook {name}: parameter {key} is {value!r} ({type(value).__name__}), {accepted} is accepted"
            )


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
        cell.outputs = [kept for output in _joined(cell.outputs) if (kept := _output(output, count, hide or {}))]
    nb.metadata = nbformat.from_dict({k: v for k, v in nb.metadata.items() if k not in ("papermill", "widgets")})
    nb.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    nb.metadata.language_info = {"name": "python"}
    nb.nbformat, nb.nbformat_minor = 4, max(5, nb.get("nbformat_minor", 5))
    return nb


def _joined(outputs: list) -> list:
    """Neighbouring pieces of one stream as one output: where a stream is cut depends on timing."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and last.get("output_type") == "stream" and last["name"] == output.name:
            last["text"] += output.text
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
        pictures = {kind: data for kind, data in output.data.items() if kind.startswith("image/")}
        if not pictures:
            return None  # a view without the kernel that held it shows nothing
        output.data = pictures
    output.data = {
        k: _clean(v, hide) if isinstance(v, str) and k.startswith("text/") else v for k, v in output.data.items()
    }
    if output.output_type == "execute_result":
        output.execution_count = count
    return output


def _clean(text: str, hide: Mapping[str, str]) -> str:
    for path in sorted(hide, key=len, reverse=True):  # the longest first: one may lie inside another
        text = re.sub(rf"(?<![\w./:-]){re.escape(path)}(?![\w.-])", lambda _, to=hide[path]: to, text)
    return _ADDRESS.sub("at 0x…", _CELL_FILE.sub("<cell>", text))
