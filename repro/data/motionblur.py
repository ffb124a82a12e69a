"""Motion blur of stills: the picture averaged along the path of a shaken camera.

A path is a smooth random curve in the plane, its first few cosine terms normal with variances that fall as in a hand's
slow tremor, brought to its length. Light is summed along it, the square of the stored value (close to sRGB's curve and
much cheaper), so that bright points leave bright lines. Every kernel has its centroid in the middle: blur does not
shift a picture. A little Gaussian noise and 8 bits come after it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

LENGTH = (2.0, 21.0)  # pixels along the path, uniform, for pictures of about 256
SIGMA = (0.001, 0.01)  # noise, standard deviation of values in [0, 1], log-uniform
_TERMS, _POINTS = 4, 64
_HALF = 14  # of a kernel of 29 pixels: no point of a path lies further from its centroid
LAW = f"motion blur, version 1: length {LENGTH}, sigma {SIGMA}, {_TERMS} terms, {_POINTS} points, half {_HALF}"


def draw_paths(noise: KeyedNoise, length: Tensor) -> Tensor:
    """(B, points, 2) x and y in pixels at equal times, centroid 0, for paths of (B,) `length` pixels."""
    t = (torch.arange(_POINTS, device=noise.device) + 0.5) / _POINTS
    k = torch.arange(1, _TERMS + 1, device=noise.device)
    waves = torch.cos(math.pi * k[:, None] * t[None]) / k[:, None] ** 2.0  # (terms, points), each of mean 0
    drawn = noise.normal((_TERMS, 2))
    path = sum(drawn[:, k, None] * waves[k, :, None] for k in range(_TERMS))  # in one order whatever the batch
    travelled = path.diff(dim=1).norm(dim=2).sum(dim=1)  # (B,)
    return path * (length.to(path) / travelled.clamp(min=1e-9))[:, None, None]


def path_kernels(paths: Tensor) -> Tensor:
    """(B, 29, 29) sums of bilinear tents at the points of the paths (B, points, 2); each sums to 1."""
    grid = torch.arange(-_HALF, _HALF + 1, device=paths.device, dtype=paths.dtype)
    x, y = ((1 - (paths[:, None, :, c] - grid[None, :, None]).abs()).clamp(min=0) for c in (0, 1))  # (B, 29, points)
    kernels = torch.bmm(y, x.transpose(1, 2))
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def motion_blur(
    image: Tensor, noise: KeyedNoise, sensor: KeyedNoise, length: float | None = None
) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) in [0, 1] -> the pictures of shaken cameras in multiples of 1/255, and the paths' lengths (B,).

    Pictures are mirrored at their edges. `length` fixes the path's length in [0, 21] pixels, 0 returns the pictures as
    they are; None draws it uniformly in LENGTH. `noise` and `sensor` give each sample's own path and noise.
    """
    if min(image.shape[-2:]) <= _HALF:
        raise ReproError(f"motion blur: both sides must be above {_HALF} pixels: got {tuple(image.shape)}")
    u = noise.uniform((2,), step=1).to(image)
    lengths = LENGTH[0] + (LENGTH[1] - LENGTH[0]) * u[:, 0] if length is None else torch.full_like(u[:, 0], length)
    kernels = path_kernels(draw_paths(noise, lengths)).to(image)
    light = F.pad(image.square(), (_HALF,) * 4, mode="reflect").flatten(0, 1)  # (3B, H, W)
    weight = kernels.flip(1, 2).repeat_interleave(3, dim=0)[:, None]  # convolution, not correlation
    # Whole sixteens of channels: what is left over is rounded in another way, which would depend on the batch.
    more = -len(light) % 16
    light, weight = F.pad(light, (0, 0, 0, 0, 0, more)), F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more))
    blurred = F.conv2d(light[None], weight, groups=len(light))[0, : 3 * len(image)].view_as(image).clamp(min=0).sqrt()
    sigma = SIGMA[0] * (SIGMA[1] / SIGMA[0]) ** u[:, 1, None, None, None]
    seen = (blurred + sigma * sensor.normal(tuple(image.shape[1:])).to(image)).clamp(0, 1)
    seen = (seen * 255).round() / 255
    return torch.where((lengths > 0)[:, None, None, None], seen, image), lengths
