"""RDDM's coefficients, forward process, objectives and networks: published values, identities, plain formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_rddm_samplers import wave
from tiny import refused

from repro.ddpm import process as ddpm
from repro.engine.rng import KeyedNoise
from repro.rddm import process
from repro.rddm.model import PublishedNet, RDDMNet
from repro.rddm.process import FAMILIES, RDDMSchedule, by_config, indi

DEFAULT = by_config()
SCHEDULES = [
    by_config(60),
    by_config(60, "average", "level", sum_scale=0.01),
    RDDMSchedule.from_ddpm(ddpm.linear(60, 1e-3, 0.2)),
]
NOISE = KeyedNoise(0, range(4), "noise")


def draw(step: int) -> torch.Tensor:
    return NOISE.normal((2, 3, 3), step).double()


X0, Y, EPS = draw(1).clamp(-1, 1), draw(2).clamp(-1, 1), draw(6)
R = Y - X0
IMAGE = torch.zeros(1, 3, 8, 8)
ALL = tuple(process.STRATEGIES.values())
SMALL = dict(base_channels=8, channel_mults=(1, 2), norm_groups=4)
TINY = dict(dim=8, mults=(1, 2))


def close(found, wanted, atol=1e-12):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def test_check_values_and_closed_forms_of_the_restoration_schedule():
    for t, u, s in [(0, 0.001998, 0.001414), (199, 0.35984, 0.200399), (499, 0.74975, 0.50025), (999, 1, 1)]:
        assert DEFAULT.levels(t) == pytest.approx((u, s), abs=6e-7, rel=1e-5)
    T, t = 1000, torch.arange(1, 1001, dtype=torch.float64)
    close(DEFAULT.u, 1 - (T - t) * (T - t + 1) / (T * (T + 1)), 1e-13)
    close(DEFAULT.s2, t * (t + 1) / (T * (T + 1)), 1e-13)
    assert all(by_config(n).u[-1] == 1.0 for n in (1, 3, 10, 49, 997)) and DEFAULT.levels(-1) == (0.0, 0.0)
    torch.testing.assert_close(indi(T, 0.25).s, 0.5 * t / T, rtol=1e-12, atol=0)


@given(
    T=st.integers(1, 300), alpha=st.sampled_from([*FAMILIES]), beta2=st.sampled_from([*FAMILIES]),
    scale=st.floats(0.001, 10),
)  # fmt: skip
def test_every_family_sums_grows_and_has_no_zero(T, alpha, beta2, scale):
    schedule = by_config(T, alpha, beta2, sum_scale=scale)
    assert schedule.alpha.dtype == schedule.u.dtype == schedule.s.dtype == torch.float64
    assert (schedule.alpha > 0).all() and (schedule.beta2 > 0).all()  # no zero at index 0, nor at the end
    assert schedule.u[-1] == 1.0 and schedule.sum_scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("schedule", [ddpm.linear(), ddpm.cosine(100), ddpm.zero_terminal_snr(ddpm.scaled_linear())])
def test_a_converted_schedule_is_the_ddpms(schedule):
    there = by_config(schedule.T, ddpm=schedule.config)
    close(there.u, 1 - schedule.alpha_bar.sqrt(), 1e-13)
    torch.testing.assert_close(there.s, (1 - schedule.alpha_bar).sqrt(), rtol=1e-11, atol=0)
    if schedule.name == "linear":  # it stops short of y, and its noise ends near 1
        assert there.u[-1].item() == pytest.approx(0.993647, abs=5e-7)
        assert there.sum_scale == pytest.approx(0.99996, abs=5e-6)


def test_wrong_settings_are_refused():
    cases = {
        "'made' is 0 at t=0": lambda: RDDMSchedule("made", torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.5])),
        "family 'cosine' is unknown": lambda: by_config(alpha="cosine"),
        "above 0: got 0.0": lambda: by_config(sum_scale=0.0),
        "takes layout 'one'": lambda: RDDMNet("res", "two", **SMALL),
        "objective 'x0' is unknown": lambda: RDDMNet("x0", **SMALL),
        "condition of 3 channels: got 0": lambda: RDDMNet("res", **SMALL)(IMAGE, 3),
        "'shared' is unknown": lambda: PublishedNet("res_noise", "shared", **TINY),
    }
    refused(cases)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_chain_of_single_steps_is_the_closed_form(schedule):
    """Exactly: the chain's mean and variance, carried along, and its noise gathered into one eps (Eq. 7)."""
    state, gathered, variance = X0, torch.zeros_like(X0), 0.0
    for t in range(schedule.T):
        eps = draw(100 + t)
        state = process.q_step(state, R, t, eps, schedule)
        gathered = gathered + float(schedule.beta2[t]) ** 0.5 * eps
        variance += float(schedule.beta2[t])
        assert variance == pytest.approx(schedule.levels(t)[1] ** 2, rel=1e-12)
        close(state, process.q_sample(X0, R, t, gathered / schedule.levels(t)[1], schedule))
    t = torch.tensor([0, 17, 41, schedule.T - 1])
    u, s = schedule.at(t, Y)
    close(process.q_sample(X0, R, t, EPS, schedule), Y + (u - 1) * R + s * EPS, 1e-14)  # Eq. 16


