"""Every experiment of every room, by name.

A room lists its experiments in `repro/<room>/experiments.py` as `EXPERIMENTS`; this module finds them there lazily, so
that the engine never depends on a method.
"""

from __future__ import annotations

import difflib
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
        module = f"repro.{each}.experiments"
        if importlib.util.find_spec(f"repro.{each}") and importlib.util.find_spec(module):
            found += importlib.import_module(module).EXPERIMENTS
    return found


def find(name: str) -> Experiment:
    """The experiment of that name. Raises `ReproError` with the nearest names."""
    known = {e.name: e for e in experiments()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
    raise ReproError(f"unknown experiment {name!r}: did you mean {', '.join(near)}? `repro list` shows all")
