"""Tiles and the pipeline: an image of any size, split or not."""

import pytest
import torch
from test_ucdir_network import tiny

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.ucdir import pipeline
from repro.ucdir.pipeline import Tiles, UCDIRPipeline, restore, scalars, trajectory
from repro.ucdir.study.measure import seam_energy

NOISE = KeyedNoise(0, [0], "z")


def picture(height=40, width=56, name="p"):
    return KeyedNoise(0, [name], "picture").uniform((3, height, width))[0]


def quiet(model, task=None):
    pipe = UCDIRPipeline(model, task)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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
    with pytest.raises(ReproError, match="takes 1 to 11 steps"):
        restore(model, x, NOISE, steps=50, start=0.9997)


def test_outside_the_step_tiles_have_noise_of_their_own():
    model, x = tiny(), picture(40, 40)[None] * 2 - 1
    joined, inside = (restore(model, x, NOISE, steps=3, **{way: Tiles(32, 8)}) for way in ("outside", "tiles"))
    assert not torch.allclose(joined, inside, atol=1e-2)
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


def test_pipeline_is_the_plain_function_and_survives_saving(tmp_path):
    pipe, image = quiet(tiny(tasks=("lowlight", "jpeg")), "jpeg"), picture()
    settings = {"num_inference_steps": 3, "seed": 5, "output_type": "pt"}
    made = pipe(image, strength=0.25, **settings).images[0]
    given = {"start": pipeline.START, **scalars(pipe.model, "jpeg", 0.25)}
    plain = restore(pipe.model, image[None] * 2 - 1, KeyedNoise(5, [0], "sample"), steps=3, **given)
    assert torch.equal(made, (plain[0] + 1) / 2)
    pipe.save_pretrained(tmp_path)
    again = UCDIRPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    same = again(image, strength=0.25, **settings).images[0]
    assert torch.allclose(same, made, atol=1e-4)  # weights in mapped memory round differently
    assert not torch.equal(again(image, task="lowlight", **settings).images[0], made)


def test_pipeline_takes_sizes_generators_and_lists():
    pipe, images = quiet(tiny()), [picture(17, 30), picture(33, 9, "q")]
    made = pipe(images, num_inference_steps=2, sampler="ddim", output_type="np").images
    assert [m.shape for m in made] == [(17, 30, 3), (33, 9, 3)]
    drawn = [pipe(images[0], num_inference_steps=2, generator=torch.Generator().manual_seed(1)).images[0] for _ in "ab"]
    assert drawn[0].tobytes() == drawn[1].tobytes() and drawn[0].size == (30, 17)


def test_bad_input_is_one_sentence(monkeypatch):
    pipe = quiet(tiny(tasks=("lowlight", "jpeg")), "jpeg")
    for size, settings, words in (
        ((40, 3), {}, "3x40 is too small; both sides must be at least 4"),
        ((40, 56), {"task": "rain"}, "this network's task 'rain' is unknown: choose one of lowlight, jpeg"),
        ((40, 56), {"strength": 2}, r"strength must lie in \[0, 1\]: got 2"),
        ((40, 56), {"sampler": "euler"}, "sampler 'euler' is unknown"),
        ((40, 56), {"output_type": "tiff"}, "output_type 'tiff' is unknown"),
        ((64, 64), {"tiles": Tiles(30, 4)}, "multiples of the network's stride of 4: got"),
    ):
        with pytest.raises(ReproError, match=words):
            pipe(picture(*size), **settings)
    with pytest.raises(ReproError, match=r"got Tiles\(size=32, margin=16\)"):
        Tiles(32, 16)
    monkeypatch.setattr(pipeline.os, "sysconf", lambda name: 1000)
    with pytest.raises(ReproError, match=r"in one piece needs about .* use tiles"):
        pipe(picture(200, 200), tiles=None)
