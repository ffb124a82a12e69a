"""Large images and images for use: tiles without seams, edits that mean the same at every size, holes filled."""

import itertools

import numpy as np
import pytest
import torch
from test_editing_pipeline import make
from tiny_editing import close, pictures, tiny_network

from repro.data import pack
from repro.data.images import resize
from repro.editing.effects.colour import colour_transfer
from repro.editing.large import TiledNetwork, Tiling, membrane
from repro.editing.pipeline import WHOLE, EditingPipeline
from repro.editing.vector import EditingVector
from repro.engine.rng import KeyedNoise

SIDE = WHOLE * 4  # pixels up to which an image goes through in one piece
# A photograph of the validation split: what was chosen was chosen on these.
PHOTO = pack.load(next(p for p in pack.photos("validation") if p.kind == "photo"))[None]


@pytest.mark.parametrize("mask", [False, True])
def test_each_tile_is_the_networks_own_output(mask):
    """Without overlap and in a size that tiles fill, the prediction is put together from them."""
    net, tiling = tiny_network(mask=mask).requires_grad_(False), Tiling(size=8, overlap=0, batch=4)
    noise, channels = KeyedNoise(0, range(2), "inputs"), {"sample": 4, "source": 4, "reference": 3, "mask": 1}
    maps = {name: noise.normal((n, 16, 24), i) for i, (name, n) in enumerate(channels.items()) if n > 1 or mask}
    vectors = [EditingVector(blur=0.4, colour=True).tensor(), EditingVector(grain=0.1).tensor()]
    others = {"timestep": torch.tensor([600, 30]), "vector": torch.stack(vectors)}
    found = TiledNetwork(net, tiling)(**maps, **others)
    for row, column in itertools.product((0, 8), (0, 8, 16)):
        place = (..., slice(row, row + 8), slice(column, column + 8))
        close(found[place], net(**{name: x[place] for name, x in maps.items()}, **others).sample)


# -- the shipped network ----------------------------------------------------------------------------------------------


def levels(x):
    return [(255 * f(x, dim=(0, 2, 3))).tolist() for f in (torch.mean, torch.std)]


def sharpness(x):
    """Mean gradient of the image at the size of a thumbnail."""
    x = resize(x, 96)
    return (x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()).item()


@pytest.fixture(scope="module")
def shipped():
    pipe = EditingPipeline.shipped()
    pipe.set_progress_bar_config(disable=True)
    return lambda image, **asked: pipe(image, seed=0, output_type="pt", **asked).images


def test_a_transfer_has_the_statistics_of_the_formula(shipped):
    """A photograph as its own reference is no edit."""
    other = resize(pack.load(pack.photos("validation")[3])[None], 120)
    for side, reference, extra in ((300, None, {}), (96, other, {}), (96, other, {"blur": 0.4})):
        image = resize(PHOTO, side)
        found = shipped(image, reference=image if reference is None else reference, **extra)
        wanted = image if reference is None else colour_transfer(image, reference)
        for got, goal in zip(levels(found), levels(wanted), strict=True):
            np.testing.assert_allclose(got, goal, atol=2)


def test_strength_does_not_depend_on_the_resolution(shipped):
    """The formula keeps the same share at every size, by its definition; so does the network."""
    for asked, low, high in (({"blur": 0.6}, 0.1, 0.5), ({"sharpen": (2.0, 0.0)}, 1.15, 3)):
        kept = [sharpness(shipped(resize(PHOTO, n), **asked)) / sharpness(resize(PHOTO, n)) for n in (120, 900)]
        assert low < kept[0] < high and abs(kept[0] / kept[1] - 1) < 0.1, kept


def test_outside_its_hole_a_picture_stays_as_it_is(shipped):
    image = resize(PHOTO, 96)
    hole = torch.zeros(1, 1, *image.shape[2:])
    hole[..., 30:42, 20:90] = 1
    found = shipped(image, mask=hole)
    assert torch.equal(found * (1 - hole), image * (1 - hole)) and not torch.equal(found, image)
    assert torch.equal(shipped(image), image)  # and without an effect, all of it


@pytest.mark.parametrize(("variant", "edge"), [("taught-long", True), ("single-inpaint", False)])
def test_a_hole_larger_than_any_tile_is_filled_with_its_surroundings(variant, edge):
    """All-hole tiles, with and without a mask channel: no coloured noise, no smudge, at the edge neither."""
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
    pipe, image, seen = make(), pictures(1, SIDE, SIDE + 60), []
    keep = lambda m, a, k: seen.append((a or tuple(k.values()))[0].shape)  # noqa: E731
    pipe.network.register_forward_pre_hook(keep, with_kwargs=True)
    common = dict(seed=0, num_inference_steps=1, output_type="pt")
    pipe(image, blur=0.5, **common)
    assert seen and all(max(shape[2:]) <= WHOLE for shape in seen)
    assert pipe(pictures(1, 20, 600), blur=0.5, **common).images.shape == (1, 3, 20, 600)  # a strip: 64 pixels high
    for thick in (4, 60):
        hole = torch.zeros(1, 1, SIDE, SIDE + 60)
        hole[..., 20 : 20 + thick, 30:180] = 1
        other = torch.where(hole > 0, 1 - image, image)
        assert torch.equal(*(pipe(x, mask=hole, blur=0.5, **common).images for x in (image, other)))


def test_a_membrane_is_what_is_known_and_smooth_between():
    slope = torch.linspace(0, 1, 33).expand(1, 3, 20, 33)
    known = torch.ones(1, 1, 20, 33)
    known[..., 5:15, 8:25] = 0
    found = membrane(slope + 5 * (1 - known), known)  # what is in the hole does not matter
    assert torch.equal(found * known, slope * known) and (found - slope).abs().max() < 0.2
    flat, some = torch.full((1, 2, 7, 9), 0.3), (torch.rand(1, 1, 7, 9) > 0.8).float()
    close(membrane(flat, some), flat)
