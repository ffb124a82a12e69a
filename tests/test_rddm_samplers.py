"""The sampler against exact oracles, the released code and DDIM; restoring and generating by number."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm import schedules as ddpm
from repro.ddpm.oracles import GaussianData, sampler_moments
from repro.ddpm.process import model_fn
from repro.engine import grid
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process, transform
from repro.rddm.model import RDDMNet
from repro.rddm.process import target
from repro.rddm.samplers import NO_CLIP, PUBLISHED_CLIP, Clip, last, reverse, sample, sigma2, times
from repro.rddm.sampling import generate, restore, start_noise, trajectory
from repro.rddm.schedules import RDDMSchedule, by_config, indi
from repro.rddm.study import measure
from repro.rddm.study.experiments import SMALL as TASKS
from repro.rddm.study.experiments import learning_of
from repro.rddm.tasks import Learning

SCHEDULE = by_config(40)
SMALL = by_config(40, "average", "normal", sum_scale=0.04)
NOISE = KeyedNoise(0, range(3), "noise")
I_0 = NOISE.normal((1, 4, 4), 1).double().clamp(-1, 1)
I_IN = NOISE.normal((1, 4, 4), 2).double().clamp(-1, 1)
I_RES = I_IN - I_0
Z = NOISE.normal((1, 4, 4), 3).double()
ALL = ("res", "noise", "res_noise")


def close(found, wanted, atol=1e-9):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def perfect(schedule, objective, I_0=I_0, I_in=I_IN):
    """The network that knows the image: everything else follows from the state."""

    def model(x, t):
        abar, bbar = schedule.at(t, x)
        return target((I_in - I_0).expand_as(x), (x - I_0 - abar * (I_in - I_0)) / bbar, objective)

    return model


class Net(nn.Module):
    """A small nonlinear network of x and t; its outputs leave every range that is clipped."""

    def __init__(self, heads: int = 1, scale: float = 1.5, channels: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.second, self.scale = nn.Conv2d(8, heads * channels, 3, padding=1), scale
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator)
        self.double()

    def forward(self, x, t):
        return self.scale * torch.tanh(self.second(torch.sin(self.first(x) + (t / 8).to(x.dtype)[:, None, None, None])))


START = process.start(I_IN, Z, SCHEDULE)


# -- oracles ----------------------------------------------------------------------------------------------------------


@given(T=st.integers(1, 1500), data=st.data())
def test_times_are_the_published_ones(T, data):
    steps = data.draw(st.integers(1, T))
    ts = times(T, steps)
    assert len(ts) == steps and ts[0] == T - 1 and ts[-1] >= 0 and all(a > b for a, b in pairwise(ts))
    grid = [int(v) for v in torch.linspace(-1, T - 1, steps + 1, dtype=torch.float64).add(1e-9).tolist()]
    assert ts[::-1] == grid[1:]
    assert times(1000, 5) == [999, 799, 599, 399, 199] and times(1000, 5, start=900) == [900, 719, 539, 359, 179]


@pytest.mark.parametrize("rule", ["eq12", "compose", "rederive"])
@pytest.mark.parametrize("objective", ALL)
def test_a_perfect_network_recovers_the_image(objective, rule):
    """For SM-N from t < T, where its output can be read; the start is the true state at that t."""
    for schedule in (SCHEDULE, SMALL):
        for steps in (1, 3, 39):
            start = schedule.T - 2
            x = process.q_sample(I_0, I_RES, start, Z, schedule)
            model = perfect(schedule, objective)
            states = list(reverse(model, x, I_IN, schedule, steps, objective=objective, start=start, rule=rule))
            assert len(states) == steps and states[-1].t_prev == -1
            for step in states:
                for found, wanted in ((step.x0, I_0), (step.res, I_RES), (step.eps, Z)):
                    close(found, wanted)
                there = process.q_sample(I_0, I_RES, step.t_prev, Z, schedule) if step.t_prev >= 0 else I_0
                close(step.x, there)
    if objective != "noise":  # from the degraded image; and generation is restoration of nothing
        close(sample(reverse(perfect(SCHEDULE, objective), START, I_IN, SCHEDULE, 5, objective=objective)), I_0)
        zeros = torch.zeros_like(I_0)
        model, x = perfect(SCHEDULE, objective, I_in=zeros), process.start(zeros, Z, SCHEDULE)
        found = last(reverse(model, x, zeros, SCHEDULE, 4, objective=objective, rule=rule))
        close(found.x, I_0)
        close(found.res, -I_0)


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_marginals_are_those_of_the_forward_process(objective, eta):
    """Exactly, no Monte Carlo: the sampler's map is affine, and mean and covariance of every I_s are q's."""
    shape, end = (1, 2, 2), SCHEDULE.T - 2
    known, given_ = I_0[:1, :, :2, :2], I_IN[:1, :, :2, :2]
    abar, bbar = SCHEDULE.levels(end)
    model = perfect(SCHEDULE, objective, known, given_)

    def run(x, noise):
        x = known + abar * (given_ - known) + bbar * x  # the true distribution at the start
        I_in, common = given_.expand_as(x), {"objective": objective, "start": end, "clip": NO_CLIP}
        return reverse(model, x, I_in, SCHEDULE, 8, eta=eta, noise=noise, **common)

    found = sampler_moments(run, shape, draws=8)
    assert len(found) == 8
    for s, mean, covariance in found:
        abar_s, bbar_s = SCHEDULE.levels(s)
        close(mean, (known + abar_s * (given_ - known)).flatten())
        close(covariance, bbar_s**2 * torch.eye(4).double())


def wave(*shape, k=0.0):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * i + 0.0021 * i * i + k).float().reshape(shape)


@pytest.mark.parametrize(
    ("objective", "steps", "pixels", "deviation"),
    [
        ("res", 2, (-1.0, -1.0, -0.13702), 0.503246),
        ("res", 10, (-0.79456, -0.785731, 0.01727), 0.443459),
        ("res", 1000, (-0.447996, -0.489191, 0.103986), 0.347142),
        ("noise", 2, (-1.0, -1.0, 1.0), 0.914493),
        ("noise", 10, (-1.0, -1.0, 1.0), 0.862965),
        ("noise", 1000, (-0.733259, -0.672008, -0.227061), 0.216122),
        ("res_noise", 2, (-1.0, -1.0, 1.0), 0.831071),
        ("res_noise", 10, (-1.0, -1.0, 1.0), 0.794819),
        ("res_noise", 1000, (-0.672593, -0.641055, 0.286427), 0.358575),
    ],
)
def test_draws_what_the_released_code_draws(objective, steps, pixels, deviation):
    """The numbers are the released code's, of experiment 2, with this network; 1000 steps take its other loop."""
    I_in, schedule = 0.9 * wave(1, 3, 4, 4, k=2), by_config(1000)

    def model(x, t):
        tau = (t.float() / 1000)[:, None, None, None]
        res = torch.tanh(0.7 * I_in - 0.4 * x + tau)
        return target(res, 1.1 * torch.sin(1.3 * x - 0.5 * I_in + 2 * tau), objective)

    x = process.start(I_in, 1.3 * wave(1, 3, 4, 4, k=3), schedule)
    settings = {"objective": objective, "clip": PUBLISHED_CLIP, "at_end": "published"}
    if steps == 1000:
        settings |= {"rule": "posterior", "eta": 1.0, "noise": lambda t, x: wave(1, 3, 4, 4, k=0.1 * t)}
    found = sample(reverse(model, x, I_in, schedule, steps, **settings))
    close(found[0, :, 1, 2], torch.tensor(pixels), 3e-6)
    assert found.std().item() == pytest.approx(deviation, abs=3e-6)


