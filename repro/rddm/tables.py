"""The tables of notebook 03, pure functions of records, of the report's numbers and of what was re-evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from repro.ddpm.scores import FID, IS, KID
from repro.engine import records as ledger
from repro.engine.check import CheckReport
from repro.engine.evaluation import check_room
from repro.engine.records import Record, select
from repro.engine.tables import Cell, Column, Table, Verified, finder
from repro.errors import ReproError
from repro.rddm import findings, paper_tables
from repro.rddm.config import SMALL
from repro.rddm.evaluation import SR3_STEPS
from repro.rddm.experiments import LONG, TRAINED, VARIANTS, name_of
from repro.rddm.labels import (
    FID_PROTOCOL,
    INPUT,
    LABELS,
    LPIPS,
    NOT_YET,
    PSNR,
    PSNR_Y,
    REGRESSION,
    SR3,
    SSIM,
    SSIM_Y,
    TASKS,
    steps_of,
)

if TYPE_CHECKING:
    from repro.rddm.lesson import Lesson

CLASSICAL = {
    "lowlight": {
        "gain and gamma fitted to training pictures": "gain-gamma",
        "each channel's mean brought to the training mean": "mean-gain",
        "histogram equalisation": "equalised",
    },
    "raindrop": {"median filter, 3 px": "median", "drops by threshold, biharmonic inpainting": "inpainted"},
}
_WHOLE = "27 whole held-out photographs, shorter side 256 px"


def of(lesson: Lesson) -> list[Record]:
    """The records of the lesson's profile."""
    return select(ledger.load("rddm"), profile=lesson.config.name)


def recheck(lesson: Lesson) -> CheckReport:
    """Measure the first k of every record again and compare; a profile that does not recheck verifies nothing.

    Raises `ReproError` where a record and the shipped weights disagree: no table may be rendered from it.
    """
    report = check_room("rddm", lesson.config.name) if lesson.recheck else CheckReport(())
    if report.failed:
        raise ReproError(f"the shipped weights contradict the records:\n{report.text()}")
    return report


def report_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """The report's Table 1 in our protocol, with the rows that it does not have."""
    cell = finder("rddm", "rddm_report", records, verified)
    columns = (
        Column("FID", f"{FID_PROTOCOL}; Fashion-MNIST, {steps_of('fashion')} steps", "lower", decimals=1),
        Column("IS", "Inception Score, class probabilities of the same classifier", "higher", decimals=2),
        *_quality("low light", "lowlight"),
        *_quality("raindrops", "raindrop"),
    )
    rows: dict[str, dict[str, Cell]] = {}
    for variant, label in LABELS.items():
        part = {"task": "generation", "steps": steps_of("fashion"), "eta": 0}
        name = name_of("fashion", variant)
        rows[label] = {
            "FID": cell(label, "FID", FID, name, part, NOT_YET),
            "IS": cell(label, "IS", IS, name, part, NOT_YET),
        }
        for task, words in TASKS.items():
            rows[label] |= _pair(
                cell, label, words, name_of(task, variant), {"task": task, "steps": steps_of(task)}, NOT_YET
            )
    extra: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
        INPUT: lambda task: ("baseline-input", {"task": task}),
        "fitted gain and gamma; median filter": lambda task: (
            {"lowlight": "baseline-gain-gamma", "raindrop": "baseline-median"}[task],
            {"task": task},
        ),
        REGRESSION: lambda task: (name_of(task, "regression"), {"task": task, "steps": 1}),
        f"{SR3}, {max(SR3_STEPS)} steps": lambda task: (
            name_of(task, "sr3"),
            {"task": task, "steps": max(SR3_STEPS)},
        ),
    }
    for label, where in extra.items():
        rows[label] = {c: cell(label, c, FID, "", {}, "a restoration method") for c in ("FID", "IS")}
        for task, words in TASKS.items():
            rows[label] |= _pair(cell, label, words, *where(task), NOT_YET)
    notes = (
        f"Restoration: {_WHOLE}; the report resizes to 256 x 256 without keeping the aspect.",
        "The report's data are CelebA, LOL and RainDrop, its networks 36 million parameters each: compare orders.",
    )
    caption = "Three strategies on three tasks: Table 1 of the reproduction report, here and there"
    return Table("rddm_report", caption, columns, rows, notes, corner="strategy")


def _quality(words: str, task: str) -> tuple[Column, Column]:
    return (
        Column(f"{words} PSNR", f"PSNR in dB on Y (MATLAB's), {steps_of(task)} steps", "higher", decimals=2),
        Column(f"{words} SSIM", "SSIM on Y, Gaussian window", "higher", decimals=3),
    )


def _pair(cell: Callable[..., Cell], row: str, words: str, experiment: str, part: dict, why: str) -> dict[str, Cell]:
    return {
        f"{words} {name}": cell(row, f"{words} {name}", metric, experiment, part, why)
        for name, metric in (("PSNR", PSNR_Y), ("SSIM", SSIM_Y))
    }


