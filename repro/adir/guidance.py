"""Measurements y = A x + e of images x (B, 3, H, W) in [-1, 1], and guidance by them: ADIR's Algorithm 1.

Every operator of the paper (eq. 1, sections 4.1 to 4.3) acts separately on channels, rows and columns: A, its transpose
and its singular value decomposition are products of three small matrices each.

Each reverse step of a plain diffusion network is moved towards images that explain y: x_{t-1} is drawn from
N(mu + s Sigma g, Sigma) with g = -2 A^T (A mu - y_t), y_t = sqrt(alpha_bar_t) y + sqrt(1 - alpha_bar_t) A eps (eqs. 10,
16, 17). The network is never differentiated. In the same notation: Kawar et al., "Denoising Diffusion Restoration
Models", and Chung et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.ddpm.oracles import GaussianData, sampler_moments
from repro.ddpm.process import Model, Schedule, linear
from repro.ddpm.samplers import Guide, Step, ancestral, spaced
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of, within

Transpose = Literal["adjoint", "upsampling"]
NOISE = 10 / 127.5  # the paper's sigma = 10 of the 0 to 255 scale, in units of [-1, 1]
ETA, STEPS = 0.85, 20  # the published settings of DDRM, whose eta_b is 1
SMALLEST = 3e-2  # singular values below it count as 0, as in DDRM's code


@dataclass(frozen=True)
class Separable:
    """A = a matrix on channels, one on rows, one on columns, and perhaps a mask of the result.

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
        return self._masked(_apply(x, (self.channels, self.rows, self.columns)))

    def measure(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """y = A x + e for x (B, 3, H, W) in [-1, 1]; e is drawn from `noise`."""
        y = self.A(x)
        return y + self.noise * noise.normal(tuple(y.shape[1:])).to(y) if self.noise else y

    def transpose(self, y: Tensor, kind: Transpose = "adjoint") -> Tensor:
        """(B, *measurement) -> (B, *image)."""
        return _apply(self._masked(y), self._back(kind))

    def pseudo_inverse(self, y: Tensor, smallest: float = SMALLEST) -> Tensor:
        """(B, *measurement) -> (B, *image); singular values below `smallest` count as 0."""
        s = self.singular_values
        return self.V(torch.where(s > smallest, 1 / s.clamp(min=smallest), 0).to(y) * self.Ut(y))

    def eigenvalue(self, kind: Transpose = "adjoint") -> float:
        """The largest eigenvalue of transpose times A; under a mask, a bound on it."""
        pairs = zip(self._back(kind), (self.channels, self.rows, self.columns), strict=True)
        return math.prod(float(torch.linalg.eigvals((a @ b).double()).abs().max()) for b, a in pairs)

    def _masked(self, y: Tensor) -> Tensor:
        return y if self.mask is None else y * self.mask.to(y)

    def _back(self, kind: Transpose) -> tuple[Tensor, Tensor, Tensor]:
        return (kind == "upsampling" and self.back) or (self.channels.T, self.rows.T, self.columns.T)

    @cached_property
    def _svd(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:  # of each matrix: A = U S V^T
        if self.mask is not None:
            raise ReproError("a masked measurement has no singular value decomposition here: it is guided by A alone")
        return tuple(torch.linalg.svd(m.double(), full_matrices=True) for m in (self.channels, self.rows, self.columns))

    @cached_property
    def singular_values(self) -> Tensor:
        """(*image) of A."""
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
    pairs = zip((outer.channels, outer.rows, outer.columns), (inner.channels, inner.rows, inner.columns), strict=True)
    return Separable(*(a @ b for a, b in pairs), noise=outer.noise, mask=outer.mask)


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


@dataclass(frozen=True)
class Guidance:
    """How the measurement moves a step. The defaults are Algorithm 1, `DPS` is another choice of the same.

    Args:
        scale: s; 0 samples the prior alone. The paper has 10, at 1000 steps.
        transpose: A's adjoint, or the upsampling that the paper describes: 16 times stronger for x4, 64 times for x8.
        gradient: "surrogate": eq. 17. "exact": eq. 15, through the network. "unsquared": eq. 15 with the norm in the
            place of its square, as the code of DPS has it. "naive": x0_hat(x_t) = x_t.
        weighted: whether the gradient is multiplied by the step's variance Sigma.
        at: where the gradient is taken: "mean", mu of the step; or "x_t", as guided-diffusion does.
        level: alpha_bar of y_t: of the step's own "t", or of the "previous" step that mu belongs to.
        clip: whether mu is made of the clean estimate cut to [-1, 1] (guided-diffusion does, eq. 5 does not).
        limit: largest s Sigma lambda, lambda being the largest eigenvalue of transpose times A; s is scaled down where
            it would exceed it. A step multiplies A mu - y_t by 1 - 2 s Sigma lambda: divergent from 1 on.
    """

    scale: float = 10.0
    transpose: Transpose = "upsampling"
    gradient: Literal["surrogate", "exact", "unsquared", "naive"] = "surrogate"
    weighted: bool = True
    at: Literal["mean", "x_t"] = "mean"
    level: Literal["t", "previous"] = "t"
    clip: bool = True
    limit: float = 0.5

    def __post_init__(self) -> None:
        for field in (field for field in fields(self) if get_args(field.type)):
            one_of(f"guidance {field.name}", getattr(self, field.name), get_args(field.type))
        within("guidance scale s", self.scale, 0, math.inf)
        if not (0 < self.limit < 1 or self.limit == math.inf):
            raise ReproError(f"guidance diverges from s Sigma lambda = 1 on: a limit lies in (0, 1), got {self.limit}")


# DPS, algorithm 1 as its code has it: a step of the prior, then -grad ||y - A x0_hat(x_t)|| through the network.
DPS = Guidance(scale=1.0, gradient="unsquared", weighted=False, at="x_t", limit=math.inf)


def guide(model: Model, y: Tensor, operator: Separable, schedule: Schedule, settings: Guidance) -> Guide:
    """s g for a step's mean, scaled down where s Sigma lambda would exceed the limit."""
    strongest = operator.eigenvalue(settings.transpose)

    def move(x: Tensor, t: Tensor, step: Step) -> Tensor:
        a, s = step.a, step.s
        if settings.level == "previous":
            ab = float(schedule.alpha_bar[step.t_prev]) if step.t_prev >= 0 else 1.0
            a, s = ab**0.5, (1 - ab) ** 0.5
        if settings.gradient in ("surrogate", "naive"):  # eq. 16, step.output being eps; eq. 17
            y_t = y if settings.gradient == "naive" else a * y + s * operator.A(step.output)
            g = -2 * operator.transpose(operator.A(x) - y_t, settings.transpose)
        else:  # eq. 15, by automatic differentiation
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                x0_hat = (x - s * model(x, t)[:, : x.shape[1]]) / a
                error = (operator.A(x0_hat) - y).square().flatten(1).sum(dim=1)  # (B,)
                error = error if settings.gradient == "exact" else error.sqrt()
                g = -torch.autograd.grad(error.sum(), x)[0]
        variance = torch.as_tensor(step.variance, dtype=None if torch.is_tensor(step.variance) else torch.float64)
        largest = variance.amax(dim=(1, 2, 3), keepdim=True) if variance.ndim else variance
        weight = (settings.limit / (largest * strongest).clamp(min=1e-30)).clamp(max=settings.scale)
        return weight * g if settings.weighted else weight * g / variance  # the sampler multiplies by it

    return move


def reconstruct(
    model: Model, y: Tensor, op: Separable, schedule: Schedule, noise: KeyedNoise, settings: Guidance, steps: int = 250
) -> Iterator[Step]:
    """Algorithm 1: the steps of a reconstruction of x from y, one measurement an image, the last one holding it in `.x`
    (B, 3, H, W); `model`: (x, t) -> noise and variance, (B, 6, H, W)."""
    x_T = noise.normal(op.image, step=schedule.T).to(y)
    times, move = spaced(schedule.T, steps, "linspace"), guide(model, y, op, schedule, settings)
    options = {"variance": "learned_range", "clip": settings.clip, "guide_at": settings.at}
    return ancestral(model, x_T, schedule, noise, times, guide=move, **options)  # type: ignore[arg-type]


def ddrm(
    model: Model, y: Tensor, op: Separable, schedule: Schedule, noise: KeyedNoise, steps: int = STEPS
) -> Iterator[tuple[Tensor, Tensor]]:
    """(state, clean estimate) of each step, both (B, 3, H, W); the last state is the result (DDRM, eqs. 4 to 8).

    Each coordinate in A's right singular vectors is measured alone, with noise of sigma / singular value, or not at
    all. States are scaled as x_t / sqrt(alpha_bar_t), noise level sqrt(1 - alpha_bar_t) / sqrt(alpha_bar_t).
    """
    ts = spaced(schedule.T, steps, "linspace")
    ab = [float(schedule.alpha_bar[t]) for t in ts]
    level = [((1 - a) / a) ** 0.5 for a in ab] + [0.0]
    singular = op.singular_values.to(y)
    known, singular = singular > SMALLEST, singular.clamp(min=SMALLEST)
    y_bar = torch.where(known, op.Ut(y) / singular, 0)
    floor = torch.where(known, op.noise / singular, torch.inf)  # noise of y_bar
    below = known & (floor <= level[0])
    spread = torch.where(below, (level[0] ** 2 - floor**2).clamp(min=0), level[0] ** 2).sqrt()
    x_bar = torch.where(below, y_bar, 0) + spread * noise.normal(op.image, step=schedule.T).to(y)  # eq. 7
    for i, t in enumerate(ts):
        x = op.V(x_bar)
        with torch.no_grad():
            eps = model(x * ab[i] ** 0.5, torch.full((len(x),), t))[:, : x.shape[1]]
        x0 = (x - level[i] * eps).clamp(-1, 1)
        clean, now, before = op.Vt(x0), level[i + 1], level[i]
        drift = (1 - ETA**2) ** 0.5 * now
        unknown = clean + drift * (x_bar - clean) / before
        noisy = clean + drift * (y_bar - clean) / floor.clamp(min=1e-12)
        mean = torch.where(known, torch.where(floor > now, noisy, y_bar), unknown)
        sigma = torch.where(known & (floor <= now), (now**2 - floor**2).clamp(min=0).sqrt(), ETA * now)
        x_bar = mean + sigma * noise.normal(op.image, step=t).to(y) if now > 0 else mean
        yield op.V(x_bar), x0


# -- where the answer is known: a Gaussian prior and a linear measurement, whose posterior is a Gaussian too. Gaussian
# data's denoiser is linear, so guided sampling produces a Gaussian as well: its moments are computed without a sample.

SHAPE, D = (3, 4, 4), 48


def gaussian() -> GaussianData:
    """Zero-mean images of `SHAPE` whose neighbouring pixels and colours go together."""
    where = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in SHAPE), indexing="ij"), -1).reshape(-1, 3)
    return GaussianData(torch.zeros(SHAPE), 0.2 * torch.exp(-torch.cdist(where, where) / 2), linear())


