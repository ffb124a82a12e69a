"""Compare regenerated tables with the committed ones, cell by cell: numbers within a stated tolerance, text exactly."""

import csv
from collections.abc import Collection
from pathlib import Path

from repro.engine.evaluation import Tolerance
from repro.errors import ReproError

# A table states its own tolerance in the columns atol and rtol; this one is for those that do not.
DEFAULT = Tolerance(absolute=1e-6, relative=1e-4)
KEYS = ("record", "id", "part", "row", "column", "metric")  # together they name a row; without them its position does
_EXACT = {*KEYS, "records", "atol", "rtol"}  # an id may read as a number; it is text


def compare(old: Path, new: Path) -> tuple[list[str], str]:
    """Compare every CSV under two folders: the differences, and how much was compared.

    A table, row or column on one side only is a difference. Raises `ReproError` for a folder that is absent, holds no
    table on both sides, or a file that is no table.
    """
    for folder in (old, new):
        if not folder.is_dir():
            raise ReproError(f"{folder}: no such folder, a folder of .csv tables is needed")
    sides = [{str(path.relative_to(side)): _read(path) for path in sorted(side.rglob("*.csv"))} for side in (old, new)]
    if not any(sides):
        raise ReproError(f"neither {old} nor {new} holds a .csv table: there is nothing to compare")
    differences, cells = _one_sided("", "the table", *sides), 0
    for table in (table for table in sides[0] if table in sides[1]):
        before, after = (side[table] for side in sides)
        columns = [dict.fromkeys(column for row in rows.values() for column in row) for rows in (before, after)]
        differences += _one_sided(f"{table}, ", "the column", *columns)
        differences += _one_sided(f"{table}, ", "the row", before, after)
        for name, row in ((name, row) for name, row in before.items() if name in after):
            stated = _number(row.get("atol", "")), _number(row.get("rtol", ""))
            within = DEFAULT if None in stated else Tolerance(*stated)
            for column in (c for c in row if c in after[name]):
                cells += 1
                a, b = row[column], after[name][column]
                x, y = (None, None) if column in _EXACT else (_number(a), _number(b))
                allowed = None if x is None or y is None else within.allowed(x)
                if a != b and not (allowed is not None and abs(x - y) <= allowed):
                    apart = "" if allowed is None else f" ({allowed:.2g} apart is allowed)"
                    change = f"committed {a or 'nothing'}, regenerated {b or 'nothing'}{apart}"
                    differences.append(f"{table}, {name}, {column}: {change}")
    tables = len({*sides[0], *sides[1]})
    return differences, f"{cells} cells of {tables} tables compared, {len(differences)} differ"


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Rows by name. Raises `ReproError` naming file and line."""
    rows: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        for fields in reader:
            if len(fields) != len(set(header)):
                raise ReproError(f"{path}, line {reader.line_num}: {len(fields)} fields under the columns {header}")
            row = dict(zip(header, fields, strict=True))
            name = " / ".join(row[key] for key in KEYS if row.get(key)) or f"row {reader.line_num - 1}"
            rows[name if name not in rows else f"{name} (line {reader.line_num})"] = row
    return rows


def _one_sided(where: str, what: str, old: Collection[str], new: Collection[str]) -> list[str]:
    """What stands on one side only."""
    lost = [f"{where}{name}: committed {what}, regenerated nothing" for name in old if name not in new]
    return lost + [f"{where}{name}: committed nothing, regenerated {what}" for name in new if name not in old]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
