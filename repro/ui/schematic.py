"""Boxes and arrows: how the notebooks draw a method before they explain it."""

from __future__ import annotations

from typing import Any

from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from repro.errors import ReproError
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


class Schematic:
    """A drawing on a canvas of `width` x `height` units (an inch each), origin at the lower left.

    Schematic(7, 2).box("x0", (1, 1), "$x_0$").box("xt", (5, 1), "$x_t$").arrow("x0", "xt", "add noise")
    As a cell's last line it shows itself; `plate()` gives the Figure.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._patches: dict[str, Any] = {}
        with style():
            self._plate = Plate(figsize=(width, height))
            self._axis = self._plate.add_axes((0, 0, 1, 1))
        self._axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self._axis.axis("off")

    def box(
        self,
        name: str,
        at: tuple[float, float],
        text: str = "",
        *,
        kind: str = "data",
        size: tuple[float, float] = (1.1, 0.6),
    ) -> Schematic:
        """A box `name` centred `at`, `text` in it. kind: data, network, frozen (dashed), operation (a circle), loss."""
        fill, edge = KINDS[kind]
        look = {"facecolor": fill, "edgecolor": edge, "linewidth": 1.3, "linestyle": "--" if kind == "frozen" else "-"}
        (x, y), (w, h) = at, size
        if kind == "operation":
            patch: Any = Circle(at, min(w, h) / 2, **look, zorder=2)
        else:
            rounding = 0.02 if kind == "network" else 0.12
            rounded = f"round,pad=0,rounding_size={rounding}"
            patch = FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=rounded, **look, zorder=2)
        self._add(name, patch)
        self.note(at, text, size=9)
        return self

    def image(
        self, name: str, at: tuple[float, float], picture: Any, *, height: float = 0.9, text: str = ""
    ) -> Schematic:
        """An image as a box of that height in units, `text` under it."""
        pixels = to_uint8(picture)
        w, h = height * pixels.shape[1] / pixels.shape[0], height
        (x, y) = at
        extent = (x - w / 2, x + w / 2, y - h / 2, y + h / 2)
        self._axis.imshow(pixels, extent=extent, zorder=2, interpolation="nearest")
        self._axis.set(xlim=(0, self.width), ylim=(0, self.height))
        look = {"fill": False, "edgecolor": "#888888", "linewidth": 0.8, "zorder": 3}
        self._add(name, FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="square,pad=0", **look))
        self.note((x, y - h / 2 - 0.13), text, size=8)
        return self

    def arrow(self, start: str, end: str, text: str = "", *, bend: float = 0.0, dashed: bool = False) -> Schematic:
        """An arrow from edge to edge, `text` beside its middle. bend: -1 to 1, curves it right or left of its way."""
        if missing := {start, end} - set(self._patches):
            raise ReproError(f"Schematic: no box {missing}, there are {', '.join(self._patches) or 'none'}")
        a, b = self._center(start), self._center(end)
        ends = {"patchA": self._patches[start], "patchB": self._patches[end], "shrinkA": 2, "shrinkB": 2}
        look = {"arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.2, "color": INK, "zorder": 1.5}
        line = {"connectionstyle": f"arc3,rad={bend}", "linestyle": "--" if dashed else "-"}
        self._axis.add_patch(FancyArrowPatch(a, b, **ends, **look, **line))
        # the control point of arc3, halved: the curve's middle; the text stands a little outside of it
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = (dx * dx + dy * dy) ** 0.5
        middle = ((a[0] + b[0]) / 2 + bend * dy / 2, (a[1] + b[1]) / 2 - bend * dx / 2)
        side = -1.0 if bend > 0 else 1.0
        normal = (-dy / length * side, dx / length * side) if length else (0.0, 1.0)
        if bend == 0 and normal[1] < 0:
            normal = (-normal[0], -normal[1])
        self.note((middle[0] + 0.14 * normal[0], middle[1] + 0.14 * normal[1]), text, size=8)
        return self

    def note(self, at: tuple[float, float], text: str, *, size: float = 8) -> Schematic:
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

    def _add(self, name: str, patch: Any) -> None:
        if name in self._patches:
            raise ReproError(f"Schematic: a second box {name!r}, every name is used once")
        self._axis.add_patch(patch)
        self._patches[name] = patch

    def _center(self, name: str) -> tuple[float, float]:
        patch = self._patches[name]
        if isinstance(patch, Circle):
            return patch.center
        return patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2
