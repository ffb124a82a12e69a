"""The degradations: what every one of them keeps to, and that none of them has changed."""

import hashlib
import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import noises

from repro.data import wetglass
from repro.data.degradations import LIT, TASKS, lamp_light, low_light, plain_surfaces, raindrops, srgb_to_linear
from repro.data.wetglass import rain
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

NAMES = sorted(TASKS)
COARSE = KeyedNoise(0, range(5), "test/pictures").uniform((3, 9, 8))
SMOOTH = torch.nn.functional.interpolate(COARSE, size=(72, 64), mode="bicubic")  # as images are
PICTURES = SMOOTH.clamp(0, 1).mul(255).round().div(255)


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


OTHERS = {
    "lowlight, narrow": low_light,
    "lamp light, all kept": lambda x, n: lamp_light(x, n, share=0.3, near=0.0, vivid=0.0, kept=1.0)[0],
    "lamp light, target": lambda x, n: lamp_light(x, n)[0],
    "lamp light, scene": lambda x, n: lamp_light(x, n)[1],
    "lamp light, windows": lambda x, n: lamp_light(x, n, share=1.0, windows=1.0)[1],
    "plain surfaces": lambda x, n: plain_surfaces(x, n, 0.7),
    "raindrops, sharp": lambda x, n: rain(x, n("degrade/drops")),
    "raindrops, sky": lambda x, n: raindrops(x, n, None, sky=0.7, film=0.7)[0],
}


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
@pytest.mark.parametrize("size", [(64, 64), (130, 100)])
def test_a_sample_does_not_depend_on_its_batch(name, size):
    pictures = torch.nn.functional.interpolate(PICTURES, size=size, mode="bilinear")
    ids = ["a", "b", "c", "d", "e"]
    degrade = OTHERS.get(name) or (lambda x, n: TASKS[name].degrade(x, n)[0])
    together = degrade(pictures, noises(ids))
    for i, one in enumerate(ids):
        assert torch.equal(degrade(pictures[i : i + 1], noises([one]))[0], together[i])
    assert torch.equal(degrade(pictures.flip(0), noises(ids[::-1])), together.flip(0))
    assert not torch.equal(degrade(pictures, noises(ids, seed=1)), together)


def test_lamp_light_is_warm_and_bright_near_the_lamp_and_the_target_keeps_a_share_of_its_stops():
    grey = torch.full((1000, 3, 16, 16), 0.2)
    target, scene = lamp_light(grey, noises(range(1000)), share=0.4, near=5.0, kept=0.4)
    lit = (scene != grey).flatten(1).any(dim=1)
    assert torch.equal(target[~lit], grey[~lit]) and torch.equal(scene[~lit], grey[~lit])
    assert abs(lit.float().mean().item() - 0.4) < 0.06  # four standard deviations
    light, lamp = (srgb_to_linear(x[lit]) for x in (target, scene))
    assert ((light[:, 0] >= light[:, 1]) & (light[:, 1] >= light[:, 2])).all() and lamp.min() == 0  # pure red
    warm = (light[:, 0] / light[:, 2]).log2().amax(dim=(1, 2))
    assert warm.min() > 0.12 * LIT[0] and 0.38 * LIT[1] < warm.max() < 0.42 * LIT[1]
    # Vivid colours keep the luminance, unless they are clipped: both images tell the same stops of the lamp.
    weights = torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]
    shade = [
        ((x * weights).sum(dim=1) / srgb_to_linear(grey[0, 0, 0, 0])).log2().mean(dim=(1, 2)) for x in (light, lamp)
    ]
    assert shade[0].min() > -0.2 and 1.6 < shade[0].max() < 2.4
    assert torch.corrcoef(torch.stack(shade))[0, 1] > 0.98 and (shade[1] > shade[0] - 0.1).all()


def test_daylight_falls_through_windows_and_on_bluish_things():
    u = noises(range(60))("window").uniform((7,))
    drawn, day = u[:, 5] < 0.6, 3 * u[:, 6]  # who has a window, and its stops

    def stops(image, windows):  # (B, 3, H, W) in target and scene
        made = lamp_light(image, noises(range(60)), share=1.0, near=0.0, vivid=0.0, windows=windows)
        return [(srgb_to_linear(x.clamp(min=1 / 255)) / srgb_to_linear(image)).log2() for x in made]

    sky = torch.tensor([0.2, 0.2, 0.4])[:, None, None].expand(60, 3, 16, 16)
    for kept, found in zip((0.4, 1.0), stops(sky, 1e-9), strict=True):  # no window, and all channels alike: no lamp
        torch.testing.assert_close(found, (kept * day)[:, None, None, None].expand_as(found), rtol=0, atol=0.06)

    grey = torch.full((60, 3, 96, 96), 0.4)
    lamp, found = (stops(grey, windows)[0] for windows in (0.0, 0.6))
    assert torch.equal(found[~drawn], lamp[~drawn])
    col, row = (216 * u[:, 2] - 60).long(), (216 * u[:, 3] - 60).long()  # the middle of the window
    there = (drawn & (col.minimum(row) >= 0) & (col.maximum(row) < 96)).nonzero()[:, 0]
    middle = found[there, :, row[there], col[there]]  # the softest edge leaves an eighth of the lamp
    warm = lamp[there, :, row[there], col[there]]
    wanted = torch.lerp(warm, 0.4 * day[there, None], torch.sigmoid(2 * 15 ** u[there, 4])[:, None])
    assert len(there) > 5
    torch.testing.assert_close(middle, wanted, rtol=0, atol=0.05)


