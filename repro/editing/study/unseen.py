"""Pictures from outside the benchmark: what scikit-image carries, for the claim that edits carry over (E12).

The paper shows faces (FFHQ) and cars (Stanford Cars); neither may ship here. A portrait, a motorcycle, a cup, a rocket,
an eye's retina and a stained tissue stand in: nothing like them is in the training split of animals and monuments.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from repro.data.crops import crops
from repro.data.images import resize
from repro.editing.effects.masks import free_form_mask
from repro.editing.study.benchmark import Bench, Split, levels, parameters, references

NAMES = ("astronaut", "motorcycle", "coffee", "rocket", "retina", "tissue")


def _load(name: str) -> np.ndarray:
    from skimage import data

    if name == "motorcycle":
        return data.stereo_motorcycle()[0]
    return {"tissue": data.immunohistochemistry}.get(name, getattr(data, name, None))()


@lru_cache(maxsize=2)
def pictures(bench: Bench) -> Split:
    """One crop of each, with parameters, references (of the training split) and holes as the test split draws them."""
    size = bench.crop[2]
    ids = tuple(f"skimage/{name}" for name in NAMES)
    whole = [torch.from_numpy(_load(name)).permute(2, 0, 1).float() / 255 for name in NAMES]
    side = bench.sides[2][0]
    shown = [levels(resize(image, side).clamp(0, 1)) for image in whole]
    return Split(
        "unseen",
        ids,
        crops(shown, size, ids, bench.version, flip=False),
        references("unseen", ids, bench, size),
        free_form_mask(bench.version, ids, (size, size)),
        tuple(parameters(ids, bench.version)),
        bench,
    )
