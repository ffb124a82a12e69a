"""Training losses, one number per sample; the caller averages.

The simple loss is DDPM Eq. 14; learned-range variance (Eq. 15) and the hybrid loss (Eq. 16) are Improved DDPM's.
Likelihood terms are in bits per dimension, as in that paper's code: the weight 0.001 belongs to those units.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.ddpm.process import Kind, Model, q_posterior, q_sample, target
from repro.ddpm.schedules import Schedule
from repro.errors import ReproError, one_of


def simple(output: Tensor, expected: Tensor, norm: Literal["l1", "l2"] = "l2") -> Tensor:
    """(B,) mean absolute (l1) or squared (l2) difference; half-precision outputs are compared in float32."""
    if output.shape != expected.shape:
        raise ReproError(f"loss needs two tensors of one shape: got {tuple(output.shape)} and {tuple(expected.shape)}")
    measure = F.l1_loss if one_of("loss norm", norm, ("l1", "l2")) == "l1" else F.mse_loss
    return measure(output.to(expected.dtype), expected, reduction="none").flatten(1).mean(dim=1)


def simple_loss(
    model: Model,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    schedule: Schedule,
    prediction: Kind = "epsilon",
    norm: Literal["l1", "l2"] = "l2",
) -> Tensor:
    """(B,) the simple loss of a network at given steps t (B,) and noise eps (DDPM Eq. 14)."""
    output = model(q_sample(x0, t, eps, schedule), t)
    return simple(output, target(prediction, x0, eps, t, schedule), norm)


def split_variance(output: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """A two-headed output (B, 2C, …) into the prediction (B, C, …) and the variance number in [-1, 1] (B, C, …)."""
    if output.shape[1] != 2 * channels:
        raise ReproError(
            f"learned_range needs a network with {2 * channels} output channels, twice its input: got {output.shape[1]}"
        )
    return output[:, :channels], output[:, channels:]


def learned_range_log_variance(number: Tensor, t: Tensor | int, schedule: Schedule) -> Tensor:
    """log Sigma = v log beta_t + (1 - v) log beta_tilde_t with v = (number + 1) / 2 (Improved DDPM Eq. 15)."""
    v = (number + 1) / 2
    return v * schedule.gather("log_betas", t, number) + (1 - v) * schedule.gather("posterior_log_variance", t, number)


def discretized_nll(x0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """-log probability in nats of 8-bit values x0 in [-1, 1] under a Gaussian cut into 256 bins (DDPM Eq. 13).

    The two end bins reach to infinity, so the 256 probabilities sum to one. A bin far out in a tail is evaluated in the
    lower tail (by symmetry), where the difference of two cumulative values keeps its digits.
    """
    inverse = torch.exp(-0.5 * log_var)
    upper = inverse * (x0 - mean + 1 / 255)
    lower = inverse * (x0 - mean - 1 / 255)
    infinity = torch.full_like(upper, math.inf)
    upper = torch.where(x0 > 0.999, infinity, upper)
    lower = torch.where(x0 < -0.999, -infinity, lower)
    flip = lower > 0
    low, high = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    # erfc, since torch's ndtr is (1 + erf) / 2 and has no digits left in the lower tail either
    mass = 0.5 * (torch.erfc(high * -(0.5**0.5)) - torch.erfc(low * -(0.5**0.5)))
    return -torch.log(mass.clamp(min=1e-12))


def vlb_term(x0: Tensor, x_t: Tensor, t: Tensor, mean: Tensor, log_var: Tensor, schedule: Schedule) -> Tensor:
    """(B,) one term of the bound in bits per dimension (DDPM Eq. 5): L_{t-1} a KL, L_0 the decoder's NLL."""
    true_mean, _ = q_posterior(x0, x_t, t, schedule)
    low = schedule.gather("posterior_log_variance", t, x0)
    # of the true posterior from the network's Gaussian, in nats
    kl = 0.5 * (log_var - low + torch.exp(low - log_var) + (true_mean - mean) ** 2 * torch.exp(-log_var) - 1)
    first = (t == 0).reshape(-1, *[1] * (x0.ndim - 1))
    # The KL at t = 0 uses a substituted variance and is finite, so the branch not taken sends no NaN through `where`.
    return torch.where(first, discretized_nll(x0, mean, log_var), kl).flatten(1).mean(dim=1) / math.log(2)


def reverse_mean(eps: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """mu_theta of the reverse step from the predicted noise (DDPM Eq. 11), not clipped."""
    if schedule.zero_terminal:
        raise ReproError(f"'epsilon' has no reverse mean on schedule {schedule.name!r}: predict 'v_prediction'")
    beta, s = schedule.gather("betas", t, x_t), schedule.at(t, x_t)[1]
    return (x_t - beta / s * eps) / (1 - beta).sqrt()


class HybridLoss(NamedTuple):
    """Per-sample parts (B,): `total` = `simple` + weight * T * `vlb`, the last in bits per dimension."""

    total: Tensor
    simple: Tensor
    vlb: Tensor


def hybrid_loss(
    model: Model, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, weight: float = 0.001
) -> HybridLoss:
    """L_simple + 0.001 L_vlb for a network that predicts noise and its variance (Improved DDPM Eq. 16).

    L_vlb is the sum over T terms; one uniformly drawn t stands for it with the factor T. Its gradient reaches the
    variance head only: the mean is held fixed (stop-gradient), so that L_simple alone trains the prediction.
    """
    x_t = q_sample(x0, t, eps, schedule)
    output, number = split_variance(model(x_t, t), x0.shape[1])
    first = simple(output, eps)
    mean = reverse_mean(output.detach().to(x0.dtype), x_t, t, schedule)
    log_var = learned_range_log_variance(number.to(x0.dtype), t, schedule)
    vlb = vlb_term(x0, x_t, t, mean, log_var, schedule)
    return HybridLoss(first + weight * schedule.T * vlb, first, vlb)