# -- rules and clipping -----------------------------------------------------------------------------------------------


def test_unclipped_rules_agree_and_reading_one_head_is_that_strategy():
    net, common = Net(heads=2), {"objective": "res_noise", "clip": NO_CLIP, "start": 38}
    for read_as in (None, "res", "noise"):
        runs = [
            [s.x for s in reverse(net, START, I_IN, SCHEDULE, 6, rule=rule, sample_as=read_as, **common)]
            for rule in ("eq12", "compose", "rederive")
        ]
        assert (
            max((a - b).abs().max().item() for other in runs[1:] for a, b in zip(runs[0], other, strict=True)) < 1e-10
        )
    for read_as, part in (("res", slice(0, 1)), ("noise", slice(1, 2))):
        one = sample(reverse(net, START, I_IN, SCHEDULE, 6, sample_as=read_as, **common))
        alone = {**common, "objective": read_as}
        two = sample(reverse(lambda x, t, part=part: net(x, t)[:, part], START, I_IN, SCHEDULE, 6, **alone))
        assert torch.equal(one, two)
    common = {"objective": "res_noise", "eta": 1.0, "noise": NOISE}
    for clip, equal in ((NO_CLIP, True), (Clip(), False)):  # the posterior rule is eta 1 without clipping, not with
        one, two = (
            sample(reverse(net, START, I_IN, SCHEDULE, clip=clip, rule=r, **common)) for r in ("eq12", "posterior")
        )
        assert ((one - two).abs().max() < 1e-10) == equal


