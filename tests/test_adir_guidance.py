"""ADIR's operators and guidance: adjoints, singular values, deepinv, the exact posterior of a Gaussian prior."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from deepinv import physics
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import refused
from torch.nn import functional as F

from repro.adir import guidance
from repro.adir.guidance import Guidance
from repro.ddpm.process import linear
from repro.ddpm.samplers import ancestral, sample, spaced
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


def drawn(shape, step=0):
    return KeyedNoise(0, range(shape[0]), "test").normal(tuple(shape[1:]), step)


def adjoint_error(op):
    x, y = drawn((2, *op.image)), drawn((2, *op.measurement), 1)
    return float(((op.A(x) * y).sum() - (x * op.transpose(y)).sum()).abs() / (1 + (op.A(x) * y).sum().abs()))


@given(task=st.sampled_from(list(guidance.TASKS)), h=st.integers(2, 6), w=st.integers(2, 6))
def test_the_adjoint_is_the_adjoint(task, h, w):
    assert adjoint_error(guidance.operator(task, 8 * h, 8 * w)) < 1e-4


@pytest.mark.parametrize("task", guidance.TASKS)
def test_singular_values_and_eigenvalues_are_those_of_the_written_out_matrix(task):
    op = guidance.operator(task, 16, 8)
    n, m = int(np.prod(op.image)), int(np.prod(op.measurement))
    A = op.A(torch.eye(n).reshape(n, *op.image)).reshape(n, -1).T.double()  # (m, n)
    expected = torch.linalg.svdvals(A)
    found = op.singular_values.flatten().sort(descending=True).values[: len(expected)].double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for kind in ("adjoint", "upsampling"):
        back = op.transpose(torch.eye(m).reshape(m, *op.measurement), kind).reshape(m, -1).double().T
        largest = torch.linalg.eigvals(back @ A).abs().max()
        assert op.eigenvalue(kind) == pytest.approx(float(largest), rel=1e-4)
    x = drawn((2, *op.image))
    y = op.A(x)
    torch.testing.assert_close(op.V(op.Vt(x)), x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(op.Vt(x) * op.singular_values, op.Ut(y), atol=1e-5, rtol=1e-4)
    again = op.pseudo_inverse(y, 1e-6)
    torch.testing.assert_close(op.A(again), y, atol=1e-4, rtol=1e-3)
    assert float((op.Vt(again) * (op.singular_values == 0)).abs().max()) < 1e-4


@pytest.mark.parametrize("factor", [4, 8])
def test_downsampling_is_torchs_and_pillows_antialiased_bicubic(factor):
    op, x = guidance.operator(f"sr{factor}", 64, 48), drawn((1, 3, 64, 48))
    expected = F.interpolate(x, size=(64 // factor, 48 // factor), mode="bicubic", antialias=True)
    torch.testing.assert_close(op.A(x), expected, atol=1e-6, rtol=1e-5)
    pillow = Image.fromarray(x[0, 0].numpy(), "F").resize((48 // factor, 64 // factor), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(op.A(x)[0, 0].numpy(), np.asarray(pillow), atol=1e-5)
    up = F.interpolate(expected, size=(64, 48), mode="bicubic", antialias=True)
    torch.testing.assert_close(op.transpose(expected, "upsampling"), up, atol=1e-6, rtol=1e-5)


def test_operators_and_adjoints_are_deepinvs():
    """Its bicubic downsampling is MATLAB's, which mirrors the border where ours cuts the kernel and normalises it."""
    x = drawn((2, 3, 64, 48)).clamp(-1, 1)
    for factor in (4, 8):
        found, theirs = guidance.operator(f"sr{factor}", 64, 48).A(x), physics.DownsamplingMatlab(factor=factor).A(x)
        torch.testing.assert_close(found[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], atol=1e-6, rtol=0)
        assert 0.01 < float((found - theirs).abs().max()) < 0.2
    bell = torch.exp(-(torch.arange(-6.0, 7) ** 2) / 8)
    pairs = {"colour": physics.Decolorize(srf="average")}
    for task, taps in (("box", torch.full((5,), 0.2)), ("gauss", bell / bell.sum())):
        pairs[task] = physics.Blur(torch.outer(taps, taps)[None, None], padding="reflect")
    for task, theirs in pairs.items():
        ours = guidance.operator(task, 64, 48)
        torch.testing.assert_close(ours.A(x), theirs.A(x), atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.transpose(ours.A(x)), theirs.A_adjoint(ours.A(x)), atol=1e-6, rtol=0)
    grey, mean = drawn((1, 1, 64, 48)), guidance.operator("colour", 64, 48)
    torch.testing.assert_close(mean.transpose(grey, "upsampling"), grey.expand(1, 3, 64, 48))
    torch.testing.assert_close(3 * mean.transpose(grey), grey.expand(1, 3, 64, 48))


