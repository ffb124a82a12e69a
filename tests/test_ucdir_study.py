"""Notebook 04's study: experiments, tables and claims as data that fit together, and what is measured."""

import subprocess
import sys
from fnmatch import fnmatch

import pytest
import torch

from repro.engine import grid
from repro.engine.claims import load_ledger
from repro.engine.registry import build
from repro.engine.train import Recipe, train
from repro.ucdir.study import measure
from repro.ucdir.study.experiments import EXPERIMENTS, SPEC, network_of

SMALL = {e.name: e for e in EXPERIMENTS if e.profile == "small"}
SMOKE = [e for e in EXPERIMENTS if e.profile == "smoke" and (e.task_name == "jpeg" or e.variant == "main")]


def test_the_method_does_not_need_its_study():
    code = "import repro.ucdir.pipeline, sys; print([m for m in sys.modules if m.startswith('repro.ucdir.study')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("experiment", SMOKE, ids=lambda e: f"{e.task_name}-{e.variant}")
def test_every_kind_of_experiment_trains(experiment):
    recipe = Recipe(images=8, batch=4, precision="bf16")
    steps = list(train(build(experiment), experiment.task(), recipe, experiment.seed))
    assert len(steps) == 2 and all(torch.isfinite(torch.tensor([s.loss, s.grad_norm])).all() for s in steps)


def test_networks_of_one_size_and_the_ablations_differ_from_ours_in_one_thing():
    sizes = {v: measure.cost(v)[measure.PARAMETERS] for v in ("main", "regression", "short")}
    assert len(set(sizes.values())) == 1
    for variant in [v for v in SPEC["variant"] if v.startswith("short-")]:
        changes = SPEC["variant"][variant]
        assert 1 <= len({**changes.get("network", {}), **changes.get("learning", {})}) <= 3
    assert network_of("jpeg", "main")["tasks"] == ["jpeg"]


def test_claims_and_tables_name_experiments_that_exist_and_cells_that_are_measured():
    measured = grid.cells(grid.load("ucdir"))
    names = {name for name, _ in measured}
    for name in names:
        stem = name.removesuffix("*")
        assert not name.startswith("ucdir-") or any(known.startswith(stem) for known in SMALL), name
    comparisons = [part for claim in load_ledger("ucdir") for part in claim.parts]
    assert len(comparisons) <= 40
    for part in comparisons:
        for side in (part.left, part.right):
            if hasattr(side, "experiment"):
                fits = [c for n, c in measured if fnmatch(side.experiment, n)]
                assert any(side.cell.items() <= c.items() for c in fits), (part.name, str(side))


def test_a_formula_scores_and_a_check_is_the_beginning_of_the_whole():
    whole = measure.measure("baseline-formula", {"task": "jpeg"}, 2, "smoke")
    first = measure.measure("baseline-formula", {"task": "jpeg"}, 1, "smoke")
    assert all(whole[name][:1] == first[name] for name in first)
    better = measure.measure("baseline-input", {"task": "jpeg"}, 2, "smoke")
    assert whole["psnr/rgb"][0] > better["psnr/rgb"][0]  # the filter removes blocks


def test_macs_are_those_of_the_convolutions_counted_by_hand():
    """One grouped convolution of N bases counts as one full convolution; addition of the guide costs its own layers."""
    ours, without = measure.cost("short")[measure.MACS], measure.cost("short-noguide")[measure.MACS]
    network = network_of("lowlight", "short")
    positions = [(64 // network["patch"] // 2**i) ** 2 for i in range(len(network["channel_mults"]))]
    per_level = [2] * (len(positions) - 1) + [3]  # one down, one up, and the middle at the last level
    guide = sum(n * p * (3 * 16 + 9 * 8 * 8) for n, p in zip(per_level, positions, strict=True))
    assert ours - without == guide
