"""Small measurements around the samplers: where a state stands, how far two rules part, what needs no training.

Claim R4 (RDDM and DDIM draw the same images) is measured on notebook 01's trained DDPM.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm.process import model_fn, prediction_part
from repro.ddpm.steps import sample, spaced
from repro.ddpm.study.experiments import LINEAR
from repro.engine.rng import KeyedNoise
from repro.rddm import process
from repro.rddm.samplers import Sampler, Step
from repro.rddm.schedules import RDDMSchedule, indi

# DDIM with the network's noise kept is diffusers' default, with the noise made again from the cut image it is
# diffusers' use_clipped_model_output. Without clipping the two are one.
DDIM = {"ddim": False, "ddim-rederived": True}
RULES = {
    "ddim": "DDIM",
    "ddim-rederived": "DDIM, noise re-derived",
    "eq12": "RDDM, Eq. 12",
    "compose": "RDDM, compose",
    "rederive": "RDDM, rederive",
}


# -- RDDM and DDIM ----------------------------------------------------------------------------------------------------


def run(network: nn.Module, x_T: Tensor, steps: int, rule: str, clip: bool) -> Iterator[Any]:
    """Steps of a DDPM sampled from x_T by DDIM, or by RDDM with one of its rules and without retraining.

    Both visit diffusers' timesteps, eta = 0. A variance head of the network is left unread.
    """
    model, schedule = model_fn(network), LINEAR
    if rule in DDIM:
        return ddpm_samplers.ddim(model, x_T, schedule, steps, clip=clip, eps_from_clipped=DDIM[rule])
    sampler = Sampler(RDDMSchedule.from_ddpm(schedule), "noise", clip=2.0 if clip else None, rule=rule)
    noise_of = lambda x, t: prediction_part(model(x, t), x)  # noqa: E731
    return sampler.run(noise_of, x_T, torch.zeros_like(x_T), spaced(schedule.T, steps))


def draw(network: nn.Module, x_T: Tensor, steps: int, rule: str, clip: bool) -> Tensor:
    """The result of `run`."""
    return sample(run(network, x_T, steps, rule, clip))


def gaps(
    network: nn.Module, x_T: Tensor, steps: int, rule: str, other: str, *, clip: bool, dtype: torch.dtype
) -> list[Tensor]:
    """How far two rules are apart after each step from one start, (B, …) a step, for images in [-1, 1]."""
    # A copy, since the loaded one is shared; cast by torch, since diffusers' own cast warns of what is not there.
    network = nn.Module.to(copy.deepcopy(network), dtype)
    ours, theirs = (run(network, x_T.to(dtype), steps, each, clip) for each in (rule, other))
    return [(a.x - b.x).abs() for a, b in zip(ours, theirs, strict=True)]


# -- SM-Res and InDI --------------------------------------------------------------------------------------------------


def indi_gap(steps: int = 10) -> float:
    """Largest difference of SM-Res from InDI along one run, both with the same arbitrary predictor, float64.

    A step of InDI from time t to s is x_s = (t - s) / t x0 + (1 - (t - s) / t) x_t (Delbracio and Milanfar 2023,
    "Inversion by Direct Iteration").
    """
    schedule = indi()
    y, z = KeyedNoise(0, [0, 1], "oracle/indi").normal((2, 3, 8, 8)).double().unbind(1)

    def predict(x: Tensor, t: Tensor) -> Tensor:  # some nonlinear guess of the clean image
        return torch.tanh(0.7 * x.roll(1, -1) - 0.2 * y + t.double().view(-1, 1, 1, 1) / 1000)

    x, worst = process.start(y, z, schedule), 0.0
    for step in Sampler(schedule, "res", clip=None).run(lambda x, t: y - predict(x, t), x, y, steps):
        t, s = schedule.levels(step.t)[0], schedule.levels(step.t_prev)[0]
        x = (t - s) / t * predict(x, torch.full((len(x),), step.t)) + (1 - (t - s) / t) * x
        worst = max(worst, (x - step.x).abs().max().item())
    return worst


# -- states -----------------------------------------------------------------------------------------------------------


def path(steps: Iterable[Step], x0: Tensor, y: Tensor, eps: Tensor) -> list[tuple[float, float, float]]:
    """(a, b, rest) of every state of a run, the start first: least squares, x = x0 + a r + b eps + remainder.

    `rest` is the root mean square of the remainder: what is neither image, residual, nor the start's noise. Tensors
    of one shape, any range.
    """
    basis = torch.stack([(y - x0).flatten(), eps.flatten()], dim=1).double()  # (N, 2)
    run, places = list(steps), []
    for x in (run[0].x_t, *(step.x for step in run)):
        offset = (x - x0).flatten().double()
        a, b = solution = torch.linalg.lstsq(basis, offset).solution  # (2,)
        places.append((a.item(), b.item(), (offset - basis @ solution).square().mean().sqrt().item()))
    return places
