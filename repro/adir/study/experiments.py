"""The trained network of notebook 05."""

from __future__ import annotations

from repro.adir import prior
from repro.engine.recipe import Recipe
from repro.engine.registry import Experiment

PRIOR = "adir-prior-main-s0"

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name=PRIOR,
        room="adir",
        task_name="prior",
        variant="main",
        data="photos",
        profile="small",
        seed=0,
        recipe=Recipe(images=320_000, batch=32, lr=1e-3, warmup=10_000, ema=15_000, threads=1, save_every=16_000),
        summary="DDPM of 64 px crops of photographs at several scales, learned-range variance",
        ships=True,
        build=prior.build,
        task=prior.task,
    ),
)
