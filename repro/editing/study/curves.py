"""The curves of notebook 02, pure functions of records; without records a sentence stands in their place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from repro.editing.study.experiments import LONGER, name_of
from repro.editing.study.lesson import MULT, PALETTE
from repro.editing.study.measure import SLIDERS
from repro.editing.study.scores import L1, LPIPS, STRENGTH
from repro.editing.vector import NAMES, TASKS
from repro.engine.records import Record, select
from repro.ui.photos import nothing
from repro.ui.plots import MARKERS, Plate, style
from repro.ui.plots import PALETTE as COLOURS

ATTENTION = "attention"
NO_RECORDS = "— no records of this profile yet: `repro evaluate editing --full` makes them"
FORMULAS = "by the formulas"
WAYS = {
    FORMULAS: "baseline-target",
    MULT: name_of("mult"),
    PALETTE: name_of("palette"),
    "shown composites, longer": name_of(LONGER),
}
AXES = {
    "blur": ("β", "coarse sharpness that is gone"),
    "grain": ("σ", "deviation in grain's band, levels"),
    "sharpen": ("λ", "ln of the gain in gradient energy"),
}


def _median(records: Sequence[Record], experiment: str, metric: str, **cell: Any) -> float:
    found = select(records, experiment=experiment, cell=cell)
    values = found[0].values(metric) if found and metric in found[0].metrics else []
    return median(values) if values else math.nan


def slider_records(records: Sequence[Record]) -> list[Record]:
    """The records behind `slider_curves`."""
    return [r for r in select(records, cell={"task": "slider"}) if r.experiment in WAYS.values()]


def slider_curves(records: Sequence[Record]) -> Plate:
    """Measured strength of an effect against its slider, alone (full lines) and inside a composite (dashed).

    Medians over photographs: strength is a ratio of energies, which one flat crop can blow up.
    """
    chosen = slider_records(records)
    if not chosen:
        return nothing(NO_RECORDS)
    with style():
        plate = Plate(figsize=(9.6, 2.9), layout="constrained")
        for axis, (task, places) in zip(plate.subplots(1, len(SLIDERS)), SLIDERS.items(), strict=True):
            at = [_place(place) for place in places]
            for i, (words, experiment) in enumerate(WAYS.items()):
                for inside in (False, True):
                    values = [
                        _median(chosen, experiment, f"{STRENGTH[task]}@{n}", edit=task, inside=inside)
                        for n in range(len(at))
                    ]
                    if any(map(math.isfinite, values)):
                        look = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "--" if inside else "-"}
                        axis.plot(at, values, **look, label="_inside" if inside else words)
            axis.set(xlabel=f"{task}: {AXES[task][0]}", ylabel=AXES[task][1])
        axis.plot([], [], "--", color="#777777", label="dashed: inside a composite")
        plate.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return plate


def _place(place: dict[str, Any]) -> float:
    (value,) = place.values()
    return value[0] if isinstance(value, tuple) else value


def attention_records(records: Sequence[Record]) -> list[Record]:
    """The records behind `attended`."""
    return select(records, experiment=name_of("entry"), cell={"task": ATTENTION})


def attended(records: Sequence[Record]) -> dict[str, dict[str, Tensor]]:
    """edit -> layer -> (entries,) mean weights of the tokens of the network with one an entry; {} without records."""
    return {
        str(record.cell["edit"]): {
            layer: torch.tensor([record.metrics[f"{ATTENTION}/{layer}/{entry}"] for entry in NAMES])
            for layer in dict.fromkeys(key.split("/")[1] for key in record.metrics)
        }
        for record in attention_records(records)
    }


def step_records(records: Sequence[Record]) -> list[Record]:
    """The records behind `step_curves`."""
    return select(records, cell={"task": "steps"})


def step_curves(records: Sequence[Record]) -> Plate:
    """l1 and LPIPS of Ours-mult against sampling steps, evenly spaced."""
    chosen = step_records(records)
    edits = sorted({r.cell["edit"] for r in chosen})
    if not edits:
        return nothing(NO_RECORDS)
    with style():
        plate = Plate(figsize=(8.4, 2.8), layout="constrained")
        for axis, (metric, words) in zip(plate.subplots(1, 2), ((L1, "l1"), (LPIPS, "LPIPS")), strict=True):
            for i, edit in enumerate(edits):
                found = {
                    r.cell["steps"]: sum(r.values(metric)) / len(r.values(metric))
                    for r in select(chosen, cell={"edit": edit})
                }
                axis.plot(
                    sorted(found), [found[n] for n in sorted(found)], color=COLOURS[i], marker=MARKERS[i], label=edit
                )
            counts = sorted({r.cell["steps"] for r in chosen})
            axis.set_xscale("log")
            axis.set_xticks(counts, [str(n) for n in counts])
            axis.minorticks_off()
            axis.set(xlabel="sampling steps", ylabel=f"{words} (lower is better)")
        plate.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return plate


def combination_records(records: Sequence[Record]) -> list[Record]:
    """The records behind `combinations`: Ours-mult, one crop a photograph."""
    mine, alone = select(records, experiment=name_of("mult")), set(TASKS)
    ones = [r for r in select(mine, cell={"task": "one crop"}) if r.cell["edit"] in alone]
    return [*ones, *select(mine, cell={"task": "combination"})]


def combinations(records: Sequence[Record]) -> Plate:
    """Error of Ours-mult against how many effects are asked for at once, one point an edit (claims E11, E15)."""
    chosen = combination_records(records)
    if not chosen:
        return nothing(NO_RECORDS)
    with style():
        plate = Plate(figsize=(7.4, 3.1), layout="constrained")
        axis = plate.subplots()
        for i, (inside, words) in enumerate(((False, "without inpainting"), (True, "with inpainting"))):
            points = [
                (len(r.cell["edit"].split("+")) + (0.12 if inside else -0.12), sum(r.values(L1)) / r.n)
                for r in chosen
                if ("inpaint" in r.cell["edit"]) == inside
            ]
            if points:
                axis.plot(*zip(*points, strict=True), MARKERS[i], color=COLOURS[i], label=words, linestyle="")
        axis.set(xlabel="effects asked for at once", ylabel="l1 (lower is better)", xticks=range(1, 6))
        axis.legend()
    return plate
