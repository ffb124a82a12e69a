"""The shared degradations: what every one of them keeps to, and each against its own arithmetic."""

from __future__ import annotations

import hashlib
import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data import jpeg, lowlight, motionblur, raindrops, wetglass
from repro.data.degradations import TASKS
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

NAMES = sorted(TASKS)
PICTURES = (
    torch.nn.functional.interpolate(  # smooth, as pictures are, in 8 bits
        KeyedNoise(0, range(5), "test/pictures").uniform((3, 9, 8)), size=(72, 64), mode="bicubic"
    )
    .clamp(0, 1)
    .mul(255)
    .round()
    .div(255)
)


def noises(ids, seed=0):
    return lambda purpose: KeyedNoise(seed, list(ids), purpose)


@pytest.mark.parametrize("name", NAMES)
def test_each_keeps_shape_range_and_law(name):
    task = TASKS[name]
    degraded, strength = task.degrade(PICTURES, noises(range(5)))
    assert degraded.shape == PICTURES.shape and degraded.dtype == torch.float32 and degraded.isfinite().all()
    assert degraded.min() >= 0 and degraded.max() <= 1
    assert strength.shape == (5,) and strength.min() >= 0 and strength.max() <= 1 and len(strength.unique()) > 1
    assert ((degraded - PICTURES).abs().mean(dim=(1, 2, 3)) > 1e-3).all()
    assert task.law and task.strength


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (130, 100)])
def test_a_sample_does_not_know_its_batch(name, size):
    pictures = torch.nn.functional.interpolate(PICTURES, size=size, mode="bilinear")
    ids = ["a", "b", "c", "d", "e"]
    degrade = TASKS[name].degrade
    together, strengths = degrade(pictures, noises(ids))
    for i, one in enumerate(ids):
        alone, strength = degrade(pictures[i : i + 1], noises([one]))
        assert torch.equal(alone[0], together[i]) and torch.equal(strength[0], strengths[i])
    assert torch.equal(degrade(pictures.flip(0), noises(ids[::-1]))[0], together.flip(0))
    assert not torch.equal(degrade(pictures, noises(ids, seed=1))[0], together)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name):
    plain = TASKS[name].degrade(PICTURES, noises(range(5)))
    with torch.autocast("cpu", torch.bfloat16):
        cast = TASKS[name].degrade(PICTURES, noises(range(5)))
    assert torch.equal(plain[0], cast[0]) and torch.equal(plain[1], cast[1])


