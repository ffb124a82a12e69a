"""The profiles of notebook 03, as data: what is learned, how it is measured, at which size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from repro.engine.recipe import Recipe
from repro.errors import ReproError

# The schedule of the released restoration code: decreased alpha, increased beta^2, noise of variance 1 at the end.
RESTORATION: dict[str, Any] = {"T": 1000, "alpha": "decreased", "beta2": "increased", "sum_scale": 1.0}
# The same with the report's example of a restoration's noise. The released RainDrop configuration has 1, as low light
# has here; networks of this size then leave so much noise behind that every further step lost quality on drops.
QUIET = {**RESTORATION, "sum_scale": 0.01}
LINEAR_DDPM: dict[str, Any] = {"name": "linear", "T": 1000, "beta_1": 1e-4, "beta_T": 0.02}


@dataclass(frozen=True)
class TaskConfig:
    """One task of a profile.

    `degradation`  "lowlight", "raindrop", or "none" (generation: I_in = 0).
    `network`      arguments of `repro.rddm.model.RDDMNet`, objective and layout left out.
    `crop`         side of the training crops in pixels; `side` the shorter side of whole pictures (0: as they come).
    `norm`         of the loss: l2 as in Eq. 14. The released code takes l1 for restoration. (A first network here, with
                   l1 and without `input_skip`, left the drops alone: where it is unsure, l1 asks for no change.)
    `steps`        sampling steps of the main table; `sweep` those of the curve over steps.
    `n`, `replicates`, `k`  generation: samples in a set, sets, samples of the check; restoration: k pictures.
    """

    name: str
    degradation: str
    network: dict[str, Any]
    recipe: Recipe
    norm: str
    steps: int
    sweep: tuple[int, ...]
    channels: int = 3
    crop: int = 64
    side: int = 256
    schedule: dict[str, Any] = field(default_factory=lambda: dict(RESTORATION))
    n: int = 0
    replicates: int = 1
    k: int = 1
    limit: int = 0  # pictures used at most (0: all)


@dataclass(frozen=True)
class RDDMConfig:
    """One profile: its tasks by name. `seeds` are the noise seeds of the diversity rows."""

    name: str
    tasks: dict[str, TaskConfig]
    seeds: tuple[int, ...] = (0, 1, 2, 3)


_RESTORATION_NET = {
    "channels": 3,
    "base_channels": 16,
    "channel_mults": (1, 1, 2, 2),
    "blocks": 1,
    "attention_levels": (3,),
    "heads": 2,
    "patch": 2,
    "input_skip": True,  # 12 numbers a position would not fit through 16 channels
}
_GENERATION_NET = {
    "channels": 1,
    "condition": False,
    "base_channels": 20,
    "channel_mults": (1, 2),
    "blocks": 1,
    "attention_levels": (1,),
    "heads": 2,
    "norm_groups": 4,
    "patch": 2,
}
_CROPS = Recipe(images=80_000, batch=16, lr=1e-3, warmup=2_000, ema=4_000, threads=1, save_every=8_000)
_WIDE = replace(_CROPS, images=36_000, batch=8, warmup=1_000, ema=2_000, save_every=4_000)  # as many pixels

SMALL = RDDMConfig(
    name="small",
    tasks={
        "fashion": TaskConfig(
            name="fashion",
            degradation="none",
            network=_GENERATION_NET,
            recipe=Recipe(images=192_000, batch=64, lr=1.5e-3, warmup=8_000, ema=12_000, threads=1, save_every=20_000),
            norm="l2",
            steps=10,
            sweep=(5, 10, 20, 50, 100),
            channels=1,
            crop=28,
            side=28,
            n=100,
            replicates=5,
            k=16,
        ),
        "lowlight": TaskConfig(
            name="lowlight",
            degradation="lowlight",
            network=_RESTORATION_NET,
            recipe=_WIDE,
            crop=96,  # brightness is a property of the scene: a small crop does not tell it
            norm="l2",
            steps=2,
            sweep=(1, 2, 5, 10),
        ),
        "raindrop": TaskConfig(
            name="raindrop",
            degradation="raindrop",
            network=_RESTORATION_NET,
            recipe=_CROPS,
            norm="l2",
            steps=5,
            sweep=(1, 2, 5, 10),
            schedule=QUIET,
        ),
    },
)

_TINY = {**_RESTORATION_NET, "base_channels": 8, "channel_mults": (1, 1), "attention_levels": ()}
_QUICK = Recipe(images=256, batch=8, lr=2e-3, ema=100, threads=1, save_every=128)
SMOKE = RDDMConfig(
    name="smoke",
    tasks={
        "fashion": TaskConfig(
            name="fashion",
            degradation="none",
            network={**_GENERATION_NET, "base_channels": 8, "attention_levels": ()},
            recipe=_QUICK,
            norm="l2",
            steps=2,
            sweep=(2, 3),
            channels=1,
            crop=28,
            side=28,
            n=8,
            k=4,
        ),
        "lowlight": TaskConfig("lowlight", "lowlight", _TINY, _QUICK, "l2", 2, (1, 2), crop=32, side=64, limit=2),
        "raindrop": TaskConfig("raindrop", "raindrop", _TINY, _QUICK, "l2", 2, (1, 2), crop=32, side=64, limit=2),
    },
    seeds=(0, 1),
)

PROFILES = {c.name: c for c in (SMOKE, SMALL)}


def profile(name: str) -> RDDMConfig:
    """The profile of that name."""
    if name not in PROFILES:
        raise ReproError(f"unknown profile {name!r}: there are {', '.join(PROFILES)}, paper")
    return PROFILES[name]
