"""RDDM's samplers as generators: each step yields its state, and the caller decides what to plot, log, or stop.

    x_T = process.start(I_in, z, schedule)
    for step in reverse(model, x_T, I_in, schedule, steps=5, objective="res"): ...
    x = sample(reverse(...))                                     # only the result

Restoration and generation are one path: generation passes zeros as I_in. The model is a function (I_t, t (B,)) ->
(B, C, H, W), or (B, 2C, H, W) for "res_noise"; a network that sees I_in gets it by `model_fn(network, cond=I_in)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

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

__all__ = ["NO_CLIP", "PUBLISHED_CLIP", "Clip", "Step", "ancestral", "last", "reverse", "sample", "times", "two_stage"]

# (I_t, time (B,)) -> (B, C, H, W); the time is a timestep, or T times a coefficient (see `two_stage`).
Timed = Callable[[Tensor, Tensor], Tensor]


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
        at_end: SM-N at abar_T = 1 divides by 0. "refuse", or "published": by 1e-6, as the released code, whose first
            picture is then ±1 in every pixel.
    """
    clip = Clip() if clip is None else clip
    ts = choose(schedule, steps, spacing, offset, start, timesteps)
    _check_start(x_T, I_in)
    check_reading(schedule, ts, sample_as or objective, clip, rule, at_end)
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


def ancestral(
    model: Model,
    x_T: Tensor,
    I_in: Tensor,
    schedule: RDDMSchedule,
    noise: Noise,
    steps: int | None = None,
    *,
    objective: Objective,
    sample_as: Objective | None = None,
    start: int | None = None,
    timesteps: Sequence[int] | None = None,
    clip: Clip | None = None,
    at_end: AtEnd = "refuse",
) -> Iterator[Step]:
    """Sampling from the exact posterior of every step: the released code's other loop, taken when steps = T.

    The mean weighs I_t, the cut residual and the cut picture (`process.posterior_weights`). Without clipping it is
    `reverse` with eta = 1; with clipping the three do not add up, and the two part. Arguments as there.
    """
    clip = Clip() if clip is None else clip
    ts = choose(schedule, steps, "rddm", 0, start, timesteps)
    _check_start(x_T, I_in)
    check_reading(schedule, ts, sample_as or objective, clip, "eq12", at_end)
    pairs = list(zip(ts, [*ts[1:], -1], strict=True))
    moves = [Move.between(schedule, t, s, 1.0) for t, s in pairs]
    weights = [process.posterior_weights(schedule, t, s) for t, s in pairs]
    return _ancestral(model, x_T, I_in, objective, sample_as, moves, weights, noise, clip)


@torch.no_grad()
def _ancestral(model, x, I_in, objective, sample_as, moves, weights, noise, clip) -> Iterator[Step]:
    rows = batch_times([move.t for move in moves], x)
    for i, (move, (from_x, from_res, from_picture)) in enumerate(zip(moves, weights, strict=True)):
        output = model(x, rows[i])
        found = read(*split(output, x, objective, sample_as), x, I_in, move, clip, "eq12")
        mean = torch.mul(x, from_x).add_(found.I_res, alpha=from_res).add_(found.I_0, alpha=from_picture)
        after = torch.add(mean, noise(move.t, x), alpha=move.variance**0.5) if move.variance > 0 else mean
        yield _step(i, move, x, after, found, mean, output)
        x = after


def two_stage(
    res_model: Timed,
    noise_model: Timed,
    x_T: Tensor,
    schedule: RDDMSchedule,
    steps: tuple[int, int],
    *,
    first: Literal["residual", "noise"] = "residual",
    told: Literal["coefficient", "timestep"] = "coefficient",
    clip: Clip | None = None,
) -> Iterator[Step]:
    """The partially path-independent sampler: one diffusion undone wholly, then the other, deterministic.

    A state has two clocks, I = I_0 + abar_u I_res + bbar_v eps. One stage lets u fall to -1 by -(abar_t - abar_s)
    I_res, the other v by -(bbar_t - bbar_s) eps. The first stage of the released code ends by returning its estimate of
    I_0, which takes the noise away as well before the second stage begins; here it ends at I_t - abar_t I_res.

    Args:
        res_model, noise_model: predict residual and noise, each (B, C, H, W).
        x_T: from `process.start`.
        steps: how many in the residual's and in the noise's stage.
        first: which diffusion is undone first.
        told: what the two are told as time: abar_u T to the residual's network and bbar_v T to the noise's, as they
            were trained for this experiment alone, or the plain timestep, as everywhere else. float32 (B,) or int64.
        clip: residual and finished picture; default picture ±1, residual ±2.

    In each `Step`, t and t_prev are the clock of its stage; `abar` and `bbar` hold what x_t contains of both. The part
    that a stage has not asked a network about is zeros, and x0 the state less what was just predicted.
    """
    clip = Clip() if clip is None else clip
    if first not in ("residual", "noise"):
        raise ReproError(f"first {first!r} is unknown: choose residual or noise")
    if told not in ("coefficient", "timestep"):
        raise ReproError(f"told {told!r} is unknown: choose coefficient or timestep")
    _check_start(x_T, x_T)
    runs = {"residual": times(schedule.T, steps[0]), "noise": times(schedule.T, steps[1])}
    order = ["residual", "noise"] if first == "residual" else ["noise", "residual"]
    return _two_stage(res_model, noise_model, x_T, schedule, runs, order, told, clip)


@torch.no_grad()
def _two_stage(res_model, noise_model, x, schedule, runs, order, told, clip) -> Iterator[Step]:
    zero, i = torch.zeros_like(x), 0
    abar, bbar = schedule.levels(schedule.T - 1)
    for stage in order:
        table = schedule.abar if stage == "residual" else schedule.bbar
        for t, s in zip(runs[stage], [*runs[stage][1:], -1], strict=True):
            time = (
                torch.full((len(x),), t) if told == "timestep" else torch.full((len(x),), float(table[t]) * schedule.T)
            )
            model = res_model if stage == "residual" else noise_model
            output = model(x, time.to(x.device))
            if output.shape != x.shape:
                raise ReproError(f"the {stage} network answered {tuple(output.shape)} to a state of {tuple(x.shape)}")
            level, level_s = float(table[t]), float(table[s]) if s >= 0 else 0.0
            part = clip.I_res(output) if stage == "residual" else output
            after = torch.sub(x, part, alpha=level - level_s)
            picture = torch.sub(x, part, alpha=level)
            if s < 0 and stage == order[1]:
                after = picture = clip.I_0(picture)
            res, eps = (part, zero) if stage == "residual" else (zero, part)
            yield Step(i, t, s, x, after, picture, res, eps, after, 0.0, output, abar, bbar)
            abar, bbar = (level_s, bbar) if stage == "residual" else (abar, level_s)
            x, i = after, i + 1


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
