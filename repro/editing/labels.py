"""Which single edit a training sample shows at a visit: nothing, or one of the five tasks.

"Multi-task image-to-image diffusion models with fine-grained control", section 4: at every step each sharp picture is
given one of six editing vectors, the identity among them; composites are never trained. The paper does not say with
which probabilities: uniform here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from repro.editing.vector import LENGTH, NAMES, SCALARS, TASKS
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

Noises = Callable[[str], KeyedNoise]

COUNT = 1 + len(TASKS)
NONE, BLUR, GRAIN, COLOUR, INPAINT, SHARPEN = range(COUNT)  # 0, then the order of TASKS
_OWNER = tuple(entry.task for entry in SCALARS) + TASKS  # the task that each of the nine entries belongs to
_KEEP = torch.tensor([[owner == task for owner in _OWNER] for task in ("none", *TASKS)])  # (6, 9)


def draw(noise: Noises, batch: int) -> Tensor:
    """(B,) int64 in 0 … 5: none, then the order of `TASKS`; keyed by `noise("label")`, on its device."""
    drawn = noise("label").integers(0, COUNT)
    if len(drawn) != batch:
        raise ReproError(f"labels: got noise of {len(drawn)} samples for a batch of {batch}; accepted: one each")
    return drawn


def only(vectors: Tensor, label: Tensor) -> Tensor:
    """Editing vectors (B, 9) with every entry zeroed that is not of the task `label` (B,) names; 0 leaves none."""
    if vectors.dim() != 2 or vectors.shape[1] != LENGTH or label.shape != vectors.shape[:1]:
        raise ReproError(
            f"labels: got vectors {tuple(vectors.shape)} and labels {tuple(label.shape)}; accepted: (B, {LENGTH}) of "
            f"{', '.join(NAMES)}, and (B,)"
        )
    return vectors * _KEEP.to(label.device)[label].to(vectors)


def pair(held: Mapping[str, Tensor], indices: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(source, target) of the pictures `indices` (B,) under their labels, each (B, ...) as `held` stores them.

    `held` has "sharp", "masked" and one entry per effect, pixels and latents alike. The source
    is "masked" for inpainting, else "sharp"; the target is the effect's picture, "sharp" for none and inpainting.
    """
    label = label.to(indices.device)
    source = held["sharp"][indices]
    target = source.clone()
    for value, task in enumerate(TASKS, start=1):
        on = label == value
        if task == "inpaint":
            source[on] = held["masked"][indices[on]]
        else:
            target[on] = held[task][indices[on]]
    return source, target
