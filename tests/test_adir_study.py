"""ADIR's study: its data agree with one another, and every kind of cell can be measured with a tiny network."""

import math

import pytest
import torch

from repro.adir import oracle
from repro.adir.guidance import Guidance
from repro.adir.study import measure as m
from repro.adir.study.experiments import SMOKE, TINY
from repro.engine import grid
from repro.engine.checkpoint import save_checkpoint
from repro.engine.claims import Selector, load_ledger
from repro.nn.unet import UNet

BASE = {"set": "adapted", "task": "sr4", "method": "gd", "adapt": "none", "setting": "default"}


def colours(images):
    return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


@pytest.fixture
def scratch(home, monkeypatch):
    """A scratch clone with a tiny untrained prior."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(**TINY)
        torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    save_checkpoint(home / "checkpoints" / SMOKE, network, {})
    # ten of the pack's gallery, embedded by mean colours: the real embedding has tests of its own
    images = {p.id: m.pack.load(p) for p in m.pack.photos("gallery", kind=None)[:10]}
    index = m.retrieval.index_images(images, colours)
    monkeypatch.setattr(m.retrieval, "gallery", lambda: index)
    cached = (m.index, m.private)
    for each in cached:
        each.cache_clear()
    yield home
    for each in cached:
        each.cache_clear()


def test_tables_claims_and_settings_name_the_same_things():
    spec = grid.load("adir")
    cells = grid.cells(spec)
    assert len(spec["table"]) == 8
    used = {cell["setting"] for _, cell in cells if "setting" in cell}
    assert used == set(m.SETTINGS["setting"])
    for _, cell in cells:
        if "setting" in cell:
            m.setting_of(cell)
    sides = [s for claim in load_ledger("adir") for p in claim.parts for s in (p.left, p.right)]
    for side in (s for s in sides if isinstance(s, Selector) and s.experiment):
        assert (side.experiment, dict(side.cell)) in cells, str(side)
    assert m.setting_of(BASE, "paper")["adaptation"].lr == 1e-4


def test_textures_and_their_neighbours_share_no_pixel():
    measured = [m.squares(places, 64) for places in m.SQUARES.values()]
    assert [len(found) for found in measured] == [6, 6, 6]
    every = [x for found in (*measured, m.squares(m.NEAR, 64)) for x in found.values()]
    assert len({tuple(x.flatten().tolist()[:200]) for x in every}) == len(every) == 18 + 24


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"method": "ddrm", "task": "box"},
        {"method": "dps"},
        {"adapt": "itself"},
        {"adapt": "neighbours", "set": "unseen"},
        {"adapt": "neighbours", "setting": "rank2"},
        {"adapt": "foreign"},
        {"setting": "wrong-A", "task": "box"},
        {"setting": "unlimited", "task": "colour"},
        {"set": "large", "task": "gauss"},
    ],
)
def test_every_kind_of_cell_is_measured(scratch, change):
    cell = {**BASE, **change}
    before = {k: v.clone() for k, v in m.private(SMOKE).state_dict().items()}
    found = m.measure(SMOKE, cell, None, "smoke")
    n = m.sample(SMOKE, cell, "smoke").n
    assert all(len(v) == n and all(map(math.isfinite, v)) for v in found.values())
    first = m.measure(SMOKE, cell, 1, "smoke")
    assert first[m.LPIPS][0] == pytest.approx(found[m.LPIPS][0], abs=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in m.private(SMOKE).state_dict().items())


def test_adapted_factors_are_kept_and_used_again(scratch):
    given = (m.private(SMOKE), SMOKE, {**BASE, "adapt": "neighbours"}, 0, "smoke")
    first = m.factors_of(*given)
    (file,) = (scratch / "runs/adir/lora").iterdir()
    stamp = file.stat().st_mtime_ns
    again = m.factors_of(*given)
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    assert file.stat().st_mtime_ns == stamp


def test_baselines_and_retrieval_need_no_network(scratch):
    for name in ("baseline-input", "baseline-pseudo-inverse"):
        assert m.measure(name, {"set": "photos", "task": "sr8"}, 1, "smoke")[m.PSNR][0] > 5
    assert m.measure("retrieval-efficientnet", {"blur": 3}, 1, "smoke")[m.OVERLAP] == [0.5]  # all ten, of twenty
    errors = m.measure("oracle-posterior", {"setting": "default", "steps": 5}, 1, "smoke")
    assert errors[m.MEAN_ERROR][0] == pytest.approx(oracle.distance(Guidance(), 5)[0])
