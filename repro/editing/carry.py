"""From what the network draws to the picture that a user gets: last corrections, none of which is in the records.

The network works on pictures of about 128 pixels a side through an autoencoder. What that costs is undone here:

- detail that the autoencoder loses is given back as far as the edit keeps it (`restored`);
- an edit of a large picture is made on a reduced copy and carried over (`carried`), so that an amount means the same
  share of the picture at every resolution;
- a colour transfer gets the mean and deviation of each channel that Reinhard's formula gives it (`matched`);
- a hole is filled in smoothly from its border (`membrane`), where the network alone would start from nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import resize
from repro.editing.effects.colour import colour_transfer
from repro.editing.tiling import Tiling
from repro.editing.vector import EditingVector

MOST = 4.0  # times that contrast is raised or lowered at most
NARROW = 64  # pixels that a reduced copy's shorter side has at least
# Chosen by eye on validation photographs:
THIN = 12  # pixels from what is known up to which the network fills a hole from noise alone, as it learned to
DETAIL = 400  # timestep at which it starts in a smooth filling of a thicker hole; 600 brings back dark smudges
COARSE = 25  # pixels, on the reduced copy, that the network's drift is averaged over


@dataclass(frozen=True)
class ForUse:
    """One picture edited for use, by passes of the network.

    `draw`    (picture, request, reference, hole, tiling) -> edited: one pass.
    `plain`   (picture, tiling) -> the picture through the autoencoder alone.
    `detail`  (picture whose hole is filled smoothly, hole) -> the same with the network's detail in the hole.
    `whole`   pixels a side up to which a picture goes through in one piece.
    """

    draw: Callable[[Tensor, EditingVector, Tensor | None, Tensor | None, Tiling | None], Tensor]
    plain: Callable[[Tensor, Tiling | None], Tensor]
    detail: Callable[[Tensor, Tensor], Tensor]
    whole: int

    def edit(
        self,
        picture: Tensor,
        vector: EditingVector,
        reference: Tensor | None,
        hole: Tensor | None,
        tiling: Tiling | Literal["auto"] | None,
    ) -> Tensor:
        """(1, 3, H, W) in [0, 1]; `reference` and `hole` where the request needs them."""
        if hole is not None:
            picture, vector = self.fill(picture, hole), replace(vector, inpaint=False)
        if not vector.active:
            return picture
        if tiling == "auto" and max(picture.shape[2:]) > self.whole:
            out = self._by_a_copy(picture, vector, reference)
        else:
            tiles = None if tiling == "auto" else tiling
            out = restored(picture, self.plain(picture, tiles), self.draw(picture, vector, reference, None, tiles))
            out = self._coloured(out, picture, reference)
        return out

    def fill(self, picture: Tensor, hole: Tensor) -> Tensor:
        """The picture with its hole filled; outside it is left as it is, and what is in it is never looked at.

        The hole is filled smoothly from its border, and the network draws detail into it; the coarse part of what it
        adds, a drift into dark, is left out. A thick hole, of which a tile would see nothing but hole, gets its detail
        on a reduced copy that goes through in one piece, and it is enlarged.
        """
        size = tuple(picture.shape[2:])
        smooth, share = membrane(picture, 1 - hole), min(1.0, self.whole / max(size))
        thick = thickness(hole) > THIN
        small = tuple(max(NARROW // 4, round(n * share)) for n in size) if thick else size
        base, there = resize(smooth, small), _shrunk(hole, small)
        if thick:
            drawn = self.detail(base, there)
        else:
            drawn = self.draw(base, EditingVector(inpaint=True), None, there, Tiling() if share < 1 else None)
        added = (drawn - base) * there
        coarse = _averaged(added) / _averaged(there).clamp(min=1e-6)
        return torch.where(hole > 0, (smooth + _to((added - coarse) * there, size)).clamp(0, 1), picture)

    def _by_a_copy(self, picture: Tensor, vector: EditingVector, reference: Tensor | None) -> Tensor:
        """All but grain on a reduced copy; grain, whose size is in pixels, on the picture itself, tile by tile."""
        size, rest = picture.shape[2:], replace(vector, grain=None)
        share = min(1.0, max(self.whole / max(size), NARROW / min(size)))
        if rest.active:
            small = resize(picture, tuple(round(n * share) for n in size))
            edited = self.draw(small, rest, reference, None, None)
            out = carried(picture, small, self.plain(small, None), edited)
            picture = self._coloured(out, picture, reference)
        if vector.grain is None:
            return picture
        grained = self.draw(picture, EditingVector(grain=vector.grain), None, None, Tiling())
        return restored(picture, self.plain(picture, Tiling()), grained)

    @staticmethod
    def _coloured(out: Tensor, picture: Tensor, reference: Tensor | None) -> Tensor:
        return out if reference is None else matched(out, colour_transfer(picture, reference))


def gain(edited: Tensor, plain: Tensor) -> Tensor:
    """How much of `plain`'s finest octave is in `edited`, (B, C, 1, 1) from 0 to MOST, by regression over pixels."""
    fine, known = _octave(edited), _octave(plain)
    over = (fine * known).sum(dim=(2, 3), keepdim=True)
    return (over / known.square().sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)).clamp(0, MOST)


def restored(picture: Tensor, plain: Tensor, edited: Tensor) -> Tensor:
    """An edit with the detail that the autoencoder lost, as far as the edit kept detail.

    All (B, 3, H, W) in [0, 1]: the picture, the picture through the autoencoder alone, and the edit.
    """
    return (edited + gain(edited, plain) * (picture - plain)).clamp(0, 1)


def carried(picture: Tensor, small: Tensor, plain: Tensor, edited: Tensor) -> Tensor:
    """The edit of a reduced copy on the picture (B, 3, H, W) itself.

    `small` is the copy, `plain` the copy through the autoencoder alone, `edited` its edit, (B, 3, h, w) each. Detail
    finer than the copy keeps what the copy's finest octave keeps; of a blur, which takes more from every finer octave,
    the square of it.
    """
    kept, size = gain(edited, plain), picture.shape[-2:]
    base, detail = edited + kept * (small - plain), picture - _to(small, size)
    return (_to(base, size) + torch.where(kept < 1, kept.square(), kept) * detail).clamp(0, 1)


def matched(image: Tensor, wanted: Tensor) -> Tensor:
    """`image` (B, 3, H, W) in [0, 1] with mean and deviation of each channel of `wanted`, which has any size."""
    deviation, mean = torch.std_mean(wanted, dim=(2, 3), keepdim=True, correction=0)
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
    """Pixels from the innermost point of a hole (1, 1, H, W) to what is known; the picture's edge is no border."""
    steps = 0
    while bool(hole.any()):
        hole = -F.max_pool2d(-hole, 3, stride=1, padding=1)  # padding is ignored: edges do not help
        steps += 1
        if steps > max(hole.shape[-2:]):
            return steps
    return steps


def _shrunk(hole: Tensor, size: tuple[int, ...]) -> Tensor:
    """A hole at another size: whatever pixel is hole in part."""
    return (
        hole
        if tuple(hole.shape[-2:]) == tuple(size)
        else (F.interpolate(hole, size=tuple(size), mode="area") > 0) * 1.0
    )


def _averaged(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, COARSE, 1, COARSE // 2, count_include_pad=False)


def _octave(x: Tensor) -> Tensor:
    half = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False, antialias=True)
    return x - _to(half, x.shape[-2:])


def _to(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bicubic", align_corners=False)