@pytest.mark.parametrize("objective", ALL)
def test_what_each_rule_ties_together(objective):
    """ "rederive": all three add up to the state; exact rules: I_res = I_in - I_0 after every cut; no NaN anywhere."""
    net = Net(2 if objective == "res_noise" else 1, 4.0)
    for rule in ("eq12", "compose", "rederive"):
        common = {"objective": objective, "rule": rule, "clip": PUBLISHED_CLIP}
        step = next(reverse(net, START, I_IN, SCHEDULE, 3, start=30, **common))
        gap = (step.x0 + step.abar * step.res + step.bbar * step.eps - step.x_t).abs().max()
        assert rule != "rederive" or gap < 1e-10
        assert rule != "eq12" or gap > 1e-6
        if objective != "res_noise":
            assert ((step.res - (I_IN - step.x0)).abs().max() < 1e-12) == (rule != "eq12")
        for x in (START.float(), START):  # over all steps, index 0 and T - 1 included
            run = reverse(net.to(x.dtype), x, I_IN.to(x), SCHEDULE, eta=0.5, noise=NOISE, at_end="published", **common)
            for step in run:
                assert all(v.isfinite().all() and v.dtype == x.dtype for v in (step.x, step.x0, step.res, step.eps))
            assert step.t == 0


def test_the_cut_residual_and_its_noise():
    """SM-Res: Eq. 12 as released takes the noise of the cut residual, "compose" the network's own, as DDIM does; white
    from black has a residual of -2: cut to -1, one step brings the image to 0, grey."""
    net, x = Net(scale=4.0), process.q_sample(I_0, I_RES, 20, Z, SCHEDULE)
    raw = net(x, torch.full((3,), 20)).detach()
    for rule, used in (("eq12", raw.clamp(-1, 1)), ("compose", raw)):
        step = next(reverse(net, x, I_IN, SCHEDULE, 3, objective="res", clip=PUBLISHED_CLIP, rule=rule, start=20))
        close(step.eps, process.estimate(used, x, I_IN, 20, SCHEDULE, "res").eps)
    white, black = torch.ones_like(I_0), -torch.ones_like(I_0)
    model, x = perfect(SCHEDULE, "res", white, black), process.start(black, Z, SCHEDULE)
    for clip, wanted in ((PUBLISHED_CLIP, 0 * white), (Clip(), white), (Clip(residual=None), white)):
        close(next(reverse(model, x, black, SCHEDULE, 1, objective="res", clip=clip)).x, wanted)


def test_SM_N_published_starts_with_a_saturated_image():
    """Dividing by 1e-6 sends even a nearly perfect network's image to ±1: black or white in every pixel."""
    exact = perfect(SCHEDULE, "noise")
    nearly = lambda x, t: exact(x, t) + 1e-3 * torch.sign(I_0 - 0.01)  # noqa: E731
    first = next(reverse(nearly, START, I_IN, SCHEDULE, 5, objective="noise", at_end="published", clip=PUBLISHED_CLIP))
    assert (first.x0.abs() == 1).all()
    x = process.start(I_IN, Z, SCHEDULE, 34)  # the honest start: the image is what it is, within the start's bias
    honest = next(reverse(nearly, x, I_IN, SCHEDULE, 5, objective="noise", start=34))
    assert (honest.x0 - I_0).abs().mean() < 0.3 * (first.x0 - I_0).abs().mean()


