"""What a user hands to a pipeline: batches of images in any of their forms, and masks as people draw them."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data.images import ImageSource, read_channels, read_image
from repro.errors import ReproError

BLACK, WHITE = 0.1, 0.9  # what counts as black and white in a drawn mask
GREY_SHARE = 0.1  # of the pixels may be neither, as soft edges and JPEG make them; they are cut at one half
LUMINANCE = (0.299, 0.587, 0.114)  # of RGB, ITU-R BT.601: what Pillow takes


def _batch(read: Callable[..., Tensor], source: Any, name: str, *options: Any) -> Tensor | None:
    """What `read` makes of each of several, as one batch; None where `source` is one."""
    if not (isinstance(source, list | tuple) or (isinstance(source, Tensor | np.ndarray) and source.ndim == 4)):
        return None
    parts = [read(one, f"{name} {i}" if len(source) > 1 else name, *options) for i, one in enumerate(source)]
    sizes = sorted({tuple(part.shape[2:]) for part in parts})
    if len(sizes) != 1:
        found = ", ".join(f"{w}x{h}" for h, w in sizes) or "none"
        raise ReproError(f"{name}: got {found} in one batch; accepted: at least one, all of one size")
    return torch.cat(parts)


def pictures(source: ImageSource | Sequence[ImageSource], name: str = "image", channels: int = 3) -> Tensor:
    """float32 (B, channels, H, W) in [0, 1] of one image, a batch (B, C, H, W) or (B, H, W, C), or a list.

    Each is whatever `read_image` accepts: one way for every pipeline. `channels` are 3 or, for a network of grey
    images, 1: the luminance. Raises `ReproError` for an empty list and for several sizes.
    """
    if (batch := _batch(pictures, source, name, channels)) is not None:
        return batch
    image = read_image(source, name="" if isinstance(source, str | os.PathLike) else name)[None]
    if channels == 3:
        return image
    if torch.equal(image[:, :1].expand_as(image), image):
        return image[:, :1].contiguous()
    return (image * torch.tensor(LUMINANCE).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def masks(source: ImageSource | Sequence[ImageSource], name: str = "mask") -> Tensor:
    """float32 (B, 1, H, W): 1 in the hole, 0 elsewhere.

    - Arrays (H, W), (H, W, 1), (B, H, W, 1) and tensors (H, W), (1, H, W), (B, 1, H, W) hold 0 and 1, or bytes 0 and
      255.
    - Images (a file, a Pillow image, an array with colours): white, or any bright paint, is the hole on black. Where
      parts are transparent and the paint is of one brightness, all that is painted is the hole, black paint too. Soft
      edges are cut at one half.

    Raises `ReproError` for a mask that is not black and white, or in which nothing, or all, is a hole.
    """
    if (batch := _batch(masks, source, name)) is not None:
        return batch
    if isinstance(source, np.ndarray) and (source.ndim == 2 or source.shape[-1] == 1):
        source = torch.from_numpy(source.reshape(source.shape[:2]).copy())
    if isinstance(source, Tensor):
        hole = source[0] if source.ndim == 3 and len(source) == 1 else source
        if hole.ndim != 2 or 0 in hole.shape:
            raise ReproError(f"{name}: got shape {tuple(source.shape)}; accepted: (H, W), (1, H, W), (B, 1, H, W)")
        hole = hole.float() / 255 if hole.dtype == torch.uint8 and hole.max() > 1 else hole.float()
        if not ((hole == 0) | (hole == 1)).all():
            found = f"values between {hole.min():g} and {hole.max():g}"
            raise ReproError(f"{name}: holds {found}; accepted: 0 (kept) and 1 (hole) only")
    else:
        name = str(source) if isinstance(source, str | os.PathLike) else name
        hole = _drawn(read_channels(source, name), name)
    if hole.min() == hole.max():
        found = "all of it" if hole.any() else "nothing in it"
        raise ReproError(f"{name}: {found} is a hole; accepted: in a part 1, white, or paint on transparent, the hole")
    return hole[None, None]


def _drawn(image: Tensor, name: str) -> Tensor:
    """The hole (H, W) of a mask (C, H, W) that somebody painted."""
    value = image[:3].amax(dim=0)  # brightest channel, (H, W)
    if len(image) == 4:
        alpha = image[3]
        opaque = value[alpha >= 0.5]
        one_paint = len(opaque) == 0 or bool(opaque.max() - opaque.min() < 1 - WHITE)
        value = alpha if one_paint and (alpha < 0.5).any() else value * alpha
    grey = ((value > BLACK) & (value < WHITE)).float().mean().item()
    if grey > GREY_SHARE:
        raise ReproError(f"{name}: {grey:.0%} of its pixels are grey; accepted: black (kept) and white (hole)")
    return (value >= 0.5).float()
