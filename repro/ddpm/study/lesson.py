"""What notebook 01 does live in each profile, as data: the notebook's cells read these numbers and ask nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from repro.engine import study
from repro.engine.recipe import Recipe


def _demo(images: int, batch: int) -> Recipe:
    return Recipe(
        images=images, batch=batch, lr=4e-3, warmup=images // 20, ema=images / 12, precision="fp32", threads=1
    )


_DEMO = _demo(19_200, 32)


@dataclass(frozen=True)
class Lesson(study.Lesson):
    """One profile of the notebook; the live cells of the paper profile are the small one's.

    `demo`      recipe of the small network trained in the notebook, with `demo_width` channels; `looks` images at
                which it is sampled.
    `drawn`     samples of the shipped network, sorted by class.   `few` pictures of side-by-side comparisons.
    `memory`    training pictures that the ideal denoiser of the live cells has memorised.
    `probes`    pictures per point of the denoising curve.   `photos`, `side`: crops of the metric traps.
    """

    demo: Recipe = _DEMO
    demo_width: int = 16
    looks: tuple[int, ...] = (1_600, 4_800, 9_600, 19_200)
    drawn: int = 120
    few: int = 8
    memory: int = 3_000
    probes: int = 32
    photos: int = 6
    side: int = 96


_NOTEBOOK = "01_ddpm_basics"
LESSONS = {
    "smoke": Lesson(
        "ddpm", _NOTEBOOK, "smoke", 0.3, check=False, demo=_demo(128, 32), demo_width=8, looks=(64, 128), drawn=12,
        few=2, memory=50, probes=2, photos=2, side=64,
    ),
    "small": Lesson("ddpm", _NOTEBOOK, "small", 1.9),
    "paper": Lesson("ddpm", _NOTEBOOK, "paper", 1.9, check=False),
}  # fmt: skip


def lesson(profile: str) -> Lesson:
    """The lesson of that profile."""
    return study.lesson(LESSONS, profile)  # type: ignore[return-value]
