"""The forward process against its own chain, the posterior against Bayes, every conversion against its inverse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ddpm import schedules as ddpm
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.schedules import RDDMSchedule, by_config

SCHEDULES = [
    by_config(60),
    by_config(60, "average", "normal", sum_scale=0.01),
    RDDMSchedule.from_ddpm(ddpm.linear(60, 1e-3, 0.2)),
]
NOISE = KeyedNoise(0, range(4), "noise")


def draw(step: int) -> torch.Tensor:
    return NOISE.normal((2, 3, 3), step).double()


I_0, I_IN = draw(1).clamp(-1, 1), draw(2).clamp(-1, 1)
I_RES = process.residual(I_IN, I_0)


def test_residual_is_degraded_minus_clean():
    assert torch.equal(I_RES, I_IN - I_0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_chain_of_single_steps_is_the_closed_form(schedule):
    """Exactly: the chain's mean and variance, carried along, and its noise gathered into one eps (Eq. 7)."""
    state, gathered, variance = I_0, torch.zeros_like(I_0), 0.0
    for t in range(schedule.T):
        eps = draw(100 + t)
        state = process.q_step(state, I_RES, t, eps, schedule)
        gathered = gathered + float(schedule.beta2[t]) ** 0.5 * eps
        variance += float(schedule.beta2[t])
        abar, bbar = schedule.levels(t)
        assert variance == pytest.approx(bbar**2, rel=1e-12)
        jumped = process.q_sample(I_0, I_RES, t, gathered / bbar, schedule)
        torch.testing.assert_close(state, jumped, rtol=0, atol=1e-12)
        torch.testing.assert_close(jumped, I_0 + abar * I_RES + gathered, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_both_forms_of_the_forward_process_agree(schedule):
    t, eps = torch.tensor([0, 17, 41, schedule.T - 1]), draw(3)
    one = process.q_sample(I_0, I_RES, t, eps, schedule)
    abar, bbar = schedule.at(t, I_IN)
    torch.testing.assert_close(one, I_IN + (abar - 1) * I_RES + bbar * eps, rtol=0, atol=1e-14)  # Eq. 16
    assert one.isfinite().all()


@pytest.mark.parametrize("sum_scale", [1.0, 0.01, 4.0])
def test_the_start_holds_the_noise_that_training_ends_with(sum_scale):
    schedule, z = by_config(60, sum_scale=sum_scale), draw(4)
    start = process.start(I_IN, z, schedule)
    torch.testing.assert_close(start, I_IN + sum_scale**0.5 * z, rtol=0, atol=1e-14)
    torch.testing.assert_close(start, process.q_sample(I_0, I_RES, schedule.T - 1, z, schedule), rtol=0, atol=1e-14)
    # generation: pure noise
    torch.testing.assert_close(process.start(torch.zeros_like(z), z, schedule), sum_scale**0.5 * z, rtol=0, atol=1e-14)


def test_a_start_that_was_not_trained_for_can_be_measured():
    converted, z = SCHEDULES[2], draw(4)
    wrong = process.start(I_IN, z, converted, sum_scale=0.01)
    torch.testing.assert_close(wrong, I_IN + 0.1 * z, rtol=0, atol=1e-14)
    assert converted.sum_scale > 0.9


def test_an_earlier_start_is_wrong_by_the_rest_of_the_residual():
    schedule, z, t = SCHEDULES[0], draw(4), 50
    gap = process.start(I_IN, z, schedule, t) - process.q_sample(I_0, I_RES, t, z, schedule)
    torch.testing.assert_close(gap, (1 - schedule.levels(t)[0]) * I_RES, rtol=0, atol=1e-13)


# -- posterior --------------------------------------------------------------------------------------------------------


@given(st.data())
def test_posterior_at_eta_one_is_bayes_on_the_chain(data):
    """I_s and I_t = I_s + (abar_t - abar_s) I_res + noise are jointly Gaussian; conditioning them gives the mean."""
    schedule = data.draw(st.sampled_from(SCHEDULES))
    t = data.draw(st.integers(0, schedule.T - 1))
    s = data.draw(st.integers(-1, t - 1))
    (abar, bbar), (abar_s, bbar_s) = schedule.levels(t), schedule.levels(s)
    I_t = draw(5)
    gain = bbar_s**2 / bbar**2  # Cov(I_s, I_t) / Var(I_t)
    wanted = I_0 + abar_s * I_RES + gain * (I_t - I_0 - abar * I_RES)
    mean, variance = process.q_posterior(I_t, I_0, I_RES, t, s, schedule)
    torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-11)
    assert variance == pytest.approx(bbar_s**2 - gain * bbar_s**2, rel=1e-6, abs=1e-15)
    if s < 0:
        torch.testing.assert_close(mean, I_0, rtol=0, atol=0)
        assert variance == 0


