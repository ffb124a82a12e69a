"""Claim R4 measured on notebook 01's trained DDPM: do RDDM and DDIM draw the same pictures?"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import start_noise
from repro.ddpm.steps import sample
from repro.ddpm.study.config import SMALL as DDPM
from repro.ddpm.study.experiments import MAIN as DDPM_MODEL
from repro.ddpm.study.experiments import schedule_of
from repro.engine.checkpoint import load_checkpoint
from repro.engine.records import Values
from repro.rddm.samplers import NO_CLIP, Clip
from repro.rddm.transform import ddpm_by_rddm

# DDIM with the network's noise kept is diffusers' default, with the noise made again from the cut picture it is
# diffusers' use_clipped_model_output. Without clipping the two are one.
DDIM = {"ddim": False, "ddim-rederived": True}
RULES = (*DDIM, "eq12", "compose", "rederive")
DIFFERENCE, MEAN_DIFFERENCE = "max_abs_difference", "mean_abs_difference"
COMPARED = 8  # samples whose pixels are compared


def draw(model: nn.Module, x_T: Tensor, steps: int, rule: str, clip: bool) -> Tensor:
    """A DDPM sampled from x_T by DDIM, or by RDDM with one of its rules; both visit diffusers' timesteps, eta = 0."""
    schedule = schedule_of(DDPM)
    if rule in DDIM:
        run = ddpm_samplers.ddim(model_fn(model), x_T, schedule, steps, clip=clip, eps_from_clipped=DDIM[rule])
        return sample(run)
    cut = Clip() if clip else NO_CLIP
    return sample(ddpm_by_rddm(model_fn(model), x_T, schedule, steps, clip=cut, rule=rule))  # type: ignore[arg-type]


def drawn(steps: int, rule: str, clip: bool, ids: range) -> Tensor:
    """Samples by number."""
    parts = start_noise(ids, (1, 28, 28)).split(100)
    return torch.cat([draw(load_checkpoint(DDPM_MODEL), x_T, steps, rule, clip) for x_T in parts])


def gap(steps: int, rule: str, clip: bool, other: str, dtype: str, k: int | None) -> Mapping[str, Values]:
    """Largest and mean difference of each picture from that of another rule, pixels in [-1, 1]."""
    kind = getattr(torch, dtype)
    model = nn.Module.to(copy.deepcopy(load_checkpoint(DDPM_MODEL)), kind)  # a copy: the loaded one is shared
    x_T = start_noise(range(k or COMPARED), (1, 28, 28)).to(kind)
    found = (draw(model, x_T, steps, rule, clip) - draw(model, x_T, steps, other, clip)).abs().flatten(1)
    return {DIFFERENCE: found.amax(dim=1).tolist(), MEAN_DIFFERENCE: found.mean(dim=1).tolist()}
