"""What notebook 02 does live in each profile, the networks and photographs that its cells work with, its exercises."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.ddpm.process import to_x0
from repro.ddpm.schedules import scaled_linear
from repro.editing.effects import cut_hole, gaussian_3x3, unsharp_mask
from repro.editing.grain import RADII, grain_variance
from repro.editing.sampling import Editor
from repro.editing.study import experiments
from repro.editing.study.benchmark import COMBINATIONS, UNSEEN, Split, as_split, levels, load_unseen
from repro.editing.study.experiments import LONGER, EditingConfig, editor_of, name_of
from repro.editing.study.measure import Method, by_pix2pix, crops, edited, sequenced
from repro.editing.vector import TASKS, EditingVector
from repro.engine import exercises, study
from repro.engine.checkpoint import load_checkpoint, read_card, trained
from repro.engine.exercises import Judge, like

PIX2PIX, PALETTE, SINGLE, MULT = METHODS = ("pix2pix", "Palette++", "Ours-single", "Ours-mult")  # as in Figs 2 and 3
FOR_USE = experiments.VARIANTS[LONGER].label  # to users
VARIANTS = {PIX2PIX: "pix2pix", PALETTE: "palette", MULT: "mult", FOR_USE: LONGER}
# One animal and one building that fill a square, chosen before anything was made of them.
SUBJECTS = ("photos/erase_kingfisher", "photos/monuments_berlinCathedral")
# The claims of the ledger in a few words, as the figure of verdicts has them.
CLAIMS = {
    "E1": "single edits: as good as Palette++ and Ours-single",
    "E2": "composites: better than Palette++",
    "E3": "one pass better than five networks in sequence",
    "E4": "pix2pix falls behind",
    "E5": "binary labels drive the composition",
    "E6": "two linear layers are the best trade",
    "E7": "N-pair loss separates features, no gain in quality",
    "E8": "l1 reconstructs better, l2 is more diverse",
    "E9": "colour reference: a small image beats its latent",
    "E10": "inversion: crisper, follows the edit worse",
    "E11": "inpainting fails inside composites",
    "E12": "edits carry over to other images",
    "E13": "sliders are monotone",
    "E14": "composites keep the strength of single edits",
    "E15": "composites and more steps: larger errors",
}


@dataclass(frozen=True)
class Lesson(study.Lesson):
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
        return self._squares("test", {id: pack.load(pack.picture(id)) for id in SUBJECTS})

    def unseen(self) -> Split:
        """Whole images of another domain: a portrait and a motorcycle."""
        return self._squares("unseen", {f"skimage/{name}": load_unseen(name) for name in UNSEEN[:2]})

    def _squares(self, name: str, images: Mapping[str, Tensor]) -> Split:
        sharp = [levels(center_crop(resize(x, self.side).clamp(0, 1), self.side)) for x in images.values()]
        return as_split(name, tuple(images), torch.stack(sharp), self.live.bench)

    def name(self, variant: str) -> str:
        """The checkpoint of a variant (or of "pix2pix")."""
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

    def methods(self, names: Sequence[str] = METHODS) -> dict[str, Method]:
        """Name of a method -> `edit` by it."""
        return {name: partial(self.edit, name) for name in names}

    def cards(self) -> str:
        """A line for every network of the main tables: what it learned from, or the command that makes it."""
        lines = []
        for name in map(self.name, ("mult", LONGER, "palette", "pix2pix", *(f"single-{task}" for task in TASKS))):
            if trained(name):
                card = read_card(name)
                words = [f"{card.get(key, '—')} {key}" for key in ("parameters", "images", "duration")]
                lines.append(" · ".join([f"{name:<32}", *words]))
            else:
                lines.append(f"— {name}: no weights here; `repro train {name}` makes them")
        return "\n".join(lines)

    def needs(self, *variants: str) -> str:
        """ "" where these variants are all here, or one sentence that names what is missing and how to make it."""
        missing = [name for name in map(self.name, variants) if not trained(name)]
        return f"— no weights of {', '.join(missing)} here: `repro train {missing[0]}` makes them" if missing else ""


def credits(data: Split) -> str:
    """Who took the photographs of these crops."""
    return "\n".join(f"{(name := id.split('@')[0])}: {pack.picture(name).credit}" for id in data.ids)


_NOTEBOOK = "02_editing_vector_ldm"
LESSONS = {
    "smoke": Lesson("editing", _NOTEBOOK, "smoke", 0.4, check=False, side=48, points=2),
    "small": Lesson("editing", _NOTEBOOK, "small", 2.2),
    "paper": Lesson("editing", _NOTEBOOK, "paper", 2.2, check=False),
}


def lesson(profile: str) -> Lesson:
    """The lesson of that profile."""
    return study.lesson(LESSONS, profile)  # type: ignore[return-value]


# -- exercises: an answer is a number, a list or a function, and `check` says whether it holds ------------------------

_tensors = partial(exercises.tensors, shape=(3, 6, 6), key="exercise/editing", batch=2)


def _hole() -> Judge:
    image = (noise := _tensors(1)[0]).sigmoid()
    return like(cut_hole, *((image, (noise[:, :1] > limit).double()) for limit in (-0.3, 0.8)))


def _sharpen() -> Judge:
    image = _tensors(1)[0].sigmoid()
    cases = [(image, gaussian_3x3(image), lam, mu) for lam, mu in ((2.0, 0.05), (1.0, 0.0), (3.0, 0.1))]
    return like(lambda image, _, lam, mu: unsharp_mask(image, lam, mu), *cases)


def _attend() -> Judge:
    """Attention with one token: its value, at every position."""
    queries, key, value = _tensors(3, shape=(5, 4))
    return like(lambda q, k, v: torch.softmax(q @ k.mT / 2, dim=-1) @ v, (queries, key[:, :1], value[:, :1]))


def _velocity() -> Judge:
    z_t, v = _tensors(2)
    return like(lambda z_t, v, a, s: to_x0(v, z_t, a, s, "v_prediction"), (z_t, v, 0.6, 0.8), (z_t, v, 0.8, 0.6))


def _vector() -> Judge:
    goal = EditingVector(blur=0.25, sharpen=(2.0, 0.05)).tensor().tolist()
    return lambda answer: len(answer) == 9 and all(math.isclose(a, answer[i], abs_tol=1e-5) for i, a in enumerate(goal))


def samples_needed(radius: float = RADII[0], u: float = 0.5) -> float:
    """Monte-Carlo samples at which their noise is as strong as the grain itself."""
    return u * (1 - u) / float(grain_variance(u, radius))


# name -> (what it is about, maker of the judgement, what to think of when it fails)
EXERCISES: dict[str, exercises.Exercise] = {
    "vector": (
        "C of blur 0.25 with sharpening (2, 0.05)",
        _vector,
        "nine numbers: beta, sigma, lambda, mu, then the labels of blur, grain, colour, inpaint, sharpen",
    ),
    "hole": ("a black hole, 1 being hole", _hole, "the paper multiplies by M: M is 1 where the image is kept"),
    "sharpen": (
        "unsharp masking with a threshold",
        _sharpen,
        "below the threshold the original pixel stays; the result is clamped to [0, 1]",
    ),
    "attend": ("attention to one token", _attend, "what is the softmax of a single number? The queries do not matter"),
    "velocity": ("z_0 from the velocity", _velocity, "z_t = a z_0 + s eps and v = a eps - s z_0: eliminate eps"),
    "samples": (
        "samples a pixel for grain of radius 0.01",
        lambda: lambda answer: math.isclose(answer, samples_needed(), rel_tol=0.05),
        "set u (1 - u) / N equal to grain_variance(u, 0.01) at u = 1/2",
    ),
    "combinations": (
        "edits of two effects and more",
        lambda: lambda answer: answer == len(COMBINATIONS),
        "2 to the 5, less those with one effect or none",
    ),
    "left": (
        "how much of z_0 is left at the last timestep",
        exercises.near(float(scaled_linear().alpha_bar[-1].sqrt()), 5e-4),
        "alpha_bar is a square",
    ),
}
check = partial(exercises.check, among=EXERCISES)  # says whether an answer holds; None: not answered yet