@pytest.mark.parametrize("sum_scale", [1e-10, 0.09])
def test_SM_Res_is_InDI(sum_scale):
    """InDI: x_s = (s/t) x_t + (1 - s/t) F(x_t, t), F predicting the image, here F = I_in - I_res^theta.

    At any noise level above zero, however small; at zero Eq. 13 moves by the predicted residual instead.
    """
    schedule, net = indi(20, sum_scale), Net()
    for steps in (1, 4, 20):
        x, ts = process.start(I_IN, Z, schedule), [*times(20, steps), -1]
        ours = [s.x for s in reverse(net, x, I_IN, schedule, steps, objective="res", clip=NO_CLIP)]
        for i, found in enumerate(ours):
            t, s = (ts[i] + 1) / 20, (ts[i + 1] + 1) / 20
            x = s / t * x + (1 - s / t) * (I_IN - net(x, torch.full((3,), ts[i])))
            close(found, x)
    step = next(reverse(net, START, I_IN, SCHEDULE, 2, objective="res", clip=NO_CLIP))  # not on its own schedule
    r = SCHEDULE.levels(step.t_prev)[0]
    assert (step.x - (r * START + (1 - r) * step.x0)).abs().max() > 0.1
    silent = by_config(20, sum_scale=0.0)
    close(sample(reverse(lambda x, t: I_RES, I_IN, I_IN, silent, 3, objective="res")), I_0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 41}, r"1\.\.40 .*got 41"),
        ({"steps": 0}, "got 0"),
        ({"steps": 39, "start": 37}, r"1\.\.38 .*got 39"),
        ({"timesteps": [20, 20]}, "without repetition"),
        ({"timesteps": [40, 2]}, "at most 39"),
        ({"timesteps": [5], "steps": 1}, "either steps"),
        ({"start": 40}, "got start 40"),
        ({"eta": 0.5}, "pass noise="),
        ({"eta": 1.5, "noise": NOISE}, "got 1.5"),
        ({"rule": "ddim"}, "'ddim' is unknown"),
        ({"rule": "posterior"}, "eta 1 and a schedule with noise"),
        ({"objective": "x0"}, "'x0' is unknown"),
        ({"spacing": "log"}, "'log' is unknown"),
        ({"at_end": "fix"}, "'fix' is unknown"),
        ({"variance": "preserving", "eta": 0.5, "noise": NOISE}, "no DDPM counterpart"),
        ({"I_in": I_IN[:1]}, "must have the shape of the start"),
        ({"objective": "noise"}, r"SM-N cannot read its network at t=39.*start=38"),
        ({"objective": "noise", "at_end": "published", "clip": NO_CLIP}, "needs the picture clipped"),
        ({"objective": "noise", "schedule": by_config(20, sum_scale=0.0)}, "has none"),
    ],
)
def test_wrong_input_is_refused_before_the_network_is_called(settings, message):
    settings = {"objective": "res", "I_in": I_IN, "schedule": SCHEDULE} | settings
    with pytest.raises(ReproError, match=message):
        reverse(lambda x, t: pytest.fail("called"), I_IN, **settings)


# -- the transformation -----------------------------------------------------------------------------------------------

LINEAR = ddpm.linear()
CONVERTED = RDDMSchedule.from_ddpm(LINEAR)
X_T = KeyedNoise(0, range(3), "start").normal((2, 6, 6)).double()
NET = Net(channels=2)


@torch.no_grad()
def diffusers_ddim(model, steps, clip, use_clipped=False, eta=0.0, prediction="epsilon", schedule=LINEAR):
    """diffusers' own loop on our float64 table; the noise is ours, by timestep."""
    scheduler = ddpm.to_diffusers(schedule, "ddim", clip_sample=clip, prediction_type=prediction)
    scheduler.alphas_cumprod = schedule.alpha_bar
    scheduler.set_timesteps(steps)
    x, states = X_T, []
    for t in scheduler.timesteps:
        more = {
            "eta": eta,
            "variance_noise": NOISE(int(t), x) if eta else None,
            "use_clipped_model_output": use_clipped,
        }
        x = scheduler.step(model(x, t.expand(len(x))), t, x, **more).prev_sample
        states.append(x)
    return states


def ours(model, steps, clip, rule="eq12", objective="noise", schedule=CONVERTED, **kwargs):
    settings = {"clip": Clip() if clip else NO_CLIP, "rule": rule, "spacing": "leading", **kwargs}
    return [s.x for s in reverse(model, X_T, 0 * X_T, schedule, steps, objective=objective, **settings)]


