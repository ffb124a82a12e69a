"""Measurements y = A x + e of images x (B, 3, H, W) in [-1, 1], with A's adjoint, its singular values, and the noise.

Every operator of the paper acts separately on channels, rows and columns, so each is three small matrices: A, its
transpose and its singular value decomposition are products of theirs, and nothing is approximated. ADIR, sections 4.1
to 4.3; eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

Transpose = Literal["adjoint", "upsampling"]
TRANSPOSES: tuple[Transpose, ...] = ("adjoint", "upsampling")
LEVELS = 127.5  # of the 0 to 255 scale, in one unit of [-1, 1]
NOISE = 10 / LEVELS  # the paper's sigma = 10
SMALLEST = 3e-2  # singular values below it count as 0, as in DDRM's code


class Operator(Protocol):
    """What guidance needs: A, its transpose, and the largest eigenvalue of (the transpose used) times A."""

    noise: float  # sigma of e, on the scale of [-1, 1]

    def A(self, x: Tensor) -> Tensor: ...

    def transpose(self, y: Tensor, kind: Transpose = "adjoint") -> Tensor: ...

    def eigenvalue(self, kind: Transpose = "adjoint") -> float: ...

    def measure(self, x: Tensor, noise: KeyedNoise | None = None) -> Tensor:
        """y = A x + e for x (B, 3, H, W) in [-1, 1]; e is drawn from `noise`, which a noisy operator needs."""
        y = self.A(x)
        if self.noise == 0:
            return y
        if noise is None:
            raise ReproError(f"this measurement has noise of sigma {self.noise:.3g}: pass a KeyedNoise for it")
        return y + self.noise * noise.normal(tuple(y.shape[1:])).to(y)


@dataclass(frozen=True)
class Separable(Operator):
    """A = a matrix on channels, one on rows, one on columns.

    Args:
        channels: (c', 3).   rows: (h', H).   columns: (w', W).
        noise: sigma of e.
        back: three matrices (3, c'), (H, h'), (W, w') used as "upsampling" in the place of A's transpose: for
            downsampling the interpolation, for the mean of colours replication. None: the transpose itself.
    """

    channels: Tensor
    rows: Tensor
    columns: Tensor
    noise: float = 0.0
    back: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def image(self) -> tuple[int, int, int]:
        """(channels, height, width) of x."""
        return self.channels.shape[1], self.rows.shape[1], self.columns.shape[1]

    @property
    def measurement(self) -> tuple[int, int, int]:
        """(channels, height, width) of y."""
        return len(self.channels), len(self.rows), len(self.columns)

    def A(self, x: Tensor) -> Tensor:
        """(B, *image) -> (B, *measurement)."""
        _check(x, self.image, "an image")
        return _apply(x, (self.channels, self.rows, self.columns))

    def transpose(self, y: Tensor, kind: Transpose = "adjoint") -> Tensor:
        """(B, *measurement) -> (B, *image): A's adjoint, or the upsampling that the paper describes."""
        _check(y, self.measurement, "a measurement")
        return _apply(y, self._back(kind))

    def pseudo_inverse(self, y: Tensor, smallest: float = SMALLEST) -> Tensor:
        """(B, *measurement) -> (B, *image); singular values below `smallest` count as 0."""
        _check(y, self.measurement, "a measurement")
        s = self.singular_values
        return self.V(torch.where(s > smallest, 1 / s.clamp(min=smallest), 0).to(y) * self.Ut(y))

    def eigenvalue(self, kind: Transpose = "adjoint") -> float:
        """The largest eigenvalue of transpose times A."""
        pairs = zip(self._back(kind), (self.channels, self.rows, self.columns), strict=True)
        return math.prod(float(torch.linalg.eigvals((a @ b).double()).abs().max()) for b, a in pairs)

    def _back(self, kind: Transpose) -> tuple[Tensor, Tensor, Tensor]:
        upsampled = self.back if kind == "upsampling" else None
        return upsampled or (self.channels.T, self.rows.T, self.columns.T)

    # -- singular value decomposition A = U S V^T, for DDRM and the exact posterior

    @cached_property
    def _svd(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        return tuple(torch.linalg.svd(m.double(), full_matrices=True) for m in (self.channels, self.rows, self.columns))

    @cached_property
    def singular_values(self) -> Tensor:
        """(*image) of A; 0 where A sees nothing."""
        c, h, w = (F.pad(s, (0, n - len(s))) for (_, s, _), n in zip(self._svd, self.image, strict=True))
        return (c[:, None, None] * h[:, None] * w).float()

    def Vt(self, x: Tensor) -> Tensor:
        """(B, *image) -> its coordinates in A's right singular vectors."""
        return _apply(x, tuple(vt.to(x) for _, _, vt in self._svd))

    def V(self, x: Tensor) -> Tensor:
        """The inverse of `Vt`."""
        return _apply(x, tuple(vt.T.to(x) for _, _, vt in self._svd))

    def Ut(self, y: Tensor) -> Tensor:
        """(B, *measurement) -> its coordinates in A's left singular vectors, padded with zeros to (B, *image)."""
        z = _apply(y, tuple(u.T.to(y) for u, _, _ in self._svd))
        missing = [n - n_y for n, n_y in zip(self.image, self.measurement, strict=True)]
        return F.pad(z, (0, missing[2], 0, missing[1], 0, missing[0]))


@dataclass(frozen=True)
class Mask(Operator):
    """A keeps the pixels where `mask` (1 or 3, H, W) is 1 and puts 0 elsewhere."""

    mask: Tensor
    noise: float = 0.0

    def A(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        _check(x, (3, *self.mask.shape[1:]), "an image")
        return x * self.mask.to(x)

    def transpose(self, y: Tensor, kind: Transpose = "adjoint") -> Tensor:
        return self.A(y)

    def eigenvalue(self, kind: Transpose = "adjoint") -> float:
        return float(self.mask.max()) ** 2


@dataclass(frozen=True)
class Compose(Operator):
    """A = outer after inner, e.g. a mask of a blurred image."""

    outer: Operator
    inner: Operator
    noise: float = 0.0

    def A(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(x))

    def transpose(self, y: Tensor, kind: Transpose = "adjoint") -> Tensor:
        return self.inner.transpose(self.outer.transpose(y, kind), kind)

    def eigenvalue(self, kind: Transpose = "adjoint") -> float:
        """An upper bound: the product of the two."""
        return self.outer.eigenvalue(kind) * self.inner.eigenvalue(kind)


# -- the paper's measurements ------------------------------------------------------------------------------------------


def bicubic_matrix(n: int, factor: int) -> Tensor:
    """(n / factor, n) antialiased bicubic downsampling: Keys' cubic with a = -0.5 stretched by the factor, cut at the
    border and normalised there (Pillow's, and torch's `interpolate(antialias=True)`)."""
    if factor < 1 or n % factor:
        raise ReproError(f"downsampling by {factor} needs a side that is a multiple of it: got {n} pixels")
    centres = (torch.arange(n // factor, dtype=torch.float64) + 0.5) * factor - 0.5
    return _cubic((centres[:, None] - torch.arange(n)) / factor)


def upsampling_matrix(n: int, factor: int) -> Tensor:
    """(n, n / factor) bicubic interpolation, a = -0.5."""
    fine = (torch.arange(n, dtype=torch.float64) + 0.5) / factor - 0.5
    return _cubic(fine[:, None] - torch.arange(n // factor))


def _cubic(distance: Tensor) -> Tensor:
    d = distance.abs()
    weight = torch.where(d < 1, (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2).where(d < 2, 0.0)
    return (weight / weight.sum(dim=1, keepdim=True)).float()


def blur_matrix(n: int, taps: Tensor) -> Tensor:
    """(n, n) convolution with an odd number of `taps`, the image mirrored at its border (its edge not repeated)."""
    reach = len(taps) // 2
    if len(taps) % 2 == 0 or reach >= n:
        raise ReproError(f"a blur needs an odd number of taps, less than twice the side: got {len(taps)} for {n}")
    mirrored = F.pad(torch.eye(n)[None], (reach, reach), mode="reflect")[0]  # row j: where pixel j appears
    return mirrored.unfold(1, len(taps), 1).mul(taps.float()).sum(dim=2).T


def box_taps(size: int) -> Tensor:
    """(size,) equal taps."""
    return torch.full((size,), 1 / size)


def gaussian_taps(sigma: float) -> Tensor:
    """Gaussian taps out to three sigma, summing to 1."""
    at = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1, dtype=torch.float64)
    taps = torch.exp(-0.5 * (at / sigma) ** 2)
    return (taps / taps.sum()).float()


def super_resolution(height: int, width: int, factor: int) -> Separable:
    """Bicubic downsampling without noise (section 4.1)."""
    sides = (height, width)
    back = (torch.eye(3), *(upsampling_matrix(n, factor) for n in sides))
    return Separable(torch.eye(3), *(bicubic_matrix(n, factor) for n in sides), back=back)  # type: ignore[arg-type]


def deblurring(height: int, width: int, taps: Tensor, noise: float = NOISE) -> Separable:
    """Blur with the same taps along rows and columns, and noise (section 4.2)."""
    return Separable(torch.eye(3), *(blur_matrix(n, taps) for n in (height, width)), noise=noise)


def colorization(height: int, width: int) -> Separable:
    """The mean of the three colours (section 4.3), whose adjoint is a third of the replication described there."""
    eye = torch.eye(height), torch.eye(width)
    return Separable(torch.full((1, 3), 1 / 3), *eye, back=(torch.ones(3, 1), *eye))


TASKS = {
    "sr4": "super-resolution x4",
    "sr8": "super-resolution x8",
    "box": "5 x 5 box blur, noise 10",
    "gauss": "Gaussian blur of sigma 2, noise 10",
    "colour": "colorization",
}


def operator(task: str, height: int, width: int) -> Separable:
    """The measurement of one of `TASKS` for images of that size; other factors and boxes by number: "sr2", "box9"."""
    kind = task.rstrip("0123456789")
    number = int(task.removeprefix(kind) or 5)
    makers: dict[str, Callable[[], Separable]] = {
        "sr": lambda: super_resolution(height, width, number),
        "box": lambda: deblurring(height, width, box_taps(number)),
        "gauss": lambda: deblurring(height, width, gaussian_taps(2.0)),
        "colour": lambda: colorization(height, width),
    }
    if kind not in makers:
        raise ReproError(f"unknown task {task!r}: choose one of {', '.join(TASKS)}")
    return makers[kind]()


def _apply(x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
    c, h, w = (m.to(x) for m in matrices)
    return torch.einsum("ac,nchw->nahw", c, h @ x @ w.T)


def _check(x: Tensor, shape: tuple[int, ...], what: str) -> None:
    if x.ndim != 4 or tuple(x.shape[1:]) != tuple(shape):
        raise ReproError(f"the operator takes {what} of (B, {', '.join(map(str, shape))}): got {tuple(x.shape)}")
