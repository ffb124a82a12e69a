"""UCDIR's noise levels against the published ones; its samplers against Gaussian residuals, whose every marginal is
known, and against diffusers."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.ucdir.noise import SAMPLERS, TRAINING, linear_levels, sample

MEAN, STD = 0.3, 0.2


def test_schedules_end_where_the_published_ones_do():
    assert TRAINING.gamma[-1].item() == pytest.approx(4.39e-5, rel=2e-3)
    assert linear_levels()[0] == pytest.approx(8.2e-6, rel=1e-2)
    assert linear_levels(200, 0.1)[0] == pytest.approx(3.2e-5, rel=2e-2)


def test_levels_rise_to_one_and_the_part_belongs_to_the_schedule():
    for levels in (linear_levels(), TRAINING.levels(7), TRAINING.levels(2000), TRAINING.levels(3, start=0.9)):
        assert levels[-1] == 1 and all(a < b for a, b in itertools.pairwise(levels))
    assert set(TRAINING.levels(7)) <= set(TRAINING.gamma.tolist())


def test_training_levels_are_continuous_and_have_the_density_of_uniform_t():
    drawn = TRAINING.draw(KeyedNoise(0, range(20_000), "level")).double()
    root = TRAINING.gamma.sqrt()
    assert drawn.min() >= root[-1] - 1e-7 and drawn.max() <= 1
    assert torch.isin(drawn.float(), root.float()).float().mean() < 0.05  # between the levels, not on them
    # The share of draws above sqrt(gamma[t]) is t / T.
    for t in (200, 1000, 1800):
        assert (drawn > root[t]).double().mean().item() == pytest.approx(t / 2000, abs=0.01)


def test_a_shared_t_gives_the_batch_one_interval():
    drawn = TRAINING.draw(KeyedNoise(3, range(64), "level"), shared=True)
    t = torch.searchsorted(-TRAINING.gamma.sqrt(), -drawn.double())
    assert len(t.unique()) == 1 and len(drawn.unique()) > 32


def gaussian(r, sqrt_gamma):
    """The exact noise predictor where the residual is N(MEAN, STD^2) in every pixel."""
    a = sqrt_gamma.double()[:, None, None, None]
    s2 = 1 - a**2
    clean = MEAN + a * STD**2 / (a**2 * STD**2 + s2) * (r.double() - a * MEAN)
    return ((r.double() - a * clean) / s2.sqrt()).to(r.dtype)


def run(name, levels, count=1, seed=0, **settings):
    noise = KeyedNoise(seed, range(count), "sample")
    start = noise(0, torch.empty(count, 1, 100, 100, dtype=torch.float64))
    return start, list(sample(name, gaussian, start, levels, noise, **settings))


def test_ancestral_reaches_the_marginal_at_every_step_and_at_the_end():
    """A step with the exact predictor maps a Gaussian to one whose mean and variance follow from the update itself."""
    levels = TRAINING.levels(1000)
    _, steps = run("ancestral", levels, count=4)
    for i in (200, 600, 900, 999):
        g = levels[i + 1]
        r = steps[i].residual
        assert r.mean().item() == pytest.approx(math.sqrt(g) * MEAN, abs=0.012)
        assert r.std().item() == pytest.approx(math.sqrt(g * STD**2 + 1 - g), rel=0.02)


@pytest.mark.parametrize("steps", [10, 50])
def test_one_ancestral_step_has_the_posterior_of_bayes(steps):
    """With a known clean residual the step's mean and variance are those of q(r' | r, r_0), by Bayes' rule."""
    levels = TRAINING.levels(steps)
    i = steps // 2
    g, g_next = levels[i], levels[i + 1]
    r = torch.full((1, 1, 300, 300), 0.7, dtype=torch.float64)
    clean = 0.4

    def known(x, a):
        return (x - a.double()[:, None, None, None] * clean) / math.sqrt(1 - g)

    step = next(sample("ancestral", known, r, levels[i:], KeyedNoise(0, [0], "z")))
    ratio = g / g_next  # r | r' ~ N(sqrt(ratio) r', 1 - ratio); r' ~ N(sqrt(g') r_0, 1 - g')
    precision = ratio / (1 - ratio) + 1 / (1 - g_next)
    mean = (math.sqrt(ratio) * 0.7 / (1 - ratio) + math.sqrt(g_next) * clean / (1 - g_next)) / precision
    assert step.residual.mean().item() == pytest.approx(mean, abs=5 / 300 * precision**-0.5)
    assert step.residual.std().item() == pytest.approx(precision**-0.5, rel=0.01)


