"""Film grain in theory, and the Gaussian field that replaces the Boolean model where the grains are small.

Of the Boolean model (`grain`): two points at distance h are both covered with covariance
C(h) = (1 - u)^2 (exp(lambda gamma(h)) - 1), gamma the area two discs share; a pixel through a Gaussian filter of
deviation s has the covariance int C(h) G(h - lag) dh, G of deviation sqrt(2) s (Newson, Delon and Galerne, "A
stochastic film grain model for resolution-independent rendering", section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.editing.effects.grain import HEADROOM, SIGMA_FILTER, axis_keys, cell_bits, further_bits, plane_keys, uniform

_NODES = 24  # of Gauss-Legendre quadrature: 1e-6 of the variance


def grain_variance(u: Tensor | float, radius: float | Tensor, sigma_filter: float = SIGMA_FILTER) -> Tensor:
    """Variance of a pixel without Monte-Carlo noise, where the grey level is `u` in [0, 1); float64, `u`'s shape.

    In polar coordinates, h = 2 r s: (1-u)^2 (2 r^2 / sigma^2) int_0^1 s (exp(lambda gamma) - 1) exp(-(r s/sigma)^2) ds.
    """
    u = torch.as_tensor(u, dtype=torch.float64)
    ratio = torch.as_tensor(radius, dtype=torch.float64, device=u.device) / sigma_filter
    # Gauss-Legendre quadrature on [0, 1] (Golub and Welsch)
    k = torch.arange(1, _NODES, dtype=torch.float64)
    side = k / (4 * k * k - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
    dense, total = -torch.log1p(-u), torch.zeros_like(u * ratio)
    for s, weight in zip(((values + 1) / 2).tolist(), vectors[0].square().tolist(), strict=True):
        shared = 2 / math.pi * (math.acos(s) - s * math.sqrt(1 - s * s))
        total += weight * s * torch.expm1(dense * shared) * torch.exp(-(ratio * s).square())
    return (1 - u).square() * 2 * ratio.square() * total


def gaussian_grain(
    image: Tensor,
    radius: float | Tensor,
    *,
    seed: int,
    ids: Sequence[int | str] | Tensor | None = None,
    sigma_filter: float = SIGMA_FILTER,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """`film_grain` with infinitely many samples, for small grains: a Gaussian field of the same mean and covariance.

    The mean is the image through the observation filter; the field is white noise whose strength follows the local
    grey level, through a kernel whose autocorrelation is the Gaussian of sqrt(2) sigma_filter on whole pixels. It is
    another realisation than `film_grain` of the same seed, and knows no zoom. Same shape, type and range as `image`.

    Three deviations out in the shadows, where it is worst, a quantile is off by 4/9 (radius / sigma_filter)^2 (Cornish
    and Fisher): half a grey level of 255 up to radius = sigma_filter / 15, 1.8 levels at a radius of 0.1.

    Args: as of `film_grain`.
    """
    pictures = image.reshape(-1, *image.shape[-3:])
    batch, channels, height, width = pictures.shape
    radii = torch.as_tensor(radius, dtype=torch.float64, device=image.device).expand(batch)
    mean_kernel, noise_kernel = (kernel.to(image.device) for kernel in _kernels(sigma_filter))
    rim = len(mean_kernel) // 2
    grey = F.pad(pictures.double() / (1 + HEADROOM), (rim,) * 4, mode="replicate")  # (B, C, H + 2 rim, W + 2 rim)
    strength = grain_variance(grey, radii.view(-1, 1, 1, 1), sigma_filter).sqrt()
    keys = plane_keys(seed, range(batch) if ids is None else ids, channels, "gaussian grain")
    rows = torch.arange(origin[0] - rim, origin[0] + height + rim).expand(len(keys), -1)
    columns = torch.arange(origin[1] - rim, origin[1] + width + rim).expand(len(keys), -1)
    down, across = (
        [key.to(image.device) for key in axis_keys(keys, index, axis)]
        for index, axis in ((rows, "rows"), (columns, "columns"))
    )
    bits = cell_bits((down[0][:, :, None], down[1][:, :, None]), (across[0][:, None, :], across[1][:, None, :]))
    first, second = (uniform(further_bits(bits, i)) for i in (1, 2))
    white = ((-2 * first.log()).sqrt() * (2 * math.pi * second).cos()).view_as(grey)  # by Box and Muller
    level = _filtered(grey, mean_kernel) + _filtered(strength * white, noise_kernel)
    return (level * (1 + HEADROOM)).clamp_(0, 1).view_as(image).to(image.dtype)


def _kernels(sigma: float) -> tuple[Tensor, Tensor]:
    """Separable filters of the mean, a pixel's square through the Gaussian, and of the noise; odd lengths, float64."""
    rim = max(1, math.ceil(6 * sigma))
    d = torch.arange(-rim, rim + 1, dtype=torch.float64)
    mean = torch.special.ndtr((d + 0.5) / sigma) - torch.special.ndtr((d - 0.5) / sigma)
    # The square root, in the frequency domain, of the autocorrelation: exact on whole pixels, no aliasing.
    length = 8 * rim + 1
    lag = torch.arange(length, dtype=torch.float64)
    lag = torch.minimum(lag, length - lag)
    spectrum = torch.fft.fft(torch.exp(-lag.square() / (4 * sigma**2))).real.clamp(min=0)
    noise = torch.fft.ifft(spectrum.sqrt()).real.roll(rim)[: 2 * rim + 1]
    return mean / mean.sum(), noise / noise.square().sum().sqrt()


def _filtered(planes: Tensor, kernel: Tensor) -> Tensor:
    """Separable, valid: (B, C, H + 2 rim, W + 2 rim) to (B, C, H, W)."""
    flat = planes.flatten(0, 1)[:, None]
    out = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return out.squeeze(1).unflatten(0, planes.shape[:2])
