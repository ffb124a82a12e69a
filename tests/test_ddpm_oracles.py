"""Samplers and guidance against exact answers: Gaussian data, one point, finite data sets. No Monte Carlo."""

from __future__ import annotations

import pytest
import torch

from repro.ddpm import guidance, oracles, process, samplers, schedules
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

LINEAR = schedules.linear()
ZERO = schedules.zero_terminal_snr(LINEAR)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(schedule=LINEAR, D=3) -> oracles.GaussianData:
    root = draw(5, D, D) * 0.4
    return oracles.GaussianData(draw(6, D) * 0.5, root @ root.T, schedule)


def worst(moments, oracle) -> float:
    """Largest difference of any mean or covariance entry from the exact marginal, over all steps of a run."""
    return max(
        max((m - exact_m).abs().max().item(), (c - exact_c).abs().max().item())
        for t, m, c in moments
        for exact_m, exact_c in [oracle.marginal(t)]
    )


def end(moments, oracle) -> float:
    return worst(moments[-1:], oracle)


# -- the oracles themselves --------------------------------------------------------------------------------------------


def test_gaussian_oracle_is_conditioning_of_the_joint():
    """E[x0 | x_t] from the joint covariance of (x0, x_t) with a dense solve."""
    oracle, t = gaussian(), 321
    a, s2 = LINEAR.alpha_bar[t].sqrt(), 1 - LINEAR.alpha_bar[t]
    x = draw(0, 5, 3)
    joint = a**2 * oracle.covariance + s2 * torch.eye(3, dtype=torch.float64)
    expected = oracle.mean + torch.linalg.solve(joint, (x - a * oracle.mean).T).T @ (a * oracle.covariance)
    assert (oracle.x0(x, t) - expected).abs().max() < 1e-12
    score = -torch.linalg.solve(joint, (x - a * oracle.mean).T).T
    assert (oracle.eps(x, t) + s2.sqrt() * score).abs().max() < 1e-12
    assert (oracle.log_likelihood_gradient(x, t) - score).abs().max() < 1e-12


def test_finite_oracle_is_the_weighted_mean():
    data, x = draw(0, 6, 2, 2), draw(1, 3, 2, 2)
    oracle, t = oracles.FiniteData(data, LINEAR), torch.tensor([0, 300, 999])
    for i in range(3):
        ab = LINEAR.alpha_bar[t[i]]
        p = torch.stack([torch.exp(-((x[i] - ab.sqrt() * d) ** 2).sum() / (2 * (1 - ab))) for d in data])
        if p.sum() > 0:
            expected = (p[:, None, None] * data).sum(0) / p.sum()
            assert (oracle.x0(x, t)[i] - expected).abs().max() < 1e-10
    assert oracle.x0(x, t).isfinite().all()  # at t = 0 every density underflows, the logarithms do not
    weights = oracle.log_weights(x, t).exp()
    assert torch.allclose(weights.sum(1), torch.ones(3, dtype=torch.float64))


def test_many_points_from_a_gaussian_tend_to_the_gaussian_oracle():
    oracle = gaussian()
    values, axes = torch.linalg.eigh(oracle.covariance)
    points = oracle.mean + draw(2, 200_000, 3) * values.sqrt() @ axes.T
    x = draw(3, 4, 3)
    assert (oracles.FiniteData(points, LINEAR).x0(x, 500) - oracle.x0(x, 500)).abs().max() < 0.01


@pytest.mark.parametrize("schedule", [LINEAR, ZERO, schedules.cosine()], ids=lambda s: s.name)
@pytest.mark.parametrize("kind", process.KINDS)
def test_oracles_are_finite_at_both_ends(schedule, kind):
    t, x = torch.tensor([0, 999]), draw(0, 2, 3).float()
    for oracle in (gaussian(schedule), oracles.FiniteData(draw(1, 9, 3), schedule)):
        answer = oracle.model(kind)(x, t)
        assert answer.dtype == torch.float32 and answer.isfinite().all()


def test_impossible_oracles_are_refused():
    with pytest.raises(ReproError, match="N >= 1"):
        oracles.FiniteData(torch.zeros(0, 3), LINEAR)
    with pytest.raises(ReproError, match="symmetric"):
        oracles.GaussianData(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), LINEAR)
    with pytest.raises(ReproError, match="semidefinite: got eigenvalue -1"):
        oracles.GaussianData(torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0])), LINEAR)


