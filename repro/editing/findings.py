"""The tables behind single findings of notebook 02: ablations, sliders, strengths, combinations, unseen pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repro.editing.benchmark import COMPOSITES
from repro.editing.evaluation import (
    COMBINATIONS,
    PAIRS,
    SINGLE,
    SWEEP,
)
from repro.editing.experiments import LONGER, LOW, MASKED, TAUGHT, name_of
from repro.editing.inner import SILHOUETTE, SPREAD
from repro.editing.measure import GAP, HOLE, L1, LPIPS, label
from repro.editing.slider_tables import sliders_table, strength_table
from repro.editing.vector import TASKS
from repro.editing.words import (
    ALL_IMAGES,
    COMPOSED,
    COMPOSITE,
    CROP_NOTE,
    FLOOR,
    GIVEN,
    INPUT,
    MULT,
    NO_TASK,
    PALETTE,
    SHORT,
    SHORT_NOTE,
    columns,
    grid,
    missing,
    notes,
    pooled,
    profile_of,
    variant_words,
)
from repro.editing.words import (
    SINGLE as SINGLE_TASK,
)
from repro.engine.records import Record
from repro.engine.tables import Cell, Column, Table, Verified, dash, finder

SWITCHES = {
    "holes filled with grey": ("hole filled with grey", "inpaint"),
    "latents quantised before decoding": ("quantised", "blur", "grain", COMPOSITE),
    "sampled with η = 1": ("eta 1", "blur", "grain", COMPOSITE),
    "without the later steps for grain": ("even steps", "grain", COMPOSITE),
}
ABLATED = ("l2", "latent-ref", "mask", "epsilon", "zero-snr", "coarse")


def _ablations(kind: str, records: Sequence[Record], verified: Verified) -> Table:
    """One choice changed at a time, one metric."""
    metric, name = {"l1": L1, "LPIPS": LPIPS}[kind], f"editing_ablations_{kind.lower()}"
    get = finder("editing", name, records, verified)
    edits = [label(c) for c in (*SINGLE, COMPOSITES[1])]
    heads = tuple(Column(edit, columns(kind)[0].protocol, "lower", decimals=3) for edit in edits)
    rows: dict[str, dict[str, Cell]] = {}

    def line(words: str, experiment: str, part: Mapping[str, Any], where: Sequence[str] = edits) -> None:
        rows[words] = {
            edit: get(words, edit, metric, experiment, {**part, "edit": edit}, missing(records, experiment))
            if edit in where
            else dash("measured where it matters most")
            for edit in edits
        }

    here = {"task": "one crop"}
    line(INPUT, "baseline-input", here)
    line(FLOOR, "baseline-floor", here)
    line(f"{FLOOR}, quantised", "baseline-floor-quantised", here)
    for variant in ("short", *ABLATED):
        line(variant_words(variant), name_of(variant), {"task": "edit"})
    line(ALL_IMAGES, name_of("mult"), here)
    for variant in (MASKED, LOW):
        line(variant_words(variant), name_of(variant), {"task": "edit"})
    line(COMPOSED, name_of(TAUGHT), here)
    line(GIVEN, name_of(LONGER), here)
    for words, (switch, *where) in SWITCHES.items():
        line(f"{ALL_IMAGES}, {words}", name_of("mult"), {"task": "switch", "switch": switch}, where)
    caption = f"Choices that the paper leaves to the code, one changed at a time: {kind}"
    return Table(name, caption, heads, rows, notes(records, CROP_NOTE, SHORT_NOTE), corner="choice")


def ablations_lpips(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Losses, reference, mask, prediction, schedule, and the switches of sampling: LPIPS."""
    return _ablations("LPIPS", records, verified)


def ablations_l1(records: Sequence[Record], verified: Verified = ()) -> Table:
    """The same in l1."""
    return _ablations("l1", records, verified)


