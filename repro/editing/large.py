"""Large images, and last corrections: from the network's output to the image that a user gets. None is in the records.

The network works on images of about 128 pixels a side through an autoencoder. What that costs is undone here:

- an edit of a large image is made on a reduced copy and carried over, so that an amount means the same share of the
  image at every resolution; detail that the autoencoder loses is given back as far as the edit keeps it (`carried`);
- a colour transfer gets the mean and deviation of each channel that Reinhard's formula gives it (`matched`);
- a hole is filled in smoothly from its border (`membrane`), where the network alone would start from nothing.

What is made at full size is made by tiles: in every denoising step the network predicts overlapping tiles of the one
noisy latent, and its predictions are blended ("MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation",
Bar-Tal et al., 2023): neighbours agree from step to step, and the noise is the whole image's. Colour needs more.
Reinhard's transfer is about the statistics of the whole image: with the same reference for all, every tile would be
stretched to the reference's contrast, a patch of sky too. `references` therefore gives each tile the reference with
those statistics that this tile has after a transfer of the whole image; the transfer of all tiles is then that of the
whole, exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import resize, to_model
from repro.editing.effects.colour import colour_transfer
from repro.editing.vector import EditingVector
from repro.nn.padding import tile_starts, tiled

MOST = 4.0  # times that contrast is raised or lowered at most
NARROW = 64  # pixels that a reduced copy's shorter side has at least
# Chosen by eye on validation photographs:
THIN = 12  # pixels from what is known up to which the network fills a hole from noise alone, as in its training
DETAIL = 400  # timestep at which it starts in a smooth filling of a thicker hole; 600 brings back dark smudges
COARSE = 25  # pixels, on the reduced copy, that the network's drift is averaged over


@dataclass(frozen=True)
class Tiling:
    """Tiles of `size` latents a side, `overlap` of them shared with the neighbour; `batch` run at once."""

    size: int = 32
    overlap: int = 8
    batch: int = 8

    def run(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`fn` of all tiles of x (B, C, h, w), image by image."""
        return torch.cat([tiled(fn, one, self.size, self.overlap, self.batch) for one in x.split(1)])


@dataclass(frozen=True)
class _Tiled:
    """`whole` by tiles; every other attribute is that of `whole`."""

    whole: Any
    tiling: Tiling

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


class TiledAutoencoder(_Tiled):
    """`encode` and `decode` of an `Autoencoder`, by tiles."""

    def encode(self, image: Tensor) -> Tensor:
        """Latents of (B, 3, H, W) in [-1, 1], H and W multiples of the factor."""
        blocks = F.pixel_unshuffle(image, self.factor)  # (B, 3 f^2, H/f, W/f): tiles are cut in latents
        return self.tiling.run(lambda x: self.whole.encode(F.pixel_shuffle(x, self.factor)), blocks)

    def decode(self, latent: Tensor, quantize: bool = False) -> Tensor:
        """Image (B, 3, H, W) in [-1, 1] of latents."""
        blocks = self.tiling.run(lambda z: F.pixel_unshuffle(self.whole.decode(z, quantize), self.factor), latent)
        return F.pixel_shuffle(blocks, self.factor)


class TiledNetwork(_Tiled):
    """The prediction of an `EditingNet`, by tiles."""

    def __call__(self, sample: Tensor, timestep: Tensor, **inputs: Tensor) -> Tensor:
        """As `EditingNet.forward`, of (B, channels, h, w); `reference` (B, n, 3, th, tw) is one for each tile."""
        cut = [sample, *(inputs[name] for name in ("source", "mask") if name in inputs)]
        widths = [part.shape[1] for part in cut]
        parts = zip(torch.cat(cut, dim=1).split(1), timestep, inputs["reference"], inputs["vector"], strict=True)
        return torch.cat([self._one(widths, *part) for part in parts])

    def _one(self, widths: list[int], x: Tensor, t: Tensor, reference: Tensor, vector: Tensor) -> Tensor:
        order = iter(reference.split(self.tiling.batch))

        def predict(tiles: Tensor) -> Tensor:
            x_t, source, *mask = tiles.split(widths, dim=1)
            count = len(tiles)
            return self.whole(x_t, t.expand(count), source, next(order), vector.expand(count, -1), *mask).sample

        return self.tiling.run(predict, x)


