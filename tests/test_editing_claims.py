"""Claims E1 to E15: each has a verdict either way on records made here, and none before anything is measured."""

from __future__ import annotations

import re

import numpy as np
import pytest

from repro.editing.study.experiments import ABLATIONS, name_of
from repro.engine import claims, grid
from repro.engine.claims import NOT_MEASURED, Comparison, Selector
from repro.engine.records import Record

LEDGER = claims.load_ledger("editing")
N = 8


def side(selector: Selector, metric: str, shift: float) -> list[Record]:
    """The side's records: what the photographs share, the shift, and a little of its own."""
    found = []
    for seed in (0, 1) if selector.experiment.endswith("-s*") else (0,):
        name = selector.experiment.replace("-s*", f"-s{seed}")
        shared = np.random.default_rng(0).normal(0, 0.1, N)
        own = np.random.default_rng([seed, *name.encode(), *str(selector.cell).encode()]).normal(0, 1e-5, N)
        about = {"checkpoint": None if name.startswith("baseline-") else name, "data": "d", "command": "repro evaluate"}
        values = {metric: (shared + own + shift).tolist()}
        found.append(Record("editing", name, selector.cell, values, n=N, seed=seed, profile="small", **about))
    return found


def judged(part: Comparison, d: float) -> str:
    """The part's verdict where left - right is d."""
    constant = not isinstance(part.right, Selector)
    left = side(part.left, part.metric, d + (part.right if constant else 0.0))
    records = left + ([] if constant else side(part.right, part.metric, 0.0))
    finding = claims.judge(part, records, (), "test")
    assert len(finding.records) == len(records)
    return finding.verdict


@pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: claim.id)
def test_every_part_has_a_verdict_in_both_directions(claim):
    for part in claim.parts:
        sign = 1 if part.rule == "greater" else -1  # 1 is far beyond the spread over photographs
        good, bad = (0.0, 2 * part.margin) if part.rule == "equal" else (sign, -sign)
        assert (judged(part, good), judged(part, bad)) == ("reproduced", "not reproduced"), part


def test_without_records_nothing_is_said_to_be_reproduced(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))
    found = claims.verdicts("editing")
    assert {finding.verdict for v in found for finding in v.findings} == {NOT_MEASURED}


def test_every_side_is_a_cell_of_the_grid_and_ablations_have_their_own_reference():
    """Each selector meets exactly one cell that is measured; no network trained on fewer images against one on all."""
    cells = grid.cells(grid.load("editing"))
    cells += [c for c in [(re.sub(r"-s\d+$", "-s*", e), c) for e, c in cells if e.endswith("-s0")] if c not in cells]
    short = {name_of(v) for v in ABLATIONS}
    assert [claim.id for claim in LEDGER] == [f"E{i}" for i in range(1, 16)]
    assert sum(len(claim.parts) for claim in LEDGER) == 204
    for part in (part for claim in LEDGER for part in claim.parts):
        sides = [s for s in (part.left, part.right) if isinstance(s, Selector)]
        for s in sides:
            found = [c for e, c in cells if e == s.experiment and s.cell.items() <= c.items()]
            assert len(found) == 1, (part.name, str(s))
        assert len({s.experiment in short for s in sides if not s.experiment.startswith("baseline-")}) == 1, part.name