# -- samplers on Gaussian data: every marginal, exactly ----------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 7, 100])
@pytest.mark.parametrize("schedule", [ZERO, schedules.zero_terminal_snr(schedules.cosine())], ids=lambda s: s.name)
def test_one_data_point_with_the_small_variance_is_exact(schedule, steps):
    """x_{t-1} given x_t and the only x0 is Eq. 7's posterior: exact marginals at every step and stride."""
    oracle = oracles.GaussianData(draw(6, 3), torch.zeros(3, 3), schedule)
    moments = oracles.sampler_moments(
        lambda x, z: samplers.ancestral(
            oracle.model("v_prediction"),
            x,
            schedule,
            z,
            steps,
            spacing="trailing",
            prediction="v_prediction",
            clip=False,
        ),
        (3,),
        steps,
    )
    assert worst(moments, oracle) < 1e-10


@pytest.mark.parametrize("steps", [7, 100])
@pytest.mark.parametrize("kind", process.KINDS)
def test_white_data_with_the_large_variance_is_exact(kind, steps):
    """Data N(0, I): the reverse step has variance beta exactly; all marginals are N(0, I)."""
    oracle = oracles.GaussianData(torch.zeros(3), torch.eye(3), LINEAR)
    moments = oracles.sampler_moments(
        lambda x, z: samplers.ancestral(
            oracle.model(kind), x, LINEAR, z, steps, prediction=kind, variance="fixed_large", clip=False
        ),
        (3,),
        steps,
    )
    # but for the last step, which returns E[x0 | x_t] without its spread beta
    assert worst(moments[:-1], oracle) < 1e-10
    assert end(moments, oracle) == pytest.approx(LINEAR.betas[0].item(), rel=1e-6)


@pytest.mark.parametrize("power", [0.05, 0.5, 1.0])
def test_learned_range_with_the_true_variance_is_exact(power):
    """Data N(m, power I): the true reverse variance lies between beta_tilde and beta; told it, the chain is exact."""
    steps, schedule, D = 25, ZERO, 3
    oracle = oracles.GaussianData(draw(6, D), power * torch.eye(D), schedule)
    ts = samplers.spaced(1000, steps, "trailing")

    def model(x, t):
        i = ts.index(int(t[0]))
        ab, ab_prev = schedule.alpha_bar[ts[i]], schedule.alpha_bar[ts[i + 1]] if i + 1 < steps else torch.tensor(1.0)
        beta = 1 - ab / ab_prev
        tilde = (1 - ab_prev) / (1 - ab) * beta
        spread = power * (1 - ab) / (ab * power + 1 - ab)  # Var[x0 | x_t]
        true = tilde + (ab_prev.sqrt() * beta / (1 - ab)) ** 2 * spread
        v = (true.log() - tilde.log()) / (beta.log() - tilde.log()) if i + 1 < steps else torch.tensor(0.0)
        assert -1e-9 <= v <= 1 + 1e-9
        number = torch.full_like(x, float(2 * v - 1))
        return torch.cat([oracle.model("v_prediction")(x, t), number], dim=1)

    moments = oracles.sampler_moments(
        lambda x, z: samplers.ancestral(
            model,
            x,
            schedule,
            z,
            steps,
            spacing="trailing",
            prediction="v_prediction",
            variance="learned_range",
            clip=False,
        ),
        (D, 1),
        steps,
    )
    assert worst(moments[:-1], oracle) < 1e-9


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_tends_to_the_data(variance):
    oracle = gaussian()
    errors = []
    for steps in (10, 40, 160):
        run = lambda x, z, n=steps: samplers.ancestral(  # noqa: E731
            oracle.model(), x, LINEAR, z, n, variance=variance, clip=False
        )
        errors.append(worst(oracles.sampler_moments(run, (3,), steps), oracle))
    assert errors[0] > 1.5 * errors[1] and errors[1] > 1.5 * errors[2] and errors[2] < 0.05, errors


@pytest.mark.parametrize("kind", process.KINDS)
def test_ddim_tends_to_every_marginal(kind):
    """eta = 0: the ODE's Gaussian, with a first-order error in the step at every t."""
    oracle = gaussian()
    errors = []
    for steps in (50, 100, 200):
        run = lambda x, z, n=steps: samplers.ddim(oracle.model(kind), x, LINEAR, n, prediction=kind, clip=False)  # noqa: E731
        errors.append(worst(oracles.sampler_moments(run, (3,), 0), oracle))
    assert errors[0] / errors[1] > 1.6 and errors[1] / errors[2] > 1.6 and errors[2] < 0.02, errors


