"""The sampler against exact oracles, the released code and DDIM; restoring and generating by number."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_ddpm_samplers import NET, NOISE, largest, theirs
from test_ddpm_samplers import START as X_T
from tiny import shaken
from torch import nn

from repro.ddpm import process as ddpm
from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm.oracles import sampler_moments
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import sample, spaced, start_noise
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.model import RDDMNet
from repro.rddm.process import RDDMSchedule, RDDMTraining, by_config, target
from repro.rddm.samplers import Net, Sampler, matched, times
from repro.rddm.study import measure
from repro.rddm.study.experiments import SMALL as TASKS
from repro.rddm.study.experiments import learning_of

SCHEDULE = by_config(40)
SMALL = by_config(40, "average", "level", sum_scale=0.04)
X0 = NOISE.normal((1, 4, 4), 1).double().clamp(-1, 1)
Y = NOISE.normal((1, 4, 4), 2).double().clamp(-1, 1)
Z = NOISE.normal((1, 4, 4), 3).double()
START = process.start(Y, Z, SCHEDULE)
ALL = ("res", "noise", "res_noise")
RULES = ("eq12", "compose", "rederive")


def close(found, wanted, atol=1e-9):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def perfect(schedule, objective, x0=X0, y=Y):
    """The network that knows the image: everything else follows from the state."""

    def model(x, t):
        u, s = schedule.at(t, x)
        return target((y - x0).expand_as(x), (x - x0 - u * (y - x0)) / s, objective)

    return model


@given(T=st.integers(1, 1500), data=st.data())
def test_times_are_the_published_ones(T, data):
    steps = data.draw(st.integers(1, T))
    ts = times(T, steps)
    assert len(ts) == steps and ts[0] == T - 1 and ts[-1] >= 0 and all(a > b for a, b in pairwise(ts))
    wanted = [int(v) for v in torch.linspace(-1, T - 1, steps + 1, dtype=torch.float64).add(1e-9).tolist()]
    assert ts[::-1] == wanted[1:]
    assert times(1000, 5) == [999, 799, 599, 399, 199] and times(1000, 5, start=900) == [900, 719, 539, 359, 179]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("objective", ALL)
def test_a_perfect_network_recovers_the_image(objective, rule):
    """For SM-N from t < T, where its output can be read; the start is the true state at that t."""
    for schedule in (SCHEDULE, SMALL):
        for steps in (1, 3, 39):
            x = process.q_sample(X0, Y - X0, schedule.T - 2, Z, schedule)
            run = Sampler(schedule, objective, rule=rule).run
            states = list(run(perfect(schedule, objective), x, Y, times(40, steps, schedule.T - 2)))
            assert len(states) == steps and states[-1].t_prev == -1
            for step in states:
                for found, wanted in ((step.x0, X0), (step.r, Y - X0), (step.eps, Z)):
                    close(found, wanted)
                there = process.q_sample(X0, Y - X0, step.t_prev, Z, schedule) if step.t_prev >= 0 else X0
                close(step.x, there)
    if objective != "noise":  # from the degraded image
        close(sample(Sampler(SCHEDULE, objective, rule=rule).run(perfect(SCHEDULE, objective), START, Y, 5)), X0)


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_marginals_are_those_of_the_forward_process(objective, eta):
    """Exactly, no Monte Carlo: the sampler's map is affine, and mean and covariance of every state are q's."""
    end, x0, y = SCHEDULE.T - 2, X0[:1, :, :2, :2], Y[:1, :, :2, :2]
    u, s = SCHEDULE.levels(end)

    def run(x, noise):
        x = x0 + u * (y - x0) + s * x  # the true distribution at the start
        sampler = Sampler(SCHEDULE, objective, eta, clip=None)
        return sampler.run(perfect(SCHEDULE, objective, x0, y), x, y.expand_as(x), times(40, 8, end), noise)

    found = sampler_moments(run, (1, 2, 2), draws=8)
    assert len(found) == 8
    for t, mean, covariance in found:
        u_t, s_t = SCHEDULE.levels(t)
        close(mean, (x0 + u_t * (y - x0)).flatten())
        close(covariance, s_t**2 * torch.eye(4).double())


def wave(*shape, k=0.0):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * i + 0.0021 * i * i + k).float().reshape(shape)


RES = (-1.0, -0.13702), (-0.950998, -0.030366), (-0.785731, 0.01727), (-0.499598, 0.104142)
RELEASED = {  # at 2, 5, 10 and 1000 steps: a pixel (where it is not cut off), and the deviation
    "res": [*RES, 0.503246, 0.495082, 0.443459, 0.350723],
    "noise": [(-1.0, 1.0)] * 4 + [0.914493, 0.877932, 0.862965, 0.836790],
    "res_noise": [(-1.0, 1.0)] * 4 + [0.831071, 0.804804, 0.794819, 0.784486],
}


@pytest.mark.parametrize("objective", RELEASED)
def test_draws_what_the_released_code_draws(objective):
    """The numbers are the released code's, of experiment 2, with this network."""
    y, schedule = 0.9 * wave(1, 3, 4, 4, k=2), by_config(1000)

    def model(x, t):
        tau = (t.float() / 1000)[:, None, None, None]
        return target(torch.tanh(0.7 * y - 0.4 * x + tau), 1.1 * torch.sin(1.3 * x - 0.5 * y + 2 * tau), objective)

    x = process.start(y, 1.3 * wave(1, 3, 4, 4, k=3), schedule)
    for i, steps in enumerate((2, 5, 10, 1000)):
        found = sample(Sampler(schedule, objective, clip=1.0).run(model, x, y, steps))
        close(found[0, 1:, 1, 2], torch.tensor(RELEASED[objective][i]), 3e-6)
        assert found.std().item() == pytest.approx(RELEASED[objective][4 + i], abs=3e-6)


