"""Losses against independent arithmetic: numerical integrals, scipy, diffusers, and gradients that must not flow."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats

from repro.ddpm import losses, oracles, process, schedules
from repro.errors import ReproError

SCHEDULE = schedules.linear()


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("numbers", [(0.3, -1.0, -0.2, 0.4), (0.0, -6.0, 0.1, -5.0), (2.0, 0.5, -1.0, -0.7)])
def test_kl_is_the_integral(numbers):
    m1, l1, m2, l2 = numbers
    p, q = stats.norm(m1, math.exp(l1 / 2)), stats.norm(m2, math.exp(l2 / 2))
    width = 12 * p.std()
    integral, _ = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), m1 - width, m1 + width, limit=200)
    assert losses.gaussian_kl(*map(one, numbers)).item() == pytest.approx(integral, rel=1e-8)


@pytest.mark.parametrize(("mean", "log_var"), [(0.1, -3.0), (-0.97, -7.0), (1.3, -1.0), (0.0, 2.0)])
def test_decoder_is_a_distribution_over_256_values(mean, log_var):
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    nll = losses.discretized_nll(values, one(mean).expand(256), one(log_var).expand(256))
    assert torch.exp(-nll).sum().item() == pytest.approx(1.0, abs=1e-9)
    gauss = stats.norm(mean, math.exp(log_var / 2))
    for k in (0, 100, 130, 255):  # bins from x - 1/255 to x + 1/255, the end ones reaching to infinity
        x = values[k].item()
        low, high = (-math.inf if k == 0 else x - 1 / 255), (math.inf if k == 255 else x + 1 / 255)
        mass = gauss.cdf(high) - gauss.cdf(low)
        if mass > 1e-9:
            assert nll[k].item() == pytest.approx(-math.log(mass), rel=1e-6)


def test_decoder_keeps_its_digits_in_the_tails():
    """Six deviations out in float32, where (1 + erf) / 2 is 0 or 1 on both sides of the bin."""
    mass = stats.norm.cdf((-0.6 + 1 / 255) / 0.1) - stats.norm.cdf((-0.6 - 1 / 255) / 0.1)
    x, log_var = torch.tensor([[0.6]]), torch.tensor([[2 * math.log(0.1)]])
    upper = losses.discretized_nll(x, torch.zeros(1, 1), log_var)
    lower = losses.discretized_nll(-x, torch.zeros(1, 1), log_var)
    assert upper.item() == pytest.approx(-math.log(mass), rel=1e-4)
    assert lower.item() == pytest.approx(-math.log(mass), rel=1e-4)


def test_simple_loss():
    x, y = draw(0, 3, 2, 4, 4), draw(1, 3, 2, 4, 4)
    for norm, power in (("l1", 1), ("l2", 2)):
        expected = [((x[i] - y[i]).abs() ** power).sum().item() / 32 for i in range(3)]
        assert losses.simple(x, y, norm).tolist() == pytest.approx(expected)
    assert losses.simple(x.bfloat16(), y.float()).dtype == torch.float32
    with pytest.raises(ReproError, match=r"\(3, 4\) and \(3, 1\)"):
        losses.simple(torch.zeros(3, 4), torch.zeros(3, 1))  # would broadcast in silence
    with pytest.raises(ReproError, match="'huber' is unknown"):
        losses.simple(x, y, "huber")


@pytest.mark.parametrize("kind", process.KINDS)
def test_perfect_prediction_of_one_point_has_no_loss(kind):
    """Data of one point: the oracle knows the noise exactly, so the loss is zero at every t."""
    point = draw(0, 1, 2, 3, 3)
    oracle = oracles.FiniteData(point, SCHEDULE)
    t = torch.tensor([0, 1, 10, 500, 999])
    x0, eps = point.expand(5, -1, -1, -1), draw(1, 5, 2, 3, 3)
    assert losses.simple_loss(oracle.model(kind), x0, t, eps, SCHEDULE, kind).max() < 1e-20


@pytest.mark.parametrize("kind", process.KINDS)
def test_ideal_denoiser_is_the_minimum(kind):
    """No constant shift of E[x0 | x_t] lowers the expected loss; scaled by the target's own weight."""
    oracle = oracles.GaussianData(torch.zeros(4), torch.diag(torch.tensor([0.1, 0.5, 1.0, 2.0])), SCHEDULE)
    x0 = draw(0, 4000, 4) * oracle.values.sqrt() @ oracle.axes.T
    t, eps = torch.full((4000,), 400), draw(1, 4000, 4)
    best = losses.simple_loss(oracle.model(kind), x0, t, eps, SCHEDULE, kind).mean()
    for factor in (0.9, 1.1):
        worse = losses.simple_loss(lambda x, t, f=factor: f * oracle.model(kind)(x, t), x0, t, eps, SCHEDULE, kind)
        assert worse.mean() > best


