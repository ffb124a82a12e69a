"""The trained network of notebook 05."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from repro.adir import prior
from repro.engine.recipe import Recipe
from repro.engine.registry import Experiment
from repro.nn.unet import UNet

SMOKE = "adir-prior-smoke-main-s0"
TINY = {**prior.NETWORK, "base_channels": 8, "channel_mults": (1, 2), "attention_levels": (1,), "heads": 2}

SMALL = Experiment(
    name=prior.NAME, room="adir", task_name="prior", variant="main", data="photos", profile="small", seed=0,
    # a constant learning rate under a long average: a run may be ended at any number of images, which stands here
    recipe=Recipe(images=232_160, batch=16, lr=6e-4, warmup=5_000, decay="constant", ema=20_000, save_every=8_000),
    summary="DDPM of 64 px crops of photographs at several scales, learned-range variance",
    ships=True, build=partial(UNet, **prior.NETWORK), task=prior.PriorTask,
)  # fmt: skip
FEW = {"recipe": Recipe(images=64, batch=16), "ships": False, "build": partial(UNet, **TINY)}
EXPERIMENTS = (SMALL, replace(SMALL, name=SMOKE, profile="smoke", **FEW))  # type: ignore[arg-type]
