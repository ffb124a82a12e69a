"""Claim R4 measured on notebook 01's trained DDPM: do RDDM and DDIM draw the same pictures?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from repro.data import pack
from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm.config import SMALL as DDPM
from repro.ddpm.experiments import CLASSIFIER, schedule_of
from repro.ddpm.experiments import MAIN as DDPM_MODEL
from repro.ddpm.process import model_fn
from repro.ddpm.sampling import start_noise
from repro.ddpm.scores import Metrics, replicated
from repro.ddpm.steps import sample
from repro.engine.checkpoint import load_checkpoint, weights_hash
from repro.engine.evaluation import Row, trained
from repro.rddm.config import RDDMConfig
from repro.rddm.samplers import NO_CLIP, Clip
from repro.rddm.transform import ddpm_by_rddm

# DDIM with the network's noise kept is diffusers' default, with the noise made again from the cut picture it is
# diffusers' use_clipped_model_output. Without clipping the two are one.
DDIM = {"ddim": False, "ddim-rederived": True}
RULES = (*DDIM, "eq12", "compose", "rederive")
# What sets are drawn by. The other rules draw DDIM's own pictures, as the comparisons below show.
MEASURED = (("ddim", True), ("eq12", True), ("ddim", False), ("eq12", False))
# (rule, clip, compared with, dtype)
COMPARISONS = (
    ("eq12", False, "ddim", "float64"),
    ("eq12", False, "ddim", "float32"),
    ("eq12", True, "ddim", "float64"),
    ("eq12", True, "ddim", "float32"),
    ("eq12", True, "ddim-rederived", "float64"),
    ("compose", True, "ddim", "float64"),
    ("rederive", True, "ddim-rederived", "float64"),
)
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


def rows(config: RDDMConfig) -> list[Row]:
    """Sets of pictures by every rule and number of steps, and how far apart the same pictures are."""
    if not (trained(DDPM_MODEL) and trained(CLASSIFIER)):
        return []
    task = config.tasks["fashion"]
    found = []
    for steps in task.sweep:
        for rule, clip in MEASURED:
            cell = {"task": "transfer", "rule": rule, "clip": clip, "steps": steps}
            measure = partial(replicated, partial(_drawn, steps, rule, clip), task.n, task.replicates)
            found.append(_row(config, cell, measure, task.n, task.k))
        for rule, clip, other, dtype in COMPARISONS:
            cell = {"task": "equality", "rule": rule, "with": other, "clip": clip, "dtype": dtype, "steps": steps}
            found.append(_row(config, cell, partial(_gap, steps, rule, clip, other, dtype), COMPARED, 2))
    return found


def _row(config: RDDMConfig, cell: dict, measure: Callable, n: int, k: int) -> Row:
    return Row(
        "rddm",
        DDPM_MODEL,
        cell,
        measure,
        n=n,
        data=_data(),
        k=k,
        profile=config.name,
        weights=weights_hash(DDPM_MODEL),
    )


@lru_cache(maxsize=1)
def _data() -> str:
    return pack.file_hash(pack.PACK / "fashion_mnist_subset.npz")


def _drawn(steps: int, rule: str, clip: bool, ids: range) -> Tensor:
    parts = start_noise(ids, (1, 28, 28)).split(100)
    return torch.cat([draw(load_checkpoint(DDPM_MODEL), x_T, steps, rule, clip) for x_T in parts])


def _gap(steps: int, rule: str, clip: bool, other: str, dtype: str, k: int | None) -> Metrics:
    """Largest and mean difference of each picture from DDIM's, pixels in [-1, 1]."""
    kind = getattr(torch, dtype)
    model = nn.Module.to(copy.deepcopy(load_checkpoint(DDPM_MODEL)), kind)  # a copy: the loaded one is shared
    x_T = start_noise(range(k or COMPARED), (1, 28, 28)).to(kind)
    gap = (draw(model, x_T, steps, rule, clip) - draw(model, x_T, steps, other, clip)).abs().flatten(1)
    return {DIFFERENCE: gap.amax(dim=1).tolist(), MEAN_DIFFERENCE: gap.mean(dim=1).tolist()}
