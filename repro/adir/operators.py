"""Measurements y = A x + e of images x (B, 3, H, W) in [-1, 1], with A's adjoint, its singular values, and the noise.

Every operator of the paper (eq. 1, sections 4.1 to 4.3) acts separately on channels, rows and columns, so each is three
small matrices: A, its transpose and its singular value decomposition are products of theirs.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

Transpose = Literal["adjoint", "upsampling"]
NOISE = 10 / 127.5  # the paper's sigma = 10 of the 0 to 255 scale, in units of [-1, 1]
SMALLEST = 3e-2  # singular values below it count as 0, as in DDRM's code


@dataclass(frozen=True)
class Separable:
    """A = a matrix on channels, one on rows, one on columns; what a mask covers of the result is not seen.

    Args:
        channels: (c', 3).   rows: (h', H).   columns: (w', W).   noise: sigma of e, on the scale of [-1, 1].
        back: three matrices (3, c'), (H, h'), (W, w') used as "upsampling" in the place of A's transpose: for
            downsampling the interpolation, for the mean of colours replication. None: the transpose itself.
        mask: (h', w') of 0 and 1, None: all 1.
    """

    channels: Tensor
    rows: Tensor
    columns: Tensor
    noise: float = 0.0
    back: tuple[Tensor, Tensor, Tensor] | None = None
    mask: Tensor | None = None

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
        return self._seen(_apply(x, (self.channels, self.rows, self.columns)))

    def measure(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """y = A x + e for x (B, 3, H, W) in [-1, 1]; e is drawn from `noise`."""
        y = self.A(x)
        return y + self.noise * noise.normal(tuple(y.shape[1:])).to(y) if self.noise else y

    def transpose(self, y: Tensor, kind: Transpose = "adjoint") -> Tensor:
        """(B, *measurement) -> (B, *image)."""
        return _apply(self._seen(y), self._back(kind))

    def pseudo_inverse(self, y: Tensor, smallest: float = SMALLEST) -> Tensor:
        """(B, *measurement) -> (B, *image); singular values below `smallest` count as 0."""
        s = self.singular_values
        return self.V(torch.where(s > smallest, 1 / s.clamp(min=smallest), 0).to(y) * self.Ut(y))

    def eigenvalue(self, kind: Transpose = "adjoint") -> float:
        """The largest eigenvalue of transpose times A; under a mask, a bound on it."""
        pairs = zip(self._back(kind), (self.channels, self.rows, self.columns), strict=True)
        return math.prod(float(torch.linalg.eigvals((a @ b).double()).abs().max()) for b, a in pairs)

    def _seen(self, y: Tensor) -> Tensor:
        return y if self.mask is None else y * self.mask.to(y)

    def _back(self, kind: Transpose) -> tuple[Tensor, Tensor, Tensor]:
        upsampled = self.back if kind == "upsampling" else None
        return upsampled or (self.channels.T, self.rows.T, self.columns.T)

    @cached_property
    def _svd(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:  # of each matrix: A = U S V^T
        if self.mask is not None:
            raise ReproError("a masked measurement has no singular value decomposition here: it is guided by A alone")
        return tuple(torch.linalg.svd(m.double(), full_matrices=True) for m in (self.channels, self.rows, self.columns))

    @cached_property
    def singular_values(self) -> Tensor:
        """(*image) of A; 0 where A sees nothing."""
        padded = (F.pad(s, (0, n - len(s))) for (_, s, _), n in zip(self._svd, self.image, strict=True))
        return torch.einsum("c,h,w->chw", *padded).float()

    def Vt(self, x: Tensor) -> Tensor:
        """(B, *image) -> its coordinates in A's right singular vectors."""
        return _apply(x, tuple(vt for _, _, vt in self._svd))

    def V(self, x: Tensor) -> Tensor:
        """The inverse of `Vt`."""
        return _apply(x, tuple(vt.T for _, _, vt in self._svd))

    def Ut(self, y: Tensor) -> Tensor:
        """(B, *measurement) -> its coordinates in A's left singular vectors, padded with zeros to (B, *image)."""
        z = _apply(y, tuple(u.T for u, _, _ in self._svd))
        c, h, w = (n - n_y for n, n_y in zip(self.image, self.measurement, strict=True))
        return F.pad(z, (0, w, 0, h, 0, c))


def compose(outer: Separable, inner: Separable) -> Separable:
    """A = outer after inner, e.g. a blur and then a smaller size; mask and noise are the outer one's."""
    if inner.mask is not None:
        raise ReproError("a mask comes last: this composition has one inside")
    pairs = zip((outer.channels, outer.rows, outer.columns), (inner.channels, inner.rows, inner.columns), strict=True)
    return Separable(*(a @ b for a, b in pairs), noise=outer.noise, mask=outer.mask)


# -- the paper's measurements


def bicubic_matrix(n: int, size: int) -> Tensor:
    """(size, n) torch's antialiased bicubic interpolation, which is Pillow's: a = -0.5, normalised at the border."""
    unit = torch.eye(n, dtype=torch.float64)[None, None]
    return F.interpolate(unit, size=(size, n), mode="bicubic", antialias=True)[0, 0].float()


def blur_matrix(n: int, taps: Tensor) -> Tensor:
    """(n, n) convolution with an odd number of `taps`, the image mirrored at its border (its edge not repeated)."""
    reach = len(taps) // 2
    if len(taps) % 2 == 0 or reach >= n:
        raise ReproError(f"a blur needs an odd number of taps, less than twice the side: got {len(taps)} for {n}")
    mirrored = F.pad(torch.eye(n)[None], (reach, reach), mode="reflect")[0]  # row j: where pixel j appears
    return mirrored.unfold(1, len(taps), 1).mul(taps.float()).sum(dim=2).T


TASKS = {
    "sr4": "super-resolution x4",
    "sr8": "super-resolution x8",
    "box": "5 x 5 box blur, noise 10",
    "gauss": "Gaussian blur of sigma 2, noise 10",
    "colour": "colorization",
}


def operator(task: str, height: int, width: int | None = None) -> Separable:
    """The measurement of one of `TASKS` for images of that size (square without a width); other factors and boxes by
    number: "sr2", "box9"."""
    kind = task.rstrip("0123456789")
    number, colours, sides = int(task.removeprefix(kind) or 5), torch.eye(3), (height, width or height)
    if kind == "sr":  # section 4.1: bicubic downsampling without noise
        if number < 1 or any(n % number for n in sides):
            raise ReproError(f"downsampling by {number} needs sides that are multiples of it: got {sides}")
        down, up = zip(*((bicubic_matrix(n, n // number), bicubic_matrix(n // number, n)) for n in sides), strict=True)
        return Separable(colours, *down, back=(colours, *up))
    if kind in ("box", "gauss"):  # section 4.2: the same blur along rows and columns, and noise
        bell = torch.exp(-0.5 * (torch.arange(-6, 7, dtype=torch.float64) / 2) ** 2)  # sigma 2, out to three sigma
        taps = torch.full((number,), 1 / number) if kind == "box" else (bell / bell.sum()).float()
        return Separable(colours, *(blur_matrix(n, taps) for n in sides), noise=NOISE)
    if kind == "colour":  # section 4.3: the mean of the colours; its adjoint is a third of the replication named there
        same = tuple(map(torch.eye, sides))
        return Separable(torch.full((1, 3), 1 / 3), *same, back=(torch.ones(3, 1), *same))
    raise ReproError(f"unknown task {task!r}: choose one of {', '.join(TASKS)}")


def _apply(x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
    """The matrices on channels, rows and columns of (B, C, H, W)."""
    c, h, w = (m.to(x) for m in matrices)
    if x.shape[1:] != (shape := (c.shape[1], h.shape[1], w.shape[1])):
        raise ReproError(f"the operator takes (B, {', '.join(map(str, shape))}) here: got {tuple(x.shape)}")
    return torch.einsum("ac,nchw->nahw", c, h @ x @ w.T)
