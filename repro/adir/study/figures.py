"""The drawings of notebook 05."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.adir.pipeline import PRIOR
from repro.adir.retrieval import Neighbours
from repro.adir.study import measure as m
from repro.data.images import center_crop, resize, to_unit
from repro.engine import grid, stats
from repro.engine.records import Record, select
from repro.metrics import protocols
from repro.ui import plots
from repro.ui.photos import Photos, captioned, nothing
from repro.ui.pictures import to_uint8
from repro.ui.plots import Plate
from repro.ui.schematic import Schematic

Cell = Mapping[str, Any]  # a part of a record's cell, or all of it


def schematic() -> Schematic:
    """The method in one drawing (the paper's Fig. 2)."""
    drawing = Schematic(7.6, 3.0)
    drawing.box("y", (0.8, 1.5), "$y$", size=(0.8, 0.6)).box("set", (2.5, 2.5), "external\nimages", size=(1.1, 0.7))
    drawing.box("near", (4.2, 2.5), "$K$ neighbours", size=(1.3, 0.6))
    drawing.box("prior", (4.2, 1.5), "network", kind="network", size=(1.2, 0.6))
    drawing.box("A", (2.5, 0.5), "$g = -2A^T(A\\mu - y_t)$", kind="loss", size=(2.0, 0.6))
    drawing.box("step", (5.8, 0.9), "reverse\nstep", kind="operation", size=(1.0, 1.0))
    drawing.box("x", (7.0, 1.5), "$x$", size=(0.7, 0.6))
    drawing.arrow("y", "set", "embed").arrow("set", "near", "").arrow("near", "prior", "LoRA")
    drawing.arrow("y", "A", "").arrow("A", "step", "").arrow("prior", "step", "").arrow("step", "x", "")
    return drawing


def sheet(rows: Mapping[str, Mapping[str, Tensor]], scores: bool = False, zoom: int = 3) -> Photos:
    """Rows of images (3, H, W) in [-1, 1], each under its name; `scores` adds LPIPS to the estimates."""
    cells = []
    for name, row in rows.items():
        for i, (what, image) in enumerate(row.items()):
            words = what if i else f"{name}: {what}"
            if scores and what not in ("clean", "measurement"):
                pair = to_unit(image)[None], to_unit(row["clean"])[None]
                words += f" {protocols.score(m.LPIPS, *pair).item():.2f}"
            cells.append((words, enlarged(image, row["clean"].shape[-1] * zoom)))
    return _page(cells, max(map(len, rows.values())))


def enlarged(image: Tensor, side: int) -> Any:
    """(3, h, w) or (1, h, w) in [-1, 1], small or not, as a square of `side` pixels with hard pixels."""
    unit = to_unit(image).expand(3, -1, -1)
    return to_uint8(F.interpolate(unit[None], size=(side, side), mode="nearest")[0])


def neighbours(rows: Mapping[str, tuple[Tensor, Neighbours]], shown: int = 6, side: int = 112) -> Photos:
    """What was embedded, (3, H, W) in [0, 1], and its nearest images with their cosine."""
    cells = []
    for name, (seen, found) in rows.items():
        near = [(f"{c:.2f}", x) for c, x in zip(found.similarity[:shown], found.images, strict=False)]
        cells += [(words, to_uint8(center_crop(resize(x, side), side))) for words, x in ((name, seen), *near)]
    return _page(cells, shown + 1)


def _page(cells: Sequence[tuple[str, Any]], columns: int) -> Photos:
    """Images under their words; trailing blanks keep equal words apart."""
    return Photos(captioned({words + " " * i: picture for i, (words, picture) in enumerate(cells)}, columns), 74)


def lines(
    records: Sequence[Record], metric: str, x: str, values: Sequence[int], series: Mapping[str, Cell], **axes: Any
) -> Plate:
    """A metric's mean with its interval over `x`, for named selections {"experiment": …, "cell": {…}}."""
    drawn = {}
    for name, where in series.items():
        places = [(where["experiment"], {**where.get("cell", {}), x: v}) for v in values]
        means = [grid.ours(records, metric, [place]) for place in places]
        if all(c.records for c in means):
            drawn[name] = tuple(zip(*((c.value, *(c.interval or (c.value, c.value))) for c in means), strict=True))
    return plots.curve(values, drawn, **axes) if drawn else nothing("no records of this profile")


def gains(records: Sequence[Record], rows: Mapping[str, tuple[Cell, Cell]], **axes: Any) -> Plate:
    """LPIPS of two cells of the network, their difference over images: name -> (cell, what it is compared with)."""
    drawn = {}
    for name, pair in rows.items():
        found = [select(records, experiment=PRIOR, cell=cell) for cell in pair]
        if all(found) and found[0][0].n >= stats.MIN_UNITS:
            gain = stats.paired_difference(*([side[0].values(m.LPIPS)] for side in found))
            drawn[name] = (gain.estimate, gain.low, gain.high)
    return plots.dots(drawn, zero=0.0, **axes) if drawn else nothing("no records of this profile")


def losses(steps: Sequence[tuple[int, float]], window: int = 10) -> Plate:
    """The simple loss of an adaptation, (iteration, loss), averaged over a window of iterations."""
    values = torch.tensor([loss for _, loss in steps])
    smooth = values.unfold(0, min(window, len(values)), 1).mean(dim=1).tolist()
    axes = {"xlabel": "iteration", "ylabel": "simple loss", "markers": False, "size": (5.2, 2.4)}
    return plots.curve([i for i, _ in steps][-len(smooth) :], {"loss": smooth}, **axes)