def references(image: Tensor, reference: Tensor | None, tiling: Tiling, factor: int) -> Tensor:
    """The colour reference of each tile, (B, tiles, 3, th, tw) in [-1, 1]; zeros where there is none.

    Args:
        image: (B, 3, H, W) in [0, 1], whole latents; what is in holes counts, so fill them with something harmless.
        reference: (B or 1, 3, h, w) in [0, 1] of any size.
        factor: pixels a side of one latent.
    """
    size = [min(tiling.size, n // factor) for n in image.shape[2:]]
    starts = [tile_starts(n // factor, tiling.size, tiling.size - tiling.overlap) for n in image.shape[2:]]
    places = [(row * factor, column * factor) for row in starts[0] for column in starts[1]]  # in the order of `tiled`
    if reference is None:
        return image.new_zeros(1, 1, 3, *size).expand(len(image), len(places), -1, -1, -1)
    tall, wide = (n * factor for n in size)
    small, out = resize(reference, (tall, wide)).expand(len(image), -1, -1, -1), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a channel is flat: of a tile, that is no news
        for own, goal in zip(small.split(1), colour_transfer(image, reference), strict=True):
            moved = []
            for k in range(0, len(places), tiling.batch):
                tiles = torch.stack([goal[:, r : r + tall, c : c + wide] for r, c in places[k : k + tiling.batch]])
                moved.append(colour_transfer(own.expand(len(tiles), -1, -1, -1), tiles))
            out.append(F.avg_pool2d(to_model(torch.cat(moved)), factor))
    return torch.stack(out)


@dataclass(frozen=True)
class ForUse:
    """One image edited for use, by passes of the network.

    `draw`    (image, request, reference, hole, tiling) -> edited: one pass.
    `plain`   (image, tiling) -> the image through the autoencoder alone.
    `detail`  (image whose hole is filled smoothly, hole) -> the same with the network's detail in the hole.
    `whole`   pixels a side up to which an image goes through in one piece.
    """

    draw: Callable[[Tensor, EditingVector, Tensor | None, Tensor | None, Tiling | None], Tensor]
    plain: Callable[[Tensor, Tiling | None], Tensor]
    detail: Callable[[Tensor, Tensor], Tensor]
    whole: int

    def edit(self, image: Tensor, vector: EditingVector, reference: Tensor | None, hole: Tensor | None) -> Tensor:
        """(1, 3, H, W) in [0, 1]; `reference` and `hole` where the request needs them.

        A large image is edited by a reduced copy, all but grain, whose size is in pixels: that is made on the image
        itself, tile by tile.
        """
        if hole is not None:
            image, vector = self.fill(image, hole), replace(vector, inpaint=False)
        size = image.shape[2:]
        large = max(size) > self.whole
        rest, small = replace(vector, grain=None) if large else vector, image
        if rest.active:
            if large:
                share = min(1.0, max(self.whole / max(size), NARROW / min(size)))
                small = resize(image, tuple(round(n * share) for n in size))
            edited = carried(image, small, self.plain(small, None), self.draw(small, rest, reference, None, None))
            image = edited if reference is None else matched(edited, colour_transfer(image, reference))
        if not large or vector.grain is None:
            return image
        grained = self.draw(image, EditingVector(grain=vector.grain), None, None, Tiling())
        return carried(image, image, self.plain(image, Tiling()), grained)

    def fill(self, image: Tensor, hole: Tensor) -> Tensor:
        """The image with its hole filled; outside it is left as it is, and what is in it is never used.

        The hole is filled smoothly from its border, and the network draws detail into it; the coarse part of what it
        adds, a drift into dark, is left out. A thick hole, of which a tile would be nothing but hole, gets its detail
        on a reduced copy that goes through in one piece, and it is enlarged.
        """
        size = image.shape[2:]
        smooth, share = membrane(image, 1 - hole), min(1.0, self.whole / max(size))
        if thickness(hole) > THIN:
            small = tuple(max(NARROW // 4, round(n * share)) for n in size)
            base = resize(smooth, small)
            there = hole if small == tuple(size) else (F.interpolate(hole, size=small, mode="area") > 0) * 1.0
            drawn = self.detail(base, there)
        else:
            base, there = resize(smooth, tuple(size)), hole
            drawn = self.draw(base, EditingVector(inpaint=True), None, there, Tiling() if share < 1 else None)
        added = (drawn - base) * there
        averages = (F.avg_pool2d(x, COARSE, 1, COARSE // 2, count_include_pad=False) for x in (added, there))
        coarse = next(averages) / next(averages).clamp(min=1e-6)
        return torch.where(hole > 0, (smooth + _to((added - coarse) * there, size)).clamp(0, 1), image)


def gain(edited: Tensor, plain: Tensor) -> Tensor:
    """How much of `plain`'s finest octave is in `edited`, (B, C, 1, 1) from 0 to MOST, by regression over pixels."""
    fine, known = _octave(edited), _octave(plain)
    over = (fine * known).sum(dim=(2, 3), keepdim=True)
    return (over / known.square().sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)).clamp(0, MOST)


def carried(image: Tensor, small: Tensor, plain: Tensor, edited: Tensor) -> Tensor:
    """The edit of a reduced copy on the image (B, 3, H, W) itself, with the detail that the autoencoder lost as far as
    the edit kept detail.

    `small` is the copy, or the image itself, `plain` the same through the autoencoder alone, `edited` its edit,
    (B, 3, h, w) each. Detail finer than the copy keeps what the copy's finest octave keeps; of a blur, which takes more
    from every finer octave, the square of it.
    """
    kept, size = gain(edited, plain), image.shape[-2:]
    base, detail = edited + kept * (small - plain), image - _to(small, size)
    return (_to(base, size) + torch.where(kept < 1, kept.square(), kept) * detail).clamp(0, 1)


def matched(image: Tensor, like: Tensor) -> Tensor:
    """`image` (B, 3, H, W) in [0, 1] with mean and deviation of each channel of `like`, which has any size."""
    deviation, mean = torch.std_mean(like, dim=(2, 3), keepdim=True, correction=0)
    for _ in range(3):  # what is cut off at 0 and 1 moves both a little
        own, middle = torch.std_mean(image, dim=(2, 3), keepdim=True, correction=0)
        scale = (deviation / own.clamp(min=1e-4)).clamp(1 / MOST, MOST)
        image = ((image - middle) * scale + mean).clamp(0, 1)
    return image


def membrane(values: Tensor, known: Tensor) -> Tensor:
    """`values` (B, C, H, W) where `known` (B, 1, H, W) is 1, and a smooth surface through its surroundings elsewhere.

    Averages of what is known, twice as wide at each level, come back down where nothing nearer is known (pull-push).
    """
    height, width = values.shape[-2:]
    if max(height, width) == 1 or bool(known.all()):
        return values * known
    even = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(known, even), 2)
    mean = F.avg_pool2d(F.pad(values * known, even), 2) / weight.clamp(min=1e-8)
    coarse = membrane(mean, (weight > 0).to(known))
    size = (height + height % 2, width + width % 2)
    smooth = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.where(known > 0, values, smooth)


def thickness(hole: Tensor) -> int:
    """Pixels from the innermost point of a hole (1, 1, H, W) to what is known; the image's edge is no border."""
    steps = 0
    while bool(hole.any()) and steps <= max(hole.shape[-2:]):
        hole = -F.max_pool2d(-hole, 3, stride=1, padding=1)  # padding is ignored: edges do not help
        steps += 1
    return steps


def _octave(x: Tensor) -> Tensor:
    half = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False, antialias=True)
    return x - _to(half, x.shape[-2:])


def _to(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bicubic", align_corners=False)
