"""The trained network of notebook 05."""

from __future__ import annotations

from functools import partial

from repro.adir import prior
from repro.engine.recipe import Recipe
from repro.engine.registry import Experiment

PRIOR = "adir-prior-main-s0"
SMOKE = "adir-prior-smoke-main-s0"
TINY = {**prior.NETWORK, "base_channels": 8, "channel_mults": (1, 2), "attention_levels": (1,), "heads": 2}

# A constant learning rate under a long average: a run may be ended at any number of images that `images` then states.
RECIPE = Recipe(
    images=232_160, batch=16, lr=6e-4, warmup=5_000, decay="constant", ema=20_000, threads=1, save_every=8_000
)


def _experiment(name: str, profile: str, recipe: Recipe, ships: bool, network: dict) -> Experiment:
    return Experiment(
        name=name,
        room="adir",
        task_name="prior",
        variant="main",
        data="photos",
        profile=profile,
        seed=0,
        recipe=recipe,
        summary="DDPM of 64 px crops of photographs at several scales, learned-range variance",
        ships=ships,
        build=partial(prior.build, network),
        task=prior.task,
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    _experiment(PRIOR, "small", RECIPE, True, prior.NETWORK),
    _experiment(SMOKE, "smoke", Recipe(images=64, batch=16, threads=1), False, TINY),
)
