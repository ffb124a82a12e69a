"""The three profiles of notebook 01, as data: nothing in the method asks which one runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from repro.engine.recipe import Recipe
from repro.errors import ReproError


@dataclass(frozen=True)
class DDPMConfig:
    """One profile.

    `data`      what is learned: "fashion" (embedded) or "cifar10" (downloaded).
    `network`   arguments of the network class `network_class` ("repro.nn.unet.UNet" or diffusers' "UNet2DModel").
    `schedule`  name and arguments of the noise schedule.
    `n`         pictures in one replicate of a row; `replicates` disjoint sets of sampling noise, five at least for an
                interval.
    `k`         pictures that `make reproduce` samples again for each row.
    """

    name: str
    data: str
    channels: int
    size: int
    network_class: str
    network: dict[str, Any]
    schedule: dict[str, Any]
    recipe: Recipe
    n: int = 500
    replicates: int = 1
    k: int = 16
    batch: int = 100
    notes: tuple[str, ...] = field(default=())


_LINEAR = {"name": "linear", "T": 1000, "beta_1": 1e-4, "beta_T": 0.02}

SMALL = DDPMConfig(
    name="small",
    data="fashion",
    channels=1,
    size=28,
    network_class="repro.nn.unet.UNet",
    network={
        "in_channels": 1,
        "out_channels": 2,  # noise and variance
        "base_channels": 32,
        "channel_mults": (1, 2),
        "blocks": 2,
        "attention_levels": (1,),
        "heads": 2,
        "patch": 2,
        "sample_size": 28,
    },
    schedule=_LINEAR,
    recipe=Recipe(images=384_000, batch=64, lr=1e-3, warmup=10_000, ema=20_000, threads=1, save_every=25_000),
    n=100,
    replicates=5,
    k=16,
)

SMOKE = DDPMConfig(
    name="smoke",
    data="fashion",
    channels=1,
    size=28,
    network_class="repro.nn.unet.UNet",
    network={**SMALL.network, "base_channels": 8, "blocks": 1, "attention_levels": ()},
    schedule=_LINEAR,
    recipe=Recipe(images=512, batch=32, lr=1e-3, ema=200, threads=1, save_every=256),
    n=8,
    replicates=1,
    k=4,
    batch=8,
)

# Ho et al., "Denoising Diffusion Probabilistic Models": section 4 and appendix B, the CIFAR-10 model.
PAPER = DDPMConfig(
    name="paper",
    data="cifar10",
    channels=3,
    size=32,
    network_class="diffusers.UNet2DModel",
    network={
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 2,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,  # one head over all channels
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
        "dropout": 0.1,
    },
    schedule=_LINEAR,
    recipe=Recipe(
        images=800_000 * 128,
        batch=128,
        lr=2e-4,
        warmup=5_000 * 128,
        decay="constant",
        betas=(0.9, 0.999),
        ema=128 * 6931,  # decay 0.9999 a step
        precision="bf16",
        threads=16,
        save_every=1_000_000,
    ),
    n=50_000,
    replicates=1,
    k=64,
    batch=500,
    notes=("the paper trains in fp32 and reports FID 3.17, IS 9.46 on 50,000 samples of 1000 ancestral steps",),
)

PROFILES = {c.name: c for c in (SMOKE, SMALL, PAPER)}


def profile(name: str) -> DDPMConfig:
    """The profile of that name."""
    if name not in PROFILES:
        raise ReproError(f"unknown profile {name!r}: there are {', '.join(PROFILES)}")
    return PROFILES[name]