def test_learned_range_equals_diffusers():
    theirs = schedules.to_diffusers(SCHEDULE, "ddpm", variance_type="learned_range")
    theirs.alphas_cumprod = SCHEDULE.alpha_bar
    number = draw(0, 2, 3, 4, 4).clamp(-1, 1)
    for t in (1, 2, 500, 999):
        got = losses.learned_range_log_variance(number, t, SCHEDULE)
        assert (got - theirs._get_variance(t, predicted_variance=number)).abs().max() < 1e-9
    low, high = (losses.learned_range_log_variance(one(v).reshape(1, 1), 300, SCHEDULE).exp().item() for v in (-1, 1))
    assert low == pytest.approx(SCHEDULE.posterior_variance[300].item())
    assert high == pytest.approx(SCHEDULE.betas[300].item())
    assert losses.learned_range_log_variance(number, 0, SCHEDULE).isfinite().all()  # log beta_tilde_0 is -inf


@pytest.mark.parametrize("kind", process.KINDS)
def test_reverse_mean_of_the_true_output_is_the_posterior_mean(kind):
    x0, eps, t = draw(0, 4, 3), draw(1, 4, 3), torch.tensor([0, 1, 500, 999])
    x_t = process.q_sample(x0, t, eps, SCHEDULE)
    got = losses.reverse_mean(process.target(kind, x0, eps, t, SCHEDULE), x_t, t, SCHEDULE, kind)
    assert (got - process.q_posterior(x0, x_t, t, SCHEDULE)[0]).abs().max() < 1e-11
    zero = schedules.zero_terminal_snr(SCHEDULE)
    if kind == "epsilon":
        with pytest.raises(ReproError, match="has no reverse mean"):
            losses.reverse_mean(eps, x_t, t, zero, kind)
    else:
        got = losses.reverse_mean(
            process.target(kind, x0, eps, t, zero), process.q_sample(x0, t, eps, zero), t, zero, kind
        )
        assert got.isfinite().all()


