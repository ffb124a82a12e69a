"""What notebook 02 does live in each profile, as data, and the networks and photographs that its cells work with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.editing.sampling import Editor
from repro.editing.study import experiments
from repro.editing.study.benchmark import UNSEEN, Split, as_split, levels, load_unseen
from repro.editing.study.experiments import LONGER, EditingConfig, editor_of, name_of
from repro.editing.study.measure import Method, by_pix2pix, crops, edited, sequenced
from repro.editing.vector import TASKS
from repro.engine import study
from repro.engine.checkpoint import load_checkpoint, read_card, trained

PIX2PIX, PALETTE, SINGLE, MULT = METHODS = ("pix2pix", "Palette++", "Ours-single", "Ours-mult")  # as in Figs 2 and 3
FOR_USE = experiments.VARIANTS[LONGER].label  # to users
VARIANTS = {PIX2PIX: "pix2pix", PALETTE: "palette", MULT: "mult", FOR_USE: LONGER}
# One animal and one building that fill a square, chosen before anything was made of them.
SUBJECTS = ("photos/erase_kingfisher", "photos/monuments_berlinCathedral")


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
