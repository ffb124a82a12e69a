"""Samples by number: the same sample whatever batch, process or order it is drawn in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from repro.ddpm import samplers
from repro.ddpm.process import model_fn
from repro.ddpm.schedules import Schedule
from repro.ddpm.steps import Guide
from repro.engine.rng import KeyedNoise

SAMPLERS = ("ddpm", "ddpm-large", "ddpm-learned", "ddim")
VARIANCE = {"ddpm": "fixed_small", "ddpm-large": "fixed_large", "ddpm-learned": "learned_range"}


def start_noise(ids: range, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """x_T of the samples `ids`: (len(ids), *shape) standard normals."""
    return KeyedNoise(seed, list(ids), "sample/x_T").normal(shape)


def draw(
    model: nn.Module,
    schedule: Schedule,
    ids: range,
    sampler: str,
    steps: int,
    eta: float = 0.0,
    seed: int = 0,
    batch: int = 100,
    shape: tuple[int, ...] = (1, 28, 28),
    guide: Callable[[range], Guide] | None = None,
    device: torch.device | str = "cpu",
    **settings: Any,
) -> Tensor:
    """Samples `ids` in [-1, 1], (len(ids), C, H, W). `guide(ids)` makes the guidance of a batch; `settings` go to the
    sampler."""
    parts = []
    for first in range(ids.start, ids.stop, batch):
        some = range(first, min(first + batch, ids.stop))
        x_T = start_noise(some, shape, seed).to(device)
        noise = KeyedNoise(seed, list(some), "sample/noise", device)
        extra = {**settings, "guide": guide(some)} if guide else settings
        if sampler == "ddim":
            run = samplers.ddim(model_fn(model), x_T, schedule, steps, eta=eta, noise=noise, **extra)
        else:
            variance = VARIANCE[sampler]
            run = samplers.ancestral(model_fn(model), x_T, schedule, noise, steps, variance=variance, **extra)
        parts.append(samplers.sample(run))
    return torch.cat(parts)
