"""The tables behind single findings of notebook 03: SM-N's failure, the transformation, diversity, layouts, traps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from repro.ddpm.experiments import MAIN as DDPM_MODEL
from repro.ddpm.scores import FID, IS
from repro.engine.records import Record
from repro.engine.tables import Cell, Column, Table, Verified, dash, finder
from repro.rddm.config import SMALL
from repro.rddm.evaluation import SPREAD, SPREAD_STEPS
from repro.rddm.experiments import VARIANTS, name_of
from repro.rddm.labels import FID_PROTOCOL, INPUT, LABELS, LPIPS, NOT_YET, PSNR, PSNR_Y, SR3, SSIM, TASKS, steps_of
from repro.rddm.switches import GENERATION_STARTS, STARTS
from repro.rddm.transfer import COMPARISONS, DIFFERENCE


def starts_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Why SM-N fails at restoration: where it starts, and the linear map itself (claim R2)."""
    cell = finder("rddm", "rddm_starts", records, verified)
    columns = tuple(Column(words, "PSNR in dB on RGB", "higher", decimals=2) for words in TASKS.values())

    def line(label: str, variant: str, part: Callable[[str], dict[str, Any]]) -> dict[str, Cell]:
        return {
            words: cell(label, words, PSNR, name_of(task, variant), part(task), NOT_YET)
            for task, words in TASKS.items()
        }

    def plain(task: str) -> dict[str, Any]:
        return {"task": task, "steps": steps_of(task)}

    def start(t: int, **more: Any) -> Callable[[str], dict[str, Any]]:
        switch = "one head" if more else "start"
        return lambda task: {"task": f"{task}-switch", "switch": switch, "start": t, **more}

    rows = {INPUT: {words: cell(INPUT, words, PSNR, "baseline-input", {"task": t}) for t, words in TASKS.items()}}
    label = "SM-N from t = 999, 1 − ᾱ replaced by 1e-6 (published)"
    rows[label] = line(label, "smn", plain)
    for t in STARTS:
        label = f"SM-N from t = {t}"
        rows[label] = line(label, "smn", start(t))
    label = "SM-Res-N's noise head alone, from t = 999"
    head = {"sample_as": "noise"}
    rows[label] = line(
        label, "smresn", lambda task: {"task": f"{task}-switch", "switch": "one head at the end", **head}
    )
    for t in STARTS[1::2]:
        label = f"SM-Res-N's noise head alone, from t = {t}"
        rows[label] = line(label, "smresn", start(t, **head))
    label = "SM-Res-N's residual head alone"
    rows[label] = line(
        label, "smresn", lambda task: {"task": f"{task}-switch", "switch": "one head at the end", "sample_as": "res"}
    )
    for variant in ("smresn", "smres"):
        rows[LABELS[variant]] = line(LABELS[variant], variant, plain)
    caption = "The first step against the linear map: SM-N started earlier, and one head of one network at a time"
    return Table("rddm_starts", caption, columns, rows, corner="sampled as")


def transfer_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """FID of notebook 01's DDPM sampled by DDIM and by RDDM's rules (the report's Fig. 4)."""
    cell = finder("rddm", "rddm_transfer", records, verified)
    counts = SMALL.tasks["fashion"].sweep
    columns = tuple(Column(f"{count} steps", FID_PROTOCOL, "lower", decimals=2) for count in counts)
    ways = {
        "DDIM, clipped (diffusers' default)": ("ddim", True),
        "RDDM, Eq. 12, clipped": ("eq12", True),
        "DDIM, not clipped": ("ddim", False),
        "RDDM, Eq. 12, not clipped": ("eq12", False),
    }
    rows = {
        label: {
            f"{count} steps": cell(
                label,
                f"{count} steps",
                FID,
                DDPM_MODEL,
                {"task": "transfer", "rule": rule, "clip": clip, "steps": count},
                NOT_YET,
            )
            for count in counts
        }
        for label, (rule, clip) in ways.items()
    }
    caption = "One trained DDPM, sampled by DDIM and by RDDM's rules without retraining"
    return Table("rddm_transfer", caption, columns, rows, corner="sampler")


