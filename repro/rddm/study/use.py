"""The networks for use: what playgrounds and `RDDMPipeline.shipped` restore a reader's own photographs with.

The networks that answer the paper's questions are small and of equal size, and know the narrow degradations that they
are measured on. These are larger and trained longer, on degradations made to look like real dark and wet photographs
(`repro.data.degradations`). Everything about them was chosen on the validation split.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from repro.data.images import to_model, to_unit
from repro.engine.recipe import Recipe
from repro.engine.rng import KeyedNoise
from repro.metrics import protocols
from repro.rddm.study.config import QUIET, TaskConfig
from repro.rddm.tasks import DEGRADATIONS, Learning

VARIANT = "use"
# Narrow where positions are many: as good on validation photographs as 32 channels of multiples 1, 1, 2, 2, and faster.
_NETWORK: dict[str, Any] = {
    "channels": 3,
    "base_channels": 16,
    "channel_mults": (1, 2, 4, 5),
    "blocks": 1,
    "attention_levels": (3,),
    "heads": 4,
    "patch": 2,
    "input_skip": True,
}
_RECIPE = Recipe(images=56_000, batch=16, lr=1e-3, warmup=1_000, ema=2_500, threads=1, save_every=4_000)
USE: dict[str, TaskConfig] = {
    "lowlight": TaskConfig(
        name="lowlight",
        degradation="lowlight-wide",
        network=_NETWORK,
        recipe=replace(_RECIPE, images=40_000),
        norm="l2",
        steps=2,
        sweep=(1, 2, 5),
        crop=80,
        schedule=QUIET,
    ),
    "raindrop": TaskConfig(
        name="raindrop",
        degradation="raindrop-wide",
        network=_NETWORK,
        recipe=_RECIPE,
        norm="l2",
        steps=2,
        sweep=(1, 2, 5),
        crop=64,
        schedule=QUIET,
    ),
}


def score(task: TaskConfig, learning: Learning, network: nn.Module) -> dict[str, str]:
    """PSNR and LPIPS on the validation photographs, for the card: of the degraded input and of the result."""
    from repro.rddm.sampling import restore
    from repro.rddm.study.experiments import photographs

    found: dict[str, list[float]] = {}
    for name, clean in zip(*photographs("validation", task.side), strict=True):
        given = DEGRADATIONS[task.degradation](clean[None], lambda p, name=name: KeyedNoise(0, [name], p))
        output = to_unit(restore(network, to_model(given), [name], learning, task.steps))
        for protocol in ("psnr/rgb", "lpips/alex-v0.1"):
            for what, picture in (("input", given), ("result", output)):
                score = protocols.score(protocol, picture, clean[None]).item()
                found.setdefault(f"{protocol}, {what}, validation", []).append(score)
    return {what: f"{sum(values) / len(values):.3f}" for what, values in found.items()}
