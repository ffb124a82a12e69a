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
`{steps}` in its texts is replaced; `each` does the same and leaves the cell alone. In place of values may stand a name
of a `[list]`; where values are tables themselves, "{way[name]}" is a field of one. A row's `skip` lists columns that it
does not have, with `dash` as the reason, or is a table column -> reason; `without` names what its cells do not have of
the table's and the column's. Of a column:

    with = { task = "lowlight", steps = 2 }  # replaces {task} and {steps} in the rows' experiments and cells
    only = { edit = ["blur", "colour"] }     # rows with another cell have `dash` there
    scale = 1000                             # ours is shown times this
    mean = { edit = ["blur", "colour"] }     # the mean over these cells, image by image and at all training seeds
    less = { task = "one crop" }, by = "edit"  # less the mean over the parts of a cell's "blur+colour", so changed
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from string import Formatter
from typing import Any

from repro import paths
from repro.engine import stats
from repro.engine.atomic import read_toml
from repro.engine.records import Record, rounded, select
from repro.engine.tables import IMAGES, Cell, Column, Table, Verified, mark_of, ours, paper_numbers
from repro.errors import ReproError

Spec = Mapping[str, Any]
NOT_YET = "no record: its network is not trained yet"
_COLUMN = ("name", "protocol", "better", "decimals", "atol", "rtol")
_KNOWN = {
    "table": {"name", "caption", "corner", "notes", "cell", "columns", "rows"},
    "row": {"name", "experiment", "cell", "without", "dash", "skip"},
    "column": {*_COLUMN, "metric", "cell", "with", "only", "dash", "scale", "mean", "less", "by"},
    "also": {"experiment", "cell"},
}


def load(room: str) -> Spec:
    """The room's `grid.toml`. Raises `ReproError` for a key that means nothing."""
    path = paths.room_file(room, "grid.toml")
    spec = read_toml(path)
    entries = [("also", entry) for entry in expanded(spec.get("also", ()), spec)]
    for table in spec.get("table", ()):
        entries += [("table", table), *(("row", row) for row in rows(spec, table))]
        entries += [("column", column) for column in columns(spec, table)]
    for kind, entry in entries:
        if extra := sorted(set(entry) - _KNOWN[kind]):
            name, known = entry.get("name", entry.get("experiment")), ", ".join(sorted(_KNOWN[kind]))
            raise ReproError(f"{path}, {kind} {name!r}: {', '.join(extra)} unknown, accepted are {known}")
    return spec