@given(st.data())
def test_the_step_keeps_the_marginal_for_any_eta_and_stride(data):
    """E and Var of I_s over the step and over I_t ~ q(I_t | I_0, I_res) are those of q(I_s | I_0, I_res)."""
    schedule = data.draw(st.sampled_from(SCHEDULES))
    t = data.draw(st.integers(1, schedule.T - 1))
    s, eta = data.draw(st.integers(-1, t - 1)), data.draw(st.floats(0, 1))
    abar, bbar = schedule.levels(t)
    centre = I_0 + abar * I_RES
    at_centre, variance = process.q_posterior(centre, I_0, I_RES, t, s, schedule, eta)
    slope = (process.q_posterior(centre + 1, I_0, I_RES, t, s, schedule, eta)[0] - at_centre).mean().item()
    abar_s, bbar_s = schedule.levels(s)
    torch.testing.assert_close(at_centre, I_0 + abar_s * I_RES, rtol=0, atol=1e-12)
    assert slope**2 * bbar**2 + variance == pytest.approx(bbar_s**2, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("t", "s", "eta"), [(3, 3, 0.0), (3, 5, 0.0), (60, 3, 0.0), (3, -2, 0.0), (3, 1, 1.5)])
def test_impossible_steps_are_refused(t, s, eta):
    with pytest.raises(ReproError, match="got"):
        process.sigma2(SCHEDULES[0], t, s, eta)


# -- conversions ------------------------------------------------------------------------------------------------------


@given(st.data())
def test_conversions_go_round(data):
    schedule = data.draw(st.sampled_from(SCHEDULES))
    t, eps = data.draw(st.integers(0, schedule.T - 1)), draw(6)
    abar, bbar = schedule.levels(t)
    I_t = process.q_sample(I_0, I_RES, t, eps, schedule)

    def same(found, wanted, divisor=1.0):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13 / min(divisor, 1.0))

    same(process.eps_from_residual(I_t, I_IN, I_RES, abar, bbar), eps, bbar)
    same(process.eps_from_I0(I_t, I_IN, I_0, abar, bbar), eps, bbar)
    same(process.I0_from_both(I_t, I_RES, eps, abar, bbar), I_0)
    if abar < 1:
        same(process.I0_from_noise(I_t, I_IN, eps, abar, bbar), I_0, 1 - abar)


def test_conversions_refuse_where_they_are_undefined():
    x = I_0
    level = torch.tensor([0.5, 1.0, 0.2, 0.3], dtype=torch.float64).reshape(4, 1, 1, 1)
    for one in (1.0, level):
        with pytest.raises(ReproError, match="1 - abar_t = 0"):
            process.I0_from_noise(x, x, x, one, 1.0)
    for call in (process.eps_from_residual, process.eps_from_I0):
        with pytest.raises(ReproError, match="bbar_t = 0"):
            call(x, x, x, 0.5, 0.0)


def test_the_family_used_has_a_noise_at_index_0():
    """The other published version has bbar = 0 there; its noise from the residual is 0 / 0."""
    I_t = process.q_sample(I_0, I_RES, 0, draw(7), SCHEDULES[0])
    assert process.eps_from_residual(I_t, I_IN, I_RES, *SCHEDULES[0].levels(0)).isfinite().all()
