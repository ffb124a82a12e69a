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
PARTS = [(claim.id, part) for claim in LEDGER for part in claim.parts]
N = 8


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))


def seeds_of(experiment: str) -> tuple[int, ...]:
    return (0, 1) if experiment.endswith("-s*") else (0,)


def side(selector: Selector, metric: str, shift: float) -> list[Record]:
    """The side's records: what the photographs share, the shift, and a little of its own."""
    found = []
    for seed in seeds_of(selector.experiment):
        name = selector.experiment.replace("-s*", f"-s{seed}")
        shared = np.random.default_rng(0).normal(0, 0.1, N)
        own = np.random.default_rng([seed, *name.encode(), *str(selector.cell).encode()]).normal(0, 1e-5, N)
        checkpoint = None if name.startswith("baseline-") else f"{name}"
        found.append(
            Record(
                "editing",
                name,
                selector.cell,
                {metric: (shared + own + shift).tolist()},
                n=N,
                seed=seed,
                profile="small",
                checkpoint=checkpoint,
                data="d",
                command="repro evaluate",
            )
        )
    return found


def judged(part: Comparison, d: float) -> claims.Finding:
    """The part's finding where left - right is d."""
    constant = not isinstance(part.right, Selector)
    right = [] if constant else side(part.right, part.metric, 0.0)
    left = side(part.left, part.metric, d + (part.right if constant else 0.0))
    return claims.judge(part, [*left, *right], (), "test")


@pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: claim.id)
def test_every_part_has_a_verdict_in_both_directions(claim):
    for part in claim.parts:
        size = 1.0  # far beyond the spread over photographs, which counts where a constant stands on the right
        if part.rule == "equal":
            good, bad = judged(part, 0.0), judged(part, 2 * part.margin)
        else:
            sign = 1 if part.rule == "greater" else -1
            good, bad = judged(part, sign * size), judged(part, -sign * size)
        assert (good.verdict, bad.verdict) == ("reproduced", "not reproduced"), part
        assert len(good.records) == sum(
            len(seeds_of(s.experiment)) for s in (part.left, part.right) if isinstance(s, Selector)
        )


def test_without_records_nothing_is_said_to_be_reproduced():
    found = claims.verdicts("editing")
    assert {finding.verdict for v in found for finding in v.findings} == {NOT_MEASURED}
    assert all("no record of" in " ".join(finding.notes) for v in found for finding in v.findings)


def test_every_side_is_a_cell_of_the_grid_and_ablations_have_their_own_reference():
    """Each selector meets exactly one cell that is measured; no network trained on fewer images against one on all."""
    cells = grid.cells(grid.load("editing"))
    cells += [c for c in [(re.sub(r"-s\d+$", "-s*", e), c) for e, c in cells if e.endswith("-s0")] if c not in cells]
    short = {name_of(v) for v in ABLATIONS}
    assert [claim.id for claim in LEDGER] == [f"E{i}" for i in range(1, 16)]
    for id, part in PARTS:
        sides = [s for s in (part.left, part.right) if isinstance(s, Selector)]
        for s in sides:
            found = [c for e, c in cells if e == s.experiment and s.cell.items() <= c.items()]
            assert len(found) == 1, (id, part.name, str(s))
        nets = {s.experiment in short for s in sides if not s.experiment.startswith("baseline-")}
        assert len(nets) == 1, (id, part.name)