def flow_error(name, steps):
    """Absolute distance from the probability flow, which is affine for a Gaussian:
    r_0 = MEAN + STD (r_T - sqrt(g_T) MEAN) / sqrt(g_T STD^2 + 1 - g_T)."""
    levels = TRAINING.levels(steps)
    start, made = run(name, levels)
    g = levels[0]
    exact = MEAN + STD * (start - math.sqrt(g) * MEAN) / math.sqrt(g * STD**2 + 1 - g)
    return (made[-1].residual - exact).abs()


def test_deterministic_samplers_follow_the_probability_flow_and_second_order_pays():
    for name, steps in (("ddim", 2000), ("dpm", 60)):
        error = flow_error(name, steps)
        assert error.max() < 2e-2 and error.mean() < 2e-3
    assert flow_error("dpm", 40).mean() < 0.6 * flow_error("ddim", 40).mean()


@pytest.mark.parametrize(
    ("name", "scheduler", "settings"),
    [
        ("ddim", DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
        ("dpm", DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
    ],
)
def test_deterministic_samplers_are_diffusers(name, scheduler, settings):
    """diffusers' scheduler on our levels: trained betas such that its alphas_cumprod are they, noisiest last."""
    levels = TRAINING.levels(10)
    up = torch.tensor(levels[:-1][::-1], dtype=torch.float64)
    betas = 1 - up / torch.cat([torch.ones(1, dtype=torch.float64), up[:-1]])
    theirs = scheduler(num_train_timesteps=len(up), trained_betas=betas.numpy(), **settings)
    theirs.set_timesteps(**({"num_inference_steps": 10} if name == "ddim" else {"timesteps": list(range(9, -1, -1))}))
    x, made = run(name, levels)
    for i, t in enumerate(theirs.timesteps):
        x = theirs.step(gaussian(x, torch.tensor([math.sqrt(levels[i])])), t, x).prev_sample
    assert (x - made[-1].residual).abs().max() < 1e-4


def test_a_clip_bounds_what_is_predicted_and_the_noise_agrees_with_it():
    _, made = run("ancestral", linear_levels(), clip=0.1)
    for step in made:
        assert step.clean.abs().max() <= 0.1 + 1e-12
        again = math.sqrt(step.gamma) * step.clean + math.sqrt(1 - step.gamma) * step.eps
        assert torch.allclose(again, step.noisy, atol=1e-9)


def test_a_sample_does_not_depend_on_its_batch():
    levels = TRAINING.levels(5)
    alone, many = (run("ancestral", levels, count=count)[1][-1].residual for count in (1, 3))
    assert torch.equal(alone[0], many[0])


@pytest.mark.parametrize("levels", [(1.0,), (0.5, 0.2, 1.0), (0.0, 1.0), (0.1, 0.9)])
def test_levels_that_do_not_rise_to_one_are_refused(levels):
    for name in SAMPLERS:
        with pytest.raises(ReproError, match="levels must rise"):
            next(sample(name, gaussian, torch.zeros(1, 1, 2, 2), levels, KeyedNoise(0, [0], "z")))
    with pytest.raises(ReproError, match="1 to 2000 steps"):
        TRAINING.levels(0)
