"""UCDIR's levels and samplers against Bayes' rule and diffusers; tiles and the pipeline, of images of any size."""

import itertools
import math
import weakref
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from test_ucdir_network import tiny
from torch.testing import assert_close

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.ucdir import pipeline
from repro.ucdir.model import TRAINING, linear_levels
from repro.ucdir.network import statistics
from repro.ucdir.pipeline import Tiles, UCDIRPipeline, restore, sample, scalars, trajectory
from repro.ucdir.study.measure import seam_energy

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


@pytest.mark.parametrize("steps", [10, 50])
def test_one_ancestral_step_has_the_posterior_of_bayes(steps):
    """With a known clean residual the step's mean and variance are those of q(r' | r, r_0), by Bayes' rule."""
    levels = TRAINING.levels(steps)
    i = steps // 2
    g, g_next = levels[i], levels[i + 1]
    r = torch.full((1, 1, 3, 3), 0.7, dtype=torch.float64)
    clean = 0.4

    def known(x, a):
        return (x - a.double()[:, None, None, None] * clean) / math.sqrt(1 - g)

    step = next(sample("ancestral", known, r, levels[i:], KeyedNoise(0, [0], "z")))
    ratio = g / g_next  # r | r' ~ N(sqrt(ratio) r', 1 - ratio); r' ~ N(sqrt(g') r_0, 1 - g')
    precision = ratio / (1 - ratio) + 1 / (1 - g_next)
    mean = (math.sqrt(ratio) * 0.7 / (1 - ratio) + math.sqrt(g_next) * clean / (1 - g_next)) / precision
    z = KeyedNoise(0, [0], "z")(1, r)  # the start has number 0
    assert torch.allclose(step.residual, mean + precision**-0.5 * z)


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


NOISE = KeyedNoise(0, [0], "z")


def picture(height=40, width=56, name="p"):
    return KeyedNoise(0, [name], "picture").uniform((3, height, width))[0]


@pytest.mark.parametrize("length", [1, 16, 17, 31, 64, 100])
def test_what_tiles_keep_covers_every_pixel_once_and_lies_inside_them(length):
    tiles = Tiles(16, 4)
    seen = torch.zeros(length, dtype=torch.int)
    for start, first, last in tiles.along(length):
        assert start <= first < last <= start + 16
        assert first - start >= 4 or first == 0
        assert start + 16 - last >= 4 or last == length
        seen[first:last] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("guidance", ["predictor", "none"])
@pytest.mark.parametrize("size", [(144, 168), (131, 175)])
def test_inside_the_step_a_wide_margin_gives_the_unsplit_result(size, guidance):
    """Convolutions with per-position norms see nothing beyond their reach but the whole image's statistics."""
    model, x = tiny(guidance=guidance), picture(*size)[None] * 2 - 1
    whole, split = (restore(model, x, NOISE, steps=3, tiles=tiles) for tiles in (None, Tiles(140, 64)))
    assert (whole - split).abs().max() < 1e-4  # three steps of rounding, which depends on the number of threads


def test_starting_at_a_middle_level_keeps_the_coarse_structure_of_the_first_estimate():
    model, x = tiny(), picture()[None] * 2 - 1
    first, second = (step for step, _ in trajectory(model, x, NOISE, steps=2, start=0.9))
    assert first.gamma == pytest.approx(0.9, abs=1e-3) and 0.9 < second.gamma < 1
    assert torch.allclose(first.noisy, (1 - first.gamma) ** 0.5 * NOISE(0, x))
    for steps, levels in ((50, linear_levels()), (20, TRAINING.levels(20))):  # from pure noise, 50 as published
        assert next(trajectory(model, x, NOISE, steps=steps))[0].gamma == levels[0]
    with pytest.raises(ReproError, match="got 50; accepted: a whole number, 1 to 11"):
        restore(model, x, NOISE, steps=50, start=0.9997)


