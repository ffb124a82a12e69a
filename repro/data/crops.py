"""Deterministic crops: where a sample is cut and whether it is mirrored depends on (seed, sample id), nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

Images = Tensor | Sequence[Tensor]
Ids = Tensor | Sequence[int | str]


def crops(images: Images, size: int, ids: Ids, seed: int, *, flip: bool = True) -> Tensor:
    """One random crop of each image, mirrored left to right with probability 1/2.

    Args:
        images: images (C, H, W) of any sizes, or a batch (B, C, H, W); any dtype, any device.
        size: side of the square crop, in pixels.
        ids: one id a sample. Two crops of one image have two ids: the caller makes them, e.g. ``f"{name}#{visit}"``.
        seed: the experiment's seed.
        flip: whether mirroring is drawn at all; the position does not depend on it.

    Returns:
        (B, C, size, size), same dtype. Row b depends on images[b], ids[b] and seed only: not on batch or order.
    """
    listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    return cut(images, size, _draw(listed, seed), flip=flip, names=listed)


def cut(images: Images, size: int, draw: Tensor, *, flip: bool = True, names: Sequence[int | str] = ()) -> Tensor:
    """Crops at given relative positions: `draw` (B, 3) in [0, 1) is top, left, and mirrored below 1/2."""
    out = []
    for image, top, left, mirror in zip(
        images, *_places([i.shape[-2:] for i in images], size, draw, names), strict=True
    ):
        part = image[..., top : top + size, left : left + size]
        out.append(part.flip(-1) if flip and mirror else part)
    return torch.stack(out)


def crop_places(
    shapes: Sequence[tuple[int, int]], size: int, ids: Sequence[int | str], seed: int
) -> tuple[list[int], list[int], list[bool]]:
    """Top, left and mirrored for each (height, width): what `crops` does, for pairs that must be cut alike."""
    return _places(shapes, size, _draw(list(ids), seed), ids)


def _draw(ids: list[int | str], seed: int) -> Tensor:
    return KeyedNoise(seed, ids, "crop").uniform((3,))


def _places(
    shapes: Sequence[tuple[int, int]], size: int, draw: Tensor, names: Sequence[int | str]
) -> tuple[list[int], list[int], list[bool]]:
    for name, (height, width) in zip(names or range(len(shapes)), shapes, strict=True):
        if not 1 <= size <= min(height, width):
            raise ReproError(f"crops: a {size}x{size} crop does not fit into sample {name!r} of {height}x{width}")
    draw = draw.double()  # u * n stays below n
    room = torch.tensor(shapes, dtype=torch.float64) - size + 1  # (B, 2) possible tops and lefts
    place = (draw[:, :2] * room).floor().long()
    return place[:, 0].tolist(), place[:, 1].tolist(), (draw[:, 2] < 0.5).tolist()
