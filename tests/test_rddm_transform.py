"""The coefficient transformation: which RDDM rule is which DDIM, with and without clipping, and where they part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm import schedules as ddpm
from repro.ddpm.oracles import GaussianData
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import transform
from repro.rddm.samplers import NO_CLIP, Clip, reverse, sample
from repro.rddm.schedules import RDDMSchedule, by_config

LINEAR = ddpm.linear()
CONVERTED = RDDMSchedule.from_ddpm(LINEAR)
NOISE = KeyedNoise(0, range(3), "noise")
START = KeyedNoise(0, range(3), "start").normal((2, 6, 6)).double()
ZERO = torch.zeros_like(START)


class Net(nn.Module):
    """A small nonlinear network of x and t whose pictures leave [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator)

    def forward(self, x, t):
        hidden = torch.sin(self.first(x) + (t / 200).to(x.dtype)[:, None, None, None])
        return torch.tanh(self.second(hidden)) * 1.5


NET = Net().double()


@torch.no_grad()
def diffusers_ddim(model, steps, clip, use_clipped=False, eta=0.0, prediction="epsilon", schedule=LINEAR, x=START):
    """diffusers' own loop on our float64 table; the noise is ours, asked for by timestep."""
    scheduler = ddpm.to_diffusers(schedule, "ddim", clip_sample=clip, prediction_type=prediction)
    scheduler.alphas_cumprod = schedule.alpha_bar
    scheduler.set_timesteps(steps)
    states = []
    for t in scheduler.timesteps:
        z = NOISE(int(t), x) if eta > 0 else None
        output = model(x, t.expand(len(x)))
        x = scheduler.step(output, t, x, eta=eta, variance_noise=z, use_clipped_model_output=use_clipped).prev_sample
        states.append(x)
    return states


def ours(model, steps, clip, rule="eq12", objective="noise", x=START, schedule=CONVERTED, **kwargs):
    run = reverse(
        model, x, torch.zeros_like(x), schedule, steps, objective=objective, clip=Clip() if clip else NO_CLIP,
        rule=rule, spacing="leading", **kwargs,
    )  # fmt: skip
    return [step.x for step in run]


def gap(one, two) -> float:
    """The largest difference, relative where states outgrow 1."""
    assert len(one) == len(two) and all(x.isfinite().all() for x in one)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(one, two, strict=True))


# -- without clipping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["eq12", "compose", "rederive"])
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_unclipped_RDDM_is_DDIM(rule, steps):
    assert gap(ours(NET, steps, False, rule), diffusers_ddim(NET, steps, False)) < 1e-10


def test_unclipped_RDDM_is_DDIM_over_all_thousand_steps():
    assert gap(ours(NET, 1000, False), diffusers_ddim(NET, 1000, False)) < 1e-10


@pytest.mark.parametrize("schedule", [ddpm.cosine(50), ddpm.scaled_linear()], ids=lambda s: s.name)
def test_unclipped_equality_holds_on_other_schedules(schedule):
    converted = RDDMSchedule.from_ddpm(schedule)
    assert gap(ours(NET, 25, False, schedule=converted), diffusers_ddim(NET, 25, False, schedule=schedule)) < 1e-9


def test_rounding_does_not_explain_the_gap():
    """The report blames numerical errors adding up over 100 steps; in float32 they stay far below clipping's effect."""
    net, x = Net(), START.float()
    rounding = gap(ours(net, 100, False, x=x), diffusers_ddim(net, 100, False, x=x))
    clipping = gap(ours(NET, 100, True), diffusers_ddim(NET, 100, True))
    assert rounding < 1e-4
    assert clipping > 1000 * rounding


# -- with clipping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 20])
def test_clipped_rules_are_two_different_DDIMs(steps):
    default, rederived = (diffusers_ddim(NET, steps, True, use) for use in (False, True))
    assert gap(default, rederived) > 0.05
    assert gap(ours(NET, steps, True, "compose"), default) < 1e-10
    assert gap(ours(NET, steps, True, "rederive"), rederived) < 1e-10
    assert gap(ours(NET, steps, True, "compose"), rederived) > 0.05
    assert gap(ours(NET, steps, True, "rederive"), default) > 0.05


@pytest.mark.parametrize("steps", [100, 250])
def test_clipped_equality_over_many_steps(steps):
    """With the exact denoiser of wide Gaussian data. (With the untrained network clipped DDIM is chaotic: a change of
    1e-14 at the start grows as much as our difference from diffusers does.)"""
    data = GaussianData(torch.zeros(72), torch.eye(72).double(), LINEAR).model()
    for rule, use in (("compose", False), ("rederive", True)):
        assert gap(ours(data, steps, True, rule), diffusers_ddim(data, steps, True, use)) < 1e-10
    assert gap(ours(data, steps, True, "eq12"), diffusers_ddim(data, steps, True)) > 0.05
    assert gap(ours(data, steps, True, "eq12"), diffusers_ddim(data, steps, True, True)) > 0.05


