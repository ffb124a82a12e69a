"""What notebook 03 does live: its sizes, networks and photographs in each profile, its widgets, its exercises.

A widget is a function from a reader's controls to an image, which `repro.ui.explore` shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, read_image, resize, to_model, to_unit
from repro.engine import study
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.study import Exercise, Judge, check_answer, like, near, same, tensors
from repro.errors import ReproError
from repro.rddm.pipeline import RAINDROPS, RDDMPipeline, RDDMScheduler
from repro.rddm.process import RDDMSchedule, by_config
from repro.rddm.samplers import Net, Sampler
from repro.rddm.study.experiments import BASELINES, PROFILES, USE, TaskConfig, degraded, learning_of, name_of
from repro.rddm.study.measure import LINEAR, STARTS
from repro.ui.controls import Choice, Control, Seed, Slider, Upload, UploadedFile
from repro.ui.pictures import photograph, resized, split_view, stage
from repro.ui.plots import tile

# What figures and menus call the variants; tables have longer words.
NAMES = {"smres": "SM-Res", "smn": "SM-N", "smresn": "SM-Res-N", "regression": "regression", "sr3": "pure noise"}
PHOTO, SECOND = "photos/erase_kitten", "photos/monuments_brandenburgGate"  # held out from every training
OWN = "photos/monuments_mountRushmore"  # held out too; used until a reader uploads one
Photo = UploadedFile | None  # a reader's own


@dataclass(frozen=True)
class RDDMLesson(study.Lesson):
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
        return USE[name] if variant == "use" else PROFILES[self.live][name]

    def net(self, task: str, variant: str) -> Net | None:
        """The trained network of a variant, None where its weights are not here."""
        config, name = self.task(task, variant), name_of(task, variant, 0, self.live)
        return Net(load_checkpoint(name), learning_of(config, variant), config.steps) if trained(name) else None

    def nets(self, task: str) -> dict[str, Net]:
        """label -> network of what is here; of others the command that makes them is printed."""
        found = {}
        for variant, label in NAMES.items():
            if task == "fashion" and variant in BASELINES:
                continue
            if net := self.net(task, variant):
                found[label] = net
            else:
                print(f"— {label}: no weights here; `repro train {name_of(task, variant, 0, self.live)}` makes them")
        return found

    def restorations(self, task: str, nets: Mapping[str, Net], photo: str, seed: int = 0) -> dict[str, Tensor]:
        """Input, every network's result on one start noise, and the truth, (1, 3, H, W) in [-1, 1], by name; from pure
        noise two results, with as many steps as the strategies and with `many`."""
        y, x0 = self.pair(task, photo)
        images = {"input": y}
        for label, net in nets.items():
            for steps in (net.steps, self["many"]) if label == NAMES["sr3"] else (None,):
                name = label if steps is None else f"{label} ({steps})"
                images[name] = net.restore(y, [photo], steps, seed)
        return {**images, "truth": x0}

    def pair(self, task: str, photo: str = PHOTO, crop: int = 0, side: int = 0) -> tuple[Tensor, Tensor]:
        """(y, x0) of a held-out photograph, degraded as in the test set, each (1, 3, H, W) in [-1, 1]: `side` of the
        whole one, the task's own by default; `crop` of the middle square cut out of it."""
        config = self.task(task)
        y, x0 = _pair(config.degradation, photo, side or config.side)
        size = min(crop, *x0.shape[-2:]) if crop else tuple(x0.shape[-2:])
        return to_model(center_crop(y, size))[None], to_model(center_crop(x0, size))[None]


@lru_cache(maxsize=16)
def _pair(degradation: str, photo: str, side: int) -> tuple[Tensor, Tensor]:
    clean = resize(pack.load(pack.image(photo)), side)
    return degraded(degradation, clean, photo), clean


def credits() -> str:
    """Who took the photographs that the notebook shows."""
    return "\n".join(f"{photo}: {pack.image(photo).credit}" for photo in (PHOTO, SECOND, OWN))


def psnr(image: Tensor, truth: Tensor) -> float:
    """PSNR in dB on RGB of images in [-1, 1], for captions; tables have their own protocols."""
    return 10 * torch.log10(4 / (image.clamp(-1, 1) - truth).square().mean()).item()


_SMALL = {"side": 160, "play": 256, "drawn": 12, "few": 8, "calls": 50, "many": 20}
_SMOKE = {"side": 48, "play": 32, "drawn": 4, "few": 2, "calls": 4, "many": 3}
_ALL = ("smoke", 0.4, _SMOKE), ("small", 2.3, _SMALL), ("paper", 2.3, _SMALL)  # profile, minutes, settings
LESSONS = {name: RDDMLesson("rddm", "03_rddm_sampling", name, *more) for name, *more in _ALL}