def gap(one, two) -> float:
    """The largest difference, relative where states outgrow 1."""
    assert len(one) == len(two) and all(x.isfinite().all() for x in one)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("rule", ["eq12", "compose", "rederive"])
def test_unclipped_RDDM_is_DDIM(rule):
    for steps in (1, 10, 100):
        assert gap(ours(NET, steps, False, rule), diffusers_ddim(NET, steps, False)) < 1e-10
    for schedule in (ddpm.cosine(50), ddpm.scaled_linear()):
        converted = RDDMSchedule.from_ddpm(schedule)
        assert (
            gap(ours(NET, 25, False, rule, schedule=converted), diffusers_ddim(NET, 25, False, schedule=schedule))
            < 1e-9
        )


def test_clipped_rules_are_two_different_DDIMs_and_the_published_step_is_neither():
    default, rederived = (diffusers_ddim(NET, 20, True, use) for use in (False, True))
    for rule, first, second in (("compose", True, False), ("rederive", False, True), ("eq12", False, False)):
        found = ours(NET, 20, True, rule)
        for equal, other in ((first, default), (second, rederived)):
            assert gap(found, other) < 1e-10 if equal else gap(found, other) > 0.05
    # many steps with the exact denoiser of wide data (with the untrained network clipped DDIM is chaotic)
    data = GaussianData(torch.zeros(72), torch.eye(72).double(), LINEAR).model()
    for rule, use in (("compose", False), ("rederive", True)):
        assert gap(ours(data, 100, True, rule), diffusers_ddim(data, 100, True, use)) < 1e-10
    negative = lambda x, t: -NET(x, t)  # noqa: E731 — with I_in = 0 the residual is the image's negative
    for clip, rule, use in ((True, "compose", False), (True, "rederive", True), (False, "compose", False)):
        assert (
            gap(ours(negative, 20, clip, rule, "res"), diffusers_ddim(NET, 20, clip, use, prediction="sample")) < 1e-10
        )


def test_DDIMs_variance_gives_DDIM_and_RDDMs_does_not():
    for clip, rule in ((False, "eq12"), (True, "compose")):
        for eta in (0.4, 1.0):
            found = ours(NET, 20, clip, rule, eta=eta, noise=NOISE, variance="preserving")
            assert gap(found, diffusers_ddim(NET, 20, clip, eta=eta)) < 1e-10
    assert gap(ours(NET, 20, False, eta=1.0, noise=NOISE), diffusers_ddim(NET, 20, False, eta=1.0)) > 0.05
    for t, s in ((499, 399), (999, 0), (700, 699)):  # the ratio of the variances is alpha_bar
        ratio = sigma2(CONVERTED, t, s) / sigma2(CONVERTED, t, s, kind="preserving")
        assert ratio == pytest.approx(LINEAR.alpha_bar[s].item(), rel=1e-7)


def test_an_ordinary_DDPM_sampled_by_RDDMs_rule():
    with_variance_head = lambda x, t: torch.cat([NET(x, t), torch.full_like(x, 7.0)], 1)  # noqa: E731
    for rule, rederive in (("compose", False), ("rederive", True)):
        theirs = sample(ddpm_samplers.ddim(NET, X_T, LINEAR, 10, eps_from_clipped=rederive))
        close(sample(transform.ddpm_by_rddm(with_variance_head, X_T, LINEAR, 10, rule=rule)), theirs, 1e-10)


def test_a_perfect_network_of_one_schedule_is_one_of_another():
    """Matched, it says what the other schedule's own perfect network says, up to the rounding of its time."""

    def ideal(schedule):  # noise predictor of images N(0.3, 0.5^2), in closed form
        def model(x, t):
            abar, bbar = schedule.at(t, x)
            share = 1 - abar
            image = 0.3 + share * 0.25 / (share**2 * 0.25 + bbar**2) * (x - 0.3 * share)
            return (x - share * image) / bbar

        return model

    own = by_config()
    model, wanted = transform.matched(ideal(own), own, CONVERTED), ideal(CONVERTED)
    for t in (0, 5, 100, 500, 900, 999):
        abar, bbar = CONVERTED.levels(t)
        x, when = 0.3 * (1 - abar) + (0.25 * (1 - abar) ** 2 + bbar**2) ** 0.5 * X_T, torch.full((3,), t)
        close(model(x, when), wanted(x, when), 0.1 if t < 10 else 0.01)
        assert not 10 < t < 999 or (ideal(own)(x, when) - wanted(x, when)).abs().max() > 0.1
    assert gap(ours(model, 20, False), ours(wanted, 20, False)) < 0.02
    with pytest.raises(ReproError, match="has no noise"):
        transform.matched(NET, by_config(sum_scale=0.0), CONVERTED)


