"""Composites: several effects on one image, in a stated order, and the pair of images a model learns from.

"Multi-task image-to-image diffusion models with fine-grained control" evaluates composites (Table 3) without saying in
which order their targets were made, and the order matters: sharpening amplifies grain that is already there, colour
transfer takes grain for contrast, blur wipes it out. Decided here: the order in which the paper names the tasks, blur,
grain, colour, sharpening. Inpainting is not an effect on the target: the hole is cut into the source, and a sequence of
models fills it first.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repro.editing.effects import colour_transfer, cut_hole, free_form_mask, motion_blur, unsharp_mask
from repro.editing.grain import gaussian_grain
from repro.editing.vector import EditingVector
from repro.errors import ReproError

ORDER = ("blur", "grain", "colour", "sharpen")
LEAST_GRAIN = 1e-4  # pixels: finer grain, below a hundredth of a grey level, is none


@dataclass(frozen=True)
class Recipe:
    """What the paper leaves open about its targets, decided; data of a benchmark, hashed with it.

    order: of the effects on the target. fill: of a hole in the source, in [0, 1]; the paper's product with the mask is
    0 or 0.5 as images are in [0, 1] or [-1, 1] then. longest: pixels of the path of blur at beta = 1, None for an
    eighth of the image's shorter side. Colour is Reinhard's transfer, grain the Gaussian field.
    """

    order: tuple[str, ...] = ORDER
    fill: float = 0.0
    longest: float | None = None

    def hashed(self) -> dict[str, Any]:
        """What the digest of a benchmark covers; choices that are no longer open stay in it."""
        return {**asdict(self), "space": "lalphabeta", "ratio": "reinhard", "samples": 800, "grain": "field"}

    def sequence(self, vector: EditingVector) -> tuple[EditingVector, ...]:
        """The request as single tasks, in the order in which a sequence of single-task models runs them."""
        return tuple(vector.only(task) for task in ("inpaint", *self.order) if task in vector.active)


class Composite(NamedTuple):
    """Input and target of a model."""

    source: Tensor  # (B, 3, H, W) in [0, 1], holes filled where inpainting is on
    target: Tensor  # (B, 3, H, W) in [0, 1], every other effect applied
    hole: Tensor  # (B, 1, H, W) 1 in the hole, 0 elsewhere and where inpainting is off


def compose(
    image: Tensor,
    vectors: EditingVector | Sequence[EditingVector],
    *,
    seed: int,
    ids: Sequence[int | str],
    reference: Tensor | None = None,
    hole: Tensor | None = None,
    recipe: Recipe | None = None,
) -> Composite:
    """Source and target of the requests: deterministic in (image, request, seed, id), whatever else is in the batch.

    Args:
        image: (B, 3, H, W) in [0, 1].
        vectors: one request for all images, or one each.
        reference: (B, 3, h, w), or (1, 3, h, w) for all, in [0, 1]; needed where colour is on.
        hole: (B, 1, H, W), or (1, 1, H, W) for all, 1 in the hole and 0 elsewhere; by default free-form holes drawn
            from (seed, id). Used only where inpainting is on.
    """
    recipe, target = recipe or Recipe(), image
    requests = [vectors] * len(image) if isinstance(vectors, EditingVector) else list(vectors)
    if reference is None and any(request.colour for request in requests):
        raise ReproError("composites: colour transfer is on and there is no reference image; one is needed")
    for effect in recipe.order:
        on = [i for i, r in enumerate(requests) if effect in r.active and (effect != "grain" or r.grain >= LEAST_GRAIN)]
        part, values, names = target[on], [getattr(requests[i], effect) for i in on], [ids[i] for i in on]
        if not on:
            continue
        if effect == "blur":
            part = motion_blur(part, values, seed, names, longest=recipe.longest)
        elif effect == "grain":
            part = gaussian_grain(part, torch.tensor(values, dtype=torch.float64), seed=seed, ids=names)
        elif effect == "sharpen":
            part = unsharp_mask(part, *zip(*values, strict=True))
        else:
            part = colour_transfer(part, reference[on] if len(reference) == len(image) else reference)
        target = target.index_copy(0, torch.tensor(on, device=image.device), part)
    inpaint = torch.tensor([request.inpaint for request in requests], device=image.device)[:, None, None, None]
    if not inpaint.any():
        return Composite(image, target, image.new_zeros(len(image), 1, *image.shape[2:]))
    hole = (free_form_mask(seed, ids, tuple(image.shape[2:])) if hole is None else hole).to(image)
    return Composite(torch.where(inpaint, cut_hole(image, hole, recipe.fill), image), target, hole * inpaint)
