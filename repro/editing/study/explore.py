"""The playgrounds of notebook 02: pure functions from what a reader turns to a picture. `repro.ui.explore` shows them.

Pictures have few colours and their words are drawn by Pillow: a slider has to be answered in half a second.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data.images import center_crop, read_image, resize
from repro.editing import pix2pix
from repro.editing.effects.compose import Composite, compose
from repro.editing.effects.masks import box_mask, free_form_mask
from repro.editing.sampling import in_sequence
from repro.editing.study.benchmark import Split, levels
from repro.editing.study.experiments import LONGER
from repro.editing.study.lesson import (
    GIVEN,
    METHODS,
    MULT,
    ONE_BY_ONE,
    PIX2PIX,
    SINGLE,
    VARIANTS,
    Lesson,
    short,
)
from repro.editing.vector import TASKS, EditingVector
from repro.errors import ReproError
from repro.ui.controls import UploadedFile
from repro.ui.photos import captioned, line
from repro.ui.pictures import few_colours, to_uint8
from repro.ui.plots import split_view

METHOD_NAMES = (GIVEN, MULT, *(name for name in METHODS if name != MULT))
PICTURES = 6  # of the test split, that can be chosen
REFERENCES = ("none", "its own", "of the 2nd", "of the 3rd", "of the 4th", "of the 5th", "of the 6th")
SHARES = {"5 %": 0.05, "20 %": 0.2, "40 %": 0.4}
MASKS = ("none", "its own", "box", *SHARES)
PRESETS = {
    "blur, grain, colour": {"blur": True, "grain": True, "reference": "its own"},
    "the same, one by one": {"blur": True, "grain": True, "reference": "its own", "method": SINGLE},
    "a hole inside blur": {"blur": True, "mask": "20 %"},
}
OWN_SIDE, LONGEST = 144, 1.5  # of an uploaded picture: its shorter side, and the longer one in shorter ones
COLOURS = 128  # of a picture with several photographs in it
ID = 0  # keys the noise: what `EditingPipeline` calls the first picture of a batch


def pictures(now: Lesson) -> tuple[str, ...]:
    """Names of the pictures that can be chosen."""
    return tuple(short(id) for id in now.shown(PICTURES).ids)


def request(
    blur: bool,
    beta: float,
    grain: bool,
    sigma: float,
    reference: str,
    mask: str,
    sharpen: bool,
    amount: float,
    mu: float,
) -> EditingVector:
    """C of the controls: a switch is its label e, a slider its scaling factor."""
    return EditingVector(
        blur=beta if blur else None,
        grain=sigma if grain else None,
        colour=reference != "none",
        inpaint=mask != "none",
        sharpen=(amount, mu) if sharpen else None,
    )


def edit(
    now: Lesson,
    picture: str,
    method: str,
    blur: bool,
    beta: float,
    grain: bool,
    sigma: float,
    sharpen: bool,
    amount: float,
    mu: float,
    reference: str,
    mask: str,
    steps: int,
    seed: int,
    split: float,
) -> np.ndarray:
    """Before and after, what the formulas make of it, how far the two are apart, the reference; uint8 (H, W, 3).

    `split` in [0, 1]: how much is before.
    """
    vector = request(blur, beta, grain, sigma, reference, mask, sharpen, amount, mu)
    if words := _missing(now, method, vector):
        return plaque(words)
    data, at = _chosen(now, picture)
    shown = data.reference[_reference_row(reference, at, len(data))][None] if vector.colour else None
    hole = _hole(mask, data, at) if vector.inpaint else None
    pair = wanted(now, data.at([at]), vector, shown, hole)
    found = made(now, method, data.sharp[[at]], vector, shown, hole, steps, seed)
    tiles = {
        "before | after": split_view(pair.source[0], found[0], split),
        "by the formulas": pair.target[0],
        "difference × 2": (2 * (found - pair.target)[0].abs()).clamp(0, 1),
        "reference": torch.full_like(found[0], 0.9) if shown is None else shown[0],
    }
    return few_colours(_with_words([_written(vector)], captioned(tiles, cols=4)), COLOURS)


def made(
    now: Lesson,
    method: str,
    sharp: Tensor,
    vector: EditingVector,
    reference: Tensor | None,
    hole: Tensor | None,
    steps: int,
    seed: int,
) -> Tensor:
    """The picture (1, 3, H, W) in [0, 1], edited."""
    asked: dict[str, Any] = {"reference": reference, "hole": hole}
    if method == PIX2PIX:
        source = sharp if hole is None else torch.where(hole.bool(), now.live.bench.recipe.fill, sharp)
        return pix2pix.generate(now.generator(), source, [vector], reference).clamp(0, 1)
    asked |= {"vectors": [vector], "ids": [ID], "steps": steps, "seed": seed}
    if method == SINGLE and vector.active:
        return in_sequence(now.singles(), sharp, recipe=now.live.bench.recipe, **asked)
    return now.editor(VARIANTS.get(method, LONGER)).edit(sharp, **asked)


def wanted(now: Lesson, data: Split, vector: EditingVector, reference: Tensor | None, hole: Tensor | None) -> Composite:
    """What the classical algorithms make of one crop, with the shake and the grains that the benchmark gives it."""
    out = compose(
        data.sharp,
        vector,
        seed=now.live.bench.version,
        ids=data.ids,
        reference=reference,
        hole=hole,
        recipe=now.live.bench.recipe,
    )
    return out._replace(source=levels(out.source), target=levels(out.target))


def python(
    now: Lesson, picture: str, method: str, reference: str, mask: str, steps: int, seed: int, split: float, **c: Any
) -> str:
    """Python that makes the edited picture with `EditingPipeline`, for "copy as Python"; `c` as of `request`."""
    vector = request(reference=reference, mask=mask, **c)
    if method in (PIX2PIX, SINGLE):
        return f"# {method} has no pipeline: see repro.editing.pix2pix and repro.editing.sampling.in_sequence"
    data, at = _chosen(now, picture)
    profile = "" if now.live.name == "small" else f'"{now.live.name}"'
    variant = "" if VARIANTS[method] == LONGER else f'variant="{VARIANTS[method]}"'
    asked = [f"{task}={getattr(vector, task)!r}" for task in ("blur", "grain", "sharpen") if task in vector.active]
    if vector.colour:
        other = data.ids[_reference_row(reference, at, len(data))]
        asked.append(f'reference=data.reference[data.ids.index("{other}")]')
    drawn = ""
    if vector.inpaint:
        drawn, code = _hole_code(mask)
        asked.append(f"mask={code}")
    lines = [
        "from repro.editing.study.benchmark import split",
        "from repro.editing.study.config import profile",
        *([f"from repro.editing.effects.masks import {drawn}"] if drawn else []),
        "from repro.editing.pipeline import EditingPipeline",
        "",
        f'data = split("test", profile("{now.live.name}").bench)',
        f'photo = data.ids.index("{data.ids[at]}")',
        f"pipe = EditingPipeline.shipped({', '.join(filter(None, (profile, variant)))})",
        "pipe(",
        *(f"    {each}," for each in ("data.sharp[photo]", *asked, f"num_inference_steps={steps}", f"seed={seed}")),
        ").images[0]",
    ]
    return "\n".join(lines)


def own_photo(
    now: Lesson,
    photo: UploadedFile | None,
    beta: float,
    sigma: float,
    reference: str,
    sharpen: bool,
    seed: int,
) -> np.ndarray:
    """A reader's photograph (or one of ours), edited by the default network; a slider at 0 is off. uint8 (H, W, 3)."""
    vector = request(beta > 0, beta, sigma > 0, sigma, reference, "none", sharpen, 2.0, 0.0)
    if words := _missing(now, GIVEN, vector):
        return plaque(words)
    data = now.shown(PICTURES)
    shown = data.reference[_reference_row(reference, 0, len(data))][None] if vector.colour else None
    image, said = prepared(photo, data)
    found = made(now, GIVEN, image[None], vector, shown, None, now.live.steps, seed)
    pair = captioned({"before": image, "after": found[0]}, cols=2)
    return few_colours(_with_words([said, _written(vector)], pair), COLOURS)