def test_the_start_holds_the_noise_that_training_ends_with():
    z = draw(4)
    for scale in (1.0, 0.01, 4.0):
        schedule = by_config(60, sum_scale=scale)
        start = process.start(Y, z, schedule)
        close(start, Y + scale**0.5 * z)
        close(start, process.q_sample(X0, R, schedule.T - 1, z, schedule))
    close(process.start(Y, z, SCHEDULES[2], sum_scale=0.01), Y + 0.1 * z)  # a start that was not trained for
    gap = process.start(Y, z, SCHEDULES[0], 50) - process.q_sample(X0, R, 50, z, SCHEDULES[0])
    close(gap, (1 - SCHEDULES[0].levels(50)[0]) * R)  # an earlier start is wrong by the rest of the residual


@pytest.mark.parametrize("objective", ALL)
def test_losses_are_per_sample_and_the_heads_added(objective):
    target = process.target(R, EPS, objective)
    off = torch.tensor([0.0, 0.1, 0.2, 0.3]).double()
    for norm, power in (("l1", 1), ("l2", 2)):
        found = process.output_loss(target + off[:, None, None, None], R, EPS, objective, norm)
        close(found, off**power * process.heads(objective), 1e-8)


@pytest.mark.parametrize("layout", ["one", "two", "shared"])
def test_layouts_have_both_heads_and_learn(layout):
    net = RDDMNet("res_noise", layout, **SMALL)
    x = torch.rand(2, 3, 9, 7)
    out = net(x, torch.tensor([3, 4]), x).sample
    assert out.shape == (2, 6, 9, 7)
    (out - 1).square().mean().backward()
    ends = [net.res_net.conv_out, net.noise_net.conv_out] if layout == "two" else [net.net.conv_out]
    if layout == "shared":
        ends = [net.net.res_conv_out, net.net.conv_out]
    assert all(end.weight.grad.abs().sum() > 0 for end in ends)
    for value, end in enumerate(ends, start=1):
        torch.nn.init.constant_(end.bias, value)
    if len(ends) == 2:
        out = net(IMAGE, 5, IMAGE).sample
        assert (out[:, :3] == 1).all() and (out[:, 3:] == 2).all()  # residual, then noise


def test_the_published_network_gives_what_the_released_one_gives():
    """The numbers are the released network's, of experiment 2, with these weights brought to its names."""
    net = PublishedNet(dim=16, mults=(1, 2))
    for k, p in enumerate(net.parameters()):
        i = torch.arange(p.numel(), dtype=torch.float64)
        p.data = (0.3 * torch.cos(1.7 * i + 0.9 * k) * torch.cos(0.013 * i * i + k)).float().reshape(p.shape)
    with torch.no_grad():
        found = net(wave(2, 3, 16, 16), torch.tensor([3, 801]), wave(2, 3, 16, 16, k=1)).sample
    released = torch.tensor([[3.045591, 8.247635, 1.919072], [-1.661063, -4.556086, -2.328403]])
    close(found[:, :, 5, 7], released, 1e-4)
    assert found.std().item() == pytest.approx(3.431705, abs=1e-4)