def halved() -> Separable:
    """The mean of each 2 x 2 square."""
    half = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    return Separable(torch.eye(3), half, half, back=(torch.eye(3), 2 * half.T, 2 * half.T))


def measurement(seed: int = 0) -> Tensor:
    """(1, 3, 2, 2) of an image drawn from the prior."""
    z = KeyedNoise(seed, [0], "adir/oracle").normal((D,)).double()[0]
    x = torch.linalg.cholesky(gaussian().covariance) @ z  # unique, as eigenvectors are not
    return halved().A(x.float().reshape(1, *SHAPE))


def posterior(data: GaussianData, operator: Separable, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of x given y (1, …)."""
    A = operator.A(torch.eye(D).reshape(D, *SHAPE)).reshape(D, -1).T.double()
    C = data.covariance
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + operator.noise**2 * torch.eye(len(A)).double())
    return gain @ y.flatten().double(), C - gain @ A @ C


def guided(data: GaussianData, operator: Separable, y: Tensor, settings: Guidance, steps: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of what guided sampling produces in that many steps."""
    model, times = data.model(), spaced(data.schedule.T, steps, "linspace")
    move = guide(model, y.double(), operator, data.schedule, settings)
    options = {"variance": "fixed_small", "clip": False, "guide": move, "guide_at": settings.at}
    run = lambda x_T, noise: ancestral(model, x_T, data.schedule, noise, times, **options)  # noqa: E731
    return sampler_moments(run, SHAPE, steps)[-1][1:]


def distance(settings: Guidance, steps: int, seed: int = 0) -> tuple[float, float]:
    """How far guided sampling is from the posterior: error of the mean over the mean's norm, and relative difference of
    the total standard deviations; beyond 1e6 both count as 1e6."""
    given = gaussian(), halved(), measurement(seed)
    (mean, covariance), (found, spread) = posterior(*given), guided(*given, settings, steps)
    wide = [c.diagonal().clamp(min=0).sum().sqrt() for c in (covariance, spread)]
    errors = float((found - mean).norm() / mean.norm()), float((wide[1] - wide[0]).abs() / wide[0])
    return tuple(min(e, 1e6) if math.isfinite(e) else 1e6 for e in errors)  # type: ignore[return-value]
