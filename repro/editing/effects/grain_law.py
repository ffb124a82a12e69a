"""What theory says about film grain, and the Gaussian field that replaces it where the grains are small.

Of the Boolean model (`grain`): two points at distance h are both covered with covariance
C(h) = (1 - u)^2 (exp(lambda gamma(h)) - 1), gamma the area two discs share; a pixel seen through a Gaussian filter of
deviation s has the covariance int C(h) G(h - lag) dh, G of deviation sqrt(2) s (Newson, Delon and Galerne, "A
stochastic film grain model for resolution-independent rendering", section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.editing.effects.grain import HEADROOM, SIGMA_FILTER, checked, checked_ids, sample_offsets
from repro.editing.effects.lattice import axis_keys, cell_bits, further_bits, plane_keys
from repro.errors import ReproError

GAUSSIAN_LIMIT = 1 / 15  # radius / sigma_filter up to which `gaussian_grain` is offered: see `gaussian_error`
_NODES = 24  # of Gauss-Legendre quadrature: 1e-6 of the variance


def coverage_covariance(u: Tensor | float, radius: float, distance: Tensor) -> Tensor:
    """C(h) between two points of film at `distance` (pixels), where the grey level is `u` in [0, 1); float64."""
    u = torch.as_tensor(u, dtype=torch.float64)
    s = (torch.as_tensor(distance, dtype=torch.float64) / (2 * radius)).clamp(max=1)
    shared = 2 / math.pi * (torch.arccos(s) - s * (1 - s * s).sqrt())  # gamma(h) / (pi r^2)
    return (1 - u).square() * torch.expm1(-torch.log1p(-u) * shared)


def grain_variance(u: Tensor | float, radius: float | Tensor, sigma_filter: float = SIGMA_FILTER) -> Tensor:
    """Variance of a pixel without Monte-Carlo noise, where the grey level is `u` in [0, 1); float64, `u`'s shape.

    In polar coordinates, h = 2 r s: (1-u)^2 (2 r^2 / sigma^2) int_0^1 s (exp(lambda gamma) - 1) exp(-(r s/sigma)^2) ds.
    """
    u = torch.as_tensor(u, dtype=torch.float64)
    ratio = torch.as_tensor(radius, dtype=torch.float64, device=u.device) / sigma_filter
    nodes, weights = _legendre(_NODES)
    dense, total = -torch.log1p(-u), torch.zeros_like(u * ratio)
    for s, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        shared = 2 / math.pi * (math.acos(s) - s * math.sqrt(1 - s * s))
        total += weight * s * torch.expm1(dense * shared) * torch.exp(-(ratio * s).square())
    return (1 - u).square() * 2 * ratio.square() * total


def rendered_covariance(
    u: float, radius: float, sigma_filter: float, n_samples: int, lag: tuple[float, float] = (0.0, 0.0)
) -> float:
    """Covariance of two pixels, `lag` = (y, x) pixels apart, of `film_grain` with these samples; exact at zoom 1.

    The sample points are fixed, so it is the mean of C over all pairs of them. At lag 0 it is the grain's variance plus
    the Monte-Carlo noise, about u (1 - u) / n_samples where the points lie farther apart than a grain is wide.
    """
    points = sample_offsets(n_samples) * sigma_filter
    shift = points + torch.tensor(lag, dtype=torch.float64)
    total = sum(coverage_covariance(u, radius, torch.cdist(part, points)).sum().item() for part in shift.split(512))
    return total / n_samples**2


def gaussian_error(radius: float, sigma_filter: float = SIGMA_FILTER, deviations: float = 3.0) -> float:
    """How far, on the range 0..1, a quantile of the true pixel lies from that of the Gaussian of its mean and variance.

    By Cornish and Fisher the quantile at z deviations is off by (z^2 - 1) / 6 times kappa_3 / variance, to first order
    in radius / sigma_filter. In the shadows grains fall singly, a pixel is shot noise, and kappa_3 / variance =
    pi r^2 int G^3 / int G^2 = r^2 / (3 sigma^2); at every other grey level it is smaller in size (tested).
    At GAUSSIAN_LIMIT three deviations are off by half a grey level of 255: eight bits cannot tell the two apart.
    """
    return (deviations**2 - 1) / 6 * (radius / sigma_filter) ** 2 / 3


def gaussian_grain(
    image: Tensor,
    radius: float | Tensor,
    *,
    seed: int,
    ids: Sequence[int | str] | Tensor | None = None,
    sigma_filter: float = SIGMA_FILTER,
    origin: tuple[int, int] = (0, 0),
    largest: float | None = None,
) -> Tensor:
    """`film_grain` with infinitely many samples, for small grains: a Gaussian field of the same mean and covariance.

    The mean is the picture through the observation filter; the field is white noise whose strength follows the local
    grey level, through a kernel whose autocorrelation is the Gaussian of sqrt(2) sigma_filter on whole pixels. It is
    another realisation than `film_grain` of the same seed, and knows no zoom. Same shape, type and range as `image`.

    Args: as of `film_grain`. largest: radius up to which it is wanted; by default GAUSSIAN_LIMIT * sigma_filter, where
        eight bits cannot tell it from grains. Whoever asks for more accepts `gaussian_error` of it.

    Raises:
        ReproError: as `film_grain`, and a radius above `largest`.
    """
    pictures, radii = checked(image, radius)
    batch, channels, height, width = pictures.shape
    why = "as asked" if largest is not None else "sigma_filter / 15"
    largest = GAUSSIAN_LIMIT * sigma_filter if largest is None else largest
    if not radii.max().item() <= largest:
        raise ReproError(
            f"the Gaussian field stands for grains of radius up to {why} = {largest:.3f} pixels: "
            f"got {radii.max().item():g}; use film_grain"
        )
    mean_kernel, noise_kernel = (kernel.to(image.device) for kernel in _kernels(sigma_filter))
    rim = len(mean_kernel) // 2
    grey = F.pad(pictures.double() / (1 + HEADROOM), (rim,) * 4, mode="replicate")  # (B, C, H + 2 rim, W + 2 rim)
    strength = grain_variance(grey, radii.to(image.device).view(-1, 1, 1, 1), sigma_filter).sqrt()
    keys = plane_keys(seed, list(range(batch)) if ids is None else checked_ids(ids, batch), channels, "gaussian grain")
    rows = torch.arange(origin[0] - rim, origin[0] + height + rim).expand(len(keys), -1)
    columns = torch.arange(origin[1] - rim, origin[1] + width + rim).expand(len(keys), -1)
    white = _normals(keys, rows, columns, image.device).view_as(grey)
    level = _filtered(grey, mean_kernel) + _filtered(strength * white, noise_kernel)
    return (level * (1 + HEADROOM)).clamp_(0, 1).view_as(image).to(image.dtype)


def _normals(keys: Tensor, rows: Tensor, columns: Tensor, device: torch.device) -> Tensor:
    """(P, H, W) float64 standard normals of the lattice places, by Box and Muller."""
    down, across = axis_keys(keys, rows, "rows"), axis_keys(keys, columns, "columns")
    bits = cell_bits(
        (down[0][:, :, None].to(device), down[1][:, :, None].to(device)),
        (across[0][:, None, :].to(device), across[1][:, None, :].to(device)),
    )
    first, second = ((further_bits(bits, i).double() + (2.0**31 + 0.5)) * 2.0**-32 for i in (1, 2))
    return (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()


def _kernels(sigma: float) -> tuple[Tensor, Tensor]:
    """Separable filters of the mean, a pixel's square through the Gaussian, and of the noise; odd lengths, float64."""
    rim = max(1, math.ceil(6 * sigma))
    d = torch.arange(-rim, rim + 1, dtype=torch.float64)
    mean = torch.special.ndtr((d + 0.5) / sigma) - torch.special.ndtr((d - 0.5) / sigma)
    # The square root, in the frequency domain, of the wanted autocorrelation: exact on whole pixels, no aliasing.
    length = 8 * rim + 1
    lag = torch.arange(length, dtype=torch.float64)
    lag = torch.minimum(lag, length - lag)
    spectrum = torch.fft.fft(torch.exp(-lag.square() / (4 * sigma**2))).real.clamp(min=0)
    noise = torch.fft.ifft(spectrum.sqrt()).real.roll(rim)[: 2 * rim + 1]
    return mean / mean.sum(), noise / noise.square().sum().sqrt()


def _filtered(planes: Tensor, kernel: Tensor) -> Tensor:
    """Separable, valid: (B, C, H + 2 rim, W + 2 rim) to (B, C, H, W)."""
    flat = planes.flatten(0, 1)[:, None]
    return (
        F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
        .squeeze(1)
        .unflatten(0, planes.shape[:2])
    )


def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1] (Golub and Welsch)."""
    k = torch.arange(1, count, dtype=torch.float64)
    side = k / (4 * k * k - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
    return (values + 1) / 2, vectors[0].square()
