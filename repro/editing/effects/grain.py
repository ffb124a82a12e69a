"""Film grain: the Boolean model of Newson, Delon and Galerne, rendered pixel by pixel by Monte Carlo.

"A stochastic film grain model for resolution-independent rendering" (Computer Graphics Forum, 2017). Film is a Poisson
process of discs of radius r whose density lambda = ln(1 / (1 - u)) / (pi E[r^2]) makes a point covered with probability
u, the grey level there. A pixel is that 0/1 picture seen through a Gaussian of sigma_filter, estimated by the fraction
of n_samples points around its centre that are covered. Grains live in the cells of a lattice and are hashed from the
cell's place, so they are the same for every pixel, crop, tile, zoom and batch that looks at them.

Beside the published algorithm: the sample points are a fixed spiral with a Gaussian profile instead of random points
(no common shift of the picture, less noise where they lie closer than a grain), colour channels are independent, cells
left of and above the picture exist (the border pixel is repeated), and lambda accounts for the cap on log-normal radii.
The cell's side sets the speed and which grains are drawn, never the law; here it is the least 1/k that r fits into.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from repro.editing.effects.lattice import axis_keys, cell_bits, further_bits, plane_keys
from repro.errors import ReproError

RADII = (0.010, 0.025, 0.050, 0.075, 0.100)  # the five sizes of the paper's data set, in pixels
SIGMA_FILTER = 0.8  # pixels, the published default
N_SAMPLES = 800  # the published default
HEADROOM = 0.1 / 255  # grey levels are divided by 1 + HEADROOM, so that white has a finite density
_CAP = 3.0902  # log-normal radii stop at their 99.9% quantile: this many deviations of the logarithm
_BLOCK = {"cpu": 1 << 16, "cuda": 1 << 24}  # pixels handled at once: what stays in cache, or fills a GPU


def film_grain(
    image: Tensor,
    radius: float | Tensor,
    *,
    seed: int,
    ids: Sequence[int | str] | Tensor | None = None,
    sigma_filter: float = SIGMA_FILTER,
    n_samples: int = N_SAMPLES,
    sigma_r: float = 0.0,
    zoom: float = 1.0,
    window: tuple[float, float, float, float] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """The picture as grains on film; the same shape, type and range, or that of `window` at `zoom`.

    Args:
        image: (B, C, H, W) or (C, H, W) in [0, 1]; every channel has its own grains.
        radius: mean grain radius in pixels of `image`, above 0; one number, or (B,).
        seed: the experiment's seed.
        ids: one id per picture, whole numbers or text (default 0 .. B-1): grain depends on (seed, id, channel, place).
        sigma_filter: standard deviation of the observation filter, in pixels of the output; 0 looks at points.
        n_samples: Monte-Carlo points per pixel. They add a noise of about sqrt(u (1 - u) / n_samples), which exceeds
            the grain itself below a radius of about 2 sigma_filter / sqrt(n_samples); see `grain_law`.
        sigma_r: standard deviation of log-normal radii, in pixels of `image`; 0 makes them all equal.
        zoom: output pixels per pixel of `image`: the same grains from nearer or farther.
        window: (top, left, height, width) in pixels of `image`, the part to render; default all of it.
        origin: where on the film image[0, 0] lies, whole pixels. A crop at (y, x) rendered with origin (y, x) shows the
            grains of the whole, but for the rim where the filter looks past the crop's edge.

    Raises:
        ReproError: shape, range, radius, or another argument that cannot work.
    """
    pictures, radii = checked(image, radius)
    batch, channels, height, width = pictures.shape
    _check_arguments(sigma_filter, n_samples, sigma_r, zoom)
    top, left, tall, wide = (0.0, 0.0, float(height), float(width)) if window is None else map(float, window)
    out_height, out_width = round(tall * zoom), round(wide * zoom)
    if out_height < 1 or out_width < 1:
        raise ReproError(f"window {window} at zoom {zoom} has no pixels: it must span at least one output pixel")
    keys = plane_keys(seed, list(range(batch)) if ids is None else checked_ids(ids, batch), channels, "film grain")
    film = _Film(pictures, radii.repeat_interleave(channels), sigma_r, keys, origin)
    offsets = sample_offsets(n_samples if sigma_filter > 0 else 1) * sigma_filter  # (N, 2) output pixels
    rows = torch.arange(out_height, dtype=torch.float64) + 0.5
    columns = torch.arange(out_width, dtype=torch.float64) + 0.5
    count = torch.zeros(batch * channels, out_height, out_width, device=image.device)
    for dy, dx in offsets.tolist():
        # One film coordinate per output row and column: an offset is the same for all pixels of the picture.
        y, x = (origin[0] + top) + (rows + dy) / zoom, (origin[1] + left) + (columns + dx) / zoom
        for block, covered in film.covered(y, x):
            count[block] += covered
    level = (count / len(offsets) * (1 + HEADROOM)).clamp_(max=1.0)
    return level.view(*image.shape[:-2], out_height, out_width).to(image.dtype)


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


class _Film:
    """The grains of P planes: lattice geometry and Poisson means, and whether points are covered."""

    def __init__(self, pictures: Tensor, radii: Tensor, sigma_r: float, keys: Tensor, origin: tuple[int, int]) -> None:
        batch, channels, self.height, self.width = pictures.shape
        self.origin, self.keys, self.device = origin, keys, pictures.device
        self.cells = (
            (1 / radii + 1e-6).floor().clamp(min=1).to(torch.int64)
        )  # (P,) cells per pixel, their side is 1 / cells
        self.log_normal = _log_normal(radii * self.cells, sigma_r * self.cells) if sigma_r else None
        mean_square, largest = _moments(radii * self.cells, self.log_normal)  # in cells, as all below
        self.reach = math.ceil(float(largest.max()) - 1e-6)
        self.largest_square = float(largest.max()) ** 2
        self.square = (radii * self.cells).square().float().to(self.device)  # (P,)
        grey = pictures.reshape(batch * channels, -1).double() / (1 + HEADROOM)
        self.mean = -torch.log1p(-grey) / (math.pi * mean_square.to(self.device)[:, None])  # (P, H W) grains per cell
        # A cell is empty when its 32 bits, as a signed number, are at most this; all of them where the picture is 0.
        none, one = torch.exp(-self.mean), torch.exp(-self.mean) * (1 + self.mean)
        self.empty_bar, self.single_bar = (  # (P, H W) each; the second: at most one grain
            (chance * 2.0**32).ceil().sub_(2.0**31 + 1).clamp_(max=2.0**31 - 1).to(torch.int32)
            for chance in (none, one)
        )

    def covered(self, y: Tensor, x: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """(planes, rows) and the 0/1 picture (p, h, W') there, for the points (y_i, x_j), block by block."""
        shifts = torch.arange(-self.reach, self.reach + 1)
        rows = self._axis(y, shifts, self.origin[0], self.height, "rows")
        columns = self._axis(x, shifts, self.origin[1], self.width, "columns")
        near = [
            (a, b)
            for a, gap_y in enumerate(rows.gap)
            for b, gap_x in enumerate(columns.gap)
            if gap_y**2 + gap_x**2 < self.largest_square
        ]
        for planes, band in _blocks(len(self.cells), len(y), len(x), _BLOCK.get(self.device.type, 1 << 20)):
            start = torch.arange(planes.start, planes.stop, device=self.device) * (self.height * self.width)
            looked_up: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
            found = []
            for a, b in near:
                # Neighbouring cells mostly lie in one and the same pixel: look its density up once.
                pixel = (rows.same[a], columns.same[b])
                if pixel not in looked_up:
                    place = rows.pixel[a, planes, band, None] * self.width + columns.pixel[b, planes, None, :]
                    place += start[:, None, None]
                    looked_up[pixel] = place, self.empty_bar.take(place)
                place, bar = looked_up[pixel]
                bits = cell_bits(
                    (rows.first[a, planes, band, None], rows.second[a, planes, band, None]),
                    (columns.first[b, planes, None, :], columns.second[b, planes, None, :]),
                )
                at = (bits > bar).view(-1).nonzero().squeeze(1)  # the points that see a grain in this cell
                found.append((at, bits.view(-1)[at], place.view(-1)[at], a - self.reach, b - self.reach))
            yield (planes, band), self._cover(found, rows.part[planes, band], columns.part[planes], planes)

    def _cover(self, found: list, y: Tensor, x: Tensor, planes: slice) -> Tensor:
        """(p, h, W') bool: which points the grains of the found cells cover; y (p, h), x (p, W') in their own cell."""
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
        plane += planes.start
        square = self.square.take(plane)
        several = bits > self.single_bar.take(place)
        mean = below = term = chance = None  # of the cells with several grains, the fewest
        number = 1
        while len(at):
            where = further_bits(bits, 2 * number - 1)  # 16 bits an axis
            across = ((where & 0xFFFF).float() + 0.5).mul_(2.0**-16).sub_(x).square_()
            down = ((where >> 16).float() + (2.0**15 + 0.5)).mul_(2.0**-16).sub_(y).square_()
            if self.log_normal is not None:
                square = _drawn_radius(further_bits(bits, 2 * number), *self.log_normal, plane).square_()
            hit = across.add_(down) < square
            covered[at[hit]] = True
            # On to the next grain of the cells that hold one more, for points still open.
            more = (several & ~hit).nonzero().squeeze(1)
            at, y, x, bits, place, plane, square = (v.take(more) for v in (at, y, x, bits, place, plane, square))
            number += 1
            if number == 2:
                mean = self.mean.take(place)
                chance = (bits.double() + (2.0**31 + 0.5)) * 2.0**-32  # the uniform number that the count inverts
                none = torch.exp(-mean)
                term, below = none * mean, none * (1 + mean)  # P(count = 1), P(count <= 1)
            else:
                mean, chance, term, below = (v.take(more) for v in (mean, chance, term, below))
            term = term * mean / number
            below = below + term
            several = chance > below
        return covered.view(-1, tall, width)

    def _axis(self, points: Tensor, shifts: Tensor, origin: int, pixels: int, name: str) -> _Axis:
        """Everything about one axis that does not depend on the other, on the CPU and small."""
        cells = self.cells[:, None]
        scaled = points[None] * cells  # (P, n) float64, in cells
        home = scaled.floor()
        part = scaled - home
        index = home.to(torch.int64) + shifts[:, None, None]  # (S, P, n) the cells to visit
        gap = [max(0.0, shift - part.max().item(), part.min().item() - 1 - shift) for shift in shifts.tolist()]
        pixel = (index.div(cells, rounding_mode="floor") - origin).clamp(0, pixels - 1)
        same = [next(i for i in range(s + 1) if torch.equal(pixel[i], pixel[s])) for s in range(len(shifts))]
        first, second = axis_keys(self.keys, index, name)
        to = self.device
        return _Axis(gap, same, part.float().to(to), pixel.to(to), first.to(to), second.to(to))


class _Axis:
    """One axis of the points: S shifts to neighbour cells, P planes, n points.

    gap: least distance, in cells, of a point to the shifted cell. same: the first shift with the same pixels.
    part, pixel, first, second: (S, P, n): the point seen from the cell's corner, the cell's pixel, the cell's keys.
    """

    def __init__(
        self, gap: list[float], same: list[int], part: Tensor, pixel: Tensor, first: Tensor, second: Tensor
    ) -> None:
        self.gap, self.same, self.part, self.pixel, self.first, self.second = gap, same, part, pixel, first, second


def _blocks(planes: int, height: int, width: int, limit: int) -> Iterator[tuple[slice, slice]]:
    many, tall = max(1, limit // (height * width)), max(1, limit // width)
    for plane in range(0, planes, many):
        for row in range(0, height, tall):
            yield slice(plane, min(plane + many, planes)), slice(row, min(row + tall, height))


def _log_normal(mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the radius' logarithm, (P,) each."""
    spread = torch.log1p((deviation / mean).square()).sqrt()
    return mean.log() - spread.square() / 2, spread


def _moments(radius: Tensor, log_normal: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """E[r^2] and the largest r of each plane, the cap on log-normal radii included."""
    if log_normal is None:
        return radius.square(), radius
    middle, spread = log_normal
    largest = torch.exp(middle + _CAP * spread)
    below, above = torch.special.ndtr(_CAP - 2 * spread), torch.special.ndtr(torch.tensor(-_CAP).double())
    return torch.exp(2 * middle + 2 * spread.square()) * below + largest.square() * above, largest


def _drawn_radius(bits: Tensor, middle: Tensor, spread: Tensor, plane: Tensor) -> Tensor:
    normal = torch.special.ndtri((bits.double() + (2.0**31 + 0.5)) * 2.0**-32).clamp_(max=_CAP)
    middle, spread = middle.to(bits.device)[plane], spread.to(bits.device)[plane]
    return torch.exp(middle + spread * normal).float()


def checked(image: Tensor, radius: float | Tensor) -> tuple[Tensor, Tensor]:
    """The picture as (B, C, H, W) and its radii as (B,) float64 on the CPU, or an error that says what is wrong."""
    if image.dim() not in (3, 4) or image.numel() == 0 or not image.is_floating_point():
        found = f"{image.dtype} of shape {tuple(image.shape)}"
        raise ReproError(f"film grain needs a float picture (C, H, W) or (B, C, H, W): got {found}")
    low, high = image.min().item(), image.max().item()
    if not (low >= 0 and high <= 1):
        raise ReproError(f"film grain needs values in [0, 1]: got {low:g} to {high:g}")
    pictures = image if image.dim() == 4 else image[None]
    radii = torch.as_tensor(radius, dtype=torch.float64).cpu()
    if radii.dim() > 1 or (radii.dim() == 1 and len(radii) != len(pictures)):
        raise ReproError(f"the grain radius is one number or one per picture ({len(pictures)}): got {len(radii)}")
    if not ((radii >= 1e-4) & torch.isfinite(radii)).all():
        raise ReproError(f"the grain radius must be at least 0.0001 pixels: got {radii.min().item():g}")
    return pictures, radii.expand(len(pictures))


def checked_ids(ids: Sequence[int | str] | Tensor, batch: int) -> Sequence[int | str] | Tensor:
    if len(ids) != batch:
        raise ReproError(f"film grain needs one id per picture: got {len(ids)} ids for {batch} pictures")
    return ids


def _check_arguments(sigma_filter: float, n_samples: int, sigma_r: float, zoom: float) -> None:
    for name, value, good, accepted in (
        ("sigma_filter", sigma_filter, 0 <= sigma_filter < math.inf, "a number of pixels, 0 or more"),
        ("n_samples", n_samples, n_samples >= 1 and int(n_samples) == n_samples, "a whole number from 1"),
        ("sigma_r", sigma_r, 0 <= sigma_r < math.inf, "a number of pixels, 0 or more"),
        ("zoom", zoom, 0 < zoom < math.inf, "a number above 0"),
    ):
        if not good:
            raise ReproError(f"{name} of film grain must be {accepted}: got {value}")