LINEAR = ddpm.linear()
CONVERTED = RDDMSchedule.from_ddpm(LINEAR)


def ddim(model, steps, clip, use_clipped=False, eta=0.0, prediction="epsilon", schedule=LINEAR):
    step = {"eta": eta, "use_clipped_model_output": use_clipped}
    return theirs(model, schedule, "ddim", steps, step=step, clip_sample=clip, prediction_type=prediction)[0]


def ours(model, steps, clip, rule="eq12", objective="noise", schedule=CONVERTED, eta=0.0):
    sampler = Sampler(schedule, objective, eta, 2.0 if clip else None, rule)
    return list(sampler.run(model, X_T, 0 * X_T, spaced(schedule.T, steps), NOISE))


@pytest.mark.parametrize("rule", RULES)
def test_unclipped_RDDM_is_DDIM(rule):
    for steps in (1, 10, 100):
        assert largest(ours(NET, steps, False, rule), ddim(NET, steps, False)) < 1e-10
    for schedule in (ddpm.cosine(50), ddpm.scaled_linear()):
        converted = RDDMSchedule.from_ddpm(schedule)
        wanted = ddim(NET, 25, False, schedule=schedule)
        assert largest(ours(NET, 25, False, rule, schedule=converted), wanted) < 1e-9
    if rule == "eq12":  # with noise added they part: RDDM's variance is alpha_bar times DDIM's
        assert largest(ours(NET, 20, False, eta=1.0), ddim(NET, 20, False, eta=1.0)) > 0.05
        ab, (t, s) = LINEAR.alpha_bar, (499, 399)
        variance = (1 - ab[s]) / (1 - ab[t]) * (1 - ab[t] / ab[s])
        for eta in (0.3, 1.0):
            wanted = pytest.approx(eta * (ab[s] * variance).item(), rel=1e-7)
            assert Sampler(CONVERTED, "noise", eta).variance(t, s) == wanted


def test_clipped_rules_are_two_different_DDIMs_and_the_published_step_is_neither():
    default, rederived = (ddim(NET, 20, True, use) for use in (False, True))
    for rule, first, second in (("compose", True, False), ("rederive", False, True), ("eq12", False, False)):
        found = ours(NET, 20, True, rule)
        for equal, other in ((first, default), (second, rederived)):
            assert largest(found, other) < 1e-10 if equal else largest(found, other) > 0.05
    strong = lambda x, t: 3 * NET(x, t)  # noqa: E731 — beyond ±2 as well
    negative = lambda x, t: -strong(x, t)  # noqa: E731 — with y = 0 the residual is the image's negative
    for clip, rule, use in ((True, "compose", False), (True, "rederive", True), (False, "compose", False)):
        wanted = ddim(strong, 20, clip, use, prediction="sample")
        assert largest(ours(negative, 20, clip, rule, "res"), wanted) < 1e-9


def test_a_perfect_network_of_one_schedule_is_one_of_another():
    """Matched, it says what the other schedule's own perfect network says, up to the rounding of its time."""

    def ideal(schedule):  # noise predictor of images N(0.3, 0.5^2), in closed form
        def model(x, t):
            u, s = schedule.at(t, x)
            share = 1 - u
            image = 0.3 + share * 0.25 / (share**2 * 0.25 + s**2) * (x - 0.3 * share)
            return (x - share * image) / s

        return model

    own = by_config()
    model, wanted = matched(ideal(own), own, CONVERTED), ideal(CONVERTED)
    for t in (0, 5, 100, 500, 900, 999):
        u, s = CONVERTED.levels(t)
        x, when = 0.3 * (1 - u) + (0.25 * (1 - u) ** 2 + s**2) ** 0.5 * X_T, torch.full((3,), t)
        close(model(x, when), wanted(x, when), 0.1 if t < 10 else 0.01)
        assert not 10 < t < 999 or (ideal(own)(x, when) - wanted(x, when)).abs().max() > 0.1
    assert largest(ours(model, 20, False), [step.x for step in ours(wanted, 20, False)]) < 0.02


LOWLIGHT, FASHION = TASKS["lowlight"], TASKS["fashion"]
IDS = ["a", "b", "c"]
CLEAN = KeyedNoise(0, IDS, "test/clean").uniform((3, 16, 12)).mul(2).sub(1).double()
DARK = KeyedNoise(0, IDS, "test/degraded").uniform((3, 16, 12)).mul(2).sub(1).double()
ORIGIN = start_noise(IDS, (3, 16, 12)).double()


