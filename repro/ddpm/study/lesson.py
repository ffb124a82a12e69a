"""What notebook 01 does live in each profile, as data: its cells read these numbers and nothing else; its exercises.

`demo`      recipe of the small network trained in the notebook, with `demo_width` channels; `looks` images at which it
            is sampled.
`drawn`     samples of the shipped network, sorted by class.   `few` images of side-by-side comparisons.
`memory`    training images that the ideal denoiser of the live cells has memorised.
`probes`    images per point of the denoising curve.   `photos`, `side`: crops of the metric traps.

The live cells of the paper profile are the small one's.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from repro.ddpm import process, samplers
from repro.ddpm.schedules import linear
from repro.engine import exercises, study
from repro.engine.exercises import Exercise, Judge, like, same, tensors
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


# -- exercises ---------------------------------------------------------------------------------------------------------


def _half() -> Judge:
    crossing = int((linear().alpha_bar < 0.5).nonzero()[0])
    return lambda answer: answer == crossing


def _estimate() -> Judge:
    right = lambda x_t, eps, a, s: process.to_x0(eps, x_t, a, s, "epsilon")  # noqa: E731
    return like(right, (*tensors(2), 0.6, 0.8), (*tensors(2), 0.8, 0.6))


def _ddim() -> Judge:
    (x_t, eps), ab = tensors(2), linear().alpha_bar
    wanted = next(samplers.ddim(lambda x, t: eps, x_t, linear(), [700, 300], clip=False)).x
    return lambda answer: same(answer(x_t, eps, float(ab[700]), float(ab[300])), wanted)


def _gaussian() -> Judge:
    right = lambda x_t, a, s, sigma: s / (a * a * sigma * sigma + s * s) * x_t  # noqa: E731
    return like(right, (*tensors(1), 0.6, 0.8, 0.5), (*tensors(1), 0.8, 0.6, 2.0))


EXERCISES: dict[str, Exercise] = {
    "half": ("the first t with more noise than signal", _half, "compare alpha_bar with 1 - alpha_bar, not their roots"),
    "estimate": ("x0 from x_t and the noise", _estimate, "solve x_t = a x0 + s eps for x0"),
    "ddim": ("one DDIM step", _ddim, "go to x0 first, then noise it again with the same eps, to the other level"),
    "gaussian": ("the best noise predictor for N(0, sigma²)", _gaussian, "eps and x_t are jointly Gaussian: Cov / Var"),
    "calls": (
        "network calls of a refined inversion",
        lambda: lambda answer: math.isclose(answer, 50 * (1 + 3) + 50),
        "count the calls of one step of each direction",
    ),
}
check = partial(exercises.check, among=EXERCISES)
