"""The tables of notebook 03 in the paper profile: the report's, on its data and in its protocol.

Names of tables, rows and columns are those of the small profile, so that the same numbers of the report stand beside
ours. What is measured at small scale only (sweeps, switches, other layouts) keeps its table, and says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from repro.engine.records import Record
from repro.engine.tables import Cell, Column, Table, Verified, dash, finder
from repro.rddm import labels
from repro.rddm.labels import INPUT, LABELS, LPIPS, PSNR, SSIM, TASKS
from repro.rddm.paper import name_of
from repro.rddm.settings import PaperSetting, setting, strategies

SETS = {"FID": "fid/inception", "KID": "kid/inception", "IS": "is/inception"}
PSNR_Y, SSIM_Y = "psnr/y-uint8", "ssim/y-uint8-wang"
FACES, DATA = "celeba64", {"lowlight": "lol", "raindrop": "raindrop"}
NOT_YET = "no record yet: `repro train` it at paper scale, then `repro evaluate rddm --full --profile paper`"
SMALL_ONLY = "measured in the small profile only"
_NOTES = (
    "Published size: input squeezed to a square, ground truth resized to the output. Full size: the same network on "
    "the pictures as they come.",
)


def instead_of(tables: Sequence[Table], records: Sequence[Record], verified: Verified = ()) -> list[Table]:
    """The small profile's tables with those replaced that the published experiments fill."""
    made = (
        report_table(records, verified),
        generation_table(records, verified),
        *(restoration_table(task, records, verified) for task in TASKS),
    )
    filled = {table.name: table for table in made}
    return [filled[table.name] if table.name in filled else _small_only(table) for table in tables]


def report_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Table 1 of the report: three strategies on three tasks; degraded inputs and full size beside it."""
    cell = finder("rddm", "rddm_report", records, verified)
    sampling = {task: setting(name).sampling for task, name in DATA.items()}
    quality = {
        f"{words} {kind}": (task, metric)
        for task, words in TASKS.items()
        for kind, metric in (("PSNR", PSNR_Y), ("SSIM", SSIM_Y))
    }
    columns = (
        *_set_columns(("FID", "IS")),
        *(
            Column(
                name,
                f"{'PSNR in dB' if metric == PSNR_Y else 'SSIM, Gaussian window,'} on Y of 8-bit pictures (MATLAB's), "
                f"{sampling[task]} steps",
                "higher",
                decimals=2 if metric == PSNR_Y else 3,
            )
            for name, (task, metric) in quality.items()
        ),
    )
    rows: dict[str, dict[str, Cell]] = {}
    for label, by_task in _rows().items():
        rows[label] = {c: _generated(cell, label, c) for c in ("FID", "IS")}
        for column, (task, metric) in quality.items():
            rows[label][column] = cell(label, column, metric, *by_task(task), NOT_YET)
    return Table(
        "rddm_report",
        "Three strategies on three tasks: Table 1 of the reproduction report, at its scale",
        columns,
        rows,
        _NOTES,
        corner="strategy",
    )


def generation_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Sets of generated faces by strategy."""
    cell = finder("rddm", "rddm_generation", records, verified)
    rows = {label: {c: _generated(cell, label, c) for c in SETS} for label in LABELS.values()}
    caption = f"Generation of CelebA at {setting(FACES).size} px by strategy"
    return Table("rddm_generation", caption, _set_columns(tuple(SETS)), rows, corner="")


def restoration_table(task: str, records: Sequence[Record], verified: Verified = ()) -> Table:
    """One task in more protocols, at the published and at full size."""
    name, chosen = f"rddm_{task}", setting(DATA[task])
    cell = finder("rddm", name, records, verified)
    columns = (
        Column("PSNR", "PSNR in dB on RGB in [0, 1]", "higher", decimals=2),
        Column("SSIM", "SSIM on RGB, Gaussian window, mean of channels", "higher", decimals=3),
        Column("LPIPS", "LPIPS v0.1, AlexNet", "lower", decimals=3),
        Column("PSNR Y", "PSNR in dB on Y of 8-bit pictures (MATLAB's)", "higher", decimals=2),
    )
    metrics = {"PSNR": PSNR, "SSIM": SSIM, "LPIPS": LPIPS, "PSNR Y": PSNR_Y}
    rows = {
        label: {c: cell(label, c, metric, *by_task(task), NOT_YET) for c, metric in metrics.items()}
        for label, by_task in _rows().items()
    }
    caption = f"{TASKS[task].capitalize()}: {chosen.title}; {chosen.sampling} steps"
    return Table(name, caption, columns, rows, _NOTES, corner="method")


def _rows() -> dict[str, Callable[[str], tuple[str, Mapping[str, Any]]]]:
    """row -> (task -> experiment and cell), the published size first."""

    def at(full: bool, label: str | None) -> Callable[[str], tuple[str, Mapping[str, Any]]]:
        def where(task: str) -> tuple[str, Mapping[str, Any]]:
            chosen = setting(DATA[task])
            cell: dict[str, Any] = {"task": chosen.name, "size": "full" if full else chosen.size}
            if label is None:
                return "baseline-input", cell
            return name_of(strategies(chosen)[label]), {**cell, "steps": chosen.sampling}

        return where

    found = {}
    for full in (False, True):
        for label in (None, *LABELS.values()):
            found[(label or INPUT) + (", full size" if full else "")] = at(full, label)
    return found


def _generated(cell: Callable[..., Cell], label: str, column: str) -> Cell:
    if label not in LABELS.values():
        return dash("generation has no input, and one size")
    chosen: PaperSetting = strategies(setting(FACES))[label]
    part = {"task": chosen.name, "size": chosen.size, "steps": chosen.sampling}
    return cell(label, column, SETS[column], name_of(chosen), part, NOT_YET)


def _set_columns(names: Sequence[str]) -> tuple[Column, ...]:
    chosen = setting(FACES)
    of = f"CelebA {chosen.size} px, {chosen.samples:,} samples in {chosen.sampling} steps, Inception"
    kinds = {
        "FID": Column("FID", f"FID, {of}", "lower", decimals=2),
        "KID": Column("KID", f"KID, not scaled, {of}", "lower", decimals=4),
        "IS": Column("IS", f"Inception Score, {of}", "higher", decimals=2),
    }
    return tuple(kinds[name] for name in names)


def _small_only(table: Table) -> Table:
    """The table with the right reason for what this profile never measures."""
    rows = {
        row: {c: dash(SMALL_ONLY, cell.paper) if cell.dash == labels.NOT_YET else cell for c, cell in cells.items()}
        for row, cells in table.rows.items()
    }
    return dataclasses.replace(table, rows=rows)