TASKS = {"low light": "lowlight", "raindrops": "raindrop", "Fashion-MNIST": "fashion"}
STRATEGIES = {label: variant for variant, label in NAMES.items()}
FOR_USE = "the network for use"
RESTORERS = {FOR_USE: "use", **STRATEGIES}  # for a photograph of one's own
LAST = 999  # timestep that sampling begins with, or one of `STARTS`
# Schedules at test time: the network is still given the t of its own.
SCHEDULES: dict[str, dict[str, str]] = {
    "as trained": {},
    "residual evenly": {"alpha": "average"},
    "residual late": {"alpha": "increased"},
    "noise evenly": {"beta2": "average"},
    "InDI": {"alpha": "average", "beta2": "level"},
}
PRESETS = {
    "SM-N from 999": {"strategy": "SM-N"},
    "SM-N from 900": {"strategy": "SM-N", "start": 900},
    "SM-Res, 20 steps, η = 1": {"steps": 20, "eta": 1.0},
}
PHOTOS = {  # held out, to choose from
    "kitten": PHOTO,
    "red panda": "photos/erase_red_panda",
    "kingfisher": "photos/erase_kingfisher",
    "Brandenburg gate": SECOND,
    "Colosseum": "photos/monuments_colosseum",
    "Mount Rushmore": OWN,
}


def controls(given: Mapping[str, Any]) -> dict[str, Control]:
    """The controls, at the values `given` by a notebook's parameters of the same names."""
    return {
        "task": Choice(tuple(TASKS), given["task"]),
        "photo": Choice(tuple(PHOTOS), given["photo"]),
        "strategy": Choice(tuple(STRATEGIES), given["strategy"]),
        "steps": Slider(1, 20, 1, given["steps"]),
        "eta": Slider(0.0, 1.0, 0.1, given["eta"], "η"),
        "start": Choice((LAST, *STARTS), given["start"], "start at t"),
        "schedule": Choice(tuple(SCHEDULES), given["schedule"]),
        "seed": Seed(given["seed"]),
        "split": Slider(0.0, 1.0, 0.05, given["split"], "input | result"),
    }


# Result, input, other images by name, (1, C, H, W) in [-1, 1], and a caption; of generation the result (N, 1, 28, 28).
Walked = tuple[Tensor, Tensor | None, Mapping[str, Tensor], str]


