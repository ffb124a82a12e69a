"""Many small images as one drawing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from repro.ui.pictures import DPI
from repro.ui.plots import INK, Plate, style, tile

ZOOM = 3  # screen pixels a pixel


def sheet(
    pictures: Sequence[Tensor | None],
    cols: int,
    row_labels: Sequence[str] = (),
    col_labels: Sequence[str] = (),
    zoom: int = ZOOM,
) -> Plate:
    """Small images (1, H, W) in [0, 1] as one contact sheet, each pixel a square of `zoom`; None leaves a gap.

    One axis for all of them: a hundred images are drawn as fast as one.
    """
    blank = torch.ones_like(next(p for p in pictures if p is not None))
    gap = 2 * zoom
    canvas = tile([blank if p is None else p for p in pictures], cols, gap=gap, scale=zoom)
    (h, w), (tall, wide) = canvas.shape[:2], [side * zoom + gap for side in blank.shape[1:]]
    plain = [re.sub(r"\$[^$]*\$", "xx", line) for label in row_labels for line in label.split("\n")]
    left = 0.1 + 0.072 * max(map(len, plain), default=-1)  # inches
    top = 0.17 * max((label.count("\n") + 1 for label in col_labels), default=0) + 0.06
    width, height = w / DPI + left, h / DPI + top
    with style():
        plate = Plate(figsize=(width, height))
        axis = plate.add_axes((left / width, 0, w / DPI / width, h / DPI / height))
        axis.imshow(canvas, interpolation="nearest", aspect="auto")
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, labelsize=9, labelcolor=INK, top=False, labeltop=True, labelbottom=False, pad=2)
        axis.set_xticks([(i + 0.5) * wide - gap / 2 for i in range(len(col_labels))], col_labels)
        axis.set_yticks([(i + 0.5) * tall - gap / 2 for i in range(len(row_labels))], row_labels)
    return plate
