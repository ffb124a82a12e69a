"""What no learning reaches: one formula a task, its few numbers fitted on training photographs."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


def unchanged(image: Tensor, task: str) -> Tensor:
    """The degraded image itself."""
    return image


def formula(image: Tensor, task: str) -> Tensor:
    """(3, H, W) in [0, 1]: exposure by gain for low light, an unsharp mask for blur, a bilateral filter for JPEG."""
    return {"lowlight": gain, "deblur": unsharp, "jpeg": bilateral}[task](image)


@lru_cache(maxsize=1)
def _training_mean() -> Tensor:
    from repro.ucdir.study.experiments import photographs

    return torch.stack([x.mean(dim=(1, 2)) for x in photographs("train", 256)[1]]).mean(dim=0)


def gain(image: Tensor) -> Tensor:
    """Each channel's mean brought to that of the training photographs by a gain: exposure and colour cast at once."""
    return (image * (_training_mean() / image.mean(dim=(1, 2)).clamp(min=1e-3))[:, None, None]).clamp(0, 1)


def unsharp(image: Tensor, amount: float = 0.8, sigma: float = 2.0) -> Tensor:
    """The image plus `amount` of what a Gaussian of `sigma` pixels takes away."""
    radius = int(3 * sigma)
    x = torch.arange(-radius, radius + 1, dtype=image.dtype)
    line = torch.exp(-(x**2) / (2 * sigma**2))
    line = (line / line.sum()).expand(3, 1, -1)
    soft = F.conv2d(F.pad(image[None], (radius, radius, 0, 0), mode="reflect"), line[:, :, None], groups=3)
    soft = F.conv2d(F.pad(soft, (0, 0, radius, radius), mode="reflect"), line[..., None], groups=3)[0]
    return (image + amount * (image - soft)).clamp(0, 1)


def bilateral(image: Tensor) -> Tensor:
    """A bilateral filter over 7 x 7 pixels, 0.06 in value and 1.5 pixels in space."""
    patches = F.unfold(F.pad(image[None], (3, 3, 3, 3), mode="reflect"), 7).unflatten(1, (3, 49))[0]  # (3, 49, H W)
    y, x = torch.meshgrid(torch.arange(-3.0, 4), torch.arange(-3.0, 4), indexing="ij")
    far = ((y**2 + x**2) / (2 * 1.5**2)).flatten()[:, None]
    other = (patches - image.flatten(1)[:, None]).square().sum(dim=0) / (2 * 0.06**2)
    weight = torch.exp(-far - other)
    return ((patches * weight).sum(dim=1) / weight.sum(dim=0)).unflatten(1, image.shape[1:])


FORMULAS: dict[str, Callable[[Tensor, str], Tensor]] = {"input": unchanged, "formula": formula}
