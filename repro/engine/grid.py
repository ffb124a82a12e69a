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
replace `{steps}` in its texts; `each` (of a table too) leaves the cell alone. The values may be the name of a `[list]`;
where they are tables themselves, "{way[name]}" is a field of one. `[protocol]` has by metric what columns do not say.
A row's `skip` lists columns that it does not have, with `dash` as the reason, or is a table column -> reason; `without`
names what its cells do not have of the table's and the column's. Of a column:

    with = { task = "lowlight", steps = 2 }  # replaces {task} and {steps} in the rows' experiments and cells
    only = { edit = ["blur", "colour"] }     # rows with another cell have `dash` there
    scale = 1000                             # ours is shown times this
    mean = { edit = ["blur", "colour"] }     # the mean over these cells, image by image and at all training seeds
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from repro import paths
from repro.engine import stats
from repro.engine.records import Record, rounded, select
from repro.engine.tables import IMAGES, REPLICATES, Cell, Column, Table, Verified, mark_of, paper_numbers
from repro.errors import ReproError

Spec = Mapping[str, Any]
Place = tuple[str, dict[str, Any]]  # experiment and cell
NOT_YET = "no record: its network is not trained yet"
_NAME = re.compile(r"\{(\w+)(?:\[(\w+)\])?\}")
_COLUMN = ("name", "protocol", "better", "decimals", "atol", "rtol")


def load(room: str) -> Spec:
    """The room's `grid.toml`, its tables repeated for their `each`."""
    spec = paths.read_toml(paths.room_file(room, "grid.toml"))
    return spec | {"table": list(expanded(spec, spec.get("table", ())))}


def _filled(value: Any, names: Spec) -> Any:
    """`value` with {name} or {name[field]} replaced in its texts, where that name is known; a text that is nothing else
    becomes the value itself."""

    def named(match: re.Match) -> Any:
        name, key = match.groups()
        found = names.get(name, match[0])
        return found[key] if key and name in names else found

    if isinstance(value, str):
        whole = _NAME.fullmatch(value)
        return named(whole) if whole else _NAME.sub(lambda match: str(named(match)), value)
    if isinstance(value, Mapping):
        return {key: _filled(each, names) for key, each in value.items()}
    return [_filled(each, names) for each in value] if isinstance(value, list) else value


def _listed(spec: Spec, values: Spec) -> dict[str, Any]:
    """`values` with the name of a list replaced by the list."""
    return {key: spec["list"][v] if isinstance(v, str) else v for key, v in values.items()}


def expanded(spec: Spec, entries: Iterable[Spec]) -> Iterator[dict[str, Any]]:
    """Every entry, repeated for the values of its `for` and `each`."""
    for entry in entries:
        inside, outside = (_listed(spec, entry.get(key, {})) for key in ("for", "each"))
        for chosen in itertools.product(*inside.values(), *outside.values()):
            named = dict(zip([*inside, *outside], chosen, strict=True))
            made = {k: v for k, v in entry.items() if k not in ("for", "each")}
            for _ in range(3):  # what stands in a list may hold names itself
                made = _filled(made, named)
            cell = {**made.get("cell", {}), **{k: named[k] for k in inside}}
            yield made | ({"cell": cell} if cell else {}) | ({"name": str(made["name"])} if "name" in made else {})


def _columns(spec: Spec, table: Spec) -> list[dict[str, Any]]:
    """The columns of a table: shared ones by their key, or with `use` and changes."""
    shared = spec.get("column", {})
    entries = ({"use": c} if isinstance(c, str) else c for c in table["columns"])
    entries = [{**shared[c["use"]], **c} if "use" in c else c for c in entries]
    made = ({"protocol": spec.get("protocol", {}).get(c["metric"], "")} | c for c in expanded(spec, entries))
    return [c | {key: _listed(spec, c[key]) for key in ("mean", "only") if key in c} for c in made]


