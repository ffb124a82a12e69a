"""RDDM's samplers as generators: each step yields its state, and the caller decides what to plot, log, or stop.

    x_T = process.start(I_in, z, schedule)
    for step in reverse(model, x_T, I_in, schedule, steps=5, objective="res"): ...
    x = sample(reverse(...))                                     # only the result

Restoration and generation are one path: generation passes zeros as I_in. The model is a function (I_t, t (B,)) ->
(B, C, H, W), or (B, 2C, H, W) for "res_noise"; a network that sees I_in gets it by `model_fn(network, cond=I_in)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from repro.ddpm.process import Model
from repro.ddpm.steps import Noise, batch_times, last, sample
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.objectives import Objective, split
from repro.rddm.schedules import RDDMSchedule
from repro.rddm.steps import (
    NO_CLIP,
    PUBLISHED_CLIP,
    AtEnd,
    Clip,
    Move,
    Rule,
    Spacing,
    Step,
    advance,
    check_reading,
    choose,
    read,
    times,
)

__all__ = ["NO_CLIP", "PUBLISHED_CLIP", "Clip", "Step", "last", "reverse", "sample", "times"]


def reverse(
    model: Model,
    x_T: Tensor,
    I_in: Tensor,
    schedule: RDDMSchedule,
    steps: int | None = None,
    *,
    objective: Objective,
    sample_as: Objective | None = None,
    eta: float = 0.0,
    noise: Noise | None = None,
    variance: process.Variance = "sum",
    spacing: Spacing = "rddm",
    offset: int = 0,
    start: int | None = None,
    timesteps: Sequence[int] | None = None,
    clip: Clip | None = None,
    rule: Rule = "eq12",
    at_end: AtEnd = "refuse",
) -> Iterator[Step]:
    """The strided reverse process with any eta (report Eq. 12; Eq. 13 for eta = 0).

    Args:
        model: see the module; it is told the timestep.
        x_T: (B, C, H, W) from `process.start`, at the first timestep visited.
        I_in: (B, C, H, W) degraded pictures in [-1, 1]; zeros for generation.
        steps: how many; None takes every timestep.
        objective: what the network learned.
        sample_as: read only one head of a "res_noise" network.
        eta: 0 deterministic, 1 the exact posterior. (The released code silently sets it to 0 for restoration.)
        noise: see `repro.ddpm.steps.Noise`; needed where eta > 0. The last step adds none.
        variance: see `process.sigma2`.
        spacing, offset, start, timesteps: see `times`; `start` below T - 1 starts earlier.
        clip: what predictions are cut to; default picture ±1, residual ±2 (nothing true is cut).
        rule: how a step uses clipped predictions; without clipping all agree.
            "eq12": from I_t, Eq. 12 as printed and released. It subtracts a fraction of the cut residual from the uncut
            I_t, and with clipping is no DDIM.
            "compose": I_0 + abar_s I_res + bbar_s eps, the network's noise kept: diffusers' DDIM as it comes.
            "rederive": the same with the noise made again from the cut picture: DDIM with use_clipped_model_output.
            "posterior": the mean of the exact posterior, eta 1: the released code's loop where steps = T.
        at_end: SM-N at abar_T = 1 divides by 0. "refuse", or "published": by 1e-6, as the released code, whose first
            picture is then ±1 in every pixel.
    """
    clip = Clip() if clip is None else clip
    ts = choose(schedule, steps, spacing, offset, start, timesteps)
    _check_start(x_T, I_in)
    check_reading(schedule, ts, sample_as or objective, clip, rule, at_end)
    if rule == "posterior" and (eta != 1 or schedule.noiseless):
        raise ReproError(f"rule 'posterior' needs eta 1 and a schedule with noise: got eta {eta}")
    if eta > 0 and noise is None:
        raise ReproError(f"eta {eta} adds noise at each step: pass noise=KeyedNoise(...) or generator_noise(...)")
    moves = [Move.between(schedule, t, s, eta, variance) for t, s in zip(ts, [*ts[1:], -1], strict=True)]
    return _reverse(model, x_T, I_in, objective, sample_as, moves, noise, clip, rule)


@torch.no_grad()  # holds while a step is computed, not in the caller's code between steps
def _reverse(model, x, I_in, objective, sample_as, moves, noise, clip, rule) -> Iterator[Step]:
    rows = batch_times([move.t for move in moves], x)
    for i, move in enumerate(moves):
        output = model(x, rows[i])
        found = read(*split(output, x, objective, sample_as), x, I_in, move, clip, rule)
        mean = advance(x, found, move, rule)
        after = mean
        if move.variance > 0:
            after = torch.add(mean, noise(move.t, x), alpha=move.variance**0.5)
        yield _step(i, move, x, after, found, mean, output)
        x = after


def _step(i: int, move: Move, x: Tensor, after: Tensor, found: process.Estimate, mean: Tensor, output: Tensor) -> Step:
    return Step(
        i,
        move.t,
        move.s,
        x,
        after,
        found.I_0,
        found.I_res,
        found.eps,
        mean,
        move.variance,
        output,
        move.abar,
        move.bbar,
    )


def _check_start(x_T: Tensor, I_in: Tensor) -> None:
    if x_T.ndim < 2 or not x_T.is_floating_point():
        raise ReproError(f"a sampler starts from a float tensor (B, C, …): got {tuple(x_T.shape)} of {x_T.dtype}")
    if I_in.shape != x_T.shape:
        raise ReproError(f"I_in must have the shape of the start {tuple(x_T.shape)}: got {tuple(I_in.shape)}")
