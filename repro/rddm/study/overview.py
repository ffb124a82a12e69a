"""This method's row of the README's figure: a dark photograph and one behind raindrops, restored."""

from __future__ import annotations

from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.engine.checkpoint import trained
from repro.rddm.pipeline import RDDMPipeline
from repro.rddm.study.experiments import SMALL, USE, degraded, name_of
from repro.rddm.study.lesson import PHOTO, SECOND, held_out

TITLE = "03 RDDM: restored in a few steps, on photographs degraded by formula"
SHOWN = (("lowlight", PHOTO, "dark"), ("raindrop", SECOND, "behind raindrops"))


def _variant(task: str) -> str:
    """The network for use where it is here, else that of the comparisons; each on what it was trained for."""
    return "use" if trained(name_of(task, "use")) else "smres"


NEEDS = tuple(name_of(task, _variant(task)) for task, *_ in SHOWN)


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], inputs before their results."""
    shown = {}
    for task, photo, words in SHOWN:
        variant = _variant(task)
        config = (USE if variant == "use" else SMALL)[task]
        clean = resize(pack.load(held_out(photo)), 256)
        given = degraded(config.degradation, clean, photo)
        pipe = RDDMPipeline.shipped(task, variant)
        pipe.set_progress_bar_config(disable=True)
        shown[f"input: {words}"] = _tile(given)
        result = pipe(given, num_inference_steps=config.steps, seed=0, output_type="pt").images[0]
        shown[f"restored, {config.steps} steps"] = _tile(result)
    return shown


def _tile(image: Tensor) -> Tensor:
    return center_crop(resize(image, 192), (192, 256))
