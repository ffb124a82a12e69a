"""The tables of notebook 02 about strength: sliders, and what composites keep of their single edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from repro.editing.benchmark import COMPOSITES
from repro.editing.evaluation import DEPTHS, REFERENCE
from repro.editing.experiments import LONGER, LOW, MASKED, TAUGHT, VARIANTS, name_of
from repro.editing.measure import DRIFT, label
from repro.editing.sliders import EVEN_SLIDER, LONG, LONG_SLIDER, RANK, SPAN
from repro.editing.words import (
    COMPOSED,
    FLOOR,
    GIVEN,
    INPUT,
    MULT,
    NO_TASK,
    PALETTE,
    SHORT,
    columns,
    grid,
    missing,
    variant_words,
)
from repro.editing.words import SINGLE as SINGLE_TASK
from repro.engine.records import Record
from repro.engine.tables import Column, Table, Verified, dash, finder


def sliders_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Does more asked give more (claim E13)."""
    get = finder("editing", "editing_sliders", records, verified)
    rank = "Spearman's correlation of five places of the slider with the strength measured, mean over photographs; "
    heads = tuple(
        column
        for task in RANK
        for column in (
            Column(task, f"{rank}differences under 0.01 are ties", "higher", decimals=2),
            Column(f"{task}, span", "strength at the slider's last place less that at its first", "", decimals=3),
        )
    )
    names = {
        "targets": "baseline-target",
        FLOOR: "baseline-floor",
        MULT: name_of("mult"),
        f"{MULT}, the other seed": name_of("mult", 1),
        PALETTE: name_of("palette"),
        f"{PALETTE}, the other seed": name_of("palette", 1),
        COMPOSED: name_of(TAUGHT),
        f"{COMPOSED}, the other seed": name_of(TAUGHT, 1),
        GIVEN: name_of(LONGER),
        f"{GIVEN}, the other seed": name_of(LONGER, 1),
        **{variant_words(variant): name_of(variant) for variant in (MASKED, LOW)},
        SHORT: name_of(REFERENCE),
        **{f"{VARIANTS[variant].label}, as briefly": name_of(variant) for variant in ("entry", *DEPTHS)},
    }
    rows = {}

    def line(row: str, inside: bool, kind: str, experiment: Callable[[str], str]) -> None:
        rows[row] = cells = {}
        for task in RANK:
            if kind == EVEN_SLIDER and task != "grain":
                cells[task] = cells[f"{task}, span"] = dash("concerns grain alone")
                continue
            name, part = experiment(task), {"task": kind, "edit": task, "inside": inside}
            why = missing(records, name)
            cells[task] = get(row, task, RANK[task], name, part, why)
            cells[f"{task}, span"] = get(row, f"{task}, span", SPAN[task], name, part, why)

    for inside, said in ((False, "alone"), (True, "inside a composite")):
        for words, known in names.items():
            line(f"{words}, {said}", inside, "slider", lambda task, known=known: known)
            if words == MULT:
                line(f"{words}, no later steps, {said}", inside, EVEN_SLIDER, lambda task, known=known: known)
            if words == FLOOR and not inside:  # beside it each slider's own network, which edits nothing else
                line(f"{SINGLE_TASK}, {said}", inside, "slider", lambda task: name_of(f"single-{task}"))
                line(
                    f"{SINGLE_TASK}, {LONG} steps, {said}", inside, LONG_SLIDER, lambda task: name_of(f"single-{task}")
                )
    beside = "Inside: blur beside grain and colour, grain beside blur and colour, sharpening beside grain and colour."
    return Table("editing_sliders", "Sliders: more asked, more measured?", heads, rows, (beside,))


def strength_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """How far composites leave the strength that their single edits have (claim E14)."""
    get = finder("editing", "editing_strength", records, verified)
    units = {
        "blur": "share of the coarse gradient energy per contrast that is gone",
        "grain": "grey levels of 255 in grain's own band, flat places",
        "sharpen": "ln of the gradient energy over the source's",
        "colour": "mean colour in CIE Lab",
    }
    text = "|(composite less single) less the same of the targets|, one crop a photograph: "
    heads = (
        *(Column(f"{task} drift", text + unit, "lower", decimals=3) for task, unit in units.items()),
        *columns("colour"),
    )
    names = {INPUT: "baseline-input", FLOOR: "baseline-floor"}
    names |= {PALETTE: name_of("palette"), MULT: name_of("mult")}
    names |= {COMPOSED: name_of(TAUGHT), GIVEN: name_of(LONGER)}
    edits = [label(c) for c in COMPOSITES]
    lines = {f"{edit}, {w}": (e, {"task": "edit", "edit": edit}) for edit in edits for w, e in names.items()}
    rows = grid("editing_strength", ("colour",), lines, records, verified)
    for row, (experiment, part) in lines.items():
        for task in units:
            head, why = f"{task} drift", missing(records, experiment)
            where = {"task": "kept", "edit": part["edit"]}
            known = task in str(part["edit"]).split("+")
            rows[row][head] = get(row, head, DRIFT[task], experiment, where, why) if known else dash(NO_TASK)
    caption = "Composites keep the strength of their single edits?"
    drift = "The untouched input drifts as far as the targets do."
    return Table("editing_strength", caption, heads, rows, (drift,), corner="edit")
