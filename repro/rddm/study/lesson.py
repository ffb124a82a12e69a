"""What notebook 03 does live in each profile, as data, its networks and photographs, and its exercises."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize, to_model
from repro.ddpm.schedules import linear
from repro.engine import exercises, study
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.exercises import Exercise, Judge, like, same
from repro.rddm.samplers import Net, Sampler
from repro.rddm.schedules import RDDMSchedule, by_config
from repro.rddm.study import experiments
from repro.rddm.study.experiments import BASELINES, STRATEGIES, TaskConfig, degraded, learning_of, name_of

# What figures and menus call the variants; tables have longer words.
NAMES = {"smres": "SM-Res", "smn": "SM-N", "smresn": "SM-Res-N", "regression": "regression", "sr3": "pure noise"}
PHOTO, SECOND = "photos/erase_kitten", "photos/monuments_brandenburgGate"  # held out from every training
OWN = "photos/monuments_mountRushmore"  # held out too; stands in until a reader uploads one


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

    def task(self, name: str, variant: str = "") -> TaskConfig:
        """The configuration of a task; networks for use have their own."""
        return experiments.USE[name] if variant == "use" else experiments.profile(self.live)[name]

    def net(self, task: str, variant: str) -> Net | None:
        """The trained network of a variant, None where its weights are not here."""
        config, name = self.task(task, variant), name_of(task, variant, 0, self.live)
        return Net(load_checkpoint(name), learning_of(config, variant), config.steps) if trained(name) else None

    def nets(self, task: str) -> dict[str, Net]:
        """label -> network of what is here; of others the command that makes them is printed."""
        found = {}
        for variant in STRATEGIES if task == "fashion" else (*STRATEGIES, *BASELINES):
            if (net := self.net(task, variant)) is not None:
                found[NAMES[variant]] = net
            else:
                name = name_of(task, variant, 0, self.live)
                print(f"— {NAMES[variant]}: no weights here; `repro train {name}` makes them")
        return found

    def restorations(self, task: str, nets: Mapping[str, Net], photo: str, seed: int = 0) -> dict[str, Tensor]:
        """Input, every network's result on one start noise, and the truth, (1, 3, H, W) in [-1, 1], by name.

        Diffusion from pure noise appears twice: with as many steps as the strategies, and with `many`.
        """
        y, x0 = self.pair(task, photo)
        images = {"input": y}
        for label, net in nets.items():
            for steps in (net.steps, self["many"]) if label == NAMES["sr3"] else (None,):
                name = label if steps is None else f"{label} ({steps})"
                images[name] = net.restore(y, [photo], steps, seed)
        return {**images, "truth": x0}

    def pair(self, task: str, photo: str = PHOTO, crop: int = 0, side: int = 0) -> tuple[Tensor, Tensor]:
        """(y, x0) of a held-out photograph, each (1, 3, H, W) in [-1, 1].

        Degraded as in the test set, with the settings keyed by its name. `crop` cuts the middle square out of the
        pair, 0 leaves the whole photograph; `side` of the whole one, the task's own by default.
        """
        config = self.task(task)
        pair = _pair(config.degradation, photo, side or config.side)
        pair = (center_crop(x, min(crop, *x.shape[-2:])) for x in pair) if crop else pair
        return tuple(to_model(x)[None] for x in pair)  # type: ignore[return-value]


@lru_cache(maxsize=16)
def _pair(degradation: str, photo: str, side: int) -> tuple[Tensor, Tensor]:
    clean = resize(pack.load(pack.picture(photo)), side)
    return degraded(degradation, clean, photo), clean


def credits() -> str:
    """Who took the photographs that the notebook shows."""
    return "\n".join(f"{photo}: {pack.picture(photo).credit}" for photo in (PHOTO, SECOND, OWN))


def psnr(image: Tensor, truth: Tensor) -> float:
    """PSNR in dB on RGB of images in [-1, 1], for captions; tables have their own protocols."""
    return 10 * torch.log10(4 / (image.clamp(-1, 1) - truth).square().mean()).item()


_SIZES = {"side": 160, "play": 256, "drawn": 12, "few": 8, "calls": 50, "many": 20}
_SMOKE = {"side": 48, "play": 32, "drawn": 4, "few": 2, "calls": 4, "many": 3}
LESSONS = {
    "smoke": Lesson("rddm", "03_rddm_sampling", "smoke", 0.4, _SMOKE, check=False),
    "small": Lesson("rddm", "03_rddm_sampling", "small", 2.3, _SIZES),
    "paper": Lesson("rddm", "03_rddm_sampling", "paper", 2.3, _SIZES, check=False),
}


# -- exercises --------------------------------------------------------------------------------------------------------

_tensors = partial(exercises.tensors, shape=(3, 4, 4), key="exercise/rddm", batch=2)


def _near(number: float, allowed: float = 1e-9) -> Judge:
    return lambda answer: abs(answer - number) <= allowed


def _noise() -> Judge:
    right = lambda x_t, y, r, u, s: (x_t - y - (u - 1) * r) / s  # noqa: E731
    return like(right, (*_tensors(3), 0.75, 0.5), (*_tensors(3), 0.36, 0.2))


def _step() -> Judge:
    (x_t, y, r, eps), schedule = _tensors(4), by_config()
    right = Sampler(schedule, "res_noise", clip=None).step(torch.cat([r, eps], dim=1), x_t, y, 700, 300).x
    return lambda answer: same(answer(x_t, r, eps, *schedule.levels(700), *schedule.levels(300)), right)


def _translate() -> Judge:
    converted, some = RDDMSchedule.from_ddpm(linear()), [0, 400, 999]
    right = torch.stack([converted.u[some], converted.s[some]])
    return lambda answer: same(torch.stack(answer(linear().alpha_bar[some])), right)


EXERCISES: dict[str, Exercise] = {
    "half": (
        "the first t with more than half of the residual",
        lambda: _near(int((by_config().u > 0.5).nonzero()[0])),
        "alpha is decreased: most of the residual comes early; look at schedule.u",
    ),
    "noise": ("the noise from the residual", _noise, "solve x_t = y + (u - 1) r + s eps for eps"),
    "step": ("one deterministic step", _step, "Eq. 13: take away the share of each that s holds less than t"),
    "indi": (
        "how much of the state InDI keeps",
        lambda: lambda answer: _near(0.75)(answer(0.8, 0.6)),
        "of the way t to 0, the step goes t - s",
    ),
    "translate": ("RDDM's coefficients of a DDPM", _translate, "with y = 0, r = -x0: compare the factors of x0"),
    "ends": (
        "what a converted schedule leaves",
        lambda: _near(float(linear().alpha_bar[-1] ** 0.5), 5e-4),
        "1 - u at T is the square root of alpha_bar there",
    ),
}
check = partial(exercises.check, among=EXERCISES)
