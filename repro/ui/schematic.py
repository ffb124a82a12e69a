"""Boxes and arrows: how the notebooks draw a method before they explain it."""

from __future__ import annotations

from typing import Any

from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from repro.ui.pictures import to_uint8
from repro.ui.plots import INK, Plate, style

# fill and edge; kinds differ in shape or edge too, never by colour alone
KINDS = {
    "data": ("#eaf3fa", "#0072B2"),
    "network": ("#fdf0e6", "#D55E00"),
    "frozen": ("#eeeeee", "#777777"),
    "operation": ("#ffffff", "#222222"),
    "loss": ("#fbeef5", "#CC79A7"),
}
At = tuple[float, float]


class Schematic:
    """A drawing on a canvas of `width` x `height` units (an inch each), origin at the lower left.

    Schematic(7, 2).box("x0", (1, 1), "$x_0$").box("xt", (5, 1), "$x_t$").arrow("x0", "xt", "add noise")
    As a cell's last line it shows itself; `plate()` gives the Figure.
    """

    def __init__(self, width: float, height: float) -> None:
        self._limits = {"xlim": (0, width), "ylim": (0, height)}
        self._boxes: dict[str, tuple[Any, At]] = {}  # name -> its patch and centre
        with style():
            self._plate = Plate(figsize=(width, height))
            self._axis = self._plate.add_axes((0, 0, 1, 1))
        self._axis.set(**self._limits, aspect="equal")
        self._axis.axis("off")

    def box(self, name: str, at: At, text: str = "", *, kind: str = "data", size: At = (1.1, 0.6)) -> Schematic:
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

    def image(self, name: str, at: At, picture: Any, *, height: float = 0.9, text: str = "") -> Schematic:
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

    def arrow(self, start: str, end: str, text: str = "", *, bend: float = 0.0, dashed: bool = False) -> Schematic:
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
        return self.note((middle[0] - 0.14 * side * dy / length, middle[1] + 0.14 * side * dx / length), text)

    def note(self, at: At, text: str, *, size: float = 8) -> Schematic:
        """Text on its own, centred `at`."""
        if text:
            with style():
                self._axis.text(*at, text, ha="center", va="center", fontsize=size, color=INK, zorder=4)
        return self

    def plate(self) -> Plate:
        """The drawing as a Figure."""
        return self._plate

    def _ipython_display_(self) -> None:
        self._plate._ipython_display_()
