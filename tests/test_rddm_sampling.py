"""Restoring and generating by number: perfect networks, notebook 01's DDIM for SR3, no batch in the result."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm.process import model_fn
from repro.ddpm.schedules import linear
from repro.engine import grid
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.model import RDDMNet
from repro.rddm.objectives import target
from repro.rddm.samplers import Clip, sample
from repro.rddm.sampling import generate, restore, start_noise, trajectory
from repro.rddm.study import measure
from repro.rddm.study.config import SMALL
from repro.rddm.study.experiments import learning_of
from repro.rddm.tasks import Learning

LOWLIGHT, FASHION = SMALL.tasks["lowlight"], SMALL.tasks["fashion"]
IDS = ["a", "b", "c"]
I_0 = KeyedNoise(0, IDS, "test/clean").uniform((3, 16, 12)).mul(2).sub(1).double()
I_IN = KeyedNoise(0, IDS, "test/degraded").uniform((3, 16, 12)).mul(2).sub(1).double()


class Knowing(nn.Module):
    """Knows the clean picture, and finds the noise in any state."""

    def __init__(self, learning: Learning, clean: torch.Tensor = I_0) -> None:
        super().__init__()
        self.learning, self.clean, self.calls = learning, clean, []

    def forward(self, x, t, cond=None):
        self.calls.append((x, t, cond))
        if self.learning.start == "none":
            return SimpleNamespace(sample=cond - self.clean)
        origin = cond if cond is not None and self.learning.start == "degraded" else torch.zeros_like(x)
        eps = process.eps_from_I0(x, origin, self.clean, *self.learning.schedule.at(t, x))
        return SimpleNamespace(sample=target(origin - self.clean, eps, self.learning.objective))


def net(objective="res", scale: float = 0.3, **kwargs) -> RDDMNet:
    """Untrained, with every weight away from zero; its answers leave [-1, 1]."""
    found = RDDMNet(objective, base_channels=8, channel_mults=(1, 1), blocks=1, patch=2, **kwargs)
    generator = torch.Generator().manual_seed(0)
    for p in found.parameters():
        p.data = scale * torch.randn(p.shape, generator=generator)
    return found.eval()


# -- restoration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("variant", ["smres", "smresn", "quiet", "sr3"])
def test_a_perfect_network_restores_exactly(variant, steps):
    learning = learning_of(LOWLIGHT, variant)
    knowing = Knowing(learning)
    found = restore(knowing, I_IN, IDS, learning, steps)
    torch.testing.assert_close(found, I_0, rtol=0, atol=1e-9)
    assert len(knowing.calls) == steps and all(torch.equal(cond, I_IN) for _, _, cond in knowing.calls)


@pytest.mark.parametrize("start", measure.STARTS)
def test_perfect_noise_restores_from_an_early_start(start):
    learning = learning_of(LOWLIGHT, "smn")
    knowing = Knowing(learning)
    found = restore(knowing, I_IN, IDS, learning, 2, start=start)
    torch.testing.assert_close(found, I_0, rtol=0, atol=1e-8)
    x, t, _ = knowing.calls[0]
    assert (t == start).all()
    wanted = I_IN + learning.schedule.bbar[start] * start_noise(IDS, (3, 16, 12)).double()
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-12)


def test_noise_alone_says_nothing_at_the_end():
    """As published: divided by 1e-6, whatever the network says is ±1 in every pixel; elsewhere it is refused."""
    learning = learning_of(LOWLIGHT, "smn")
    first = next(iter(trajectory(net("noise").double(), I_IN, IDS, learning, 2)))
    assert first.t == 999 and (first.x0.abs() > 0.99).float().mean() > 0.99
    with pytest.raises(ReproError, match="SM-N cannot read its network at t=999"):
        restore(Knowing(learning), I_IN, IDS, learning, 2, at_end="refuse")


def test_SM_Res_knows_the_noise_only_by_its_ratios():
    """One network started from quieter noise, or sampled on the schedule of quieter noise: the same pictures."""
    network, loud, quiet = net().double(), learning_of(LOWLIGHT, "smres"), learning_of(LOWLIGHT, "quiet")
    found = restore(network, I_IN, IDS, loud, 3, sum_scale=0.01)
    torch.testing.assert_close(found, restore(network, I_IN, IDS, quiet, 3), rtol=0, atol=1e-9)
    assert not torch.allclose(found, restore(network, I_IN, IDS, loud, 3))


def test_one_head_of_two_is_sampled_as_its_strategy():
    both, noise = learning_of(LOWLIGHT, "smresn"), learning_of(LOWLIGHT, "smn")
    network = net("res_noise").double()

    class Head(nn.Module):
        def __init__(self, part: slice) -> None:
            super().__init__()
            self.part = part

        def forward(self, x, t, cond):
            return SimpleNamespace(sample=network(x, t, cond).sample[:, self.part])

    residual = Learning("res", both.schedule, "l1")
    found = restore(network, I_IN, IDS, both, 3, sample_as="res")
    assert torch.equal(found, restore(Head(slice(0, 3)), I_IN, IDS, residual, 3))
    for more in ({}, {"start": 800}):
        found = restore(network, I_IN, IDS, both, 3, sample_as="noise", **more)
        assert torch.equal(found, restore(Head(slice(3, 6)), I_IN, IDS, noise, 3, **more))


def test_every_switch_of_the_task_runs_and_changes_the_picture():
    for variant, objective in (("smres", "res"), ("smn", "noise"), ("smresn", "res_noise")):
        learning, network = learning_of(LOWLIGHT, variant), net(objective)
        usual = restore(network, I_IN.float(), IDS, learning, LOWLIGHT.steps)
        name = f"rddm-lowlight-{variant}-s0"
        cells = [c for e, c in grid.cells(grid.load("rddm")) if e == name and c["task"] == "lowlight-switch"]
        assert len(cells) == {"smres": 2, "smn": 5, "smresn": 5}[variant]
        for cell in cells:
            _, _, settings = measure._switched(network, learning, cell)
            found = restore(network, I_IN.float(), IDS, learning, cell["steps"], **settings)
            assert found.isfinite().all() and not torch.equal(found, usual), cell


def test_sr3_is_notebook_01s_DDIM_with_the_picture_shown():
    """diffusers' DDIM: the network's noise kept beside the cut picture, and the times of "trailing" spacing."""
    learning, network = learning_of(LOWLIGHT, "sr3"), net("noise").double()
    x_T = start_noise(IDS, (3, 16, 12)).double() * learning.schedule.bbar[-1]
    for steps in (5, 20):
        run = ddpm_samplers.ddim(
            model_fn(network, cond=I_IN), x_T, linear(), steps, spacing="trailing", eps_from_clipped=False
        )
        found = restore(network, I_IN, IDS, learning, steps)
        torch.testing.assert_close(found, ddpm_samplers.sample(run).clamp(-1, 1), rtol=0, atol=1e-9)
        assert (found.abs() < 1).any()


def test_regression_is_one_pass():
    learning = learning_of(LOWLIGHT, "regression")
    knowing = Knowing(learning)
    for steps in (1, 7):
        torch.testing.assert_close(restore(knowing, I_IN, IDS, learning, steps), I_0, rtol=0, atol=1e-12)
    assert len(knowing.calls) == 2
    x, t, cond = knowing.calls[0]
    assert x is cond is I_IN and (t == 999).all()
    with pytest.raises(ReproError, match="a regression network has no trajectory"):
        trajectory(knowing, I_IN, IDS, learning, 2)


@pytest.mark.parametrize("variant", ["smres", "smn", "smresn", "sr3", "regression"])
def test_a_picture_does_not_know_its_batch(variant):
    learning = learning_of(LOWLIGHT, variant)
    network = net(learning.objective).double()
    eta = {} if variant == "regression" else {"eta": 1.0}
    whole = restore(network, I_IN, IDS, learning, 3, **eta)
    assert whole.min() >= -1 and whole.max() <= 1
    for i, name in enumerate(IDS):
        alone = restore(network, I_IN[i : i + 1], [name], learning, 3, **eta)
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=1e-8)


def test_seed_and_name_key_the_noise():
    learning, network = learning_of(LOWLIGHT, "smresn"), net("res_noise")
    same = I_IN[:1].float().expand(3, -1, -1, -1)
    found = restore(network, same, IDS, learning, 3)
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[1], found[2])
    assert torch.equal(found, restore(network, same, IDS, learning, 3))
    assert not torch.allclose(found, restore(network, same, IDS, learning, 3, seed=1))
    assert not torch.allclose(found, restore(network, same, IDS, learning, 3, eta=1.0))


def test_the_start_has_the_noise_of_the_first_timestep():
    learning, knowing = learning_of(LOWLIGHT, "smres"), Knowing(learning_of(LOWLIGHT, "smres"))
    z = start_noise(IDS, (3, 16, 12)).double()
    cases = [
        ({"steps": 2}, 1.0),
        ({"steps": 2, "start": 500}, learning.schedule.bbar[500].item()),
        ({"steps": None, "timesteps": [400, 100]}, learning.schedule.bbar[400].item()),
        ({"steps": 2, "sum_scale": 0.01}, 0.1),
    ]
    for settings, level in cases:
        first = next(iter(trajectory(knowing, I_IN, IDS, learning, **settings)))
        torch.testing.assert_close(first.x_t, I_IN + level * z, rtol=0, atol=1e-9)


# -- generation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["smres", "smn", "smresn"])
def test_generation_by_number(variant):
    learning = learning_of(FASHION, variant)
    network = net(learning.objective, channels=1, condition=False)
    found = generate(network, learning, range(4, 9), 3, (1, 12, 12), batch=2, eta=1.0)
    assert found.shape == (5, 1, 12, 12) and found.min() >= -1 and found.max() <= 1
    whole = generate(network, learning, range(10), 3, (1, 12, 12), eta=1.0)
    torch.testing.assert_close(found, whole[4:9], rtol=0, atol=1e-4)
    assert not torch.allclose(whole[0], whole[1])
    assert not torch.equal(whole, generate(network, learning, range(10), 3, (1, 12, 12), eta=1.0, seed=1))


def test_generation_is_restoration_of_nothing():
    learning = learning_of(FASHION, "smres")
    clean = torch.linspace(-1, 1, 144).reshape(1, 1, 12, 12)
    knowing = Knowing(learning, clean)
    found = generate(knowing, learning, [7], 4, (1, 12, 12))
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-4)
    x, t, cond = knowing.calls[0]
    assert cond is None and (t == 999).all()
    assert torch.equal(x, start_noise([7], (1, 12, 12)))
    generate(knowing, learning, [7], 4, (1, 12, 12), start=700)
    x, t, _ = knowing.calls[4]
    torch.testing.assert_close(x, start_noise([7], (1, 12, 12)) * learning.schedule.bbar[700].float())
    assert (t == 700).all()


def test_a_restoration_network_is_not_taken_for_a_generator():
    with pytest.raises(ReproError, match="the network was built with I_in as condition"):
        generate(net(), learning_of(FASHION, "smres"), [0], 1, (3, 12, 12))
    with pytest.raises(ReproError, match="the network was built without condition"):
        restore(net(condition=False), I_IN.float(), IDS, learning_of(LOWLIGHT, "smres"), 1)


def test_clipping_is_at_two_unless_said():
    """White from black: a residual of -2, which the published ±1 halves."""
    learning = learning_of(LOWLIGHT, "smres")
    black, white = torch.full((1, 3, 8, 8), -1.0), torch.ones(1, 3, 8, 8)
    knowing = Knowing(learning, white)
    torch.testing.assert_close(restore(knowing, black, ["x"], learning, 1), white)
    cut = restore(knowing, black, ["x"], learning, 1, clip=Clip(True, 1.0))
    torch.testing.assert_close(cut, torch.zeros_like(white), rtol=0, atol=1e-6)
    assert sample(trajectory(knowing, black, ["x"], learning, 1)).shape == white.shape
