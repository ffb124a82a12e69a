"""Colour transfer: skimage's Lab, the published matrices, statistics taken over exactly, flat channels guarded."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.editing.effects import colour
from repro.editing.effects.colour import (
    colour_transfer,
    lab8_to_rgb,
    lab_to_rgb,
    lalphabeta_to_rgb,
    match_statistics,
    rgb_to_lab,
    rgb_to_lab8,
    rgb_to_lalphabeta,
)
from repro.errors import ReproError

SPACES = ("lalphabeta", "lab8")
RATIOS = ("reinhard", "inverse")


def picture(seed: int, batch: int = 2, low: float = 0.0, high: float = 1.0, size: int = 24) -> torch.Tensor:
    noise = torch.rand(batch, 3, size, size + 4, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * noise


def photos(count: int = 6, size: int = 64) -> torch.Tensor:
    chosen = pack.photos("train")[:: 56 // count][:count]
    return torch.stack([center_crop(resize(pack.load(p), size), size) for p in chosen])


def statistics(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values.mean(dim=(2, 3)), values.std(dim=(2, 3), correction=0)


# -- colour spaces ----------------------------------------------------------------------------------------------------


def test_lab_equals_skimage():
    from skimage.color import lab2rgb, rgb2lab

    levels = torch.linspace(0, 1, 18)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).view(1, 3, 18, 18 * 18)
    reference = rgb2lab(cube[0].permute(1, 2, 0).double().numpy())
    lab = rgb_to_lab(cube.double())
    assert np.abs(lab[0].permute(1, 2, 0).numpy() - reference).max() < 1e-3
    assert np.abs(rgb_to_lab(cube)[0].permute(1, 2, 0).numpy() - reference).max() < 5e-3  # float32
    assert torch.allclose(lab_to_rgb(lab), cube.double(), atol=1e-5)
    shifted = lab + torch.tensor([5.0, -20.0, 30.0])[:, None, None]  # partly outside sRGB: both clip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skimage counts the negative Z values that it clips
        theirs = lab2rgb(shifted[0].permute(1, 2, 0).numpy())
    inside = (shifted[0, 0] + 16) / 116 - shifted[0, 2] / 200 > 0  # where skimage clips Z, its own hue moves
    assert np.abs(lab_to_rgb(shifted)[0].permute(1, 2, 0).numpy() - theirs)[inside.numpy()].max() < 1e-4


def test_lab8_known_colours():
    """OpenCV's documented 8-bit encoding: black, white, red, green, blue."""
    rgb = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).float().T.view(1, 3, 1, 5)
    known = [[0, 128, 128], [255, 128, 128], [136, 208, 195], [224, 42, 211], [82, 207, 20]]
    assert rgb_to_lab8(rgb)[0, :, 0].T.int().tolist() == known
    assert (lab8_to_rgb(rgb_to_lab8(rgb)) - rgb).abs().max() < 8 / 255  # saturated colours suffer most from 8 bits


def test_lalphabeta_by_hand_and_back():
    grey = torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64)
    log = np.log10(
        np.array([0.3811 + 0.5783 + 0.0402, 0.1967 + 0.7244 + 0.0782, 0.0241 + 0.1288 + 0.8444]) / 2 + 1 / 255
    )
    by_hand = [
        log.sum() / math.sqrt(3),
        (log[0] + log[1] - 2 * log[2]) / math.sqrt(6),
        (log[0] - log[1]) / math.sqrt(2),
    ]
    assert rgb_to_lalphabeta(grey).flatten().tolist() == pytest.approx(by_hand, abs=1e-12)
    image = picture(0)
    image[0, :, 0] = 0  # black has a logarithm too
    assert torch.allclose(lalphabeta_to_rgb(rgb_to_lalphabeta(image)), image, atol=1e-5)
    # The inverse printed in Reinhard et al., Eq. 9, is ours but for its rounding, which is coarse.
    printed = torch.tensor([[4.4679, -3.5873, 0.1193], [-1.2186, 2.3809, -0.1624], [0.0497, -0.2439, 1.2045]])
    assert torch.allclose(torch.tensor(colour._RGB_TO_LMS).inverse(), printed, atol=0.02)