def test_bound_of_one_point_is_the_exact_likelihood():
    """Data of one 8-bit point with its oracle and beta_tilde: every KL is zero, what remains is the decoder and L_T."""
    schedule = schedules.linear(50, 1e-4, 0.3)
    x0 = ((draw(0, 1, 2, 3, 3).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    model = oracles.FiniteData(x0, schedule).model("epsilon")
    for t in range(50):
        when = torch.tensor([t])
        x_t = process.q_sample(x0, t, draw(t, 1, 2, 3, 3), schedule)
        mean = losses.reverse_mean(model(x_t, when), x_t, when, schedule)
        log_var = schedule.gather("posterior_log_variance", t, x0).expand_as(x0)
        term = losses.vlb_term(x0, x_t, when, mean, log_var, schedule)
        if t:
            assert term.abs().item() < 1e-9
        else:
            expected = losses.discretized_nll(x0, x0, log_var).mean() / math.log(2)
            assert term.item() == pytest.approx(expected.item(), abs=1e-9)


def test_bound_equals_a_second_implementation():
    """Per-sample bits per dimension with scipy and plain loops; t = 0 and t > 0 in one batch."""
    schedule = schedules.linear(10, 0.01, 0.3)
    x0, t = (draw(0, 3, 1, 2, 2).clamp(-1, 1) * 127.5).round() / 127.5, torch.tensor([0, 4, 9])
    x_t, mean, log_var = draw(1, 3, 1, 2, 2), draw(2, 3, 1, 2, 2) * 0.1, draw(3, 3, 1, 2, 2) - 2
    got = losses.vlb_term(x0, x_t, t, mean, log_var, schedule)
    alpha = [1 - b for b in schedule.betas.tolist()]
    for i, step in enumerate(t.tolist()):
        total = 0.0
        values = zip(*(v[i].flatten().tolist() for v in (x0, x_t, mean, log_var)), strict=True)
        for x, xt, m, lv in values:
            sd = math.exp(lv / 2)
            if step == 0:
                low, high = (-math.inf if x < -0.999 else x - 1 / 255), (math.inf if x > 0.999 else x + 1 / 255)
                total -= math.log(max(stats.norm.cdf(high, m, sd) - stats.norm.cdf(low, m, sd), 1e-12))
            else:
                ab, ab_prev = math.prod(alpha[: step + 1]), math.prod(alpha[:step])
                true_mean = ab_prev**0.5 * (1 - alpha[step]) / (1 - ab) * x
                true_mean += alpha[step] ** 0.5 * (1 - ab_prev) / (1 - ab) * xt
                p = stats.norm(true_mean, ((1 - ab_prev) / (1 - ab) * (1 - alpha[step])) ** 0.5)
                q = stats.norm(m, sd)
                total += p.expect(lambda z, p=p, q=q: p.logpdf(z) - q.logpdf(z))
        assert got[i].item() == pytest.approx(total / 4 / math.log(2), rel=1e-6)


class TwoHeads(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.variance = (torch.nn.Conv2d(2, 2, 3, padding=1, dtype=torch.float64) for _ in range(2))

    def forward(self, x, t):
        return torch.cat([self.mean(x), self.variance(x)], dim=1)


def test_hybrid_loss():
    net, t = TwoHeads(), torch.tensor([0, 1, 500, 999])
    x0, eps = draw(0, 4, 2, 5, 5).clamp(-1, 1), draw(1, 4, 2, 5, 5)
    loss = losses.hybrid_loss(net, x0, t, eps, SCHEDULE)
    assert torch.allclose(loss.total, loss.simple + 0.001 * 1000 * loss.vlb) and loss.total.shape == (4,)
    assert loss.total.isfinite().all()
    # the bound trains the variance head alone
    loss.vlb.sum().backward(retain_graph=True)
    assert net.mean.weight.grad.abs().max() == 0 and net.variance.weight.grad.abs().max() > 0
    net.zero_grad()
    loss.total.sum().backward()
    simple = losses.simple_loss(lambda x, t: net.mean(x), x0, t, eps, SCHEDULE)
    expected = torch.autograd.grad(simple.sum(), net.mean.weight)[0]
    assert torch.allclose(net.mean.weight.grad, expected, atol=1e-14)
    with pytest.raises(ReproError, match="needs a network with 4 output channels, twice its input: got 2"):
        losses.hybrid_loss(lambda x, t: x, x0, t, eps, SCHEDULE)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_hybrid_loss_at_zero_snr(kind):
    schedule, net = schedules.zero_terminal_snr(SCHEDULE), TwoHeads().float()
    x0, eps = draw(0, 2, 2, 5, 5).float(), draw(1, 2, 2, 5, 5).float()
    loss = losses.hybrid_loss(net, x0, torch.tensor([0, 999]), eps, schedule, kind)
    loss.total.sum().backward()
    assert loss.total.isfinite().all() and all(p.grad.isfinite().all() for p in net.parameters())
