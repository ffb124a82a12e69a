"""The profiles of notebook 02, as data: what is learned from what, how it is sampled and measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from repro.editing.benchmark import BENCH, TINY, Bench
from repro.engine.recipe import Recipe
from repro.errors import ReproError

# The schedule of latent diffusion models; its last alpha_bar is 0.0047, not 0.
SCHEDULE: dict[str, Any] = {"name": "scaled_linear", "T": 1000, "beta_1": 0.00085, "beta_T": 0.012}


@dataclass(frozen=True)
class EditingConfig:
    """One profile.

    `bench`        the benchmark's build.
    `autoencoder`  arguments of `repro.editing.autoencoder.Autoencoder`, and its recipe.
    `network`      arguments of `repro.editing.model.EditingNet` that all variants share; `recipe` likewise: equal
                   budgets. The same number of images goes to the generator of pix2pix.
    `pix2pix`      arguments of `repro.editing.pix2pix.Pix2Pix`, and its recipe.
    `steps`        of DDIM.
    `k`            pictures of the check that every `make reproduce` repeats.
    """

    name: str
    bench: Bench
    autoencoder: dict[str, Any]
    autoencoder_recipe: Recipe
    network: dict[str, Any]
    recipe: Recipe
    pix2pix: dict[str, Any]
    pix2pix_recipe: Recipe
    steps: int = 10
    schedule: dict[str, Any] = field(default_factory=lambda: dict(SCHEDULE))
    k: int = 1


_RECIPE = Recipe(images=100_000, batch=16, lr=3e-3, warmup=2_000, ema=3_000, threads=1, save_every=8_000)
SMALL = EditingConfig(
    name="small",
    bench=BENCH,
    autoencoder={"width": 64, "channels": 8, "codes": 1024},
    autoencoder_recipe=Recipe(images=64_000, batch=16, lr=2e-3, warmup=1_000, ema=2_000, threads=1, save_every=4_000),
    network={"channels": 8, "widths": (32, 32, 32), "attention_levels": (2,), "heads": 1, "context": 64},
    recipe=_RECIPE,
    pix2pix={},
    # Isola et al.'s momentum; not clipped: the weight 100 of l1 would scale the discriminator's gradient down with it
    pix2pix_recipe=replace(_RECIPE, lr=1.5e-3, betas=(0.5, 0.999), clip=0.0),
)
_QUICK = Recipe(images=128, batch=8, lr=2e-3, ema=100, threads=1, save_every=64)
SMOKE = EditingConfig(
    name="smoke",
    bench=TINY,
    autoencoder={"width": 16, "channels": 4, "codes": 32},
    autoencoder_recipe=_QUICK,
    network={"channels": 4, "widths": (16, 16), "attention_levels": (1,), "heads": 1, "context": 16},
    recipe=_QUICK,
    pix2pix={"widths": (8, 8, 16), "critic": 4},
    pix2pix_recipe=replace(_QUICK, clip=0.0),
    steps=2,
)
PROFILES = {c.name: c for c in (SMOKE, SMALL)}


def profile(name: str) -> EditingConfig:
    """The profile of that name."""
    if name not in PROFILES:
        raise ReproError(f"unknown profile {name!r}: there are {', '.join(PROFILES)}, paper")
    return PROFILES[name]
