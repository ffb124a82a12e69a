"""Where the answer is known: a Gaussian prior and a linear measurement, whose posterior is a Gaussian too.

The denoiser of Gaussian data is linear, so guided sampling produces a Gaussian as well, and both means and covariances
can be computed without drawing a sample.
"""

import math

import torch
from torch import Tensor

from repro.adir.guidance import Guidance, guide
from repro.adir.operators import Separable
from repro.ddpm.oracles import GaussianData, sampler_moments
from repro.ddpm.samplers import ancestral, spaced
from repro.ddpm.schedules import linear
from repro.engine.rng import KeyedNoise

SHAPE = (3, 4, 4)
D = math.prod(SHAPE)


def prior() -> GaussianData:
    """Zero-mean images of `SHAPE` whose neighbouring pixels and colours go together."""
    where = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in SHAPE), indexing="ij"), -1).reshape(-1, 3)
    return GaussianData(torch.zeros(SHAPE), 0.2 * torch.exp(-torch.cdist(where, where) / 2), linear())


def halved() -> Separable:
    """Each 2 x 2 square's mean: a quarter of the numbers are seen."""
    half = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    return Separable(torch.eye(3), half, half, back=(torch.eye(3), 2 * half.T, 2 * half.T))


def measurement(seed: int = 0) -> Tensor:
    """(1, 3, 2, 2) of an image drawn from the prior."""
    data = prior()
    z = KeyedNoise(seed, [0], "adir/oracle").normal((D,)).double()[0]
    x = torch.linalg.cholesky(data.covariance) @ z  # unique, as eigenvectors are not
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
    data, op, y = prior(), halved(), measurement(seed)
    (mean, covariance), (found, spread) = posterior(data, op, y), guided(data, op, y, settings, steps)
    wide = [c.diagonal().clamp(min=0).sum().sqrt() for c in (covariance, spread)]
    errors = float((found - mean).norm() / mean.norm()), float((wide[1] - wide[0]).abs() / wide[0])
    return tuple(min(e, 1e6) if math.isfinite(e) else 1e6 for e in errors)  # type: ignore[return-value]