def test_masks_and_compositions_are_operators_too():
    blur, mask = guidance.operator("box", 16), (drawn((16, 16)) > 0).float()
    both = guidance.compose(replace(guidance.operator("sr4", 16), mask=mask[:4, :4]), blur)
    x = drawn((2, 3, 16, 16))
    torch.testing.assert_close(
        both.A(x), mask[:4, :4] * guidance.operator("sr4", 16).A(blur.A(x)), atol=1e-6, rtol=1e-5
    )
    assert both.noise == 0  # the blur's would come before the smaller size
    for op in (both, replace(blur, mask=mask)):
        assert adjoint_error(op) < 1e-4
        with pytest.raises(ReproError, match="masked"):
            op.pseudo_inverse(op.A(x))


def test_noise_is_keyed_and_of_its_size():
    op, x = guidance.operator("box", 64), torch.zeros(4, 3, 64, 64)
    y = op.measure(x, KeyedNoise(1, range(4), "m"))
    assert float(y.std()) == pytest.approx(10 / 127.5, rel=0.02)
    assert torch.equal(y[2:3], op.measure(x[:1], KeyedNoise(1, [2], "m")))


def test_what_does_not_fit_is_refused():
    op = guidance.operator("sr4", 64)
    cases = {
        "multiples of it": lambda: guidance.operator("sr4", 62, 64),
        "unknown task": lambda: guidance.operator("blur", 64),
        "odd number of taps": lambda: guidance.operator("box4", 64),
        "twice the side: got 13 for 4": lambda: guidance.operator("gauss", 4),
        r"takes \(B, 3, 64, 64\)": lambda: op.A(torch.zeros(1, 3, 32, 64)),
        r"takes \(B, 3, 16, 16\)": lambda: op.transpose(torch.zeros(1, 3, 64, 64)),
    }
    refused(cases)


SCHEDULE = linear()
SHAPE = guidance.SHAPE
PLAIN = Guidance(transpose="adjoint", limit=math.inf)
DATA, HALVED = guidance.gaussian(), guidance.halved()
IDENTITY = guidance.Separable(torch.eye(3), torch.eye(4), torch.eye(4))


def noises(ids, key="n"):
    return KeyedNoise(0, ids, key)


def both(x, t):
    """The Gaussian's denoiser, and a variance of its own at every pixel."""
    return torch.cat([DATA.model()(x, t), x.tanh()], dim=1)


def test_the_step_of_algorithm_1_is_the_packages():
    op, y, x = HALVED, drawn((2, 3, 2, 2)), drawn((2, *SHAPE), 1)
    eps, v, t, s = drawn((2, *SHAPE), 2), drawn((2, *SHAPE), 3).tanh(), 500, 7.0
    model = lambda x, t: torch.cat([eps, v], dim=1)  # noqa: E731
    guide = guidance.guide(model, y, op, SCHEDULE, replace(PLAIN, scale=s))
    options = {"variance": "learned_range", "clip": False, "guide": guide}
    found = next(ancestral(model, x, SCHEDULE, noises(range(2)), [t, t - 1], **options)).mean
    beta, ab, ab_prev = SCHEDULE.betas[t], SCHEDULE.alpha_bar[t], SCHEDULE.alpha_bar[t - 1]
    tilde = (1 - ab_prev) / (1 - ab) * beta
    sigma = torch.exp((v + 1) / 2 * beta.log() + (1 - v) / 2 * tilde.log())
    mu = (x - beta / (1 - ab).sqrt() * eps) / (1 - beta).sqrt()  # eq. 5
    y_t = ab.sqrt() * y + (1 - ab).sqrt() * op.A(eps)
    g = -2 * op.transpose(op.A(mu.float()) - y_t.float())  # eq. 17
    torch.testing.assert_close(found, (mu + s * sigma * g).float(), atol=1e-5, rtol=1e-5)


