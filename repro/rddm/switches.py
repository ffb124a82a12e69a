"""Choices that the report leaves to the code, one changed at a time, and the experiments behind claim R2."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import nn

from repro.ddpm.process import Model, model_fn
from repro.rddm.config import TaskConfig
from repro.rddm.samplers import PUBLISHED_CLIP
from repro.rddm.schedules import by_config
from repro.rddm.settings import CONVERTED
from repro.rddm.tasks import Learning
from repro.rddm.transform import matched

# Where SM-N may start: at T - 1 = 999 it divides by 1 - abar_T = 0.
STARTS = (990, 950, 900, 800, 700)
GENERATION_STARTS = (950, 900, 800)


def of(task: TaskConfig, variant: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(cell, settings of the sampler) of the switches that a variant is measured with, at the task's own steps."""
    if variant == "smn":
        for start in STARTS:
            yield {"switch": "start", "start": start, "steps": task.steps}, {"start": start}
    if variant == "smresn":
        for head in ("res", "noise"):
            yield {"switch": "one head at the end", "sample_as": head, "steps": task.steps}, {"sample_as": head}
        for start in STARTS[1::2]:
            cell = {"switch": "one head", "sample_as": "noise", "start": start, "steps": task.steps}
            yield cell, {"sample_as": "noise", "start": start}
    if variant in ("smres", "smresn"):
        yield {"switch": "clip ±1", "steps": task.steps}, {"clip": PUBLISHED_CLIP}
    if variant == "smres":
        yield {"switch": "start noise 0.1", "steps": task.steps}, {"sum_scale": 0.01}


def of_generation(
    task: TaskConfig, variant: str, network: nn.Module, learning: Learning
) -> Iterator[tuple[dict[str, Any], Model | nn.Module, Learning, dict[str, Any]]]:
    """(cell, model, learning, settings of the sampler): a trained generator on the coefficients converted from DDPM.

    Which coefficients the report's faces were drawn with is not said. On another schedule the network is told either
    that schedule's timestep, as when coefficients are "readjusted", or the one at which it has seen such states.
    """
    converted = dataclasses.replace(learning, schedule=by_config(**CONVERTED))
    model = matched(model_fn(network), learning.schedule, converted.schedule)
    for told, net in (("own", network), ("matched", model)):
        yield {"switch": "converted", "told": told, "steps": task.steps}, net, converted, {}
    if variant == "smn":
        for start in GENERATION_STARTS:
            yield {"switch": "start", "start": start, "steps": task.steps}, network, learning, {"start": start}
