"""This method's row of the README's picture: a dark photograph and one behind raindrops, restored."""

from __future__ import annotations

from torch import Tensor

from repro.data.images import center_crop, resize, to_unit
from repro.rddm.study.experiments import name_of
from repro.rddm.study.lesson import PHOTO, SECOND, lesson

TITLE = "03 RDDM: restored in two and in five steps, on photographs degraded by formula"
NEEDS = (name_of("lowlight", "smres"), name_of("raindrop", "smres"))


def tiles() -> dict[str, Tensor]:
    """Caption -> picture (3, H, W) in [0, 1], inputs before their results."""
    now, shown = lesson("small"), {}
    for task, photo, words in (("lowlight", PHOTO, "dark"), ("raindrop", SECOND, "behind raindrops")):
        net = now.net(task, "smres")
        I_in, _ = now.pair(task, photo)
        shown[f"input: {words}"] = _tile(I_in)
        shown[f"restored, {net.steps} steps"] = _tile(net.restore(I_in, [photo]))
    return shown


def _tile(x: Tensor) -> Tensor:
    return center_crop(resize(to_unit(x)[0], 192), (192, 256))
