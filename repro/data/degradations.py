"""The degradations that restoration networks are trained for, by name: `TASKS["raindrops"].degrade(images, noises)`.

Settings are drawn for each sample, from its own random numbers, so that a degraded crop does not depend on its batch.
Lengths are those of images whose shorter side is about 256 pixels: a crop is degraded like a part of one. Low light
and raindrops have modules of their own; motion blur and JPEG are here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from repro.data import lowlight, wetglass
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

Noises = Callable[[str], KeyedNoise]  # purpose -> the random numbers of a batch

LENGTH = (2.0, 21.0)  # of motion blur: pixels along the path, uniform
SIGMA = (0.001, 0.01)  # its noise, standard deviation of values in [0, 1], log-uniform
_TERMS, _POINTS = 4, 64
_HALF = 14  # of a kernel of 29 pixels: no point of a path lies further from its centroid
BLUR_LAW = f"motion blur, version 1: length {LENGTH}, sigma {SIGMA}, {_TERMS} terms, {_POINTS} points, half {_HALF}"
QUALITY = (5, 40)  # of JPEG: whole numbers, both included
SUBSAMPLING = "4:2:0"
JPEG_LAW = f"JPEG, version 1: quality {QUALITY}, {SUBSAMPLING}"


def _path_kernels(noise: KeyedNoise, length: Tensor) -> Tensor:
    """(B, 29, 29) kernels, each of sum 1, of paths of (B,) `length` pixels whose centroid is the middle.

    A path is a smooth random curve in the plane, its first few cosine terms normal with variances that fall as in a
    hand's slow tremor, brought to its length; its kernel sums bilinear tents at points of equal times.
    """
    t = (torch.arange(_POINTS, device=noise.device) + 0.5) / _POINTS
    k = torch.arange(1, _TERMS + 1, device=noise.device)
    waves = torch.cos(math.pi * k[:, None] * t[None]) / k[:, None] ** 2.0  # (terms, points), each of mean 0
    drawn = noise.normal((_TERMS, 2))
    path = sum(drawn[:, k, None] * waves[k, :, None] for k in range(_TERMS))  # in one order whatever the batch
    travelled = path.diff(dim=1).norm(dim=2).sum(dim=1)  # (B,)
    path = path * (length.to(path) / travelled.clamp(min=1e-9))[:, None, None]  # (B, points, 2) x and y
    grid = torch.arange(-_HALF, _HALF + 1, device=path.device, dtype=path.dtype)
    x, y = ((1 - (path[:, None, :, c] - grid[None, :, None]).abs()).clamp(min=0) for c in (0, 1))  # (B, 29, points)
    kernels = torch.bmm(y, x.transpose(1, 2))
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def motion_blur(image: Tensor, noises: Noises, length: float | None) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) in [0, 1] -> the images of shaken cameras in multiples of 1/255, and their paths' lengths / 21 (B,).

    The image is averaged along the camera's path in light, the square of the stored value (close to sRGB's curve and
    much cheaper), so that bright points leave bright lines; its edges are mirrored. Every kernel has its centroid in
    the middle: blur does not shift an image. A little Gaussian noise and 8 bits come after it. `length` fixes the
    path's length in [0, 21] pixels, 0 returns the images as they are; None draws it uniformly in LENGTH.
    """
    if min(image.shape[-2:]) <= _HALF:
        raise ReproError(f"motion blur: both sides must be above {_HALF} pixels: got {tuple(image.shape)}")
    noise, sensor = noises("degrade/path"), noises("degrade/sensor")
    u = noise.uniform((2,), step=1).to(image)
    lengths = LENGTH[0] + (LENGTH[1] - LENGTH[0]) * u[:, 0] if length is None else torch.full_like(u[:, 0], length)
    kernels = _path_kernels(noise, lengths).to(image)
    light = F.pad(image.square(), (_HALF,) * 4, mode="reflect").flatten(0, 1)  # (3B, H, W)
    weight = kernels.flip(1, 2).repeat_interleave(3, dim=0)[:, None]  # convolution, not correlation
    # Whole sixteens of channels: what is left over is rounded in another way, which would depend on the batch.
    more = -len(light) % 16
    light, weight = F.pad(light, (0, 0, 0, 0, 0, more)), F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more))
    blurred = F.conv2d(light[None], weight, groups=len(light))[0, : 3 * len(image)].view_as(image).clamp(min=0).sqrt()
    sigma = SIGMA[0] * (SIGMA[1] / SIGMA[0]) ** u[:, 1, None, None, None]
    blurred = (blurred + sigma * sensor.normal(tuple(image.shape[1:])).to(image)).clamp(0, 1)
    blurred = (blurred * 255).round() / 255
    return torch.where((lengths > 0)[:, None, None, None], blurred, image), lengths / LENGTH[1]


