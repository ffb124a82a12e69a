"""Compare regenerated tables with the committed ones, cell by cell: numbers within a stated tolerance, text exactly."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from repro.engine.check import Tolerance
from repro.errors import ReproError

# A table states its own tolerance in the columns atol and rtol; this one is for those that do not.
DEFAULT = Tolerance(absolute=1e-6, relative=1e-4)
KEYS = ("record", "id", "part", "row", "column", "metric")  # together they name a row; without them its position does
_EXACT = {*KEYS, "records", "atol", "rtol"}  # an id may read as a number; it is text


@dataclass(frozen=True)
class Difference:
    """One disagreement: table, row, column, what was committed and what was regenerated."""

    table: str
    row: str
    column: str
    old: str
    new: str
    allowed: float | None = None

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.table, self.row, self.column) if part)
        within = "" if self.allowed is None else f" ({self.allowed:.2g} apart is allowed)"
        return f"{where}: committed {self.old or 'nothing'}, regenerated {self.new or 'nothing'}{within}"


@dataclass(frozen=True)
class Comparison:
    """`differences` is empty where the two folders agree; `cells` and `tables` count what was compared."""

    differences: tuple[Difference, ...]
    tables: int
    cells: int

    @property
    def ok(self) -> bool:
        return not self.differences

    def text(self) -> str:
        count = f"{self.cells} cells of {self.tables} tables compared"
        return "\n".join([*map(str, self.differences), f"{count}, {len(self.differences)} differ"])


def compare(old: Path | str, new: Path | str, tolerance: Tolerance | None = None) -> Comparison:
    """Compare every CSV under two folders.

    `tolerance` replaces what the tables themselves state. A table, row or column on one side only is a difference.
    Raises `ReproError` for a folder that is absent, holds no table on both sides, or a file that is no table.
    """
    old, new = Path(old), Path(new)
    for folder in (old, new):
        if not folder.is_dir():
            raise ReproError(f"{folder}: no such folder, a folder of .csv tables is needed")
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*.csv")) for folder in (old, new)]
    if not names[0] and not names[1]:
        raise ReproError(f"neither {old} nor {new} holds a .csv table: there is nothing to compare")
    differences: list[Difference] = []
    cells = 0
    for name in sorted({*names[0], *names[1]}):
        if name in names[0] and name in names[1]:
            found, count = _compare_tables(name, _read(old / name), _read(new / name), tolerance)
            differences += found
            cells += count
        else:
            present = "the table", ""
            differences.append(Difference(name, "", "", *(present if name in names[0] else present[::-1])))
    return Comparison(tuple(differences), len({*names[0], *names[1]}), cells)


def _read(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Header and rows by name. Raises `ReproError` naming file and line."""
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        if not header or len(set(header)) != len(header):
            raise ReproError(f"{path}, line 1: a header with different column names is needed, found {header}")
        rows, seen = {}, Counter()
        for fields in reader:
            if len(fields) != len(header):
                raise ReproError(f"{path}, line {reader.line_num}: {len(fields)} fields under {len(header)} columns")
            row = dict(zip(header, fields, strict=True))
            name = " / ".join(row[key] for key in KEYS if row.get(key)) or f"row {reader.line_num - 1}"
            seen[name] += 1
            rows[name if seen[name] == 1 else f"{name} ({seen[name]})"] = row
    return header, rows


def _compare_tables(name: str, old: tuple, new: tuple, tolerance: Tolerance | None) -> tuple[list[Difference], int]:
    (old_header, old_rows), (new_header, new_rows) = old, new
    differences = [
        Difference(name, "", column, *(("the column", "") if column in old_header else ("", "the column")))
        for column in dict.fromkeys([*old_header, *new_header])
        if (column in old_header) != (column in new_header)
    ]
    common = [column for column in old_header if column in new_header]
    cells = 0
    for row in dict.fromkeys([*old_rows, *new_rows]):
        if row not in old_rows or row not in new_rows:
            sides = ("the row", "") if row in old_rows else ("", "the row")
            differences.append(Difference(name, row, "", *sides))
            continue
        within = tolerance or _stated(old_rows[row])
        for column in common:
            cells += 1
            a, b = old_rows[row][column], new_rows[row][column]
            if a == b:
                continue
            x, y = _number(a), _number(b)
            allowed = None if x is None or y is None or column in _EXACT else within.allowed(x)
            if allowed is None or not abs(x - y) <= allowed:
                differences.append(Difference(name, row, column, a, b, allowed))
    return differences, cells


def _stated(row: dict[str, str]) -> Tolerance:
    absolute, relative = _number(row.get("atol", "")), _number(row.get("rtol", ""))
    return DEFAULT if absolute is None or relative is None else Tolerance(absolute, relative)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
