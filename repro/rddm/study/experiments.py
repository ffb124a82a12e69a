"""The trained networks of notebook 03: three strategies on three tasks, two baselines, ablations, paper scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from torch import Tensor

from repro.data import pack
from repro.data.images import resize
from repro.ddpm.schedules import by_name
from repro.engine.recipe import Recipe, Task
from repro.engine.registry import Experiment
from repro.rddm.model import Layout, RDDMNet
from repro.rddm.objectives import Objective
from repro.rddm.schedules import RDDMSchedule, by_config
from repro.rddm.study import paper, use
from repro.rddm.study.config import LINEAR_DDPM, SMALL, SMOKE, RDDMConfig, TaskConfig
from repro.rddm.tasks import DEGRADATIONS, GenerationTask, Learning, RestorationTask, Start


@dataclass(frozen=True)
class Variant:
    """One way to learn a task.

    `schedule`  settings that replace the task's: of `repro.rddm.schedules.by_config`, or {"ddpm": …} for a plain DDPM.
    `halves`    tasks whose two pictures come from two networks, and the base channels of each.
    `times`     as many images as the task's recipe says.
    `last`      share of samples trained at the last timestep, see `repro.rddm.tasks.Learning`.
    """

    label: str
    objective: Objective
    start: Start = "degraded"
    layout: Layout = "one"
    schedule: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    halves: Mapping[str, int] = dataclasses.field(default_factory=dict)
    times: int = 1
    last: float = 0.0


# On raindrops SM-Res-N has two networks, as published: in one, the loss of the noise drowns that of the residual, which
# is zero nearly everywhere ("one" measures it; with the encoder "shared" it is no better). They are narrower: 357,168
# parameters beside 316,656 of one network.
VARIANTS: dict[str, Variant] = {
    "smres": Variant("SM-Res", "res"),
    "smn": Variant("SM-N", "noise"),
    "smresn": Variant("SM-Res-N", "res_noise", halves={"raindrop": 12}),
    "regression": Variant("regression", "res", start="none"),
    "sr3": Variant("conditional DDPM from pure noise", "noise", start="noise", schedule={"ddpm": LINEAR_DDPM}),
    "one": Variant("SM-Res-N, one network", "res_noise"),
    "shared": Variant("SM-Res-N, shared encoder", "res_noise", layout="shared", halves={"raindrop": 12}),
    "quiet": Variant("SM-Res, sum_scale 0.01", "res", schedule={"sum_scale": 0.01}),
    # Is it for want of training that SM-Res stays behind regression in LPIPS? Both, three times as long:
    "long": Variant("SM-Res, trained three times as long", "res", times=3),
    "regression-long": Variant("regression, trained three times as long", "res", start="none", times=3),
    use.VARIANT: Variant("SM-Res for use", "res", last=0.5),
}
STRATEGIES = ("smres", "smn", "smresn")
BASELINES = ("regression", "sr3")
LONG = ("long", "regression-long")
# Which variants a task has, and which of them ship; the rest are records only.
TRAINED: dict[str, tuple[tuple[str, bool], ...]] = {
    "fashion": tuple((v, True) for v in STRATEGIES),
    "lowlight": (*((v, True) for v in (*STRATEGIES, *BASELINES)), ("quiet", False), *((v, False) for v in LONG)),
    "raindrop": (*((v, True) for v in (*STRATEGIES, *BASELINES)), ("one", False), ("shared", False)),
}


def name_of(task: str, variant: str, seed: int = 0, profile: str = "small") -> str:
    """An experiment's name, e.g. "rddm-lowlight-smres-s0"."""
    return f"rddm-{task}-{variant}-s{seed}" if profile == "small" else f"rddm-{task}-{profile}-{variant}-s{seed}"


def schedule_of(task: TaskConfig, variant: str) -> RDDMSchedule:
    """The schedule that a variant of a task is trained and sampled with."""
    changes = VARIANTS[variant].schedule
    if "ddpm" in changes:
        return RDDMSchedule.from_ddpm(by_name(**changes["ddpm"]))
    return by_config(**{**task.schedule, **changes})


def recipe_of(task: TaskConfig, variant: str) -> Recipe:
    """How long and in which way a variant is trained."""
    return dataclasses.replace(task.recipe, images=task.recipe.images * VARIANTS[variant].times)


def learning_of(task: TaskConfig, variant: str) -> Learning:
    """What a variant of a task learns."""
    chosen = VARIANTS[variant]
    return Learning(chosen.objective, schedule_of(task, variant), task.norm, chosen.start, chosen.last)  # type: ignore[arg-type]


def build_network(task: TaskConfig, variant: str) -> RDDMNet:
    """The untrained network."""
    chosen = VARIANTS[variant]
    width = chosen.halves.get(task.name)
    layout = "two" if width and chosen.layout == "one" else chosen.layout
    settings = {**task.network, "base_channels": width or task.network["base_channels"]}
    return RDDMNet(objective=chosen.objective, layout=layout, **settings)


@lru_cache(maxsize=8)
def photographs(split: str, side: int, limit: int = 0) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Ids and pictures (3, H, W) in [0, 1] of a split, the shorter side resized to `side` (0: as they come)."""
    chosen = pack.photos(split)[: limit or None]
    pictures = [pack.load(p) for p in chosen]
    return tuple(p.id for p in chosen), tuple(resize(p, side) if side else p for p in pictures)


def training_task(task: TaskConfig, variant: str) -> Task:
    """Training set and loss of a variant."""
    learning = learning_of(task, variant)
    if task.degradation == "none":
        data = pack.fashion("train")
        pictures = data.images.float().div_(127.5).sub_(1.0)[:, None]
        return GenerationTask(pictures, [f"fashion {i}" for i in data.ids.tolist()], learning)
    ids, pictures = photographs("train", task.side, task.limit)
    return RestorationTask(pictures, ids, DEGRADATIONS[task.degradation], task.crop, learning)


def _experiment(config: RDDMConfig, task: TaskConfig, variant: str, ships: bool, seed: int = 0) -> Experiment:
    what = {"fashion": "Fashion-MNIST generation", "lowlight": "low light", "raindrop": "raindrops"}[task.name]
    return Experiment(
        name=name_of(task.name, variant, seed, config.name),
        room="rddm",
        task_name=task.name,
        variant=variant,
        data="fashion" if task.degradation == "none" else "photos",
        profile=config.name,
        seed=seed,
        recipe=recipe_of(task, variant),
        summary=f"{what}: {VARIANTS[variant].label}",
        ships=ships,
        build=lambda: build_network(task, variant),
        task=lambda: training_task(task, variant),
        score=partial(use.score, task, learning_of(task, variant)) if variant == use.VARIANT else None,
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    *(_experiment(SMALL, SMALL.tasks[t], v, ships) for t, found in TRAINED.items() for v, ships in found),
    *(_experiment(SMALL, task, use.VARIANT, True) for task in use.USE.values()),
    *(_experiment(SMOKE, SMOKE.tasks[t], v, False) for t in SMOKE.tasks for v, _ in TRAINED[t]),
    *(paper.experiment(setting) for setting in paper.measured()),
)