def prepared(photo: UploadedFile | None, data: Split) -> tuple[Tensor, str]:
    """(3, H, W) in [0, 1] with OWN_SIDE as its shorter side, and what was found; None stands for one of our crops.

    Raises `ReproError` for what is no picture, or one smaller than 16 pixels.
    """
    if photo is None:
        return data.sharp[-1], "no photo yet: a held-out crop"
    image = read_image(photo.content, min_side=16, name=photo.name)
    height, width = image.shape[-2:]
    most = int(LONGEST * min(height, width))
    said = f"{photo.name}, {width} × {height}"
    if max(height, width) > most:
        image, said = center_crop(image, (min(height, most), min(width, most))), said + ", its middle"
    return resize(image, OWN_SIDE).clamp(0, 1), said


def _chosen(now: Lesson, picture: str) -> tuple[Split, int]:
    data = now.shown(PICTURES)
    names = [short(id) for id in data.ids]
    if picture not in names:
        raise ReproError(f"no picture {picture!r} here: there are {', '.join(names)}")
    return data, names.index(picture)


def _reference_row(reference: str, own: int, count: int) -> int:
    """Whose reference it is; a profile of fewer pictures goes round."""
    return own if reference == "its own" else (REFERENCES.index(reference) - 1) % count


def _hole(mask: str, data: Split, at: int) -> Tensor:
    """(1, 1, H, W), 1 in the hole."""
    size = tuple(data.sharp.shape[2:])
    if mask == "its own":
        return data.hole[[at]]
    if mask == "box":
        return box_mask(1, ["mask"], size)
    return free_form_mask(1, ["mask"], size, fraction=SHARES[mask])


def _hole_code(mask: str) -> tuple[str, str]:
    """What to import for a mask, and the Python that makes it."""
    size = "tuple(data.sharp.shape[2:])"
    if mask == "its own":
        return "", "data.hole[photo][None]"
    if mask == "box":
        return "box_mask", f'box_mask(1, ["mask"], {size})'
    return "free_form_mask", f'free_form_mask(1, ["mask"], {size}, fraction={SHARES[mask]})'


def _missing(now: Lesson, method: str, vector: EditingVector) -> str:
    """A sentence that says which weights this edit lacks; "" where it lacks none."""
    if method == SINGLE and vector.active:
        return now.needs(*(v for v, task in zip(ONE_BY_ONE, TASKS, strict=True) if task in vector.active))
    return now.needs(VARIANTS[method])


def _written(vector: EditingVector) -> str:
    *scalars, b, g, c, i, s = vector.tensor().tolist()
    numbers = ", ".join(f"{v:.3f}".rstrip("0").rstrip(".") for v in scalars)
    return f"C = [{numbers} | {', '.join(f'{v:.0f}' for v in (b, g, c, i, s))}]"


def _with_words(words: Sequence[str], picture: np.ndarray) -> np.ndarray:
    return np.concatenate([*(line(text, picture.shape[1]) for text in words), picture])


def plaque(text: str) -> np.ndarray:
    """A sentence in a picture's place."""
    words = [line(part, 524) for part in textwrap.wrap(text, 80)]
    return np.concatenate([*words, to_uint8(torch.ones(3, 128, 524))])
