"""The forward process, its posterior, and the three things a network can predict: noise, sample, velocity.

With a = sqrt(alpha_bar_t), s = sqrt(1 - alpha_bar_t): x_t = a x0 + s eps, v = a eps - s x0 (Salimans and Ho 2022,
"Progressive Distillation for Fast Sampling of Diffusion Models", Appendix D). All of it is elementwise, so any shape
(B, …) works, and `a`, `s` are numbers or tensors that broadcast to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro.ddpm.schedules import Schedule
from repro.errors import ReproError

Kind = Literal["epsilon", "sample", "v_prediction"]  # diffusers' names
KINDS: tuple[Kind, ...] = ("epsilon", "sample", "v_prediction")

Model = Callable[[Tensor, Tensor], Tensor]  # (x (B, C, H, W), t (B,) int64) -> (B, C, H, W), or 2C with a variance head


# -- forward ----------------------------------------------------------------------------------------------------------


def q_sample(x0: Tensor, t: Tensor | int, eps: Tensor, schedule: Schedule) -> Tensor:
    """x_t given x0 in one jump (DDPM Eq. 4 in the form of Section 3.2). t is (B,) or one number."""
    a, s = schedule.at(t, x0)
    return a * x0 + s * eps


def q_step(x_prev: Tensor, t: Tensor | int, eps: Tensor, schedule: Schedule) -> Tensor:
    """One forward step from t - 1 to t (DDPM Eq. 2); t = 0 starts from the data."""
    beta = schedule.gather("betas", t, x_prev)
    return (1 - beta).sqrt() * x_prev + beta.sqrt() * eps


def q_posterior(x0: Tensor, x_t: Tensor, t: Tensor | int, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_{t-1} given x_t and x0 (DDPM Eq. 6-7); at t = 0 the mean is x0 and the variance 0.

    Returns the mean (B, …) and the variance (B, 1, …, 1).
    """
    mean = schedule.gather("posterior_x0", t, x0) * x0 + schedule.gather("posterior_xt", t, x0) * x_t
    return mean, schedule.gather("posterior_variance", t, x0)


# -- conversions ------------------------------------------------------------------------------------------------------


def x0_from_eps(x_t: Tensor, eps: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """DDPM Eq. 15. Undefined where a = 0: there x_t is the noise and says nothing about x0."""
    return (x_t - s * eps) / _signal(a, "the sample from the noise")


def x0_from_v(x_t: Tensor, v: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """Salimans and Ho 2022, Appendix D; finite at every noise level."""
    return a * x_t - s * v


def eps_from_x0(x_t: Tensor, x0: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """The noise that x_t must hold if x0 is the sample; s > 0 at every step of a schedule."""
    return (x_t - a * x0) / s


def eps_from_v(x_t: Tensor, v: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """Finite at every noise level."""
    return s * x_t + a * v


def v_from_x0_eps(x0: Tensor, eps: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """The definition, used as a training target."""
    return a * eps - s * x0


def v_from_x0(x_t: Tensor, x0: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """From a^2 + s^2 = 1: v = (a x_t - x0) / s."""
    return (a * x_t - x0) / s


def v_from_eps(x_t: Tensor, eps: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """From a^2 + s^2 = 1: v = (eps - s x_t) / a. Undefined where a = 0, as x0 is."""
    return (eps - s * x_t) / _signal(a, "the velocity from the noise")


def _signal(a: Tensor | float, what: str) -> Tensor | float:
    if bool((a == 0).any() if isinstance(a, Tensor) else a == 0):
        raise ReproError(
            f"{what} is undefined where alpha_bar is 0 (zero terminal SNR): predict 'v_prediction' or 'sample'"
        )
    return a


@dataclass(frozen=True)
class Prediction:
    """One statement of a network in all three forms: x_t = a x0 + s eps holds between them."""

    x0: Tensor
    eps: Tensor
    v: Tensor

    @classmethod
    def of(cls, kind: Kind, output: Tensor, x_t: Tensor, t: Tensor | int, schedule: Schedule) -> Prediction:
        """Read a network's output (B, …) at (x_t, t) as what it was trained to predict."""
        a, s = schedule.at(t, x_t)
        check_kind(kind)
        if kind == "epsilon":
            return cls(x0_from_eps(x_t, output, a, s), output, v_from_eps(x_t, output, a, s))
        if kind == "sample":
            return cls(output, eps_from_x0(x_t, output, a, s), v_from_x0(x_t, output, a, s))
        return cls(x0_from_v(x_t, output, a, s), eps_from_v(x_t, output, a, s), output)

    def output(self, kind: Kind) -> Tensor:
        """The form a network trained for `kind` would have given."""
        return {"epsilon": self.eps, "sample": self.x0, "v_prediction": self.v}[check_kind(kind)]


def target(kind: Kind, x0: Tensor, eps: Tensor, t: Tensor | int, schedule: Schedule) -> Tensor:
    """What the network should have said about x_t = q_sample(x0, t, eps); exact at every t, zero terminal SNR too."""
    check_kind(kind)
    if kind == "epsilon":
        return eps
    if kind == "sample":
        return x0
    return v_from_x0_eps(x0, eps, *schedule.at(t, x0))


def check_kind(kind: str) -> Kind:
    """Refuse a prediction type that does not exist."""
    if kind not in KINDS:
        raise ReproError(f"prediction type {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    return kind  # type: ignore[return-value]


def model_fn(module: nn.Module, *args: Any, **kwargs: Any) -> Model:
    """A diffusers-style module as a plain function (x, t) -> tensor; `args` and `kwargs` (conditions) go along."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        out = module(x, t, *args, **kwargs)
        return out if isinstance(out, torch.Tensor) else out.sample

    return call
