"""What notebook 01 does live in each profile, as data: the notebook's cells read these numbers and ask nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from repro import paths
from repro.ddpm.config import PAPER, SMALL, SMOKE, DDPMConfig
from repro.ddpm.experiments import MAIN, PAPER_MODEL
from repro.engine.recipe import Recipe
from repro.errors import ReproError


@dataclass(frozen=True)
class Lesson:
    """One profile of the notebook.

    `config`    the profile of the records that the tables show; `network` and `real` name the experiments behind the
                rows of the trained network and of real pictures.
    `home`      where tables and pictures go, under the clone's root; the default profile alone writes what ships.
    `recheck`   whether the first k samples of every record are sampled again (the tables then say so).
    `minutes`   measured duration on two cores.
    `demo`      recipe of the small network trained in the notebook, with `demo_width` channels; `looks` images at
                which it is sampled.
    `drawn`     samples of the shipped network, sorted by class.   `few` pictures of side-by-side comparisons.
    `memory`    training pictures that the ideal denoiser of the live cells has memorised.
    `probes`    pictures per point of the denoising curve.   `photos`, `side`: crops of the metric traps.
    """

    config: DDPMConfig
    network: str
    real: str
    home: str
    recheck: bool
    minutes: float
    demo: Recipe
    demo_width: int
    looks: tuple[int, ...]
    drawn: int
    few: int
    memory: int
    probes: int
    photos: int
    side: int

    @property
    def figures(self) -> Path:
        """Where this profile's tables and pictures go."""
        return paths.root() / self.home


def _demo(images: int, batch: int) -> Recipe:
    return Recipe(
        images=images, batch=batch, lr=4e-3, warmup=images // 20, ema=images / 12, precision="fp32", threads=1
    )


_SMALL = Lesson(
    config=SMALL,
    network=MAIN,
    real="baseline-real",
    home="figures",
    recheck=True,
    minutes=1.9,
    demo=_demo(19_200, 32),
    demo_width=16,
    looks=(1_600, 4_800, 9_600, 19_200),
    drawn=120,
    few=8,
    memory=3_000,
    probes=32,
    photos=6,
    side=96,
)

LESSONS = {
    "smoke": Lesson(
        config=SMOKE,
        network=MAIN,
        real="baseline-real",
        home="build/smoke",
        recheck=False,
        minutes=0.3,
        demo=_demo(128, 32),
        demo_width=8,
        looks=(64, 128),
        drawn=12,
        few=2,
        memory=50,
        probes=2,
        photos=2,
        side=64,
    ),
    "small": _SMALL,
    # The live cells are the small ones: what paper scale changes is whose records stand in the tables.
    "paper": dataclasses.replace(
        _SMALL,
        config=PAPER,
        network=PAPER_MODEL,
        real=f"baseline-real-{PAPER.data}",
        home="build/paper",
        recheck=False,
    ),
}


def lesson(profile: str) -> Lesson:
    """The lesson of that profile."""
    if profile not in LESSONS:
        raise ReproError(f"unknown profile {profile!r}: there are {', '.join(LESSONS)}")
    return LESSONS[profile]
