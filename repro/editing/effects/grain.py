"""Film grain: the Boolean model of Newson, Delon and Galerne, rendered pixel by pixel by Monte Carlo.

"A stochastic film grain model for resolution-independent rendering" (Computer Graphics Forum, 2017). Film is a Poisson
process of discs of radius r whose density lambda = ln(1 / (1 - u)) / (pi r^2) makes a point covered with probability u,
the grey level there. A pixel is that 0/1 image through a Gaussian of sigma_filter, estimated by the fraction of
n_samples points around its centre that are covered. Grains live in the cells of a lattice and are hashed from the
cell's place, so they are the same for every pixel, crop, tile, zoom and batch that contains them.

Beside the published algorithm: all grains have one radius, the sample points are a fixed spiral with a Gaussian profile
instead of random points (no common shift of the image, less noise where they lie closer than a grain), colour channels
are independent, and cells left of and above the image exist (the border pixel is repeated). The cell's side sets the
speed and which grains are drawn, never the law; here it is the least 1/k that r fits into.

The random numbers: `KeyedNoise` hashes one axis of ids; a film has 10^8 cells an image, so here each axis is hashed
once (64 bits a row, 64 bits a column) and the two are combined per cell in 32-bit arithmetic that wraps, which is what
makes a Monte-Carlo sample cheap. The finaliser is the two-round multiply-xorshift hash "lowbias32" (Wellons,
"Prospecting for hash functions", 2018); the second pair of axis keys enters between its rounds, so that two rows or
columns whose first keys collide still differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

RADII = (0.010, 0.025, 0.050, 0.075, 0.100)  # the five sizes of the paper's data set, in pixels
SIGMA_FILTER = 0.8  # pixels, the published default
N_SAMPLES = 800  # the published default
HEADROOM = 0.1 / 255  # grey levels are divided by 1 + HEADROOM, so that white has a finite density
_BLOCK = {"cpu": 1 << 16, "cuda": 1 << 24}  # pixels handled at once: what stays in cache, or fills a GPU
_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)
_STEP = 0x9E3779B9 - (1 << 32)


def film_grain(
    image: Tensor,
    radius: float | Tensor,
    *,
    seed: int,
    ids: Sequence[int | str] | Tensor | None = None,
    sigma_filter: float = SIGMA_FILTER,
    n_samples: int = N_SAMPLES,
    zoom: float = 1.0,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """The image as grains on film; the same type and range, and `zoom` times the size.

    Args:
        image: (B, C, H, W) or (C, H, W) in [0, 1]; every channel has its own grains.
        radius: grain radius in pixels of `image`, from 0.0001; one number, or (B,).
        seed: the experiment's seed.
        ids: one id per image, whole numbers or text (default 0 .. B-1): grain depends on (seed, id, channel, place).
        sigma_filter: standard deviation of the observation filter, in pixels of the output; 0 renders single points.
        n_samples: Monte-Carlo points per pixel. They add a noise of about sqrt(u (1 - u) / n_samples), which exceeds
            the grain itself below a radius of about 2 sigma_filter / sqrt(n_samples); see `grain_law`.
        zoom: output pixels per pixel of `image`: the same grains from nearer or farther.
        origin: where on the film image[0, 0] lies, whole pixels. A crop at (y, x) rendered with origin (y, x) has the
            grains of the whole, but for the rim where the filter reaches past the crop's edge.

    Raises:
        ReproError: values outside [0, 1], a radius too small to render.
    """
    pictures = image.reshape(-1, *image.shape[-3:])
    batch, channels, height, width = pictures.shape
    radii = torch.as_tensor(radius, dtype=torch.float64).cpu().expand(batch)
    if not (image.min() >= 0 and image.max() <= 1 and radii.min() >= 1e-4):
        raise ReproError(
            f"film grain: got values from {image.min():g} to {image.max():g}, a radius of {radii.min():g}; accepted: "
            "values in [0, 1], a radius from 0.0001 pixels"
        )
    tall, wide = round(height * zoom), round(width * zoom)
    keys = plane_keys(seed, range(batch) if ids is None else ids, channels, "film grain")
    film = _Film(pictures, radii.repeat_interleave(channels), keys, origin)
    offsets = sample_offsets(n_samples if sigma_filter > 0 else 1) * sigma_filter  # (N, 2) output pixels
    rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (tall, wide))
    count = torch.zeros(batch * channels, tall, wide, device=image.device)
    for dy, dx in offsets.tolist():
        # One film coordinate per output row and column: an offset is the same for all pixels of the image.
        y, x = origin[0] + (rows + dy) / zoom, origin[1] + (columns + dx) / zoom
        for block, covered in film.covered(y, x):
            count[block] += covered
    level = (count / len(offsets) * (1 + HEADROOM)).clamp_(max=1.0)
    return level.view(*image.shape[:-2], tall, wide).to(image.dtype)


def sample_offsets(n_samples: int) -> Tensor:
    """(N, 2) float64: a fixed set of points with the standard normal's profile, mean 0 and mean square 1 per axis.

    A golden-angle spiral whose radii are the quantiles of |N(0, I)|; a single point is the centre.
    """
    if n_samples == 1:
        return torch.zeros(1, 2, dtype=torch.float64)
    k = torch.arange(n_samples, dtype=torch.float64)
    angle = k * (math.pi * (3 - math.sqrt(5)))
    distance = (-2 * torch.log1p(-(k + 0.5) / n_samples)).sqrt()
    points = torch.stack([distance * angle.sin(), distance * angle.cos()], dim=1)
    points -= points.mean(0)
    return points * (2 / points.square().sum(1).mean()).sqrt()


class _Axis(NamedTuple):
    """One axis of the points: S shifts to neighbour cells, P planes, n points."""

    gap: list[float]  # least distance, in cells, of a point to the shifted cell
    same: list[int]  # the first shift with the same pixels
    part: Tensor  # (P, n) the point's place in its own cell
    pixel: Tensor  # (S, P, n) of the cell
    keys: tuple[Tensor, Tensor]  # (S, P, n) each, of the cell


class _Film:
    """The grains of P planes: lattice geometry and Poisson means, and whether points are covered."""

    def __init__(self, pictures: Tensor, radii: Tensor, keys: Tensor, origin: tuple[int, int]) -> None:
        batch, channels, self.height, self.width = pictures.shape
        self.origin, self.keys, self.device = origin, keys, pictures.device
        self.cells = (1 / radii + 1e-6).floor().clamp(min=1).to(torch.int64)  # (P,) a pixel; their side is 1 / cells
        reach = radii * self.cells  # radii in cells, as all below
        self.reach = math.ceil(float(reach.max()) - 1e-6)
        self.largest_square = float(reach.max()) ** 2
        self.square = reach.square().float().to(self.device)  # (P,)
        grey = pictures.reshape(batch * channels, -1).double() / (1 + HEADROOM)
        area = math.pi * reach.square().to(self.device)[:, None]
        self.mean = -torch.log1p(-grey) / area  # (P, H W) grains per cell
        # A cell is empty when its 32 bits, as a signed number, are at most this; all of them where the image is 0.
        none, one = torch.exp(-self.mean), torch.exp(-self.mean) * (1 + self.mean)
        self.empty_bar, self.single_bar = (  # (P, H W) each; the second: at most one grain
            (chance * 2.0**32).ceil().sub_(2.0**31 + 1).clamp_(max=2.0**31 - 1).to(torch.int32)
            for chance in (none, one)
        )

    def covered(self, y: Tensor, x: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """(planes, rows) and the 0/1 image (p, h, W') there, for the points (y_i, x_j), block by block."""
        rows = self._axis(y, self.origin[0], self.height, "rows")
        columns = self._axis(x, self.origin[1], self.width, "columns")
        near = [
            (a, b)
            for a, gap_y in enumerate(rows.gap)
            for b, gap_x in enumerate(columns.gap)
            if gap_y**2 + gap_x**2 < self.largest_square
        ]
        for planes, band in _blocks(len(self.cells), len(y), len(x), _BLOCK.get(self.device.type, 1 << 20)):
            start = torch.arange(planes.start, planes.stop, device=self.device) * (self.height * self.width)
            densities: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
            found = []
            for a, b in near:
                # Neighbouring cells mostly lie in one and the same pixel: take its density once.
                pixel = (rows.same[a], columns.same[b])
                if pixel not in densities:
                    place = rows.pixel[a, planes, band, None] * self.width + columns.pixel[b, planes, None, :]
                    place += start[:, None, None]
                    densities[pixel] = place, self.empty_bar.take(place)
                place, bar = densities[pixel]
                bits = cell_bits(
                    tuple(key[a, planes, band, None] for key in rows.keys),
                    tuple(key[b, planes, None, :] for key in columns.keys),
                )
                at = (bits > bar).view(-1).nonzero().squeeze(1)  # the points with a grain in this cell
                found.append((at, bits.view(-1)[at], place.view(-1)[at], a - self.reach, b - self.reach))
            yield (planes, band), self._cover(found, rows.part[planes, band], columns.part[planes], planes)

    def _cover(self, found: list, y: Tensor, x: Tensor, planes: slice) -> Tensor:
        """(p, h, W') bool: points that grains of the found cells cover; y (p, h), x (p, W') in their own cell."""
        (tall, width), covered = (y.shape[1], x.shape[1]), torch.zeros(y.numel() * x.shape[1], dtype=torch.bool)
        covered = covered.to(self.device)
        at, bits, place = (torch.cat([cell[i] for cell in found]) for i in range(3))
        lengths = torch.tensor([len(cell[0]) for cell in found], device=self.device)
        shifts = torch.tensor([cell[3:] for cell in found], dtype=torch.float32, device=self.device)
        cell = torch.arange(len(found), device=self.device).repeat_interleave(lengths, output_size=len(at))
        row = at.div(width, rounding_mode="floor")
        plane = row.div(tall, rounding_mode="floor")
        y = y.reshape(-1).take(row).sub_(shifts[:, 0].take(cell))
        x = x.reshape(-1).take(at - (row - plane) * width).sub_(shifts[:, 1].take(cell))
        square = self.square.take(plane + planes.start)
        several = bits > self.single_bar.take(place)
        mean = below = term = chance = None  # of the cells with several grains, the fewest
        number = 1
        while len(at):
            where = further_bits(bits, 2 * number - 1)  # 16 bits an axis
            across = ((where & 0xFFFF).float() + 0.5).mul_(2.0**-16).sub_(x).square_()
            down = ((where >> 16).float() + (2.0**15 + 0.5)).mul_(2.0**-16).sub_(y).square_()
            hit = across.add_(down) < square
            covered[at[hit]] = True
            # On to the next grain of the cells that hold one more, for points still open.
            more = (several & ~hit).nonzero().squeeze(1)
            at, y, x, bits, place, square = (v.take(more) for v in (at, y, x, bits, place, square))
            number += 1
            if number == 2:
                mean, chance = self.mean.take(place), uniform(bits)  # the uniform number that the count inverts
                none = torch.exp(-mean)
                term, below = none * mean, none * (1 + mean)  # P(count = 1), P(count <= 1)
            else:
                mean, chance, term, below = (v.take(more) for v in (mean, chance, term, below))
            term = term * mean / number
            below = below + term
            several = chance > below
        return covered.view(-1, tall, width)

    def _axis(self, points: Tensor, origin: int, pixels: int, name: str) -> _Axis:
        """Everything about one axis that does not depend on the other, on the CPU and small."""
        shifts, cells = range(-self.reach, self.reach + 1), self.cells[:, None]
        scaled = points[None] * cells  # (P, n) float64, in cells
        home = scaled.floor()
        part = scaled - home
        index = home.to(torch.int64) + torch.tensor(shifts)[:, None, None]  # (S, P, n) the cells to visit
        gap = [max(0.0, shift - part.max().item(), part.min().item() - 1 - shift) for shift in shifts]
        pixel = (index.div(cells, rounding_mode="floor") - origin).clamp(0, pixels - 1)
        same = [next(i for i in range(s + 1) if torch.equal(pixel[i], pixel[s])) for s in range(len(shifts))]
        first, second = axis_keys(self.keys, index, name)
        to = self.device
        return _Axis(gap, same, part.float().to(to), pixel.to(to), (first.to(to), second.to(to)))


def _blocks(planes: int, height: int, width: int, limit: int) -> Iterator[tuple[slice, slice]]:
    many, tall = max(1, limit // (height * width)), max(1, limit // width)
    for plane in range(0, planes, many):
        for row in range(0, height, tall):
            yield slice(plane, min(plane + many, planes)), slice(row, min(row + tall, height))


# -- random numbers on an unbounded lattice: the draw at (row, column) depends on the key and the place alone ----------


def plane_keys(seed: int, ids: Sequence[int | str] | Tensor, channels: int, purpose: str) -> Tensor:
    """(B * channels,) int64: one key per image and channel."""
    return KeyedNoise(seed, ids, purpose).integers(-(1 << 61), 1 << 61, (channels,)).flatten()


def axis_keys(keys: Tensor, index: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """Two int32 keys for every lattice index (..., P, n) int64 on one axis ("rows", "columns") of planes keys (P,)."""
    ids = (index ^ keys[:, None]).flatten()
    pair = KeyedNoise(0, ids, f"lattice {axis}").integers(-(1 << 31), 1 << 31, (2,)).to(torch.int32)
    return pair[:, 0].view(index.shape), pair[:, 1].view(index.shape)


def cell_bits(rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    """int32 of 32 random bits for every cell, the high ones best; the keys broadcast, e.g. (P, H, 1) and (P, 1, W)."""
    bits = rows[0] + columns[0]
    _fold(bits, 16).mul_(_M1).add_(rows[1]).bitwise_xor_(columns[1])
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
