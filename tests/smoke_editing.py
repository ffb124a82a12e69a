"""Untrained smoke networks of notebook 02, laid where a clone keeps its weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from tiny_editing import tiny_autoencoder, tiny_network

from repro.editing.study.config import SMOKE
from repro.editing.study.experiments import VARIANTS, autoencoder_name, name_of, network_of
from repro.editing.study.pix2pix import Pix2PixGenerator
from repro.engine.checkpoint import save_checkpoint


def fill(home: Path, missing: Collection[str] = ()) -> None:
    """Every network of notebook 02 that ships, in `home`/checkpoints, but the variants `missing`."""
    made = {v: tiny_network(i, **network_of(SMOKE, v)) for i, v in enumerate(VARIANTS) if VARIANTS[v].ships}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made["pix2pix"] = Pix2PixGenerator(widths=SMOKE.pix2pix["widths"])
    named = {autoencoder_name("smoke"): tiny_autoencoder()}
    named |= {name_of(v, 0, "smoke"): network for v, network in made.items() if v not in missing}
    for name, network in named.items():
        save_checkpoint(home / "checkpoints" / name, network, {"images": 0})