def spread_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """How far inpaintings under different noise lie apart, beside their error (claim E8)."""
    get = finder("editing", "editing_spread", records, verified)
    text = "standard deviation of a pixel in [0, 1] over four noise seeds, mean over the picture"
    heads = (Column("spread", text, "", decimals=4), *columns("l1", "LPIPS", "hole l1"))
    names = {INPUT: "baseline-input", SHORT: name_of("short"), variant_words("l2"): name_of("l2")}
    names[ALL_IMAGES] = name_of("mult")
    lines = {
        words: (experiment, {"task": "one crop" if words in (INPUT, ALL_IMAGES) else "edit", "edit": "inpaint"})
        for words, experiment in names.items()
    }
    rows = grid("editing_spread", ("l1", "LPIPS", "hole l1"), lines, records, verified)
    for words, (experiment, _) in lines.items():
        part = {"task": "spread", "edit": "inpaint"}
        why = "draws nothing" if words == INPUT else missing(records, experiment)
        rows[words]["spread"] = get(words, "spread", SPREAD, experiment, part, why)
    caption = "Inpainting by l1 and by l2: error and diversity"
    return Table("editing_spread", caption, heads, rows, notes(records, CROP_NOTE, SHORT_NOTE))


def combinations_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """All 26 combinations of two tasks and more, one joint pass of Ours-mult (claim E15)."""
    get = finder("editing", "editing_combinations", records, verified)
    mult = name_of("mult")
    shown = (("shown", name_of(TAUGHT)), ("shown, longer", name_of(LONGER)))
    wanted = {
        **{f"l1, {w}": ("l1", L1, e) for w, e in (("input", "baseline-input"), ("ours", mult))},
        **{
            f"LPIPS, {w}": ("LPIPS", LPIPS, e)
            for w, e in (
                *(("input", "baseline-input"), ("floor", "baseline-floor")),
                *(("ours", mult), *shown),
            )
        },
        **{f"hole l1, {w}": ("hole l1", HOLE, e) for w, e in (("input", "baseline-input"), ("ours", mult), *shown)},
    }
    more = "LPIPS less the mean of its single edits' (Ours-mult), photograph by photograph"
    heads = (
        *(Column(n, columns(kind)[0].protocol, "lower", decimals=3) for n, (kind, *_) in wanted.items()),
        Column("LPIPS over singles", more, "lower", decimals=3),
    )
    rows: dict[str, dict[str, Cell]] = {}
    for tasks in COMBINATIONS:
        edit = label(tasks)
        part = {"task": "combination", "edit": edit}
        rows[edit] = {
            head: get(edit, head, metric, experiment, part, missing(records, experiment))
            if kind != "hole l1" or "inpaint" in tasks
            else dash(NO_TASK)
            for head, (kind, metric, experiment) in wanted.items()
        }
        singles = [(mult, {"task": "one crop", "edit": task}) for task in tasks]
        rows[edit]["LPIPS over singles"] = pooled(records, LPIPS, [(mult, part)], verified, less=singles)
    caption = "Every combination of two tasks and more in one joint pass, trained on single edits only"
    return Table("editing_combinations", caption, heads, rows, notes(records, CROP_NOTE), corner="edit")


def holes_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Inpainting alone and beside one other task, with and without the mask as an input (claim E11)."""
    names = {
        INPUT: "baseline-input",
        FLOOR: "baseline-floor",
        SHORT: name_of("short"),
        variant_words("mask"): name_of("mask"),
        MULT: name_of("mult"),
        variant_words(MASKED): name_of(MASKED),
        COMPOSED: name_of(TAUGHT),
        GIVEN: name_of(LONGER),
    }
    lines = {}
    for tasks in (("inpaint",), *PAIRS):
        for words, experiment in names.items():
            alone = len(tasks) == 1 and words in (INPUT, FLOOR, MULT, COMPOSED, GIVEN)
            part = {"task": "one crop" if alone else "combination", "edit": label(tasks)}
            lines[f"{label(tasks)}, {words}"] = (experiment, part)
    kinds = ("hole l1", "hole excess", "LPIPS")
    rows = grid("editing_holes", kinds, lines, records, verified)
    caption = "Inpainting alone and beside one other task"
    return Table("editing_holes", caption, columns(*kinds), rows, notes(records, CROP_NOTE, SHORT_NOTE), corner="edit")


def steps_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Error against the number of sampling steps (claim E15)."""
    get = finder("editing", "editing_steps", records, verified)
    kinds, edits = {"l1": L1, "LPIPS": LPIPS}, ("blur", COMPOSITE)
    heads = tuple(Column(f"{e}, {k}", columns(k)[0].protocol, "lower", decimals=3) for e in edits for k in kinds)
    lines: dict[str, tuple[str, dict[str, Any]]] = {
        INPUT: ("baseline-input", {"task": "one crop"}),
        FLOOR: ("baseline-floor", {"task": "one crop"}),
    }
    for steps in SWEEP:
        lines[f"{MULT}, {steps} step{'s' * (steps > 1)}"] = (name_of("mult"), {"task": "steps", "steps": steps})
    rows = {
        row: {
            f"{e}, {k}": get(row, f"{e}, {k}", m, experiment, {**part, "edit": e}, missing(records, experiment))
            for e in edits
            for k, m in kinds.items()
        }
        for row, (experiment, part) in lines.items()
    }
    return Table("editing_steps", "Error against the number of DDIM steps", heads, rows, notes(records, CROP_NOTE))


