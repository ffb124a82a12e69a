"""Pictures from outside the benchmark: what scikit-image carries, for the claim that edits carry over (E12).

The paper shows faces (FFHQ) and cars (Stanford Cars); neither may ship here. A portrait, a motorcycle, a cup, a rocket,
an eye's retina and a stained tissue stand in: nothing like them is in the training split of animals and monuments.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from repro.data.crops import crops
from repro.data.images import resize
from repro.editing.effects.masks import free_form_mask
from repro.editing.study.benchmark import Bench, Split, levels, parameters, references

NAMES = ("astronaut", "motorcycle", "coffee", "rocket", "retina", "tissue")


def load(name: str) -> Tensor:
    """(3, H, W) in [0, 1], whole."""
    from skimage import data

    found = {"tissue": data.immunohistochemistry, "motorcycle": lambda: data.stereo_motorcycle()[0]}
    pixels = found.get(name, getattr(data, name, None))()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@lru_cache(maxsize=2)
def pictures(bench: Bench) -> Split:
    """One crop of each, with parameters, references (of the training split) and holes as the test split draws them."""
    size = bench.crop[2]
    ids = tuple(f"skimage/{name}" for name in NAMES)
    side = bench.sides[2][0]
    shown = [levels(resize(image, side).clamp(0, 1)) for image in map(load, NAMES)]
    return Split(
        "unseen",
        ids,
        crops(shown, size, ids, bench.version, flip=False),
        references("unseen", ids, bench, size),
        free_form_mask(bench.version, ids, (size, size)),
        tuple(parameters(ids, bench.version)),
        bench,
    )
