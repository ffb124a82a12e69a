"""This method's row of the README's figure: garments drawn from noise."""

from torch import Tensor

from repro.data.images import to_unit
from repro.ddpm import samplers
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import start_noise
from repro.ddpm.study.experiments import LINEAR, MAIN
from repro.engine.checkpoint import load_checkpoint
from repro.ui.plots import tile

TITLE = "01 DDPM and DDIM: garments drawn from noise, DDIM with 20 steps"
NEEDS = (MAIN,)
STEPS, ROWS, COLUMNS, ZOOM = 20, 3, 4, 2


def tiles() -> dict[str, object]:
    """Caption -> image, from the noise to the samples."""
    x = start_noise(range(ROWS * COLUMNS), (1, 28, 28))
    images = {"input: noise": _sheet(x / 3)}
    for step in samplers.ddim(model_fn(load_checkpoint(MAIN)), x, LINEAR, STEPS):
        if step.i + 1 in (10, 15, STEPS):
            images[f"after {step.i + 1} of {STEPS} steps"] = _sheet(step.x)
    return images


def _sheet(x: Tensor) -> object:
    return tile(list(to_unit(x)), COLUMNS, gap=1, scale=ZOOM)
