"""The committed tables are what the grids make of the committed records; grids name exactly what is recorded."""

import re

import pytest

from repro import paths
from repro.engine import grid, records
from repro.engine.evaluation import verified
from repro.engine.records import ROOMS
from repro.engine.registry import experiments

STUDIES = [room for room in ROOMS if paths.room_file(room, "grid.toml").exists() and records.load(room)]


@pytest.mark.parametrize("room", STUDIES)
def test_committed_tables_are_those_of_the_records(room):
    kept = records.select(records.load(room), profile="small")
    for table in grid.tables(room, kept, verified(room, kept)):
        file = paths.figures() / "tables" / table.name
        assert table.to_csv() == file.with_suffix(".csv").read_text(encoding="utf-8"), table.name
        made_by, _, text = file.with_suffix(".md").read_text(encoding="utf-8").partition("\n\n")
        assert table.to_markdown() == text and made_by.startswith("<!-- repro"), table.name


@pytest.mark.parametrize("room", STUDIES)
def test_every_record_is_a_cell_of_the_grid_and_every_cell_is_recorded(room):
    elsewhere = {e.name for e in experiments() if e.profile != "small"}
    named = [(n, c) for n, c in grid.cells(grid.load(room)) if n not in elsewhere]
    kept = [(r.experiment, dict(r.cell)) for r in records.select(records.load(room), profile="small")]
    alike = {n: re.compile(re.escape(n).replace(r"\*", r"\d+")) for n, _ in named}
    # A task or a network without any record is not trained yet; one that ships has to be measured.
    tasks, begun = (
        {k.get("task") for _, k in kept},
        {e for e, _ in kept} | {p.name for p in paths.checkpoints().iterdir()},
    )
    named = [(n, c) for n, c in named if c.get("task") in tasks and any(alike[n].fullmatch(e) for e in begun)]
    assert [f"{n} {c}" for n, c in named if not any(alike[n].fullmatch(e) and c == k for e, k in kept)] == []
    assert [f"{e} {k}" for e, k in kept if not any(alike[n].fullmatch(e) and c == k for n, c in named)] == []
