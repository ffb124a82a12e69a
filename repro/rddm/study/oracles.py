"""Identities that need no training: SM-Res with noise in step with the residual is InDI."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise
from repro.rddm import process, samplers
from repro.rddm.samplers import NO_CLIP
from repro.rddm.schedules import RDDMSchedule, indi


def indi_step(x: Tensor, clean: Tensor, t: float, s: float) -> Tensor:
    """One step of InDI from time t to s (Delbracio and Milanfar 2023, "Inversion by Direct Iteration")."""
    return (t - s) / t * clean + (1 - (t - s) / t) * x


def indi_gap(steps: int = 10, schedule: RDDMSchedule | None = None) -> float:
    """Largest difference of SM-Res from InDI along one run, both with the same arbitrary predictor, float64.

    `schedule` is `indi()` unless given; with any other the two are different samplers.
    """
    schedule = schedule or indi()
    I_in, z = KeyedNoise(0, [0, 1], "oracle/indi").normal((2, 3, 8, 8)).double().unbind(1)

    def predict(x: Tensor, t: Tensor) -> Tensor:  # some nonlinear guess of the clean picture
        return torch.tanh(0.7 * x.roll(1, -1) - 0.2 * I_in + t.double().view(-1, 1, 1, 1) / 1000)

    x_T = process.start(I_in, z, schedule)
    run = samplers.reverse(lambda x, t: I_in - predict(x, t), x_T, I_in, schedule, steps, objective="res", clip=NO_CLIP)
    x, worst = x_T, 0.0
    for step in run:
        t = float(schedule.abar[step.t])
        s = float(schedule.abar[step.t_prev]) if step.t_prev >= 0 else 0.0
        x = indi_step(x, predict(x, torch.full((len(x),), step.t)), t, s)
        worst = max(worst, (x - step.x).abs().max().item())
    return worst