def test_ddim_on_one_point_is_exact_in_any_number_of_steps():
    oracle = oracles.GaussianData(draw(6, 3), torch.zeros(3, 3), ZERO)
    for eta, steps in ((0.0, 1), (0.0, 5), (0.5, 5), (1.0, 5)):
        run = lambda x, z, e=eta, n=steps: samplers.ddim(  # noqa: E731
            oracle.model("sample"), x, ZERO, n, eta=e, noise=z, spacing="trailing", prediction="sample", clip=False
        )
        assert worst(oracles.sampler_moments(run, (3,), steps), oracle) < 1e-10


def test_ddim_with_eta_1_is_ancestral_sampling():
    """The mean and variance of "fixed_small": the same states with the same noise (Song et al. 2021, Section 4)."""
    noise, oracle = KeyedNoise(0, range(4), "noise"), gaussian()
    x = draw(0, 4, 3)
    one = samplers.ddim(oracle.model(), x, LINEAR, 30, eta=1.0, noise=noise, clip=False)
    two = samplers.ancestral(oracle.model(), x, LINEAR, noise, 30, clip=False)
    for p, q in zip(one, two, strict=True):
        assert (p.x - q.x).abs().max() < 1e-10 and (p.mean - q.mean).abs().max() < 1e-10
        assert p.variance == pytest.approx(q.variance, abs=1e-12) and (p.eps - q.eps).abs().max() < 1e-9


def test_moments_notice_a_sampler_that_draws_too_often():
    oracle = gaussian()
    with pytest.raises(ReproError, match="more often than the 2"):
        oracles.sampler_moments(lambda x, z: samplers.ancestral(oracle.model(), x, LINEAR, z, 10), (3,), 2)


# -- finite data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", process.KINDS)
@pytest.mark.parametrize("method", ["ddim", "ancestral"])
def test_ideal_denoiser_ends_on_data_points(kind, method):
    data = draw(0, 10, 1, 4, 4).clamp(-1, 1).float()
    oracle, noise = oracles.FiniteData(data, LINEAR), KeyedNoise(1, range(64), "noise")
    x = KeyedNoise(1, range(64), "start").normal((1, 4, 4))
    if method == "ddim":
        x = samplers.sample(samplers.ddim(oracle.model(kind), x, LINEAR, 50, prediction=kind))
    else:
        x = samplers.sample(samplers.ancestral(oracle.model(kind), x, LINEAR, noise, 50, prediction=kind))
    index, distance = oracle.nearest(x)
    assert distance.max() < 1e-4
    assert len(index.unique()) >= 8  # spread over the data, not one point for all


# -- inversion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", process.KINDS)
def test_inversion_comes_back(kind):
    """The error of there and back falls with the number of steps; refined, it is rounding."""
    eps, _, _ = bayes(draw(3, 4) * 0.5, 0.1)

    def mixture(x, t):  # two Gaussians: nonlinear
        return process.Prediction.of("epsilon", eps(x, t), x, t, LINEAR).output(kind)

    x, errors = draw(2, 6, 4) * 0.5, []
    for steps in (20, 40, 80):
        noise = samplers.sample(samplers.ddim_invert(mixture, x, LINEAR, steps, prediction=kind))
        back = samplers.sample(samplers.ddim(mixture, noise, LINEAR, steps, prediction=kind, clip=False))
        errors.append((back - x).abs().max().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0], errors
    noise = samplers.sample(samplers.ddim_invert(mixture, x, LINEAR, 20, prediction=kind, refine=12))
    back = samplers.sample(samplers.ddim(mixture, noise, LINEAR, 20, prediction=kind, clip=False))
    refined = (back - x).abs().max().item()
    assert refined < 1e-6


def test_inversion_undoes_ddim():
    """The other way round: from the noise to a sample and back; and the fields of its steps."""
    oracle = gaussian()
    start = draw(0, 4, 3)
    x = samplers.sample(samplers.ddim(oracle.model(), start, LINEAR, 500, clip=False))
    steps = list(samplers.ddim_invert(oracle.model(), x, LINEAR, 500))
    assert (steps[-1].x - start).abs().max() < 0.1
    assert [s.t for s in steps] == list(range(0, 1000, 2)) and [s.t_prev for s in steps] == [-1, *range(0, 998, 2)]
    for step in (steps[0], steps[250]):
        assert (step.a * step.x0 + step.s * step.eps - step.x_t).abs().max() < 1e-12
        assert step.eps.isfinite().all()


