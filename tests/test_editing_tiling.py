"""Large pictures by tiles: no seams, the whole picture's noise and colours, nothing left of batches and order."""

from __future__ import annotations

import pytest
import torch
from test_editing_pipeline import close, make, seeded
from tiny_editing import pictures, pointwise_network, tiny_autoencoder, tiny_editor, tiny_network

from repro.editing.effects.colour import colour_transfer
from repro.editing.pipeline import WHOLE
from repro.editing.study.experiments import load_autoencoder
from repro.editing.tiling import TiledAutoencoder, TiledNetwork, Tiling, references
from repro.editing.vector import EditingVector
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

TILES = Tiling(size=8, overlap=2, batch=3)
SIZE = (20, 27)  # latents, not a multiple of the stride


def shown(count=2, size=SIZE):
    noise = KeyedNoise(0, range(count), "shown")
    return {
        "sample": noise.normal((4, *size)),
        "timestep": torch.tensor([600, 30])[:count],
        "source": noise.normal((4, *size), step=1),
        "vector": torch.stack([EditingVector(blur=0.4, colour=True).tensor(), EditingVector(grain=0.1).tensor()]),
    }


def seam_energy(x, tiling=TILES):
    """Mean step across the borders of tiles over the mean step elsewhere."""
    step = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(0, 1, 2))
    starts = {column for _, column in tiling.places(*x.shape[2:])}
    at = sorted({c - 1 for c in starts if c} | {c + tiling.size - 1 for c in starts if c + tiling.size < x.shape[3]})
    other = [i for i in range(len(step)) if i not in at]
    return (step[at].mean() / step[other].mean()).item()


# -- the network ------------------------------------------------------------------------------------------------------


def test_a_network_of_one_position_is_reproduced():
    """Whatever the tiling, to rounding: predictions, and the latents of a whole run."""
    net = pointwise_network().requires_grad_(False)
    given = shown()
    colour = torch.tensor([[0.3, -0.5, 0.8], [0.0, 0.0, 0.0]])[:, :, None, None].expand(-1, -1, *SIZE)
    whole = net(**given, reference=colour).sample
    per_tile = colour[:, None, :, :8, :8].expand(-1, len(TILES.places(*SIZE)), -1, -1, -1)
    close(TiledNetwork(net, TILES)(**given, reference=per_tile), whole)
    assert whole.std() > 0.1

    plain, image = tiny_editor(net), pictures(1, 80, 108)
    vectors = [EditingVector(blur=0.5)]
    sources, _ = plain.conditions(image, vectors)
    editor = type(plain)(TiledNetwork(net, TILES), plain.autoencoder, plain.schedule, plain.prediction)
    tiles = sources | {"reference": torch.zeros(1, len(TILES.places(20, 27)), 3, 8, 8)}
    start = plain._noise(sources, [0], 0)
    one, two = (list(e._run(start, s, [0], 4, 0, 0.0))[-1].x for e, s in ((plain, sources), (editor, tiles)))
    close(one, two)


@pytest.mark.parametrize("mask", [False, True])
def test_each_tile_is_the_networks_own_answer(mask):
    """Without overlap and in a size that tiles fill, the prediction is put together from them."""
    net, tiling = tiny_network(mask=mask).requires_grad_(False), Tiling(size=8, overlap=0, batch=4)
    given = shown(size=(16, 24))
    if mask:
        given["mask"] = KeyedNoise(0, range(2), "mask").uniform((1, 16, 24))
    reference = KeyedNoise(0, range(2), "reference").uniform((6, 3, 8, 8))
    found = TiledNetwork(net, tiling)(**given, reference=reference)
    for k, (row, column) in enumerate(tiling.places(16, 24)):
        cut = {n: v[..., row : row + 8, column : column + 8] for n, v in given.items() if v.ndim == 4}
        alone = net(**given | cut, reference=reference[:, k]).sample
        close(found[..., row : row + 8, column : column + 8], alone)


def test_overlap_leaves_no_seams():
    """In what tiles change of the prediction, a border is no step; without overlap it is."""
    net = tiny_network().requires_grad_(False)
    given = shown(size=(16, 80))
    whole = net(**given, reference=torch.zeros(2, 3, 16, 80)).sample
    energy = {}
    for overlap in (0, 4):
        tiling = Tiling(size=16, overlap=overlap)
        zeros = torch.zeros(2, len(tiling.places(16, 80)), 3, 16, 16)
        energy[overlap] = seam_energy(TiledNetwork(net, tiling)(**given, reference=zeros) - whole, tiling)
    assert energy[0] > 2 and energy[4] < 1.3


# -- the autoencoder --------------------------------------------------------------------------------------------------


def test_a_picture_of_one_tile_is_the_autoencoders_own():
    plain, tiled = tiny_autoencoder(), TiledAutoencoder(tiny_autoencoder(), TILES)
    image = pictures(2, 24, 32) * 2 - 1
    close(tiled.encode(image), plain.encode(image))
    for quantize in (False, True):
        close(tiled.decode(plain.encode(image), quantize), plain.decode(plain.encode(image), quantize))


def test_a_photo_through_the_shipped_autoencoder_shows_no_tiles():
    from repro.data import pack
    from repro.data.images import resize

    plain = load_autoencoder()
    image = resize(pack.load(pack.photos("test")[0]), 96)[None, :, :96, :160] * 2 - 1
    tiling = Tiling(size=16, overlap=8)
    tiled = TiledAutoencoder(plain, tiling)
    z = tiled.encode(image)
    assert (z - plain.encode(image)).abs().mean() < 0.15  # of unit deviation
    whole, found = plain.decode(plain.encode(image)), tiled.decode(z)
    assert (found - image).abs().mean() < 1.1 * (whole - image).abs().mean()
    pixels = Tiling(size=16 * 4, overlap=8 * 4)
    assert seam_energy(found, pixels) < 1.15 * seam_energy(whole, pixels)


