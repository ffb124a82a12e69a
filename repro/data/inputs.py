"""What a user hands over: pictures in any of their forms, and masks as people draw them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from repro.data.images import ImageSource, read_channels, read_image
from repro.errors import ReproError

BLACK, WHITE = 0.1, 0.9  # what counts as black and white in a drawn mask
LUMINANCE = (0.299, 0.587, 0.114)  # of RGB, ITU-R BT.601: what Pillow takes
GREY_SHARE = 0.1  # of the pixels may be neither, as soft edges and JPEG make them; they are cut at one half


def pictures(source: ImageSource | Sequence[ImageSource], name: str = "picture", channels: int = 3) -> Tensor:
    """float32 (B, channels, H, W) in [0, 1] of one picture, a batch (B, C, H, W) or (B, H, W, C), or a list.

    Each is whatever `repro.data.images.read_image` accepts: one way for every pipeline. `channels` are 3 or, for a
    network of grey pictures, 1: the luminance. Raises `ReproError` for an empty list and for several sizes.
    """
    if channels not in (1, 3):
        raise ReproError(f"{name}: a network of {channels} channels takes no picture; accepted: 1 (grey) or 3 (RGB)")
    if isinstance(source, list | tuple) or (isinstance(source, Tensor | np.ndarray) and source.ndim == 4):
        if len(source) == 0:
            raise ReproError(f"{name}: got none; accepted: at least one")
        parts = [pictures(one, f"{name} {i}", channels) for i, one in enumerate(source)]
        sizes = sorted({tuple(part.shape[2:]) for part in parts})
        if len(sizes) > 1:
            raise ReproError(
                f"{name}: got {', '.join(f'{w}x{h}' for h, w in sizes)} in one batch; accepted: pictures of one size"
            )
        return torch.cat(parts)
    image = read_image(source, name="" if isinstance(source, str | os.PathLike) else name)[None]
    if channels == 3:
        return image
    if torch.equal(image[:, :1].expand_as(image), image):
        return image[:, :1].contiguous()
    weights = torch.tensor(LUMINANCE).reshape(1, 3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True)


def masks(source: ImageSource | Sequence[ImageSource], name: str = "mask") -> Tensor:
    """float32 (B, 1, H, W): 1 in the hole, 0 elsewhere.

    - Arrays (H, W), (H, W, 1), (B, H, W, 1) and tensors (H, W), (1, H, W), (B, 1, H, W) hold 0 and 1, or bytes 0 and
      255.
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
    if isinstance(source, np.ndarray) and source.ndim == 4 and source.shape[-1] != 1:
        return masks(list(source), name)  # pictures
    if isinstance(source, np.ndarray) and (source.ndim == 2 or source.shape[-1] == 1):
        source = torch.from_numpy(np.array(source if source.ndim == 2 else source[..., 0]))
        source = source[None] if source.ndim == 2 else source[:, None]  # (1, H, W) or (B, 1, H, W)
    if isinstance(source, Tensor):
        if source.ndim not in (2, 3, 4) or (source.ndim > 2 and source.shape[-3] != 1) or 0 in source.shape:
            raise ReproError(f"{name}: got shape {tuple(source.shape)}; accepted: (H, W), (1, H, W), (B, 1, H, W)")
        hole = _of_numbers(source.reshape(-1, 1, *source.shape[-2:]), name)
    else:
        name = str(source) if isinstance(source, str | os.PathLike) else name
        hole = _of_picture(source, name)
    if not hole.flatten(1).any(dim=1).all():
        raise ReproError(f"{name}: nothing in it is a hole; accepted: 1, white, or paint on transparent, is the hole")
    return hole


def _of_numbers(values: Tensor, name: str) -> Tensor:
    values = values.float() / 255 if values.dtype == torch.uint8 and values.max() > 1 else values.float()
    if not ((values == 0) | (values == 1)).all():
        low, high = values.min().item(), values.max().item()
        raise ReproError(f"{name}: holds values between {low:g} and {high:g}; accepted: 0 (kept) and 1 (hole) only")
    return values


def _of_picture(source: ImageSource, name: str) -> Tensor:
    image = read_channels(source, name=name)  # (C, H, W)
    value = image[:3].amax(dim=0)  # brightest channel, (H, W)
    if len(image) == 4:
        alpha = image[3]
        seen = value[alpha >= 0.5]
        one_paint = len(seen) == 0 or bool(seen.max() - seen.min() < 1 - WHITE)
        value = alpha if one_paint and (alpha < 0.5).any() else value * alpha
    grey = ((value > BLACK) & (value < WHITE)).float().mean().item()
    if grey > GREY_SHARE:
        raise ReproError(f"{name}: {grey:.0%} of its pixels are grey; accepted: black (kept) and white (hole)")
    return (value >= 0.5).float()[None, None]
