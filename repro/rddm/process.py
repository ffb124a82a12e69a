"""The forward process, and what a network learns of it: the residual (SM-Res), the noise (SM-N), or both (SM-Res-N).

Eq. 7: I_t = I_0 + abar_t I_res + bbar_t eps. Eq. 16, the same with I_0 = I_in - I_res put in: I_t = I_in +
(abar_t - 1) I_res + bbar_t eps. Restoration and generation are one path: generation has I_in = 0, so I_res = -I_0.

A network's output is (B, C, H, W), or (B, 2C, H, W) with the residual first for SM-Res-N, whether it is two networks,
one encoder with two decoders, or one network with twice the channels (`repro.rddm.model`). Misprints of the report that
are not followed: I_ub for I_in in Eq. 14; Eq. 15 without the square of Eq. 14; lambda for epsilon below Eq. 15; and
SM-Res-N with lambda_res = 0, which would be SM-N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from repro.ddpm.losses import simple
from repro.ddpm.process import Model
from repro.errors import ReproError
from repro.rddm.schedules import RDDMSchedule

Objective = Literal["res", "noise", "res_noise"]
STRATEGIES: dict[str, Objective] = {"SM-Res": "res", "SM-N": "noise", "SM-Res-N": "res_noise"}


def check_objective(objective: str) -> Objective:
    """Refuse an objective that does not exist."""
    if objective not in STRATEGIES.values():
        known = ", ".join(f"{value} ({key})" for key, value in STRATEGIES.items())
        raise ReproError(f"objective {objective!r} is unknown: choose one of {known}")
    return objective  # type: ignore[return-value]


# -- forward ----------------------------------------------------------------------------------------------------------


def residual(I_in: Tensor, I_0: Tensor) -> Tensor:
    """I_res = I_in - I_0: degraded minus clean, in every task."""
    return I_in - I_0


def q_sample(I_0: Tensor, I_res: Tensor, t: Tensor | int, eps: Tensor, schedule: RDDMSchedule) -> Tensor:
    """I_t in one jump (Eq. 7). t is (B,) or one number."""
    abar, bbar = schedule.at(t, I_0)
    return I_0 + abar * I_res + bbar * eps


def q_step(I_prev: Tensor, I_res: Tensor, t: Tensor | int, eps: Tensor, schedule: RDDMSchedule) -> Tensor:
    """One forward step from t - 1 to t (Eq. 6 and 9); t = 0 starts from I_0."""
    return I_prev + schedule.gather("alpha", t, I_prev) * I_res + schedule.gather("beta2", t, I_prev).sqrt() * eps


def start(
    I_in: Tensor, z: Tensor, schedule: RDDMSchedule, t: int | None = None, sum_scale: float | None = None
) -> Tensor:
    """Where sampling begins: I_in + bbar_t z, by default at T - 1 (the report explains I_T as "I_T + eps").

    At an earlier t the true state is (abar_t - 1) I_res away, which nobody knows yet: the start is then wrong by
    1 - abar_t of the residual. SM-N needs such a start, since at abar_T = 1 it cannot say anything.

    Args:
        I_in: (B, C, H, W) in [-1, 1]; zeros for generation.
        z: standard normals of the same shape.
        sum_scale: another variance than the schedule's bbar_t^2. Only to measure the mistake of a start whose noise
            was not trained for.
    """
    level = schedule.levels(schedule.T - 1 if t is None else t)[1] if sum_scale is None else sum_scale**0.5
    return torch.add(I_in, z, alpha=level)


# -- what a network predicts ------------------------------------------------------------------------------------------


def heads(objective: Objective) -> int:
    """How many images the network's output holds."""
    return 2 if check_objective(objective) == "res_noise" else 1


def target(I_res: Tensor, eps: Tensor, objective: Objective) -> Tensor:
    """The target of the network's output."""
    return torch.cat({"res": [I_res], "noise": [eps], "res_noise": [I_res, eps]}[check_objective(objective)], dim=1)


def split(
    output: Tensor, like: Tensor, objective: Objective, sample_as: Objective | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """The predicted (residual, noise) in a network's output; None for what it does not predict.

    Args:
        like: I_t (B, C, H, W).
        sample_as: read only one head of an SM-Res-N network, and so sample by SM-Res or SM-N without retraining. It
            has to have been trained with a loss for each head, as all are here.
    """
    channels, expected = like.shape[1], like.shape[1] * heads(objective)
    if output.shape != (like.shape[0], expected, *like.shape[2:]):
        raise ReproError(
            f"a network for objective {objective!r} answers {expected} channels to a state of shape "
            f"{tuple(like.shape)}: got {tuple(output.shape)}"
        )
    if objective != "res_noise":
        if sample_as not in (None, objective):
            raise ReproError(f"a network trained for {objective!r} cannot be sampled as {sample_as!r}")
        return (output, None) if objective == "res" else (None, output)
    res, noise = output[:, :channels], output[:, channels:]
    return {"res_noise": (res, noise), "res": (res, None), "noise": (None, noise)}[sample_as or objective]


def loss(
    model: Model,
    I_0: Tensor,
    I_in: Tensor,
    t: Tensor,
    eps: Tensor,
    schedule: RDDMSchedule,
    objective: Objective,
    norm: Literal["l1", "l2"] = "l2",
) -> Tensor:
    """(B,) the losses of Eq. 14 and 15, added, of a network at given steps t (B,) and noise eps.

    The papers write the squared norm; the released code takes l1 for restoration. A condition is bound into `model`.
    """
    I_res = residual(I_in, I_0)
    return output_loss(model(q_sample(I_0, I_res, t, eps, schedule), t), I_res, eps, objective, norm)


def output_loss(output: Tensor, I_res: Tensor, eps: Tensor, objective: Objective, norm: Literal["l1", "l2"]) -> Tensor:
    """(B,) the same of an output (B, heads * C, H, W)."""
    parts = zip(split(output, I_res, objective), (I_res, eps), strict=True)
    return sum(simple(found, wanted, norm) for found, wanted in parts if found is not None)


@dataclass(frozen=True)
class Estimate:
    """What is held to be true of a state I_t: without clipping, I_t = I_0 + abar_t I_res + bbar_t eps between them."""

    I_0: Tensor
    I_res: Tensor
    eps: Tensor


def estimate(
    output: Tensor, I_t: Tensor, I_in: Tensor, t: Tensor | int, schedule: RDDMSchedule, objective: Objective
) -> Estimate:
    """A network's output at (I_t, t) as all three, no clipping: one predicted, the other by Eq. 16, or both predicted.

    Raises `ReproError` where that divides by zero: SM-Res where bbar_t = 0 (such a state holds no noise), SM-N where
    abar_t = 1, that is at the start: I_T = I_in + bbar_T eps says nothing of I_0.
    """
    abar, bbar = schedule.at(t, I_t)
    res, noise = split(output, I_t, objective)
    if noise is None:
        bbar = _nonzero(bbar, "the noise from the residual", "bbar_t = 0")
        return Estimate(I_in - res, res, (I_t - I_in - (abar - 1) * res) / bbar)
    if res is None:
        I_0 = I_t - abar * I_in - bbar * noise
        I_0 = I_0 / _nonzero(1 - abar, "the clean picture from the noise", "1 - abar_t = 0")
        return Estimate(I_0, I_in - I_0, noise)
    return Estimate(I_t - abar * res - bbar * noise, res, noise)


def _nonzero(level: Tensor, what: str, where: str) -> Tensor:
    if (level == 0).any():
        raise ReproError(f"{what} is undefined at a timestep with {where}: choose another timestep or another strategy")
    return level
