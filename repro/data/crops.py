"""Deterministic crops: where a sample is cut and whether it is mirrored depends on (seed, sample id), nothing else."""

from collections.abc import Sequence

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


def crops(
    images: Tensor | Sequence[Tensor], size: int, ids: Tensor | Sequence[int | str], seed: int, *, flip: bool = True
) -> Tensor:
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
    return cut(images, size, KeyedNoise(seed, listed, "crop").uniform((3,)), flip=flip, names=listed)


def cut(
    images: Tensor | Sequence[Tensor],
    size: int,
    draw: Tensor,
    *,
    flip: bool = True,
    names: Sequence[int | str] | None = None,
) -> Tensor:
    """Crops at given relative positions: `draw` (B, 3) in [0, 1) is top, left, and mirrored below 1/2."""
    out = []
    for image, name, (top, left, mirrored) in zip(images, names or range(len(images)), draw.tolist(), strict=True):
        height, width = image.shape[-2:]
        if not 1 <= size <= min(height, width):
            raise ReproError(f"crops: a {size}x{size} crop does not fit into sample {name!r} of {height}x{width}")
        # In double precision, in which u * n stays below n.
        y, x = int(top * (height - size + 1)), int(left * (width - size + 1))
        part = image[..., y : y + size, x : x + size]
        out.append(part.flip(-1) if flip and mirrored < 0.5 else part)
    return torch.stack(out)
