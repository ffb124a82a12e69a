"""Film grain: the Boolean model, its variance, and the Gaussian field that every target is made with.

Newson, Delon and Galerne, "A stochastic film grain model for resolution-independent rendering" (Computer Graphics
Forum, 2017): film is a Poisson process of discs of radius r whose density lambda = ln(1 / (1 - u)) / (pi r^2) makes a
point covered with probability u, the grey level there. A pixel is that 0/1 image through a Gaussian of deviation s.

Two points at distance h are both covered with covariance C(h) = (1 - u)^2 (exp(lambda gamma(h)) - 1), gamma the area
that two discs share, so a pixel has the covariance int C(h) G(h - lag) dh, G of deviation sqrt(2) s (their section 3).
Where grains are small, a Gaussian field of that covariance is the same image for a hundredth of the work.

Random numbers: `KeyedNoise` hashes ids one by one; a film has 10^8 cells an image. So it hashes rows and columns (64
bits each), and the two are combined per cell by the two-round multiply-xorshift hash "lowbias32" (Wellons, "Prospecting
for hash functions", 2018); their second keys enter between its rounds: lines whose first keys collide still differ.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

RADII = (0.010, 0.025, 0.050, 0.075, 0.100)  # the five sizes of the paper's data set, in pixels
SIGMA_FILTER = 0.8  # pixels, the published default
N_SAMPLES = 800  # the published default
HEADROOM = 0.1 / 255  # grey levels are divided by 1 + HEADROOM, so that white has a finite density
_RIM = math.ceil(6 * SIGMA_FILTER)  # pixels that the filters reach
_NODES = 24  # of Gauss-Legendre quadrature: 1e-6 of the variance
_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)
_STEP = 0x9E3779B9 - (1 << 32)

Ids = Sequence[int | str] | Tensor


def film_grain(
    image: Tensor, radius: float | Tensor, *, seed: int, ids: Ids, sigma_filter: float = SIGMA_FILTER,
    n_samples: int = N_SAMPLES,
) -> Tensor:  # fmt: skip
    """The Boolean model by Monte Carlo: images (B, C, H, W) in [0, 1] as grains on film.

    Beside the published algorithm: all grains have one radius, the sample points are a fixed spiral with a Gaussian
    profile, colour channels are independent, and the border pixel is repeated. Grains live in the cells of a lattice
    whose side is the least 1/k that r fits into, and are hashed from the cell's place.

    Args:
        radius: grain radius in pixels, from 0.0001; one number, or (B,).
        seed, ids: grain depends on (seed, id, channel, place).
        sigma_filter: deviation of the observation filter, in pixels.
        n_samples: points a pixel. They add a noise of about sqrt(u (1 - u) / n_samples), which exceeds the grain itself
            below a radius of about 2 sigma_filter / sqrt(n_samples).

    Raises `ReproError` for values outside [0, 1] and for a radius too small to render.
    """
    batch, channels, height, width = image.shape
    radii = torch.as_tensor(radius, dtype=torch.float64).cpu().expand(batch)
    if not (image.min() >= 0 and image.max() <= 1 and radii.min() >= 1e-4):
        got = f"values from {image.min():g} to {image.max():g}, a radius of {radii.min():g}"
        raise ReproError(f"film grain: got {got}; accepted: values in [0, 1], a radius from 0.0001 pixels")
    keys = plane_keys(seed, ids, channels, "film grain")
    radii = radii.repeat_interleave(channels)
    cells = (1 / radii + 1e-6).floor().clamp(min=1).long()  # (P,) a pixel
    area = math.pi * (radii * cells).square()[:, None, None]  # of a grain, in cells
    mean = -torch.log1p(-image.cpu().double().flatten(0, 1) / (1 + HEADROOM)) / area  # (P, H, W) grains a cell
    count = torch.zeros(batch * channels, height, width)
    for dy, dx in (sample_offsets(n_samples) * sigma_filter).tolist():
        count += _covered(mean, radii * cells, cells, keys, dy, dx)
    return (count / n_samples * (1 + HEADROOM)).clamp_(max=1.0).view_as(image).to(image)


def _covered(mean: Tensor, reach: Tensor, cells: Tensor, keys: Tensor, dy: float, dx: float) -> Tensor:
    """(P, H, W) bool: which points, (dy, dx) from the pixels' centres, grains of radius `reach` (P,) cells cover."""
    far = math.ceil(float(reach.max()) - 1e-6)
    shifts, axes = range(-far, far + 1), []
    for name, pixels, by in (("rows", mean.shape[1], dy), ("columns", mean.shape[2], dx)):
        place = (torch.arange(pixels, dtype=torch.float64) + 0.5 + by) * cells[:, None]  # (P, n), in cells
        around = place.floor().long() + torch.tensor(shifts)[:, None, None]  # (S, P, n) the cells to visit
        pixel = around.div(cells[:, None], rounding_mode="floor").clamp(0, pixels - 1)
        axes.append([*zip(shifts, pixel, *axis_keys(keys, around, name), strict=True)])
        axes[-1].insert(0, (place - place.floor()).float())
    (y, *rows), (x, *columns) = axes
    square, covered = reach.square().float(), torch.zeros(mean.shape, dtype=torch.bool)
    # A cell's Poisson count is the one that `uniform(bits)` inverts: bits above this are those of a cell with grains.
    empty = (torch.exp(-mean) * 2.0**32 - (2.0**31 + 0.5)).floor().to(torch.int32)
    for down, row, *a in rows:
        in_row = empty.gather(1, row[:, :, None].expand_as(empty))
        for across, column, *b in columns:
            bits = cell_bits(a, b)
            some = (bits > in_row.gather(2, column[:, None, :].expand_as(bits))) & ~covered
            at, number = some.nonzero(as_tuple=True), 0  # the points that are left
            bits, here = bits[at], mean[at[0], row[at[:2]], column[at[::2]]]
            term = below = torch.exp(-here)  # P(count <= number)
            while len(bits):
                number += 1
                where = further_bits(bits, 2 * number - 1)  # 16 bits an axis
                right = ((where & 0xFFFF).float() + 0.5) * 2.0**-16 - (x - across)[at[::2]]
                low = ((where >> 16).float() + (2.0**15 + 0.5)) * 2.0**-16 - (y - down)[at[:2]]
                hit = right.square() + low.square() < square[at[0]]
                covered[tuple(index[hit] for index in at)] = True
                term = term * here / number
                below = below + term
                left = ~hit & (uniform(bits) > below)
                at, (bits, here, term, below) = tuple(i[left] for i in at), (v[left] for v in (bits, here, term, below))
    return covered


