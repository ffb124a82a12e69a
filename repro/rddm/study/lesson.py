"""What notebook 03 does live in each profile, as data, and the networks and photographs that its cells work with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import pack
from repro.data.images import center_crop, resize, to_model
from repro.engine import study
from repro.engine.checkpoint import load_checkpoint, trained
from repro.errors import ReproError
from repro.rddm import sampling
from repro.rddm.samplers import Step
from repro.rddm.schedules import RDDMSchedule
from repro.rddm.study.experiments import (
    BASELINES,
    STRATEGIES,
    USE,
    TaskConfig,
    degraded,
    learning_of,
    name_of,
    profile,
    schedule_of,
)
from repro.rddm.tasks import Learning

# What figures and menus call the variants; tables have longer words.
NAMES = {"smres": "SM-Res", "smn": "SM-N", "smresn": "SM-Res-N", "regression": "regression", "sr3": "pure noise"}
FOR_USE = "the network for use"
PHOTO, SECOND = "photos/erase_kitten", "photos/monuments_brandenburgGate"  # held out from every training
OWN = "photos/monuments_mountRushmore"  # held out too; stands in until a reader uploads one


@dataclass(frozen=True)
class Net:
    """A trained network, with what it learned.

    `name` of the experiment, `label` in figures, `steps` of the main table (regression has one).
    """

    name: str
    label: str
    task: TaskConfig
    network: nn.Module
    learning: Learning

    @property
    def steps(self) -> int:
        return 1 if self.learning.start == "none" else self.task.steps

    def restore(
        self, I_in: Tensor, ids: Sequence[int | str], steps: int | None = None, seed: int = 0, **settings: Any
    ) -> Tensor:
        """`repro.rddm.sampling.restore` with this network: (B, C, H, W) in [-1, 1]."""
        return sampling.restore(self.network, I_in, ids, self.learning, steps or self.steps, seed, **settings)

    def trajectory(
        self, I_in: Tensor, ids: Sequence[int | str], steps: int | None = None, seed: int = 0, **settings: Any
    ) -> Iterator[Step]:
        """The same, step by step. Regression has no steps to watch."""
        return sampling.trajectory(self.network, I_in, ids, self.learning, steps or self.steps, seed, **settings)

    def generate(self, ids: Sequence[int], steps: int | None = None, seed: int = 0, **settings: Any) -> Tensor:
        """`repro.rddm.sampling.generate` with this network: (len(ids), 1, 28, 28) in [-1, 1]."""
        return sampling.generate(self.network, self.learning, ids, steps or self.steps, seed=seed, **settings)


@dataclass(frozen=True)
class Lesson(study.Lesson):
    """One profile of the notebook; the live cells of the paper profile are the small one's. Its settings:

    `side`, `play`   sides of the whole photographs, cut to squares, of the figures and of the explorer.
    `drawn`     generated images a row.   `few` images of the transformation's cells, drawn with `calls` steps.
    `many`      steps of diffusion from pure noise, beside the strategies' own number.
    """

    @property
    def live(self) -> str:
        """The profile whose networks the cells run."""
        return "smoke" if self.profile == "smoke" else "small"

    def net(self, task: str, variant: str) -> Net | None:
        """The trained network of a variant, None where its weights are not here."""
        config = USE[task] if variant == "use" else profile(self.live)[task]
        name = name_of(task, variant, 0, self.live)
        if not trained(name):
            return None
        label = NAMES.get(variant, FOR_USE)
        return Net(name, label, config, load_checkpoint(name), learning_of(config, variant))

    def nets(self, task: str, quiet: bool = False) -> dict[str, Net]:
        """label -> network of what is here; of others, unless `quiet`, the command that makes them is printed."""
        found = {}
        for variant in STRATEGIES if task == "fashion" else (*STRATEGIES, *BASELINES):
            if (net := self.net(task, variant)) is not None:
                found[net.label] = net
            elif not quiet:
                name = name_of(task, variant, 0, self.live)
                print(f"— {NAMES[variant]}: no weights here; `repro train {name}` makes them")
        return found

    def restorations(self, task: str, photo: str = PHOTO, seed: int = 0) -> dict[str, Tensor]:
        """Input, every network's result on one start noise, and the truth, (1, 3, H, W) in [-1, 1], by name.

        Diffusion from pure noise appears twice: with as many steps as the strategies, and with `many`.
        """
        I_in, I_0 = self.pair(task, photo)
        shown = {"input": I_in}
        for label, net in self.nets(task, quiet=True).items():
            if label == NAMES["sr3"]:
                for steps in (net.steps, self["many"]):
                    shown[f"{label} ({steps})"] = net.restore(I_in, [photo], steps, seed)
            else:
                shown[label] = net.restore(I_in, [photo], seed=seed)
        return {**shown, "truth": I_0}

    def schedule(self, task: str) -> RDDMSchedule:
        """The coefficients of a task's strategies."""
        return schedule_of(profile(self.live)[task], STRATEGIES[0])

    def square(self, task: str, photo: str = PHOTO) -> tuple[Tensor, Tensor]:
        """`pair` of a whole photograph brought to a square of `side` pixels before it is degraded: for figures."""
        given, clean = _pair(profile(self.live)[task].degradation, photo, self["side"])
        return tuple(to_model(center_crop(x, self["side"]))[None] for x in (given, clean))  # type: ignore[return-value]

    def pair(self, task: str, photo: str = PHOTO, crop: int = 0) -> tuple[Tensor, Tensor]:
        """(I_in, I_0) of a held-out photograph, each (1, 3, H, W) in [-1, 1].

        Degraded as in the test set, with the settings keyed by its name. `crop` cuts the middle square out of the
        pair; 0 leaves the whole photograph.
        """
        config = profile(self.live)[task]
        pair = _pair(config.degradation, photo, config.side)
        pair = (center_crop(x, min(crop, *x.shape[-2:])) for x in pair) if crop else pair
        return tuple(to_model(x)[None] for x in pair)  # type: ignore[return-value]