def test_plain_surfaces_are_nearly_even_and_nearly_grey_and_end_in_straight_lines():
    red, n = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(400, 3, 48, 48), noises(range(400))
    made, u = plain_surfaces(red, n, 0.6), n("plain").uniform((16,))
    some, kind = u[:, 13] < 0.6, u[:, 12] // 0.35  # 0 whole, 1 a half, 2 a bar
    assert torch.equal(made[~some], red[~some])
    whole = torch.nn.functional.avg_pool2d(made, 12)[some & (kind == 0)]  # without grain
    assert whole.std(dim=(2, 3)).max() < 0.12 and (whole.amax(dim=1) - whole.amin(dim=1)).max() < 0.2
    assert whole.mean(dim=(1, 2, 3)).std() > 0.2, "of any tone"
    share, edges = (made != red).any(dim=1).flatten(1).float().mean(dim=1), plain_surfaces(0 * red, n, 1.0)[:, 1] > 0
    for part, low, high in ((0, 0.99, 1.01), (1, 0.3, 0.7), (2, 0.1, 0.45)):
        assert low < share[some & (kind == part)].mean() < high
        crossed = edges[(kind == part) & (u[:, 1] > 0.4)].diff(dim=2).sum(dim=2)  # dark grain is black here and there
        assert crossed.max() == part


def test_over_a_black_scene_drops_show_a_sky_and_panes_are_misted():
    black, n, misted = torch.zeros(100, 3, 48, 48), noises(range(100)), {"sky": 0.4, "film": 1.0}
    alpha = wetglass.wet_glass(black, n("degrade/drops"))[1]
    for shares, lit, off in (({}, 0, 0), ({"sky": 1.0}, 1, 0), ({"sky": 0.3}, 0.3, 0), (misted, 0.4, 0.4)):
        wet = raindrops(black, n, None, **shares)[0]
        inside, outside = ((wet * part).flatten(1).any(dim=1).float().mean() for part in (alpha > 0.05, alpha == 0))
        assert abs(inside - lit) < 0.2 and abs(outside - off) < 0.2 and (inside > 0) == (lit > 0)


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
        with pytest.raises(ReproError, match=f"{task.setting}: got .*; accepted: {task.accepts[0]:g} to"):
            task.degrade(PICTURES, noises(range(5)), **{task.setting: value})
    with pytest.raises(ReproError, match=r"images of shape \(B, 3, H, W\)"):
        task.degrade(PICTURES[0], noises(range(5)))
    if name == "deblur":
        with pytest.raises(ReproError, match="more than 14 pixels a side are needed"):
            task.degrade(PICTURES[..., :14], noises(range(5)))


def test_drops_change_the_picture_where_they_are_and_nowhere_else():
    seen, alpha = wetglass.wet_glass(PICTURES, KeyedNoise(0, range(5), "drops"))
    clear = (alpha == 0).expand_as(seen)
    assert torch.equal(seen[clear], PICTURES[clear]) and 0.1 < clear.float().mean() < 0.98
    assert alpha.max() <= 1 and alpha.min() == 0


def test_jpeg_is_the_encoders_own():
    file = io.BytesIO()
    pixels = (PICTURES[2] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=10, subsampling=2)
    wanted = np.asarray(Image.open(file).convert("RGB"))
    found = TASKS["jpeg"].degrade(PICTURES, noises(range(5)), quality=10)
    assert (found[0][2] * 255).round().byte().permute(1, 2, 0).numpy().tolist() == wanted.tolist()
    assert found[1].tolist() == pytest.approx([0.9] * 5)


def test_every_law_is_bit_for_bit_what_it_was():
    """In 8 bits, since another processor's exponentials differ in the last."""
    pictures = KeyedNoise(0, range(3), "test/pictures").uniform((3, 24, 20))
    laws = OTHERS | {name: lambda x, n, task=task: task.degrade(x, n)[0] for name, task in TASKS.items()}
    digests = {}
    for name, degrade in laws.items():
        levels = (degrade(pictures, noises(list("abc"), seed=7)) * 255).round().clamp(0, 255).byte()
        digests[name] = hashlib.sha256(levels.numpy().tobytes()).hexdigest()[:16]
    assert digests == {
        "lamp light, all kept": "cd13d06538dd223f",
        "lamp light, target": "f0ccceab27c76058",
        "lamp light, scene": "d9a5e9ae88255892",
        "lamp light, windows": "769cfd7a7f40d5ba",
        "lowlight, narrow": "c803fda870663605",
        "plain surfaces": "a06591d0f4d42a3e",
        "raindrops, sharp": "991744f5eff537ca",
        "raindrops, sky": "266d55bb8c8a29ad",
        "lowlight": "8ceb0d9ae8f64d60",
        "raindrops": "e3bd8098478e214e",
        "deblur": "fe03a0d9f3b4cbe4",
        "jpeg": "bf52914babf2d0b2",
    }