def sample_offsets(n_samples: int) -> Tensor:
    """(N, 2) float64: a fixed set of points with the standard normal's profile, mean 0 and mean square 1 per axis.

    A golden-angle spiral whose radii are the quantiles of |N(0, I)|.
    """
    k = torch.arange(n_samples, dtype=torch.float64)
    angle = k * (math.pi * (3 - math.sqrt(5)))
    distance = (-2 * torch.log1p(-(k + 0.5) / n_samples)).sqrt()
    points = torch.stack([distance * angle.sin(), distance * angle.cos()], dim=1)
    points -= points.mean(0)
    return points * (2 / points.square().sum(1).mean()).sqrt()


def grain_variance(u: Tensor | float, radius: float | Tensor, sigma_filter: float = SIGMA_FILTER) -> Tensor:
    """Variance of a pixel without Monte-Carlo noise, where the grey level is `u` in [0, 1); float64, `u`'s shape.

    In polar coordinates, h = 2 r s: (1-u)^2 (2 r^2 / sigma^2) int_0^1 s (exp(lambda gamma) - 1) exp(-(r s/sigma)^2) ds.
    """
    u = torch.as_tensor(u, dtype=torch.float64)
    ratio = torch.as_tensor(radius, dtype=torch.float64, device=u.device) / sigma_filter
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)  # on [-1, 1]
    dense, total = -torch.log1p(-u), torch.zeros_like(u * ratio)
    for s, weight in zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
        shared = 2 / math.pi * (math.acos(s) - s * math.sqrt(1 - s * s))
        total += weight * s * torch.expm1(dense * shared) * torch.exp(-(ratio * s).square())
    return (1 - u).square() * 2 * ratio.square() * total


