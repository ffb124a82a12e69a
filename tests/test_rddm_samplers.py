"""The samplers against exact oracles: perfect networks, exact moments, and the known failures of the released code."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from repro.ddpm.losses import simple
from repro.ddpm.oracles import sampler_moments
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.objectives import losses, target
from repro.rddm.samplers import NO_CLIP, PUBLISHED_CLIP, Clip, last, reverse, sample, times
from repro.rddm.schedules import by_config, indi

SCHEDULE = by_config(40)
SMALL = by_config(40, "average", "normal", sum_scale=0.04)
NOISE = KeyedNoise(0, range(3), "noise")
I_0 = NOISE.normal((1, 4, 4), 1).double().clamp(-1, 1)
I_IN = NOISE.normal((1, 4, 4), 2).double().clamp(-1, 1)
I_RES = I_IN - I_0
Z = NOISE.normal((1, 4, 4), 3).double()
ALL = ("res", "noise", "res_noise")


def perfect(schedule, objective, I_0=I_0, I_in=I_IN):
    """The network that knows the picture: everything else follows from the state."""

    def model(x, t):
        eps = process.eps_from_I0(x, I_in, I_0, *schedule.at(t, x))
        return target((I_in - I_0).expand_as(x), eps, objective)

    return model


class Net(nn.Module):
    """A small nonlinear network of x and t; its answers leave every range that is clipped."""

    def __init__(self, heads: int = 1, scale: float = 1.5) -> None:
        super().__init__()
        self.first, self.second, self.scale = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, heads, 3, padding=1), scale
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator)
        self.double()

    def forward(self, x, t):
        return self.scale * torch.tanh(self.second(torch.sin(self.first(x) + (t / 8).to(x.dtype)[:, None, None, None])))


# -- times ------------------------------------------------------------------------------------------------------------


def test_published_times():
    assert times(1000, 2) == [999, 499]
    assert times(1000, 5) == [999, 799, 599, 399, 199]
    assert times(1000, 10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert times(1000, 3) == [999, 665, 332]
    assert times(10, 10) == list(range(9, -1, -1))
    assert times(1000, 5, start=900) == [900, 719, 539, 359, 179]


@given(T=st.integers(1, 1500), data=st.data())
def test_times_fall_from_the_end_to_at_least_zero(T, data):
    steps = data.draw(st.integers(1, T))
    ts = times(T, steps)
    assert len(ts) == steps and ts[0] == T - 1 and ts[-1] >= 0
    assert all(a > b for a, b in pairwise(ts))
    grid = [int(v) for v in torch.linspace(-1, T - 1, steps + 1, dtype=torch.float64).add(1e-9).tolist()]
    assert ts[::-1] == grid[1:]


# -- oracles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["eq12", "compose", "rederive"])
@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 39])
def test_a_perfect_network_recovers_the_picture(objective, steps, rule):
    """For SM-N from t < T, where its network can be read; the start is the true state at that t."""
    for schedule in (SCHEDULE, SMALL):
        start = schedule.T - 2
        x = process.q_sample(I_0, I_RES, start, Z, schedule)
        run = reverse(
            perfect(schedule, objective), x, I_IN, schedule, steps, objective=objective, start=start, rule=rule
        )
        states = list(run)
        assert len(states) == steps and states[-1].t_prev == -1
        for step in states:
            for found, wanted in ((step.x0, I_0), (step.res, I_RES), (step.eps, Z)):
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
            wanted = process.q_sample(I_0, I_RES, step.t_prev, Z, schedule) if step.t_prev >= 0 else I_0
            torch.testing.assert_close(step.x, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("objective", ["res", "res_noise"])
def test_restoration_starts_from_the_degraded_picture(objective):
    x = process.start(I_IN, Z, SCHEDULE)
    found = sample(reverse(perfect(SCHEDULE, objective), x, I_IN, SCHEDULE, 5, objective=objective))
    torch.testing.assert_close(found, I_0, rtol=0, atol=1e-12)


def test_generation_is_restoration_of_nothing():
    zeros = torch.zeros_like(I_0)
    x = process.start(zeros, Z, SCHEDULE)
    model = perfect(SCHEDULE, "res", I_in=zeros)
    found = last(reverse(model, x, zeros, SCHEDULE, 4, objective="res"))
    torch.testing.assert_close(found.x, I_0, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.res, -I_0, rtol=0, atol=1e-12)


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
        wanted = (known + abar_s * (given_ - known)).flatten()
        torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-9)
        torch.testing.assert_close(covariance, bbar_s**2 * torch.eye(4).double(), rtol=0, atol=1e-9)


def wave(*shape, k=0.0):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * i + 0.0021 * i * i + k).float().reshape(shape)


@pytest.mark.parametrize(
    ("objective", "steps", "pixels", "deviation"),
    [
        ("res", 2, (-1.0, -1.0, -0.13702), 0.503246),
        ("res", 5, (-0.978443, -0.950998, -0.030366), 0.495082),
        ("res", 10, (-0.79456, -0.785731, 0.01727), 0.443459),
        ("res", 1000, (-0.447996, -0.489191, 0.103986), 0.347142),
        ("noise", 2, (-1.0, -1.0, 1.0), 0.914493),
        ("noise", 5, (-1.0, -1.0, 1.0), 0.877932),
        ("noise", 10, (-1.0, -1.0, 1.0), 0.862965),
        ("noise", 1000, (-0.733259, -0.672008, -0.227061), 0.216122),
        ("res_noise", 2, (-1.0, -1.0, 1.0), 0.831071),
        ("res_noise", 5, (-1.0, -1.0, 1.0), 0.804804),
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
    torch.testing.assert_close(found[0, :, 1, 2], torch.tensor(pixels), rtol=0, atol=3e-6)
    assert found.std().item() == pytest.approx(deviation, abs=3e-6)


def test_the_posterior_rule_is_eta_one_without_clipping_and_not_with():
    x = process.start(I_IN, Z, SCHEDULE)
    common = {"objective": "res_noise", "eta": 1.0, "noise": NOISE}
    for clip, equal in ((NO_CLIP, True), (Clip(), False)):
        one, two = (
            sample(reverse(Net(heads=2), x, I_IN, SCHEDULE, clip=clip, rule=rule, **common))
            for rule in ("eq12", "posterior")
        )
        assert ((one - two).abs().max() < 1e-10) == equal
    with pytest.raises(ReproError, match="eta 1 and a schedule with noise"):
        reverse(Net(2), x, I_IN, SCHEDULE, objective="res_noise", rule="posterior")


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("rule", ["eq12", "compose", "rederive"])
def test_no_nan_anywhere_over_all_steps(objective, rule):
    """Index 0 and index T - 1 are visited, SM-N with the released code's divisor."""
    for dtype in (torch.float32, torch.float64):
        x = process.start(I_IN, Z, SCHEDULE).to(dtype)
        net = Net(heads=2 if objective == "res_noise" else 1).to(dtype)
        common = {"objective": objective, "at_end": "published"}
        visited = []
        for step in reverse(net, x, I_IN.to(dtype), SCHEDULE, rule=rule, eta=0.5, noise=NOISE, **common):
            visited.append(step.t)
            assert all(v.isfinite().all() and v.dtype == dtype for v in (step.x, step.x0, step.res, step.eps))
        assert visited == list(range(39, -1, -1))


