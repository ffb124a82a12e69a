"""Samplers and guidance against diffusers' loops (largest absolute difference) and exact oracles. No Monte Carlo.

diffusers keeps float32 tables; they are replaced by our float64 ones here, so that the formulas are compared to 1e-10.
"""

import functools

import pytest
import torch
from test_ddpm_process import LINEAR, ZERO, draw
from tiny import refused
from torch import nn

from repro.ddpm import oracles, process, samplers
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

COSINE, LATENT = process.cosine(), process.scaled_linear()
NOISE = KeyedNoise(0, range(3), "noise")
sample, spaced = samplers.sample, samplers.spaced


class Net(nn.Module):
    """A small nonlinear network of x and t, with a second head where there are two."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2 * heads, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator)

    def forward(self, x, t):
        hidden = torch.sin(self.first(x) + (t / 200).to(x.dtype)[:, None, None, None])
        return torch.tanh(self.second(hidden)) * 1.5


START = KeyedNoise(0, range(3), "start").normal((2, 6, 6)).double()
NET = Net().double()


def gaussian(schedule=LINEAR, D=3) -> oracles.GaussianData:
    root = draw(5, D, D) * 0.4
    return oracles.GaussianData(draw(6, D) * 0.5, root @ root.T, schedule)


def worst(moments, oracle) -> float:
    """Largest difference of any mean or covariance entry from the exact marginal, over all steps of a run."""
    found = 0.0
    for t, mean, covariance in moments:
        ab = 1.0 if t < 0 else float(oracle.schedule.alpha_bar[t])
        exact = ab * oracle.covariance + (1 - ab) * torch.eye(len(oracle.mean), dtype=torch.float64)
        differences = mean - ab**0.5 * oracle.mean, covariance - exact
        found = max(found, *(d.abs().max().item() for d in differences))
    return found


@torch.no_grad()
def theirs(net, schedule, kind, steps, x=START, step=None, **config):
    """The states of diffusers' loop and its timesteps; DDIM's noise is ours, by timestep, DDPM's a generator's."""
    scheduler = process.to_diffusers(schedule, kind, **config)
    scheduler.alphas_cumprod = schedule.alpha_bar
    if config.get("set_alpha_to_one") is False:
        scheduler.final_alpha_cumprod = schedule.alpha_bar[0]
    scheduler.set_timesteps(steps)
    generator, states = torch.Generator().manual_seed(7), []
    for t in scheduler.timesteps:
        more = {"ddpm": {"generator": generator}, "ddim": dict(step or {})}.get(kind, {})
        if more.get("eta"):
            more["variance_noise"] = NOISE(int(t), x)
        x = scheduler.step(net(x, t.expand(len(x))), t, x, **more).prev_sample
        states.append(x)
    return states, scheduler.timesteps.tolist()


def largest(run, others) -> float:
    """Absolute, except where states outgrow 1: unclipped, the cosine schedule starts with a division by 5e-5."""
    ours = [s.x for s in run]
    assert len(ours) == len(others) and all(a.isfinite().all() for a in ours)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(ours, others, strict=True))


@pytest.mark.parametrize(
    ("schedule", "steps", "spacing", "kind"),
    [(LINEAR, 20, "leading", "epsilon"), (COSINE, 10, "trailing", "epsilon"), (LINEAR, 20, "leading", "v_prediction"),
     (ZERO, 20, "trailing", "v_prediction")],
)  # fmt: skip
def test_ddim_is_diffusers(schedule, steps, spacing, kind):
    for eta, clip, use in [(0.0, True, True), (0.5, True, False), (1.0, True, True), (0.0, False, False)]:
        config = {"prediction_type": kind, "clip_sample": clip, "timestep_spacing": spacing}
        step = {"eta": eta, "use_clipped_model_output": use}
        others, times = theirs(NET, schedule, "ddim", steps, step=step, **config)
        common = {"prediction": kind, "clip": clip, "eps_from_clipped": use, "eta": eta, "noise": NOISE}
        ours = list(samplers.ddim(NET, START, schedule, spaced(1000, steps, spacing), **common))
        assert largest(ours, others) < 1e-10 and [s.t for s in ours] == times
        assert not clip or max(s.x0.abs().max() for s in ours) == 1  # clipping did happen


def test_ddim_with_the_settings_of_stable_diffusion_is_diffusers():
    """Offset 1, no clipping, after the last step the schedule's first alpha_bar."""
    config = {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
    others, _ = theirs(NET, LATENT, "ddim", 50, step={"eta": 0.3}, **config)
    times = [t + 1 for t in spaced(1000, 50)]
    ours = samplers.ddim(NET, START, LATENT, times, eta=0.3, noise=NOISE, clip=False, final="first")
    assert largest(ours, others) < 1e-10


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize(
    ("schedule", "kind", "steps", "spacing", "clip"),
    [(LINEAR, "epsilon", 40, "leading", True), (ZERO, "v_prediction", 30, "trailing", True),
     (LINEAR, "epsilon", 37, "linspace", False)],
)  # fmt: skip
def test_ancestral_is_diffusers(schedule, steps, spacing, kind, variance, clip):
    net = Net(2 if variance == "learned_range" else 1).double()
    config = {"prediction_type": kind, "clip_sample": clip, "variance_type": variance, "timestep_spacing": spacing}
    others, times = theirs(net, schedule, "ddpm", steps, **config)
    generator = torch.Generator().manual_seed(7)
    noise = lambda step, x: torch.randn(x.shape, generator=generator, dtype=x.dtype)  # noqa: E731
    common = {"prediction": kind, "variance": variance, "clip": clip}
    ours = list(samplers.ancestral(net, START, schedule, noise, spaced(1000, steps, spacing), **common))
    # diffusers adds noise after t > 0 even where the step ends at the data; here the mean is the end
    end = len(ours) - (ours[-1].t > 0)
    assert largest(ours[:end], others[:end]) < 1e-10 and [s.t for s in ours] == times


@pytest.mark.parametrize(("spacing", "steps"), [("leading", 50), ("trailing", 25)])
def test_inversion_is_diffusers(spacing, steps):
    others, times = theirs(NET, LINEAR, "ddim_inverse", steps, START * 0.3, clip_sample=False, timestep_spacing=spacing)
    ours = list(samplers.ddim_invert(NET, START * 0.3, LINEAR, spaced(1000, steps, spacing)))
    assert largest(ours, others) < 1e-10 and [s.t for s in ours] == times


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_equal_diffusers(spacing):
    for T in (1000, 50, 7):
        scheduler = process.to_diffusers(process.linear(T), "ddpm", timestep_spacing=spacing)
        for steps in range(2 if spacing == "linspace" else 1, T + 1, 1 if T < 100 else 7):
            scheduler.set_timesteps(steps)
            got, wanted = spaced(T, steps, spacing), scheduler.timesteps.tolist()
            assert len(set(got)) == steps and got[0] < T and got[-1] >= 0
            if len(wanted) == steps:  # its float arange sometimes gives one step too many
                assert got == wanted, (T, steps)
    assert [step.t for step in samplers.ddim(NET, START, process.linear(7))] == list(range(6, -1, -1))  # all


def test_gaussian_oracle_is_conditioning_of_the_joint():
    """E[x0 | x_t] from the joint covariance of (x0, x_t) with a dense solve."""
    oracle, t, x = gaussian(), 321, draw(0, 5, 3)
    a, s2 = LINEAR.alpha_bar[t].sqrt(), 1 - LINEAR.alpha_bar[t]
    joint = a**2 * oracle.covariance + s2 * torch.eye(3, dtype=torch.float64)
    score = -torch.linalg.solve(joint, (x - a * oracle.mean).T).T
    assert (oracle.x0(x, t) - oracle.mean + score @ (a * oracle.covariance)).abs().max() < 1e-12
    assert (oracle.model()(x, t) + s2.sqrt() * score).abs().max() < 1e-12


def test_finite_oracle_is_the_weighted_mean():
    data, x = draw(0, 6, 2, 2), draw(1, 3, 2, 2)
    oracle, t = oracles.FiniteData(data, LINEAR), torch.tensor([0, 300, 999])
    for i in (1, 2):
        ab = LINEAR.alpha_bar[t[i]]
        p = torch.stack([torch.exp(-((x[i] - ab.sqrt() * d) ** 2).sum() / (2 * (1 - ab))) for d in data])
        assert (oracle.x0(x, t)[i] - (p[:, None, None] * data).sum(0) / p.sum()).abs().max() < 1e-10
    # at t = 0 every density underflows, the logarithms do not
    assert all(oracle.model(kind)(x.float(), t).isfinite().all() for kind in process.KINDS)


@pytest.mark.parametrize("steps", [1, 7, 100])
@pytest.mark.parametrize("schedule", [ZERO, process.zero_terminal_snr(COSINE)], ids=lambda s: s.name)
def test_one_data_point_is_exact(schedule, steps):
    """x_{t-1} given x_t and the only x0 is Eq. 7's posterior: exact marginals at every step and stride."""
    oracle, times = oracles.GaussianData(draw(6, 3), torch.zeros(3, 3), schedule), spaced(1000, steps, "trailing")
    model, v = oracle.model("v_prediction"), {"prediction": "v_prediction", "clip": False}
    runs = [lambda x, z: samplers.ancestral(model, x, schedule, z, times, **v)]
    runs += [lambda x, z, e=e: samplers.ddim(model, x, schedule, times, eta=e, noise=z, **v) for e in (0.0, 0.5, 1.0)]
    for run in runs:
        assert worst(oracles.sampler_moments(run, (3,), steps), oracle) < 1e-10


@pytest.mark.parametrize("kind", process.KINDS)
def test_ideal_denoiser_ends_on_data_points(kind):
    data, x = draw(0, 10, 1, 4, 4).clamp(-1, 1).float(), KeyedNoise(1, range(64), "start").normal((1, 4, 4))
    oracle, noise = oracles.FiniteData(data, LINEAR), KeyedNoise(1, range(64), "noise")
    model = oracle.model(kind)
    runs = [samplers.ddim(model, x, LINEAR, 50, prediction=kind)]
    for run in (*runs, samplers.ancestral(model, x, LINEAR, noise, 50, prediction=kind)):
        index, distance = oracle.nearest(sample(run))
        assert distance.max() < 1e-4 and len(index.unique()) >= 8  # spread over the data, not one point for all


def bayes(m: torch.Tensor, power: float):
    """Two classes N(±m, power I): the unconditional oracle, the exact classifier of x_t, the class oracles."""
    classes = [oracles.GaussianData(sign * m, power * torch.eye(len(m)), LINEAR) for sign in (1, -1)]

    def logits(x, t):
        a, s = LINEAR.at(t, x)
        return torch.stack([-((x - a * o.mean) ** 2 / (a**2 * power + s**2)).sum(1) / 2 for o in classes], dim=1)

    def model(x, t):
        weights = torch.softmax(logits(x, t), dim=1)
        return sum(weights[:, i : i + 1] * o.model()(x, t) for i, o in enumerate(classes))

    return model, logits, classes


@pytest.mark.parametrize("kind", process.KINDS)
def test_inversion_comes_back(kind):
    """The error of there and back falls with the number of steps; refined, it is rounding."""
    eps, _, _ = bayes(draw(3, 4) * 0.5, 0.1)

    def mixture(x, t):  # two Gaussians: nonlinear
        a, s = LINEAR.at(t, x)
        return process.from_x0(kind, x, (x - s * eps(x, t)) / a, a, s)

    def error(steps, refine=0):
        steps_up = list(samplers.ddim_invert(mixture, x, LINEAR, steps, prediction=kind, refine=refine))
        assert (steps_up[3].a * steps_up[3].x0 + steps_up[3].s * steps_up[3].eps - steps_up[3].x_t).abs().max() < 1e-9
        back = samplers.ddim(mixture, steps_up[-1].x, LINEAR, steps, prediction=kind, clip=False)
        return (sample(back) - x).abs().max().item()

    x = draw(2, 6, 4) * 0.5
    errors = [error(n) for n in (20, 40, 80)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0], errors
    assert error(20, refine=12) < 1e-6


def test_guided_ddim_with_the_exact_classifier_is_the_conditional_sampler():
    """Unconditional score + gradient of log p(y | x_t) = conditional score: state by state the same."""
    model, logits, classes = bayes(draw(3, 3), 0.2)
    x = draw(0, 6, 3)
    for label in (0, 1):
        guide = samplers.classifier_guide(logits, torch.full((6,), label))
        guided = samplers.ddim(model, x, LINEAR, 40, clip=False, guide=guide)
        known = samplers.ddim(classes[label].model(), x, LINEAR, 40, clip=False)
        for p, q in zip(guided, known, strict=True):  # the classifier answers in float32, as networks do
            assert (p.x - q.x).abs().max() < 1e-4 * max(1, q.x.abs().max()) and (p.eps - q.eps).abs().max() < 1e-4
    once, thrice = (samplers.classifier_guide(logits, torch.zeros(6).long(), scale) for scale in (1.0, 3.0))
    torch.testing.assert_close(thrice(x, 500, None), 3 * once(x, 500, None))


@pytest.mark.parametrize("where", ["mean", "x_t"])
def test_guided_ancestral_tends_to_the_posterior(where):
    """Algorithm 1 with the likelihood of y = x0 + noise, the gradient taken at the mean or at x_t."""
    oracle, observed, sigma2 = gaussian(), draw(9, 3), 0.1
    precision = torch.linalg.inv(oracle.covariance)
    covariance = torch.linalg.inv(precision + torch.eye(3, dtype=torch.float64) / sigma2)
    mean = covariance @ (precision @ oracle.mean + observed / sigma2)
    posterior = oracles.GaussianData(mean, (covariance + covariance.T) / 2, oracle.schedule)

    def guide(x, t, step):
        assert x is (step.mean if where == "mean" else step.x_t)
        # at the mean, x belongs to the next level: p(y | x_{t-1}) is the likelihood that the derivation expands
        at = max(step.t_prev, 0) if where == "mean" else step.t
        return (oracle.model()(x, at) - posterior.model()(x, at)) / LINEAR.at(at, x)[1]

    errors, settings = [], {"clip": False, "guide": guide, "guide_at": where}
    for steps in (50, 200):
        run = lambda x, z, n=steps: samplers.ancestral(oracle.model(), x, LINEAR, z, n, **settings)  # noqa: E731
        errors.append(worst(oracles.sampler_moments(run, (3,), steps)[-1:], posterior))
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.1, errors
    assert (posterior.mean - oracle.mean).abs().max() > 0.2  # there was a way to go


def test_samplers_refuse_what_cannot_work():
    x, noise, model = draw(0, 2, 3), KeyedNoise(0, range(2), "n"), gaussian(ZERO).model("v_prediction")
    ddim = functools.partial(samplers.ddim, model, x, LINEAR)
    cases = {
        r"'epsilon' cannot start at t=999.*zero SNR": lambda: samplers.ddim(model, x, ZERO, [999, 3]),
        r"'epsilon' cannot start": lambda: samplers.ancestral(model, x, ZERO, noise),
        "eta: got 2; accepted: 0 to 1": lambda: ddim(20, eta=2),
        "eta 0.5 adds noise": lambda: ddim(20, eta=0.5),
        "got 1001; accepted: a whole number, 1 to 1000": lambda: ddim(1001),
        "must fall": lambda: ddim([10, 10]),
        "must fall.*got \\[1000": lambda: ddim([1000, 3]),
        "'uniform' is unknown": lambda: spaced(1000, 10, "uniform"),
        "t=0 alone": lambda: spaced(1000, 1, "linspace"),
        "'learned' is unknown": lambda: samplers.ancestral(model, x, LINEAR, noise, variance="learned"),
        "'noise' is unknown": lambda: samplers.ddim_invert(model, x, LINEAR, 10, prediction="noise"),
    }
    refused(cases)  # at the call, not at the first step


def test_variance_head_is_left_unread_where_it_is_not_needed():
    """(B, 2, …) must not broadcast against (B, 1, …)."""
    one = oracles.GaussianData(torch.zeros(4), torch.eye(4) * 0.1, LINEAR).model()
    two = lambda x, t: torch.cat([one(x, t), 100 + x], dim=1)  # noqa: E731
    x, noise = draw(0, 3, 1, 2, 2), KeyedNoise(0, range(3), "n")
    for sampler, more in ((samplers.ddim, ()), (samplers.ancestral, (noise,)), (samplers.ddim_invert, ())):
        assert torch.equal(*(sample(sampler(model, x, LINEAR, *more, steps=5)) for model in (one, two)))
    with pytest.raises(ReproError, match=r"output is \(3, 3, 2, 2\) for a state of shape \(3, 1, 2, 2\)"):
        sample(samplers.ddim(lambda x, t: x.repeat(1, 3, 1, 1), x, LINEAR, 5))
    with pytest.raises(ReproError, match="needs a network with 2 output channels"):
        sample(samplers.ancestral(one, x, LINEAR, noise, 5, variance="learned_range"))


def test_a_samples_result_does_not_depend_on_its_batch():
    net = lambda x, t: Net()(x.expand(-1, 2, -1, -1), t)[:, :1]  # noqa: E731
    for sampler in ("ddim", "ddpm", "ddpm-large"):
        whole = samplers.draw(net, LINEAR, range(5), sampler, 6, 0.5, shape=(1, 6, 6))
        some = samplers.draw(net, LINEAR, range(1, 4), sampler, 6, 0.5, shape=(1, 6, 6), batch=2)
        torch.testing.assert_close(whole[1:4], some, rtol=0, atol=1e-5)
        assert not torch.allclose(whole[0], whole[1])