# -- transfer ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    means=st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    stds=st.lists(st.floats(0.05, 4), min_size=6, max_size=6),
    space=st.sampled_from(SPACES),
)
def test_statistics_are_taken_over(seed, means, stds, space):
    generator = torch.Generator().manual_seed(seed)
    scale, shift = (torch.tensor(v, dtype=torch.float64).view(2, 3, 1, 1) for v in (stds, means))
    values = torch.randn(2, 3, 9, 7, generator=generator, dtype=torch.float64) + 1
    reference = torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64) * (scale + 0.2) + shift
    out = match_statistics(values, reference, space=space)
    for got, wanted in zip(statistics(out), statistics(reference), strict=True):
        assert torch.allclose(got, wanted, atol=1e-9)
    inverse = match_statistics(values, reference, space=space, ratio="inverse")
    assert torch.allclose(statistics(inverse)[0], statistics(reference)[0], atol=1e-9)
    wanted = statistics(values)[1] ** 2 / statistics(reference)[1]
    assert torch.allclose(statistics(inverse)[1], wanted, rtol=1e-9)


def test_the_result_has_the_references_statistics_where_nothing_clips():
    image, reference = picture(1, low=0.3, high=0.6), picture(2, low=0.4, high=0.55, size=31)
    out = colour_transfer(image, reference)
    assert out.min() > 0 and out.max() < 1
    for got, wanted in zip(statistics(rgb_to_lalphabeta(out)), statistics(rgb_to_lalphabeta(reference)), strict=True):
        assert torch.allclose(got, wanted, atol=1e-4)
    lab8 = colour_transfer(image, reference, space="lab8")
    for got, wanted in zip(statistics(rgb_to_lab8(lab8)), statistics(rgb_to_lab8(reference)), strict=True):
        assert (got - wanted).abs().max() < 1.0  # truncation alone takes half a level
    assert torch.equal((lab8 * 255).round() / 255, lab8)


def test_a_reference_equal_to_the_picture_changes_nothing():
    image = photos()
    for ratio in RATIOS:
        assert torch.allclose(colour_transfer(image, image, ratio=ratio), image, atol=1e-4)
        lab8 = colour_transfer(image, image, space="lab8", ratio=ratio)
        assert (lab8 - image).abs().mean() < 1.5 / 255  # 8-bit Lab is coarser than 8-bit RGB


def test_transferring_twice_is_transferring_once():
    image, reference = picture(3, low=0.3, high=0.6), picture(4, low=0.45, high=0.55)
    once = colour_transfer(image, reference)
    assert torch.allclose(colour_transfer(once, reference), once, atol=1e-4)
    back = colour_transfer(once, image)
    assert torch.allclose(back, image, atol=1e-4)  # nothing clipped, nothing lost
    inverse = colour_transfer(image, reference, ratio="inverse")
    assert not torch.allclose(colour_transfer(inverse, reference, ratio="inverse"), inverse, atol=1e-2)


def test_the_inverse_ratio_moves_contrast_the_other_way():
    contrasty, dull = picture(5, low=0.2, high=0.8), picture(6, low=0.45, high=0.55)
    for space in SPACES:
        spread = [colour_transfer(contrasty, dull, space=space, ratio=ratio).std().item() for ratio in RATIOS]
        assert spread[0] < contrasty.std().item() < spread[1]


