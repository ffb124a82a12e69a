"""Of every study: committed tables are made of committed records, claims and grids fit together, exercises judge."""

import importlib
import re

import pytest

from repro import paths
from repro.engine import grid, records
from repro.engine.checkpoint import experiments, rooms
from repro.engine.claims import load_ledger
from repro.engine.evaluation import verified
from repro.errors import ReproError

STUDIES = [room for room in rooms() if paths.room_file(room, "grid.toml").exists() and records.load(room)]


@pytest.mark.parametrize("room", STUDIES)
def test_committed_tables_are_those_of_the_records(room):
    kept = [record for record in records.load(room) if record.profile == "small"]
    for table in grid.tables(room, kept, verified(room, kept)):
        file = paths.figures() / "tables" / table.name
        assert table.to_csv() == file.with_suffix(".csv").read_text(encoding="utf-8"), table.name
        made_by, _, text = file.with_suffix(".md").read_text(encoding="utf-8").partition("\n\n")
        assert table.to_markdown() == text and made_by.startswith("<!-- repro"), table.name


@pytest.mark.parametrize("room", STUDIES)
def test_every_record_is_a_cell_of_the_grid_and_every_cell_is_recorded(room):
    elsewhere = {e.name for e in experiments() if e.profile != "small"}
    named = [(n, c) for n, c in grid.cells(grid.load(room)) if n not in elsewhere]
    kept = [(r.experiment, dict(r.cell)) for r in records.load(room) if r.profile == "small"]
    alike = {n: re.compile(re.escape(n).replace(r"\*", r"\d+")) for n, _ in named}
    # A task or a network without any record is not trained yet; one that ships has to be measured.
    tasks = {cell.get("task") for _, cell in kept}
    begun = {e for e, _ in kept} | {p.name for p in paths.checkpoints().iterdir()}
    named = [(n, c) for n, c in named if c.get("task") in tasks and any(alike[n].fullmatch(e) for e in begun)]
    assert [f"{n} {c}" for n, c in named if not any(alike[n].fullmatch(e) and c == k for e, k in kept)] == []
    assert [f"{e} {k}" for e, k in kept if not any(alike[n].fullmatch(e) and c == k for n, c in named)] == []


@pytest.mark.parametrize("room", rooms())
def test_every_side_of_a_claim_is_one_cell_of_the_grid(room):
    cells = grid.cells(grid.load(room))
    comparisons = [part for claim in load_ledger(room) for part in claim.parts]
    assert comparisons
    for part in comparisons:
        for side in (side for side in (part.left, part.right) if isinstance(side, dict)):
            name, about = side["experiment"], side.get("cell", {}).items()
            seeds = {name, re.sub(r"-s0$", "-s*", name), re.sub(r"-s\*$", "-s0", name)}
            found = {str(c) for e, c in cells if e in seeds and about <= c.items()}
            assert len(found) == 1, (part.name, side)


EXERCISES = {"ddpm": "figures", "editing": "lesson", "rddm": "lesson", "ucdir": "figures", "adir": "figures"}


@pytest.mark.parametrize("room", EXERCISES)
def test_exercises_know_wrong_answers(room, capsys):
    """The right ones stand in the notebooks, whose tests count them."""
    lesson = importlib.import_module(f"repro.{room}.study.{EXERCISES[room]}")
    for name in lesson.EXERCISES:
        for answer in (None, lambda *given: given[0], -7.0):
            lesson.check(name, answer)
        waiting, *wrong = capsys.readouterr().out.splitlines()
        assert "waiting" in waiting and len(wrong) == 2 and all("not yet" in line for line in wrong), name
    with pytest.raises(ReproError, match="exercise 'halves' is unknown"):
        lesson.check("halves", 1)