@pytest.mark.parametrize("steps", [10, 100])
def test_the_published_step_is_neither_with_clipping(steps):
    published = ours(NET, steps, True, "eq12")
    for use in (False, True):
        assert gap(published, diffusers_ddim(NET, steps, True, use)) > 0.05


@pytest.mark.parametrize("clip", [False, True])
def test_a_residual_network_is_a_sample_predicting_DDIM(clip):
    """With I_in = 0 the residual is the picture's negative."""

    def negative(x, t):
        return -NET(x, t)

    for rule, use in (("compose", False), ("rederive", True)):
        found = ours(negative, 20, clip, rule, "res")
        assert gap(found, diffusers_ddim(NET, 20, clip, use, prediction="sample")) < 1e-10


# -- with noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip", "rule"), [(False, "eq12"), (True, "compose")])
def test_DDIM_variance_gives_DDIM_at_any_eta(clip, rule):
    for eta in (0.4, 1.0):
        found = ours(NET, 20, clip, rule, eta=eta, noise=NOISE, variance="preserving")
        assert gap(found, diffusers_ddim(NET, 20, clip, eta=eta)) < 1e-10


def test_eta_one_is_not_DDPM():
    assert gap(ours(NET, 20, False, eta=1.0, noise=NOISE), diffusers_ddim(NET, 20, False, eta=1.0)) > 0.05


def test_the_ratio_of_the_variances_is_alpha_bar():
    from repro.rddm.process import sigma2

    for t, s in ((499, 399), (999, 0), (1, 0), (700, 699)):
        wanted = LINEAR.alpha_bar[s].item()
        ratio = sigma2(CONVERTED, t, s) / sigma2(CONVERTED, t, s, kind="preserving")
        assert ratio == pytest.approx(wanted, rel=1e-7)
    assert sigma2(CONVERTED, 499, 399) == pytest.approx(0.102, abs=5e-4)
    assert sigma2(CONVERTED, 499, 399, kind="preserving") == pytest.approx(0.522, abs=5e-4)
    # eta multiplies the variance in RDDM, the standard deviation in DDIM
    assert sigma2(CONVERTED, 499, 399, 0.5) == pytest.approx(0.5 * sigma2(CONVERTED, 499, 399))
    half = sigma2(CONVERTED, 499, 399, 0.5, "preserving")
    assert half == pytest.approx(0.25 * sigma2(CONVERTED, 499, 399, kind="preserving"))


# -- there and back ---------------------------------------------------------------------------------------------------


def test_coefficients_go_there_and_back():
    abar, bbar = transform.to_rddm(LINEAR.alpha_bar)
    torch.testing.assert_close(abar, CONVERTED.abar, rtol=0, atol=1e-13)
    torch.testing.assert_close(bbar, CONVERTED.bbar, rtol=0, atol=1e-13)
    with pytest.raises(ReproError, match=r"\[0, 1\]"):
        transform.to_rddm(torch.tensor([0.5, 1.2]))


def test_an_ordinary_DDPM_sampled_by_RDDMs_rule():
    def with_variance_head(x, t):
        return torch.cat([NET(x, t), torch.full_like(x, 7.0)], 1)

    for rule, rederive in (("compose", False), ("rederive", True)):
        theirs = sample(ddpm_samplers.ddim(NET, START, LINEAR, 10, eps_from_clipped=rederive))
        found = sample(transform.ddpm_by_rddm(with_variance_head, START, LINEAR, 10, rule=rule))
        torch.testing.assert_close(found, theirs, rtol=0, atol=1e-10)


def perfect(schedule):
    """The ideal noise predictor of pictures N(0.3, 0.5^2) under a generation schedule, in closed form."""

    def model(x, t):
        abar, bbar = schedule.at(t, x)
        share = 1 - abar
        picture = 0.3 + share * 0.25 / (share**2 * 0.25 + bbar**2) * (x - 0.3 * share)
        return (x - share * picture) / bbar

    return model


def test_a_perfect_network_of_one_schedule_is_one_of_another():
    """Matched, it says what the other schedule's own perfect network says, up to the rounding of its time."""
    own = by_config()
    model, wanted = transform.matched(perfect(own), own, CONVERTED), perfect(CONVERTED)
    for t in (0, 5, 100, 500, 900, 999):
        abar, bbar = CONVERTED.levels(t)
        x = 0.3 * (1 - abar) + (0.25 * (1 - abar) ** 2 + bbar**2) ** 0.5 * START
        times = torch.full((len(x),), t)
        torch.testing.assert_close(model(x, times), wanted(x, times), rtol=0, atol=0.1 if t < 10 else 0.01)
        if 10 < t < 999:
            assert (perfect(own)(x, times) - wanted(x, times)).abs().max() > 0.1
    assert gap(ours(model, 20, False), ours(wanted, 20, False)) < 0.02
    same = transform.matched(NET, own, own)
    times = torch.tensor([0, 400, 999])
    torch.testing.assert_close(same(START, times), NET(START, times), rtol=0, atol=1e-12)


def test_times_cannot_be_matched_without_noise():
    with pytest.raises(ReproError, match="has no noise"):
        transform.matched(NET, by_config(sum_scale=0.0), CONVERTED)
