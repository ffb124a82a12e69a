"""Images that scikit-image ships inside its wheel, as the metric tests want them."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def picture(name: str, size: int | None = None) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1]; `size` shrinks it to a square."""
    from skimage import data

    image = torch.from_numpy(np.array(getattr(data, name)())).permute(2, 0, 1)[None].float() / 255
    return image if size is None else F.interpolate(image, size=(size, size), mode="area")


def pictures(size: int) -> Tensor:
    """(4, 3, size, size) float32 in [0, 1]."""
    return torch.cat([picture(name, size) for name in ("astronaut", "chelsea", "coffee", "rocket")])


def noisy(images: Tensor, level: float, seed: int = 0) -> Tensor:
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(images.shape))).to(images.dtype)
    return (images + level * noise).clamp(0, 1)
