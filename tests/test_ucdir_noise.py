"""UCDIR's noise levels against the constants of the published training and inference."""

import itertools

import pytest
import torch

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.ucdir.noise import TRAINING, linear_levels


def test_schedules_end_where_the_published_ones_do():
    assert TRAINING.gamma[-1].item() == pytest.approx(4.39e-5, rel=2e-3)
    assert linear_levels()[0] == pytest.approx(8.2e-6, rel=1e-2)
    assert linear_levels(200, 0.1)[0] == pytest.approx(3.2e-5, rel=2e-2)


def test_levels_rise_to_one_and_the_part_belongs_to_the_schedule():
    for levels in (linear_levels(), TRAINING.levels(7), TRAINING.levels(2000), TRAINING.levels(3, start=0.9)):
        assert levels[-1] == 1 and all(a < b for a, b in itertools.pairwise(levels))
    assert set(TRAINING.levels(7)) <= set(TRAINING.gamma.tolist())


def test_training_levels_are_continuous_and_have_the_density_of_uniform_t():
    drawn = TRAINING.draw(KeyedNoise(0, range(20_000), "level")).double()
    root = TRAINING.gamma.sqrt()
    assert drawn.min() >= root[-1] - 1e-7 and drawn.max() <= 1
    assert torch.isin(drawn.float(), root.float()).float().mean() < 0.05  # between the levels, not on them
    # The share of draws above sqrt(gamma[t]) is t / T.
    for t in (200, 1000, 1800):
        assert (drawn > root[t]).double().mean().item() == pytest.approx(t / 2000, abs=0.01)


def test_a_shared_t_gives_the_batch_one_interval():
    drawn = TRAINING.draw(KeyedNoise(3, range(64), "level"), shared=True)
    t = torch.searchsorted(-TRAINING.gamma.sqrt(), -drawn.double())
    assert len(t.unique()) == 1 and len(drawn.unique()) > 32


def test_bad_schedules_are_refused():
    with pytest.raises(ReproError, match="1 to 2000 steps"):
        TRAINING.levels(0)
