"""Coefficients of both diffusions: published check values, families, the way to DDPM and back, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.ddpm import schedules as ddpm
from repro.errors import ReproError
from repro.rddm.schedules import FAMILIES, RDDMSchedule, by_config, family, indi

DEFAULT = by_config()
CONVERTED = RDDMSchedule.from_ddpm(ddpm.linear())


@pytest.mark.parametrize(
    ("t", "abar", "bbar"),
    [(0, 0.001998, 0.001414), (199, 0.35984, 0.200399), (499, 0.74975, 0.50025), (799, 0.95984, 0.8001), (999, 1, 1)],
)
def test_check_values_of_the_restoration_schedule(t, abar, bbar):
    assert DEFAULT.levels(t) == pytest.approx((abar, bbar), abs=6e-7, rel=1e-5)


def test_closed_forms_of_the_restoration_schedule():
    T, t = 1000, torch.arange(1, 1001, dtype=torch.float64)
    torch.testing.assert_close(DEFAULT.abar, 1 - (T - t) * (T - t + 1) / (T * (T + 1)), rtol=0, atol=1e-13)
    torch.testing.assert_close(DEFAULT.bbar2, t * (t + 1) / (T * (T + 1)), rtol=0, atol=1e-13)
    torch.testing.assert_close(DEFAULT.alpha, 2 * (T - t + 1) / (T * (T + 1)), rtol=1e-12, atol=0)


def test_the_end_is_exactly_one_and_the_clean_picture_is_minus_one():
    assert all(by_config(T).abar[-1] == 1.0 for T in (1, 3, 10, 49, 997))
    assert DEFAULT.levels(-1) == (0.0, 0.0)


@given(
    T=st.integers(1, 300),
    alpha=st.sampled_from(FAMILIES),
    beta2=st.sampled_from(FAMILIES),
    power=st.floats(0.1, 4),
    sum_scale=st.floats(0.001, 10),
)
def test_every_family_sums_grows_and_has_no_zero(T, alpha, beta2, power, sum_scale):
    powers = {"alpha_power": power if alpha in ("decreased", "increased") else 1.0}
    schedule = by_config(T, alpha, beta2, sum_scale=sum_scale, **powers)
    assert schedule.alpha.dtype == schedule.abar.dtype == schedule.bbar.dtype == torch.float64
    assert (schedule.alpha > 0).all() and (schedule.beta2 > 0).all()  # no zero at index 0, nor at the end
    assert schedule.abar.diff().min() > 0 if T > 1 else True
    assert schedule.abar[-1] == 1.0
    assert schedule.sum_scale == pytest.approx(sum_scale, rel=1e-12)
    again = by_config(**schedule.config)
    assert torch.equal(again.alpha, schedule.alpha) and torch.equal(again.beta2, schedule.beta2)


def test_families_have_their_shapes():
    up, down, bump = family("increased", 100), family("decreased", 100), family("normal", 100)
    assert torch.equal(down, up.flip(0)) and (up.diff() > 0).all()
    torch.testing.assert_close(bump, bump.flip(0), rtol=1e-12, atol=0)
    assert bump.argmax().item() in (49, 50) and bump[0] < bump.max() / 50
    t = torch.arange(1, 101, dtype=torch.float64)
    torch.testing.assert_close(family("increased", 100, 0.3), (t / 100) ** 0.3 / ((t / 100) ** 0.3).sum())
    torch.testing.assert_close(indi(100, 0.25).bbar, 0.5 * t / 100, rtol=1e-12, atol=0)


# -- DDPM -------------------------------------------------------------------------------------------------------------


def test_converted_schedule_stops_short_and_ignores_sum_scale():
    """The honest properties of "convert_to_ddim": it does not reach I_in, and its noise ends near 1."""
    assert CONVERTED.partial
    assert CONVERTED.abar[-1].item() == pytest.approx(0.993647, abs=5e-7)
    assert CONVERTED.sum_scale == pytest.approx(0.99996, abs=5e-6)
    with pytest.raises(ReproError, match=r"sum_scale 0\.01"):
        by_config(alpha="ddpm", beta2="ddpm", ddpm={"name": "linear"}, sum_scale=0.01)


@pytest.mark.parametrize("schedule", [ddpm.linear(), ddpm.cosine(100), ddpm.zero_terminal_snr(ddpm.scaled_linear())])
def test_a_converted_schedule_is_made_again_from_its_config(schedule):
    there = RDDMSchedule.from_ddpm(schedule)
    torch.testing.assert_close(there.abar, 1 - schedule.alpha_bar.sqrt(), rtol=0, atol=1e-13)
    torch.testing.assert_close(there.bbar, (1 - schedule.alpha_bar).sqrt(), rtol=1e-11, atol=0)
    again = by_config(**there.config)
    assert torch.equal(again.abar, there.abar) and torch.equal(again.bbar, there.bbar)


def test_alpha_bar_refuses_where_signal_and_noise_do_not_match():
    with pytest.raises(ReproError, match=r"no DDPM counterpart.*at t="):
        _ = DEFAULT.alpha_bar
    with pytest.raises(ReproError, match="no DDPM counterpart"):
        _ = CONVERTED.readjust(alpha="decreased", alpha_power=0.3).alpha_bar


def test_readjust_swaps_one_and_keeps_the_other():
    swapped = CONVERTED.readjust(alpha="decreased", alpha_power=0.3)
    assert torch.equal(swapped.bbar, CONVERTED.bbar) and swapped.abar[-1] == 1.0 and not swapped.partial
    torch.testing.assert_close(swapped.alpha, family("decreased", 1000, 0.3))
    small = by_config(50, sum_scale=0.01)
    swapped = small.readjust(beta2="average")
    assert torch.equal(swapped.abar, small.abar) and swapped.sum_scale == pytest.approx(0.01)
    for changed in (swapped, CONVERTED.readjust(alpha="average"), CONVERTED.readjust(beta2="normal")):
        again = by_config(**changed.config)
        assert torch.equal(again.abar, changed.abar)
        torch.testing.assert_close(again.beta2, changed.beta2, rtol=1e-12, atol=0)
    with pytest.raises(ReproError, match="name a family"):
        small.readjust()


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "beta2", "message"),
    [
        ([0.5, 0.4], [0.5, 0.5], "sums to 0.9.*: it must sum to 1"),
        ([0.5, 0.6], [0.5, 0.5], "sums to 1.1"),
        ([1.5, -0.5], [0.5, 0.5], "got -0.5 at t=1"),
        ([0.5, 0.5], [0.5, -0.1], "beta2 must be at least 0.*got -0.1 at t=1"),
        ([0.5, float("nan")], [0.5, 0.5], "got nan at t=1"),
        ([0.5, 0.5], [0.0, 0.5], "beta2 of schedule 'made' is 0 at t=0"),
        ([0.5, 0.5], [1.0], "equally long: got 2 and 1"),
        ([], [], "at least one number"),
    ],
)
def test_wrong_tables_are_refused(alpha, beta2, message):
    with pytest.raises(ReproError, match=message):
        RDDMSchedule("made", torch.tensor(alpha), torch.tensor(beta2))


def test_partial_is_said_and_bounded():
    assert RDDMSchedule("short", torch.tensor([0.5, 0.4]), torch.ones(2), partial=True).abar[-1] == pytest.approx(0.9)
    with pytest.raises(ReproError, match=r"sums to 1\.1"):
        RDDMSchedule("long", torch.tensor([0.5, 0.6]), torch.ones(2), partial=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": "cosine"}, "family 'cosine' is unknown"),
        ({"T": 0}, "at least 1: got 0"),
        ({"alpha_power": 0.0}, "power .* above 0"),
        ({"alpha": "average", "alpha_power": 2.0}, "got 2.0 with 'average'"),
        ({"sum_scale": -1.0}, "got -1.0"),
        ({"sum_scale": float("nan")}, "got nan"),
        ({"alpha": "ddpm"}, "need the schedule"),
        ({"T": 10, "alpha": "ddpm", "ddpm": {"name": "linear"}}, "has 1000 steps"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ReproError, match=message):
        by_config(**settings)


def test_gather_refuses_times_outside():
    x = torch.zeros(2, 1, 2, 2)
    for t in (-1, 1000):
        with pytest.raises(ReproError, match=r"0\.\.999"):
            DEFAULT.at(t, x)
    with pytest.raises(ReproError, match="got 1000"):
        DEFAULT.levels(1000)
