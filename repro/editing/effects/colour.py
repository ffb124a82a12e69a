"""Global colour transfer: every channel of a decorrelated colour space takes over the reference's mean and deviation.

Reinhard et al., "Color transfer between images" (2001): x -> ratio (x - mean_image) + mean_reference, with
ratio = deviation_reference / deviation_image, in the logarithmic l-alpha-beta space of Ruderman et al.

"Multi-task image-to-image diffusion models with fine-grained control" (supplement) made its targets with a well-known
script instead, which works in 8-bit CIE Lab, and by default scales by the *inverse*, deviation_image /
deviation_reference, so that a contrasty image gets more contrast from a flat reference, not less. Which ratio the
paper's data have it does not say; both are here.

A channel that is (nearly) constant in the image the ratio divides by has no ratio: its deviations are kept, only its
mean moves, and a warning says so. So a grey image takes the mean hue of the reference, not its variety of hues.
"""

import math
import warnings
from typing import Literal

import torch
from torch import Tensor

Ratio = Literal["reinhard", "inverse"]
FLAT = 1e-3  # deviation below a rounding error of 8-bit images
OFFSET = 1 / 255  # keeps the logarithm finite at black and the map invertible, which a floor would not

_RGB_TO_LMS = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))  # Reinhard et al., Eq. 4
_A, _B, _C = 1 / math.sqrt(3), 1 / math.sqrt(6), 1 / math.sqrt(2)
_LMS_TO_LAB = ((_A, _A, _A), (_B, _B, -2 / math.sqrt(6)), (_C, -_C, 0.0))  # Eq. 6
_RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees


def rgb_to_lalphabeta(image: Tensor) -> Tensor:
    """(…, 3, H, W) RGB in [0, 1], as stored -> l, alpha, beta of log10(LMS + OFFSET)."""
    return _mix(_LMS_TO_LAB, (_mix(_RGB_TO_LMS, image) + OFFSET).log10())


def lalphabeta_to_rgb(lab: Tensor) -> Tensor:
    """The inverse, not clamped; by the inverted matrices, since the paper's printed inverses are rounded."""
    return _mix(_RGB_TO_LMS, 10 ** _mix(_LMS_TO_LAB, lab, inverse=True) - OFFSET, inverse=True)


def rgb_to_lab(image: Tensor) -> Tensor:
    """(…, 3, H, W) sRGB in [0, 1] -> CIE Lab under D65: L in [0, 100], a and b about [-128, 127]."""
    linear = torch.where(image > 0.04045, ((image.clamp(min=0) + 0.055) / 1.055) ** 2.4, image / 12.92)
    xyz = _mix(_RGB_TO_XYZ, linear) / image.new_tensor(_WHITE)[:, None, None]
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def _mix(matrix: tuple[tuple[float, ...], ...], image: Tensor, *, inverse: bool = False) -> Tensor:
    weights = torch.tensor(matrix, dtype=torch.float64)
    weights = (weights.inverse() if inverse else weights).to(image)
    return torch.einsum("dc,...chw->...dhw", weights, image)


def match_statistics(values: Tensor, reference: Tensor, ratio: Ratio = "reinhard") -> Tensor:
    """(B, 3, H, W) values of a colour space with the means (and, by Reinhard's ratio, deviations) of the reference's.

    The reference is (B, 3, h, w) or (1, 3, h, w) of any size. Population deviations. Nothing is clipped here. A channel
    whose divisor is below FLAT keeps its deviations, with a warning.
    """
    std, mean = torch.std_mean(values, dim=(2, 3), keepdim=True, correction=0)  # (B, 3, 1, 1)
    ref_std, ref_mean = torch.std_mean(reference, dim=(2, 3), keepdim=True, correction=0)
    over, under = torch.broadcast_tensors(*((ref_std, std) if ratio == "reinhard" else (std, ref_std)))
    flat = under < FLAT
    if flat.any():
        where = ", ".join(f"{('l', 'alpha', 'beta')[c]} of image {i}" for i, c, *_ in flat.nonzero().tolist())
        who = "image" if ratio == "reinhard" else "reference"
        warnings.warn(f"colour transfer: flat {who}, deviations kept and only means moved: {where}", stacklevel=3)
    scale = torch.where(flat, torch.ones_like(over), over / under.clamp(min=FLAT))
    return scale * (values - mean) + ref_mean


def colour_transfer(image: Tensor, reference: Tensor, ratio: Ratio = "reinhard") -> Tensor:
    """The image in the reference's colours: (B, 3, H, W) in [0, 1] -> the same, clamped.

    Args:
        reference: (B, 3, h, w), or (1, 3, h, w) for all, in [0, 1], of any size.
        ratio: "reinhard", or "inverse", the script's default.
    """
    values, target = rgb_to_lalphabeta(image), rgb_to_lalphabeta(reference)
    return lalphabeta_to_rgb(match_statistics(values, target, ratio)).clamp(0, 1)