# -- guidance ----------------------------------------------------------------------------------------------------------


def bayes(m: torch.Tensor, power: float):
    """Two classes N(±m, power I): the unconditional oracle, the exact classifier of x_t, the class oracles."""
    classes = [oracles.GaussianData(sign * m, power * torch.eye(len(m)), LINEAR) for sign in (1, -1)]

    def logits(x, t):
        a, s = LINEAR.at(t, x)
        return torch.stack([-((x - a * o.mean) ** 2 / (a**2 * power + s**2)).sum(1) / 2 for o in classes], dim=1)

    def model(x, t):
        weights = torch.softmax(logits(x, t), dim=1)
        return sum(weights[:, i : i + 1] * o.eps(x, t) for i, o in enumerate(classes))

    return model, logits, classes


def test_guided_ddim_with_the_exact_classifier_is_the_conditional_sampler():
    """Unconditional score + gradient of log p(y | x_t) = conditional score: state by state the same."""
    model, logits, classes = bayes(draw(3, 3), 0.2)
    x = draw(0, 6, 3)
    for label in (0, 1):
        guide = guidance.classifier_guide(logits, torch.full((6,), label))
        guided = samplers.ddim(model, x, LINEAR, 40, clip=False, guide=guide)
        known = samplers.ddim(classes[label].model(), x, LINEAR, 40, clip=False)
        for p, q in zip(guided, known, strict=True):
            # the classifier answers in float32, as networks do
            assert (p.x - q.x).abs().max() < 1e-4 * max(1, q.x.abs().max()) and (p.eps - q.eps).abs().max() < 1e-4


def linear_likelihood(oracle, observed, sigma2):
    """log p(y | x_t) for y = x0 + noise, x0 from the oracle: exact gradient = posterior score - prior score."""
    precision = torch.linalg.inv(oracle.covariance)
    covariance = torch.linalg.inv(precision + torch.eye(3, dtype=torch.float64) / sigma2)
    mean = covariance @ (precision @ oracle.mean + observed / sigma2)
    posterior = oracles.GaussianData(mean, (covariance + covariance.T) / 2, oracle.schedule)
    gradient = lambda x, t: posterior.log_likelihood_gradient(x, t) - oracle.log_likelihood_gradient(x, t)  # noqa: E731
    return posterior, gradient


def test_guided_ddim_with_an_exact_likelihood_is_the_posterior_sampler():
    oracle = gaussian()
    posterior, gradient = linear_likelihood(oracle, draw(9, 3), 0.1)
    x = draw(0, 5, 3)
    guided = samplers.ddim(oracle.model(), x, LINEAR, 50, clip=False, guide=lambda x, t, step: gradient(x, t))
    known = samplers.ddim(posterior.model(), x, LINEAR, 50, clip=False)
    for p, q in zip(guided, known, strict=True):
        assert (p.x - q.x).abs().max() < 1e-9


@pytest.mark.parametrize("where", ["mean", "x_t"])
def test_guided_ancestral_tends_to_the_posterior(where):
    """Algorithm 1, whether the gradient is taken at the mean or at x_t: exact as the steps get small."""
    oracle = gaussian()
    posterior, gradient = linear_likelihood(oracle, draw(9, 3), 0.1)
    errors = []
    for steps in (50, 200):
        ts = samplers.spaced(1000, steps)

        def guide(x, t, step):
            # at the mean, x belongs to the next level: p(y | x_{t-1}) is the likelihood that the derivation expands
            return gradient(x, max(step.t_prev, 0) if where == "mean" else step.t)

        run = lambda x, z, ts=ts, guide=guide: samplers.ancestral(  # noqa: E731
            oracle.model(), x, LINEAR, z, timesteps=ts, clip=False, guide=guide, guide_at=where
        )
        errors.append(end(oracles.sampler_moments(run, (3,), steps), posterior))
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.1, errors
    assert (posterior.mean - oracle.mean).abs().max() > 0.2  # there was a way to go


