"""What notebook 02 does live in each profile, as data, and the networks and photographs that its cells work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.editing.sampling import Editor
from repro.editing.study import experiments
from repro.editing.study.benchmark import UNSEEN, Bench, Split, as_split, levels, load_unseen
from repro.editing.study.experiments import LONGER, EditingConfig, editor_of, name_of
from repro.editing.study.measure import by_pix2pix, edited, sequenced
from repro.editing.study.pix2pix import Pix2PixGenerator
from repro.editing.study.scores import crops
from repro.editing.vector import TASKS
from repro.engine import study
from repro.engine.checkpoint import load_checkpoint, read_card, trained

Method = Callable[[Split, Sequence[str]], "Tensor | None"]
PIX2PIX, PALETTE, SINGLE, MULT = "pix2pix", "Palette++", "Ours-single", "Ours-mult"
FOR_USE = experiments.VARIANTS[LONGER].label  # to users
METHODS = (PIX2PIX, PALETTE, SINGLE, MULT)  # in the order of the paper's Figs 2 and 3
VARIANTS = {PIX2PIX: "pix2pix", PALETTE: "palette", MULT: "mult", FOR_USE: LONGER}
# One animal and one building that fill a square, chosen before anything was made of them.
SUBJECTS = ("photos/erase_kingfisher", "photos/monuments_berlinCathedral")
ONE_BY_ONE = tuple(f"single-{task}" for task in TASKS)


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
        return _whole("test", {id: pack.load(pack.picture(id)) for id in SUBJECTS}, self.side, self.live.bench)

    def unseen(self) -> Split:
        """Whole images of another domain: a portrait and a motorcycle."""
        pictures = {f"skimage/{name}": load_unseen(name) for name in UNSEEN[:2]}
        return _whole("unseen", pictures, self.side, self.live.bench)

    def has(self, variant: str) -> bool:
        """Whether the weights of a variant (or of "pix2pix") are here."""
        return trained(name_of(variant, 0, self.live.name))

    def editor(self, variant: str = "mult") -> Editor:
        """A trained variant, ready to edit. Raises `ReproError` where its weights are not here."""
        return editor_of(self.live, variant)

    def singles(self) -> dict[str, Editor]:
        """task -> its own network, of those that are here."""
        return {task: self.editor(v) for task, v in zip(TASKS, ONE_BY_ONE, strict=True) if self.has(v)}

    def methods(self, names: Sequence[str] = METHODS) -> dict[str, Method]:
        """Words of a method -> what edits a split by it; a result is None where the weights are not here."""
        return {name: partial(self._made, name) for name in names}

    def _made(self, name: str, data: Split, tasks: Sequence[str]) -> Tensor | None:
        steps = self.live.steps
        if name == SINGLE:
            editors = self.singles()
            return sequenced(editors, data, tasks, steps) if set(tasks) <= set(editors) else None
        if not self.has(VARIANTS[name]):
            return None
        if name == PIX2PIX:
            return by_pix2pix(self.generator(), data, tasks)
        return edited(self.editor(VARIANTS[name]), data, tasks, steps=steps)

    def generator(self) -> Pix2PixGenerator:
        """The trained generator of pix2pix. Raises `ReproError` where it is not here."""
        return load_checkpoint(name_of("pix2pix", 0, self.live.name))  # type: ignore[return-value]

    def cards(self) -> str:
        """A line for every network of the main tables: what it learned from, or the command that makes it."""
        lines = []
        for variant in ("mult", LONGER, "palette", "pix2pix", *ONE_BY_ONE):
            name = name_of(variant, 0, self.live.name)
            line = f"— {name}: no weights here; `repro train {name}` makes them"
            if self.has(variant):
                card = read_card(name)
                words = [f"{card.get(key, '—')} {key}" for key in ("parameters", "images", "duration")]
                line = " · ".join([f"{name:<32}", *words])
            lines.append(line)
        return "\n".join(lines)

    def needs(self, *variants: str) -> str:
        """ "" where these variants are all here, or one sentence that names what is missing and how to make it."""
        missing = [name_of(v, 0, self.live.name) for v in variants if not self.has(v)]
        return f"— no weights of {', '.join(missing)} here: `repro train {missing[0]}` makes them" if missing else ""


def _whole(name: str, pictures: Mapping[str, Tensor], side: int, bench: Bench) -> Split:
    """Images (3, H, W) in [0, 1] by id, brought to squares of that side, as a split of the benchmark."""
    sharp = torch.stack([levels(center_crop(resize(x, side).clamp(0, 1), side)) for x in pictures.values()])
    return as_split(name, tuple(pictures), sharp, bench)


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
