"""What notebook 02 works with in each profile: networks, photographs, widgets as pure functions, exercises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data import pack
from repro.data.grain import RADII, grain_variance
from repro.data.images import center_crop, read_image, resize
from repro.ddpm.process import scaled_linear, to_x0
from repro.editing.effects import cut_hole, free_form_mask, gaussian_3x3, unsharp_mask
from repro.editing.pipeline import EditingPipeline
from repro.editing.sampling import Editor
from repro.editing.study import experiments
from repro.editing.study.benchmark import COMBINATIONS, UNSEEN, Split, as_split, levels, load_unseen
from repro.editing.study.experiments import LONGER, EditingConfig, editor_of, name_of
from repro.editing.study.measure import Method, by_pix2pix, crops, edited, sequenced
from repro.editing.vector import EditingVector
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.study import Exercise, Lesson, check_answer, like, near, same, tensors
from repro.ui.controls import Choice, Control, Seed, Slider, Toggle, Upload, UploadedFile
from repro.ui.pictures import own_view as own_view
from repro.ui.pictures import photograph, plaque, resized, split_view, stage

PIX2PIX, PALETTE, SINGLE, MULT = METHODS = ("pix2pix", "Palette++", "Ours-single", "Ours-mult")  # as in Figs 2 and 3
FOR_USE = experiments.VARIANTS[LONGER].label  # to users
VARIANTS = {PIX2PIX: "pix2pix", PALETTE: "palette", MULT: "mult", FOR_USE: LONGER}
# One animal and one building that fill a square, chosen before anything was made of them.
SUBJECTS = ("photos/erase_kingfisher", "photos/monuments_berlinCathedral")


@dataclass(frozen=True)
class EditLesson(Lesson):
    """One profile of the notebook; the live cells of the paper profile are the small one's.

    `side`      of the whole photographs that figures show, pixel for pixel.   `points` crops of the map of features.
    """

    side: int = 160
    points: int = 20

    @property
    def live(self) -> EditingConfig:
        """The profile whose networks the cells run."""
        return experiments.PROFILES["smoke" if self.profile == "smoke" else "small"]

    def data(self, count: int | None = None) -> Split:
        """The first crop of each test photograph, in order, with its request; the first `count` (None: all)."""
        return crops(self.live.source, 1).first(count)

    def photographs(self) -> Split:
        """The photographs of `SUBJECTS`, cut to squares, with requests as the benchmark draws them."""
        return self._squares("test", {id: pack.load(pack.image(id)) for id in SUBJECTS})

    def unseen(self) -> Split:
        """Whole images of another domain: a portrait and a motorcycle."""
        return self._squares("unseen", {f"skimage/{name}": load_unseen(name) for name in UNSEEN[:2]})

    def _squares(self, name: str, images: Mapping[str, Tensor]) -> Split:
        sharp = [levels(center_crop(resize(x, self.side).clamp(0, 1), self.side)) for x in images.values()]
        return as_split(name, tuple(images), torch.stack(sharp), self.live.bench)

    def name(self, variant: str) -> str:
        """The checkpoint of a variant or of "pix2pix"."""
        return name_of(variant, 0, self.live.name)

    def editor(self, variant: str = "mult") -> Editor:
        """A trained variant, ready to edit. Raises `ReproError` where its weights are not here."""
        return editor_of(self.live, variant)

    def edit(self, method: str, data: Split, tasks: Sequence[str], **settings: Any) -> Tensor | str:
        """A split edited by a method; a sentence where its weights are not here. Settings as of `Editor.edit`."""
        variants = [f"single-{task}" for task in tasks] if method == SINGLE else [VARIANTS[method]]
        if missing := self.needs(*variants):
            return missing
        if method == PIX2PIX:
            return by_pix2pix(load_checkpoint(self.name("pix2pix")), data, tasks)
        settings = {"steps": self.live.steps, **settings}
        if method == SINGLE:
            return sequenced({task: self.editor(f"single-{task}") for task in tasks}, data, tasks, **settings)
        return edited(self.editor(VARIANTS[method]), data, tasks, **settings)

    def methods(self, *names: str) -> dict[str, Method]:
        """Name of a method -> `edit` by it; all `METHODS` where none is named."""
        return {name: partial(self.edit, name) for name in names or METHODS}

    def needs(self, *variants: str) -> str:
        """ "" where these variants are all here, or one sentence that names what is missing and how to make it."""
        missing = [name for name in map(self.name, variants) if not trained(name)]
        return f"— no weights of {', '.join(missing)} here: `repro train {missing[0]}` makes them" if missing else ""


def credits(data: Split) -> str:
    """Who took the photographs of these crops."""
    return "\n".join(f"{(name := id.split('@')[0])}: {pack.image(name).credit}" for id in data.ids)


_NOTEBOOK = "02_editing_vector_ldm"
LESSONS = {
    "smoke": EditLesson("editing", _NOTEBOOK, "smoke", 0.4, check=False, side=48, points=2),
    "small": EditLesson("editing", _NOTEBOOK, "small", 2.2),
    "paper": EditLesson("editing", _NOTEBOOK, "paper", 2.2, check=False),
}


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


def controls(given: Mapping[str, Any]) -> dict[str, Control]:
    """The controls of `edit` and `view`, at the values `given` by a notebook's parameters of the same names."""
    return {
        "photo": Choice(tuple(PHOTOS), given["photo"]),
        "method": Choice((FOR_USE, MULT, PIX2PIX, PALETTE, SINGLE), given["method"]),
        "blur": Toggle(given["blur"]),
        "beta": Slider(0.0, 1.0, 0.05, given["beta"], "β"),
        "grain": Toggle(given["grain"]),
        "sigma": Slider(0.0, 0.1, 0.005, given["sigma"], "σ"),
        "sharpen": Toggle(given["sharpen"]),
        "amount": Slider(1.0, 3.0, 0.1, given["amount"], "λ"),
        "mu": Slider(0.0, 0.1, 0.005, given["mu"], "threshold μ"),
        "reference": Choice(REFERENCES, given["reference"], "colours of"),
        "mask": Choice(("none", *SHARES), given["mask"], "hole"),
        "steps": Slider(1, 50, 1, given["steps"]),
        "seed": Seed(given["seed"]),
        "split": Slider(0.0, 1.0, 0.05, given["split"], "before | after"),
    }


