"""This method's row of the README's figure: a small image enlarged four times, and a blurred, noisy one."""

from torch import Tensor
from torch.nn import functional as F

from repro.adir.operators import operator
from repro.adir.pipeline import ADIR, PRIOR
from repro.data import pack
from repro.data.images import center_crop, resize, to_model, to_unit
from repro.engine.rng import KeyedNoise

TITLE = "05 ADIR: one network, trained on no task, guided by the measurement and adapted to images like it"
NEEDS = (PRIOR,)
SIZE = (96, 128)
SHOWN = (
    ("sr4", "photos/farm_animals_cat", "a quarter of its size", "four times as large"),
    ("box", "photos/erase_crab", "5 x 5 box blur and noise", "deblurred"),
)


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], measurements before their reconstructions."""
    pipe, shown = ADIR.shipped(), {}
    for task, photo, given, made in SHOWN:
        found = next(p for p in pack.photos("test") if p.id == photo)
        clean = to_model(center_crop(resize(pack.load(found), SIZE[0]), SIZE))[None]
        noise = KeyedNoise(0, [photo], "overview/measurement")
        measured = to_unit(operator(task, *SIZE).measure(clean, noise))[0].clamp(0, 1)
        shown |= {f"input: {given}": measured, made: pipe(measured, task).clamp(0, 1)}
    size = tuple(2 * n for n in SIZE)
    return {words: F.interpolate(image[None], size=size, mode="nearest")[0] for words, image in shown.items()}
