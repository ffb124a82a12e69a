"""Tables as data: rows x columns in `grid.toml`, each cell one selection of records, read by one interpreter.

    [column.lpips]                     # columns that several tables share, by key
    name = "LPIPS"
    metric = "lpips/alex-v0.1"         # the metric's name in the records
    protocol = "LPIPS v0.1, AlexNet"   # for the legend
    better = "lower"                   # "higher", "lower", or left out
    decimals = 3                       # shown; atol and rtol as in `repro.engine.tables.Column`

    [[table]]
    name = "ucdir_lowlight"            # the file's name; `caption`, `corner` and `notes` as in `Table`
    caption = "Low light: 27 held-out photographs"
    cell = { task = "lowlight" }       # part of every cell's selection; a column's `cell` and then a row's go over it
    columns = ["lpips", { use = "psnr", name = "PSNR, {steps} steps", for = { steps = [5, 50] } }]
    rows = [
      { name = "input", experiment = "baseline-input" },
      { name = "ours", experiment = "ucdir-lowlight-main-s*", cell = { steps = 50 } },  # pooled over training seeds
      { name = "not run", dash = "its weights cannot be had offline" },
    ]

    [[also]]                           # measured, but in no table: what figures and claims alone need
    experiment = "ucdir-lowlight-main-s0"
    for = { steps = [5, 10, 20] }

`for` repeats a row, column or `also` for every combination of the values listed: they become part of its `cell`, and
`{steps}` in `name` and `experiment` is replaced; `each` does the same and leaves the cell alone. A row's `skip` lists
columns that it does not have, with `dash` as the reason.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from repro import paths
from repro.engine.records import Record, select
from repro.engine.tables import Cell, Column, Table, Verified, dash, finder, paper_numbers
from repro.errors import ReproError

Spec = Mapping[str, Any]
NOT_YET = "no record: its network is not trained yet"
_COLUMN = ("name", "protocol", "better", "decimals", "atol", "rtol")
_KNOWN = {
    "table": {"name", "caption", "corner", "notes", "cell", "columns", "rows"},
    "row": {"name", "experiment", "cell", "dash", "skip"},
    "column": {*_COLUMN, "metric", "cell"},
    "also": {"experiment", "cell"},
}


def load(room: str) -> Spec:
    """The room's `grid.toml`. Raises `ReproError` for a key that means nothing."""
    path = paths.room_file(room, "grid.toml")
    try:
        spec = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReproError(f"room {room!r} has no tables: {path} is missing") from None
    except tomllib.TOMLDecodeError as error:
        raise ReproError(f"{path}: not TOML ({error})") from None
    for table in spec.get("table", ()):
        _refuse(table, "table", f"{path}, table {table.get('name')!r}")
        for row in rows(table):
            _refuse(row, "row", f"{path}, table {table['name']}, row {row.get('name')!r}")
        for column in columns(spec, table):
            _refuse(column, "column", f"{path}, table {table['name']}, column {column.get('name')!r}")
    for entry in expanded(spec.get("also", ())):
        _refuse(entry, "also", f"{path}, also {entry.get('experiment')!r}")
    return spec


def expanded(entries: Iterable[Spec]) -> Iterator[dict[str, Any]]:
    """Every entry, repeated for the values of its `for` and `each`."""
    for entry in entries:
        inside, outside = entry.get("for", {}), entry.get("each", {})
        for values in itertools.product(*inside.values(), *outside.values()):
            named = dict(zip([*inside, *outside], values, strict=True))
            made = {k: v for k, v in entry.items() if k not in ("for", "each")}
            for key in ("name", "experiment"):
                if key in made and named:
                    made[key] = made[key].format(**named)
            cell = {**made.get("cell", {}), **{k: named[k] for k in inside}}
            yield made | ({"cell": cell} if cell else {})


def rows(table: Spec) -> list[dict[str, Any]]:
    """The rows of a table, written out."""
    return list(expanded(table["rows"]))


def columns(spec: Spec, table: Spec) -> list[dict[str, Any]]:
    """The columns of a table, written out: shared ones by their key, or with `use` and changes."""
    entries = [{"use": c} if isinstance(c, str) else c for c in table["columns"]]
    shared = spec.get("column", {})
    try:
        merged = [
            {**shared[e["use"]], **{k: v for k, v in e.items() if k != "use"}} if "use" in e else e for e in entries
        ]
    except KeyError as error:
        raise ReproError(f"table {table['name']}: there is no column {error}, there are {', '.join(shared)}") from None
    return list(expanded(merged))


def cells(spec: Spec) -> list[tuple[str, dict[str, Any]]]:
    """(experiment, cell) of everything that the tables and `also` need, each once; experiments may end in "-s*"."""
    found: dict[tuple, tuple[str, dict[str, Any]]] = {}
    entries = [(e["experiment"], e.get("cell", {})) for e in expanded(spec.get("also", ()))]
    for table in spec.get("table", ()):
        for row, column in itertools.product(rows(table), columns(spec, table)):
            if "experiment" in row and column["name"] not in row.get("skip", ()):
                entries.append((row["experiment"], _cell(table, column, row)))
    for experiment, cell in entries:
        found.setdefault((experiment, *sorted(cell.items())), (experiment, cell))
    return list(found.values())


def tables(room: str, records: Sequence[Record], verified: Verified = (), spec: Spec | None = None) -> list[Table]:
    """Every table of the room, from its records (under the small profile's names)."""
    spec = load(room) if spec is None else spec
    return [_table(room, spec, table, records, verified) for table in spec.get("table", ())]


def _table(room: str, spec: Spec, table: Spec, records: Sequence[Record], verified: Verified) -> Table:
    name, made = table["name"], columns(spec, table)
    find, theirs = finder(room, name, records, verified), paper_numbers(room)

    def cell(row: Spec, column: Spec) -> Cell:
        where = row["name"], column["name"]
        if "experiment" not in row or column["name"] in row.get("skip", ()):
            return dash(row.get("dash", "not measured"), theirs.get((name, *where)))
        reason = row.get("dash", NOT_YET)
        return find(*where, column["metric"], row["experiment"], _cell(table, column, row), reason)

    return Table(
        name,
        table["caption"],
        tuple(Column(**{key: column[key] for key in _COLUMN if key in column}) for column in made),
        {row["name"]: {column["name"]: cell(row, column) for column in made} for row in rows(table)},
        tuple(table.get("notes", ())),
        corner=table.get("corner", ""),
    )


def _cell(table: Spec, column: Spec, row: Spec) -> dict[str, Any]:
    return {**table.get("cell", {}), **column.get("cell", {}), **row.get("cell", {})}


def missing(spec: Spec, records: Sequence[Record]) -> list[str]:
    """What the grid names and no record holds."""
    return [f"{name} {cell}" for name, cell in cells(spec) if not select(records, experiment=name, cell=cell)]


def _refuse(entry: Spec, kind: str, where: str) -> None:
    extra = sorted(set(entry) - _KNOWN[kind])
    if extra:
        raise ReproError(f"{where}: {', '.join(extra)} unknown, accepted are {', '.join(sorted(_KNOWN[kind]))}")
