"""This method's row of the README's figure: a dark and a shaken photograph, restored by a network each."""

from torch import Tensor

from repro.data import pack
from repro.data.degradations import TASKS
from repro.data.images import center_crop, resize
from repro.engine.rng import KeyedNoise
from repro.ucdir.pipeline import SHIPPED, UCDIRPipeline

TITLE = "04 UCDIR: an initial estimate, and the residual that diffusion adds to it"
SHOWN = (
    ("lowlight", "photos/erase_red_panda", {"stops": 3.0}, "three stops too dark"),
    ("deblur", "photos/farm_animals_sheep", {"length": 10.0}, "shaken"),
)
NEEDS = tuple(SHIPPED.format(task=task) for task, *_ in SHOWN)


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], inputs before their results."""
    shown = {}
    for task, photo, fixed, words in SHOWN:
        clean = resize(pack.load(pack.picture(photo)), 256)[None]
        given = TASKS[task].degrade(clean, lambda purpose, name=photo: KeyedNoise(7, [name], purpose), **fixed)[0][0]
        pipe = UCDIRPipeline.shipped(task)
        pipe.set_progress_bar_config(disable=True)
        made = {f"input: {words}": given, "restored" + " " * len(shown): pipe(given, output_type="pt").images[0]}
        shown |= {name: center_crop(resize(image, 192), (192, 256)) for name, image in made.items()}
    return shown
