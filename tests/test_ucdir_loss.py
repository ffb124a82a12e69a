"""What is learned: the loss by hand, samples that do not depend on their batch, gradients that teach."""

import pytest
import torch
from test_ucdir_network import tiny
from torch.nn import functional as F

from repro.data import crops
from repro.engine.recipe import Recipe
from repro.engine.rng import KeyedNoise
from repro.engine.train import train
from repro.errors import ReproError
from repro.metrics.lpips import lpips
from repro.ucdir.loss import Learning, RestorationTask, training_loss
from repro.ucdir.noise import TRAINING

PICTURES = [KeyedNoise(0, [i], "photo").uniform((3, 20 + i, 24))[0] for i in range(5)]


def noisier(images, noise):
    strength = noise("degrade/settings").uniform(())
    grain = noise("degrade/sensor").normal(tuple(images.shape[1:]))
    return (images + strength[:, None, None, None] * grain).clamp(0, 1), strength


def cut(indices, crop, draw):
    return crops.cut([PICTURES[i] for i in indices.tolist()], crop, draw), None


def task(**learning):
    return RestorationTask([f"photo {i}" for i in range(5)], cut, 16, Learning(**learning), noisier, scalars=True)


def noises(places):
    return lambda purpose: KeyedNoise(1, places, purpose)


def test_the_loss_is_the_mean_absolute_error_of_the_noise():
    model, places = tiny(), list(range(4))
    clean = KeyedNoise(0, places, "clean").uniform((3, 16, 16)) * 2 - 1
    found = training_loss(model, clean * 0.5, clean, noises(places), Learning(pixel=0.5))
    eps = noises(places)("noise").normal((3, 16, 16))
    level = TRAINING.draw(noises(places)("level"))
    made, initial = model(clean * 0.5, clean, level, eps)
    by_hand = (made - eps).abs().mean(dim=(1, 2, 3)) + 0.5 * (initial - clean).abs().mean(dim=(1, 2, 3))
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_the_perceptual_term_is_lpips_of_a_quarter_of_the_first_estimates():
    model, places = tiny(), list(range(8))
    clean = KeyedNoise(0, places, "clean").uniform((3, 32, 32)) * 2 - 1
    degraded = clean * 0.5
    plain, found = (training_loss(model, degraded, clean, noises(places), Learning(perceptual=w)) for w in (0, 0.3))
    down, right = noises(places)("corner").integers(0, 4, (2,))[0].tolist()
    images = ((x[:2].clamp(-1, 1) + 1) / 2 for x in (model.predictor(degraded), clean))
    pair = (F.pad(x, (right, 0, down, 0), mode="reflect") for x in images)
    assert torch.allclose((found - plain)[:2], 4 * 0.3 * lpips(*pair).float(), rtol=1e-4)
    assert torch.equal(found[2:], plain[2:])


def test_regression_learns_the_clean_image():
    model = tiny()
    clean = KeyedNoise(0, [0, 1], "clean").uniform((3, 16, 16)) * 2 - 1
    found = training_loss(model, clean * 0.5, clean, noises([0, 1]), Learning("regression"))
    assert torch.allclose(found, (model(clean * 0.5)[0] - clean).abs().mean(dim=(1, 2, 3)), atol=1e-6)


def test_a_sample_does_not_depend_on_its_batch():
    made = task()
    places = list(range(100, 112))
    together = made.pair(torch.arange(12) % 5, noises(places))
    for i in range(12):
        alone = made.pair(torch.tensor([i % 5]), noises(places[i : i + 1]))
        assert all(torch.equal(a[i : i + 1], b) for a, b in zip(together, alone, strict=True))


def test_hidden_strengths_are_those_of_the_share_asked_for():
    given = []

    def network(degraded, clean, level, eps, detach, task, strength):
        given.append(strength)
        return eps, degraded

    task(hidden=0.5).loss(network, torch.zeros(400, dtype=torch.long), noises(list(range(400))))
    assert 0.4 < given[0].isnan().float().mean() < 0.6


def test_training_lowers_the_loss():
    recipe = Recipe(images=2_000, batch=8, lr=3e-3, ema=200, precision="fp32")
    losses = [s.loss for s in train(tiny(tasks=("a",)), task(), recipe, seed=0)]
    assert sum(losses[-25:]) < 0.85 * sum(losses[:25])


def test_losses_that_cannot_work_are_refused():
    with pytest.raises(ReproError, match="a detached predictor learns nothing without a pixel loss"):
        Learning(detach=True)
