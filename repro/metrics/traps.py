"""What each wrong protocol costs, in numbers, on the same pictures.

Every row scores the same pairs twice: once as it should be, once with a mistake that published code or its users make.
The cost is the difference of the two means; next to the gaps of a few tenths of a dB by which methods beat each other,
most of these are large.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise
from repro.metrics.lpips import lpips
from repro.metrics.pixel import quantise
from repro.metrics.protocols import score


@dataclass(frozen=True)
class Trap:
    """One mistake: its name, the protocol it breaks, the value as it should be, the value it gives, and why."""

    name: str
    protocol: str
    right: float
    wrong: float
    why: str

    @property
    def cost(self) -> float:
        """How much the mistake adds."""
        return self.wrong - self.right


def degraded(images: Tensor, seed: int = 0) -> Tensor:
    """Stand-in outputs of a restoration: a light blur and noise of 0.03, clipped; keyed per picture."""
    window = torch.tensor([1.0, 2.0, 1.0], dtype=images.dtype) / 4
    kernel = (window[:, None] * window[None, :]).expand(images.shape[1], 1, 3, 3)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])
    noise = KeyedNoise(seed, range(len(images)), "metric-traps").normal(images.shape[1:])
    return (blurred + 0.03 * noise.to(images.dtype)).clamp(0, 1)


def jpeg(images: Tensor, quality: int) -> Tensor:
    """The pictures as they come back from JPEG files (Pillow's defaults: chroma at half resolution)."""
    from PIL import Image

    back = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(_hwc8(image)).save(buffer, "JPEG", quality=quality)
        back.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(back).to(images.dtype) / 255.0


def _hwc8(image: Tensor) -> np.ndarray:
    return (quantise(image.double()) * 255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _min_max(images: Tensor) -> Tensor:
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-8)


def pixel_traps(outputs: Tensor, references: Tensor) -> list[Trap]:
    """The traps of scores against a reference, (B, 3, H, W) in [0, 1] each."""

    def mean(name: str, a: Tensor = outputs, b: Tensor = references) -> float:
        return float(score(name, a, b).mean())

    saved, saved_reference = jpeg(outputs, 100), jpeg(references, 100)
    psnr, ssim, perceptual = mean("psnr/rgb"), mean("ssim/rgb-wang"), mean("lpips/alex-v0.1")
    # A unit-range picture taken for a [-1, 1] one: x is handed to the network where 2x - 1 belongs.
    unmapped = float(lpips((outputs + 1) / 2, (references + 1) / 2).mean())
    pooled = -10 * (outputs - references).double().square().mean().log10().item()
    rows = [
        ("luma instead of RGB", "psnr/rgb", psnr, mean("psnr/y"), "colour noise vanishes in Y, and Y spans 219 of 255"),
        ("8-bit rounding", "psnr/rgb", psnr, mean("psnr/rgb-uint8"), "small here; it decides near 50 dB and above"),
        ("one MSE for the whole set", "psnr/rgb", psnr, pooled, "the mean of logarithms is not the log of the mean"),
        (
            "outputs stretched to their own minimum and maximum",
            "psnr/rgb",
            psnr,
            mean("psnr/rgb", _min_max(outputs)),
            "brightness and contrast of the output are replaced before it is judged",
        ),
        (
            "both stretched to their own minimum and maximum",
            "psnr/rgb",
            psnr,
            mean("psnr/rgb", _min_max(outputs), _min_max(references)),
            "a different offset and gain for output and reference, and the scale of the error moves",
        ),
        (
            "both through JPEG quality 100",
            "psnr/rgb",
            psnr,
            mean("psnr/rgb", saved, saved_reference),
            "chroma is stored at half resolution, which smooths the error away",
        ),
        (
            "only the output through JPEG quality 100",
            "psnr/rgb",
            psnr,
            mean("psnr/rgb", saved),
            "the file format removes colour noise for the method",
        ),
        (
            "both through JPEG quality 100",
            "ssim/rgb-wang",
            ssim,
            mean("ssim/rgb-wang", saved, saved_reference),
            "as above",
        ),
        ("luma instead of RGB", "ssim/rgb-wang", ssim, mean("ssim/y-wang"), "Y averages independent channel noise"),
        (
            "scikit-image's default window",
            "ssim/rgb-wang",
            ssim,
            mean("ssim/rgb-uniform7"),
            "uniform 7x7 with sample covariance instead of the Gaussian",
        ),
        (
            "MATLAB's ssim on an HxWx3 array",
            "ssim/rgb-wang",
            ssim,
            mean("ssim/rgb-matlab3d"),
            "colour becomes a third spatial axis",
        ),
        (
            "fed [0, 1] instead of [-1, 1]",
            "lpips/alex-v0.1",
            perceptual,
            unmapped,
            "half the contrast, shifted brightness",
        ),
        (
            "at half resolution",
            "lpips/alex-v0.1",
            perceptual,
            mean("lpips/alex-v0.1", _half(outputs), _half(references)),
            "the artefacts are averaged away before the network sees them",
        ),
    ]
    return [Trap(*row) for row in rows]


def _half(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)