def equality_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """How far apart the same pictures are, sampled by the two rules (claim R4)."""
    cell = finder("rddm", "rddm_equality", records, verified)
    counts = SMALL.tasks["fashion"].sweep
    protocol = "largest difference of a pixel in [-1, 1], mean over pictures"
    columns = tuple(Column(f"{count} steps", protocol, "lower", decimals=4, atol=1e-4, rtol=0.5) for count in counts)
    rows = {}
    for rule, clip, other, dtype in COMPARISONS:
        label = f"{rule} against {other}, {'clipped' if clip else 'not clipped'}, {dtype}"
        part = {"task": "equality", "rule": rule, "with": other, "clip": clip, "dtype": dtype}
        rows[label] = {
            f"{count} steps": cell(label, f"{count} steps", DIFFERENCE, DDPM_MODEL, {**part, "steps": count}, NOT_YET)
            for count in counts
        }
    caption = "The coefficient transformation: rounding makes no difference that can be seen, clipping does"
    return Table("rddm_equality", caption, columns, rows, corner="RDDM's rule against DDIM")


def converted_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """R1's other reading: the strategies' generation with the coefficients converted from DDPM, not retrained."""
    cell = finder("rddm", "rddm_converted", records, verified)
    steps = steps_of("fashion")
    ways = {
        "as trained": {"task": "generation"},
        "converted, t matched": {"task": "fashion-switch", "switch": "converted", "told": "matched"},
        "converted, t as it is": {"task": "fashion-switch", "switch": "converted", "told": "own"},
    }
    protocols = {"FID": (FID, FID_PROTOCOL, "lower", 1), "IS": (IS, "Inception Score, same classifier", "higher", 2)}
    columns = tuple(
        Column(f"{kind}, {way}", f"{text}; {steps} steps", better, decimals=places)
        for kind, (_, text, better, places) in protocols.items()
        for way in ways
    )

    def line(label: str, experiment: str, parts: Mapping[str, Mapping[str, Any]], why: str) -> dict[str, Cell]:
        return {
            f"{kind}, {way}": cell(label, f"{kind}, {way}", metric, experiment, {**parts[way], "steps": steps}, NOT_YET)
            if way in parts
            else dash(why)
            for kind, (metric, *_) in protocols.items()
            for way in ways
        }

    rows = {label: line(label, name_of("fashion", variant), ways, "") for variant, label in LABELS.items()}
    for t in GENERATION_STARTS:
        label, part = f"SM-N from t = {t}", {"task": "fashion-switch", "switch": "start", "start": t}
        why = "converted coefficients divide by nothing that is zero"
        rows[label] = line(label, name_of("fashion", "smn"), {"as trained": part}, why)
    label, part = "SM-N trained on them: notebook 01's DDPM", {"task": "transfer", "rule": "eq12", "clip": True}
    rows[label] = line(label, DDPM_MODEL, {"converted, t matched": part}, "trained on the converted coefficients")
    notes = (
        "t matched: the network is told the time at which it has seen this share of noise, and shown the state at the "
        "size that it had there. t as it is: the converted schedule's own time.",
        "Notebook 01's network is larger and was trained for longer.",
    )
    caption = "Generation with the coefficients converted from DDPM, the networks not retrained"
    return Table("rddm_converted", caption, columns, rows, notes, corner="strategy")


