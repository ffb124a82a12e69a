"""Every experiment of every room, by name.

A room lists its experiments in `repro/<room>/study/experiments.py` as `EXPERIMENTS`; this module finds them there
lazily, so that the engine never depends on a method.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from repro.engine.recipe import Recipe, Task
from repro.engine.records import ROOMS
from repro.errors import ReproError

if TYPE_CHECKING:
    from repro.engine.records import Record


@dataclass(frozen=True)
class Experiment:
    """One trained network and what is measured with it.

    `name`     `<room>-<task>-<variant>-s<seed>`, also the checkpoint's folder.
    `ships`    its weights are in the repository; else only its records are, marked `recorded`.
    `build`    makes the untrained network.   `task` makes training set and loss.
    `evaluate` makes its records: the full evaluation, or with `k` the first-k check of each.
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
    score: Callable[[nn.Module], dict[str, Any]] | None = None  # numbers for the card, after training
    evaluate: Callable[[Experiment], Iterator[Record]] | None = None

    @property
    def command(self) -> str:
        return f"repro train {self.name}"


def experiments(room: str | None = None) -> list[Experiment]:
    """All experiments, or those of one room, in the rooms' order."""
    if room is not None and room not in ROOMS:
        raise ReproError(f"unknown room {room!r}: there are {', '.join(ROOMS)}")
    found: list[Experiment] = []
    for each in ROOMS if room is None else (room,):
        module = study_module(each, "experiments")
        found += module.EXPERIMENTS if module else ()
    return found


def study_module(room: str, name: str) -> Any:
    """`repro.<room>.study.<name>`, None where there is none."""
    module = f"repro.{room}.study.{name}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


@functools.lru_cache(maxsize=16)
def in_profile(name: str, profile: str) -> str:
    """The name of a small-profile experiment in another profile: same room, task, variant and training seed there.

    What is no experiment (a baseline) keeps its name, as does what the profile does not have.
    """
    known = {e.name: e for e in experiments(name.split("-")[0])} if name.split("-")[0] in ROOMS else {}
    if profile == "small" or name not in known:
        return name
    small = known[name]
    same = [
        e.name
        for e in known.values()
        if (e.profile, e.task_name, e.variant, e.seed) == (profile, small.task_name, small.variant, small.seed)
    ]
    return same[0] if same else name


def find(name: str) -> Experiment:
    """The experiment of that name. Raises `ReproError` with the nearest names."""
    known = {e.name: e for e in experiments()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? `repro list` shows all" if near else "`repro list` shows all"
    raise ReproError(f"unknown experiment {name!r}: {hint}")
