"""Words, protocols and columns that the tables of notebook 02 share, and cells that pool several edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from repro.editing.benchmark import COMPOSITES
from repro.editing.config import SMALL, EditingConfig, profile
from repro.editing.experiments import LONGER, TAUGHT, VARIANTS, name_of
from repro.editing.measure import CRISP, EXCESS, HOLE, HUE, KID, L1, LPIPS, SSIM, label
from repro.editing.vector import TASKS
from repro.engine import stats
from repro.engine.records import Record, rounded, select
from repro.engine.tables import IMAGES, RE_EVALUATED, RECORDED, Cell, Column, Verified, dash, finder
from repro.errors import ReproError

INPUT, FLOOR = "untouched input", "target through the autoencoder"
PIX2PIX, PALETTE, SINGLE, MULT = "pix2pix", "Palette++", "Ours-single", "Ours-mult"
SHORT, ALL_IMAGES = "Ours-mult, trained as briefly", "Ours-mult, all images"
COMPOSED = VARIANTS[TAUGHT].label
GIVEN = VARIANTS[LONGER].label  # to users
COMPOSITE = label(COMPOSITES[1])  # blur+grain+colour, of the paper's Tables 4 and 5
KID1000 = "KID × 1000"
METRICS = {
    "l1": L1,
    "SSIM": SSIM,
    "LPIPS": LPIPS,
    KID1000: KID,
    "hole l1": HOLE,
    "hole excess": EXCESS,
    "colour": HUE,
    "crispness": CRISP,
}
COLUMNS = {
    "l1": Column("l1", "mean absolute difference of RGB in [0, 1]", "lower", decimals=3),
    "SSIM": Column("SSIM", "SSIM on RGB, Gaussian window, mean of channels", "higher", decimals=3),
    "LPIPS": Column("LPIPS", "LPIPS v0.1, AlexNet", "lower", decimals=3),
    KID1000: Column(
        KID1000,
        "KID of pairs on features of EfficientNet-Lite0 (paper profile: Inception), times 1000",
        "lower",
        decimals=1,
    ),
    "hole l1": Column("hole l1", "l1 inside the hole", "lower", decimals=3),
    "hole excess": Column("hole excess", "l1 inside the hole less l1 outside", "lower", decimals=3),
    "colour": Column("colour", "distance of the mean colours in CIE Lab, result to target", "lower", decimals=2),
    "crispness": Column("crispness", "ln of the gradient energy over the target's; 0 is as crisp", "", decimals=2),
}
QUALITY = ("l1", "SSIM", "LPIPS", KID1000)

NO_NETWORK = "no record of this network: `repro train` and `repro evaluate --full` make it"
NOT_TRAINED = "this profile trains no such network"
NO_MEASURE = "this network was not measured here"
NO_BASELINE = "no record of this profile: `repro evaluate editing --full` makes it"
NO_TASK = "the edit has no such task"
CROP_NOTE = "One crop a photograph; the main tables have two."
SHORT_NOTE = (
    "Ablations are trained on 16 % of the images, and so is the row that they are compared with; rows with all "
    "images stand beside them for orientation."
)


def profile_of(records: Sequence[Record]) -> EditingConfig:
    """The profile that records were made in."""
    return profile(records[0].profile) if records else SMALL


def pictures(records: Sequence[Record]) -> str:
    """What was measured on."""
    if profile_of(records).pretrained:
        return "REDS' held-out sequences"
    return f"{max((r.n for r in records if r.cell.get('task') == 'edit'), default=27)} held-out photographs"


def notes(records: Sequence[Record], *said: str) -> tuple[str, ...]:
    """Notes on crops and budgets, where they hold: at paper scale all networks are trained alike."""
    return () if profile_of(records).pretrained else said


def columns(*names: str) -> tuple[Column, ...]:
    """Those columns, in that order."""
    return tuple(COLUMNS[name] for name in names)


def missing(records: Sequence[Record], experiment: str) -> str:
    """Why a cell of this experiment is empty, where it is: no record at all, or none of this."""
    if experiment.startswith("baseline-"):
        return NO_BASELINE
    if select(records, experiment=experiment):
        return NO_MEASURE
    config, (variant, _, seed) = profile_of(records), experiment.removeprefix("editing-edits-").rpartition("-s")
    trained = config.variants or (*VARIANTS, "pix2pix")
    if variant in (*trained, "short", "singles") and not (config.pretrained and seed != "0"):
        return NO_NETWORK  # "short" is Ours-mult's other name where all are trained alike, "singles" are five networks
    return NOT_TRAINED


def methods(edit: str) -> dict[str, str]:
    """What the main tables compare on an edit, words -> experiment; what learns nothing of editing stands first."""
    return {
        INPUT: "baseline-input",
        FLOOR: "baseline-floor",
        PIX2PIX: name_of("pix2pix"),
        PALETTE: name_of("palette"),
        SINGLE: name_of(f"single-{edit}") if edit in TASKS else name_of("singles"),
        MULT: name_of("mult"),
        COMPOSED: name_of(TAUGHT),
        GIVEN: name_of(LONGER),
    }


def variant_words(variant: str) -> str:
    """A variant's words in tables."""
    return SHORT if variant == "short" else VARIANTS[variant].label