def test_guidance_comes_near_the_exact_posterior_and_further_with_more_steps():
    y = HALVED.A(drawn((1, *SHAPE), 5) * 0.4)
    mean, _ = guidance.posterior(DATA, HALVED, y)
    found = [guidance.guided(DATA, HALVED, y, Guidance(transpose="adjoint"), steps)[0] for steps in (5, 20)]
    few, many = (float((each - mean).norm() / mean.norm()) for each in found)
    assert many < min(few, 0.25) and few < 1
    nothing, _ = guidance.guided(DATA, HALVED, y, Guidance(scale=0), 20)
    assert float(nothing.abs().max()) < 1e-6  # the prior's mean


def test_the_oracles_measurement_does_not_depend_on_which_eigenvectors_were_found(monkeypatch):
    y, other = guidance.measurement(3), guidance.gaussian()
    other.axes = -other.axes  # as good as the first ones
    monkeypatch.setattr(guidance, "gaussian", lambda: other)
    assert torch.equal(guidance.measurement(3), y)
    drawn_y = torch.cat([guidance.measurement(seed) for seed in range(2000)]).flatten(1).double()
    A = HALVED.A(torch.eye(guidance.D).reshape(guidance.D, *SHAPE)).reshape(guidance.D, -1).T.double()
    torch.testing.assert_close(drawn_y.T @ drawn_y / 2000, A @ DATA.covariance @ A.T, atol=0.02, rtol=0)


def test_without_the_limit_few_steps_diverge():
    y = drawn((1, *SHAPE), 6) * 0.4
    held, wild = (guidance.guided(DATA, IDENTITY, y, Guidance(limit=limit), 10)[0] for limit in (0.5, math.inf))
    assert float((held - y.flatten()).abs().max()) < 0.5
    assert float(wild.abs().max()) > 100