@pytest.mark.parametrize("name", ["lowlight", "raindrops", "deblur"])
def test_nothing_of_it_leaves_the_picture(name):
    task = TASKS[name]
    degraded, strength = task.degrade(PICTURES, noises(range(5)), **{task.setting: 0.0})
    torch.testing.assert_close(degraded, PICTURES, rtol=0, atol=1e-6)
    assert (strength == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_more_of_it_is_further_from_the_picture(name):
    task = TASKS[name]
    values = {"lowlight": (0.5, 1, 3, 6), "raindrops": (0.05, 0.2, 0.6), "deblur": (3, 8, 21), "jpeg": (90, 40, 10, 1)}
    found = [task.degrade(PICTURES, noises(range(5)), **{task.setting: v}) for v in values[name]]
    for (less, weak), (more, strong) in pairwise(found):
        assert (more - PICTURES).square().mean() > (less - PICTURES).square().mean()
        assert (strong.mean() if name == "raindrops" else strong.min()) > weak.mean()


@pytest.mark.parametrize("name", NAMES)
def test_impossible_input_is_refused(name):
    task = TASKS[name]
    with pytest.raises(ReproError, match=f"setting 'power' is unknown; accepted: {task.setting}"):
        task.degrade(PICTURES, noises(range(5)), power=1)
    for value in (task.accepts[0] - 1, task.accepts[1] + 1, math.nan):
        with pytest.raises(ReproError, match=rf"{task.setting} must lie in \["):
            task.degrade(PICTURES, noises(range(5)), **{task.setting: value})
    for wrong in (PICTURES[:, :1], PICTURES[0]):
        with pytest.raises(ReproError, match=r"pictures of shape \(5, 3, H, W\)"):
            task.degrade(wrong, noises(range(5)))


# -- low light ---------------------------------------------------------------------------------------------------------


def wide(pictures, ids, stops=None):
    return lowlight.wide_low_light(pictures, KeyedNoise(0, ids, "settings"), KeyedNoise(0, ids, "sensor"), stops)


def test_low_light_is_one_to_six_stops_and_mostly_that_much_darker():
    grey = torch.full((400, 3, 48, 48), 0.6)
    seen, stops = wide(grey, range(400))
    assert 1 <= stops.min() < 1.2 and 5.8 < stops.max() <= 6
    light = lowlight.srgb_to_linear(seen).median(dim=3).values.median(dim=2).values[:, 1].clamp(min=1e-6)
    darker = lowlight.srgb_to_linear(torch.tensor(0.6)).log2() - light.log2()
    assert (darker - stops).abs().median() < 1.2 and torch.corrcoef(torch.stack([darker, stops]))[0, 1] > 0.55


def test_some_scenes_keep_a_bright_place_and_some_a_cast():
    seen, _ = wide(torch.full((400, 3, 64, 64), 0.7), range(400), stops=5.0)
    bright = (seen.mean(dim=1) > 0.45).float().mean(dim=(1, 2))
    assert 0.1 < (bright > 0.02).float().mean() < 0.6 and (bright > 0.5).float().mean() < 0.25
    red, blue = seen.mean(dim=(2, 3))[:, 0], seen.mean(dim=(2, 3))[:, 2]
    assert (red > 1.5 * blue).float().mean() > 0.1 and ((red / blue).log().abs() < 0.2).float().mean() > 0.2


def test_the_noise_goes_from_none_to_strong():
    seen, _ = wide(torch.full((300, 3, 48, 48), 0.7), range(300), stops=3.0)
    rough = (seen[..., 1:] - seen[..., :-1])[:, 1, :, :].std(dim=(1, 2)) / 2**0.5
    assert rough.quantile(0.1) < 0.004 and rough.quantile(0.9) > 0.03


# -- raindrops ---------------------------------------------------------------------------------------------------------


def test_drops_change_the_picture_where_they_are_and_nowhere_else():
    seen, alpha = wetglass.wet_glass(PICTURES, KeyedNoise(0, range(5), "drops"))
    clear = (alpha == 0).expand_as(seen)
    assert torch.equal(seen[clear], PICTURES[clear]) and 0.1 < clear.float().mean() < 0.98
    assert alpha.max() <= 1 and alpha.min() == 0


def test_light_is_mixed_by_the_share_of_the_lens():
    """Drops over black: what is seen is `a` times the drop; over one grey with nothing added, grey again."""
    black = torch.zeros(40, 3, 64, 64)
    seen, _ = wetglass.wet_glass(black, KeyedNoise(0, range(40), "drops"))
    assert torch.equal(seen, black), "a drop in the dark has no light of its own"
    dim = torch.full((40, 3, 64, 64), 0.3)
    seen, alpha = wetglass.wet_glass(dim, KeyedNoise(0, range(40), "drops"))
    twice, again = wetglass.wet_glass(dim * 2, KeyedNoise(0, range(40), "drops"))
    assert torch.equal(alpha, again), "where the drops are does not depend on the picture"
    free = (twice < 1).all(dim=1, keepdim=True).expand_as(seen)
    torch.testing.assert_close(twice[free], 2 * seen[free], rtol=1e-4, atol=1e-5)  # optics is linear in light


def test_drops_are_brighter_and_darker_soft_and_faint():
    grey = torch.full((200, 3, 64, 64), 0.5)
    seen, alpha = wetglass.wet_glass(grey, KeyedNoise(0, range(200), "drops"))
    gain = (seen.square() - 0.25).sum(dim=(1, 2, 3)) / alpha.sum(dim=(1, 2, 3)).clamp(min=1e-6) / 3 / 0.25
    covered = alpha.mean(dim=(1, 2, 3)) > 0.01
    assert 0.15 < (gain[covered] < -0.05).float().mean() < 0.6 and (gain[covered] > 0.3).float().mean() > 0.25
    peak = alpha.amax(dim=(1, 2, 3))[covered]
    assert peak.quantile(0.1) < 0.45 and peak.quantile(0.9) > 0.75
    steep = alpha.diff(dim=3).abs().amax(dim=(1, 2, 3))[covered] / peak
    assert steep.quantile(0.1) < 0.15 and steep.quantile(0.9) > 0.4


def test_the_field_is_one_hill_per_drop_and_has_no_seams():
    """A single ellipse against its formula, over a pane of several tiles, with and without a neighbour far away."""
    one = {
        "x": 100.0,
        "y": 90.0,
        "radius": 20.0,
        "across": 16.0,
        "along": 25.0,
        "turn": 0.4,
        "opacity": 0.7,
        "gain": 1.2,
    }
    far = {**one, "x": 400.0}
    still = torch.zeros(1, 1)
    noise = KeyedNoise(0, [0], "drops")
    for several in ([one], [one, far]):
        drops = {k: torch.tensor([[d[k] for d in several]]) for k in one}
        outline, here = wetglass._field(drops, still, noise, (200, 210))
        rows, cols = torch.meshgrid(torch.arange(200) + 0.5 - 90, torch.arange(210) + 0.5 - 100, indexing="ij")
        c, s = math.cos(0.4), math.sin(0.4)
        q2 = ((c * cols + s * rows) / 16) ** 2 + ((c * rows - s * cols) / 25) ** 2
        inside = q2 < 2.5**2
        torch.testing.assert_close(outline[0][inside], 1.5 * (1 - q2[inside]), rtol=0, atol=0.05)
        assert (outline[0][q2 > wetglass._REACH**2 + 0.1] == -math.inf).all()
        for found, wanted in zip(here[0], (100.0, 90.0, 20.0, 0.7, 1.2), strict=True):
            torch.testing.assert_close(found[inside], torch.full_like(found[inside], wanted), rtol=1e-4, atol=1e-4)


# -- motion blur -------------------------------------------------------------------------------------------------------


def test_kernels_sum_to_one_keep_the_centroid_and_fit():
    lengths = torch.linspace(0.5, 21, 200)
    paths = motionblur.draw_paths(KeyedNoise(0, range(200), "path"), lengths)
    torch.testing.assert_close(paths.diff(dim=1).norm(dim=2).sum(dim=1), lengths, rtol=1e-4, atol=1e-4)
    kernels = motionblur.path_kernels(paths)
    half = kernels.shape[-1] // 2
    assert paths.abs().max() < half, "a path leaves its kernel"
    torch.testing.assert_close(kernels.sum(dim=(1, 2)), torch.ones(200))
    grid = torch.arange(-half, half + 1.0)
    for axis in (1, 2):
        assert (kernels.sum(dim=3 - axis) @ grid).abs().max() < 1e-3


def test_a_point_becomes_its_path():
    dot = torch.zeros(1, 3, 65, 65)
    dot[..., 32, 32] = 1
    noise = KeyedNoise(0, ["a"], "path")
    seen, _ = motionblur.motion_blur(dot, noise, KeyedNoise(0, ["a"], "sensor"), 12.0)
    kernel = motionblur.path_kernels(motionblur.draw_paths(noise, torch.tensor([12.0])))[0]
    half = kernel.shape[-1] // 2
    found = seen[0, 1, 32 - half : 33 + half, 32 - half : 33 + half].square()
    bright = kernel > 0.01
    assert (found - kernel)[bright].abs().max() < 0.03


# -- JPEG --------------------------------------------------------------------------------------------------------------


def test_jpeg_is_the_encoders_own():
    file = io.BytesIO()
    pixels = (PICTURES[2] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=10, subsampling=2)
    wanted = np.asarray(Image.open(file).convert("RGB"))
    found = TASKS["jpeg"].degrade(PICTURES, noises(range(5)), quality=10)
    assert (found[0][2] * 255).round().byte().permute(1, 2, 0).numpy().tolist() == wanted.tolist()
    assert found[1].tolist() == pytest.approx([0.9] * 5)


def test_jpeg_qualities_are_the_whole_numbers_of_the_range():
    drawn = jpeg.draw_quality(KeyedNoise(0, range(4_000), "quality"))
    assert set(drawn) == set(range(5, 41))
    with pytest.raises(ReproError, match=r"whole number from 1 to 100: got 10\.5"):
        TASKS["jpeg"].degrade(PICTURES, noises(range(5)), quality=10.5)


# -- what older networks were trained and measured with ----------------------------------------------------------------


OLD = ["c803fda870663605", "991744f5eff537ca"]


def test_the_older_laws_are_bit_for_bit_what_they_were():
    """Taken before the wide laws were written; in 8 bits, since another processor's exponentials differ in the last."""
    pictures = KeyedNoise(0, range(3), "test/pictures").uniform((3, 24, 20))
    ids = KeyedNoise(7, ["a", "b", "c"], "degrade/settings")
    dark = lowlight.low_light(pictures, lowlight.draw_low_light(ids), KeyedNoise(7, ["a", "b", "c"], "degrade/sensor"))
    wet = raindrops.rain(pictures, raindrops.draw_drops(KeyedNoise(7, ["a", "b", "c"], "degrade/drops"), (24, 20)))[0]
    digests = [hashlib.sha256((x * 255).round().byte().numpy().tobytes()).hexdigest()[:16] for x in (dark, wet)]
    assert digests == OLD
