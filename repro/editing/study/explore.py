"""The widgets of notebook 02: pure functions from the controls' values to an image. `repro.ui.explore` shows them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, read_image, resize
from repro.editing.effects import box_mask, free_form_mask
from repro.editing.study.benchmark import Split
from repro.editing.study.experiments import LONGER
from repro.editing.study.lesson import FOR_USE, MULT, PALETTE, PIX2PIX, SINGLE, Lesson
from repro.editing.vector import EditingVector
from repro.ui.explore import Choice, Control, Seed, Slider, Toggle, Upload, UploadedFile
from repro.ui.photos import own_view as own_view
from repro.ui.photos import photograph, plaque, resized, stage
from repro.ui.pictures import split_view

# Held-out photographs to choose from, for the image and for the colours.
PHOTOS = {
    "kingfisher": "photos/erase_kingfisher",
    "red panda": "photos/erase_red_panda",
    "hedgehog": "photos/world_animals_hedgehog",
    "Berlin cathedral": "photos/monuments_berlinCathedral",
    "Brandenburg gate": "photos/monuments_brandenburgGate",
    "Colosseum": "photos/monuments_colosseum",
}
REFERENCES = ("none", *PHOTOS)
SHARES = {"5 %": 0.05, "20 %": 0.2, "40 %": 0.4}
PRESETS = {
    "blur, grain, colour": {"blur": True, "grain": True, "reference": "Brandenburg gate"},
    "one by one": {"method": SINGLE},
    "a hole inside blur": {"blur": True, "mask": "20 %"},
}
OWN_PRESETS = {"evening colours": {"reference": "Brandenburg gate", "beta": 0.0}, "much blur": {"beta": 1.0}}
ID = 0  # keys the noise: what `EditingPipeline` calls the first image of a batch


def controls(given: Mapping[str, Any]) -> dict[str, Control]:
    """The controls, at the values `given` by a notebook's parameters of the same names."""
    return {
        "picture": Choice(tuple(PHOTOS), given["picture"]),
        "method": Choice((FOR_USE, MULT, PIX2PIX, PALETTE, SINGLE), given["method"]),
        "blur": Toggle(given["blur"]),
        "beta": Slider(0.0, 1.0, 0.05, given["beta"], "β"),
        "grain": Toggle(given["grain"]),
        "sigma": Slider(0.0, 0.1, 0.005, given["sigma"], "σ"),
        "sharpen": Toggle(given["sharpen"]),
        "amount": Slider(1.0, 3.0, 0.1, given["amount"], "λ"),
        "mu": Slider(0.0, 0.1, 0.005, given["mu"], "threshold μ"),
        "reference": Choice(REFERENCES, given["reference"], "colours of"),
        "mask": Choice(("none", "box", *SHARES), given["mask"], "hole"),
        "steps": Slider(1, 50, 1, given["steps"]),
        "seed": Seed(given["seed"]),
        "split": Slider(0.0, 1.0, 0.05, given["split"], "before | after"),
    }


@dataclass(frozen=True)
class Edited:
    """One image edited: input, target by the formulas, output (1, 3, S, S) in [0, 1], the request in words."""

    source: Tensor
    target: Tensor
    output: Tensor
    reference: Tensor | None
    words: str


def example(now: Lesson, name: str, side: int = 0) -> Tensor:
    """(3, S, S) in [0, 1]: the middle square of a photograph of `PHOTOS`; S is `side`, or 1.5 of the benchmark's."""
    side = side or now.live.bench.crop[2] * 3 // 2
    return center_crop(resize(_photo(name), side).clamp(0, 1), side)


def _photo(name: str) -> Tensor:
    return pack.load(pack.picture(PHOTOS[name]))


def request(
    *, blur: bool, beta: float, grain: bool, sigma: float, sharpen: bool, amount: float, mu: float, **others: str
) -> EditingVector:
    """C of the controls: a switch is its label e, a slider its scaling factor; `others` are reference and mask."""
    blur, grain, sharpen = (v if on else None for on, v in ((blur, beta), (grain, sigma), (sharpen, (amount, mu))))
    return EditingVector(blur, grain, others["reference"] != "none", others["mask"] != "none", sharpen)


