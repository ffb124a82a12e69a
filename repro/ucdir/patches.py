"""Large pictures in overlapping tiles (section 3.3): at every diffusion step, or outside the sampler as is common.

Inside the step, noise and posterior are of the whole picture and the network alone sees tiles, so neighbours never part
by more than one step. Of every tile its margin is dropped; nothing is blended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.nn.padding import pad_to_multiple, unpad


@dataclass(frozen=True)
class Tiles:
    """Square tiles of `size` pixels, of which `margin` pixels a side are dropped, except at the picture's border."""

    size: int = 256
    margin: int = 32

    def __post_init__(self) -> None:
        if self.margin < 0 or self.size <= 2 * self.margin:
            raise ReproError(
                f"tiles: a margin lies between 0 and half the tile: got margin {self.margin}, tile {self.size}"
            )

    def check(self, stride: int) -> None:
        """Refuse tiles that would not lie on the network's own grid."""
        if self.size % stride or self.margin % stride:
            raise ReproError(
                f"tiles: size and margin must be multiples of the network's stride of {stride} pixels: got a size of "
                f"{self.size} and a margin of {self.margin}"
            )

    def along(self, length: int) -> list[tuple[int, int, int]]:
        """(first pixel of the tile, first and last + 1 of those kept) along an axis; what is kept covers it once."""
        if length <= self.size:
            return [(0, 0, length)]
        step = self.size - 2 * self.margin
        starts = [*range(0, length - self.size, step), length - self.size]
        ends = [s + self.size - self.margin for s in starts[:-1]] + [length]
        return list(zip(starts, [0, *ends[:-1]], ends, strict=True))

    def boxes(self, height: int, width: int) -> Iterator[tuple[slice, slice, slice, slice]]:
        """Rows and columns of every tile, then the rows and columns of it that are kept."""
        for top, r0, r1 in self.along(height):
            for left, c0, c1 in self.along(width):
                yield slice(top, top + self.size), slice(left, left + self.size), slice(r0, r1), slice(c0, c1)


def by_tiles(fn: Callable[..., Tensor], images: Sequence[Tensor | None], tiles: Tiles | None, stride: int) -> Tensor:
    """`fn(*images)` (B, 3, H, W), computed tile by tile; None computes it in one piece.

    The picture is first padded to the network's stride. With a margin as wide as the network's receptive field (and no
    statistics over the tile) the result is that of one piece.
    """
    shown = next(x for x in images if x is not None)
    if tiles is None or max(shown.shape[-2:]) <= tiles.size:
        return fn(*images)
    tiles.check(stride)
    padded = [None if x is None else pad_to_multiple(x, stride)[0] for x in images]
    box = tuple(shown.shape[-2:])
    height, width = next(x for x in padded if x is not None).shape[-2:]
    out = shown.new_empty(*shown.shape[:2], height, width)
    for rows, cols, keep_r, keep_c in tiles.boxes(height, width):
        part = fn(*(None if x is None else x[..., rows, cols] for x in padded))
        inner_r = slice(keep_r.start - rows.start, keep_r.stop - rows.start)
        inner_c = slice(keep_c.start - cols.start, keep_c.stop - cols.start)
        out[..., keep_r, keep_c] = part[..., inner_r, inner_c]
    return unpad(out, box)  # type: ignore[arg-type]


def seam_energy(image: Tensor, truth: Tensor, tiles: Tiles) -> float:
    """How much rougher the error is across the lines where kept tiles meet than elsewhere; 1: no seam.

    Mean absolute difference of the error (B, 3, H, W) between neighbours on both sides of a line, over the same mean on
    the lines 5 pixels beside it, which lie in the same content.
    """
    error = image - truth
    lines, beside = [], []
    for axis, length in ((-2, error.shape[-2]), (-1, error.shape[-1])):
        jump = error.diff(dim=axis).abs()
        for _, first, _ in tiles.along(length)[1:]:
            at = first - 1
            lines.append(jump.narrow(axis, at, 1).mean())
            beside += [jump.narrow(axis, at + d, 1).mean() for d in (-5, 5) if 0 <= at + d < jump.shape[axis]]
    if not lines:
        raise ReproError(f"seams: a picture of {tuple(error.shape[-2:])} has none in tiles of {tiles.size}")
    return (torch.stack(lines).mean() / torch.stack(beside).mean()).item()