def restoration_table(task: str, records: Sequence[Record], verified: Verified = ()) -> Table:
    """Every method of one task on RGB: what learns nothing, regression, the strategies, diffusion from pure noise."""
    name = f"rddm_{task}"
    cell = finder("rddm", name, records, verified)
    columns = (
        Column("PSNR", "PSNR in dB on RGB in [0, 1]", "higher", decimals=2),
        Column("SSIM", "SSIM on RGB, Gaussian window, mean of channels", "higher", decimals=3),
        Column("LPIPS", "LPIPS v0.1, AlexNet", "lower", decimals=3),
        Column("PSNR Y", "PSNR in dB on Y (MATLAB's)", "higher", decimals=2),
    )
    metrics = {"PSNR": PSNR, "SSIM": SSIM, "LPIPS": LPIPS, "PSNR Y": PSNR_Y}
    chosen: dict[str, tuple[str, dict[str, Any]]] = {INPUT: ("baseline-input", {})}
    chosen |= {label: (f"baseline-{short}", {}) for label, short in CLASSICAL[task].items()}
    chosen[REGRESSION] = (name_of(task, "regression"), {"steps": 1})
    steps = steps_of(task)
    for variant, label in LABELS.items():
        chosen[f"{label}, {steps} steps"] = (name_of(task, variant), {"steps": steps})
    for count in (SR3_STEPS[0], SR3_STEPS[-1]):
        chosen[f"{SR3}, {count} steps"] = (name_of(task, "sr3"), {"steps": count})
    rows = {
        label: {c: cell(label, c, m, where, {"task": task, **part}, NOT_YET) for c, m in metrics.items()}
        for label, (where, part) in chosen.items()
    }
    caption = f"{TASKS[task].capitalize()}: {_WHOLE}"
    return Table(name, caption, columns, rows, corner="method")


def steps_table(task: str, records: Sequence[Record], verified: Verified = ()) -> Table:
    """Quality against sampling steps: the strategies, and diffusion from pure noise on the same network (claim R5)."""
    name = f"rddm_{task}_steps"
    cell = finder("rddm", name, records, verified)
    counts = sorted({*SMALL.tasks[task].sweep, *SR3_STEPS})
    kinds = {"PSNR": (PSNR, "PSNR in dB on RGB", "higher", 2), "LPIPS": (LPIPS, "LPIPS v0.1, AlexNet", "lower", 3)}
    columns = tuple(
        Column(f"{kind}, {count}", text, better, decimals=places)
        for kind, (_, text, better, places) in kinds.items()
        for count in counts
    )
    ways = {**LABELS, "sr3": SR3, "regression": REGRESSION}
    ways |= {variant: VARIANTS[variant].label for variant, _ in TRAINED[task] if variant in LONG}

    def why(variant: str, count: int) -> str:
        if VARIANTS[variant].start == "none":
            return "regression is one pass"
        known = SR3_STEPS if variant == "sr3" else SMALL.tasks[task].sweep
        return NOT_YET if count in known else "not measured at this number of steps"

    rows = {
        label: {
            f"{kind}, {count}": cell(
                label,
                f"{kind}, {count}",
                metric,
                name_of(task, variant),
                {"task": task, "steps": count},
                why(variant, count),
            )
            for kind, (metric, *_) in kinds.items()
            for count in counts
        }
        for variant, label in ways.items()
    }
    return Table(name, f"{TASKS[task].capitalize()} against the number of sampling steps", columns, rows, corner="")


def generation_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """FID of the strategies' generation against steps, and IS and KID at the report's number."""
    cell = finder("rddm", "rddm_generation", records, verified)
    counts, ten = SMALL.tasks["fashion"].sweep, steps_of("fashion")
    columns = (
        *(Column(f"FID, {count}", FID_PROTOCOL, "lower", decimals=1) for count in counts),
        Column(f"KID, {ten}", "KID on the same features, not scaled", "lower", decimals=2),
        Column(f"IS, {ten}", "Inception Score, class probabilities of the same classifier", "higher", decimals=2),
    )
    rows = {}
    for variant, label in LABELS.items():
        name = name_of("fashion", variant)
        part = {"task": "generation", "eta": 0}
        rows[label] = {
            f"FID, {n}": cell(label, f"FID, {n}", FID, name, {**part, "steps": n}, NOT_YET) for n in counts
        } | {
            f"{k}, {ten}": cell(label, f"{k}, {ten}", m, name, {**part, "steps": ten}, NOT_YET)
            for k, m in (("KID", KID), ("IS", IS))
        }
    return Table("rddm_generation", "Generation of Fashion-MNIST by strategy and steps", columns, rows, corner="")


def every(records: Sequence[Record], verified: Verified = (), now: Lesson | None = None) -> list[Table]:
    """All tables of the notebook, of the small profile's rows or of the published experiments'."""
    if now is not None and now.config.name == "paper":
        return paper_tables.instead_of(every(()), records, verified)
    by_task = [make(task, records, verified) for task in TASKS for make in (restoration_table, steps_table)]
    return [
        report_table(records, verified),
        generation_table(records, verified),
        *by_task,
        *(make(records, verified) for make in findings.TABLES),
    ]
