"""The degradations that restoration networks are trained for, by name: `TASKS["raindrops"].degrade(images, noises)`.

Settings are drawn for each sample, from its own random numbers, so that a degraded crop does not depend on its batch.
Lengths are those of pictures whose shorter side is about 256 pixels: a crop is degraded like a part of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.data import jpeg, lowlight, motionblur, wetglass
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

Noises = Callable[[str], KeyedNoise]  # purpose -> the random numbers of a batch


@dataclass(frozen=True)
class Degradation:
    """One way in which pictures are spoiled.

    `strength`  what the strength in [0, 1] of a degraded picture is.
    `law`       what the settings are drawn from, for the hash of a data set: another law makes other data.
    `setting`   the one setting that may be fixed for all samples, and `accepts` its smallest and largest value.
    """

    name: str
    strength: str
    law: str
    setting: str
    accepts: tuple[float, float]
    draw: Callable[[Tensor, Noises, float | None], tuple[Tensor, Tensor]]

    def degrade(self, images: Tensor, noises: Noises, **fixed: float) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] -> the degraded pictures, of the same shape and range, and their strengths (B,).

        `fixed` gives `setting` one value for all samples instead of drawing it, e.g. quality=10. Raises `ReproError`
        for another setting, a value out of range and pictures of another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ReproError(f"{self.name}: pictures of shape (B, 3, H, W) are needed: got {tuple(images.shape)}")
        if unknown := sorted(fixed.keys() - {self.setting}):
            raise ReproError(f"{self.name}: setting {unknown[0]!r} is unknown; accepted: {self.setting}")
        value = fixed.get(self.setting)
        if value is not None and not self.accepts[0] <= value <= self.accepts[1]:
            low, high = self.accepts
            raise ReproError(f"{self.name}: {self.setting} must lie in [{low:g}, {high:g}]: got {value}")
        # Autocast would make blur kernels and the drops' outlines with three digits.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            degraded, strength = self.draw(images, noises, value)
        return degraded, strength.clamp(0, 1)


def _lowlight(images: Tensor, noises: Noises, stops: float | None) -> tuple[Tensor, Tensor]:
    seen, under = lowlight.wide_low_light(images, noises("degrade/settings"), noises("degrade/sensor"), stops)
    return seen, under / lowlight.WIDE_STOPS[1]


def _raindrops(images: Tensor, noises: Noises, coverage: float | None) -> tuple[Tensor, Tensor]:
    seen, alpha = wetglass.wet_glass(images, noises("degrade/drops"), coverage)
    return seen, alpha.mean(dim=(1, 2, 3))


def _deblur(images: Tensor, noises: Noises, length: float | None) -> tuple[Tensor, Tensor]:
    seen, lengths = motionblur.motion_blur(images, noises("degrade/path"), noises("degrade/sensor"), length)
    return seen, lengths / motionblur.LENGTH[1]


def _jpeg(images: Tensor, noises: Noises, quality: float | None) -> tuple[Tensor, Tensor]:
    drawn = jpeg.draw_quality(noises("degrade/quality")) if quality is None else [quality] * len(images)
    return jpeg.jpeg(images, drawn), (100 - torch.tensor(drawn, dtype=images.dtype, device=images.device)) / 100


_STOPS, _LENGTH = lowlight.WIDE_STOPS[1], motionblur.LENGTH[1]
_UNDER = f"stops of underexposure / {_STOPS:g}"
_COVERED = "share of the light that comes through drops, mean over the picture"
_PATH = f"length of the camera's path / {_LENGTH:g} pixels"
TASKS: dict[str, Degradation] = {
    task.name: task
    for task in (
        Degradation("lowlight", _UNDER, lowlight.WIDE_LAW, "stops", (0.0, _STOPS), _lowlight),
        Degradation("raindrops", _COVERED, wetglass.LAW, "coverage", (0.0, wetglass.LARGEST), _raindrops),
        Degradation("deblur", _PATH, motionblur.LAW, "length", (0.0, _LENGTH), _deblur),
        Degradation("jpeg", "(100 - quality) / 100", jpeg.LAW, "quality", (1, 100), _jpeg),
    )
}