# -- by number --------------------------------------------------------------------------------------------------------

LOWLIGHT, FASHION = TASKS["lowlight"], TASKS["fashion"]
IDS = ["a", "b", "c"]
CLEAN = KeyedNoise(0, IDS, "test/clean").uniform((3, 16, 12)).mul(2).sub(1).double()
DARK = KeyedNoise(0, IDS, "test/degraded").uniform((3, 16, 12)).mul(2).sub(1).double()
ORIGIN = start_noise(IDS, (3, 16, 12)).double()


class Knowing(nn.Module):
    """Knows the clean images, and finds the noise in any state."""

    def __init__(self, learning: Learning, clean: torch.Tensor = CLEAN) -> None:
        super().__init__()
        self.learning, self.clean, self.calls = learning, clean, []

    def forward(self, x, t, cond=None):
        self.calls.append((x, t, cond))
        if self.learning.start == "none":
            return SimpleNamespace(sample=cond - self.clean)
        origin = cond if cond is not None and self.learning.start == "degraded" else torch.zeros_like(x)
        return SimpleNamespace(
            sample=perfect(self.learning.schedule, self.learning.objective, self.clean, origin)(x, t)
        )


def net(objective="res", **kwargs) -> RDDMNet:
    """Untrained, with every weight away from zero; its outputs leave [-1, 1]."""
    found = RDDMNet(objective, base_channels=8, channel_mults=(1, 1), blocks=1, patch=2, **kwargs)
    generator = torch.Generator().manual_seed(0)
    for p in found.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=generator)
    return found.eval()


@pytest.mark.parametrize("variant", ["smres", "smresn", "quiet", "sr3"])
def test_a_perfect_network_restores_exactly(variant):
    for steps in (1, 2, 20):
        knowing = Knowing(learning_of(LOWLIGHT, variant))
        close(restore(knowing, DARK, IDS, knowing.learning, steps), CLEAN)
        assert len(knowing.calls) == steps and all(torch.equal(cond, DARK) for _, _, cond in knowing.calls)


def test_perfect_noise_restores_from_an_early_start_and_not_from_the_end():
    learning = learning_of(LOWLIGHT, "smn")
    for start in measure.STARTS:
        knowing = Knowing(learning)
        close(restore(knowing, DARK, IDS, learning, 2, start=start), CLEAN, 1e-8)
        x, t, _ = knowing.calls[0]
        assert (t == start).all()
        close(x, DARK + learning.schedule.bbar[start] * ORIGIN)
    # as published: divided by 1e-6, whatever the network says is ±1 in every pixel; elsewhere it is refused
    first = next(iter(trajectory(net("noise").double(), DARK, IDS, learning, 2)))
    assert first.t == 999 and (first.x0.abs() > 0.99).float().mean() > 0.99
    with pytest.raises(ReproError, match="SM-N cannot read its network at t=999"):
        restore(Knowing(learning), DARK, IDS, learning, 2, at_end="refuse")


def test_SM_Res_knows_the_noise_only_by_its_ratios():
    """One network started from quieter noise, or sampled on the schedule of quieter noise: the same images."""
    network, loud, quiet = net().double(), learning_of(LOWLIGHT, "smres"), learning_of(LOWLIGHT, "quiet")
    found = restore(network, DARK, IDS, loud, 3, sum_scale=0.01)
    close(found, restore(network, DARK, IDS, quiet, 3))
    assert not torch.allclose(found, restore(network, DARK, IDS, loud, 3))


