"""This method's row of the README's figure: a dark photograph and one behind raindrops, restored."""

from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.rddm.pipeline import RDDMPipeline
from repro.rddm.study.experiments import SMALL, USE, degraded, name_of

TITLE = "03 RDDM: restored in a few steps, on photographs degraded by formula"
SHOWN = (
    ("lowlight", "smres", "photos/erase_kitten", "dark"),
    ("raindrop", "use", "photos/monuments_brandenburgGate", "behind raindrops"),
)
NEEDS = tuple(name_of(task, variant) for task, variant, *_ in SHOWN)


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], inputs before their results."""
    images = {}
    for task, variant, photo, words in SHOWN:
        config = (USE if variant == "use" else SMALL)[task]
        given = degraded(config.degradation, resize(pack.load(pack.picture(photo)), 256), photo)
        pipe = RDDMPipeline.shipped(task, variant)
        pipe.set_progress_bar_config(disable=True)
        result = pipe(given, num_inference_steps=config.steps, seed=0, output_type="pt").images[0]
        steps = "1 step" if config.steps == 1 else f"{config.steps} steps"
        images |= {f"input: {words}": given, f"restored, {steps}" + " " * len(images): result}
    return {name: center_crop(resize(image, 192), (192, 256)) for name, image in images.items()}