def test_guidance_sees_where_it_was_asked_and_the_state_of_the_step():
    oracle, seen = gaussian(), []

    def guide(x, t, step):
        seen.append((x, t, step.x_t, step.mean, step.variance, step.eps))
        return torch.zeros_like(x) + 2.0

    noise, x = KeyedNoise(0, range(2), "noise"), draw(0, 2, 3)
    plain = next(samplers.ancestral(oracle.model(), x, LINEAR, noise, 10, clip=False))
    for where in ("mean", "x_t"):
        seen.clear()
        step = next(samplers.ancestral(oracle.model(), x, LINEAR, noise, 10, clip=False, guide=guide, guide_at=where))
        at, t, x_t, mean, variance, eps = seen[0]
        assert torch.equal(at, mean if where == "mean" else x_t) and t.tolist() == [900, 900]
        assert (
            LINEAR.alpha_bar[900].sqrt() * plain.x0 + (1 - LINEAR.alpha_bar[900]).sqrt() * eps - x
        ).abs().max() < 1e-9
        assert (step.x - plain.x - 2.0 * variance).abs().max() < 1e-12
        assert torch.equal(step.mean, mean + variance * 2.0)


def test_classifier_guide():
    _, logits, _ = bayes(draw(3, 3), 0.2)
    x, t, labels = draw(0, 4, 3), torch.tensor([500] * 4), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():  # as inside a sampler
        got = guidance.classifier_guide(logits, labels, scale=3.0)(x, t, None)
    for i in range(4):  # finite differences of one sample's own log probability
        for d in range(3):
            h = torch.zeros(3, dtype=torch.float64)
            h[d] = 1e-4
            up, down = (torch.log_softmax(logits((x[i] + e)[None], t[:1]), 1)[0, labels[i]] for e in (h, -h))
            assert got[i, d].item() == pytest.approx(3 * (up - down).item() / 2e-4, abs=1e-4)
    double = guidance.combined(*[guidance.classifier_guide(logits, labels)] * 2)(x, t, None)
    assert torch.allclose(double, got * 2 / 3, atol=1e-6)
    with pytest.raises(ReproError, match="got 4 labels for 2 samples"):
        guidance.classifier_guide(logits, labels)(x[:2], t[:2], None)
    with pytest.raises(ReproError, match=r"\(B,\) int64"):
        guidance.classifier_guide(logits, labels.float())


# -- what samplers refuse, and what they leave alone -------------------------------------------------------------------


def test_samplers_refuse_what_cannot_work():
    x, noise, model = draw(0, 2, 3), KeyedNoise(0, range(2), "n"), gaussian(ZERO).model("sample")
    cases = {
        r"'epsilon' cannot start at t=999.*zero SNR": lambda: samplers.ddim(model, x, ZERO, 20, spacing="trailing"),
        r"'epsilon' cannot start": lambda: samplers.ancestral(model, x, ZERO, noise),
        "DDIM guidance moves the noise": lambda: samplers.ddim(
            model, x, ZERO, prediction="sample", guide=lambda x, t, step: x
        ),
        r"eta must lie in \[0, 1\]: got 2": lambda: samplers.ddim(model, x, LINEAR, 20, eta=2),
        "eta 0.5 adds noise": lambda: samplers.ddim(model, x, LINEAR, 20, eta=0.5),
        r"1\.\.1000 .* got 1001": lambda: samplers.ddim(model, x, LINEAR, 1001),
        r"1\.\.1000 .* got 0": lambda: samplers.ddim(model, x, LINEAR, 0),
        "'uniform' is unknown": lambda: samplers.ddim(model, x, LINEAR, 10, spacing="uniform"),
        "must fall": lambda: samplers.ddim(model, x, LINEAR, timesteps=[10, 10]),
        "must fall.*got \\[1000": lambda: samplers.ddim(model, x, LINEAR, timesteps=[1000, 3]),
        "either steps or timesteps": lambda: samplers.ddim(model, x, LINEAR, 10, timesteps=[3]),
        "offset 1 with 1000 leading": lambda: samplers.ddim(model, x, LINEAR, 1000, offset=1),
        "belongs to 'leading'": lambda: samplers.ddim(model, x, LINEAR, 10, offset=1, spacing="trailing"),
        "t=0 alone": lambda: samplers.ddim(model, x, LINEAR, 1, spacing="linspace"),
        "'learned' is unknown": lambda: samplers.ancestral(model, x, LINEAR, noise, variance="learned"),
        "guide_at 'mu'": lambda: samplers.ancestral(model, x, LINEAR, noise, guide_at="mu"),
        "final 'zero'": lambda: samplers.ddim(model, x, LINEAR, 10, final="zero"),
        "float tensor": lambda: samplers.ddim(model, x.long(), LINEAR, 10),
        "refine must be": lambda: samplers.ddim_invert(model, x, LINEAR, 10, refine=-1),
        "'noise' is unknown": lambda: samplers.ddim_invert(model, x, LINEAR, 10, prediction="noise"),
    }
    for says, make in cases.items():
        with pytest.raises(ReproError, match=says):
            make()  # at the call, not at the first step


