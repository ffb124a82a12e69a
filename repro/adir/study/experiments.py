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
        recipe=Recipe(
            images=400_000, batch=16, lr=6e-4, warmup=5_000, decay="constant", ema=20_000, threads=1, save_every=8_000
        ),
        summary="DDPM of 64 px crops of photographs at several scales, learned-range variance",
        ships=True,
        build=prior.build,
        task=prior.task,
    ),
)
