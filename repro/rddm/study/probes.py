"""Small measurements around the samplers: where a state stands, how far two rules part, what needs no training.

Claim R4 (RDDM and DDIM draw the same images) is measured on notebook 01's trained DDPM.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import start_noise
from repro.ddpm.schedules import Schedule
from repro.ddpm.study.experiments import MAIN as DDPM_MODEL
from repro.ddpm.study.experiments import SMALL as DDPM
from repro.ddpm.study.experiments import schedule_of
from repro.engine.checkpoint import load_checkpoint
from repro.engine.records import Values
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.samplers import NO_CLIP, Clip, Step, reverse
from repro.rddm.schedules import RDDMSchedule, indi
from repro.rddm.transform import ddpm_by_rddm

# DDIM with the network's noise kept is diffusers' default, with the noise made again from the cut image it is
# diffusers' use_clipped_model_output. Without clipping the two are one.
DDIM = {"ddim": False, "ddim-rederived": True}
RULES = (*DDIM, "eq12", "compose", "rederive")
DIFFERENCE, MEAN_DIFFERENCE = "max_abs_difference", "mean_abs_difference"
COMPARED = 8  # samples whose pixels are compared


# -- RDDM and DDIM ----------------------------------------------------------------------------------------------------


def draw(model: nn.Module, x_T: Tensor, steps: int, rule: str, clip: bool) -> Tensor:
    """A DDPM sampled from x_T by DDIM, or by RDDM with one of its rules; both visit diffusers' timesteps, eta = 0."""
    fn, schedule = model_fn(model), schedule_of(DDPM)
    if rule in DDIM:
        run = ddpm_samplers.ddim(fn, x_T, schedule, steps, clip=clip, eps_from_clipped=DDIM[rule])
    else:
        run = ddpm_by_rddm(fn, x_T, schedule, steps, clip=Clip() if clip else NO_CLIP, rule=rule)
    return ddpm_samplers.sample(run)


def drawn(steps: int, rule: str, clip: bool, ids: range) -> Tensor:
    """Samples by number."""
    parts = start_noise(ids, (1, 28, 28)).split(100)
    return torch.cat([draw(load_checkpoint(DDPM_MODEL), x_T, steps, rule, clip) for x_T in parts])


def gap(steps: int, rule: str, clip: bool, other: str, dtype: str, k: int | None) -> Mapping[str, Values]:
    """Largest and mean difference of each image from that of another rule, pixels in [-1, 1]."""
    model = cast(load_checkpoint(DDPM_MODEL), getattr(torch, dtype))
    x_T = start_noise(range(k or COMPARED), (1, 28, 28)).to(getattr(torch, dtype))
    found = (draw(model, x_T, steps, rule, clip) - draw(model, x_T, steps, other, clip)).abs().flatten(1)
    return {DIFFERENCE: found.amax(dim=1).tolist(), MEAN_DIFFERENCE: found.mean(dim=1).tolist()}


def gap_along(
    network: nn.Module, x_T: Tensor, schedule: Schedule, steps: int, *, clip: bool, dtype: torch.dtype
) -> list[float]:
    """Largest difference of a pixel after each step between DDIM and RDDM's Eq. 12, from one start, one noise network.

    (steps,) numbers for images in [-1, 1]. DDIM as diffusers does it: the network's noise is kept when the image is
    clipped.
    """
    model, x_T = model_fn(cast(network, dtype)), x_T.to(dtype)
    theirs = ddpm_samplers.ddim(model, x_T, schedule, steps, clip=clip, eps_from_clipped=False)
    ours = ddpm_by_rddm(model, x_T, schedule, steps, clip=Clip() if clip else NO_CLIP, rule="eq12")
    return [(a.x - b.x).abs().max().item() for a, b in zip(ours, theirs, strict=True)]


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy, since the loaded one is shared; cast by torch, since diffusers' own cast warns of what is not there."""
    return nn.Module.to(copy.deepcopy(network), dtype)


# -- SM-Res and InDI --------------------------------------------------------------------------------------------------


def indi_step(x: Tensor, clean: Tensor, t: float, s: float) -> Tensor:
    """One step of InDI from time t to s (Delbracio and Milanfar 2023, "Inversion by Direct Iteration")."""
    return (t - s) / t * clean + (1 - (t - s) / t) * x


def indi_gap(steps: int = 10, schedule: RDDMSchedule | None = None) -> float:
    """Largest difference of SM-Res from InDI along one run, both with the same arbitrary predictor, float64.

    `schedule` is `indi()` unless given; with any other the two are different samplers.
    """
    schedule = schedule or indi()
    I_in, z = KeyedNoise(0, [0, 1], "oracle/indi").normal((2, 3, 8, 8)).double().unbind(1)

    def predict(x: Tensor, t: Tensor) -> Tensor:  # some nonlinear guess of the clean image
        return torch.tanh(0.7 * x.roll(1, -1) - 0.2 * I_in + t.double().view(-1, 1, 1, 1) / 1000)

    x, worst = process.start(I_in, z, schedule), 0.0
    for step in reverse(lambda x, t: I_in - predict(x, t), x, I_in, schedule, steps, objective="res", clip=NO_CLIP):
        t, s = schedule.levels(step.t)[0], schedule.levels(step.t_prev)[0]
        x = indi_step(x, predict(x, torch.full((len(x),), step.t)), t, s)
        worst = max(worst, (x - step.x).abs().max().item())
    return worst


# -- states and schedules ---------------------------------------------------------------------------------------------


def place(x: Tensor, I_0: Tensor, I_res: Tensor, eps: Tensor) -> tuple[float, float, float]:
    """(a, b, rest) of the least-squares fit x = I_0 + a I_res + b eps + remainder.

    `rest` is the root mean square of the remainder: what is neither image, residual, nor the start's noise. Tensors
    of one shape, any range.
    """
    basis = torch.stack([I_res.flatten(), eps.flatten()], dim=1).double()  # (N, 2)
    offset = (x - I_0).flatten().double()
    found = torch.linalg.lstsq(basis, offset).solution  # (2,)
    rest = (offset - basis @ found).square().mean().sqrt()
    return found[0].item(), found[1].item(), rest.item()


def path(steps: Iterable[Step], I_0: Tensor, I_in: Tensor, eps: Tensor) -> list[tuple[float, float, float]]:
    """`place` of every state of a run, the start first and the finished image last."""
    I_res, found = process.residual(I_in, I_0), []
    for step in steps:
        found += [] if found else [place(step.x_t, I_0, I_res, eps)]
        found.append(place(step.x, I_0, I_res, eps))
    return found


def share_beyond(I_res: Tensor, limit: float = 1.0) -> float:
    """The share of a residual's values beyond ±limit: what a clamp there cuts off."""
    return (I_res.abs() > limit).double().mean().item()


def first_over(schedule: RDDMSchedule, share: float) -> int:
    """The first timestep whose image holds more than this share of the residual."""
    over = (schedule.abar > share).nonzero()
    if not len(over):
        raise ReproError(f"schedule {schedule.name!r} never holds more than {share:g} of the residual")
    return int(over[0])