def gaussian_grain(image: Tensor, radius: float | Tensor, *, seed: int, ids: Ids) -> Tensor:
    """`film_grain` with infinitely many samples, for small grains: a Gaussian field of the same mean and covariance.

    The mean is the image through the observation filter; the field is white noise whose strength follows the local
    grey level, through a kernel whose autocorrelation is the Gaussian of sqrt(2) SIGMA_FILTER on whole pixels. It is
    another realisation than `film_grain` of the same seed. Three deviations out in the shadows, where it is worst, a
    quantile is off by 4/9 (radius / SIGMA_FILTER)^2 (Cornish and Fisher): 1.8 grey levels at a radius of 0.1.
    """
    batch, channels, height, width = image.shape
    radii, rim = torch.as_tensor(radius, dtype=torch.float64, device=image.device).expand(batch), _RIM
    grey = F.pad(image.double() / (1 + HEADROOM), (rim,) * 4, mode="replicate")  # (B, C, H + 2 rim, W + 2 rim)
    strength = grain_variance(grey, radii.view(-1, 1, 1, 1)).sqrt()
    keys = plane_keys(seed, ids, channels, "gaussian grain")
    down, across = (
        [key.to(image.device) for key in axis_keys(keys, torch.arange(-rim, n + rim).expand(len(keys), -1), axis)]
        for n, axis in ((height, "rows"), (width, "columns"))
    )
    bits = cell_bits(down, across)
    first, second = (uniform(further_bits(bits, i)) for i in (1, 2))
    white = ((-2 * first.log()).sqrt() * (2 * math.pi * second).cos()).view_as(grey)  # by Box and Muller
    # Separable filters: of the mean, a pixel's square through the Gaussian; of the noise, the square root of the
    # autocorrelation in the frequency domain, which is exact on whole pixels and free of aliasing.
    d, lag = (torch.arange(start, stop, dtype=torch.float64) for start, stop in ((-rim, rim + 1), (0, 8 * rim + 1)))
    mean = torch.special.ndtr((d + 0.5) / SIGMA_FILTER) - torch.special.ndtr((d - 0.5) / SIGMA_FILTER)
    lag = torch.minimum(lag, len(lag) - lag)
    spectrum = torch.fft.fft(torch.exp(-lag.square() / (4 * SIGMA_FILTER**2))).real.clamp(min=0)
    noise = torch.fft.ifft(spectrum.sqrt()).real.roll(rim)[: 2 * rim + 1]
    level = 0
    for x, kernel in ((grey, mean / mean.sum()), (strength * white, noise / noise.square().sum().sqrt())):
        kernel = kernel.to(x)
        level += F.conv2d(F.conv2d(x.flatten(0, 1)[:, None], kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return (level * (1 + HEADROOM)).clamp_(0, 1).view_as(image).to(image.dtype)


def plane_keys(seed: int, ids: Ids, channels: int, purpose: str) -> Tensor:
    """(B * channels,) int64: one key per image and channel."""
    return KeyedNoise(seed, ids, purpose).integers(-(1 << 61), 1 << 61, (channels,)).flatten()


def axis_keys(keys: Tensor, index: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """Two int32 keys for every lattice index (..., P, n) int64 on one axis ("rows", "columns") of planes keys (P,)."""
    ids = (index ^ keys[:, None]).flatten()
    pair = KeyedNoise(0, ids, f"lattice {axis}").integers(-(1 << 31), 1 << 31, (2,)).to(torch.int32)
    return pair[:, 0].view(index.shape), pair[:, 1].view(index.shape)


def cell_bits(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    """int32 (P, H, W) of 32 random bits for every cell, the high ones best; two keys a row (P, H), a column (P, W)."""
    bits = rows[0][:, :, None] + columns[0][:, None, :]
    _fold(bits, 16).mul_(_M1).add_(rows[1][:, :, None]).bitwise_xor_(columns[1][:, None, :])
    return _fold(bits, 15).mul_(_M2)


def further_bits(bits: Tensor, number: int) -> Tensor:
    """The cell's `number`-th further 32 random bits (number >= 1), from its `cell_bits`."""
    more = bits + ((number * _STEP + (1 << 31)) % (1 << 32) - (1 << 31))
    _fold(more, 16).mul_(_M1)
    _fold(more, 15).mul_(_M2)
    return _fold(more, 16)


def uniform(bits: Tensor) -> Tensor:
    """float64 in (0, 1) of 32 random bits."""
    return (bits.double() + (2.0**31 + 0.5)) * 2.0**-32


def _fold(bits: Tensor, by: int) -> Tensor:
    """bits ^= bits >> by, in place; the mask makes torch's arithmetic shift logical."""
    return bits.bitwise_xor_((bits >> by).bitwise_and_((1 << (32 - by)) - 1))
