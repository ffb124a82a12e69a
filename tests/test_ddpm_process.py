"""Schedules, forward process and losses: published constants, diffusers, identities, scipy, refusals."""

import math

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny import refused
from torch import nn
from torch.distributions import Normal, kl_divergence

from repro.ddpm import oracles, process
from repro.errors import ReproError

LINEAR = process.linear()
ZERO = process.zero_terminal_snr(LINEAR)
ALL = {
    "linear": LINEAR,
    "cosine": process.cosine(),
    "scaled_linear": process.scaled_linear(),
    "linear zero": ZERO,
    "cosine zero": process.zero_terminal_snr(process.cosine()),
    "scaled zero": process.zero_terminal_snr(process.scaled_linear()),
    "sr3": process.linear(2000, 1e-6, 1e-2),
    "one step": process.linear(1, 0.5, 0.5),
}


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_published_constants():
    for name, final in {"linear": 4.0358e-5, "scaled_linear": 4.660e-3, "sr3": 4.386e-5}.items():
        assert ALL[name].alpha_bar[-1].item() == pytest.approx(final, rel=1e-3)
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    expected = torch.tensor([f[t] / f[0] for t in range(1, 1000)], dtype=torch.float64)  # the last beta is cut
    assert (ALL["cosine"].alpha_bar[:-1] - expected).abs().max() < 1e-14 and ALL["cosine"].betas[-1] == 0.999
    _, sigma = ALL["sr3"].at(0, torch.zeros(1, 1))  # 1 - alpha_bar_0 = 1e-6: taken in float32 it would be off by 5 %
    assert sigma.item() == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("sr3", "one step")])
def test_betas_equal_diffusers(name):
    schedule = ALL[name]
    for kind in ("ddpm", "ddim", "ddim_inverse"):
        theirs = process.to_diffusers(schedule, kind)
        # diffusers rounds to float32 on the way (rescaling amplifies it near the end); samplers use alpha_bar
        assert (theirs.betas.double() - schedule.betas).abs().max() < (3e-4 if "zero" in name else 1e-7)
        assert (theirs.alphas_cumprod.double() - schedule.alpha_bar).abs().max() < 2e-6
    # constructors written out here, so that `to_diffusers` cannot hide a wrong name
    own = {
        "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
        "cosine": {"beta_schedule": "squaredcos_cap_v2"},
        "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    }
    if name in own:
        assert (diffusers.DDPMScheduler(**own[name]).betas.double() / schedule.betas - 1).abs().max() < 1e-5


def test_hand_made_betas_go_to_diffusers():
    schedule = process.Schedule("mine", torch.tensor([0.1, 0.3, 0.2]))
    scheduler = process.to_diffusers(schedule, "ddim", prediction_type="v_prediction")
    assert (scheduler.alphas_cumprod.double() - schedule.alpha_bar).abs().max() < 1e-7
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("name", ALL)
def test_tables_are_consistent_and_equal_the_chain(name):
    s = ALL[name]
    for table in (s.betas, s.alpha_bar, s.alpha_bar_prev, s.posterior_variance, s.posterior_log_variance):
        assert table.shape == (s.T,) and table.dtype == torch.float64 and table.isfinite().all()
    assert (s.posterior_variance <= s.betas).all() and s.posterior_variance[0] == 0
    # log 0 at t = 0 gives way to its neighbour (Improved DDPM's code); the rest is the logarithm
    assert torch.equal(s.posterior_log_variance[1:], s.posterior_variance[1:].log())
    assert s.T == 1 or s.posterior_log_variance[0] == s.posterior_log_variance[1]
    a, sigma = s.at(torch.tensor([0, s.T - 1]), torch.zeros(2, 3, 4, 4))  # both ends
    assert a.shape == sigma.shape == (2, 1, 1, 1) and a.dtype == torch.float32 and (sigma > 0).all()
    assert torch.equal(process.by_name(**s.config).betas, s.betas)
    worst = oracles.chain_vs_closed_form(s)
    assert len(worst) == 5 and max(worst.values()) < 1e-10, worst


def test_wrong_settings_are_refused():
    cases = {
        r"betas must lie in \(0, 1\].*got 1.0": lambda: process.linear(beta_T=1.2),
        "got nan at t=1": lambda: process.Schedule("x", torch.tensor([0.1, float("nan")])),
        "only the last may be 1: got 1 at t=0": lambda: process.Schedule("x", torch.tensor([1.0, 0.1])),
        "'sigmoid' is unknown: choose one of linear, cosine, scaled_linear": lambda: process.by_name("sigmoid"),
        r"0..999: got 0..1000": lambda: process.linear().at(torch.tensor([0, 1000]), torch.zeros(2, 1)),
        "got nan at t=0": lambda: process.zero_terminal_snr(ALL["one step"]),
        "'noise' is unknown: choose one of epsilon": lambda: process.target("noise", one(0), one(0), 0, LINEAR),
        r"\(3, 4\) and \(3, 1\)": lambda: process.simple(torch.zeros(3, 4), torch.zeros(3, 1)),  # would broadcast
    }
    refused(cases)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(ALL.values())), st.integers(0, 998), st.integers(0, 10**6), st.sampled_from(process.KINDS))