def test_unclipped_rules_agree_and_reading_one_head_is_that_strategy():
    x, net = process.start(I_IN, Z, SCHEDULE), Net(heads=2)
    common = {"objective": "res_noise", "clip": NO_CLIP, "start": 38}
    for read_as in (None, "res", "noise"):
        runs = [
            [s.x for s in reverse(net, x, I_IN, SCHEDULE, 6, rule=rule, sample_as=read_as, **common)]
            for rule in ("eq12", "compose", "rederive")
        ]
        for other in runs[1:]:
            assert max((a - b).abs().max().item() for a, b in zip(runs[0], other, strict=True)) < 1e-10
    for read_as, part in (("res", slice(0, 1)), ("noise", slice(1, 2))):
        one = sample(reverse(net, x, I_IN, SCHEDULE, 6, sample_as=read_as, **common))
        alone = {**common, "objective": read_as}
        two = sample(reverse(lambda x, t, part=part: net(x, t)[:, part], x, I_IN, SCHEDULE, 6, **alone))
        assert torch.equal(one, two)


def test_rederived_estimates_add_up_to_the_state_and_published_ones_do_not():
    x = process.start(I_IN, Z, SCHEDULE)
    for objective in ("res", "res_noise"):
        for rule, sums in (("rederive", True), ("eq12", False)):
            step = next(
                reverse(
                    Net(2 if objective == "res_noise" else 1, 4.0), x, I_IN, SCHEDULE, 3, objective=objective, rule=rule
                )
            )
            gap = (step.x0 + step.abar * step.res + step.bbar * step.eps - step.x_t).abs().max()
            assert (gap < 1e-10) == sums


