"""JPEG by the real encoder (Pillow's libjpeg), colour at half the resolution (4:2:0), as on the web."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

QUALITY = (5, 40)  # of training, whole numbers, both included
SUBSAMPLING = "4:2:0"
LAW = f"JPEG, version 1: quality {QUALITY}, {SUBSAMPLING}"


def jpeg(image: Tensor, quality: Sequence[int]) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> what is left of the pictures after JPEG of each one's `quality`, 1 to 100."""
    if wrong := [q for q in quality if q != int(q) or not 1 <= q <= 100]:
        raise ReproError(f"jpeg: quality must be a whole number from 1 to 100: got {wrong[0]}")
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    out = np.empty_like(pixels)
    for into, picture, q in zip(out, pixels, quality, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=int(q), subsampling=SUBSAMPLING)
        into[...] = np.asarray(Image.open(file))
    return torch.from_numpy(out).to(image.device).permute(0, 3, 1, 2).to(image.dtype).contiguous() / 255


def draw_quality(noise: KeyedNoise) -> list[int]:
    """A quality in QUALITY for each sample."""
    return noise.integers(QUALITY[0], QUALITY[1] + 1).tolist()
