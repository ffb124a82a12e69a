"""Rows of notebook 02 about the networks' insides: clusters of features, spread over noise, weights of attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from repro.editing import features, probes
from repro.editing.benchmark import COMPOSITES, Split
from repro.editing.config import EditingConfig
from repro.editing.measure import Metrics, by_photo, label, request
from repro.editing.sampling import Editor
from repro.editing.vector import NAMES, TASKS, EditingVector
from repro.engine.evaluation import Row

SPREAD = "std/rgb01"  # of a pixel over noise seeds, mean over the picture
SILHOUETTE = {where: f"silhouette/{where}" for where in ("bottleneck", "label")}
SEEDS = (0, 1, 2, 3)
ATTENTION = "attention"
ATTENDED = {  # the largest amounts: if a slider is looked at, then here
    "blur": EditingVector(blur=1.0),
    "grain": EditingVector(grain=0.1),
    label(COMPOSITES[1]): EditingVector(blur=1.0, grain=0.1, colour=True),
}


class Maker(Protocol):
    """What makes a row here: `repro.editing.evaluation`'s."""

    config: EditingConfig

    def row(self, *given: object, **more: object) -> Row: ...
    def data(self, each: int, k: int | None) -> Split: ...


def clusters(make: Maker, name: str, editor: Editor, weights: str, ships: bool, seed: int) -> Row:
    """How well features tell the tasks apart (claim E7)."""

    def measure(k: int | None) -> Metrics:
        bottleneck, tokens, task = features.of(editor, make.data(1, k))
        found = {"bottleneck": bottleneck, "label": tokens}
        # Per photograph: its five edits' silhouettes averaged.
        return {
            SILHOUETTE[where]: features.silhouette(points, task).view(len(TASKS), -1).mean(dim=0).tolist()
            for where, points in found.items()
        }

    return make.row(name, {"task": "clusters"}, measure, weights, ships, k=0, seed=seed)


def spread(make: Maker, name: str, editor: Editor, weights: str, ships: bool, seed: int) -> Row:
    """How far edits of one picture under different noise lie apart (claim E8)."""

    def measure(k: int | None) -> Metrics:
        data = make.data(1, k)
        asked = request(data, ("inpaint",))
        runs = torch.stack([editor.edit(data.sharp, **asked, seed=s, steps=make.config.steps) for s in SEEDS])
        return {SPREAD: by_photo(runs.std(dim=0).mean(dim=(1, 2, 3)), 1)}

    return make.row(name, {"task": "spread", "edit": "inpaint"}, measure, weights, ships, seed=seed)


def attended(make: Maker, name: str, editor: Editor, weights: str, ships: bool, seed: int) -> Iterator[Row]:
    """Mean weight of each token in each cross-attention, "attention/down_blocks.0.0/beta"."""
    for edit, vector in ATTENDED.items():

        def measure(k: int | None, vector: EditingVector = vector) -> Metrics:
            found = probes.attention(editor, make.data(1, k), vector)
            return {
                f"{ATTENTION}/{layer}/{entry}": weight
                for layer, row in found.items()
                for entry, weight in zip(NAMES, row.tolist(), strict=True)
            }

        yield make.row(name, {"task": "attention", "edit": edit}, measure, weights, ships, k=0, seed=seed)