class Knowing(nn.Module):
    """Knows the clean images, and finds the noise in any state; every output is off by `wrong`."""

    def __init__(self, learning: RDDMTraining, clean: torch.Tensor = CLEAN, wrong: float = 0.0) -> None:
        super().__init__()
        self.learning, self.clean, self.wrong, self.calls = learning, clean, wrong, []

    def forward(self, x, t, cond=None):
        self.calls.append((x, t, cond))
        if self.learning.start == "none":
            return SimpleNamespace(sample=cond - self.clean + self.wrong)
        origin = cond if cond is not None and self.learning.start == "degraded" else torch.zeros_like(x)
        known = perfect(self.learning.schedule, self.learning.objective, self.clean, origin)
        return SimpleNamespace(sample=known(x, t) + self.wrong)


def knowing(variant: str) -> Net:
    learning = learning_of(LOWLIGHT, variant)
    return Net(Knowing(learning), learning, 2)


def net(variant="smres", task=LOWLIGHT, steps=3, **kwargs) -> Net:
    """Untrained, with every weight away from zero; its outputs leave [-1, 1]."""
    learning = learning_of(task, variant)
    found = RDDMNet(learning.objective, base_channels=8, channel_mults=(1, 1), blocks=1, patch=2, **kwargs)
    return Net(shaken(found, 0.3), learning, steps)


@pytest.mark.parametrize("variant", ["smres", "smresn", "quiet", "sr3"])
def test_a_perfect_network_restores_exactly(variant):
    for steps in (1, 2, 20):
        known = knowing(variant)
        close(known.restore(DARK, IDS, steps), CLEAN)
        assert len(known.network.calls) == steps
        assert all(torch.equal(cond, DARK) for _, _, cond in known.network.calls)


def test_perfect_noise_restores_from_an_early_start_and_not_from_the_end():
    for start in measure.STARTS:
        known = knowing("smn")
        close(known.restore(DARK, IDS, start=start), CLEAN, 1e-8)
        x, t, _ = known.network.calls[0]
        assert (t == start).all()
        close(x, DARK + known.learning.schedule.s[start] * ORIGIN)
    # as published: divided by 1e-6, whatever the network says is ±1 in every pixel
    one = net("smn")
    first = next(iter(Net(one.network.double(), one.learning, 2).trajectory(DARK, IDS)))
    assert first.t == 999 and (first.x0.abs() > 0.99).float().mean() > 0.99


def test_sr3_is_notebook_01s_DDIM_conditioned_on_the_image():
    """diffusers' DDIM: the network's noise kept beside the cut image, and the times of "trailing" spacing."""
    one = net("sr3")
    model, x_T = model_fn(one.network.double(), cond=DARK), ORIGIN * one.learning.schedule.s[-1]
    for steps in (5, 20):
        run = ddpm_samplers.ddim(model, x_T, LINEAR, spaced(1000, steps, "trailing"), eps_from_clipped=False)
        close(one.restore(DARK, IDS, steps), sample(run).clamp(-1, 1))


def test_regression_is_one_pass():
    known = knowing("regression")
    close(known.restore(DARK, IDS, 7), CLEAN)
    ((x, t, cond),) = known.network.calls
    assert x is cond is DARK and (t == 999).all()
    with pytest.raises(ReproError, match="a regression network has no trajectory"):
        known.trajectory(DARK, IDS)


@pytest.mark.parametrize("variant", ["smres", "smn", "smresn", "sr3", "regression"])
def test_an_image_depends_on_its_name_and_seed_and_not_on_its_batch(variant):
    one, eta = net(variant), {} if variant == "regression" else {"eta": 1.0}
    one.network.double()
    whole = one.restore(DARK, IDS, **eta)
    assert whole.min() >= -1 and whole.max() <= 1
    for i, name in enumerate(IDS):
        close(one.restore(DARK[i : i + 1], [name], **eta)[0], whole[i], 1e-8)
    if variant != "regression":
        assert not torch.allclose(whole, one.restore(DARK, IDS, seed=1, **eta))
        assert not torch.allclose(whole, one.restore(DARK, IDS[::-1], **eta))


def test_generation_by_number():
    one, common = net("smres", FASHION, channels=1, condition=False), {"shape": (1, 12, 12), "eta": 1.0}
    found, whole = one.generate(range(4, 9), batch=2, **common), one.generate(range(10), **common)
    assert found.shape == (5, 1, 12, 12) and found.min() >= -1 and found.max() <= 1
    close(found, whole[4:9], 1e-4)
    assert not torch.allclose(whole[0], whole[1])
    # restoration of nothing, with a network that gets no condition
    clean = torch.linspace(-1, 1, 144).reshape(1, 1, 12, 12)
    known = Knowing(one.learning, clean)
    close(Net(known, one.learning, 4).generate([7], shape=(1, 12, 12)), clean, 1e-4)
    x, t, cond = known.calls[0]
    assert cond is None and (t == 999).all() and torch.equal(x, start_noise([7], (1, 12, 12)))