def example(now: EditLesson, name: str, side: int = 0) -> Tensor:
    """(3, S, S) in [0, 1]: the middle square of a photograph of `PHOTOS`; S is `side`, or 1.5 of the benchmark's."""
    side = side or now.live.bench.crop[2] * 3 // 2
    return center_crop(resize(pack.load(pack.image(PHOTOS[name])), side).clamp(0, 1), side)


def _amounts(c: Mapping[str, Any]) -> dict[str, Any]:
    """The amounts of the effects that are on, as `EditingVector` and the pipeline take them."""
    amounts = {"blur": c["beta"], "grain": c["sigma"], "sharpen": (c["amount"], c["mu"])}
    return {task: amount for task, amount in amounts.items() if c[task]}


def edit(
    now: EditLesson, photo: str, method: str, reference: str, mask: str, steps: int, seed: int, **c: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, str] | str:
    """One request by one method: input, target by the formulas and output, (1, 3, S, S) in [0, 1] each, the reference
    and C in words. A sentence where the method's weights are not here.

    `c`: the switches, each its flag e, and the sliders, each its amount.
    """
    vector = EditingVector(**_amounts(c), colour=reference != "none", inpaint=mask != "none")
    sharp = example(now, photo)[None]
    colours, hole = example(now, reference)[None] if vector.colour else None, torch.zeros_like(sharp[:, :1])
    if vector.inpaint:
        hole = free_form_mask(1, ["mask"], tuple(sharp.shape[2:]), fraction=SHARES[mask])
    data = Split((0,), sharp, colours, hole, (vector,), now.live.bench)  # 0: the first image of a pipeline's batch
    output = now.edit(method, data, vector.active, steps=steps, seed=seed)
    if isinstance(output, str):
        return output
    numbers = [f"{v:.3f}".rstrip("0").rstrip(".") for v in vector.tensor().tolist()]
    words = f"C = [{', '.join(numbers[:4])} | {', '.join(numbers[4:])}]"
    return data.source(vector.active), replace(data, ids=(photo,)).target(vector.active), output, colours, words


