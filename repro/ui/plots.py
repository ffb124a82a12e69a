"""Contact sheets, curves and schematics, in one small style: light, colour-blind safe, the same bytes every time.
Figures are made without pyplot: there is no global state, and nothing to close."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Self

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from numpy.typing import ArrayLike
from torch import Tensor

from repro.data.images import to_unit
from repro.ui.pictures import DPI, INK, png, show_png, style, tile, to_uint8

# Okabe and Ito's colour-blind safe palette, yellow left out because it vanishes on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), "-")  # of schedules drawn into one plot
ZOOM = 3  # screen pixels a pixel of a contact sheet


class PngFigure(Figure):
    """A Figure that shows itself as byte-stable PNG, whatever backend a notebook has chosen."""

    def _ipython_display_(self) -> None:
        show_png(png(self))


@contextmanager
def panels(size: tuple[float, float], *shape: int, **layout: Any) -> Iterator[tuple[PngFigure, Any]]:
    """A figure of `size` inches and its axes (`shape` and `layout` as in matplotlib's `subplots`; by default one)."""
    with style():
        figure = PngFigure(figsize=size, layout="constrained")
        yield figure, figure.subplots(*shape, **layout)


def _look(index: int) -> dict[str, str]:
    """Colour and marker of a series: they differ together, so that no two series differ by colour alone."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}


def sheet(
    pictures: Sequence[Tensor | None], cols: int, row_labels: Sequence[str] = (), col_labels: Sequence[str] = (),
    zoom: int = ZOOM,
) -> PngFigure:  # fmt: skip
    """Small images (1, H, W) in [0, 1] as one contact sheet, each pixel a square of `zoom`; None leaves a gap. They are
    one image on one axis: a hundred are drawn as fast as one."""
    shape = next(p for p in pictures if p is not None).shape
    gap = 2 * zoom
    canvas = tile([np.ones(shape, np.float32) if p is None else p for p in pictures], cols, gap=gap, scale=zoom)
    (h, w), (tall, wide) = canvas.shape[:2], [side * zoom + gap for side in shape[1:]]
    plain = re.sub(r"\$[^$]*\$", "xx", "\n".join(row_labels)).split("\n")
    left = 0.1 + 0.072 * (max(map(len, plain)) if row_labels else -1)  # inches
    top = 0.17 * max((label.count("\n") + 1 for label in col_labels), default=0) + 0.06
    width, height = w / DPI + left, h / DPI + top
    with style():
        figure = PngFigure(figsize=(width, height))
        axis = figure.add_axes((left / width, 0, w / DPI / width, h / DPI / height))
        axis.imshow(canvas, interpolation="nearest", aspect="auto")
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, labelsize=9, labelcolor=INK, top=False, labeltop=True, labelbottom=False, pad=2)
        axis.set_xticks([(i + 0.5) * wide - gap / 2 for i in range(len(col_labels))], col_labels)
        axis.set_yticks([(i + 0.5) * tall - gap / 2 for i in range(len(row_labels))], row_labels)
    return figure


def rows_of(groups: Mapping[str, Tensor], titles: Sequence[str] = (), zoom: int = ZOOM) -> PngFigure:
    """One labelled row per group of images (N, 1, H, W) in [-1, 1], all of one length."""
    images = [to_unit(image) for group in groups.values() for image in group]
    return sheet(images, len(next(iter(groups.values()))), list(groups), titles, zoom)


def curve(
    x: ArrayLike,
    series: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = True,
    reference: Mapping[str, float] | None = None,
    size: tuple[float, float] = (5.2, 3.0),
) -> PngFigure:
    """Lines over `x` (n,): name -> values (n,), or name -> (values, low, high) with an interval drawn as a band; NaN
    leaves a gap. reference: name -> a level, drawn dashed. `size` in inches. log_x puts a tick at every x."""
    x = np.asarray(x, dtype=float)
    with panels(size) as (figure, axis):
        for index, (name, values) in enumerate(series.items()):
            look = _look(index)
            center, *band = values if isinstance(values, tuple) else (values,)
            axis.plot(x, center, **{**look, "marker": look["marker"] if markers else None}, label=name)
            if band:
                axis.fill_between(x, *band, color=look["color"], alpha=0.18, linewidth=0)
        for index, (name, level) in enumerate((reference or {}).items(), start=len(series)):
            axis.axhline(level, color=_look(index)["color"], linestyle=(0, (4, 3)), linewidth=1.2, label=name)
        if log_x:
            axis.set_xscale("log")
            axis.set_xticks(x, [f"{v:g}" for v in x])
            axis.minorticks_off()
        if log_y:
            axis.set_yscale("log")
        axis.set(xlabel=xlabel, ylabel=ylabel)
        if len(series) + len(reference or {}) > 1:
            axis.legend()
    return figure


def whiskers(axis: Any, x: Sequence[float], points: Sequence[tuple[float, float, float]], **look: Any) -> None:
    """A line with error bars through points (value, low, high) at x on a matplotlib axis; NaN leaves a gap."""
    value, low, high = (np.array(part, dtype=float) for part in zip(*points, strict=True))
    axis.errorbar(x, value, yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)], capsize=2, **look)


def dots(
    rows: Mapping[str, Any],
    *,
    xlabel: str,
    zero: float | None = None,
    groups: Sequence[str] | None = None,
    size: tuple[float, float] | None = None,
) -> PngFigure:
    """One line a row, from the top: a dot at its value with its interval.

    rows: name -> value, or (value, low, high), or None (left empty), or a mapping group -> one of these, drawn under
    each other in one line. zero: place of a vertical line (no difference). groups: one word a row, coloured alike and
    named in the legend. `size` in inches. Without rows: `nothing`.
    """
    if not rows:
        return nothing("— no records of this profile yet: `repro evaluate METHOD --full` makes them")
    grouped = zip(rows.values(), groups or [""] * len(rows), strict=True)
    several = [row if isinstance(row, Mapping) else {group: row} for row, group in grouped]
    looks = {name: _look(i) for i, name in enumerate(dict.fromkeys(filter(None, chain(*several))))}
    high = 0.7 + max(0.26, 0.11 * max(map(len, several), default=1)) * len(rows)
    with panels(size or (7.2 if looks else 6.4, high)) as (figure, axis):
        for row, entries in enumerate(several):
            for i, (group, entry) in enumerate(entries.items()):
                if entry is None:
                    continue
                y, look = row + (i + 0.5) / len(entries) * 0.8 - 0.4, looks.get(group, _look(0))
                value, *interval = entry if isinstance(entry, tuple) else (entry,)
                if interval and interval[0] is not None:
                    axis.plot(interval, [y, y], color=look["color"], linewidth=1.6, solid_capstyle="round")
                axis.plot([value], [y], **look, markersize=5, linestyle="")
        for name, look in looks.items():
            axis.plot([], [], linestyle="", label=name, **look)
        if zero is not None:
            axis.axvline(zero, color=INK, linewidth=0.8)
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set(xlabel=xlabel)
        if looks:
            figure.legend(loc="outside right upper")
    return figure


VERDICTS = {
    "reproduced": "#009E73",
    "weaker": "#E69F00",
    "not reproduced": "#D55E00",
    "not measured at this scale": "#bbbbbb",
}


def verdict_bars(claims: Mapping[str, Sequence[str]]) -> PngFigure:
    """A bar for each claim (its text -> the verdicts of its comparisons, words of `VERDICTS`), coloured by verdict."""
    text = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
    with panels((8.4, 0.75 + 0.3 * len(claims))) as (figure, axis):
        for index, verdicts in enumerate(claims.values()):
            start = 0.0
            for verdict, colour in VERDICTS.items():
                if count := list(verdicts).count(verdict):
                    share = count / len(verdicts)
                    axis.barh(index, share, left=start, height=0.72, color=colour, edgecolor="white")
                    axis.text(start + share / 2, index, str(count), **text)
                    start += share
        for verdict, colour in VERDICTS.items():
            axis.barh([0], [0], color=colour, label=verdict)
        axis.set_yticks(range(len(claims)), list(claims))
        axis.set(xlim=(0, 1), ylim=(len(claims) - 0.4, -0.6), xticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(VERDICTS))
    return figure


# fill and edge; kinds differ in shape or edge too, never by colour alone
KINDS = {
    "data": ("#eaf3fa", "#0072B2"),
    "network": ("#fdf0e6", "#D55E00"),
    "frozen": ("#eeeeee", "#777777"),
    "operation": ("#ffffff", "#222222"),
    "loss": ("#fbeef5", "#CC79A7"),
}
At = tuple[float, float]


class Schematic(PngFigure):
    """A drawing of `width` x `height` units (inches), origin at the lower left:

    Schematic(7, 2).box("x0", (1, 1), "$x_0$").box("xt", (5, 1), "$x_t$").arrow("x0", "xt", "add noise")
    """

    def __init__(self, width: float, height: float) -> None:
        self._limits = {"xlim": (0, width), "ylim": (0, height)}
        self._boxes: dict[str, tuple[Any, At]] = {}  # name -> its patch and centre
        with style():
            super().__init__(figsize=(width, height))
            self._axis = self.add_axes((0, 0, 1, 1))
        self._axis.set(**self._limits, aspect="equal")
        self._axis.axis("off")

    def box(self, name: str, at: At, text: str = "", *, kind: str = "data", size: At = (1.1, 0.6)) -> Self:
        """A box `name` centred `at`, `text` in it. kind: data, network, frozen (dashed), operation (a circle), loss."""
        fill, edge = KINDS[kind]
        look = {"facecolor": fill, "edgecolor": edge, "linewidth": 1.3, "linestyle": "--" if kind == "frozen" else "-"}
        (x, y), (w, h) = at, size
        if kind == "operation":
            patch: Any = Circle(at, min(w, h) / 2, **look, zorder=2)
        else:
            rounded = f"round,pad=0,rounding_size={0.02 if kind == 'network' else 0.12}"
            patch = FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=rounded, **look, zorder=2)
        self._boxes[name] = self._axis.add_patch(patch), at
        return self.note(at, text, size=9)

    def image(self, name: str, at: At, picture: Any, *, height: float = 0.9, text: str = "") -> Self:
        """An image as a box of that height in units, `text` under it."""
        pixels = to_uint8(picture)
        (x, y), w, h = at, height * pixels.shape[1] / pixels.shape[0], height
        extent = (x - w / 2, x + w / 2, y - h / 2, y + h / 2)
        self._axis.imshow(pixels, extent=extent, zorder=2, interpolation="nearest")
        self._axis.set(**self._limits)
        look = {"fill": False, "edgecolor": "#888888", "linewidth": 0.8, "zorder": 3}
        patch = FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="square,pad=0", **look)
        self._boxes[name] = self._axis.add_patch(patch), at
        return self.note((x, y - h / 2 - 0.13), text, size=8)

    def arrow(self, start: str, end: str, text: str = "", *, bend: float = 0.0, dashed: bool = False) -> Self:
        """An arrow from edge to edge, `text` beside its middle. bend: -1 to 1, curves it right or left of its way."""
        (first, a), (second, b) = self._boxes[start], self._boxes[end]
        ends = {"patchA": first, "patchB": second, "shrinkA": 2, "shrinkB": 2}
        look = {"arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.2, "color": INK, "zorder": 1.5}
        line = {"connectionstyle": f"arc3,rad={bend}", "linestyle": "--" if dashed else "-"}
        self._axis.add_patch(FancyArrowPatch(a, b, **ends, **look, **line))
        # the control point of arc3, halved: the curve's middle; the text stands a little outside of it
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = (dx * dx + dy * dy) ** 0.5
        middle = ((a[0] + b[0]) / 2 + bend * dy / 2, (a[1] + b[1]) / 2 - bend * dx / 2)
        side = -1.0 if bend > 0 or (bend == 0 and dx < 0) else 1.0  # of a straight arrow: above
        right, up = -side * dy / length, side * dx / length
        align = "center" if abs(right) < 0.9 else "left" if right > 0 else "right"  # of a steep arrow: not across it
        return self.note((middle[0] + 0.14 * right, middle[1] + 0.14 * up), text, align=align)

    def note(self, at: At, text: str, *, size: float = 8, align: str = "center") -> Self:
        """Text on its own, centred `at` or with its left or right end there."""
        if text:
            with style():
                self._axis.text(*at, text, ha=align, va="center", fontsize=size, color=INK, zorder=4)
        return self


def nothing(text: str) -> PngFigure:
    """A sentence in place of a figure that has no records, or no weights."""
    return Schematic(6.4, 0.6).note((3.2, 0.3), text, size=9)
