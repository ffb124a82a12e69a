"""The forward process, its posterior, and the three things a network can predict: noise, sample, velocity.

With a = sqrt(alpha_bar_t), s = sqrt(1 - alpha_bar_t): x_t = a x0 + s eps, v = a eps - s x0 (Salimans and Ho 2022,
"Progressive Distillation for Fast Sampling of Diffusion Models", Appendix D). All of it is elementwise, so any shape
(B, …) works, and `a`, `s` are numbers or tensors that broadcast to it.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro.ddpm.schedules import Schedule
from repro.errors import ReproError, one_of

Kind = Literal["epsilon", "sample", "v_prediction"]  # diffusers' names
KINDS: tuple[Kind, ...] = ("epsilon", "sample", "v_prediction")

Model = Callable[[Tensor, Tensor], Tensor]  # (x (B, C, H, W), t (B,) int64) -> (B, C, H, W), or 2C with a variance head


def q_sample(x0: Tensor, t: Tensor | int, eps: Tensor, schedule: Schedule) -> Tensor:
    """x_t given x0 in one jump (DDPM Eq. 4 in the form of Section 3.2). t is (B,) or one number."""
    a, s = schedule.at(t, x0)
    return a * x0 + s * eps


def q_posterior(x0: Tensor, x_t: Tensor, t: Tensor | int, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Mean (B, …) and variance (B, 1, …, 1) of x_{t-1} given x_t and x0 (DDPM Eq. 6-7); at t = 0 they are x0 and 0."""
    mean = schedule.gather("posterior_x0", t, x0) * x0 + schedule.gather("posterior_xt", t, x0) * x_t
    return mean, schedule.gather("posterior_variance", t, x0)


def target(kind: Kind, x0: Tensor, eps: Tensor, t: Tensor | int, schedule: Schedule) -> Tensor:
    """The target of the network's output at x_t = q_sample(x0, t, eps); exact at every t, zero terminal SNR too."""
    if one_of("prediction type", kind, KINDS) == "v_prediction":
        a, s = schedule.at(t, x0)
        return a * eps - s * x0
    return eps if kind == "epsilon" else x0


def from_x0(kind: Kind, x_t: Tensor, x0: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """The output that means x0: itself, eps = (x_t - a x0) / s, or v = (a x_t - x0) / s; s > 0 in a schedule."""
    if one_of("prediction type", kind, KINDS) == "sample":
        return x0
    return (x_t - a * x0) / s if kind == "epsilon" else (a * x_t - x0) / s


def to_x0(output: Tensor, x_t: Tensor, a: float, s: float, prediction: Kind) -> Tensor:
    """The sample by a network's output for x_t (DDPM Eq. 15 for noise, undefined where a = 0, which samplers refuse).

    `a`, `s` are plain numbers here and in `to_eps`, so that a step costs few operations.
    """
    if prediction == "epsilon":
        return torch.sub(x_t, output, alpha=s).div_(a)
    if prediction == "sample":
        return output
    return torch.mul(x_t, a).sub_(output, alpha=s)


def to_eps(output: Tensor, x_t: Tensor, a: float, s: float, prediction: Kind) -> Tensor:
    """The noise in x_t by a network's output."""
    if prediction == "epsilon":
        return output
    if prediction == "sample":
        return torch.sub(x_t, output, alpha=a).div_(s)
    return torch.mul(x_t, s).add_(output, alpha=a)


def prediction_part(output: Tensor, x_t: Tensor) -> Tensor:
    """The network's output without its variance head, where it has one that this sampler does not use."""
    channels = x_t.shape[1]
    if output.shape[1] == 2 * channels:
        output = output[:, :channels]
    if output.shape != x_t.shape:  # (B, 2, …) would broadcast against (B, 1, …) without a word
        raise ReproError(f"the network's output is {tuple(output.shape)} for a state of shape {tuple(x_t.shape)}")
    return output


def model_fn(module: nn.Module, *args: Any, **kwargs: Any) -> Model:
    """A diffusers-style module as a plain function (x, t) -> tensor; `args` and `kwargs` (conditions) go along."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        out = module(x, t, *args, **kwargs)
        return out if isinstance(out, torch.Tensor) else out.sample

    return call
