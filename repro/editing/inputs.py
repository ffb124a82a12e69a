"""What a user hands over: pictures in any of their forms, and masks as people draw them."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from repro.data.images import ImageSource, read_image
from repro.errors import ReproError

BLACK, WHITE = 0.1, 0.9  # what counts as black and white in a drawn mask
GREY_SHARE = 0.1  # of the pixels may be neither, as soft edges and JPEG make them; they are cut at one half


def pictures(source: ImageSource | Sequence[ImageSource], name: str = "picture") -> Tensor:
    """float32 (B, 3, H, W) in [0, 1] of one picture, a batch (B, 3, H, W) or (B, H, W, 3), or a list of pictures.

    Each is whatever `repro.data.images.read_image` accepts, or a floating-point array (H, W, 3) in [0, 1]. Raises
    `ReproError` for an empty list and for several sizes.
    """
    if isinstance(source, list | tuple) or (isinstance(source, Tensor | np.ndarray) and source.ndim == 4):
        if len(source) == 0:
            raise ReproError(f"{name}: got none; accepted: at least one")
        parts = [pictures(one, f"{name} {i}") for i, one in enumerate(source)]
        sizes = sorted({tuple(part.shape[2:]) for part in parts})
        if len(sizes) > 1:
            raise ReproError(
                f"{name}: got {', '.join(f'{w}x{h}' for h, w in sizes)} in one batch; accepted: pictures of one size"
            )
        return torch.cat(parts)
    if isinstance(source, np.ndarray) and source.ndim == 3 and source.dtype.kind == "f":
        source = torch.from_numpy(np.ascontiguousarray(source)).permute(2, 0, 1)
    return read_image(source, name="" if isinstance(source, str | os.PathLike) else name)[None]


def masks(source: ImageSource | Sequence[ImageSource], name: str = "mask") -> Tensor:
    """float32 (B, 1, H, W): 1 in the hole, 0 elsewhere.

    - Arrays (H, W), (H, W, 1) and tensors (H, W), (1, H, W), (B, 1, H, W) hold 0 and 1, or bytes 0 and 255.
    - Pictures (a file, a Pillow image, an array with colours): white is the hole on black, whatever the number of
      channels; any bright paint counts as white. Where parts are transparent and the paint is of one brightness, all
      that is painted is the hole, black paint too. Soft edges are cut at one half.

    Raises:
        ReproError: a mask that is not black and white, or in which nothing is a hole.
    """
    if isinstance(source, list | tuple):
        if not source:
            raise ReproError(f"{name}: got none; accepted: at least one")
        parts = [masks(one, f"{name} {i}") for i, one in enumerate(source)]
        if len({part.shape[2:] for part in parts}) > 1:
            raise ReproError(f"{name}: got several sizes in one batch; accepted: masks of one size")
        return torch.cat(parts)
    if isinstance(source, np.ndarray) and (source.ndim == 2 or source.shape[-1] == 1):
        hole = _of_numbers(torch.from_numpy(np.ascontiguousarray(source)).reshape(source.shape[:2])[None, None], name)
    elif isinstance(source, Tensor):
        if source.ndim == 2 or (source.ndim == 3 and source.shape[0] == 1):
            source = source.reshape(1, 1, *source.shape[-2:])
        if source.ndim != 4 or source.shape[1] != 1 or 0 in source.shape:
            raise ReproError(f"{name}: got shape {tuple(source.shape)}; accepted: (H, W), (1, H, W), (B, 1, H, W)")
        hole = _of_numbers(source, name)
    else:
        name = str(source) if isinstance(source, str | os.PathLike) else name
        hole = _of_picture(source, name)
    if not hole.flatten(1).any(dim=1).all():
        raise ReproError(f"{name}: nothing in it is a hole; accepted: 1, white, or paint on transparent, is the hole")
    return hole


def _of_numbers(values: Tensor, name: str) -> Tensor:
    if values.dtype == torch.uint8 and values.max() > 1:
        values = values / 255
    if not ((values == 0) | (values == 1)).all():
        low, high = values.min().item(), values.max().item()
        raise ReproError(f"{name}: holds values between {low:g} and {high:g}; accepted: 0 (kept) and 1 (hole) only")
    return values.float()


def _of_picture(source: ImageSource, name: str) -> Tensor:
    value = read_image(source, name=name).amax(dim=0)  # refuses what is no picture; brightest channel, (H, W)
    rgba = _transparent(source)
    if rgba is not None and (rgba[..., 3] < 0.5).any():
        paint, alpha = rgba[..., :3].amax(dim=-1), rgba[..., 3]
        seen = paint[alpha >= 0.5]
        one_paint = len(seen) == 0 or bool(seen.max() - seen.min() < 1 - WHITE)
        value = alpha if one_paint else paint * alpha
    grey = ((value > BLACK) & (value < WHITE)).float().mean().item()
    if grey > GREY_SHARE:
        raise ReproError(f"{name}: {grey:.0%} of its pixels are grey; accepted: black (kept) and white (hole)")
    return (value >= 0.5).float()[None, None]


def _transparent(source: ImageSource) -> Tensor | None:
    """(H, W, 4) in [0, 1] of a picture with transparency, which `read_image` lays on white; None of another."""
    if isinstance(source, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(source))
    elif isinstance(source, Image.Image):
        image = source
    else:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes | bytearray) else Path(source))
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return None
    rgba = np.array(ImageOps.exif_transpose(image).convert("RGBA"), dtype=np.float32)
    return torch.from_numpy(rgba / 255)
