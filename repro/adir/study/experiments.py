"""The trained networks of notebook 05."""

from dataclasses import replace
from functools import partial

from repro.adir import adapt
from repro.engine.checkpoint import Experiment
from repro.engine.train import Recipe
from repro.nn.unet import UNet

SMOKE = "adir-prior-smoke-main-s0"
TINY = {**adapt.NETWORK, "base_channels": 8, "channel_mults": (1, 2), "attention_levels": (1,), "heads": 2}

SMALL = Experiment(
    name=adapt.PRIOR, room="adir", task_name="prior", variant="main", data="photos", profile="small", seed=0,
    recipe=Recipe(images=544_000, batch=64, lr=1e-3, warmup=12_800, ema=32_000, save_every=32_000),
    summary="DDPM of 64 px crops of photographs at several scales, learned-range variance",
    ships=True, build=partial(UNet, **adapt.NETWORK), task=adapt.PriorTask,
)  # fmt: skip
FOR_USE = replace(
    SMALL, name=adapt.USE, variant="use", recipe=Recipe(images=96_000, batch=64, lr=1e-3, warmup=3_200, ema=6_000),
    summary="the prior for use: low-rank factors of rank 8 on the main one, learned with recoloured photographs",
    build=adapt.Adapted, task=partial(adapt.PriorTask, adapt.RECOLOURED),
)  # fmt: skip
FEW = {"recipe": Recipe(images=64, batch=16), "ships": False, "build": partial(UNet, **TINY)}
EXPERIMENTS = (SMALL, FOR_USE, replace(SMALL, name=SMOKE, profile="smoke", **FEW))  # type: ignore[arg-type]