@pytest.mark.parametrize("objective", ["res", "noise"])
def test_exact_rules_tie_the_residual_to_the_picture(objective):
    """I_res = I_in - I_0 after every cut, also where the residual's range is the narrower; Eq. 12 leaves them apart."""
    x = process.start(I_IN, Z, SCHEDULE)
    for rule in ("eq12", "compose", "rederive"):
        common = {"objective": objective, "clip": PUBLISHED_CLIP, "start": 30, "rule": rule}
        step = next(reverse(Net(scale=4.0), x, I_IN, SCHEDULE, 3, **common))
        assert step.res.abs().max() <= 1 + 1e-12 or objective == "res"
        assert ((step.res - (I_IN - step.x0)).abs().max() < 1e-12) == (rule != "eq12")


def test_noise_from_the_residual_before_or_after_the_cut():
    """SM-Res: Eq. 12 as released takes the cut residual, "compose" the network's own, as DDIM does."""
    net, x = Net(scale=4.0), process.q_sample(I_0, I_RES, 20, Z, SCHEDULE)
    raw = net(x, torch.full((3,), 20)).detach()
    found = []
    for rule, used in (("eq12", raw.clamp(-1, 1)), ("compose", raw)):
        step = next(reverse(net, x, I_IN, SCHEDULE, 3, objective="res", clip=PUBLISHED_CLIP, rule=rule, start=20))
        wanted = process.eps_from_residual(x, I_IN, used, *SCHEDULE.levels(20))
        torch.testing.assert_close(step.eps, wanted, rtol=0, atol=1e-12)
        found.append(step.eps)
    assert (found[0] - found[1]).abs().max() > 0.1


# -- the released code's failures, reproduced on purpose --------------------------------------------------------------


def test_SM_N_cannot_be_read_at_the_end():
    x = process.start(I_IN, Z, SCHEDULE)
    with pytest.raises(ReproError, match=r"SM-N cannot read its network at t=39.*start=38"):
        reverse(Net(), x, I_IN, SCHEDULE, 5, objective="noise")
    with pytest.raises(ReproError, match="needs the picture clipped"):
        reverse(Net(), x, I_IN, SCHEDULE, 5, objective="noise", at_end="published", clip=NO_CLIP)


def test_SM_N_published_starts_with_a_saturated_picture():
    """Dividing by 1e-6 sends even a nearly perfect network's picture to ±1: black or white in every pixel."""
    x = process.start(I_IN, Z, SCHEDULE)
    exact = perfect(SCHEDULE, "noise")

    def nearly(x, t):
        return exact(x, t) + 1e-3 * torch.sign(I_0 - 0.01)

    run = reverse(nearly, x, I_IN, SCHEDULE, 5, objective="noise", at_end="published", clip=PUBLISHED_CLIP)
    first = next(run)
    assert (first.x0.abs() == 1).all()
    start = SCHEDULE.T - 6  # the honest start: the picture is what it is, within the start's bias
    x = process.start(I_IN, Z, SCHEDULE, start)
    honest = next(reverse(nearly, x, I_IN, SCHEDULE, 5, objective="noise", start=start))
    assert (honest.x0 - I_0).abs().mean() < 0.3 * (first.x0 - I_0).abs().mean()


@pytest.mark.parametrize(("clip", "cut"), [(PUBLISHED_CLIP, 1.0), (Clip(), None), (Clip(residual=None), None)])
def test_residual_clip_at_one_truncates_strong_restorations(clip, cut):
    """White from black has a residual of -2: cut to -1, one step brings the picture to 0, grey."""
    white, black = torch.ones_like(I_0), -torch.ones_like(I_0)
    x = process.start(black, Z, SCHEDULE)
    step = next(reverse(perfect(SCHEDULE, "res", white, black), x, black, SCHEDULE, 1, objective="res", clip=clip))
    wanted = black + cut if cut else white
    torch.testing.assert_close(step.x, wanted, rtol=0, atol=1e-12)


