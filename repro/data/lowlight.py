"""Low light: what an underexposed camera would have delivered of a well-lit picture.

Everything happens in linear light, in the order of a camera: exposure, colour cast of the light, shot and read noise,
clipping; then the sRGB curve, a tone curve that crushes the shadows, and 8 bits. Bits and noise are why a dark picture
cannot simply be multiplied up again. The noise is Gaussian with the variance of a Poisson-Gaussian sensor, a x + b^2
(Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling and fitting"); below ten photons or so a true Poisson
variable would also be skewed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


@dataclass(frozen=True)
class LowLight:
    """Settings of a batch, each (B,) or (B, 3) for `cast`.

    `stops`   by how many stops the picture is underexposed: linear light times 2^-stops, >= 0.
    `gamma`   exponent on the sRGB values afterwards, >= 1 darkens the shadows further.
    `cast`    factor on linear red, green and blue.
    `shot`    a: variance of the noise per unit of linear light (1 / photons at white).
    `read`    b: standard deviation of the read noise in linear light.
    """

    stops: Tensor
    gamma: Tensor
    cast: Tensor
    shot: Tensor
    read: Tensor

    def __post_init__(self) -> None:
        size = len(self.stops)
        for field in fields(self):
            shape = (size, 3) if field.name == "cast" else (size,)
            value = getattr(self, field.name)
            if tuple(value.shape) != shape or not bool(torch.isfinite(value).all()) or bool((value < 0).any()):
                raise ReproError(f"low light: {field.name} must be finite, >= 0, of shape {shape}: got {value}")


# What training and test draw from: two to four stops under, 150 to 1,500 photons at white.
STOPS, GAMMA, CAST, PHOTONS, READ = (2.0, 4.0), (1.0, 1.3), (0.75, 1.33), (150.0, 1500.0), (0.0005, 0.002)


def draw_low_light(noise: KeyedNoise) -> LowLight:
    """The settings of each sample: uniform in STOPS and GAMMA, log-uniform in CAST (red and blue), PHOTONS and READ."""
    u = noise.uniform((6,))  # (B, 6)

    def between(column: int, low: float, high: float) -> Tensor:
        return low + (high - low) * u[:, column]

    def log_between(column: int, low: float, high: float) -> Tensor:
        return low * (high / low) ** u[:, column]

    red, blue = log_between(2, *CAST), log_between(3, *CAST)
    return LowLight(
        stops=between(0, *STOPS),
        gamma=between(1, *GAMMA),
        cast=torch.stack([red, torch.ones_like(red), blue], dim=1),
        shot=1.0 / log_between(4, *PHOTONS),
        read=log_between(5, *READ),
    )


def srgb_to_linear(x: Tensor) -> Tensor:
    """sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Tensor) -> Tensor:
    """Linear light in [0, 1] to sRGB values."""
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def low_light(image: Tensor, settings: LowLight, noise: KeyedNoise | None) -> Tensor:
    """(B, 3, H, W) sRGB in [0, 1] -> the same scene underexposed, in multiples of 1/255.

    `noise` gives each sample's sensor noise, the same whatever the batch; None leaves the sensor perfect.
    """
    if image.ndim != 4 or image.shape[1] != 3 or len(image) != len(settings.stops):
        raise ReproError(
            f"low light: pictures of shape ({len(settings.stops)}, 3, H, W) are needed: got {tuple(image.shape)}"
        )

    def wide(value: Tensor) -> Tensor:
        return value.to(image).reshape(len(image), -1, 1, 1)

    light = srgb_to_linear(image) * wide(settings.cast) * 2.0 ** -wide(settings.stops)
    if noise is not None:
        deviation = (wide(settings.shot) * light + wide(settings.read) ** 2).sqrt()
        light = light + deviation * noise.normal(tuple(image.shape[1:])).to(image)
    seen = linear_to_srgb(light.clamp(0, 1)) ** wide(settings.gamma)
    return (seen * 255).round() / 255