def walk(
    now: RDDMLesson, task: str, photo: str, strategy: str, steps: int, eta: float, start: int, schedule: str, seed: int
) -> Walked:
    """One restoration with its first estimate and a state half-way, or nine generated images."""
    net = _net(now, TASKS[task], strategy)
    settings = {"eta": eta} | ({} if start == LAST else {"start": start})
    if net.learning.start != "degraded" and (schedule != "as trained" or start != LAST or eta > 0):
        raise ReproError(f"{strategy} goes its own way: choose schedule 'as trained', start {LAST} and eta 0 for it")
    if SCHEDULES[schedule]:
        chosen = by_config(**SCHEDULES[schedule], sum_scale=net.learning.schedule.sum_scale)
        net = replace(net, learning=replace(net.learning, schedule=chosen))
    if TASKS[task] == "fashion":
        return net.generate(range(9), steps, seed, **settings), None, {}, ""
    (y, x0), between = now.pair(TASKS[task], PHOTOS[photo], crop=now["play"]), {}
    if net.learning.start == "none":
        result = net.restore(y, [photo])
    else:
        run = list(net.trajectory(y, [photo], steps, seed, **settings))
        result, middle = run[-1].x.clamp(-1, 1), run[len(run) // 2]
        between = {f"first estimate, {psnr(run[0].x0, x0):.1f} dB": run[0].x0, f"state at t = {middle.t}": middle.x_t}
    return result, y, {**between, "truth": x0}, f"PSNR {psnr(y, x0):.1f} dB → {psnr(result, x0):.1f} dB"


def view(walked: Walked, split: float) -> np.ndarray:
    """Input and result in one large image, `split` of it input; the other images beside it. uint8 (H, W, 3)."""
    result, y, between, caption = walked
    if y is None:
        return tile(list(to_unit(result)), cols=3, scale=4)
    before, after = (resized(to_unit(x)[0], 376) for x in (y, result))
    return stage(split_view(before, after, split), {name: to_unit(x)[0] for name, x in between.items()}, caption)


def _net(now: RDDMLesson, task: str, strategy: str) -> Net:
    """The network. Raises `ReproError`, which a widget shows in the image's place, where there is none."""
    variant = RESTORERS[strategy]
    if task == "fashion" and variant in BASELINES:
        raise ReproError(f"{strategy!r} restores: for Fashion-MNIST choose SM-Res, SM-N or SM-Res-N")
    if variant == "use" and task not in USE:
        raise ReproError("the network for use takes raindrops away: for low light choose SM-Res, or notebook 04's")
    if (net := now.net(task, variant)) is None:
        raise ReproError(f"no weights of {name_of(task, variant, 0, now.live)} here: repro train makes them")
    return net


WEATHER = {
    "rain on it": ("raindrop", True),
    "darken it": ("lowlight", True),
    "it is dark already": ("lowlight", False),
    "it is wet already": ("raindrop", False),
}
OWN_PRESETS = {
    "in the dark": {"weather": "darken it", "strategy": NAMES["smres"], "steps": 2},
    "in the rain": {"weather": "rain on it"},
}


def own_controls(now: RDDMLesson, seed: int) -> dict[str, Control]:
    """The controls of `own_photo` and `own_view`; the network for use first, where it is here."""
    first = FOR_USE if now.net("raindrop", "use") else NAMES["smres"]
    return {
        "photo": Upload(),
        "example": Choice(tuple(PHOTOS), "Mount Rushmore", "or one of ours"),
        "weather": Choice(tuple(WEATHER)),
        "strategy": Choice(tuple(RESTORERS), first),
        "steps": Slider(1, 10, 1, USE["raindrop"].steps),
        "seed": Seed(seed),
        "split": Slider(0.0, 1.0, 0.05, 0.5, "input | result"),
    }


def own_photo(
    now: RDDMLesson, photo: Photo, example: str, weather: str, strategy: str, steps: int, seed: int
) -> tuple[Tensor, Tensor, str]:
    """(input, result, words) of a reader's photograph or ours, (3, H, W) in [0, 1]; degraded unless it is already."""
    task, degrade = WEATHER[weather]
    net, config = _net(now, task, strategy), now.task(task, RESTORERS[strategy])
    image, about = photograph(photo, config.side, pack.load(pack.image(PHOTOS[example])), example)
    given = degraded(config.degradation, image, "own photo", seed) if degrade else image
    count = None if net.learning.start == "none" else steps
    how = "one pass" if count is None else f"{steps} step{'s' * (steps > 1)}"
    if strategy == FOR_USE:
        restored = _by_pipeline(net, strategy, given, steps, seed)
    else:
        restored = to_unit(net.restore(to_model(given)[None], ["own photo"], count, seed))[0]
    return given, restored, f"{about} · {strategy}, {how}"


def _by_pipeline(net: Net, strategy: str, image: Tensor, steps: int, seed: int) -> Tensor:
    scheduler = RDDMScheduler(objective=net.learning.objective, sum_scale=net.learning.schedule.sum_scale)
    pipe = RDDMPipeline(net.network, scheduler, **(RAINDROPS if strategy == FOR_USE else {}))
    pipe.set_progress_bar_config(disable=True)
    return pipe(image, num_inference_steps=steps, seed=seed, output_type="pt").images[0]


def own_full(
    now: RDDMLesson, photo: Photo, example: str, weather: str, strategy: str, steps: int, seed: int, **_: Any
) -> Tensor:
    """What the save button keeps, (3, H, W) in [0, 1]: the result at the photograph's own size, or, where it is
    degraded here, at the display size."""
    task, degrade = WEATHER[weather]
    net = _net(now, task, strategy)
    if net.learning.start != "degraded" or net.learning.objective == "noise":
        raise ReproError(f"{strategy} is not there for an image at its own size: SM-Res and SM-Res-N are")
    if degrade:
        return own_photo(now, photo, example, weather, strategy, steps, seed)[1]
    ours = pack.image(PHOTOS[example])
    image = read_image(photo.content, min_side=16, name=photo.name) if photo else pack.load(ours)
    return _by_pipeline(net, strategy, image, steps, seed)


(_X_T, _Y, _R, _EPS), _OWN = tensors(4, shape=(3, 4, 4), key="exercise/rddm", batch=2), by_config()
_CASES = (_X_T, _Y, _R, 0.75, 0.5), (_X_T, _Y, _R, 0.36, 0.2)
_noise = partial(like, lambda x_t, y, r, u, s: (x_t - y - (u - 1) * r) / s, *_CASES)
_NEXT = Sampler(_OWN, "res_noise", clip=None).step(torch.cat([_R, _EPS], dim=1), _X_T, _Y, 700, 300).x
_step = partial(like, lambda *_: _NEXT, (_X_T, _R, _EPS, *_OWN.levels(700), *_OWN.levels(300)))
_indi = lambda: lambda answer: near(0.75)()(answer(0.8, 0.6))  # noqa: E731


def _translate() -> Judge:
    converted, some = RDDMSchedule.from_ddpm(LINEAR), [0, 400, 999]
    right = torch.stack([converted.u[some], converted.s[some]])
    return lambda answer: same(torch.stack(answer(LINEAR.alpha_bar[some])), right)


_HALF, _END = int((_OWN.u > 0.5).nonzero()[0]), float(LINEAR.alpha_bar[-1] ** 0.5)
EXERCISES: dict[str, Exercise] = {
    "half": ("the first t with more than half of the residual", near(_HALF), "most comes early: look at schedule.u"),
    "noise": ("the noise from the residual", _noise, "solve x_t = y + (u - 1) r + s eps for eps"),
    "step": ("one deterministic step", _step, "Eq. 13: take away the share of each that s holds less than t"),
    "indi": ("how much of the state InDI keeps", _indi, "of the way t to 0, the step goes t - s"),
    "translate": ("RDDM's coefficients of a DDPM", _translate, "with y = 0, r = -x0: compare the factors of x0"),
    "ends": ("what a converted schedule leaves", near(_END, 5e-4), "1 - u at T is the square root of alpha_bar there"),
}
check = partial(check_answer, among=EXERCISES)