def diversity_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """How far restorations under different noise lie apart (claim R6)."""
    cell = finder("rddm", "rddm_diversity", records, verified)
    protocol = "standard deviation of a pixel in [0, 1] over four noise seeds, mean over the picture"
    columns = tuple(
        Column(f"{words}, η = {eta}", protocol, "", decimals=4) for words in TASKS.values() for eta in (0, 1)
    )
    ways = {**LABELS, "quiet": VARIANTS["quiet"].label, "sr3": f"{SR3}, {SPREAD_STEPS} steps"}

    def why(variant: str, task: str, eta: int) -> str:
        if variant == "quiet" and task != "lowlight":
            return "trained for low light only"
        return "measured at η = 0 only" if eta and variant not in LABELS else NOT_YET

    rows = {
        label: {
            f"{words}, η = {eta}": cell(
                label,
                f"{words}, η = {eta}",
                SPREAD,
                name_of(task, variant),
                {"task": f"{task}-diversity", "eta": eta},
                why(variant, task, eta),
            )
            for task, words in TASKS.items()
            for eta in (0, 1)
        }
        for variant, label in ways.items()
    }
    caption = "Diversity: eight held-out photographs, restored from four start noises"
    return Table("rddm_diversity", caption, columns, rows, corner="strategy")


def layouts_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """SM-Res-N as two networks, as one, and with a shared encoder, at about equal size."""
    cell = finder("rddm", "rddm_layouts", records, verified)
    kinds = {"PSNR": (PSNR, "higher", 2), "SSIM": (SSIM, "higher", 3), "LPIPS": (LPIPS, "lower", 3)}
    columns = tuple(Column(c, f"{c} on RGB", better, decimals=d) for c, (_, better, d) in kinds.items())
    ways = {
        "two networks (357,168 parameters)": "smresn",
        "one network, six channels out (316,656)": "one",
        "shared encoder, two decoders (294,900)": "shared",
    }
    part = {"task": "raindrop", "steps": steps_of("raindrop")}
    rows = {
        label: {
            c: cell(label, c, metric, name_of("raindrop", variant), part, NOT_YET) for c, (metric, *_) in kinds.items()
        }
        for label, variant in ways.items()
    }
    return Table("rddm_layouts", "SM-Res-N in three layouts at about equal size, raindrops", columns, rows, corner="")


def traps_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """What undocumented choices change, one at a time."""
    cell = finder("rddm", "rddm_traps", records, verified)
    columns = tuple(
        Column(f"{words} {kind}", protocol, better, decimals=places)
        for words in TASKS.values()
        for kind, protocol, better, places in (
            ("PSNR", "PSNR in dB on RGB", "higher", 2),
            ("PSNR Y", "PSNR in dB on Y (MATLAB's)", "higher", 2),
            ("LPIPS", "LPIPS v0.1, AlexNet", "lower", 3),
        )
    )
    kinds = {"PSNR": PSNR, "PSNR Y": PSNR_Y, "LPIPS": LPIPS}
    ways: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
        "SM-Res as it comes": ("smres", lambda task: {"task": task, "steps": steps_of(task)}),
        "residual cut to ±1, as published": ("smres", _switched("clip ±1")),
        "start noise 0.1 for a network trained on 1": ("smres", _switched("start noise 0.1")),
        "SM-Res-N as it comes": ("smresn", lambda task: {"task": task, "steps": steps_of(task)}),
        "SM-Res-N, residual cut to ±1": ("smresn", _switched("clip ±1")),
        "trained and started with noise 0.1": ("quiet", lambda task: {"task": task, "steps": steps_of(task)}),
        "SM-Res at full size, 384 px and more (8 pictures)": ("smres", lambda task: {"task": f"{task}-full-size"}),
    }
    rows = {
        label: {
            f"{words} {kind}": cell(
                label,
                f"{words} {kind}",
                metric,
                name_of(task, variant),
                part(task),
                "trained for low light only" if variant == "quiet" and task != "lowlight" else NOT_YET,
            )
            for task, words in TASKS.items()
            for kind, metric in kinds.items()
        }
        for label, (variant, part) in ways.items()
    }
    caption = "What the papers leave to the code, one choice changed at a time"
    return Table("rddm_traps", caption, columns, rows, corner="choice")


def _switched(name: str) -> Callable[[str], Mapping[str, Any]]:
    return lambda task: {"task": f"{task}-switch", "switch": name}


TABLES = (
    starts_table,
    transfer_table,
    equality_table,
    converted_table,
    diversity_table,
    layouts_table,
    traps_table,
)
