"""Large images in overlapping tiles (section 3.3): at every diffusion step, or outside the sampler as is common.

Inside the step, noise and posterior are of the whole image and the network alone sees tiles, so neighbours never part
by more than one step. Of every tile its margin is dropped; nothing is blended.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.nn.padding import pad_to_multiple, tile_starts, unpad


@dataclass(frozen=True)
class Tiles:
    """Square tiles of `size` pixels, of which `margin` pixels a side are dropped, except at the image's border."""

    size: int = 256
    margin: int = 32

    def __post_init__(self) -> None:
        if self.margin < 0 or self.size <= 2 * self.margin:
            raise ReproError(f"tiles: a margin lies between 0 and half the tile: got {self}")

    def along(self, length: int) -> list[tuple[int, int, int]]:
        """(first pixel of the tile, first and last + 1 of those kept) along an axis; what is kept covers it once."""
        starts = tile_starts(length, self.size, self.size - 2 * self.margin)
        ends = [s + self.size - self.margin for s in starts[:-1]] + [length]
        return list(zip(starts, [0, *ends[:-1]], ends, strict=True))


def by_tiles(fn: Callable[..., Tensor], images: Sequence[Tensor], tiles: Tiles | None, stride: int) -> Tensor:
    """`fn(*images)` (B, 3, H, W), computed tile by tile; None computes it in one piece.

    The image is first padded to the network's stride, of which size and margin must be multiples. With a margin as
    wide as the network's receptive field (and no statistics over the tile) the result is that of one piece.
    """
    size = images[0].shape[-2:]
    if tiles is None or max(size) <= tiles.size:
        return fn(*images)
    if tiles.size % stride or tiles.margin % stride:
        raise ReproError(f"tiles: size and margin must be multiples of the network's stride of {stride}: got {tiles}")
    padded = [pad_to_multiple(x, stride)[0] for x in images]
    out = torch.empty_like(padded[0])
    places = itertools.product(tiles.along(out.shape[-2]), tiles.along(out.shape[-1]))
    for (top, row, row_end), (left, col, col_end) in places:
        rows, cols = slice(top, top + tiles.size), slice(left, left + tiles.size)
        part = fn(*(x[..., rows, cols] for x in padded))
        out[..., row:row_end, col:col_end] = part[..., row - top : row_end - top, col - left : col_end - left]
    return unpad(out, (size[0], size[1]))


def seam_energy(image: Tensor, truth: Tensor, tiles: Tiles) -> float:
    """How much rougher the error is across the lines where kept tiles meet than elsewhere; 1: no seam.

    Mean absolute difference of the error (B, 3, H, W) between neighbours on both sides of a line, over the same mean on
    the lines 5 pixels beside it, which lie in the same content.
    """
    error = image - truth
    lines, beside = [], []
    for axis in (-2, -1):
        jump = error.diff(dim=axis).abs()
        for _, first, _ in tiles.along(error.shape[axis])[1:]:
            at = first - 1
            lines.append(jump.narrow(axis, at, 1).mean())
            beside += [jump.narrow(axis, at + d, 1).mean() for d in (-5, 5) if 0 <= at + d < jump.shape[axis]]
    if not lines:
        raise ReproError(f"seams: an image of {tuple(error.shape[-2:])} has none in tiles of {tiles.size}")
    return (torch.stack(lines).mean() / torch.stack(beside).mean()).item()