def test_a_multiplied_residual_is_limited_and_added_in_the_images_units():
    model, x = tiny(residual_scale=4.0), picture()[None] * 2 - 1
    *_, (last, image) = trajectory(model, x, NOISE, steps=3, clip=0.05)
    assert last.clean.abs().max().item() == pytest.approx(4 * 0.05)
    assert (image - model.predictor(x)).abs().max().item() == pytest.approx(0.05, rel=1e-4)


def test_outside_the_step_tiles_have_noise_of_their_own():
    model, x = tiny(), picture(40, 40)[None] * 2 - 1
    joined, inside = (restore(model, x, NOISE, steps=3, **{way: Tiles(32, 8)}) for way in ("outside", "tiles"))
    assert not torch.allclose(joined, inside, atol=1e-2)
    flat = restore(model, x[..., :1, :1].expand(-1, -1, 32, 48), NOISE, steps=3, outside=Tiles(32, 8))  # equal tiles
    assert not torch.allclose(flat[..., 8:24], flat[..., 24:40], atol=1e-2)
    small = x[..., :32, :32]  # one tile
    assert torch.equal(
        restore(model, small, NOISE, steps=3, outside=Tiles(32, 8)), restore(model, small, NOISE, steps=3)
    )


def test_seam_energy_sees_a_step_at_the_lines_and_nothing_else():
    truth, tiles = picture(64, 64)[None], Tiles(32, 8)
    error = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    assert seam_energy(truth + error, truth, tiles) == pytest.approx(1, abs=0.15)
    error[..., tiles.along(64)[1][1] :] += 0.5
    assert seam_energy(truth + error, truth, tiles) > 1.5


@torch.no_grad()
def test_the_tones_of_a_first_estimate_are_those_of_the_parts_of_a_small_copy():
    """A network that makes a whole image half as bright as a part of one, on an even image with finest detail."""
    seen = []

    def predictor(x, view, task):
        seen.append((*x.shape, torch.equal(view, statistics(x))))
        return (x + 1) * (0.5 if len(seen) == 1 else 1) - 1

    predictor.stride = 16
    detail = 0.01 * (-1.0) ** torch.arange(400)
    x = (0.2 + detail).repeat(2, 3, 300, 1)
    x[..., :60, :60] = 1
    found = pipeline.first_estimate(SimpleNamespace(predictor=predictor), x, tones=True)
    assert seen == [(2, 3, 300, 400, True)] + [(1, 3, 176, 176, True)] * 12  # of a copy of 256 x 341, two by three each
    wanted = (1.2 + detail).expand_as(x) / 2 * (1.3 / 0.7) - 1  # 0.1 is added where the two are compared
    assert_close(found[..., 100:], wanted[..., 100:], rtol=0, atol=2e-3)
    assert (found[..., :50, :50] >= 1).all()  # what is white stays white
    assert [UCDIRPipeline.shipped(task).config.tones for task in ("lowlight", "deblur", "jpeg")] == [True, False, False]


def test_pipeline_is_the_plain_function_and_survives_saving(tmp_path):
    pipe, image = UCDIRPipeline(tiny(tasks=("lowlight", "jpeg")), "jpeg", tones=True), picture(184, 200)
    settings = {"num_inference_steps": 3, "seed": 5, "output_type": "pt"}
    made = pipe(image, strength=0.25, **settings).images[0]
    given = {"start": pipeline.START, **scalars(pipe.model, "jpeg", 0.25)}
    plain = restore(pipe.model, image[None] * 2 - 1, KeyedNoise(5, [0], "sample"), steps=3, **given)
    assert not torch.equal(made, (plain[0] + 1) / 2)
    plain = restore(pipe.model, image[None] * 2 - 1, KeyedNoise(5, [0], "sample"), steps=3, tones=True, **given)
    assert torch.equal(made, (plain[0] + 1) / 2)
    pipe.save_pretrained(tmp_path)
    again = UCDIRPipeline.from_pretrained(tmp_path)
    same = again(image, strength=0.25, **settings).images[0]
    assert torch.allclose(same, made, atol=1e-4)  # weights in mapped memory round differently
    assert not torch.equal(again(image, task="lowlight", **settings).images[0], made)


