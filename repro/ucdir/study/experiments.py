"""Every network of notebook 04, read from `experiments.toml`."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from repro.data import pack
from repro.data.degradations import TASKS
from repro.data.images import resize
from repro.engine.recipe import Recipe
from repro.engine.registry import Experiment
from repro.errors import ReproError
from repro.ucdir.loss import Learning, RestorationTask
from repro.ucdir.model import UCDIR

SPEC: Mapping[str, Any] = tomllib.loads(Path(__file__).with_name("experiments.toml").read_text(encoding="utf-8"))
LABELS = {"lowlight": "low light", "deblur": "motion blur", "jpeg": "JPEG"}


def profile(name: str) -> Mapping[str, Any]:
    """The settings of that profile. Raises `ReproError` naming those there are."""
    if name not in SPEC["profile"]:
        raise ReproError(f"profile is {name!r}: accepted are {', '.join(SPEC['profile'])}")
    return SPEC["profile"][name]


def network_of(task: str, variant: str, chosen: str = "small") -> dict[str, Any]:
    """Arguments of `UCDIR`."""
    chosen_for, own = SPEC["variant"][variant], _own(task, chosen).get("network", {})
    found = {**profile(chosen)["network"], **own, **chosen_for.get("network", {})}
    found |= chosen_for.get("own", {}).get(task, {})
    return found | ({"tasks": [task]} if chosen != "paper" else {})


def _own(task: str, chosen: str) -> Mapping[str, Any]:
    """What a profile has of its own for a task."""
    return profile(chosen).get("own", {}).get(task, {})


def learning_of(variant: str, chosen: str = "small") -> Learning:
    """The switches of a variant's loss."""
    return Learning(**{**profile(chosen)["learning"], **SPEC["variant"][variant].get("learning", {})})


@lru_cache(maxsize=8)
def photographs(split: str, side: int, limit: int = 0) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Ids and images (3, H, W) in [0, 1] of a split, the shorter side resized to `side` (0: as they come)."""
    chosen = pack.photos(split)[: limit or None]
    images = [pack.load(p) for p in chosen]
    return tuple(p.id for p in chosen), tuple(resize(x, side) if side else x for x in images)


def training_task(task: str, variant: str, chosen: str = "small") -> Any:
    """Training set and loss."""
    settings = {**profile(chosen), **_own(task, chosen)}
    if chosen == "paper":
        from repro.ucdir.study.paper import training_task as published

        return published(task, learning_of(variant, chosen), settings["crop"])
    ids, images = photographs("train", settings["side"], settings.get("limit", 0))
    degradations = {task: TASKS[task].degrade}
    return RestorationTask(images, ids, degradations, settings["crop"], learning_of(variant, chosen), [task])


def _experiment(entry: Mapping[str, Any], task: str, variant: str, seed: int, chosen: str) -> Experiment:
    small = chosen == "small"
    own = {"images": entry["images"]} if small else {}
    return Experiment(
        name=f"ucdir-{task}-{'' if small else f'{chosen}-'}{variant}-s{seed}",
        room="ucdir",
        task_name=task,
        variant=variant,
        data="photos" if chosen != "paper" else {"lowlight": "SID", "deblur": "GoPro", "jpeg": "ImageNet"}[task],
        profile=chosen,
        seed=seed,
        recipe=Recipe(**{**profile(chosen)["recipe"], **own}),
        summary=f"{LABELS[task]}: {SPEC['variant'][variant]['label']}",
        ships=small and entry.get("ships", False) and seed == 0,
        build=lambda: UCDIR(**network_of(task, variant, chosen)),
        task=lambda: training_task(task, variant, chosen),
    )


def _listed() -> list[Experiment]:
    found = []
    for chosen in SPEC["profile"]:
        for entry in SPEC["experiment"]:
            for task, variant in itertools.product(entry["tasks"], entry["variants"]):
                if chosen == "paper" and variant not in ("main", "regression"):
                    continue
                for seed in entry.get("seeds", [0]):
                    if seed and chosen != "small":
                        continue
                    found.append(_experiment(entry, task, variant, seed, chosen))
    return found


EXPERIMENTS: tuple[Experiment, ...] = tuple(_listed())
