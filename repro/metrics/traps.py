"""What each wrong protocol costs, in numbers, on the same images.

Every row scores the same pairs twice: once as it should be, once with a mistake that published code or its users make.
The cost is the difference of the two means; next to the gaps of a few tenths of a dB by which methods beat each other,
most of these are large.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.degradations import jpeg
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
    """Stand-in outputs of a restoration: a light blur and noise of 0.03, clipped; keyed per image."""
    window = torch.tensor([1.0, 2.0, 1.0], dtype=images.dtype) / 4
    kernel = (window[:, None] * window[None, :]).expand(images.shape[1], 1, 3, 3)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])
    noise = KeyedNoise(seed, range(len(images)), "metric-traps").normal(images.shape[1:])
    return (blurred + 0.03 * noise.to(images.dtype)).clamp(0, 1)


def _min_max(images: Tensor) -> Tensor:
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-8)


def pixel_traps(outputs: Tensor, references: Tensor) -> list[Trap]:
    """The traps of scores against a reference, (B, 3, H, W) in [0, 1] each."""

    def mean(name: str, a: Tensor = outputs, b: Tensor = references) -> float:
        return float(score(name, a, b).mean())

    saved, saved_reference = (jpeg(quantise(x.double()).float(), [100] * len(x)) for x in (outputs, references))
    stretched, stretched_reference = _min_max(outputs), _min_max(references)
    # A unit-range image taken for a [-1, 1] one: x is handed to the network where 2x - 1 belongs.
    unmapped = float(lpips((outputs + 1) / 2, (references + 1) / 2).mean())
    pooled = -10 * (outputs - references).double().square().mean().log10().item()
    halves = (F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True) for x in (outputs, references))
    halved = mean("lpips/alex-v0.1", *(half.clamp(0, 1) for half in halves))
    psnr, ssim, distance = "psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1"
    rows = [
        (psnr, "luma instead of RGB", mean("psnr/y"),
         "colour noise vanishes in Y, and Y spans 219 of 255"),
        (psnr, "8-bit rounding", mean("psnr/rgb-uint8"),
         "small here; it decides near 50 dB and above"),
        (psnr, "one MSE for the whole set", pooled,
         "the mean of logarithms is not the log of the mean"),
        (psnr, "outputs stretched to their own minimum and maximum", mean(psnr, stretched),
         "brightness and contrast of the output are replaced before it is judged"),
        (psnr, "both stretched to their own minimum and maximum", mean(psnr, stretched, stretched_reference),
         "a different offset and gain for output and reference, and the scale of the error moves"),
        (psnr, "both through JPEG quality 100", mean(psnr, saved, saved_reference),
         "chroma is stored at half resolution, which smooths the error away"),
        (psnr, "only the output through JPEG quality 100", mean(psnr, saved),
         "the file format removes colour noise for the method"),
        (ssim, "both through JPEG quality 100", mean(ssim, saved, saved_reference),
         "as above"),
        (ssim, "luma instead of RGB", mean("ssim/y-wang"),
         "Y averages independent channel noise"),
        (ssim, "scikit-image's default window", mean("ssim/rgb-uniform7"),
         "uniform 7x7 with sample covariance instead of the Gaussian"),
        (ssim, "MATLAB's ssim on an HxWx3 array", mean("ssim/rgb-matlab3d"),
         "colour becomes a third spatial axis"),
        (distance, "fed [0, 1] instead of [-1, 1]", unmapped,
         "half the contrast, shifted brightness"),
        (distance, "at half resolution", halved,
         "the artefacts are averaged away before the network sees them"),
    ]  # fmt: skip
    right = {protocol: mean(protocol) for protocol in (psnr, ssim, distance)}
    return [Trap(name, protocol, right[protocol], wrong, why) for protocol, name, wrong, why in rows]