def test_lab8_equals_the_script_written_out():
    """The steps of the script in numpy on 8-bit Lab: subtract, scale, add, clip, truncate."""
    image, reference = photos(2)[:1], photos(2)[1:]
    for ratio in RATIOS:
        target = rgb_to_lab8(image)[0].numpy()
        source = rgb_to_lab8(reference)[0].numpy()
        out = np.empty_like(target)
        for c in range(3):
            std_target, std_source = target[c].std(), source[c].std()
            scale = std_source / std_target if ratio == "reinhard" else std_target / std_source
            out[c] = np.clip((target[c] - target[c].mean()) * scale + source[c].mean(), 0, 255).astype("uint8")
        wanted = lab8_to_rgb(torch.from_numpy(out)[None])
        got = colour_transfer(image, reference, space="lab8", ratio=ratio)
        assert ((got - wanted).abs() > 1e-6).float().mean() < 1e-3  # means differ in the last bit: a level may flip


def test_references_are_each_pictures_own():
    image, reference = picture(7, batch=3), picture(8, batch=3, size=12)
    together = colour_transfer(image, reference)
    for i in range(3):
        assert torch.allclose(colour_transfer(image[i : i + 1], reference[i : i + 1])[0], together[i], atol=1e-5)
    shared = colour_transfer(image, reference[:1])
    assert torch.allclose(shared[0], together[0], atol=1e-5) and not torch.allclose(shared[1], together[1], atol=1e-2)


def test_photographs_come_near_their_references():
    image = photos()
    reference = image.roll(1, dims=0)
    for space in SPACES:
        out = colour_transfer(image, reference, space=space)
        before = (statistics(image)[0] - statistics(reference)[0]).abs().mean()
        after = (statistics(out)[0] - statistics(reference)[0]).abs().mean()
        assert after < 0.35 * before


@pytest.mark.parametrize("space", SPACES)
def test_flat_pictures_are_guarded_aloud(space):
    varied = picture(9, batch=1)
    flat = torch.full_like(varied, 0.4)
    with pytest.warns(UserWarning, match="flat picture, deviations kept and only means moved: .* of picture 0"):
        out = colour_transfer(flat, varied, space=space)
    assert out.isfinite().all() and out.std(dim=(2, 3)).max() < 1e-3
    with pytest.warns(UserWarning, match="flat reference"):
        out = colour_transfer(varied, flat, space=space, ratio="inverse")
    assert out.isfinite().all() and out.std() > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a flat reference is no division in Reinhard's ratio
        assert colour_transfer(varied, flat, space=space).sub(flat).abs().max() < 0.02


def test_a_grey_picture_takes_the_hue():
    grey = picture(10, batch=1)[:, :1].expand(-1, 3, -1, -1)
    reddish = picture(11, batch=1, low=0.2, high=0.6) * torch.tensor([1.5, 0.8, 0.6])[:, None, None]
    with pytest.warns(UserWarning, match="moved: a of picture 0, b of picture 0"):
        out = colour_transfer(grey, reddish, space="lab8")
    mean = out.mean(dim=(0, 2, 3))
    assert mean[0] > mean[1] + 0.1 and mean[0] > mean[2] + 0.1


def test_a_planted_fault_is_seen(monkeypatch):
    """The ratio turned round in the space where statistics are compared: noticed."""
    right = match_statistics
    swapped = {"reinhard": "inverse", "inverse": "reinhard"}
    monkeypatch.setattr(
        colour, "match_statistics", lambda v, r, *, space, ratio: right(v, r, space=space, ratio=swapped[ratio])
    )
    with pytest.raises(AssertionError):
        test_the_result_has_the_references_statistics_where_nothing_clips()
    with pytest.raises(AssertionError):
        test_the_inverse_ratio_moves_contrast_the_other_way()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(reference=picture(0)[:, :1]), r"the reference is torch.float32 \(2, 1, 24, 28\)"),
        (dict(reference=picture(0, batch=3)), "3 references for 2 pictures"),
        (dict(reference=picture(0), space="hsv"), "space 'hsv'"),
        (dict(reference=picture(0), ratio="published"), "ratio 'published'"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ReproError, match=message):
        colour_transfer(picture(0), **arguments)