def test_each_gradient_is_what_it_is_called():
    op, y, x = HALVED, drawn((1, 3, 2, 2)), drawn((1, *SHAPE), 1)
    step = next(ancestral(DATA.model(), x, SCHEDULE, noises([0]), [300, 200], clip=False))
    a, s, t = step.a, step.s, torch.tensor([300])

    def g(gradient):
        settings = replace(PLAIN, scale=1, gradient=gradient)
        return guidance.guide(DATA.model(), y, op, SCHEDULE, settings)(x, t, step)

    x_ = x.clone().requires_grad_()
    error = (op.A((x_ - s * DATA.model()(x_, t)) / a) - y).square().sum()
    exact_gradient = -torch.autograd.grad(error, x_)[0]
    torch.testing.assert_close(g("exact"), exact_gradient, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(g("unsquared"), exact_gradient / (2 * error.sqrt()), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(g("naive"), -2 * op.transpose(op.A(x) - y), atol=1e-5, rtol=1e-4)
    # with the noise held constant, eq. 15 times alpha_bar is eq. 17
    constant = -2 * op.transpose(op.A((x - s * step.output) / a) - y) * a
    torch.testing.assert_close(g("surrogate"), constant, atol=1e-4, rtol=1e-3)
    dps = guidance.guide(DATA.model(), y, op, SCHEDULE, guidance.DPS)(x, t, step)  # not times the variance
    torch.testing.assert_close(dps * step.variance, g("unsquared"), atol=1e-4, rtol=1e-3)


def test_the_limit_holds_for_the_largest_variance_and_a_level_may_be_that_of_the_step_before():
    y, x, t = drawn((2, 3, 2, 2)), drawn((2, *SHAPE), 1), torch.full((2,), 700)
    step = next(ancestral(both, x, SCHEDULE, noises(range(2)), [700, 300], variance="learned_range", clip=False))
    move = lambda **s: guidance.guide(both, y, HALVED, SCHEDULE, replace(PLAIN, **s))(x, t, step)  # noqa: E731
    s = 0.3 / (0.25 * step.variance.amax(dim=(1, 2, 3), keepdim=True))  # a quarter: the eigenvalue of half-sized means
    torch.testing.assert_close(move(scale=1e5, limit=0.3), s * move(scale=1), rtol=1e-4, atol=1e-4)
    ab = float(SCHEDULE.alpha_bar[300])
    error = HALVED.A(x) - ab**0.5 * y - (1 - ab) ** 0.5 * HALVED.A(step.output)
    expected = -2 * HALVED.transpose(error)
    torch.testing.assert_close(move(scale=1, level="previous"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [Guidance(), Guidance(at="x_t", clip=False)])
def test_reconstruction_is_guided_ancestral_sampling_over_all_levels_as_chosen(settings):
    y, noise, times = 5 * drawn((2, 3, 2, 2)), noises(range(2)), [999, 749, 500, 250, 0]
    found = sample(guidance.reconstruct(both, y, HALVED, SCHEDULE, noise, settings, 5))
    options = {"variance": "learned_range", "clip": settings.clip, "guide_at": settings.at}
    options["guide"] = guidance.guide(both, y, HALVED, SCHEDULE, settings)
    x_T = noise.normal(SHAPE, step=1000)
    assert torch.equal(found, sample(ancestral(both, x_T, SCHEDULE, noise, times, **options)))


def test_reconstruction_depends_on_its_key_not_on_its_batch():
    y = drawn((2, 3, 2, 2))
    run = lambda ids, y: sample(guidance.reconstruct(both, y, HALVED, SCHEDULE, noises(ids), Guidance(), 5))  # noqa: E731
    torch.testing.assert_close(run([8, 9], y)[1:], run([9], y[1:]), atol=1e-6, rtol=1e-5)


def test_ddrm_without_noise_keeps_the_measurement_and_fills_the_rest_from_the_prior():
    x = drawn((1, *SHAPE), 5) * 0.3
    y = HALVED.A(x).expand(256, -1, -1, -1)
    *_, (found, _) = guidance.ddrm(DATA.model(), y, HALVED, SCHEDULE, noises(range(256)), steps=50)
    torch.testing.assert_close(HALVED.A(found), y, atol=1e-4, rtol=1e-3)
    mean, _ = guidance.posterior(DATA, HALVED, y[:1])
    assert float((found.mean(dim=0).flatten() - mean).norm()) < 0.35 * float(x.norm())


def test_ddrm_is_deepinvs(monkeypatch):
    """The same noise for both. Deepinv calls 0 what lies below the noise, and halves the variance of what it draws."""
    from deepinv.physics import DecomposablePhysics, GaussianNoise
    from deepinv.sampling import DDRM

    op = replace(guidance.operator("box3", 4), noise=0.1)
    y = op.measure(drawn((2, *SHAPE), 5) * 0.2, KeyedNoise(1, range(2), "e"))
    noise, ts = noises(range(2)), spaced(SCHEDULE.T, 8, "linspace")
    monkeypatch.setattr(guidance, "SMALLEST", 0.1)
    *_, (_, found) = guidance.ddrm(DATA.model(), y, op, SCHEDULE, noise, 8)
    sigmas = [float(((1 - a) / a).sqrt()) for a in SCHEDULE.alpha_bar[ts]]
    draws = iter([noise.normal(SHAPE, step=t) * 2**0.5 for t in (SCHEDULE.T, *ts)])
    monkeypatch.setattr(torch, "randn_like", lambda x: next(draws))

    def denoiser(x, sigma):
        t = ts[sigmas.index(sigma)]
        return DATA.x0(x * SCHEDULE.alpha_bar[t].sqrt(), t).clamp(-1, 1)

    axes = {"U": op.V, "U_adjoint": op.Ut, "V": op.V, "V_adjoint": op.Vt}  # U is never called
    physics = DecomposablePhysics(**axes, mask=op.singular_values[None], noise_model=GaussianNoise(0.1))
    theirs = DDRM(denoiser, sigmas=sigmas, eps=0.0)(y, physics)
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-3)


def test_settings_that_cannot_work_are_refused():
    cases = {
        "diverges": {"limit": 1.0},
        "gradient 'dps'": {"gradient": "dps"},
        "level 's'": {"level": "s"},
        "scale s: got nan; accepted: 0 to inf": {"scale": float("nan")},
    }
    refused(cases, lambda setting: Guidance(**setting))
