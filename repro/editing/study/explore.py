"""The widgets of notebook 02: pure functions from the controls' values to an image. `repro.ui.explore` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, read_image, resize
from repro.editing.effects.compose import compose
from repro.editing.effects.masks import box_mask, free_form_mask
from repro.editing.sampling import in_sequence
from repro.editing.study.benchmark import levels
from repro.editing.study.experiments import LONGER
from repro.editing.study.lesson import FOR_USE, METHODS, MULT, ONE_BY_ONE, PIX2PIX, SINGLE, VARIANTS, Lesson
from repro.editing.study.pix2pix import generate
from repro.editing.vector import TASKS, EditingVector
from repro.ui.controls import Choice, Control, Seed, Slider, Toggle, Upload, UploadedFile
from repro.ui.photos import plaque, resized, stage
from repro.ui.plots import split_view

# Held-out photographs to choose from, for the picture and for the colours.
PHOTOS = {
    "kingfisher": "photos/erase_kingfisher",
    "red panda": "photos/erase_red_panda",
    "hedgehog": "photos/world_animals_hedgehog",
    "Berlin cathedral": "photos/monuments_berlinCathedral",
    "Brandenburg gate": "photos/monuments_brandenburgGate",
    "Colosseum": "photos/monuments_colosseum",
}
METHOD_NAMES = (FOR_USE, MULT, *(name for name in METHODS if name != MULT))
REFERENCES = ("none", *PHOTOS)
SHARES = {"5 %": 0.05, "20 %": 0.2, "40 %": 0.4}
MASKS = ("none", "box", *SHARES)
PRESETS = {
    "blur, grain, colour": {"blur": True, "grain": True, "reference": "Brandenburg gate"},
    "one by one": {"method": SINGLE},
    "a hole inside blur": {"blur": True, "mask": "20 %"},
}
OWN_PRESETS = {"evening colours": {"reference": "Brandenburg gate", "beta": 0.0}, "much blur": {"beta": 1.0}}
WIDE = 480  # pixels that a picture of the reader's own is shown at
ID = 0  # keys the noise: what `EditingPipeline` calls the first picture of a batch


def controls(given: Mapping[str, Any]) -> dict[str, Control]:
    """The controls, at the values `given` by a notebook's parameters of the same names."""
    return {
        "picture": Choice(tuple(PHOTOS), given["picture"]),
        "method": Choice(METHOD_NAMES, given["method"]),
        "blur": Toggle(given["blur"]),
        "beta": Slider(0.0, 1.0, 0.05, given["beta"], "β"),
        "grain": Toggle(given["grain"]),
        "sigma": Slider(0.0, 0.1, 0.005, given["sigma"], "σ"),
        "sharpen": Toggle(given["sharpen"]),
        "amount": Slider(1.0, 3.0, 0.1, given["amount"], "λ"),
        "mu": Slider(0.0, 0.1, 0.005, given["mu"], "threshold μ"),
        "reference": Choice(REFERENCES, given["reference"], "colours of"),
        "mask": Choice(MASKS, given["mask"], "hole"),
        "steps": Slider(1, 50, 1, given["steps"]),
        "seed": Seed(given["seed"]),
        "split": Slider(0.0, 1.0, 0.05, given["split"], "before | after"),
    }


@dataclass(frozen=True)
class Edited:
    """Images (3, S, S) in [0, 1]: input, output, and the target that the formulas make; `words` write the request."""

    source: Tensor
    output: Tensor
    target: Tensor
    reference: Tensor | None
    words: str


