"""Schedules: published constants, equality with diffusers, and refusals that say what is wrong."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.ddpm import oracles, schedules
from repro.errors import ReproError

ALL = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "scaled_linear": schedules.scaled_linear(),
    "linear zero": schedules.zero_terminal_snr(schedules.linear()),
    "cosine zero": schedules.zero_terminal_snr(schedules.cosine()),
    "scaled zero": schedules.zero_terminal_snr(schedules.scaled_linear()),
    "sr3": schedules.linear(2000, 1e-6, 1e-2),
    "ucdir inference": schedules.linear(50, 1e-6, 0.4),
    "one step": schedules.linear(1, 0.5, 0.5),
}


@pytest.mark.parametrize(
    ("name", "final"),
    [("linear", 4.0358e-5), ("scaled_linear", 4.660e-3), ("sr3", 4.386e-5), ("ucdir inference", 8.21e-6)],
)
def test_final_signal_is_the_published_one(name, final):
    assert ALL[name].alpha_bar[-1].item() == pytest.approx(final, rel=1e-3)


def test_cosine_follows_the_papers_formula():
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    expected = torch.tensor([f[t] / f[0] for t in range(1, 1000)], dtype=torch.float64)  # the last beta is cut
    assert (ALL["cosine"].alpha_bar[:-1] - expected).abs().max() < 1e-14
    assert ALL["cosine"].betas[-1] == 0.999


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("sr3", "ucdir inference", "one step")])
@pytest.mark.parametrize("kind", ["ddpm", "ddim", "ddim_inverse"])
def test_betas_equal_diffusers(name, kind):
    schedule = ALL[name]
    theirs = schedules.to_diffusers(schedule, kind)
    # diffusers rounds to float32 on the way (rescaling amplifies it near the end); alpha_bar is what samplers use
    assert (theirs.betas.double() - schedule.betas).abs().max() < (3e-4 if "zero" in name else 1e-7)
    assert (theirs.alphas_cumprod.double() - schedule.alpha_bar).abs().max() < 2e-6


def test_betas_equal_diffusers_own_names():
    """Against constructors written out here, so that `to_diffusers` cannot hide a wrong name."""
    own = {
        "linear": diffusers.DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
        "cosine": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "scaled_linear": diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    }
    for name, theirs in own.items():
        assert (theirs.betas.double() / ALL[name].betas - 1).abs().max() < 1e-5, name


def test_hand_made_betas_reach_diffusers(tmp_path):
    schedule = schedules.Schedule("mine", torch.tensor([0.1, 0.3, 0.2]))
    theirs = schedules.to_diffusers(schedule, "ddim", prediction_type="v_prediction")
    theirs.save_pretrained(tmp_path)
    again = diffusers.DDIMScheduler.from_pretrained(tmp_path)
    assert (again.alphas_cumprod.double() - schedule.alpha_bar).abs().max() < 1e-7
    assert again.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("name", ALL)
def test_tables_are_finite_and_consistent(name):
    s = ALL[name]
    for table in (s.betas, s.alpha_bar, s.alpha_bar_prev, s.posterior_variance, s.posterior_log_variance, s.snr):
        assert table.shape == (s.T,) and table.dtype == torch.float64 and table.isfinite().all()
    assert (s.posterior_variance <= s.betas).all() and s.posterior_variance[0] == 0
    # log 0 at t = 0 gives way to its neighbour (Improved DDPM's code); the rest is the logarithm
    assert torch.equal(s.posterior_log_variance[1:], s.posterior_variance[1:].log())
    assert s.T == 1 or s.posterior_log_variance[0] == s.posterior_log_variance[1]
    assert (s.alpha_bar.diff() < 0).all() and s.alpha_bar_prev[0] == 1
    like = torch.zeros(2, 3, 4, 4)
    a, sigma = s.at(torch.tensor([0, s.T - 1]), like)  # both ends
    assert a.shape == sigma.shape == (2, 1, 1, 1) and a.dtype == torch.float32
    assert a.isfinite().all() and (sigma > 0).all()
    assert (a**2 + sigma**2 - 1).abs().max() < 1e-6


@pytest.mark.parametrize("name", ALL)
def test_chain_equals_closed_form(name):
    worst = oracles.chain_vs_closed_form(ALL[name])
    assert set(worst) == {"mean", "variance", "posterior_mean", "posterior_variance", "noise"}
    assert max(worst.values()) < 1e-10, worst


def test_chain_oracle_sees_a_wrong_closed_form():
    broken = schedules.linear(100)
    broken.__dict__["alpha_bar"] = broken.alpha_bar * (1 + 1e-6)
    assert oracles.chain_vs_closed_form(broken)["mean"] > 1e-8


def test_small_levels_keep_their_digits_in_float32():
    s = ALL["sr3"]  # 1 - alpha_bar_0 = 1e-6: taken in float32 it would be off by 5%
    _, sigma = s.at(0, torch.zeros(1, 1))
    assert sigma.item() == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine", "scaled_linear"])
def test_zero_terminal_snr(name):
    plain, zero = ALL[name], schedules.zero_terminal_snr(ALL[name])
    assert zero.zero_terminal and zero.alpha_bar[-1] == 0 and not plain.zero_terminal
    assert zero.alpha_bar[0].item() == pytest.approx(plain.alpha_bar[0].item(), abs=1e-15)
    # Algorithm 1 is affine in sqrt(alpha_bar)
    x, y = plain.alpha_bar.sqrt(), zero.alpha_bar.sqrt()
    slope = (y[0] - y[-1]) / (x[0] - x[-1])
    assert (y - slope * (x - x[-1])).abs().max() < 1e-12


@pytest.mark.parametrize("name", [n for n in ALL])
def test_config_makes_the_same_schedule_again(name):
    assert torch.equal(schedules.by_name(**ALL[name].config).betas, ALL[name].betas)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: schedules.linear(beta_T=1.2), r"betas must lie in \(0, 1\]: got 1.0"),
        (lambda: schedules.linear(beta_1=0.0), r"betas must lie in \(0, 1\]: got 0 at t=0"),
        (lambda: schedules.Schedule("x", torch.tensor([0.1, float("nan")])), "got nan at t=1"),
        (lambda: schedules.Schedule("x", torch.tensor([1.0, 0.1])), "only the last beta may be 1"),
        (lambda: schedules.Schedule("x", torch.zeros(0)), "at least one number"),
        (lambda: schedules.linear(T=0), "at least 1: got 0"),
        (lambda: schedules.linear(T=10.5), "whole number of steps"),
        (lambda: schedules.scaled_linear(beta_1=-1.0), "got -1.0"),
        (lambda: schedules.by_name("sigmoid"), "'sigmoid' is unknown: choose one of linear, cosine, scaled_linear"),
        (lambda: schedules.by_name("cosine", beta_1=0.1), "does not take those settings: got beta_1"),
        (lambda: schedules.to_diffusers(schedules.linear(), "pndm"), "'pndm' is unknown"),
        (lambda: schedules.linear().at(torch.tensor([0, 1000]), torch.zeros(2, 1)), r"0..999: got 0..1000"),
        (lambda: schedules.linear().at(-1, torch.zeros(2, 1)), r"0..999: got -1..-1"),
        (lambda: schedules.zero_terminal_snr(ALL["one step"]), "at least 2 steps"),
    ],
)
def test_wrong_settings_are_refused(make, says):
    with pytest.raises(ReproError, match=says):
        make()


def test_continuous_levels():
    levels = schedules.continuous(ALL["sr3"])
    assert levels.sqrt_gamma.shape == (2001,) and levels.sqrt_gamma[0] == 1
    assert levels.sqrt_gamma[-1].item() == pytest.approx(0.00662, abs=5e-6)
    t = torch.tensor([1, 7, 2000])
    assert torch.allclose(levels.between(t, torch.zeros(3)).double(), levels.sqrt_gamma[t - 1])
    for wrong in (0, 2001):
        with pytest.raises(ReproError, match=r"1\.\.2000"):
            levels.between(torch.tensor([wrong]), torch.zeros(1))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1, exclude_max=True, width=32))
def test_continuous_level_lies_in_its_interval(t, u):
    levels = schedules.continuous(ALL["sr3"])
    got = levels.between(torch.tensor([t]), torch.tensor([u])).item()
    low, high = levels.sqrt_gamma[t].item(), levels.sqrt_gamma[t - 1].item()
    assert low - 1e-7 <= got <= high + 1e-7
    assert got == pytest.approx(high + u * (low - high), abs=1e-7)
