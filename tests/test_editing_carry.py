"""What a user gets: edits that mean the same at every resolution, exact colours, holes filled, the rest left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_editing_pipeline import close, make
from tiny_editing import pictures

from repro import paths
from repro.data import pack
from repro.data.images import resize
from repro.editing.carry import THIN, carried, gain, matched, membrane, restored, thickness
from repro.editing.effects.colour import colour_transfer
from repro.editing.pipeline import WHOLE, EditingPipeline
from repro.editing.study import experiments

# A photograph of the validation split: what was chosen was chosen on these.
PHOTO = pack.load(next(p for p in pack.photos("validation") if p.kind == "photo"))[None]


def levels(x):
    return [(255 * f(x, dim=(0, 2, 3))).tolist() for f in (torch.mean, torch.std)]


def sharpness(x):
    """Mean gradient of the picture at the size of a thumbnail."""
    x = resize(x, 96)
    return (x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()).item()


@pytest.fixture(scope="module")
def shipped():
    pipe = EditingPipeline.shipped()
    pipe.set_progress_bar_config(disable=True)
    return lambda image, **asked: pipe(image, seed=0, output_type="pt", **asked).images


# -- the shipped network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [96, 300])
def test_a_photograph_as_its_own_reference_is_no_edit(shipped, side):
    image = resize(PHOTO, side)
    found = shipped(image, reference=image)
    (mean, deviation), (own_mean, own_deviation) = levels(found), levels(image)
    np.testing.assert_allclose(mean, own_mean, atol=1)
    np.testing.assert_allclose(deviation, own_deviation, rtol=0.02)


def test_a_transfer_has_the_statistics_of_the_formula(shipped):
    image = resize(PHOTO, 96)
    reference = resize(pack.load(pack.photos("validation")[3])[None], 120)
    for extra in ({}, {"blur": 0.4}):
        found = shipped(image, reference=reference, **extra)
        for got, wanted in zip(levels(found), levels(colour_transfer(image, reference)), strict=True):
            np.testing.assert_allclose(got, wanted, atol=2)


def test_strength_does_not_depend_on_the_resolution(shipped):
    """The formula keeps the same share at every size, by its definition; so does the network now."""
    for asked, low, high in (({"blur": 0.6}, 0.1, 0.5), ({"sharpen": (2.0, 0.0)}, 1.15, 3)):
        kept = [
            sharpness(shipped(resize(PHOTO, side), **asked)) / sharpness(resize(PHOTO, side)) for side in (120, 900)
        ]
        assert low < kept[0] < high and abs(kept[0] / kept[1] - 1) < 0.1, kept


def test_outside_its_hole_a_picture_stays_as_it_is(shipped):
    image = resize(PHOTO, 96)
    hole = torch.zeros(1, 1, *image.shape[2:])
    hole[..., 30:42, 20:90] = 1
    found = shipped(image, mask=hole)
    assert torch.equal(found * (1 - hole), image * (1 - hole)) and not torch.equal(found, image)
    assert torch.equal(shipped(image), image)  # and without an effect, all of it


@pytest.mark.parametrize("variant", ["taught-long", "mult", "palette", "single-inpaint"])
@pytest.mark.parametrize("edge", [False, True])
def test_a_hole_larger_than_any_tile_is_filled_with_its_surroundings(variant, edge):
    """All-hole tiles for every shipped network that fills holes: no coloured noise, no smudge, at the edge neither."""
    assert (paths.checkpoints() / experiments.name_of(variant)).is_dir()
    pipe = EditingPipeline.shipped(variant=variant)
    pipe.set_progress_bar_config(disable=True)
    image = resize(PHOTO, 384)
    hole = torch.zeros(1, 1, *image.shape[2:])
    hole[..., 60:320, (0 if edge else 100) : 400] = 1  # 260 pixels, where a tile has 128
    found = pipe(image, mask=hole, seed=0, output_type="pt").images
    smooth = membrane(image, 1 - hole)
    inside = hole.expand(-1, 3, -1, -1) > 0
    assert (found - smooth)[inside].abs().mean() < 12 / 255  # in its surroundings' colours
    grey = (found - smooth).mean(dim=1, keepdim=True)
    hue = (found - smooth - grey)[inside].square().mean().sqrt()
    assert hue < 12 / 255  # and no coloured noise
    assert torch.equal(found[~inside], image[~inside])


# -- any network ------------------------------------------------------------------------------------------------------


def test_large_pictures_are_edited_by_a_copy_and_holes_never_looked_at():
    pipe, side = make(), WHOLE * 4
    image = pictures(1, side, side + 60)
    seen = []
    pipe.network.register_forward_pre_hook(
        lambda m, a, k: seen.append((a or tuple(k.values()))[0].shape), with_kwargs=True
    )
    common = dict(seed=0, num_inference_steps=1, output_type="pt")
    pipe(image, blur=0.5, **common)
    assert seen and all(max(shape[2:]) <= WHOLE for shape in seen)
    assert pipe(pictures(1, 20, 600), blur=0.5, **common).images.shape == (1, 3, 20, 600)  # a strip: 64 pixels high
    for thick in (4, 60):
        hole = torch.zeros(1, 1, side, side + 60)
        hole[..., 20 : 20 + thick, 30:180] = 1
        other = torch.where(hole > 0, 1 - image, image)
        both = [pipe(x, mask=hole, blur=0.5, **common).images for x in (image, other)]
        assert torch.equal(*both)


def test_a_whole_hole_is_filled_all_the_same():
    hole = torch.ones(1, 1, 24, 24)
    found = make()(pictures(1, 24), mask=hole, seed=0, num_inference_steps=1, output_type="pt").images
    assert found.isfinite().all() and found.shape == (1, 3, 24, 24)


def test_nothing_changes_what_nothing_was_done_to():
    image, plain = pictures(2, 40), pictures(2, 40, purpose="plain")
    close(restored(image, plain, plain), image)
    small = resize(image, 20)
    close(carried(image, small, plain[..., :20, :20], plain[..., :20, :20]), image)
    close(matched(image, image), image, 1e-4)
    close(gain(0.5 * image + 0.1, image), torch.full((2, 3, 1, 1), 0.5))


def test_half_the_contrast_of_a_copy_is_half_the_contrast_of_the_picture():
    image = resize(PHOTO, 120)
    small = resize(image, 60)
    found = carried(image, small, small, 0.5 * small + 0.2)
    coarse = 0.5 * image + 0.2
    assert (resize(found, 30) - resize(coarse, 30)).abs().max() < 0.02
    doubled = carried(0.4 * image, 0.4 * small, 0.4 * small, 0.8 * small)
    close(doubled.clamp(0, 1), 0.8 * image, 0.02)


def test_a_membrane_is_what_is_known_and_smooth_between():
    slope = torch.linspace(0, 1, 33).expand(1, 3, 20, 33)
    known = torch.ones(1, 1, 20, 33)
    known[..., 5:15, 8:25] = 0
    found = membrane(slope + 5 * (1 - known), known)  # what is in the hole does not matter
    assert torch.equal(found * known, slope * known)
    assert (found - slope).abs().max() < 0.2
    close(
        membrane(torch.full((1, 2, 7, 9), 0.3), (torch.rand(1, 1, 7, 9) > 0.8).float()), torch.full((1, 2, 7, 9), 0.3)
    )


@pytest.mark.parametrize(("box", "wanted"), [((10, 11, 5, 40), 1), ((10, 20, 5, 40), 5), ((0, 20, 5, 40), 18)])
def test_thickness_is_the_way_to_what_is_known(box, wanted):
    top, bottom, left, right = box
    hole = torch.zeros(1, 1, 40, 50)
    hole[..., top:bottom, left:right] = 1
    assert thickness(hole) == wanted
    assert THIN > 5
