"""Guidance by a measurement: ADIR's Algorithm 1 and what it could have been instead.

Each reverse step of a plain diffusion network is moved towards images that explain y: x_{t-1} is drawn from
N(mu + s Sigma g, Sigma) with g = -2 A^T (A mu - y_t), y_t = sqrt(alpha_bar_t) y + sqrt(1 - alpha_bar_t) A eps (eqs. 10,
16, 17). The network is never differentiated. In the same notation: Kawar et al., "Denoising Diffusion Restoration
Models", and Chung et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from repro.adir.operators import SMALLEST, Separable, Transpose
from repro.ddpm.oracles import GaussianData, sampler_moments
from repro.ddpm.process import Model, Schedule, linear
from repro.ddpm.samplers import Guide, Step, ancestral, spaced
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of

Gradient = Literal["surrogate", "exact", "unsquared", "naive"]
At = Literal["mean", "x_t"]
Level = Literal["t", "previous"]
ETA, STEPS = 0.85, 20  # the published settings of DDRM, whose eta_b is 1


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
    gradient: Gradient = "surrogate"
    weighted: bool = True
    at: At = "mean"
    level: Level = "t"
    clip: bool = True
    limit: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (("gradient", Gradient), ("transpose", Transpose), ("at", At), ("level", Level)):
            one_of(f"guidance {name}", getattr(self, name), get_args(known))
        if not self.scale >= 0:
            raise ReproError(f"the guidance scale s must be 0 or more: got {self.scale}")
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
        weight, variance = settings.scale, step.variance
        if settings.limit < math.inf and torch.is_tensor(variance):
            largest = variance.amax(dim=(1, 2, 3), keepdim=True)
            weight = (settings.limit / (largest * strongest)).clamp(max=weight)
        elif settings.limit < math.inf:
            weight = min(settings.limit / max(variance * strongest, 1e-30), weight)
        return weight * g if settings.weighted else weight * g / variance  # the sampler multiplies by it

    return move


def reconstruct(
    model: Model,
    y: Tensor,
    operator: Separable,
    schedule: Schedule,
    noise: KeyedNoise,
    settings: Guidance,
    steps: int = 250,
) -> Iterator[Step]:
    """Algorithm 1: the steps of a reconstruction of x from y, one measurement an image, the last one holding it in `.x`
    (B, 3, H, W); `model`: (x, t) -> noise and variance, (B, 6, H, W)."""
    x_T = noise.normal(operator.image, step=schedule.T).to(y)
    times, move = spaced(schedule.T, steps, "linspace"), guide(model, y, operator, schedule, settings)
    options = {"variance": "learned_range", "clip": settings.clip, "guide_at": settings.at}
    return ancestral(model, x_T, schedule, noise, times, guide=move, **options)  # type: ignore[arg-type]


def ddrm(
    model: Model,
    y: Tensor,
    operator: Separable,
    schedule: Schedule,
    noise: KeyedNoise,
    steps: int = STEPS,
    smallest: float = SMALLEST,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(state, clean estimate) of each step, both (B, 3, H, W); the last state is the result (DDRM, eqs. 4 to 8).

    In the coordinates of A's right singular vectors each is seen alone, with noise of sigma / singular value, or not at
    all. States are scaled as x_t / sqrt(alpha_bar_t), noise level sqrt(1 - alpha_bar_t) / sqrt(alpha_bar_t).
    """
    ts = spaced(schedule.T, steps, "linspace")
    ab = [float(schedule.alpha_bar[t]) for t in ts]
    level = [((1 - a) / a) ** 0.5 for a in ab] + [0.0]
    singular = operator.singular_values.to(y)
    seen = singular > smallest
    y_bar = torch.where(seen, operator.Ut(y) / singular.clamp(min=smallest), 0)
    floor = torch.where(seen, operator.noise / singular.clamp(min=smallest), torch.inf)  # noise of y_bar
    below = seen & (floor <= level[0])
    spread = torch.where(below, (level[0] ** 2 - floor**2).clamp(min=0), level[0] ** 2).sqrt()
    x_bar = torch.where(below, y_bar, 0) + spread * noise.normal(operator.image, step=schedule.T).to(y)  # eq. 7
    for i, t in enumerate(ts):
        x = operator.V(x_bar)
        with torch.no_grad():
            eps = model(x * ab[i] ** 0.5, torch.full((len(x),), t))[:, : x.shape[1]]
        x0 = (x - level[i] * eps).clamp(-1, 1)
        clean, now, before = operator.Vt(x0), level[i + 1], level[i]
        drift = (1 - ETA**2) ** 0.5 * now
        unseen = clean + drift * (x_bar - clean) / before
        noisy = clean + drift * (y_bar - clean) / floor.clamp(min=1e-12)
        mean = torch.where(seen, torch.where(floor > now, noisy, y_bar), unseen)
        sigma = torch.where(seen & (floor <= now), (now**2 - floor**2).clamp(min=0).sqrt(), ETA * now)
        x_bar = mean + sigma * noise.normal(operator.image, step=t).to(y) if now > 0 else mean
        yield operator.V(x_bar), x0


# -- where the answer is known: a Gaussian prior and a linear measurement, whose posterior is a Gaussian too. Gaussian
# data's denoiser is linear, so guided sampling produces a Gaussian as well: its moments are computed without a sample.

SHAPE, D = (3, 4, 4), 48


def gaussian() -> GaussianData:
    """Zero-mean images of `SHAPE` whose neighbouring pixels and colours go together."""
    where = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in SHAPE), indexing="ij"), -1).reshape(-1, 3)
    return GaussianData(torch.zeros(SHAPE), 0.2 * torch.exp(-torch.cdist(where, where) / 2), linear())


def halved() -> Separable:
    """Each 2 x 2 square's mean: a quarter of the numbers are seen."""
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
