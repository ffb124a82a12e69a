"""The tables of notebook 02, pure functions of records, of the paper's numbers and of what was re-evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from repro.editing import findings
from repro.editing.benchmark import COMPOSITES
from repro.editing.evaluation import SINGLE
from repro.editing.experiments import LONGER, TAUGHT, name_of
from repro.editing.measure import KID, L1, LPIPS, SSIM, label
from repro.editing.words import (
    ALL_IMAGES,
    COMPOSED,
    COMPOSITE,
    CROP_NOTE,
    FLOOR,
    GIVEN,
    INPUT,
    KID1000,
    MULT,
    PALETTE,
    PIX2PIX,
    QUALITY,
    SHORT_NOTE,
    columns,
    grid,
    methods,
    notes,
    pictures,
    pooled,
    thousandfold,
    variant_words,
)
from repro.editing.words import SINGLE as SINGLE_TASK
from repro.engine.check import CheckReport
from repro.engine.evaluation import check_room, looked_up
from repro.engine.records import Record
from repro.engine.tables import Column, Table, Verified
from repro.errors import ReproError

OURS_LAYERS, OURS_NPAIR = "labels, f_theta of 2 layers (ours)", "no N-pair loss (ours)"


class Config(Protocol):
    @property
    def name(self) -> str: ...


class Lesson(Protocol):
    """What `of` and `recheck` ask of a lesson: whose records, and whether they are measured again."""

    @property
    def config(self) -> Config: ...
    @property
    def recheck(self) -> bool: ...


def of(lesson: Lesson) -> list[Record]:
    """The records of the lesson's profile."""
    return looked_up("editing", lesson.config.name)


def recheck(lesson: Lesson) -> CheckReport:
    """Measure the first k of every record again and compare; a profile that does not recheck verifies nothing.

    Raises `ReproError` where a record and the shipped weights disagree: no table may be rendered from it.
    """
    report = check_room("editing", lesson.config.name) if lesson.recheck else CheckReport(())
    if report.failed:
        raise ReproError(f"the shipped weights contradict the records:\n{report.text()}")
    return report


def overview_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Every method's mean over the five single edits and over the four composites, at all training seeds."""
    metrics = {"l1": L1, "SSIM": SSIM, "LPIPS": LPIPS, KID1000: KID}
    kinds = {"single": [label(c) for c in SINGLE], "composite": [label(c) for c in COMPOSITES]}
    heads = tuple(
        Column(f"{kind} {c.name}", f"{c.protocol}; mean of {len(kinds[kind])} edits", c.better, c.decimals)
        for kind in kinds
        for c in columns(*metrics)
    )
    rows = {}
    for words in (INPUT, FLOOR, PIX2PIX, PALETTE, SINGLE_TASK, MULT, COMPOSED, GIVEN):
        row = {}
        for kind, edits in kinds.items():
            for name, metric in metrics.items():
                where = [(_every_seed(words, edit), {"task": "edit", "edit": edit}) for edit in edits]
                cell = pooled(records, metric, where, verified)
                row[f"{kind} {name}"] = thousandfold(cell) if name == KID1000 else cell
        rows[words] = row
    caption = f"Five single edits and four composites of {pictures(records)}, averaged"
    return Table("editing_overview", caption, heads, rows, corner="method")


def _every_seed(words: str, edit: str) -> str:
    several = {PALETTE: "palette", MULT: "mult", COMPOSED: TAUGHT, GIVEN: LONGER}
    return f"{name_of(several[words]).removesuffix('0')}*" if words in several else methods(edit)[words]


def single_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """The paper's Table 2."""
    caption = f"Single edits of {pictures(records)}: Table 2 of the paper, here and there"
    return _compared("editing_single", caption, [label(c) for c in SINGLE], records, verified)


def composite_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """The paper's Table 3."""
    caption = f"Composites of {pictures(records)}: Table 3 of the paper, here and there"
    return _compared("editing_composite", caption, [label(c) for c in COMPOSITES], records, verified)


def _compared(name: str, caption: str, edits: Sequence[str], records: Sequence[Record], verified: Verified) -> Table:
    lines = {
        f"{edit}, {words}": (experiment, {"task": "edit", "edit": edit})
        for edit in edits
        for words, experiment in methods(edit).items()
    }
    apart = notes(
        records, "The paper's data are REDS at 256 px, its network is far larger and pretrained: compare orders."
    )
    return Table(name, caption, columns(*QUALITY), grid(name, QUALITY, lines, records, verified), apart, corner="edit")


def architecture_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """The paper's Table 4: labels and depth of f_theta; beside it what the paper leaves open of the vector."""
    ways = {
        **{variant_words(v): v for v in ("nolabels", "layers0", "layers1")},
        OURS_LAYERS: "short",
        **{variant_words(v): v for v in ("layers4", "raw", "entry")},
        ALL_IMAGES: "mult",
    }
    caption = "The editing vector's way into the network: Table 4 of the paper, here and there"
    return _ablated("editing_architecture", caption, ["blur", COMPOSITE], ways, records, verified)


def npair_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """The paper's Table 5."""
    ways = {variant_words("npair-a"): "npair-a", variant_words("npair-b"): "npair-b", OURS_NPAIR: "short"}
    caption = "With and without an N-pair loss: Table 5 of the paper, here and there"
    edits = ["blur", "grain", label(COMPOSITES[0]), COMPOSITE]
    return _ablated("editing_npair", caption, edits, {**ways, ALL_IMAGES: "mult"}, records, verified)


def _ablated(
    name: str,
    caption: str,
    edits: Sequence[str],
    ways: dict[str, str],
    records: Sequence[Record],
    verified: Verified,
) -> Table:
    lines = {}
    for edit in edits:
        here = {"task": "one crop", "edit": edit}  # an ablation's "edit" is one crop a photograph too
        lines |= {f"{edit}, {INPUT}": ("baseline-input", here), f"{edit}, {FLOOR}": ("baseline-floor", here)}
        lines |= {
            f"{edit}, {words}": (name_of(variant), here if variant == "mult" else {**here, "task": "edit"})
            for words, variant in ways.items()
        }
    rows = grid(name, QUALITY, lines, records, verified)
    return Table(name, caption, columns(*QUALITY), rows, notes(records, CROP_NOTE, SHORT_NOTE), corner="edit")


def every(records: Sequence[Record], verified: Verified = ()) -> list[Table]:
    """All tables of the notebook."""
    made = (overview_table, single_table, composite_table, architecture_table, npair_table)
    return [make(records, verified) for make in (*made, *findings.TABLES)]
