"""Rows of notebook 02 about sliders: more asked, more measured (claim E13)?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from repro.editing import strength
from repro.editing.benchmark import Split
from repro.editing.inner import Maker
from repro.editing.measure import STRENGTH, Method, Metrics
from repro.editing.vector import EditingVector
from repro.engine.evaluation import Row

RANK = {task: f"spearman/{task}" for task in strength.MEASURES}
SPAN = {task: f"strength-span/{task}" for task in strength.MEASURES}  # of a slider's last place over its first
SLIDERS: dict[str, tuple[dict[str, Any], ...]] = {
    "blur": tuple({"blur": b} for b in (0.0, 0.25, 0.5, 0.75, 1.0)),
    "grain": tuple({"grain": s} for s in (0.01, 0.025, 0.05, 0.075, 0.1)),
    "sharpen": tuple({"sharpen": (a, 0.0)} for a in (1.0, 1.5, 2.0, 2.5, 3.0)),
}
BESIDE: dict[str, dict[str, Any]] = {  # what else is on while a slider moves inside a composite (supplement, Fig. 2)
    "blur": {"grain": 0.05, "colour": True},
    "grain": {"blur": 0.5, "colour": True},
    "sharpen": {"grain": 0.05, "colour": True},
}
LONG, LONG_SLIDER = 50, "slider, more steps"  # steps by which sliders are turned once more
EVEN_SLIDER = "slider, even steps"  # without the later steps that grain has


def rows(
    make: Maker,
    name: str,
    method: Method,
    weights: str | None,
    ships: bool = True,
    seed: int = 0,
    tasks: Sequence[str] = tuple(SLIDERS),
    inside: Sequence[bool] = (False, True),
    kind: str = "slider",
    **more: Any,
) -> Iterator[Row]:
    """Measured effect at five places of each slider, alone and inside a composite (claim E13)."""
    for task, within in product(tasks, inside):

        def measure(k: int | None, task: str = task, within: bool = within) -> Metrics:
            data = make.data(1, k)
            found = [_strengths(method, data, task, place, within) for place in SLIDERS[task]]
            table = torch.stack(found)  # (5, N)
            at = {f"{STRENGTH[task]}@{i}": row.tolist() for i, row in enumerate(table)}
            span = (table[-1] - table[0]).tolist()
            return {RANK[task]: strength.rank_correlation(table).tolist(), SPAN[task]: span, **at}

        cell = {"task": kind, "edit": task, "inside": within, **more}
        yield make.row(name, cell, measure, weights, ships, seed=seed)


def aimed_at(data: Split, tasks: Sequence[str]) -> Tensor:
    """The targets themselves, of parameters that no main table shares."""
    return data.edit(*tasks).target


def _strengths(method: Method, data: Split, task: str, place: Mapping[str, Any], inside: bool) -> Tensor:
    vector = EditingVector(**place, **(BESIDE[task] if inside else {}))
    asked = replace(data, vectors=(vector,) * len(data))
    return strength.MEASURES[task](method(asked, vector.active), data.sharp).double()
