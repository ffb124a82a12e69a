"""The degradations: what every one of them keeps to, and each against its own arithmetic."""

from __future__ import annotations

import hashlib
import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data import degradations, lowlight, wetglass
from repro.data.degradations import TASKS
from repro.data.lowlight import low_light, srgb_to_linear
from repro.data.raindrops import rain
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

NAMES = sorted(TASKS)
PICTURES = (
    torch.nn.functional.interpolate(  # smooth, as images are, in 8 bits
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
def test_each_keeps_shape_and_range_also_under_autocast(name):
    task = TASKS[name]
    degraded, strength = task.degrade(PICTURES, noises(range(5)))
    assert degraded.shape == PICTURES.shape and degraded.dtype == torch.float32 and degraded.isfinite().all()
    assert degraded.min() >= 0 and degraded.max() <= 1
    assert strength.shape == (5,) and strength.min() >= 0 and strength.max() <= 1 and len(strength.unique()) > 1
    assert ((degraded - PICTURES).abs().mean(dim=(1, 2, 3)) > 1e-3).all()
    with torch.autocast("cpu", torch.bfloat16):
        cast = task.degrade(PICTURES, noises(range(5)))
    assert torch.equal(degraded, cast[0]) and torch.equal(strength, cast[1])


OLD_LAWS = {
    "lowlight, narrow": lambda x, n: low_light(x, n("degrade/settings"), n("degrade/sensor")),
    "raindrops, sharp": lambda x, n: rain(x, n("degrade/drops")),
}


@pytest.mark.parametrize("name", [*NAMES, *OLD_LAWS])
@pytest.mark.parametrize("size", [(64, 64), (130, 100)])
def test_a_sample_does_not_depend_on_its_batch(name, size):
    pictures = torch.nn.functional.interpolate(PICTURES, size=size, mode="bilinear")
    ids = ["a", "b", "c", "d", "e"]
    degrade = OLD_LAWS.get(name) or (lambda x, n: TASKS[name].degrade(x, n)[0])
    together = degrade(pictures, noises(ids))
    for i, one in enumerate(ids):
        assert torch.equal(degrade(pictures[i : i + 1], noises([one]))[0], together[i])
    assert torch.equal(degrade(pictures.flip(0), noises(ids[::-1])), together.flip(0))
    assert not torch.equal(degrade(pictures, noises(ids, seed=1)), together)


AMOUNTS = {"lowlight": (0, 0.5, 1, 3, 6), "raindrops": (0, 0.05, 0.2, 0.6), "deblur": (0, 3, 8, 21)}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_it_leaves_the_picture_and_more_of_it_is_further_away(name):
    task = TASKS[name]
    found = [
        task.degrade(PICTURES, noises(range(5)), **{task.setting: v}) for v in AMOUNTS.get(name, (100, 90, 40, 10, 1))
    ]
    torch.testing.assert_close(found[0][0], PICTURES, rtol=0, atol=0.08 if name == "jpeg" else 1e-6)
    assert (found[0][1] == 0).all()
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
    with pytest.raises(ReproError, match=r"images of shape \(B, 3, H, W\)"):
        task.degrade(PICTURES[0], noises(range(5)))


# -- low light ---------------------------------------------------------------------------------------------------------


def test_the_curve_is_srgb():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(lowlight.linear_to_srgb(srgb_to_linear(x)), x, rtol=0, atol=2e-7)
    assert srgb_to_linear(torch.tensor(0.5, dtype=torch.float64)).item() == pytest.approx(0.21404114, abs=1e-8)


def wide(grey, count, stops=None):
    pictures, ids = torch.full((count, 3, 48, 48), grey), range(count)
    return lowlight.wide_low_light(pictures, KeyedNoise(0, ids, "settings"), KeyedNoise(0, ids, "sensor"), stops)


def test_low_light_is_one_to_six_stops_and_mostly_that_much_darker():
    seen, stops = wide(0.6, 400)
    assert 1 <= stops.min() < 1.2 and 5.8 < stops.max() <= 6
    light = srgb_to_linear(seen).median(dim=3).values.median(dim=2).values[:, 1].clamp(min=1e-6)
    darker = srgb_to_linear(torch.tensor(0.6)).log2() - light.log2()
    assert (darker - stops).abs().median() < 1.2 and torch.corrcoef(torch.stack([darker, stops]))[0, 1] > 0.55


def test_scenes_with_a_bright_place_with_a_cast_with_little_and_much_noise():
    seen, _ = wide(0.7, 400, stops=5.0)
    bright = (seen.mean(dim=1) > 0.45).float().mean(dim=(1, 2))
    assert 0.1 < (bright > 0.02).float().mean() < 0.6 and (bright > 0.5).float().mean() < 0.25
    red, blue = seen.mean(dim=(2, 3))[:, 0], seen.mean(dim=(2, 3))[:, 2]
    assert (red > 1.5 * blue).float().mean() > 0.1 and ((red / blue).log().abs() < 0.2).float().mean() > 0.2
    rough = wide(0.7, 300, stops=3.0)[0].diff(dim=3)[:, 1].std(dim=(1, 2)) / 2**0.5
    assert rough.quantile(0.1) < 0.004 and rough.quantile(0.9) > 0.03


# -- raindrops ---------------------------------------------------------------------------------------------------------


def wet(grey, count):
    return wetglass.wet_glass(torch.full((count, 3, 64, 64), grey), KeyedNoise(0, range(count), "drops"))


def test_drops_change_the_picture_where_they_are_and_nowhere_else():
    seen, alpha = wetglass.wet_glass(PICTURES, KeyedNoise(0, range(5), "drops"))
    clear = (alpha == 0).expand_as(seen)
    assert torch.equal(seen[clear], PICTURES[clear]) and 0.1 < clear.float().mean() < 0.98
    assert alpha.max() <= 1 and alpha.min() == 0


def test_light_is_mixed_by_the_share_of_the_lens():
    assert not wet(0.0, 40)[0].any(), "a drop in the dark has no light of its own"
    (dim, alpha), (twice, again) = wet(0.3, 40), wet(0.6, 40)
    assert torch.equal(alpha, again), "where the drops are does not depend on the image"
    free = (twice < 1).all(dim=1, keepdim=True).expand_as(dim)
    torch.testing.assert_close(twice[free], 2 * dim[free], rtol=1e-4, atol=1e-5)  # optics is linear in light


def test_drops_are_brighter_and_darker_soft_and_faint():
    seen, alpha = wet(0.5, 200)
    gain = (seen.square() - 0.25).sum(dim=(1, 2, 3)) / alpha.sum(dim=(1, 2, 3)).clamp(min=1e-6) / 3 / 0.25
    covered = alpha.mean(dim=(1, 2, 3)) > 0.01
    assert 0.15 < (gain[covered] < -0.05).float().mean() < 0.6 and (gain[covered] > 0.3).float().mean() > 0.25
    peak = alpha.amax(dim=(1, 2, 3))[covered]
    assert peak.quantile(0.1) < 0.45 and peak.quantile(0.9) > 0.75
    steep = alpha.diff(dim=3).abs().amax(dim=(1, 2, 3))[covered] / peak
    assert steep.quantile(0.1) < 0.15 and steep.quantile(0.9) > 0.4


def test_the_field_is_one_hill_per_drop_and_has_no_seams():
    """A single ellipse against its formula, over a pane of several tiles, with and without a neighbour far away."""
    one = dict(x=100.0, y=90.0, radius=20.0, across=16.0, along=25.0, turn=0.4, opacity=0.7, gain=1.2)
    for several in ([one], [one, {**one, "x": 400.0}]):
        drops = {k: torch.tensor([[d[k] for d in several]]) for k in one}
        outline, here = wetglass._field(drops, torch.zeros(1, 1), KeyedNoise(0, [0], "drops"), (200, 210))
        rows, cols = torch.meshgrid(torch.arange(200) + 0.5 - 90, torch.arange(210) + 0.5 - 100, indexing="ij")
        c, s = math.cos(0.4), math.sin(0.4)
        q2 = ((c * cols + s * rows) / 16) ** 2 + ((c * rows - s * cols) / 25) ** 2
        inside = q2 < 2.5**2
        torch.testing.assert_close(outline[0][inside], 1.5 * (1 - q2[inside]), rtol=0, atol=0.05)
        assert (outline[0][q2 > wetglass._REACH**2 + 0.1] == -math.inf).all()
        for found, wanted in zip(here[0], (100.0, 90.0, 20.0, 0.7, 1.2), strict=True):
            torch.testing.assert_close(found[inside], torch.full_like(found[inside], wanted), rtol=1e-4, atol=1e-4)


# -- motion blur and JPEG ----------------------------------------------------------------------------------------------


def test_kernels_sum_to_one_keep_the_centroid_and_fit():
    lengths = torch.linspace(0.5, 21, 200)
    paths = degradations.draw_paths(KeyedNoise(0, range(200), "path"), lengths)
    torch.testing.assert_close(paths.diff(dim=1).norm(dim=2).sum(dim=1), lengths, rtol=1e-4, atol=1e-4)
    kernels = degradations.path_kernels(paths)
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
    seen, _ = degradations.motion_blur(dot, noise, KeyedNoise(0, ["a"], "sensor"), 12.0)
    kernel = degradations.path_kernels(degradations.draw_paths(noise, torch.tensor([12.0])))[0]
    half = kernel.shape[-1] // 2
    found = seen[0, 1, 32 - half : 33 + half, 32 - half : 33 + half].square()
    assert (found - kernel)[kernel > 0.01].abs().max() < 0.03


def test_jpeg_is_the_encoders_own():
    file = io.BytesIO()
    pixels = (PICTURES[2] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=10, subsampling=2)
    wanted = np.asarray(Image.open(file).convert("RGB"))
    found = TASKS["jpeg"].degrade(PICTURES, noises(range(5)), quality=10)
    assert (found[0][2] * 255).round().byte().permute(1, 2, 0).numpy().tolist() == wanted.tolist()
    assert found[1].tolist() == pytest.approx([0.9] * 5)
    with pytest.raises(ReproError, match=r"whole number from 1 to 100: got 10\.5"):
        TASKS["jpeg"].degrade(PICTURES, noises(range(5)), quality=10.5)


# -- what networks were trained and records measured with --------------------------------------------------------------


def test_every_law_is_bit_for_bit_what_it_was():
    """In 8 bits, since another processor's exponentials differ in the last."""
    pictures = KeyedNoise(0, range(3), "test/pictures").uniform((3, 24, 20))
    laws = OLD_LAWS | {name: lambda x, n, task=task: task.degrade(x, n)[0] for name, task in TASKS.items()}
    digests = {}
    for name, degrade in laws.items():
        levels = (degrade(pictures, noises("abc", seed=7)) * 255).round().byte()
        digests[name] = hashlib.sha256(levels.numpy().tobytes()).hexdigest()[:16]
    assert digests == {
        "lowlight, narrow": "c803fda870663605",
        "raindrops, sharp": "991744f5eff537ca",
        "lowlight": "8ceb0d9ae8f64d60",
        "raindrops": "e3bd8098478e214e",
        "deblur": "fe03a0d9f3b4cbe4",
        "jpeg": "bf52914babf2d0b2",
    }
