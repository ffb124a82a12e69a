"""The curves of notebook 03, pure functions of records; without records a sentence stands in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from repro.engine import stats
from repro.engine.records import Record, select
from repro.rddm.study.experiments import name_of
from repro.rddm.study.figures import nothing
from repro.rddm.study.lesson import NAMES
from repro.rddm.study.transfer import RULES
from repro.ui.plots import MARKERS, PALETTE, Plate, dots, style, whiskers

LABELS = {"smres": "SM-Res", "smn": "SM-N", "smresn": "SM-Res-N"}
PSNR, LPIPS = "psnr/rgb", "lpips/alex-v0.1"
NO_RECORDS = "— no records of this profile yet: `repro evaluate rddm --full` makes them"


Point = tuple[float, float, float]  # value, and its 95 % interval


def _mean(records: Sequence[Record], experiment: str, metric: str, **cell: Any) -> Point:
    found = select(records, experiment=experiment, cell=cell)
    values = found[0].values(metric) if found and metric in found[0].metrics else []
    if len(values) < stats.MIN_UNITS:
        return (sum(values) / len(values) if values else math.nan,) * 3
    interval = stats.mean_interval([values])
    return interval.estimate, interval.low, interval.high


def compared(
    rows: Mapping[str, Any],
    xlabel: str,
    groups: Sequence[str] | None = None,
    size: tuple[float, float] | None = None,
) -> Plate:
    """`repro.ui.dots` of a table's points."""
    if not rows:
        return nothing(NO_RECORDS)
    return dots(rows, xlabel=f"{xlabel}, mean with 95 % interval", groups=groups, size=size)


def steps_curves(task: str, records: Sequence[Record]) -> Plate:
    """PSNR and LPIPS against network calls; the degraded input and regression, which take none and one, as levels."""
    ways = {**LABELS, "sr3": NAMES["sr3"]}
    counts = sorted({r.cell["steps"] for r in restoration_records(task, records) if "steps" in r.cell})
    if not counts:
        return nothing(NO_RECORDS)
    with style():
        plate = Plate(figsize=(9.2, 3), layout="constrained")
        for axis, metric, words in zip(
            plate.subplots(1, 2),
            (PSNR, LPIPS),
            ("PSNR in dB (higher is better)", "LPIPS (lower is better)"),
            strict=True,
        ):
            for i, (variant, label) in enumerate(ways.items()):
                values = [_mean(records, name_of(task, variant), metric, task=task, steps=n) for n in counts]
                here = [(n, v) for n, v in zip(counts, values, strict=True) if math.isfinite(v[0])]
                if here:
                    whiskers(axis, *zip(*here, strict=True), color=PALETTE[i], marker=MARKERS[i], label=label)
            levels = {
                "regression, one pass": _mean(records, name_of(task, "regression"), metric, task=task, steps=1),
                "degraded input": _mean(records, "baseline-input", metric, task=task),
            }
            for j, (label, (level, *_)) in enumerate(levels.items()):
                if math.isfinite(level):
                    axis.axhline(level, color=PALETTE[len(ways) + j], linestyle=(0, (4, 3)), linewidth=1.2, label=label)
            axis.set_xscale("log")
            axis.set_xticks(counts, [str(n) for n in counts])
            axis.minorticks_off()
            axis.set(xlabel="network calls", ylabel=words)
        plate.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return plate


def restoration_records(task: str, records: Sequence[Record]) -> list[Record]:
    """The records behind `steps_curves`. Published experiments, whose cells name a size, have one number of steps."""
    return [r for r in select(records, cell={"task": task}) if "size" not in r.cell]


RULE_NAMES = dict(
    zip(RULES, ("DDIM", "DDIM, noise re-derived", "RDDM, Eq. 12", "RDDM, compose", "RDDM, rederive"), strict=True)
)


def transfer_curve(records: Sequence[Record], metric: str) -> Plate:
    """FID against steps of one DDPM sampled by DDIM and by RDDM's rules, as the report's Fig. 4."""
    chosen = transfer_records(records)
    counts = sorted({r.cell["steps"] for r in chosen})
    if not counts:
        return nothing(NO_RECORDS)
    experiment = chosen[0].experiment
    with style():
        plate = Plate(figsize=(8.6, 3.2), layout="constrained")
        left, right = plate.subplots(1, 2, sharey=True)
        for i, (rule, label) in enumerate(RULE_NAMES.items()):
            for axis, clip in ((left, True), (right, False)):
                values = [_mean(chosen, experiment, metric, rule=rule, clip=clip, steps=n) for n in counts]
                if any(math.isfinite(value) for value, *_ in values):
                    # those that should agree lie upon each other: a broad pale line under a thin one
                    look = {"linewidth": 4, "alpha": 0.35} if rule.startswith("ddim") else {"linewidth": 1.3}
                    whiskers(axis, counts, values, color=PALETTE[i], marker=MARKERS[i], label=label, **look)
        for axis, title in ((left, "clipped"), (right, "not clipped")):
            axis.set_xscale("log")
            axis.set_xticks(counts, [str(n) for n in counts])
            axis.minorticks_off()
            axis.set(xlabel="network calls", ylabel="FID")
            axis.set_title(title, loc="left")
            axis.legend()
    return plate


def transfer_records(records: Sequence[Record]) -> list[Record]:
    """The records behind `transfer_curve`."""
    return select(records, cell={"task": "transfer"})
