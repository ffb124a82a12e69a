"""Composites: several effects on one picture, in a stated order, and the pair of pictures a model learns from.

"Multi-task image-to-image diffusion models with fine-grained control" evaluates composites (Table 3) without saying in
which order their targets were made, and the order matters: sharpening amplifies grain that is already there, colour
transfer takes grain for contrast, blur wipes it out. Decided here: the order in which the paper names the tasks, in its
vector, its tables and its introduction ("motion blur, film grain, and colorization") - blur, grain, colour, sharpening.
A sequence of single-task models is run in the same order.

Inpainting is not an effect on the target: the paper multiplies the *input* by the mask, and the target is whole. A hole
is therefore cut into the source after everything else is settled, and a sequence of models fills it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from repro.editing.effects.blur import motion_blur
from repro.editing.effects.colour import Ratio, Space, colour_transfer
from repro.editing.effects.grain import RADII, film_grain
from repro.editing.effects.grain_law import gaussian_grain
from repro.editing.effects.masks import cut_hole, free_form_mask
from repro.editing.effects.sharpen import unsharp_mask
from repro.editing.vector import EditingVector
from repro.errors import ReproError

ORDER = ("blur", "grain", "colour", "sharpen")
LEAST_GRAIN = 1e-4  # pixels: finer grain, below a hundredth of a grey level, is none
BLACK, GREY = 0.0, 0.5  # what a hole holds: 0 in [0, 1], or 0 in [-1, 1]


@dataclass(frozen=True)
class Recipe:
    """What the paper leaves open about its targets, decided; data of a benchmark, hashed with it.

    order: of the effects on the target. fill: of a hole in the source, in [0, 1]; the paper's product with the mask is
    BLACK or GREY as pictures are in [0, 1] or [-1, 1] then. space, ratio: of `colour_transfer`. samples: Monte-Carlo
    points of a pixel of `film_grain`. longest: pixels of the path of blur at beta = 1, None for an eighth of the
    picture's shorter side. grain: "film" renders grains, "field" is `gaussian_grain`, the law of infinitely many
    samples: exact to half a grey level up to a radius of 0.053, to 1.8 levels three deviations out in the shadows at
    the largest, 0.1.
    """

    order: tuple[str, ...] = ORDER
    fill: float = BLACK
    space: Space = "lalphabeta"
    ratio: Ratio = "reinhard"
    samples: int = 800
    longest: float | None = None
    grain: Literal["film", "field"] = "film"

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(ORDER):
            raise ReproError(f"composites: got the order {self.order}; accepted: each of {', '.join(ORDER)} once")
        if not 0 <= self.fill <= 1:
            raise ReproError(f"composites: holes are filled with {self.fill:g}; accepted: 0 to 1")

    def sequence(self, vector: EditingVector) -> tuple[EditingVector, ...]:
        """The request as single tasks, in the order in which a sequence of single-task models runs them."""
        return tuple(vector.only(task) for task in ("inpaint", *self.order) if task in vector.active)


class Composite(NamedTuple):
    """What a model is given and what it should make of it."""

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
        vectors: one request for all pictures, or one each.
        reference: (B, 3, h, w), or (1, 3, h, w) for all, in [0, 1]; needed where colour is on.
        hole: (B, 1, H, W), or (1, 1, H, W) for all, 1 in the hole and 0 elsewhere; by default free-form holes drawn
            from (seed, id). Looked at only where inpainting is on.
        recipe: what the paper leaves open; None is `Recipe()`.

    Raises:
        ReproError: colour without a reference, a hole of another size or not binary, counts that do not match.
    """
    recipe = recipe or Recipe()
    if image.dim() != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ReproError(f"composites: got {image.dtype} {tuple(image.shape)}; accepted: floating point (B, 3, H, W)")
    requests = [vectors] * len(image) if isinstance(vectors, EditingVector) else list(vectors)
    if not len(image) == len(requests) == len(ids):
        raise ReproError(
            f"composites: got {len(image)} pictures, {len(requests)} requests and {len(ids)} ids; accepted: one each"
        )
    if reference is not None and len(reference) not in (1, len(image)):
        raise ReproError(
            f"composites: got {len(reference)} references for {len(image)} pictures; accepted: one, or one each"
        )
    target = image
    for effect in recipe.order:
        target = _where_on(effect, target, requests, ids, seed, reference, recipe)
    on = torch.tensor([request.inpaint for request in requests], device=image.device)[:, None, None, None]
    if not on.any():
        return Composite(image, target, image.new_zeros(len(image), 1, *image.shape[2:]))
    if hole is None:
        hole = free_form_mask(seed, ids, tuple(image.shape[2:]))
    hole = hole.to(image)
    source = torch.where(on, cut_hole(image, hole, recipe.fill), image)
    return Composite(source, target, hole * on)


def _where_on(
    effect: str,
    image: Tensor,
    requests: Sequence[EditingVector],
    ids: Sequence[int | str],
    seed: int,
    reference: Tensor | None,
    recipe: Recipe,
) -> Tensor:
    """One effect on those pictures whose request has it on; the others pass."""
    on = [i for i, request in enumerate(requests) if effect in request.active]
    if effect == "grain":
        on = [i for i in on if requests[i].grain >= LEAST_GRAIN]
    if not on:
        return image
    at = torch.tensor(on, device=image.device)
    part, values, names = image[at], [getattr(requests[i], effect) for i in on], [ids[i] for i in on]
    if effect == "blur":
        part = motion_blur(part, values, seed, names, longest=recipe.longest)
    elif effect == "grain":
        radius = torch.tensor(values, dtype=torch.float64)  # float32 has no 0.1: it would choose another lattice
        if recipe.grain == "field":
            part = gaussian_grain(part, radius, seed=seed, ids=names, largest=RADII[-1])
        else:
            part = film_grain(part, radius, seed=seed, ids=names, n_samples=recipe.samples)
    elif effect == "colour":
        if reference is None:
            raise ReproError("composites: colour transfer is on and there is no reference picture; one is needed")
        own = reference[at] if len(reference) == len(image) else reference
        part = colour_transfer(part, own, space=recipe.space, ratio=recipe.ratio)
    else:
        part = unsharp_mask(part, *zip(*values, strict=True))
    return image.index_copy(0, at, part)