Lines = Mapping[str, tuple[str, Mapping[str, Any]]]  # row -> (experiment, part of its cell)


def grid(table: str, names: Sequence[str], lines: Lines, records: Sequence[Record], verified: Verified) -> dict:
    """Rows of cells: one line each, one column per name of `METRICS`; task metrics only where the edit has the task."""
    get = finder("editing", table, records, verified)

    def one(row: str, name: str, experiment: str, part: Mapping[str, Any]) -> Cell:
        needs = {"colour": "colour", "hole l1": "inpaint", "hole excess": "inpaint"}.get(name)
        if needs and needs not in str(part.get("edit", "")).split("+"):
            return dash(NO_TASK)
        found = get(row, name, METRICS[name], experiment, part, missing(records, experiment))
        return thousandfold(found) if name == KID1000 else found

    return {row: {name: one(row, name, *where) for name in names} for row, where in lines.items()}


def thousandfold(cell: Cell) -> Cell:
    """The cell with its own numbers times 1000, as the paper prints KID."""
    if cell.value is None:
        return cell
    bounds = cell.interval and tuple(rounded(1000 * b) for b in cell.interval)
    return replace(cell, value=rounded(1000 * cell.value), interval=bounds)


def pooled(
    records: Sequence[Record],
    metric: str,
    where: Sequence[tuple[str, Mapping[str, Any]]],
    verified: Verified = (),
    less: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Cell:
    """Mean over several cells (experiment, part), photograph by photograph, less the mean over other cells.

    At the training seeds that all cells have; a dash where one was not measured. Raises `ReproError` where photographs
    differ, or a part matches several cells.
    """
    sides = [[_seeds(records, *place) for place in side] for side in (where, less)]
    common = set.intersection(*({r.seed for r in found} for side in sides for found in side))
    sides = [[[r for r in found if r.seed in common] for found in side] for side in sides]
    for side, places in zip(sides, (where, less), strict=True):
        for found, (experiment, _) in zip(side, places, strict=True):
            if not found or any(metric not in r.metrics for r in found):
                return dash(missing(records, experiment))
    used = [record for side in sides for found in side for record in found]
    if len({r.n for r in used}) > 1:
        raise ReproError(f"{metric}: cells of different photographs cannot be pooled: {used[0].label}, …")
    mean = [
        [[sum(v) / len(v) for v in zip(*rows, strict=True)] for rows in _by_seed(side, metric)] if side else None
        for side in sides
    ]
    if mean[1] is None:
        found = stats.mean_interval(mean[0])
    else:
        found = stats.paired_difference(mean[0], mean[1], same_networks=True)
    ids = tuple(sorted({record.id for record in used}))
    mark = RE_EVALUATED if all((identity, metric) in verified for identity in ids) else RECORDED
    bounds = (rounded(found.low), rounded(found.high))
    return Cell(rounded(found.estimate), bounds, IMAGES, used[0].n, found.seeds[0], mark=mark, records=ids)


def _seeds(records: Sequence[Record], experiment: str, part: Mapping[str, Any]) -> list[Record]:
    found = sorted(select(records, experiment=experiment, cell=part), key=lambda record: record.seed)
    if len({str(record.cell) for record in found}) > 1:
        raise ReproError(f"{experiment} ({dict(part)}) matches {len(found)} cells, one is needed: {found[0].label}, …")
    return found


def _by_seed(side: Sequence[Sequence[Record]], metric: str) -> list[list[list[float]]]:
    """[seed][cell][photograph]."""
    return [[found[s].values(metric) for found in side] for s in range(len(side[0]))]