def edit(
    now: Lesson, picture: str, method: str, reference: str, mask: str, steps: int, seed: int, **effects: Any
) -> Edited | str:
    """One request by one method; `effects` as of `request`. A sentence where its weights are not here."""
    vector = request(reference=reference, mask=mask, **effects)
    sharp = example(now, picture)[None]
    colours, hole = example(now, reference)[None] if vector.colour else None, torch.zeros_like(sharp[:, :1])
    if vector.inpaint:
        draw = box_mask if mask == "box" else partial(free_form_mask, fraction=SHARES[mask])
        hole = draw(1, ["mask"], tuple(sharp.shape[2:]))
    data = Split("", (ID,), sharp, colours, hole, (vector,), now.live.bench)
    output = now.edit(method, data, vector.active, steps=steps, seed=seed)
    if isinstance(output, str):
        return output
    target = replace(data, ids=(picture,)).target(vector.active)
    return Edited(data.source(vector.active), target, output, colours, _written(vector))


def view(made: Edited | str, split: float) -> np.ndarray:
    """Before and after, `split` in [0, 1] being how much is before; beside them what the formulas make of the image,
    the difference, the reference. uint8 (H, W, 3)."""
    if isinstance(made, str):
        return plaque(made)
    tiles = {
        "by the formulas": made.target[0],
        "difference × 2": (2 * (made.output - made.target).abs()).clamp(0, 1)[0],
        "colours of": torch.full_like(made.output[0], 0.93) if made.reference is None else made.reference[0],
    }
    before, after = (resized(x[0], 376) for x in (made.source, made.output))
    return stage(split_view(before, after, split), tiles, made.words)


# -- a reader's own photograph ----------------------------------------------------------------------------------------


def own_controls(seed: int) -> dict[str, Control]:
    """The controls of `own_photo` and `own_view`."""
    return {
        "photo": Upload(),
        "picture": Choice(tuple(PHOTOS), "Colosseum", "or one of ours"),
        "beta": Slider(0.0, 1.0, 0.05, 0.6, "blur β"),
        "sigma": Slider(0.0, 0.1, 0.005, 0.0, "grain σ"),
        "reference": Choice(REFERENCES, label="colours of"),
        "sharpen": Toggle(False),
        "amount": Slider(1.0, 3.0, 0.1, 2.0, "λ"),
        "seed": Seed(seed),
        "split": Slider(0.0, 1.0, 0.05, 0.5, "before | after"),
    }


def own_photo(
    now: Lesson, photo: UploadedFile | None, picture: str, seed: int, **controls: Any
) -> tuple[Tensor, Tensor, str] | str:
    """(before, after, words) of a reader's photograph, or of ours, by the default network; a slider at 0 is off.

    The shorter side is brought to two crops of the benchmark. A sentence where weights are not here.
    """
    effects = _own_effects(now, **controls)
    if missing := now.needs(LONGER):
        return missing
    reference = effects.pop("reference")
    vector = EditingVector(colour=reference is not None, **effects)
    image, about = photograph(photo, 2 * now.live.bench.crop[2], _photo(picture), picture)
    settings = {"reference": None if reference is None else reference[None], "steps": now.live.steps, "seed": seed}
    (output,) = now.editor(LONGER).edit(image[None], [vector], [ID], **settings)
    return image, output, f"{about}   {_written(vector)}"


def own_full(now: Lesson, photo: UploadedFile | None, picture: str, seed: int, split: float, **controls: Any) -> Tensor:
    """The same edit at full size, by `EditingPipeline`: what the save button keeps. (3, H, W)."""
    from repro.editing.pipeline import EditingPipeline

    pipe = EditingPipeline.shipped(now.live.name)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": now.live.steps, "seed": seed, "output_type": "pt"}
    image = read_image(photo.content, min_side=16, name=photo.name) if photo else _photo(picture)
    return pipe(image, **_own_effects(now, **controls), **settings).images[0]


def _own_effects(
    now: Lesson, beta: float, sigma: float, reference: str, sharpen: bool, amount: float
) -> dict[str, Any]:
    """The effects that `own_controls` choose, as `EditingPipeline` takes them."""
    colours = None if reference == "none" else example(now, reference)
    sharpening = (amount, 0.0) if sharpen else None
    return {"blur": beta or None, "grain": sigma or None, "sharpen": sharpening, "reference": colours}


def _written(vector: EditingVector) -> str:
    numbers = [f"{v:.3f}".rstrip("0").rstrip(".") for v in vector.tensor().tolist()]
    return f"C = [{', '.join(numbers[:4])} | {', '.join(numbers[4:])}]"
