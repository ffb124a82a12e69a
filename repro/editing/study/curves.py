"""The curves of notebook 02, pure functions of records; without records a sentence stands in their place."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor

from repro.editing.study.experiments import LONGER, name_of
from repro.editing.study.lesson import MULT, PALETTE
from repro.editing.study.measure import L1, LPIPS, SLIDERS, STRENGTH
from repro.editing.vector import NAMES, TASKS
from repro.engine import stats
from repro.engine.records import Record, select
from repro.ui.photos import nothing
from repro.ui.plots import MARKERS, Plate, dots, style, whiskers
from repro.ui.plots import PALETTE as COLOURS

NO_RECORDS = "— no records of this profile yet: `repro evaluate editing --full` makes them"
WAYS = {
    "by the formulas": "baseline-target",
    MULT: name_of("mult"),
    PALETTE: name_of("palette"),
    "shown composites, longer": name_of(LONGER),
}
AXES = {
    "blur": ("β", "coarse sharpness that is gone"),
    "grain": ("σ", "deviation in grain's band, levels"),
    "sharpen": ("λ", "ln of the gain in gradient energy"),
}


def _median(records: Sequence[Record], experiment: str, metric: str, **cell: Any) -> tuple[float, float, float]:
    """Median over photographs, and its 95 % interval by order statistics."""
    chosen = [r for r in select(records, experiment=experiment, cell=cell) if metric in r.metrics]
    if not chosen:
        return math.nan, math.nan, math.nan
    values = sorted(chosen[0].values(metric))
    n = len(values)
    low, high = math.floor((n - 1.96 * n**0.5) / 2), math.ceil((n + 1.96 * n**0.5) / 2)
    return median(values), values[max(0, low)], values[min(n, high) - 1]


def behind(figure: str, records: Sequence[Record]) -> list[Record]:
    """The records that a figure is drawn of: "edits" (tables of edits, ablations), "sliders", "steps", "attention" or
    "combinations" (Ours-mult, one crop a photograph)."""
    if figure == "edits":
        return [r for r in records if r.cell.get("task") in ("edit", "one crop")]
    if figure == "sliders":
        return [r for r in select(records, cell={"task": "slider"}) if r.experiment in WAYS.values()]
    if figure in ("attention", "steps"):
        return [r for r in records if r.cell.get("task") == figure]
    ours = select(records, experiment=name_of("mult"))
    ones = [r for r in select(ours, cell={"task": "one crop"}) if r.cell["edit"] in TASKS]
    return [*ones, *select(ours, cell={"task": "combination"})]


def slider_curves(records: Sequence[Record]) -> Plate:
    """Measured strength of an effect against its slider, alone (full lines) and inside a composite (dashed).

    Medians over photographs: strength is a ratio of energies, which one flat crop can blow up.
    """
    chosen = behind("sliders", records)
    if not chosen:
        return nothing(NO_RECORDS)
    with style():
        plate = Plate(figsize=(9.6, 2.9), layout="constrained")
        for axis, (task, places) in zip(plate.subplots(1, len(SLIDERS)), SLIDERS.items(), strict=True):
            at = [value[0] if isinstance(value, tuple) else value for place in places for value in place.values()]
            for (i, (words, experiment)), inside in product(enumerate(WAYS.items()), (False, True)):
                names = [f"{STRENGTH[task]}@{n}" for n in range(len(at))]
                values = [_median(chosen, experiment, name, edit=task, inside=inside) for name in names]
                if any(math.isfinite(value) for value, *_ in values):
                    look = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "--" if inside else "-"}
                    whiskers(axis, at, values, **look, label="_inside" if inside else words)
            axis.set(xlabel=f"{task}: {AXES[task][0]}", ylabel=AXES[task][1])
        axis.plot([], [], "--", color="#777777", label="dashed: inside a composite")
        plate.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return plate


def attended(records: Sequence[Record]) -> dict[str, dict[str, Tensor]]:
    """edit -> layer -> (entries,) mean weights of the tokens of the network with one an entry; {} without records."""
    return {
        str(record.cell["edit"]): {
            layer: torch.tensor([record.metrics[f"attention/{layer}/{entry}"] for entry in NAMES])
            for layer in dict.fromkeys(key.split("/")[1] for key in record.metrics)
        }
        for record in behind("attention", records)
    }


def compared(rows: Mapping[str, Any], xlabel: str, size: tuple[float, float] | None = None) -> Plate:
    """`repro.ui.plots.dots` of a table's points."""
    if not rows:
        return nothing(NO_RECORDS)
    return dots(rows, xlabel=f"{xlabel} (lower is better), mean with 95 % interval", size=size)


def step_curves(records: Sequence[Record]) -> Plate:
    """l1 and LPIPS of Ours-mult against sampling steps, evenly spaced."""
    chosen = behind("steps", records)
    edits = sorted({r.cell["edit"] for r in chosen})
    if not edits:
        return nothing(NO_RECORDS)
    with style():
        plate = Plate(figsize=(8.4, 2.8), layout="constrained")
        for axis, (metric, words) in zip(plate.subplots(1, 2), ((L1, "l1"), (LPIPS, "LPIPS")), strict=True):
            for i, edit in enumerate(edits):
                swept = sorted(select(chosen, cell={"edit": edit}), key=lambda r: r.cell["steps"])
                means, look = [_mean(r, metric) for r in swept], {"color": COLOURS[i], "marker": MARKERS[i]}
                whiskers(axis, [r.cell["steps"] for r in swept], means, **look, label=edit)
            counts = sorted({r.cell["steps"] for r in chosen})
            axis.set_xscale("log")
            axis.set_xticks(counts, [str(n) for n in counts])
            axis.minorticks_off()
            axis.set(xlabel="sampling steps", ylabel=f"{words} (lower is better)")
        plate.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return plate


def _mean(record: Record, metric: str) -> tuple[float, float, float]:
    """Mean over photographs with its 95 % interval."""
    values = record.values(metric)
    if len(values) < stats.MIN_UNITS:
        return (sum(values) / len(values),) * 3
    mean = stats.mean_interval([values])
    return mean.estimate, mean.low, mean.high


def combinations(records: Sequence[Record]) -> Plate:
    """Error of Ours-mult for every request, from one effect to all five (claims E11, E15)."""
    chosen = sorted(behind("combinations", records), key=lambda r: len(r.cell["edit"].split("+")))
    if not chosen:
        return nothing(NO_RECORDS)
    rows = {r.cell["edit"].replace("+", " + "): _mean(r, L1) for r in chosen}
    groups = ["with inpainting" if "inpaint" in words else "without inpainting" for words in rows]
    return dots(rows, xlabel="l1 (lower is better), mean with 95 % interval", groups=groups, size=(7.6, 6.6))