def cells(spec: Spec) -> list[Place]:
    """(experiment, cell) of everything that the tables and `also` need, each once; experiments may end in "-s*"."""
    entries = [(e["experiment"], e.get("cell", {})) for e in expanded(spec, spec.get("also", ()))]
    for table in spec.get("table", ()):
        for row, column in itertools.product(expanded(spec, table["rows"]), _columns(spec, table)):
            if not _absent(table, column, row):
                entries += _places(table, column, row)
    return list({(experiment, *sorted(cell.items())): (experiment, cell) for experiment, cell in entries}.values())


def tables(room: str, records: Sequence[Record], verified: Verified = (), spec: Spec | None = None) -> list[Table]:
    """Every table of the room, from its records (under the small profile's names)."""
    spec = load(room) if spec is None else spec
    theirs = paper_numbers(room)

    def cell(table: Spec, row: Spec, column: Spec) -> Cell:
        made = Cell(dash=_absent(table, column, row))
        if not made.dash:
            made = ours(records, column["metric"], _places(table, column, row), verified, row.get("dash", NOT_YET))
        if "scale" in column and made.value is not None:
            bounds = made.interval and tuple(rounded(column["scale"] * bound) for bound in made.interval)
            made = replace(made, value=rounded(column["scale"] * made.value), interval=bounds)
        return replace(made, paper=theirs.get((table["name"], row["name"], column["name"])))

    made = []
    for table in spec.get("table", ()):
        columns = _columns(spec, table)
        rows = {r["name"]: {c["name"]: cell(table, r, c) for c in columns} for r in expanded(spec, table["rows"])}
        n = max((made.n for row in rows.values() for made in row.values()), default=0)
        heads = tuple(Column(**{key: column[key] for key in _COLUMN if key in column}) for column in columns)
        caption, notes = _filled(table["caption"], {"n": n}), tuple(table.get("notes", ()))
        made.append(Table(table["name"], caption, heads, rows, notes, table.get("corner", "")))
    return made


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


def _places(table: Spec, column: Spec, row: Spec) -> list[Place]:
    """Where a cell's number comes from: the one place, or those of its mean."""
    cell, over = _cell(table, column, row), column.get("mean", {})
    name = _filled(row["experiment"], column.get("with", {}))
    named = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    return [(_filled(name, each), {**cell, **each}) for each in named]


def ours(
    records: Sequence[Record], metric: str, places: Sequence[Place], verified: Verified = (), reason: str = NOT_YET
) -> Cell:
    """The mean over `places`, image by image, at the training seeds that all of them have. Fewer values than an
    interval needs (one FID, say) have none."""
    groups = [select(records, experiment=experiment, cell=cell) for experiment, cell in places]
    common = set.intersection(*({record.seed for record in group} for group in groups))
    groups = [sorted((r for r in group if r.seed in common), key=lambda r: r.seed) for group in groups]
    used = list(itertools.chain(*groups))
    if not used or any(metric not in record.metrics for record in used):
        return Cell(dash="this profile does not measure it" if used else reason)
    if len({record.n for record in used}) > 1 or any(len(group) != len(common) for group in groups):
        raise ReproError(f"{metric}: different images, or several cells of a place, in one cell: {used[0].label}")
    values = np.array([[record.values(metric) for record in group] for group in groups])  # (places, seeds, units)
    means = values.mean(axis=0)
    n, ids = used[0].n, tuple(sorted({record.id for record in used}))
    value, bounds, over = float(means.mean(axis=1).mean()), None, ""
    if values.shape[2] >= stats.MIN_UNITS:
        found = stats.mean_interval(means)
        value, bounds = found.estimate, (rounded(found.low), rounded(found.high))
        over = IMAGES if found.n == n else REPLICATES
    mark = mark_of(ids, metric, verified)
    return Cell(rounded(value), bounds, over, n, len(common), mark=mark, records=ids)