def test_zero_snr_schedule_without_its_last_step_takes_noise_predictions():
    model = gaussian(ZERO).model("epsilon")
    x = samplers.sample(samplers.ddim(model, draw(0, 2, 3), ZERO, 20, spacing="leading"))
    assert x.isfinite().all()


def test_variance_head_is_left_unread_where_not_asked_for():
    """(B, 2, …) must not broadcast against (B, 1, …)."""
    oracle = oracles.GaussianData(torch.zeros(4), torch.eye(4) * 0.1, LINEAR)
    two = lambda x, t: torch.cat([oracle.eps(x, t), 100 + x], dim=1)  # noqa: E731
    x, noise = draw(0, 3, 1, 2, 2), KeyedNoise(0, range(3), "n")
    for run in (
        lambda m: samplers.ddim(m, x, LINEAR, 5),
        lambda m: samplers.ancestral(m, x, LINEAR, noise, 5),
        lambda m: samplers.ddim_invert(m, x, LINEAR, 5),
    ):
        assert torch.equal(samplers.sample(run(two)), samplers.sample(run(oracle.model())))
    wrong = lambda x, t: x.repeat(1, 3, 1, 1)  # noqa: E731
    with pytest.raises(ReproError, match=r"answered \(3, 3, 2, 2\) to a state of shape \(3, 1, 2, 2\)"):
        samplers.sample(samplers.ddim(wrong, x, LINEAR, 5))
    with pytest.raises(ReproError, match="needs a network with 2 output channels"):
        samplers.sample(samplers.ancestral(oracle.model(), x, LINEAR, noise, 5, variance="learned_range"))


def test_samplers_change_neither_their_input_nor_the_callers_gradient_mode():
    oracle, x, noise = gaussian(), draw(0, 2, 3), KeyedNoise(0, range(2), "n")
    before = x.clone()
    for steps in (
        samplers.ddim(oracle.model(), x, LINEAR, 4, eta=1.0, noise=noise),
        samplers.ancestral(oracle.model(), x, LINEAR, noise, 4),
        samplers.ddim_invert(oracle.model(), x, LINEAR, 4),
    ):
        states = []
        for step in steps:
            assert torch.is_grad_enabled()
            assert not step.x.requires_grad
            states.append((step.x_t, step.x_t.clone(), step.x, step.x.clone(), step.x0, step.x0.clone()))
        assert torch.equal(x, before)
        for state in states:  # what was yielded is not overwritten later: a trajectory can be kept
            assert all(torch.equal(a, b) for a, b in zip(state[::2], state[1::2], strict=True))


def test_a_samples_result_does_not_depend_on_its_batch():
    oracle, ids = gaussian(), ["a", 17, "c"]
    start = lambda i: KeyedNoise(3, i, "start").normal((3,))  # noqa: E731
    run = lambda i: samplers.sample(  # noqa: E731
        samplers.ancestral(oracle.model(), start(i), LINEAR, KeyedNoise(3, i, "noise"), 20)
    )
    whole = run(ids)
    for i, name in enumerate(ids):
        assert (whole[i] - run([name])[0]).abs().max() < 1e-6


@pytest.mark.parametrize("kind", process.KINDS)
def test_samplers_leave_the_networks_answer_alone(kind):
    """A network may answer with a tensor that it keeps; clipping must not write into it."""
    answer, x, noise = draw(1, 2, 3) * 3, draw(0, 2, 3), KeyedNoise(0, range(2), "n")
    before = answer.clone()
    for steps in (
        samplers.ddim(lambda x, t: answer, x, LINEAR, 3, prediction=kind),
        samplers.ancestral(lambda x, t: answer, x, LINEAR, noise, 3, prediction=kind),
        samplers.ddim_invert(lambda x, t: answer, x, LINEAR, 3, prediction=kind),
    ):
        assert all(torch.equal(step.output, before) for step in steps)
    assert torch.equal(answer, before)