@lru_cache(maxsize=16)
def _pair(degradation: str, photo: str, side: int) -> tuple[Tensor, Tensor]:
    clean = resize(pack.load(held_out(photo)), side)
    return degraded(degradation, clean, photo), clean


def held_out(photo: str) -> pack.Picture:
    """The test photograph of that id."""
    found = {p.id: p for p in pack.photos("test")}
    if photo not in found:
        raise ReproError(f"no held-out photograph {photo!r}: there are {', '.join(found)}")
    return found[photo]


def credits() -> str:
    """Who took the photographs that the notebook shows."""
    return "\n".join(f"{photo}: {held_out(photo).credit}" for photo in (PHOTO, SECOND, OWN))


def psnr(found: Tensor, wanted: Tensor) -> float:
    """PSNR in dB on RGB of images in [-1, 1], for captions; tables have their own protocols."""
    return 10 * torch.log10(4 / (found.clamp(-1, 1) - wanted).square().mean()).item()


_SIZES = {"side": 160, "play": 256, "drawn": 12, "few": 8, "calls": 50, "many": 20}
_SMOKE = {"side": 48, "play": 32, "drawn": 4, "few": 2, "calls": 4, "many": 3}
LESSONS = {
    "smoke": Lesson("rddm", "03_rddm_sampling", "smoke", 0.4, _SMOKE, check=False),
    "small": Lesson("rddm", "03_rddm_sampling", "small", 2.3, _SIZES),
    "paper": Lesson("rddm", "03_rddm_sampling", "paper", 2.3, _SIZES, check=False),
}


def lesson(profile: str) -> Lesson:
    """The lesson of that profile."""
    return study.lesson(LESSONS, profile)  # type: ignore[return-value]