def jpeg(image: Tensor, quality: Sequence[int]) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> what is left of the images after JPEG of each one's `quality`, 1 to 100.

    By the real encoder (Pillow's libjpeg), colour at half the resolution (4:2:0), as on the web.
    """
    if wrong := [q for q in quality if q != int(q) or not 1 <= q <= 100]:
        raise ReproError(f"jpeg: quality must be a whole number from 1 to 100: got {wrong[0]}")
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    out = np.empty_like(pixels)
    for into, image_pixels, q in zip(out, pixels, quality, strict=True):
        file = io.BytesIO()
        Image.fromarray(image_pixels).save(file, "JPEG", quality=int(q), subsampling=SUBSAMPLING)
        into[...] = np.asarray(Image.open(file))
    return torch.from_numpy(out).to(image.device).permute(0, 3, 1, 2).to(image.dtype).contiguous() / 255


@dataclass(frozen=True)
class Degradation:
    """One way in which images are spoiled."""

    name: str
    strength: str  # what the strength in [0, 1] of a degraded image is
    law: str  # what the settings are drawn from, for the hash of a data set: another law makes other data
    setting: str  # the one setting that may be fixed for all samples
    accepts: tuple[float, float]  # its smallest and largest value
    draw: Callable[[Tensor, Noises, float | None], tuple[Tensor, Tensor]]

    def degrade(self, images: Tensor, noises: Noises, **fixed: float) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] -> the degraded images, of the same shape and range, and their strengths (B,).

        `fixed` gives `setting` one value for all samples instead of drawing it, e.g. quality=10. Raises `ReproError`
        for another setting, a value out of range and images of another shape.
        """
        low, high = self.accepts
        if images.ndim != 4 or images.shape[1] != 3:
            raise ReproError(f"{self.name}: images of shape (B, 3, H, W) are needed: got {tuple(images.shape)}")
        if unknown := sorted(fixed.keys() - {self.setting}):
            raise ReproError(f"{self.name}: setting {unknown[0]!r} is unknown; accepted: {self.setting}")
        value = fixed.get(self.setting)
        if value is not None and not low <= value <= high:
            raise ReproError(f"{self.name}: {self.setting} must lie in [{low:g}, {high:g}]: got {value}")
        # Autocast would make blur kernels and the drops' outlines with three digits.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            degraded, strength = self.draw(images, noises, value)
        return degraded, strength.clamp(0, 1)


def _raindrops(images: Tensor, noises: Noises, coverage: float | None) -> tuple[Tensor, Tensor]:
    degraded, alpha = wetglass.wet_glass(images, noises("degrade/drops"), coverage)
    return degraded, alpha.mean(dim=(1, 2, 3))


def _jpeg(images: Tensor, noises: Noises, quality: float | None) -> tuple[Tensor, Tensor]:
    drawn = noises("degrade/quality").integers(QUALITY[0], QUALITY[1] + 1).tolist()
    drawn = drawn if quality is None else [quality] * len(images)
    return jpeg(images, drawn), (100 - torch.tensor(drawn, dtype=images.dtype, device=images.device)) / 100


_STOPS = lowlight.WIDE_STOPS[1]
_COVERED = "share of the light that comes through drops, mean over the image"
TASKS: dict[str, Degradation] = {
    task.name: task
    for task in (
        Degradation("lowlight", f"stops of underexposure / {_STOPS:g}", lowlight.WIDE_LAW, "stops", (0.0, _STOPS),
                    lowlight.wide_low_light),
        Degradation("raindrops", _COVERED, wetglass.LAW, "coverage", (0.0, wetglass.LARGEST), _raindrops),
        Degradation("deblur", f"length of the camera's path / {LENGTH[1]:g} pixels", BLUR_LAW, "length",
                    (0.0, LENGTH[1]), motion_blur),
        Degradation("jpeg", "(100 - quality) / 100", JPEG_LAW, "quality", (1, 100), _jpeg),
    )
}  # fmt: skip