def test_every_prediction_leads_to_sample_and_noise(schedule, t, seed, kind):
    t = min(t, schedule.T - 1)
    x0, eps = draw(seed, 2, 3, 4), draw(seed + 1, 2, 3, 4)
    x_t = process.q_sample(x0, t, eps, schedule)
    output = process.target(kind, x0, eps, t, schedule)
    a, s = (float(x) for x in schedule.at(t, x0))
    digits = 1e-13 / min(a, s) ** 2  # dividing by a small a or s costs digits, and only that
    assert (process.to_x0(output, x_t, a, s, kind) - x0).abs().max() < digits
    assert (process.to_eps(output, x_t, a, s, kind) - eps).abs().max() < digits
    assert (process.from_x0(kind, x_t, x0, a, s) - output).abs().max() < digits


def test_v_at_zero_snr_still_knows_the_sample():
    x0, eps, t = draw(0, 5, 7), draw(1, 5, 7), torch.tensor([0, 10, 500, 990, 999])
    x_t, v = process.q_sample(x0, t, eps, ZERO), process.target("v_prediction", x0, eps, t, ZERO)
    # (x_t, v) is (x0, eps) turned by an angle: lengths are kept (Salimans and Ho 2022, Appendix D)
    assert (x_t**2 + v**2 - x0**2 - eps**2).abs().max() < 1e-12
    assert torch.equal(x_t[-1], eps[-1]) and torch.equal(v[-1], -x0[-1])
    assert torch.equal(process.to_x0(v[-1], x_t[-1], 0.0, 1.0, "v_prediction"), x0[-1])
    for i in range(5):  # each sample has its own step
        assert torch.equal(x_t[i : i + 1], process.q_sample(x0[i : i + 1], t[i], eps[i : i + 1], ZERO))


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x0) as a product of two densities, on a grid."""
    schedule, t, x0, x_t = process.linear(20, 0.05, 0.4), 7, 0.4, -0.9
    grid = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    ab, beta = schedule.alpha_bar[t - 1], schedule.betas[t]
    log_p = -((grid - ab.sqrt() * x0) ** 2) / (2 * (1 - ab)) - (x_t - (1 - beta).sqrt() * grid) ** 2 / (2 * beta)
    p = torch.softmax(log_p, 0)
    mean = (p * grid).sum()
    found = process.q_posterior(one(x0).reshape(1, 1), one(x_t).reshape(1, 1), t, schedule)
    wanted = mean.item(), (p * (grid - mean) ** 2).sum().item()
    assert [moment.item() for moment in found] == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize(("mean", "log_var"), [(0.1, -3.0), (-0.97, -7.0), (1.3, -1.0), (0.0, 2.0)])
def test_decoder_is_a_distribution_over_256_values(mean, log_var):
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    nll = process.discretized_nll(values, one(mean).expand(256), one(log_var).expand(256))
    assert torch.exp(-nll).sum().item() == pytest.approx(1.0, abs=1e-9)
    gauss = stats.norm(mean, math.exp(log_var / 2))
    for k in (0, 100, 130, 255):  # bins from x - 1/255 to x + 1/255, the end ones reaching to infinity
        x = values[k].item()
        low, high = (-math.inf if k == 0 else x - 1 / 255), (math.inf if k == 255 else x + 1 / 255)
        if (mass := gauss.cdf(high) - gauss.cdf(low)) > 1e-9:
            assert nll[k].item() == pytest.approx(-math.log(mass), rel=1e-6)
    # six deviations out in float32, where (1 + erf) / 2 is 0 or 1 on both sides of the bin
    mass = stats.norm.cdf((-0.6 + 1 / 255) / 0.1) - stats.norm.cdf((-0.6 - 1 / 255) / 0.1)
    for x in (torch.tensor([[0.6]]), torch.tensor([[-0.6]])):
        found = process.discretized_nll(x, torch.zeros(1, 1), torch.tensor([[2 * math.log(0.1)]]))
        assert found.item() == pytest.approx(-math.log(mass), rel=1e-4)


def test_simple_loss_is_the_mean_difference():
    x, y = draw(0, 3, 2, 4, 4), draw(1, 3, 2, 4, 4)
    for norm, power in (("l1", 1), ("l2", 2)):
        expected = [((x[i] - y[i]).abs() ** power).sum().item() / 32 for i in range(3)]
        assert process.simple(x, y, norm).tolist() == pytest.approx(expected)
    assert process.simple(x.bfloat16(), y.float()).dtype == torch.float32


@pytest.mark.parametrize("kind", process.KINDS)
def test_the_ideal_denoiser_has_the_smallest_loss(kind):
    """On Gaussian data no scaled output of E[x0 | x_t] has a lower one."""
    oracle = oracles.GaussianData(torch.zeros(4), torch.diag(torch.tensor([0.1, 0.5, 1.0, 2.0])), LINEAR)
    x0, t, eps = draw(0, 4000, 4) * oracle.values.sqrt() @ oracle.axes.T, torch.full((4000,), 400), draw(1, 4000, 4)
    best, low, high = (
        process.simple_loss(lambda x, t, f=f: f * oracle.model(kind)(x, t), x0, t, eps, LINEAR, kind).mean()
        for f in (1.0, 0.9, 1.1)
    )
    assert best < low and best < high


def test_learned_range_equals_diffusers():
    theirs = process.to_diffusers(LINEAR, "ddpm", variance_type="learned_range")
    theirs.alphas_cumprod = LINEAR.alpha_bar
    number = draw(0, 2, 3, 4, 4).clamp(-1, 1)
    for t in (1, 2, 500, 999):
        got = process.learned_range_log_variance(number, t, LINEAR)
        assert (got - theirs._get_variance(t, predicted_variance=number)).abs().max() < 1e-9
    assert process.learned_range_log_variance(number, 0, LINEAR).isfinite().all()  # log beta_tilde_0 is -inf


def test_the_terms_of_the_bound_are_torchs_divergences_and_the_decoder():
    """Per sample in bits per dimension; t = 0 and t > 0 in one batch."""
    schedule = process.linear(10, 0.01, 0.3)
    x0, t = (draw(0, 3, 1, 2, 2).clamp(-1, 1) * 127.5).round() / 127.5, torch.tensor([0, 4, 9])
    eps, mean, log_var = draw(1, 3, 1, 2, 2), draw(2, 3, 1, 2, 2) * 0.1, draw(3, 3, 1, 2, 2) - 2
    x_t = process.q_sample(x0, t, eps, schedule)
    true, variance = process.q_posterior(x0, x_t, t, schedule)
    wanted = kl_divergence(Normal(true[1:], variance[1:].sqrt()), Normal(mean[1:], (log_var[1:] / 2).exp()))
    wanted = torch.cat([process.discretized_nll(x0[:1], mean[:1], log_var[:1]), wanted]).mean(dim=(1, 2, 3))
    assert torch.allclose(process.vlb_term(x0, x_t, t, mean, log_var, schedule), wanted / math.log(2), rtol=1e-9)


def test_the_bound_of_the_hybrid_loss_trains_the_variance_alone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, variance = (nn.Conv2d(2, 2, 3, padding=1, dtype=torch.float64) for _ in range(2))
    x0, eps, t = draw(0, 4, 2, 5, 5).clamp(-1, 1), draw(1, 4, 2, 5, 5), torch.tensor([0, 1, 500, 999])
    loss = process.hybrid_loss(lambda x, t: torch.cat([mean(x), variance(x)], dim=1), x0, t, eps, LINEAR)
    simple = process.simple_loss(lambda x, t: mean(x), x0, t, eps, LINEAR)
    x_t, (a, s) = process.q_sample(x0, t, eps, LINEAR), LINEAR.at(t, x0)
    log_var = process.learned_range_log_variance(variance(x_t), t, LINEAR)
    predicted = process.q_posterior((x_t - s * mean(x_t)) / a, x_t, t, LINEAR)[0]
    bound = process.vlb_term(x0, x_t, t, predicted, log_var, LINEAR)
    assert torch.allclose(loss, simple + bound)  # 0.001 times the sum over 1000 steps, for which one stands
    of_mean, of_variance = torch.autograd.grad(loss.sum(), [mean.weight, variance.weight])
    assert torch.allclose(of_mean, *torch.autograd.grad(simple.sum(), mean.weight), atol=1e-14)
    assert of_variance.abs().max() > 0
    with pytest.raises(ReproError, match="4 output channels: got 2"):
        process.hybrid_loss(lambda x, t: x, x0, t, eps, LINEAR)