# -- InDI -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sum_scale", [1e-10, 0.09])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_SM_Res_is_InDI(steps, sum_scale):
    """InDI: x_s = (s/t) x_t + (1 - s/t) F(x_t, t), F predicting the picture, here F = I_in - I_res^theta.

    At any noise level above zero, however small; at zero Eq. 13 moves by the predicted residual instead.
    """
    schedule, net = indi(20, sum_scale), Net()
    x = process.start(I_IN, Z, schedule)
    ours = [s.x for s in reverse(net, x, I_IN, schedule, steps, objective="res", clip=NO_CLIP)]
    ts = [*times(20, steps), -1]
    for i, found in enumerate(ours):
        t, s = (ts[i] + 1) / 20, (ts[i + 1] + 1) / 20
        picture = I_IN - net(x, torch.full((3,), ts[i]))
        x = s / t * x + (1 - s / t) * picture
        torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


def test_SM_Res_learns_what_InDI_learns():
    answer = Net()(I_IN, torch.tensor([1, 2, 3]))
    for norm in ("l1", "l2"):
        ours = losses(answer, I_RES, Z, "res", norm).total
        torch.testing.assert_close(ours, simple(I_IN - answer, I_0, norm), rtol=1e-12, atol=0)


def test_SM_Res_is_not_InDI_on_its_own_schedule():
    net, x = Net(), process.start(I_IN, Z, SCHEDULE)
    step = next(reverse(net, x, I_IN, SCHEDULE, 2, objective="res", clip=NO_CLIP))
    picture, r = step.x0, SCHEDULE.levels(step.t_prev)[0]
    assert (step.x - (r * x + (1 - r) * picture)).abs().max() > 0.1


def test_a_schedule_without_noise_is_refused_only_by_SM_N():
    schedule = by_config(20, sum_scale=0.0)
    found = sample(reverse(lambda x, t: I_RES, I_IN, I_IN, schedule, 3, objective="res"))
    torch.testing.assert_close(found, I_0, rtol=0, atol=1e-12)
    with pytest.raises(ReproError, match="has none"):
        reverse(Net(), I_IN, I_IN, schedule, 3, objective="noise")


# -- refusals and independence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 41}, r"1\.\.40 .*got 41"),
        ({"steps": 0}, "got 0"),
        ({"steps": 39, "start": 37}, r"1\.\.38 .*got 39"),
        ({"timesteps": [10, 20]}, "timesteps must fall"),
        ({"timesteps": [20, 20]}, "without repetition"),
        ({"timesteps": [40, 2]}, "at most 39"),
        ({"timesteps": []}, "timesteps must fall"),
        ({"timesteps": [5], "steps": 1}, "either steps"),
        ({"start": 40}, "got start 40"),
        ({"eta": 0.5}, "pass noise="),
        ({"eta": 1.5, "noise": NOISE}, "got 1.5"),
        ({"eta": -0.1}, "got -0.1"),
        ({"rule": "ddim"}, "'ddim' is unknown"),
        ({"objective": "x0"}, "'x0' is unknown"),
        ({"spacing": "log"}, "'log' is unknown"),
        ({"at_end": "fix"}, "'fix' is unknown"),
        ({"variance": "preserving", "eta": 0.5, "noise": NOISE}, "no DDPM counterpart"),
        ({"I_in": I_IN[:1]}, "must have the shape of the start"),
    ],
)
def test_wrong_input_is_refused_before_the_network_is_asked(settings, message):
    settings = {"objective": "res", "I_in": I_IN} | settings
    with pytest.raises(ReproError, match=message):
        reverse(lambda x, t: pytest.fail("asked"), I_IN, schedule=SCHEDULE, **settings)


def test_other_refusals():
    with pytest.raises(ReproError, match="got 0"):
        Clip(residual=0.0)
    with pytest.raises(ReproError, match="answers 1 channels"):
        next(reverse(Net(2), I_IN, I_IN, SCHEDULE, 2, objective="res"))


def test_a_picture_does_not_depend_on_its_batch():
    net, x = Net(), process.start(I_IN, Z, SCHEDULE)
    whole = sample(reverse(net, x, I_IN, SCHEDULE, 5, objective="res", eta=1.0, noise=NOISE))
    own = KeyedNoise(0, [1], "noise")
    one = sample(reverse(net, x[1:2], I_IN[1:2], SCHEDULE, 5, objective="res", eta=1.0, noise=own))
    torch.testing.assert_close(whole[1:2], one, rtol=0, atol=1e-12)
