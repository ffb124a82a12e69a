"""What notebook 01 does live in each profile, as data: the notebook's cells read these numbers and ask nothing else.

`demo`      recipe of the small network trained in the notebook, with `demo_width` channels; `looks` images at which it
            is sampled.
`drawn`     samples of the shipped network, sorted by class.   `few` images of side-by-side comparisons.
`memory`    training images that the ideal denoiser of the live cells has memorised.
`probes`    images per point of the denoising curve.   `photos`, `side`: crops of the metric traps.

The live cells of the paper profile are the small one's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from repro.engine import study
from repro.engine.recipe import Recipe
from repro.engine.study import Lesson


def _demo(images: int) -> Recipe:
    return Recipe(images=images, batch=32, lr=4e-3, warmup=images // 20, ema=images / 12, precision="fp32", threads=1)


_SMALL: dict[str, Any] = {
    "demo": _demo(19_200), "demo_width": 16, "looks": (1_600, 4_800, 9_600, 19_200), "drawn": 120, "few": 8,
    "memory": 3_000, "probes": 32, "photos": 6, "side": 96,
}  # fmt: skip
_SMOKE: dict[str, Any] = {
    "demo": _demo(128), "demo_width": 8, "looks": (64, 128), "drawn": 12, "few": 2, "memory": 50, "probes": 2,
    "photos": 2, "side": 64,
}  # fmt: skip
_of = partial(Lesson, "ddpm", "01_ddpm_basics")
LESSONS = {
    "smoke": _of("smoke", 0.3, _SMOKE, check=False),
    "small": _of("small", 1.9, _SMALL),
    "paper": _of("paper", 1.9, _SMALL, check=False),
}


def lesson(profile: str) -> Lesson:
    """The lesson of that profile."""
    return study.lesson(LESSONS, profile)
