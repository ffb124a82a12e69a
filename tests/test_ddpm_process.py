"""Forward process and conversions: algebraic identities, both ends of every schedule, the exact v at zero SNR."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from repro.ddpm import process, schedules
from repro.errors import ReproError

SCHEDULES = [schedules.linear(), schedules.cosine(), schedules.scaled_linear(), schedules.linear(2000, 1e-6, 1e-2)]
ZERO = schedules.zero_terminal_snr(schedules.linear())


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCHEDULES), st.integers(0, 999), st.integers(0, 10**6), st.sampled_from(process.KINDS))
def test_conversions_round_trip(schedule, t, seed, kind):
    x0, eps = draw(seed, 2, 3, 4), draw(seed + 1, 2, 3, 4)
    x_t = process.q_sample(x0, t, eps, schedule)
    output = process.target(kind, x0, eps, t, schedule)
    read = process.Prediction.of(kind, output, x_t, t, schedule)
    a, s = schedule.at(t, x0)
    digits = 1e-13 / min(a.item(), s.item()) ** 2  # dividing by a small a or s costs digits, and only that
    assert (read.x0 - x0).abs().max() < digits
    assert (read.eps - eps).abs().max() < digits
    assert (read.v - (a * eps - s * x0)).abs().max() < digits
    for other in process.KINDS:  # any form leads back to the first
        again = process.Prediction.of(other, read.output(other), x_t, t, schedule)
        assert (again.output(kind) - output).abs().max() < 4 * digits


def test_rotation_of_v():
    """(x_t, v) is (x0, eps) turned by an angle: lengths are kept (Salimans and Ho 2022, Appendix D)."""
    x0, eps, t = draw(0, 5, 7), draw(1, 5, 7), torch.tensor([0, 10, 500, 990, 999])
    x_t, v = process.q_sample(x0, t, eps, ZERO), process.target("v_prediction", x0, eps, t, ZERO)
    assert (x_t**2 + v**2 - x0**2 - eps**2).abs().max() < 1e-12


def test_zero_snr_end():
    x0, eps = draw(0, 2, 5), draw(1, 2, 5)
    t = 999
    x_t = process.q_sample(x0, t, eps, ZERO)
    assert torch.equal(x_t, eps)
    v = process.target("v_prediction", x0, eps, t, ZERO)
    assert torch.equal(v, -x0)  # v still knows the sample
    for kind, output in (("v_prediction", v), ("sample", x0)):
        read = process.Prediction.of(kind, output, x_t, t, ZERO)
        assert torch.equal(read.x0, x0) and torch.equal(read.eps, eps) and torch.equal(read.v, v)
    with pytest.raises(ReproError, match="undefined where alpha_bar is 0"):
        process.Prediction.of("epsilon", eps, x_t, t, ZERO)
    with pytest.raises(ReproError, match="undefined where alpha_bar is 0"):
        process.v_from_eps(x_t, eps, 0.0, 1.0)


@pytest.mark.parametrize("schedule", [*SCHEDULES, ZERO], ids=lambda s: f"{s.name}-{s.T}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_finite(schedule, dtype):
    x0, eps = draw(0, 2, 3, 4, 4).to(dtype), draw(1, 2, 3, 4, 4).to(dtype)
    t = torch.tensor([0, schedule.T - 1])
    x_t = process.q_sample(x0, t, eps, schedule)
    mean, variance = process.q_posterior(x0, x_t, t, schedule)
    for value in (x_t, process.q_step(x0, t, eps, schedule), mean, variance):
        assert value.dtype == dtype and value.isfinite().all()
    assert (mean[0] - x0[0]).abs().max() < 1e-5 and variance[0] == 0  # at t = 0 the posterior is the data


def test_steps_compose_to_the_jump():
    """The chain on tensors with its noises equals the closed form with the chain's own combined noise."""
    schedule, x0 = schedules.linear(50, 1e-3, 0.3), draw(0, 4, 6)
    x, combined = x0, torch.zeros_like(x0)
    for t in range(50):
        z = draw(100 + t, 4, 6)
        beta = schedule.betas[t]
        combined = (1 - beta).sqrt() * combined + beta.sqrt() * z
        x = process.q_step(x, t, z, schedule)
        jump = process.q_sample(x0, t, combined / (1 - schedule.alpha_bar[t]).sqrt(), schedule)
        assert (x - jump).abs().max() < 1e-13


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x0) as a product of two densities, on a grid."""
    schedule, t, x0, x_t = schedules.linear(20, 0.05, 0.4), 7, 0.4, -0.9
    grid = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    ab, beta = schedule.alpha_bar[t - 1], schedule.betas[t]
    log_p = -((grid - ab.sqrt() * x0) ** 2) / (2 * (1 - ab)) - (x_t - (1 - beta).sqrt() * grid) ** 2 / (2 * beta)
    p = torch.softmax(log_p, 0)
    mean = (p * grid).sum()
    variance = (p * (grid - mean) ** 2).sum()
    one = torch.ones(1, 1, dtype=torch.float64)
    got_mean, got_variance = process.q_posterior(x0 * one, x_t * one, t, schedule)
    assert got_mean.item() == pytest.approx(mean.item(), abs=1e-10)
    assert got_variance.item() == pytest.approx(variance.item(), abs=1e-10)


def test_each_sample_has_its_own_step():
    schedule, x0, eps, t = SCHEDULES[0], draw(0, 3, 1, 4, 4), draw(1, 3, 1, 4, 4), torch.tensor([999, 3, 500])
    whole = process.q_sample(x0, t, eps, schedule)
    for i in range(3):
        assert torch.equal(whole[i : i + 1], process.q_sample(x0[i : i + 1], t[i], eps[i : i + 1], schedule))


def test_model_fn_reads_modules_and_refuses_unknown_kinds():
    class Answer:
        def __init__(self, sample):
            self.sample = sample

    class Net(nn.Module):
        def forward(self, x, t, cond=None):
            return Answer(x + t[:, None] + (0 if cond is None else cond))

    x, t = draw(0, 2, 3), torch.tensor([1, 2])
    assert torch.equal(process.model_fn(Net())(x, t), x + t[:, None])
    assert torch.equal(process.model_fn(Net(), cond=5)(x, t), x + t[:, None] + 5)
    assert torch.equal(process.model_fn(_Plain())(x, t), 2 * x)
    with pytest.raises(ReproError, match="'noise' is unknown: choose one of epsilon, sample, v_prediction"):
        process.target("noise", x, x, t, SCHEDULES[0])


class _Plain(nn.Module):
    def forward(self, x, t):
        return 2 * x
