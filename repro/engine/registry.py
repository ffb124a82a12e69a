"""Every experiment of every room, by name.

A room lists its experiments in `repro/<room>/study/experiments.py` as `EXPERIMENTS`; this module finds them there
lazily, so that the engine never depends on a method.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from repro.engine.recipe import Recipe, Task
from repro.engine.records import ROOMS
from repro.errors import ReproError


@dataclass(frozen=True)
class Experiment:
    """One trained network and what is measured with it.

    `name`     `<room>-<task>-<variant>-s<seed>`, also the checkpoint's folder.
    `ships`    its weights are in the repository; else only its records are, marked `recorded`.
    `build`    makes the untrained network.   `task` makes training set and loss.
    `score`    makes numbers for the card from the trained network.
    """

    name: str
    room: str
    task_name: str
    variant: str
    data: str
    profile: str
    seed: int
    recipe: Recipe
    summary: str
    ships: bool
    build: Callable[[], nn.Module]
    task: Callable[[], Task]
    score: Callable[[nn.Module], dict[str, Any]] | None = None

    @property
    def command(self) -> str:
        return f"repro train {self.name}"


def experiments(room: str | None = None) -> list[Experiment]:
    """All experiments, or those of one room, in the rooms' order."""
    if room is not None and room not in ROOMS:
        raise ReproError(f"unknown room {room!r}: there are {', '.join(ROOMS)}")
    modules = [study_module(each, "experiments") for each in (ROOMS if room is None else (room,))]
    return [experiment for module in modules if module for experiment in module.EXPERIMENTS]


def study_module(room: str, name: str) -> Any:
    """`repro.<room>.study.<name>`, None where there is none."""
    module = f"repro.{room}.study.{name}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


@functools.lru_cache(maxsize=16)
def in_profile(name: str, profile: str) -> str:
    """The name of a small-profile experiment in another profile: same room, task, variant and training seed there.

    What is no experiment (a baseline) keeps its name, as does what the profile does not have.
    """
    room = name.split("-")[0]
    known = experiments(room) if room in ROOMS and profile != "small" else []
    about = [(e.task_name, e.variant, e.seed) for e in known if e.name == name]
    same = [e.name for e in known if e.profile == profile and (e.task_name, e.variant, e.seed) in about]
    return same[0] if same else name


def find(name: str) -> Experiment:
    """The experiment of that name. Raises `ReproError` with the nearest names."""
    known = {e.name: e for e in experiments()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? `repro list` shows all" if near else "`repro list` shows all"
    raise ReproError(f"unknown experiment {name!r}: {hint}")