def inversion_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """From fresh noise and from the source's own, found by DDIM inversion (claim E10)."""
    lines = {}
    for tasks in SINGLE:
        edit = label(tasks)
        here = {"task": "one crop", "edit": edit}
        lines |= {f"{edit}, {INPUT}": ("baseline-input", here), f"{edit}, {FLOOR}": ("baseline-floor", here)}
        lines[f"{edit}, from fresh noise"] = (name_of("mult"), here)
        lines[f"{edit}, from the source's own noise"] = (name_of("mult"), {"task": "inversion", "edit": edit})
    kinds = ("l1", "SSIM", "LPIPS", "crispness")
    rows = grid("editing_inversion", kinds, lines, records, verified)
    caption = f"Single edits with and without DDIM inversion, {profile_of(records).steps} steps"
    return Table("editing_inversion", caption, columns(*kinds), rows, notes(records, CROP_NOTE), corner="edit")


def unseen_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Six pictures of another kind: a portrait, a motorcycle, a cup, a rocket, a retina, a tissue (claim E12)."""
    get = finder("editing", "editing_unseen", records, verified)
    lines = {}
    for edit in (*TASKS, COMPOSITE):
        names = {INPUT: "baseline-input", FLOOR: "baseline-floor", PALETTE: name_of("palette")}
        names |= {SINGLE_TASK: name_of(f"single-{edit}")} if edit in TASKS else {}
        for words, experiment in {**names, MULT: name_of("mult")}.items():
            lines[f"{edit}, {words}"] = (experiment, {"task": "unseen", "edit": edit})
    kinds = ("l1", "LPIPS", "colour")
    rows = grid("editing_unseen", kinds, lines, records, verified)
    for row, (experiment, part) in lines.items():
        known = "blur" in str(part["edit"]).split("+")
        why = missing(records, experiment)
        rows[row]["blur gap"] = get(row, "blur gap", GAP["blur"], experiment, part, why) if known else dash(NO_TASK)
    gap = Column("blur gap", "|strength of the blur less the target's|, as in editing_strength", "lower", decimals=3)
    caption = "Pictures of another domain than any training picture, six of them"
    return Table("editing_unseen", caption, (*columns(*kinds), gap), rows, corner="edit")


def clusters_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """How well features tell the tasks apart, with and without an N-pair loss (claim E7)."""
    get = finder("editing", "editing_clusters", records, verified)
    text = "mean silhouette of the five single edits' features: 1 far apart, 0 not told apart"
    heads = tuple(Column(f"{where} features", text, "higher", decimals=3) for where in SILHOUETTE)
    names = {variant_words(v): name_of(v) for v in ("npair-a", "npair-b")}
    rows = {
        words: {
            f"{w} features": get(words, f"{w} features", metric, e, {"task": "clusters"}, missing(records, e))
            for w, metric in SILHOUETTE.items()
        }
        for words, e in {SHORT: name_of("short"), **names, ALL_IMAGES: name_of("mult")}.items()
    }
    caption = "Clusters of tasks in the bottleneck and in f_theta(C)"
    return Table("editing_clusters", caption, heads, rows, notes(records, SHORT_NOTE), corner="network")


TABLES = (
    ablations_lpips,
    ablations_l1,
    spread_table,
    sliders_table,
    strength_table,
    combinations_table,
    holes_table,
    steps_table,
    inversion_table,
    unseen_table,
    clusters_table,
)