# -- colours ----------------------------------------------------------------------------------------------------------


def test_the_transfer_of_all_tiles_is_that_of_the_whole():
    """Reinhard's transfer by the references of the tiles, on each tile, against the one of the whole picture."""
    image = 0.3 + 0.3 * pictures(2, 20, 27)  # far from clamping, which undoes no statistics
    image[..., 14:] *= 0.6  # one side is dark
    reference = 0.35 + 0.2 * pictures(2, 31, purpose="reference")
    found = references(image, reference, TILES, factor=1)
    places = TILES.places(20, 27)
    assert found.shape == (2, len(places), 3, 8, 8)
    wanted = colour_transfer(image, reference)
    for k, (row, column) in enumerate(places):
        here = (..., slice(row, row + 8), slice(column, column + 8))
        close(colour_transfer(image[here], (found[:, k] + 1) / 2), wanted[here], 2e-3)
    plain = colour_transfer(image[..., :8, :8], reference)
    assert (plain - wanted[..., :8, :8]).abs().max() > 0.05  # what one reference for all would do


def test_references_are_reduced_and_off_where_there_is_none():
    image, flat = pictures(1, 80, 108), torch.full((1, 3, 9, 9), 0.5)
    assert references(image, flat, TILES, 4).shape == (1, len(TILES.places(20, 27)), 3, 8, 8)
    off = references(image, None, TILES, 4)
    assert off.shape == (1, len(TILES.places(20, 27)), 3, 8, 8) and not off.any()
    wide = references(pictures(1, 16, 108), flat, TILES, 4)  # lower than a tile
    assert wide.shape == (1, len(TILES.places(4, 27)), 3, 4, 8)


def test_hue_of_the_reference_reaches_large_pictures():
    seen = []
    pipe = make()
    pipe.network.register_forward_pre_hook(lambda m, args: seen.append(args[3]))
    red = torch.tensor([0.8, 0.2, 0.1])[None, :, None, None].expand(1, 3, 10, 10)
    pipe(pictures(1, 40), reference=red, tiling=TILES, num_inference_steps=1, seed=0, output_type="pt")
    mean = torch.cat(seen).mean(dim=(0, 2, 3))
    assert mean[0] > mean[1] + 0.4 > mean[2] + 0.3


# -- the pipeline -----------------------------------------------------------------------------------------------------


def test_small_pictures_go_through_in_one_piece():
    pipe, limit = make(), WHOLE * 4
    common = dict(num_inference_steps=1, seed=0, exact=False, output_type="pt")
    calls = []
    pipe.network.register_forward_pre_hook(lambda m, args, kwargs: calls.append(1), with_kwargs=True)
    pipe(pictures(1, 16, limit), **common)
    assert len(calls) == 1
    one = pipe(pictures(1, 16, limit + 8), **common).images
    assert len(calls) == 2  # three tiles of 32 latents, in one batch
    assert (one - pipe(pictures(1, 16, limit + 8), tiling=None, **common).images).abs().max() > 0


def test_large_pictures_are_decided_by_their_generators_alone():
    pipe, images = make(), pictures(2, 44, 60)
    hole = torch.zeros(2, 1, 44, 60)
    hole[:, :, 10:30, 10:50] = 1
    given = dict(
        blur=0.4, sharpen=(2.0, 0.0), num_inference_steps=3, eta=1.0, tiling=TILES, exact=False, output_type="pt"
    )
    reference = pictures(2, 30, purpose="reference")
    both = pipe(images, generator=[seeded(1), seeded(2)], mask=hole, reference=reference, **given).images
    alone = pipe(images[1:], generator=[seeded(2)], mask=hole[1:], reference=reference[1:], **given).images
    assert both.shape == images.shape
    close(both[1:], alone)
    singly = given | {"tiling": Tiling(size=8, overlap=2, batch=1)}
    close(pipe(images, generator=[seeded(1), seeded(2)], mask=hole, reference=reference, **singly).images, both)
    vandalised = torch.where(hole.bool(), 1 - images, images)
    hidden = pipe(vandalised, generator=[seeded(1), seeded(2)], mask=hole, reference=reference, **given).images
    assert torch.equal(hidden, both)


def test_whole_edits_step_at_borders_as_in_one_piece():
    pipe, image = make(tiny_network(scale=0.5).requires_grad_(False)), torch.full((1, 3, 64, 320), 0.4)
    given = dict(latents=KeyedNoise(0, [0], "start").normal((4, 16, 80)), output_type="pt", grain=0.1, exact=False)
    whole = pipe(image, tiling=None, **given).images
    ratio, own = {}, {}
    for overlap in (0, 4):
        pixels = Tiling(16 * 4, overlap * 4)
        found = pipe(image, tiling=Tiling(size=16, overlap=overlap), **given).images
        ratio[overlap] = seam_energy(found, pixels) / seam_energy(whole, pixels)
        own[overlap] = seam_energy(found - whole, pixels)  # an untrained decoder steps at every patch: less those
    assert abs(ratio[4] - 1) < 0.15 and own[4] < 1.4 < 1.9 < own[0]


@pytest.mark.parametrize("tiling", [Tiling(7, 2), Tiling(8, 8), Tiling(8, -1), Tiling(0, 0)])
def test_tiles_that_the_network_cannot_take_are_refused(tiling):
    with pytest.raises(ReproError, match="accepted: a multiple of 2 and an overlap from 0 to below it"):
        make()(pictures(1, 40), tiling=tiling)
