"""The README's picture: every method at work on one row, input to result, drawn from the weights that ship.

A method takes part with a module `overview` (in `repro/<room>/study` or beside the method): `TITLE`, `NEEDS` (names of
its checkpoints) and `tiles()`, caption -> picture, four of one size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repro import paths
from repro.engine.checkpoint import CONFIG
from repro.engine.provenance import save_figure
from repro.engine.records import ROOMS
from repro.engine.registry import study_module

NAME, COLUMNS, WIDTH, GAP = "overview", 4, 256, 6
COMMAND = "repro reproduce"


def picture() -> np.ndarray:
    """uint8 (H, W, 3): a row for every method whose checkpoints are here."""
    from repro.ui.photos import line
    from repro.ui.pictures import to_uint8

    width = COLUMNS * (WIDTH + GAP) - GAP
    rows = []
    for module in filter(None, (study_module(room, "overview") for room in ROOMS)):
        if not all((paths.checkpoints() / name / CONFIG).exists() for name in module.NEEDS):
            continue
        panels = []
        for words, pixels in ((words, to_uint8(tile)) for words, tile in module.tiles().items()):
            panels.append(_wide(np.concatenate([line(words, pixels.shape[1]), pixels]), WIDTH + GAP))
        row = _wide(np.concatenate(panels, axis=1)[:, :width], width)
        rows += [line(module.TITLE, width, bold=True), row, np.full((GAP, width, 3), 255, np.uint8)]
    return np.concatenate(rows[:-1])


def _wide(pixels: np.ndarray, width: int) -> np.ndarray:
    """White to the right, up to `width`."""
    return np.pad(pixels, ((0, 0), (0, max(0, width - pixels.shape[1])), (0, 0)), constant_values=255)


def draw(folder: Path | None = None) -> Path:
    """Write figures/pictures/overview.jpg with its provenance."""
    return save_figure(picture(), NAME, (), COMMAND, photograph=True, folder=folder)
