"""Small measurements around the samplers that notebook 03 draws: where a state stands, and how far two rules part."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm.process import model_fn
from repro.ddpm.schedules import Schedule
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.schedules import RDDMSchedule
from repro.rddm.steps import NO_CLIP, Clip, Step
from repro.rddm.transform import ddpm_by_rddm


def place(x: Tensor, I_0: Tensor, I_res: Tensor, eps: Tensor) -> tuple[float, float, float]:
    """Where a state stands: (a, b, rest) of the least squares fit x = I_0 + a I_res + b eps + remainder.

    `rest` is the root mean square of the remainder: what is neither picture, residual, nor the start's noise. Tensors
    of one shape, any range.
    """
    basis = torch.stack([I_res.flatten(), eps.flatten()], dim=1).double()  # (N, 2)
    offset = (x - I_0).flatten().double()
    found = torch.linalg.lstsq(basis, offset).solution  # (2,)
    rest = (offset - basis @ found).square().mean().sqrt()
    return found[0].item(), found[1].item(), rest.item()


def path(steps: Iterable[Step], I_0: Tensor, I_in: Tensor, eps: Tensor) -> list[tuple[float, float, float]]:
    """`place` of every state of a run, the start first and the finished picture last."""
    I_res, found = process.residual(I_in, I_0), []
    for step in steps:
        found += [] if found else [place(step.x_t, I_0, I_res, eps)]
        found.append(place(step.x, I_0, I_res, eps))
    if not found:
        raise ReproError("a path needs a run of at least one step: got none")
    return found


def gap_along(
    network: nn.Module, x_T: Tensor, schedule: Schedule, steps: int, *, clip: bool, dtype: torch.dtype
) -> list[float]:
    """Largest difference of a pixel after each step between DDIM and RDDM's Eq. 12, from one start, one noise network.

    (steps,) numbers for pictures in [-1, 1]. DDIM as diffusers does it: the network's noise is kept when the picture
    is clipped.
    """
    # A copy, since the loaded one is shared; cast by torch, since diffusers' own cast warns of what this network lacks.
    model = model_fn(nn.Module.to(copy.deepcopy(network), dtype))
    x_T = x_T.to(dtype)
    theirs = ddpm_samplers.ddim(model, x_T, schedule, steps, clip=clip, eps_from_clipped=False)
    ours = ddpm_by_rddm(model, x_T, schedule, steps, clip=Clip() if clip else NO_CLIP, rule="eq12")
    return [(a.x - b.x).abs().max().item() for a, b in zip(ours, theirs, strict=True)]


def share_beyond(I_res: Tensor, limit: float = 1.0) -> float:
    """The share of a residual's values beyond ±limit: what a clamp there cuts off."""
    return (I_res.abs() > limit).double().mean().item()


def first_over(schedule: RDDMSchedule, share: float) -> int:
    """The first timestep whose picture holds more than this share of the residual."""
    over = (schedule.abar > share).nonzero()
    if not len(over):
        raise ReproError(f"schedule {schedule.name!r} never holds more than {share:g} of the residual")
    return int(over[0])