class _Open(dict):
    """Names of a text that are not known yet stay in it."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def _filled(value: Any, names: Spec) -> Any:
    """`value` with {name} replaced in its texts; a text that is nothing else becomes the value itself."""
    if isinstance(value, str):
        if re.fullmatch(r"\{\w+(\[\w+\])?\}", value) and value[1:-1].split("[")[0] in names:
            return Formatter().get_field(value[1:-1], (), names)[0]
        return value.format_map(_Open(names))
    if isinstance(value, Mapping):
        return {key: _filled(each, names) for key, each in value.items()}
    return [_filled(each, names) for each in value] if isinstance(value, list) else value


def expanded(entries: Iterable[Spec], spec: Spec | None = None) -> Iterator[dict[str, Any]]:
    """Every entry, repeated for the values of its `for` and `each`."""
    lists = (spec or {}).get("list", {})
    for entry in entries:
        inside, outside = entry.get("for", {}), entry.get("each", {})
        values = [lists[v] if isinstance(v, str) else v for v in (*inside.values(), *outside.values())]
        for chosen in itertools.product(*values):
            named = dict(zip([*inside, *outside], chosen, strict=True))
            made = {k: v for k, v in entry.items() if k not in ("for", "each")}
            for _ in range(3):  # what stands in a list may hold names itself
                made = _filled(made, named)
            cell = {**made.get("cell", {}), **{k: named[k] for k in inside}}
            yield made | ({"cell": cell} if cell else {}) | ({"name": str(made["name"])} if "name" in made else {})


def rows(spec: Spec, table: Spec) -> list[dict[str, Any]]:
    """The rows of a table, written out."""
    return list(expanded(table["rows"], spec))


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
    lists, made = spec.get("list", {}), list(expanded(merged, spec))
    for column, key in itertools.product(made, ("mean", "only")):
        if key in column:
            column[key] = {name: lists[v] if isinstance(v, str) else v for name, v in column[key].items()}
    return made


def at_every_seed(name: str, known: Iterable[str]) -> list[str]:
    """The networks of `known` that "…-s*" stands for; any other name alone."""
    if not name.endswith("-s*"):
        return [name]
    stem = name.removesuffix("*")
    return [each for each in known if each.startswith(stem) and each.removeprefix(stem).isdigit()]


Place = tuple[str, dict[str, Any]]  # experiment and cell


def cells(spec: Spec) -> list[Place]:
    """(experiment, cell) of everything that the tables and `also` need, each once; experiments may end in "-s*"."""
    found: dict[tuple, Place] = {}
    entries = [(e["experiment"], e.get("cell", {})) for e in expanded(spec.get("also", ()), spec)]
    for table in spec.get("table", ()):
        for row, column in itertools.product(rows(spec, table), columns(spec, table)):
            if not _absent(table, column, row):
                entries += itertools.chain(*_places(table, column, row))
    for experiment, cell in entries:
        found.setdefault((experiment, *sorted(cell.items())), (experiment, cell))
    return list(found.values())


def tables(room: str, records: Sequence[Record], verified: Verified = (), spec: Spec | None = None) -> list[Table]:
    """Every table of the room, from its records (under the small profile's names)."""
    spec = load(room) if spec is None else spec
    return [_table(room, spec, table, records, verified) for table in spec.get("table", ())]


def _table(room: str, spec: Spec, table: Spec, records: Sequence[Record], verified: Verified) -> Table:
    name, made = table["name"], columns(spec, table)
    theirs = paper_numbers(room)

    def cell(row: Spec, column: Spec) -> Cell:
        paper = theirs.get((name, row["name"], column["name"]))
        if reason := _absent(table, column, row):
            return Cell(dash=reason, paper=paper)
        reason, metric, (places, less) = row.get("dash", NOT_YET), column["metric"], _places(table, column, row)
        if "mean" in column or less:
            found = _pooled(records, metric, places, less, verified, reason)
        else:
            found = _single(records, metric, places[0], verified, reason)
        if "scale" in column and found.value is not None:
            bounds = found.interval and tuple(rounded(column["scale"] * bound) for bound in found.interval)
            found = replace(found, value=rounded(column["scale"] * found.value), interval=bounds)
        return replace(found, paper=paper)

    shown = {row["name"]: {column["name"]: cell(row, column) for column in made} for row in rows(spec, table)}
    n = max((found.n for line in shown.values() for found in line.values()), default=0)
    return Table(
        name,
        _filled(table["caption"], {"n": n}),
        tuple(Column(**{key: column[key] for key in _COLUMN if key in column}) for column in made),
        shown,
        tuple(table.get("notes", ())),
        corner=table.get("corner", ""),
    )


def _cell(table: Spec, column: Spec, row: Spec) -> dict[str, Any]:
    cell = {**table.get("cell", {}), **column.get("cell", {}), **row.get("cell", {})}
    return _filled({k: v for k, v in cell.items() if k not in row.get("without", ())}, column.get("with", {}))


def _absent(table: Spec, column: Spec, row: Spec) -> str:
    """Why nothing is measured for this cell; "" where it is."""
    skipped = row.get("skip", {})
    if "experiment" not in row or column["name"] in skipped:
        why = row.get("dash", "not measured")
        return skipped.get(column["name"], why) if isinstance(skipped, Mapping) else why
    cell = _cell(table, column, row)
    apart = any(cell.get(key) not in accepted for key, accepted in column.get("only", {}).items())
    return column.get("dash", "not measured") if apart else ""


def _places(table: Spec, column: Spec, row: Spec) -> tuple[list[Place], list[Place]]:
    """Where a cell's number comes from: the one place, or those of its mean; and those whose mean is taken off."""
    cell, over = _cell(table, column, row), column.get("mean", {})
    name = _filled(row["experiment"], column.get("with", {}))
    named = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    parts = cell[column["by"]].split("+") if "less" in column else ()
    less = [(name, {**cell, **column["less"], column["by"]: part}) for part in parts]
    return [(_filled(name, each), {**cell, **each}) for each in named], less


def _single(records: Sequence[Record], metric: str, place: Place, verified: Verified, reason: str) -> Cell:
    """Ours from the one cell of that place, at all its training seeds."""
    found = select(records, experiment=place[0], cell=place[1])
    if not found:
        return Cell(dash=reason)
    if metric not in found[0].metrics:
        return Cell(dash="this profile does not measure it")
    return ours(found, metric, verified=verified)


def _pooled(
    records: Sequence[Record],
    metric: str,
    places: Sequence[Place],
    less: Sequence[Place],
    verified: Verified,
    reason: str,
) -> Cell:
    """Mean over several places, image by image, less the mean over others, at the training seeds that all have."""
    sides = [
        [sorted(select(records, experiment=e, cell=c), key=lambda r: r.seed) for e, c in side]
        for side in (places, less)
    ]
    common = set.intersection(*({r.seed for r in found} for side in sides for found in side))
    sides = [[[r for r in found if r.seed in common] for found in side] for side in sides]
    used = [record for side in sides for found in side for record in found]
    if not all(found for side in sides for found in side) or any(metric not in r.metrics for r in used):
        return Cell(dash=reason)
    if len({r.n for r in used}) > 1 or any(len(found) != len(common) for side in sides for found in side):
        raise ReproError(f"{metric}: different images, or several cells of a place, cannot be pooled: {used[0].label}")
    means = [
        [[sum(v) / len(v) for v in zip(*(f[s].values(metric) for f in side), strict=True)] for s in range(len(common))]
        for side in sides
    ]
    found = stats.paired_difference(*means, same_networks=True) if less else stats.mean_interval(means[0])
    ids = tuple(sorted({record.id for record in used}))
    bounds = (rounded(found.low), rounded(found.high))
    mark = mark_of(ids, metric, verified)
    return Cell(rounded(found.estimate), bounds, IMAGES, used[0].n, found.seeds[0], mark=mark, records=ids)
