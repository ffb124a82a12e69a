"""What no learning reaches: fitted numbers are the best ones, planted drops are found, the rest is left alone."""

from __future__ import annotations

import pytest
import torch

from repro.data import pack
from repro.engine.rng import KeyedNoise
from repro.rddm.study import baselines, measure
from repro.rddm.study.baselines import _grid, find_drops, inpainted, mean_gain, median

SIDE = 48
SMOOTH = torch.stack([torch.linspace(0.3, 0.6, SIDE).expand(SIDE, SIDE)] * 3) + torch.linspace(0, 0.1, SIDE)[:, None]
DISCS = ((12, 14, 3), (30, 36, 4), (40, 10, 2))  # row, column, radius


@pytest.fixture(autouse=True)
def fresh():
    """Numbers fitted on one set of pictures must not meet another."""
    fitted = (baselines.training_pairs, baselines.fitted_gain_gamma, baselines.training_mean)
    yield
    for each in fitted:
        each.cache_clear()


@pytest.fixture
def pairs(monkeypatch):
    clean = KeyedNoise(0, range(3), "test/clean").uniform((3, 40, 40))
    found = tuple((measure.degraded("lowlight", x, f"x{i}"), x) for i, x in enumerate(clean))
    whole = lambda degradation, side=256, limit=0: found  # noqa: E731
    whole.cache_clear = lambda: None
    monkeypatch.setattr(baselines, "training_pairs", whole)
    return found


def spotted(value: float = 0.95) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth picture with bright discs, and where they are."""
    rows, cols = torch.arange(SIDE)[:, None], torch.arange(SIDE)[None]
    where = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for y, x, r in DISCS:
        where |= (rows - y) ** 2 + (cols - x) ** 2 <= r * r
    return torch.where(where, value, SMOOTH), where


def test_the_grid_finds_the_planted_curve():
    x = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.3
    gains, gammas = [2.0, 2.5, 3.0, 3.5], [0.6, 0.7, 0.8, 0.9]
    assert _grid(x, (3.0 * x).clamp(0, 1) ** 0.7, gains, gammas) == (3.0, 0.7)
    assert _grid(x, 0.1 + (3.5 * x).clamp(0, 1) ** 0.6, gains, gammas) == (3.5, 0.6)


def test_the_fitted_gain_is_the_best_on_its_pictures(pairs):
    x, y = (torch.cat([p[i].flatten()[::1009] for p in pairs]).double() for i in (0, 1))
    gain, gamma = baselines.fitted_gain_gamma()

    def error(g, p):
        return ((g * x).clamp(0, 1) ** p - y).square().mean().item()

    best = error(gain, gamma)
    assert 1.5 < gain < 8.0 and best < error(1.0, 1.0)
    for g, p in ((gain + 0.1, gamma), (gain - 0.1, gamma), (gain, gamma + 0.02), (gain, gamma - 0.02)):
        if p > 0.4:  # the end of the grid
            assert best <= error(g, p)
    dark, clean = pairs[0]
    bright = baselines.gain_gamma(dark)
    assert bright.shape == dark.shape and bright.min() >= 0 and bright.max() <= 1
    assert (bright - clean).square().mean() < (dark - clean).square().mean()


def test_mean_gain_brings_the_training_mean(pairs):
    wanted = torch.stack([clean for _, clean in pairs]).mean(dim=(0, 2, 3))
    assert baselines.training_mean() == pytest.approx(wanted.tolist(), abs=1e-6)
    found = mean_gain(SMOOTH * torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    torch.testing.assert_close(found.mean(dim=(1, 2)), wanted, rtol=0, atol=1e-4)
    assert mean_gain(torch.zeros(3, 4, 4)).isfinite().all()


def test_equalised_spreads_every_channel():
    found = baselines.equalised(0.1 * KeyedNoise(0, [0], "x").uniform((3, 32, 32))[0] ** 2)
    assert found.shape == (3, 32, 32) and found.dtype == torch.float32 and found.min() >= 0 and found.max() <= 1
    for channel in found:  # uniform, whatever it was
        quantiles = channel.flatten().quantile(torch.tensor([0.25, 0.5, 0.75]))
        assert quantiles.tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.02)


def test_the_median_takes_specks_and_leaves_edges():
    edge = (torch.arange(SIDE) >= 20).float().expand(3, SIDE, SIDE).clone()
    speck = edge.clone()
    speck[1, 10, 10] = 1.0
    assert torch.equal(median(speck), edge) and torch.equal(median(edge, 5), edge)


def test_planted_drops_are_found_and_nothing_else():
    picture, where = spotted()
    found = torch.from_numpy(find_drops(picture, 15, 0.10, 0))
    assert torch.equal(found, where)
    grown = torch.from_numpy(find_drops(picture, 15, 0.10, 2))
    assert (grown & where).sum() == where.sum() and grown.sum() > found.sum()
    assert not find_drops(SMOOTH, 15, 0.10, 2).any() and not find_drops(picture, 15, 0.9, 0).any()


def test_inpainting_fills_the_drops_and_leaves_the_rest():
    picture, where = spotted()
    found = inpainted(picture, (15, 0.10, 0))
    assert found.shape == picture.shape and found.dtype == torch.float32
    torch.testing.assert_close(found[:, ~where], picture[:, ~where], rtol=0, atol=1e-6)
    torch.testing.assert_close(found, SMOOTH, rtol=0, atol=5e-3)  # a plane is what a biharmonic surface continues
    torch.testing.assert_close(inpainted(SMOOTH), SMOOTH, rtol=0, atol=1e-6)


def test_the_chosen_detection_is_the_best_of_those_tried(monkeypatch):
    picture, where = spotted()
    monkeypatch.setattr(baselines, "training_pairs", lambda degradation, limit=0: ((picture, SMOOTH),))
    monkeypatch.setattr(baselines, "inpainted", lambda x, d: torch.where(where, x + (d[1] - 0.15) + 0.01 * d[2], x))
    best, errors = baselines.fit_detection()
    assert len(errors) == 24 and errors[best] == min(errors.values()) and baselines.DETECTION in errors


def test_training_pairs_are_degraded_training_pictures(monkeypatch):
    training = {p.id for p in pack.photos("train")}
    asked = []
    real = measure.degraded
    monkeypatch.setattr(measure, "degraded", lambda kind, x, name: asked.append(name) or real(kind, x, name))
    found = baselines.training_pairs("raindrop", side=64, limit=3)
    assert len(found) == len(asked) == 3 and set(asked) <= training
    for wet, clean in found:
        assert min(clean.shape[1:]) == 64 and not torch.equal(wet, clean) and wet.shape == clean.shape


def test_every_task_has_its_input_among_the_baselines():
    x = SMOOTH.clone()
    for table in baselines.BASELINES.values():
        assert table["input"](x) is x