def test_pipeline_takes_sizes_generators_and_lists():
    pipe, images = UCDIRPipeline(tiny()), [picture(17, 30), picture(33, 9, "q")]
    made = pipe(images, num_inference_steps=2, sampler="ddim", output_type="np").images
    assert [m.shape for m in made] == [(17, 30, 3), (33, 9, 3)]
    drawn = [pipe(images[0], num_inference_steps=2, generator=torch.Generator().manual_seed(1)).images[0] for _ in "ab"]
    assert drawn[0].tobytes() == drawn[1].tobytes() and drawn[0].size == (30, 17)
    two = [torch.Generator().manual_seed(s) for s in (0, 1)]
    both = pipe(torch.stack([images[0]] * 2), num_inference_steps=2, generator=two).images
    assert both[1].tobytes() == drawn[0].tobytes() != both[0].tobytes()
    whole, half = (
        pipe.to(kind)(images[0], seed=3, output_type="pt").images[0] for kind in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.float32 and 0 < (half - whole).abs().max() < 0.05


def test_of_all_steps_two_images_are_alive_at_most(monkeypatch):
    alive = []

    def watched(*args, **settings):
        for step, image in trajectory(*args, **settings):
            alive.append(weakref.ref(image))
            assert sum(each() is not None for each in alive) <= 2
            yield step, image

    monkeypatch.setattr(pipeline, "trajectory", watched)
    UCDIRPipeline(tiny())(picture(), num_inference_steps=6)
    assert len(alive) == 6


def test_bad_input_is_one_sentence(monkeypatch):
    pipe = UCDIRPipeline(tiny(tasks=("lowlight", "jpeg")), "jpeg")
    for size, settings, words in (
        ((40, 3), {}, "3x40 is too small; both sides must be at least 4"),
        ((40, 56), {"task": "rain"}, "this network's task 'rain' is unknown: choose one of lowlight, jpeg"),
        ((40, 56), {"strength": 2}, "strength: got 2; accepted: 0 to 1"),
        ((40, 56), {"sampler": "euler"}, "sampler 'euler' is unknown"),
        ((40, 56), {"num_inference_steps": 0}, "sampling steps: got 0; accepted: a whole number"),
        ((40, 56), {"num_inference_steps": 2.5}, "sampling steps: got 2.5; accepted: a whole number"),
        ((40, 56), {"start": 1.0}, "got start 1.0, clip 1.0; accepted: 0 to 0.999, above 0 or None"),
        ((40, 56), {"generator": torch.Generator(), "seed": 1}, "a generator and a seed; accepted: one of the two"),
        ((40, 56), {"clip": 0}, "got start 0.97, clip 0; accepted"),
        ((40, 56), {"output_type": "tiff"}, "output_type 'tiff' is unknown"),
        ((40, 56), {"tiles": 256}, "got tiles 256; accepted: 'auto', None or Tiles"),
        ((40, 56), {"generator": [None, None]}, "got 2 generators; accepted: one torch.Generator, or a list of 1"),
        ((64, 64), {"tiles": Tiles(30, 4)}, "multiples of the network's stride of 4: got"),
    ):
        with pytest.raises(ReproError, match=words):
            pipe(picture(*size), **settings)
    for sides in ((32, 16), (64.0, 8.0)):
        with pytest.raises(ReproError, match=rf"got Tiles\(size={sides[0]}, margin={sides[1]}\)"):
            Tiles(*sides)
    monkeypatch.setattr(pipeline.os, "sysconf", lambda name: 1000)
    with pytest.raises(ReproError, match=r"in one piece needs about .* use tiles"):
        pipe(picture(200, 200), tiles=None)