def python(now: EditLesson, photo: str, method: str, reference: str, mask: str, steps: int, seed: int, **c: Any) -> str:
    """Python that makes the output of `edit` with `EditingPipeline`, for "copy as Python"."""
    if method in (PIX2PIX, SINGLE):
        return f"# {method} has no pipeline: see repro.editing.study.pix2pix and repro.editing.sampling.in_sequence"
    side = now.live.bench.crop[2] * 3 // 2
    options = [f"{task}={amount!r}" for task, amount in _amounts(c).items()]
    options += [f'reference=photo("{PHOTOS.get(reference)}")'] * (reference != "none")
    options += [f'mask=free_form_mask(1, ["mask"], ({side}, {side}), fraction={SHARES.get(mask)})'] * (mask != "none")
    return f"""\
from repro.data import pack
from repro.data.images import center_crop, resize
from repro.editing.effects import free_form_mask
from repro.editing.pipeline import EditingPipeline

def photo(name):
    return center_crop(resize(pack.load(pack.image(name)), {side}).clamp(0, 1), {side})

pipe = EditingPipeline.shipped("{now.live.name}", variant="{VARIANTS[method]}")
edits = dict({", ".join(options)})
pipe(photo("{PHOTOS[photo]}"), **edits, num_inference_steps={steps}, seed={seed}, exact=False).images[0]"""


def view(made: tuple[Tensor, Tensor, Tensor, Tensor | None, str] | str, split: float) -> np.ndarray:
    """Before and after, `split` in [0, 1] being how much is before; beside them what the formulas make of the image,
    the difference, the reference. uint8 (H, W, 3)."""
    if isinstance(made, str):
        return plaque(made)
    source, target, output, reference, words = made
    tiles = {
        "by the formulas": target[0],
        "difference × 2": (2 * (output - target).abs()).clamp(0, 1)[0],
        "colours of": torch.full_like(output[0], 0.93) if reference is None else reference[0],
    }
    return stage(split_view(*(resized(x[0], 376) for x in (source, output)), split), tiles, words)


def own_controls(seed: int) -> dict[str, Control]:
    """The controls of `own_photo` and `own_view`; a slider at 0 is off."""
    return {
        "photo": Upload(),
        "example": Choice(tuple(PHOTOS), "Colosseum", "or one of ours"),
        "beta": Slider(0.0, 1.0, 0.05, 0.6, "blur β"),
        "sigma": Slider(0.0, 0.1, 0.005, 0.0, "grain σ"),
        "reference": Choice(REFERENCES, label="colours of"),
        "sharpen": Toggle(False),
        "amount": Slider(1.0, 3.0, 0.1, 2.0, "λ"),
        "seed": Seed(seed),
        "split": Slider(0.0, 1.0, 0.05, 0.5, "before | after"),
    }


def own_photo(
    now: EditLesson, photo: UploadedFile | None, example: str, **effects: Any
) -> tuple[Tensor, Tensor, str] | str:
    """(before, after, words) of a reader's photograph, or of ours, with two crops of the benchmark as its shorter side.

    A sentence where the network's weights are not here.
    """
    if missing := now.needs(LONGER):
        return missing
    ours = pack.load(pack.image(PHOTOS[example]))
    image, about = photograph(photo, 2 * now.live.bench.crop[2], ours, example)
    return image, _by_pipeline(now, image, **effects), about