def test_every_switch_of_the_task_runs_and_changes_the_image():
    for variant, objective, count in (("smres", "res", 2), ("smn", "noise", 5), ("smresn", "res_noise", 5)):
        learning, network = learning_of(LOWLIGHT, variant), net(objective)
        usual = restore(network, DARK.float(), IDS, learning, LOWLIGHT.steps)
        name = f"rddm-lowlight-{variant}-s0"
        cells = [c for e, c in grid.cells(grid.load("rddm")) if e == name and c["task"] == "lowlight-switch"]
        assert len(cells) == count
        for cell in cells:
            _, _, settings = measure._switched(network, learning, cell)
            found = restore(network, DARK.float(), IDS, learning, cell["steps"], **settings)
            assert found.isfinite().all() and not torch.equal(found, usual), cell


def test_sr3_is_notebook_01s_DDIM_conditioned_on_the_image():
    """diffusers' DDIM: the network's noise kept beside the cut image, and the times of "trailing" spacing."""
    learning, network = learning_of(LOWLIGHT, "sr3"), net("noise").double()
    for steps in (5, 20):
        common = {"spacing": "trailing", "eps_from_clipped": False}
        run = ddpm_samplers.ddim(
            model_fn(network, cond=DARK), ORIGIN * learning.schedule.bbar[-1], LINEAR, steps, **common
        )
        close(restore(network, DARK, IDS, learning, steps), sample(run).clamp(-1, 1))


def test_regression_is_one_pass():
    knowing = Knowing(learning_of(LOWLIGHT, "regression"))
    close(restore(knowing, DARK, IDS, knowing.learning, 7), CLEAN)
    ((x, t, cond),) = knowing.calls
    assert x is cond is DARK and (t == 999).all()
    with pytest.raises(ReproError, match="a regression network has no trajectory"):
        trajectory(knowing, DARK, IDS, knowing.learning, 2)


@pytest.mark.parametrize("variant", ["smres", "smn", "smresn", "sr3", "regression"])
def test_an_image_depends_on_its_name_and_seed_and_not_on_its_batch(variant):
    learning = learning_of(LOWLIGHT, variant)
    network, eta = net(learning.objective).double(), {} if variant == "regression" else {"eta": 1.0}
    whole = restore(network, DARK, IDS, learning, 3, **eta)
    assert whole.min() >= -1 and whole.max() <= 1
    for i, name in enumerate(IDS):
        close(restore(network, DARK[i : i + 1], [name], learning, 3, **eta)[0], whole[i], 1e-8)
    if variant != "regression":
        assert not torch.allclose(whole, restore(network, DARK, IDS, learning, 3, seed=1, **eta))
        assert not torch.allclose(whole, restore(network, DARK, IDS[::-1], learning, 3, **eta))


def test_the_start_has_the_noise_of_the_first_timestep():
    learning = learning_of(LOWLIGHT, "smres")
    for settings, level in (
        ({"steps": 2}, 1.0),
        ({"steps": 2, "start": 500}, learning.schedule.bbar[500].item()),
        ({"steps": None, "timesteps": [400, 100]}, learning.schedule.bbar[400].item()),
        ({"steps": 2, "sum_scale": 0.01}, 0.1),
    ):
        first = next(iter(trajectory(Knowing(learning), DARK, IDS, learning, **settings)))
        close(first.x_t, DARK + level * ORIGIN)


@pytest.mark.parametrize("variant", ["smres", "smn", "smresn"])
def test_generation_by_number(variant):
    learning = learning_of(FASHION, variant)
    network = net(learning.objective, channels=1, condition=False)
    found = generate(network, learning, range(4, 9), 3, (1, 12, 12), batch=2, eta=1.0)
    assert found.shape == (5, 1, 12, 12) and found.min() >= -1 and found.max() <= 1
    whole = generate(network, learning, range(10), 3, (1, 12, 12), eta=1.0)
    close(found, whole[4:9], 1e-4)
    assert not torch.allclose(whole[0], whole[1])
    if variant == "smres":  # restoration of nothing, with a network that gets no condition
        clean = torch.linspace(-1, 1, 144).reshape(1, 1, 12, 12)
        knowing = Knowing(learning, clean)
        close(generate(knowing, learning, [7], 4, (1, 12, 12)), clean, 1e-4)
        x, t, cond = knowing.calls[0]
        assert cond is None and (t == 999).all() and torch.equal(x, start_noise([7], (1, 12, 12)))
        with pytest.raises(ReproError, match="the network was built with I_in as condition"):
            generate(net(), learning, [0], 1, (3, 12, 12))
