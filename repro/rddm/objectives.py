"""What the network learns: the residual (SM-Res), the noise (SM-N), or both (SM-Res-N).

The three strategies differ in the weights (lambda_res, lambda_eps) of the losses, Eq. 14 and 15, and in how the two
unknowns of Eq. 16 are then found: one predicted and the other by linear transformation, or both predicted. Misprints
of the report that are not followed: I_ub for I_in in Eq. 14; Eq. 15 without the square of Eq. 14; lambda for epsilon
below Eq. 15; and SM-Res-N with lambda_res = 0, which would be SM-N.

A network answers (B, C, H, W), or (B, 2C, H, W) with the residual first for SM-Res-N, whether it is two networks, one
encoder with two decoders, or one network with twice the channels (`repro.rddm.model`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro.ddpm.losses import simple
from repro.ddpm.process import Model
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.schedules import RDDMSchedule

Objective = Literal["res", "noise", "res_noise"]
WEIGHTS: dict[Objective, tuple[float, float]] = {"res": (1.0, 0.0), "noise": (0.0, 1.0), "res_noise": (1.0, 1.0)}
STRATEGIES: dict[str, Objective] = {"SM-Res": "res", "SM-N": "noise", "SM-Res-N": "res_noise"}


def objective_of(name: str) -> Objective:
    """The objective by its own name or by its strategy's."""
    objective = STRATEGIES.get(name, name)
    if objective not in WEIGHTS:
        known = [f"{value} ({key})" for key, value in STRATEGIES.items()]
        raise ReproError(f"objective {name!r} is unknown: choose one of {', '.join(known)}")
    return objective  # type: ignore[return-value]


def heads(objective: Objective) -> int:
    """How many pictures the network answers with."""
    return 2 if objective_of(objective) == "res_noise" else 1


def split(
    output: Tensor, like: Tensor, objective: Objective, sample_as: Objective | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """The predicted (residual, noise) in a network's output; None for what it does not predict.

    Args:
        like: I_t (B, C, H, W).
        sample_as: read only one head of an SM-Res-N network, and so sample by SM-Res or SM-N without retraining. It
            has to have been trained with a loss for each head, as all are here.
    """
    channels, objective = like.shape[1], objective_of(objective)
    if output.shape != (like.shape[0], channels * heads(objective), *like.shape[2:]):
        raise ReproError(
            f"a network for objective {objective!r} answers {channels * heads(objective)} channels to a state of "
            f"shape {tuple(like.shape)}: got {tuple(output.shape)}"
        )
    if objective != "res_noise":
        if sample_as is not None and objective_of(sample_as) != objective:
            raise ReproError(f"a network trained for {objective!r} cannot be sampled as {sample_as!r}")
        return (output, None) if objective == "res" else (None, output)
    res, noise = output[:, :channels], output[:, channels:]
    return {"res_noise": (res, noise), "res": (res, None), "noise": (None, noise)}[objective_of(sample_as or objective)]


def target(I_res: Tensor, eps: Tensor, objective: Objective) -> Tensor:
    """What the network should have answered."""
    wanted = {"res": [I_res], "noise": [eps], "res_noise": [I_res, eps]}[objective_of(objective)]
    return torch.cat(wanted, dim=1)


def estimate(
    output: Tensor, I_t: Tensor, I_in: Tensor, t: Tensor | int, schedule: RDDMSchedule, objective: Objective
) -> process.Estimate:
    """A network's output at (I_t, t) as all three: clean picture, residual, noise; no clipping."""
    abar, bbar = schedule.at(t, I_t)
    res, noise = split(output, I_t, objective)
    if noise is None:
        return process.Estimate(I_in - res, res, process.eps_from_residual(I_t, I_in, res, abar, bbar))
    if res is None:
        I_0 = process.I0_from_noise(I_t, I_in, noise, abar, bbar)
        return process.Estimate(I_0, I_in - I_0, noise)
    return process.Estimate(process.I0_from_both(I_t, res, noise, abar, bbar), res, noise)


@dataclass(frozen=True)
class Losses:
    """Per-sample parts (B,): `total` = lambda_res * `res` + lambda_eps * `noise`; None for what is not predicted."""

    total: Tensor
    res: Tensor | None
    noise: Tensor | None


def losses(
    output: Tensor,
    I_res: Tensor,
    eps: Tensor,
    objective: Objective,
    norm: Literal["l1", "l2"] = "l2",
    weights: tuple[float, float] | None = None,
) -> Losses:
    """Eq. 14 and 15 per sample. The papers write the squared norm; the released code takes l1 for restoration.

    Args:
        output: (B, heads * C, H, W).
        weights: (lambda_res, lambda_eps), above 0 for what the network predicts and 0 for the rest; default 1 and 0.
    """
    objective = objective_of(objective)
    weights = WEIGHTS[objective] if weights is None else weights
    if [w > 0 for w in weights] != [w > 0 for w in WEIGHTS[objective]] or min(weights) < 0:
        raise ReproError(
            f"objective {objective!r} has loss weights (lambda_res, lambda_eps) like {WEIGHTS[objective]}, 0 where it "
            f"predicts nothing: got {tuple(weights)}"
        )
    res, noise = split(output, I_res, objective)
    parts = [None if p is None else simple(p, w, norm) for p, w in ((res, I_res), (noise, eps))]
    total = sum(w * p for w, p in zip(weights, parts, strict=True) if p is not None)
    return Losses(total, *parts)


def training_losses(
    model: Model,
    I_0: Tensor,
    I_in: Tensor,
    t: Tensor,
    eps: Tensor,
    schedule: RDDMSchedule,
    objective: Objective,
    norm: Literal["l1", "l2"] = "l2",
    weights: tuple[float, float] | None = None,
) -> Losses:
    """The losses of a network at given steps t (B,) and noise eps; a condition is bound into `model` beforehand."""
    I_res = process.residual(I_in, I_0)
    output = model(process.q_sample(I_0, I_res, t, eps, schedule), t)
    return losses(output, I_res, eps, objective, norm, weights)


def check_objective(network: nn.Module, objective: Objective, channels: int | None = None) -> None:
    """Refuse a network whose configuration says that it learned something else.

    `repro.rddm.model.RDDMNet` names its objective; of any other network only the number of channels can be compared.
    """
    config: Any = getattr(network, "config", None) or {}
    learned = config.get("objective")
    objective = objective_of(objective)
    if learned is not None and learned != objective:
        raise ReproError(f"the network was trained for objective {learned!r}: it cannot be used as {objective!r}")
    out = config.get("out_channels")
    if learned is None and channels is not None and out is not None and out != channels * heads(objective):
        raise ReproError(
            f"objective {objective!r} needs a network with {channels * heads(objective)} output channels: got {out}"
        )