def example(now: Lesson, name: str, side: int = 0) -> Tensor:
    """(3, S, S) in [0, 1]: the middle square of a whole photograph of `PHOTOS`; S is `side`, or 1.5 crops of the
    benchmark."""
    return _photo(PHOTOS[name], side or now.live.bench.crop[2] * 3 // 2)


@lru_cache(maxsize=16)
def _photo(id: str, side: int) -> Tensor:
    return center_crop(resize(pack.load(pack.picture(id)), side).clamp(0, 1), side)


def request(
    *, blur: bool, beta: float, grain: bool, sigma: float, sharpen: bool, amount: float, mu: float, **others: str
) -> EditingVector:
    """C of the controls: a switch is its label e, a slider its scaling factor; `others` are reference and mask."""
    return EditingVector(
        beta if blur else None,
        sigma if grain else None,
        others["reference"] != "none",
        others["mask"] != "none",
        (amount, mu) if sharpen else None,
    )


def edit(
    now: Lesson, picture: str, method: str, reference: str, mask: str, steps: int, seed: int, **effects: Any
) -> Edited | str:
    """One request by one method; `effects` as of `request`. A sentence where its weights are not here."""
    vector = request(reference=reference, mask=mask, **effects)
    if words := _missing(now, method, vector):
        return words
    sharp, bench = example(now, picture)[None], now.live.bench
    colours = example(now, reference) if vector.colour else None
    inputs = {
        "reference": None if colours is None else colours[None],
        "hole": _hole(mask, tuple(sharp.shape[2:])) if vector.inpaint else None,
    }
    pair = compose(sharp, vector, seed=bench.version, ids=[picture], recipe=bench.recipe, **inputs)
    (output,) = made(now, method, sharp, vector, steps=steps, seed=seed, **inputs)
    return Edited(levels(pair.source[0]), output, levels(pair.target[0]), colours, _written(vector))


def view(made: Edited | str, split: float) -> np.ndarray:
    """Before and after, `split` in [0, 1] being how much is before; beside them what the formulas make of the picture,
    the difference, the reference. uint8 (H, W, 3)."""
    if isinstance(made, str):
        return plaque(made)
    tiles = {
        "by the formulas": made.target,
        "difference × 2": (2 * (made.output - made.target).abs()).clamp(0, 1),
        "colours of": torch.full_like(made.output, 0.93) if made.reference is None else made.reference,
    }
    before, after = (resized(x, 376) for x in (made.source, made.output))
    return stage(split_view(before, after, split), tiles, made.words)


def made(now: Lesson, method: str, sharp: Tensor, vector: EditingVector, **inputs: Any) -> Tensor:
    """The image (1, 3, H, W) in [0, 1], edited; `inputs`: reference, hole, steps and seed."""
    if method == PIX2PIX:
        hole = inputs["hole"]
        source = sharp if hole is None else torch.where(hole.bool(), now.live.bench.recipe.fill, sharp)
        return generate(now.generator(), source, [vector], inputs["reference"]).clamp(0, 1)
    if method == SINGLE and vector.active:
        return in_sequence(now.singles(), sharp, [vector], [ID], recipe=now.live.bench.recipe, **inputs)
    return now.editor(VARIANTS.get(method, LONGER)).edit(sharp, [vector], [ID], **inputs)


def python(now: Lesson, picture: str, method: str, reference: str, mask: str, steps: int, seed: int, **c: Any) -> str:
    """Python that makes the edited picture with `EditingPipeline`, for "copy as Python"; `c` as of `request`."""
    c.pop("split", None)
    vector = request(reference=reference, mask=mask, **c)
    if method in (PIX2PIX, SINGLE):
        return f"# {method} has no pipeline: see repro.editing.study.pix2pix and repro.editing.sampling.in_sequence"
    profile = "" if now.live.name == "small" else f'"{now.live.name}"'
    variant = "" if VARIANTS[method] == LONGER else f'variant="{VARIANTS[method]}"'
    arguments = [f"{task}={getattr(vector, task)!r}" for task in ("blur", "grain", "sharpen") if task in vector.active]
    arguments += [f'reference=photo("{PHOTOS[reference]}")'] if vector.colour else []
    maker, side = "", now.live.bench.crop[2] * 3 // 2
    if vector.inpaint:
        maker = "box_mask" if mask == "box" else "free_form_mask"
        share = "" if mask == "box" else f", fraction={SHARES[mask]}"
        arguments.append(f'mask={maker}(1, ["mask"], ({side}, {side}){share})')
    arguments += [f"num_inference_steps={steps}", f"seed={seed}", "exact=False"]
    lines = [
        "from repro.data import pack",
        "from repro.data.images import center_crop, resize",
        *([f"from repro.editing.effects.masks import {maker}"] if maker else []),
        "from repro.editing.pipeline import EditingPipeline",
        "",
        "def photo(name):",
        f"    return center_crop(resize(pack.load(pack.picture(name)), {side}).clamp(0, 1), {side})",
        "",
        f"pipe = EditingPipeline.shipped({', '.join(filter(None, (profile, variant)))})",
        "pipe(",
        *(f"    {a}," for a in (f'photo("{PHOTOS[picture]}")', *arguments)),
        ").images[0]",
    ]
    return "\n".join(lines)


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
    reference = effects.pop("reference")
    vector = EditingVector(colour=reference is not None, **effects)
    if words := _missing(now, FOR_USE, vector):
        return words
    image, said = prepared(photo, picture, 2 * now.live.bench.crop[2])
    colours = None if reference is None else reference[None]
    (output,) = made(now, FOR_USE, image[None], vector, reference=colours, hole=None, steps=now.live.steps, seed=seed)
    return image, output, f"{said}   {_written(vector)}"


def _own_effects(
    now: Lesson, beta: float, sigma: float, reference: str, sharpen: bool, amount: float
) -> dict[str, Any]:
    """The effects that `own_controls` choose, as `EditingPipeline` takes them."""
    return {
        "blur": beta or None,
        "grain": sigma or None,
        "sharpen": (amount, 0.0) if sharpen else None,
        "reference": None if reference == "none" else example(now, reference),
    }


def own_view(made: tuple[Tensor, Tensor, str] | str, split: float) -> np.ndarray:
    """Before and after, large; uint8 (H, W, 3)."""
    if isinstance(made, str):
        return plaque(made)
    before, after, words = made
    wide = WIDE if before.shape[2] >= before.shape[1] else WIDE * before.shape[2] // before.shape[1]
    return stage(split_view(resized(before, wide), resized(after, wide), split), {}, words)


def own_full(now: Lesson, photo: UploadedFile | None, picture: str, seed: int, split: float, **controls: Any) -> Tensor:
    """The same edit at full size, by `EditingPipeline`: what the save button keeps. (3, H, W)."""
    from repro.editing.pipeline import EditingPipeline

    pipe = EditingPipeline.shipped(now.live.name)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": now.live.steps, "seed": seed, "output_type": "pt"}
    return pipe(_read(photo, picture), **_own_effects(now, **controls), **settings).images[0]


def _read(photo: UploadedFile | None, picture: str) -> Tensor:
    """(3, H, W) in [0, 1] of the reader's photograph, or of ours where there is none."""
    if photo is None:
        return pack.load(pack.picture(PHOTOS[picture]))
    return read_image(photo.content, min_side=16, name=photo.name)


def prepared(photo: UploadedFile | None, picture: str, side: int) -> tuple[Tensor, str]:
    """(3, H, W) in [0, 1] with `side` as its shorter side, and what it is; None stands for our `picture`.

    Raises `ReproError` for what is no image, or one smaller than 16 pixels.
    """
    image, said = _read(photo, picture), picture
    if photo is not None:
        height, width = image.shape[-2:]
        said, most = f"{photo.name}, {width} × {height}", 2 * min(height, width)
        if max(height, width) > most:
            image, said = center_crop(image, (min(height, most), min(width, most))), said + ", its middle"
    return resize(image, side).clamp(0, 1), said


def _hole(mask: str, size: tuple[int, ...]) -> Tensor:
    """(1, 1, H, W), 1 in the hole."""
    if mask == "box":
        return box_mask(1, ["mask"], size)
    return free_form_mask(1, ["mask"], size, fraction=SHARES[mask])


def _missing(now: Lesson, method: str, vector: EditingVector) -> str:
    """A sentence that names the weights this edit lacks; "" where it lacks none."""
    if method == SINGLE and vector.active:
        return now.needs(*(v for v, task in zip(ONE_BY_ONE, TASKS, strict=True) if task in vector.active))
    return now.needs(VARIANTS.get(method, LONGER))


def _written(vector: EditingVector) -> str:
    numbers = [f"{v:.3f}".rstrip("0").rstrip(".") for v in vector.tensor().tolist()]
    return f"C = [{', '.join(numbers[:4])} | {', '.join(numbers[4:])}]"
