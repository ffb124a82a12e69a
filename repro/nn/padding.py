"""Padding to a network's stride and tiling of large images, both undone exactly."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.errors import ReproError

Box = tuple[int, int]


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, Box]:
    """Repeat the right and bottom edge of (B, C, H, W) until H and W are multiples; returns image and old size.

    An image that fits already is returned as it is, without a copy.
    """
    h, w = x.shape[-2:]
    bottom, right = -h % multiple, -w % multiple
    if bottom or right:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return x, (h, w)


def unpad(x: Tensor, box: Box) -> Tensor:
    """Crop (B, C, H', W') back to the size before `pad_to_multiple`."""
    h, w = box
    return x if x.shape[-2:] == (h, w) else x[..., :h, :w]


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin along one axis: every `stride`, the last one flush with the end."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, stride), length - tile]


def tiled(fn: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, batch: int = 1) -> Tensor:
    """Apply `fn` (B, C, h, w) -> (B, C', h, w) to overlapping tiles of x (1, C, H, W) and blend with a linear ramp.

    Weights sum to one everywhere, so a pointwise `fn` is reproduced exactly and memory stays that of `batch` tiles.

    Raises:
        ReproError: overlap not in [0, tile), or more than one image.
    """
    if not 0 <= overlap < tile:
        raise ReproError(f"tile overlap must lie in [0, tile): got overlap {overlap} for tile {tile}")
    if len(x) != 1:
        raise ReproError(f"tiled() takes one image at a time: got a batch of {len(x)}")
    h, w = x.shape[-2:]
    rows, cols = (tile_starts(n, tile, tile - overlap) for n in (h, w))
    places = [(r, c) for r in rows for c in cols]
    weight = _window(min(tile, h), overlap, x)[:, None] * _window(min(tile, w), overlap, x)[None, :]
    total, norm = None, x.new_zeros(1, 1, h, w)
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        out = fn(torch.cat([x[..., r : r + tile, c : c + tile] for r, c in some]))
        if total is None:
            total = out.new_zeros(1, out.shape[1], h, w)
        for (r, c), piece in zip(some, out, strict=True):
            total[..., r : r + tile, c : c + tile] += piece * weight
            norm[..., r : r + tile, c : c + tile] += weight
    return total / norm


def _window(length: int, overlap: int, like: Tensor) -> Tensor:
    position = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    ramp = torch.minimum(position, length - position)
    return (ramp / max(overlap, 1)).clamp(max=1.0)