def own_full(now: EditLesson, photo: UploadedFile | None, example: str, split: float, **effects: Any) -> Tensor:
    """The same at full size, (3, H, W): what the save button keeps."""
    ours = pack.load(pack.image(PHOTOS[example]))
    return _by_pipeline(now, read_image(photo.content, min_side=16, name=photo.name) if photo else ours, **effects)


def _by_pipeline(
    now: EditLesson, image: Tensor, beta: float, sigma: float, reference: str, sharpen: bool, amount: float, seed: int
) -> Tensor:
    pipe = EditingPipeline.shipped(now.live.name)
    pipe.set_progress_bar_config(disable=True)
    effects = {"blur": beta or None, "grain": sigma or None, "sharpen": (amount, 0.0) if sharpen else None}
    effects |= {"reference": None if reference == "none" else example(now, reference)}
    return pipe(image, **effects, num_inference_steps=now.live.steps, seed=seed, output_type="pt").images[0]


_z, _v = tensors(2, (3, 6, 6), "exercise/editing", 2)
_queries, _keys, _values = tensors(3, (5, 4), "exercise/editing", 2)
_image, _left = _z.sigmoid(), float(scaled_linear().alpha_bar[-1].sqrt())
_holes = [(_image, (_z[:, :1] > limit).double()) for limit in (-0.3, 0.8)]
_sharpened = [(_image, gaussian_3x3(_image), lam, mu) for lam, mu in ((2.0, 0.05), (1.0, 0.0), (3.0, 0.1))]
_sharpen = partial(like, lambda image, low, lam, mu: unsharp_mask(image, lam, mu), *_sharpened)
_attend = partial(like, lambda q, k, v: torch.softmax(q @ k.mT / 2, -1) @ v, (_queries, _keys[:, :1], _values[:, :1]))
_clean = lambda z, v, a, s: to_x0(v, z, a, s, "v_prediction")  # noqa: E731
_velocity = partial(like, _clean, (_z, _v, 0.6, 0.8), (_z, _v, 0.8, 0.6))
_vector = EditingVector(blur=0.25, sharpen=(2.0, 0.05)).tensor().double()
# Monte-Carlo samples at which their noise at u = 1/2 is as strong as grain of the smallest radius itself
_samples = 0.25 / float(grain_variance(0.5, RADII[0]))
EXERCISES: dict[str, Exercise] = {
    "vector": (
        "C of blur 0.25 with sharpening (2, 0.05)", lambda: lambda answer: same(torch.tensor(answer), _vector),
        "nine numbers: beta, sigma, lambda, mu, then the flags of blur, grain, colour, inpaint, sharpen",
    ),
    "hole": ("a black hole, 1 being hole", lambda: like(cut_hole, *_holes), "the paper's M is 1 where it is kept"),
    "sharpen": ("unsharp masking with a threshold", _sharpen,
        "below the threshold the original pixel stays; the result is clamped to [0, 1]"),
    "attend": ("attention to one token", _attend, "what is the softmax of a single number? The queries do not matter"),
    "velocity": ("z_0 from the velocity", _velocity, "z_t = a z_0 + s eps and v = a eps - s z_0: eliminate eps"),
    "samples": ("samples a pixel for grain of radius 0.01", near(_samples, _samples / 20),
        "set u (1 - u) / N equal to grain_variance(u, 0.01) at u = 1/2"),
    "combinations": ("edits of two effects and more", near(len(COMBINATIONS), 0.5), "2 to the 5, less those with one"),
    "left": ("how much of z_0 is left at the last timestep", near(_left, 5e-4), "alpha_bar is a square"),
}  # fmt: skip
check = partial(check_answer, among=EXERCISES)  # says whether an answer holds; None: not answered yet
