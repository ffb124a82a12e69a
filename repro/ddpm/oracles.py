"""Where the exact answer is known: ideal denoisers, Gaussian data, and the distribution a sampler really produces.

A network trained to perfection gives E[x0 | x_t]. For a finite data set and for Gaussian data that is a formula: it
tests schedules, losses, samplers and guidance without a network, and a notebook shows what a network that memorises
would do. Computed in float64, returned in the type of the input.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from repro.ddpm.process import KINDS, Kind, Model, Schedule, from_x0
from repro.ddpm.samplers import Noise, Step
from repro.errors import one_of


class Oracle:
    """A known E[x0 | x_t]; subclasses have the `schedule` and write `x0(x, t)`, in x's shape and type."""

    schedule: Schedule
    x0: Callable[[Tensor, Tensor | int], Tensor]

    def model(self, prediction: Kind = "epsilon") -> Model:
        """The output of a perfect network; the predicted noise E[eps | x_t = x] is -s times the score of x_t."""
        one_of("prediction type", prediction, KINDS)

        def output(x: Tensor, t: Tensor | int) -> Tensor:
            wide = x.double()
            return from_x0(prediction, wide, self.x0(wide, t), *self.schedule.at(t, wide)).to(x.dtype)

        return output


class FiniteData(Oracle):
    """The ideal denoiser of a finite data set (N, …), all points equally likely; its samples are the data (Karras et
    al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", Appendix B.3)."""

    def __init__(self, data: Tensor, schedule: Schedule) -> None:
        self.points = data.detach().flatten(1).double()  # (N, D)
        self.norms = (self.points**2).sum(1)  # (N,)
        self.shape, self.schedule = data.shape[1:], schedule

    def x0(self, x: Tensor, t: Tensor | int) -> Tensor:
        flat = x.flatten(1).double()
        a, s = self.schedule.at(t, flat)  # (B, 1)
        # log p(point | x_t = x), (B, N): -|x - a d|^2 / (2 s^2) without the part that all points share
        log_p = torch.log_softmax((a * (flat @ self.points.T) - 0.5 * a**2 * self.norms) / s**2, dim=1)
        return (log_p.exp() @ self.points).reshape(x.shape).to(x.dtype)

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Index (B,) of the closest point and the root mean square distance (B,) to it."""
        flat = x.flatten(1).double()
        index = (self.norms - 2 * flat @ self.points.T).argmin(1)
        return index, ((flat - self.points[index]) ** 2).mean(1).sqrt()


class GaussianData(Oracle):
    """Data N(mean, covariance): x_t is Gaussian at every t, N(a mean, a^2 covariance + s^2 I), and the denoiser linear.

    `mean` has one sample's shape, D numbers; `covariance` (D, D), positive semidefinite: zero means one data point.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, schedule: Schedule) -> None:
        self.mean, self.covariance = mean.detach().double().flatten(), covariance.detach().double()
        values, self.axes = torch.linalg.eigh(self.covariance)
        self.values, self.schedule = values.clamp(min=0), schedule  # rounding can leave -1e-17

    def x0(self, x: Tensor, t: Tensor | int) -> Tensor:
        flat = x.flatten(1).double()
        a, s = self.schedule.at(t, flat)  # (B, 1)
        along = (flat - a * self.mean) @ self.axes  # (B, D) coordinates on the covariance's axes
        along = along * (a * self.values / (a**2 * self.values + s**2))
        return (self.mean + along @ self.axes.T).reshape(x.shape).to(x.dtype)


def sampler_moments(
    run: Callable[[Tensor, Noise], Iterable[Step]], shape: tuple[int, ...], draws: int
) -> list[tuple[int, Tensor, Tensor]]:
    """The exact Gaussian a sampler produces for a linear denoiser, no Monte Carlo: (t_prev, mean, covariance) per step.

    With a linear model (`GaussianData`, no clipping) the state is an affine function of x_T and of every noise drawn.
    One batch runs the sampler on zeros and on each unit vector of x_T and of the noises: the columns of the linear map.
    `run`: (x_T (B, *shape), noise) -> the sampler's steps, `draws` of which may draw noise; `shape` of one sample.
    """
    D = torch.Size(shape).numel()
    size = 1 + D * (1 + draws)  # of the batch
    firsts = iter(range(1, size, D))

    def units(*_: Any) -> Tensor:
        """The next D members are the unit vectors."""
        z, first = torch.zeros(size, D, dtype=torch.float64), next(firsts)
        z[first : first + D] = torch.eye(D, dtype=torch.float64)
        return z.reshape(size, *shape)

    moments = []
    for step in run(units(), units):
        flat = step.x.flatten(1)
        columns = flat[1:] - flat[0]  # (size - 1, D)
        moments.append((step.t_prev, flat[0].clone(), columns.T @ columns))
    return moments


def chain_vs_closed_form(schedule: Schedule) -> dict[str, float]:
    """Largest absolute differences over all t between the chain of single steps and the closed forms (float64).

    "mean", "variance": x_t given x0 by repeating x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) eps (DDPM Eq. 2), against
    sqrt(alpha_bar) and 1 - alpha_bar (Eq. 4). "posterior_mean", "posterior_variance": x_{t-1} given x_t and x0 by
    conditioning the joint Gaussian of that chain, against Eq. 6-7. "noise": the standardised noise that the chain reads
    off x_t = a x0 + s eps, against eps, which is what the network has to predict (Eq. 11-12, 14).
    """
    worst: dict[str, float] = {}
    closed = (schedule.betas, schedule.a, 1 - schedule.alpha_bar, schedule.posterior_x0, schedule.posterior_xt)
    closed = zip(*(table.tolist() for table in (*closed, schedule.posterior_variance)), strict=True)
    scale, variance = 1.0, 0.0  # x_{t-1} = scale x0 + noise of that variance
    for beta, a, s2, c_x0, c_xt, tilde in closed:
        keep = (1 - beta) ** 0.5
        scale_t, variance_t = keep * scale, keep**2 * variance + beta
        gain = keep * variance / variance_t  # Cov(x_{t-1}, x_t) / Var(x_t)
        differences = {
            "mean": scale_t - a,
            "variance": variance_t - s2,
            # E[x_{t-1} | x_t, x0] = scale x0 + gain (x_t - scale_t x0)
            "posterior_mean": max(abs(scale - gain * scale_t - c_x0), abs(gain - c_xt)),
            "posterior_variance": variance - gain**2 * variance_t - tilde,
            # (x_t - scale_t x0) / sqrt(variance_t) = "0" x0 + "1" eps
            "noise": max(abs(a - scale_t), abs(s2**0.5 - variance_t**0.5)) / variance_t**0.5,
        }
        worst = {key: max(worst.get(key, 0.0), abs(value)) for key, value in differences.items()}
        scale, variance = scale_t, variance_t
    return worst
