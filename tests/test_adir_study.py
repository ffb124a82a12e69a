"""ADIR's study: its data agree with one another, and every kind of cell can be measured with a tiny network."""

from __future__ import annotations

import math

import pytest
import torch

from repro.adir import oracle
from repro.adir.guidance import Guidance
from repro.adir.study import measure as m
from repro.adir.study import play
from repro.adir.study.experiments import SMOKE, TINY
from repro.engine import grid
from repro.engine.checkpoint import save_checkpoint
from repro.engine.claims import Selector, load_ledger
from repro.errors import ReproError

BASE = {"set": "adapted", "task": "sr4", "method": "gd", "adapt": "none", "setting": "default"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A scratch clone with a tiny untrained prior."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = m.prior.build(TINY)
        torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    save_checkpoint(tmp_path / "checkpoints" / SMOKE, network, {})
    # the pack's gallery, ten of it, embedded by mean colours: the real embedding has tests of its own
    chosen = m.pack.photos("gallery", kind=None)[:10]
    index = m.retrieval.index_images([p.id for p in chosen], [m.pack.load(p) for p in chosen], colours)
    monkeypatch.setattr(m.retrieval, "gallery", lambda: index)
    for cached in (m.index, m.private, play.scene):
        cached.cache_clear()
    yield tmp_path
    for cached in (m.index, m.private, play.scene):
        cached.cache_clear()


def colours(images):
    return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


def test_tables_claims_and_settings_name_the_same_things():
    spec = grid.load("adir")
    cells = grid.cells(spec)
    assert len(spec["table"]) == 8
    for name in m.SETTINGS["setting"]:
        m.setting_of(name)
    for _, cell in cells:
        if "setting" in cell:
            m.setting_of(cell["setting"], task=cell.get("task", "sr4"))
    sides = [s for claim in load_ledger("adir") for p in claim.parts for s in (p.left, p.right)]
    for side in (s for s in sides if isinstance(s, Selector)):
        if side.experiment:
            assert (side.experiment, dict(side.cell)) in [(e, c) for e, c in cells], str(side)
    assert m.setting_of("default", "paper")[1].lr == 1e-4


def test_textures_and_their_neighbours_share_no_pixel():
    tests, near = (dict(m._textures(64, test=t)) for t in (True, False))
    assert len(tests) == 6
    assert len(near) == 24
    blocks = {tuple(x.flatten().tolist()[:200]) for x in near.values()}
    assert not blocks & {tuple(x.flatten().tolist()[:200]) for x in tests.values()}


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
def test_every_kind_of_cell_is_measured(home, change):
    cell = {**BASE, **change}
    before = {k: v.clone() for k, v in m.private(SMOKE).state_dict().items()}
    found = m.measure(SMOKE, cell, None, "smoke")
    n = m.sample(SMOKE, cell, "smoke").n
    assert all(len(v) == n and all(map(math.isfinite, v)) for v in found.values())
    first = m.measure(SMOKE, cell, 1, "smoke")
    assert first[m.LPIPS][0] == pytest.approx(found[m.LPIPS][0], abs=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in m.private(SMOKE).state_dict().items())


def test_adapted_factors_are_kept_and_used_again(home):
    cell = {**BASE, "adapt": "neighbours"}
    first = m.factors_of(m.private(SMOKE), SMOKE, cell, 0, "smoke")
    files = sorted((home / "runs/adir/lora").iterdir())
    assert len(files) == 1
    stamp = files[0].stat().st_mtime_ns
    again = m.factors_of(m.private(SMOKE), SMOKE, cell, 0, "smoke")
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    assert files[0].stat().st_mtime_ns == stamp


def test_baselines_and_retrieval_need_no_network(home):
    for name in ("baseline-input", "baseline-pseudo-inverse"):
        assert m.measure(name, {"set": "photos", "task": "sr8"}, 1, "smoke")[m.PSNR][0] > 5
    assert m.measure("retrieval-efficientnet", {"blur": 3}, 1, "smoke")[m.OVERLAP] == [0.5]  # all ten, of twenty
    errors = m.measure("oracle-posterior", {"setting": "default", "steps": 5}, 1, "smoke")
    assert errors[m.MEAN_ERROR][0] == pytest.approx(oracle.distance(Guidance(), 5)[0])


def test_exercises_know_right_from_wrong(capsys):
    for name, right, wrong in (("limit", 2.5, 3), ("adjoint", 3, 1), ("spherical", 90, 45)):
        play.check(name, right)
        play.check(name, wrong)
        play.check(name, None)
    shown = capsys.readouterr().out
    assert (shown.count(": right"), shown.count("not yet"), shown.count("waiting")) == (3, 3, 3)
    with pytest.raises(ReproError, match="no exercise"):
        play.check("nothing", 1)
