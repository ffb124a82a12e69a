"""From the network's output to the image that a user gets: last corrections, none of which is in the records.

The network works on images of about 128 pixels a side through an autoencoder. What that costs is undone here:

- detail that the autoencoder loses is given back as far as the edit keeps it (`restored`);
- an edit of a large image is made on a reduced copy and carried over (`carried`), so that an amount means the same
  share of the image at every resolution;
- a colour transfer gets the mean and deviation of each channel that Reinhard's formula gives it (`matched`);
- a hole is filled in smoothly from its border (`membrane`), where the network alone would start from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import resize
from repro.editing.effects.colour import colour_transfer
from repro.editing.large.tiling import Tiling
from repro.editing.vector import EditingVector

MOST = 4.0  # times that contrast is raised or lowered at most
NARROW = 64  # pixels that a reduced copy's shorter side has at least
# Chosen by eye on validation photographs:
THIN = 12  # pixels from what is known up to which the network fills a hole from noise alone, as in its training
DETAIL = 400  # timestep at which it starts in a smooth filling of a thicker hole; 600 brings back dark smudges
COARSE = 25  # pixels, on the reduced copy, that the network's drift is averaged over


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

    def edit(
        self,
        image: Tensor,
        vector: EditingVector,
        reference: Tensor | None,
        hole: Tensor | None,
        tiling: Tiling | Literal["auto"] | None,
    ) -> Tensor:
        """(1, 3, H, W) in [0, 1]; `reference` and `hole` where the request needs them."""
        if hole is not None:
            image, vector = self.fill(image, hole), replace(vector, inpaint=False)
        if not vector.active:
            return image
        if tiling == "auto" and max(image.shape[2:]) > self.whole:
            return self._by_a_copy(image, vector, reference)
        tiles = None if tiling == "auto" else tiling
        out = restored(image, self.plain(image, tiles), self.draw(image, vector, reference, None, tiles))
        return out if reference is None else matched(out, colour_transfer(image, reference))

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

    def _by_a_copy(self, image: Tensor, vector: EditingVector, reference: Tensor | None) -> Tensor:
        """All but grain on a reduced copy; grain, whose size is in pixels, on the image itself, tile by tile."""
        size, rest = image.shape[2:], replace(vector, grain=None)
        share = min(1.0, max(self.whole / max(size), NARROW / min(size)))
        if rest.active:
            small = resize(image, tuple(round(n * share) for n in size))
            edited = self.draw(small, rest, reference, None, None)
            out = carried(image, small, self.plain(small, None), edited)
            image = out if reference is None else matched(out, colour_transfer(image, reference))
        if vector.grain is None:
            return image
        grained = self.draw(image, EditingVector(grain=vector.grain), None, None, Tiling())
        return restored(image, self.plain(image, Tiling()), grained)


def gain(edited: Tensor, plain: Tensor) -> Tensor:
    """How much of `plain`'s finest octave is in `edited`, (B, C, 1, 1) from 0 to MOST, by regression over pixels."""
    fine, known = _octave(edited), _octave(plain)
    over = (fine * known).sum(dim=(2, 3), keepdim=True)
    return (over / known.square().sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)).clamp(0, MOST)


def restored(image: Tensor, plain: Tensor, edited: Tensor) -> Tensor:
    """An edit with the detail that the autoencoder lost, as far as the edit kept detail.

    All (B, 3, H, W) in [0, 1]: the image, the image through the autoencoder alone, and the edit.
    """
    return (edited + gain(edited, plain) * (image - plain)).clamp(0, 1)


def carried(image: Tensor, small: Tensor, plain: Tensor, edited: Tensor) -> Tensor:
    """The edit of a reduced copy on the image (B, 3, H, W) itself.

    `small` is the copy, `plain` the copy through the autoencoder alone, `edited` its edit, (B, 3, h, w) each. Detail
    finer than the copy keeps what the copy's finest octave keeps; of a blur, which takes more from every finer octave,
    the square of it.
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
