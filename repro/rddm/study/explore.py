"""The widgets of notebook 03: functions from a reader's controls to an image. `repro.ui.explore` shows them."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from repro.data import pack
from repro.data.images import read_image, to_model, to_unit
from repro.errors import ReproError
from repro.rddm.pipeline import RDDMPipeline
from repro.rddm.process import by_config
from repro.rddm.samplers import Net
from repro.rddm.scheduler import RDDMScheduler
from repro.rddm.study.experiments import BASELINES, USE, degraded, name_of
from repro.rddm.study.lesson import NAMES, Lesson, psnr
from repro.rddm.study.measure import STARTS
from repro.ui.explore import Choice, Control, Seed, Slider, Upload, UploadedFile
from repro.ui.pictures import own_view as own_view
from repro.ui.pictures import photograph, resized, split_view, stage
from repro.ui.plots import tile

TASKS = {"low light": "lowlight", "raindrops": "raindrop", "Fashion-MNIST": "fashion"}
STRATEGIES = {label: variant for variant, label in NAMES.items()}
FOR_USE = "the network for use"
LAST = 999
RESTORERS = {FOR_USE: "use", **STRATEGIES}  # for a photograph of one's own
STARTING = (LAST, *STARTS)  # timesteps that sampling may begin with
# Schedules at test time: the network is still given the t of its own.
SCHEDULES: dict[str, dict[str, str]] = {
    "as trained": {},
    "residual evenly": {"alpha": "average"},
    "residual late": {"alpha": "increased"},
    "noise evenly": {"beta2": "average"},
    "InDI": {"alpha": "average", "beta2": "level"},
}
WEATHER = {
    "rain on it": ("raindrop", True),
    "darken it": ("lowlight", True),
    "it is dark already": ("lowlight", False),
    "it is wet already": ("raindrop", False),
}
PRESETS = {
    "SM-N from 999": {"strategy": "SM-N"},
    "SM-N from 900": {"strategy": "SM-N", "start": 900},
    "SM-Res, 20 steps, η = 1": {"steps": 20, "eta": 1.0},
}
# Held-out photographs to choose from.
PHOTOS = {
    "kitten": "photos/erase_kitten",
    "red panda": "photos/erase_red_panda",
    "kingfisher": "photos/erase_kingfisher",
    "Brandenburg gate": "photos/monuments_brandenburgGate",
    "Colosseum": "photos/monuments_colosseum",
    "Mount Rushmore": "photos/monuments_mountRushmore",
}


def controls(given: Mapping[str, Any]) -> dict[str, Control]:
    """The controls, at the values `given` by a notebook's parameters of the same names."""
    return {
        "task": Choice(tuple(TASKS), given["task"]),
        "picture": Choice(tuple(PHOTOS), given["picture"]),
        "strategy": Choice(tuple(STRATEGIES), given["strategy"]),
        "steps": Slider(1, 20, 1, given["steps"]),
        "eta": Slider(0.0, 1.0, 0.1, given["eta"], "η"),
        "start": Choice(STARTING, given["start"], "start at t"),
        "schedule": Choice(tuple(SCHEDULES), given["schedule"]),
        "seed": Seed(given["seed"]),
        "split": Slider(0.0, 1.0, 0.05, given["split"], "input | result"),
    }


class Walked(NamedTuple):
    """What `walk` made, images (1, C, H, W) in [-1, 1]: input, result, and by name what lies between; or images that
    were generated, `result` alone (N, 1, 28, 28)."""

    result: Tensor
    given: Tensor | None = None
    between: Mapping[str, Tensor] = {}
    words: str = ""


def walk(
    now: Lesson, task: str, picture: str, strategy: str, steps: int, eta: float, start: int, schedule: str, seed: int
) -> Walked:
    """One restoration with its way there, or nine generated images."""
    net = _net(now, TASKS[task], strategy)
    settings = {"eta": eta} | ({} if start == LAST else {"start": start})
    if net.learning.start != "degraded" and (schedule != "as trained" or start != LAST or eta > 0):
        raise ReproError(f"{strategy} goes its own way: choose schedule 'as trained', start {LAST} and eta 0 for it")
    if SCHEDULES[schedule]:
        chosen = by_config(**SCHEDULES[schedule], sum_scale=net.learning.schedule.sum_scale)
        net = replace(net, learning=replace(net.learning, schedule=chosen))
    if TASKS[task] == "fashion":
        return Walked(net.generate(range(9), steps, seed, **settings))
    (y, x0), between = now.pair(TASKS[task], PHOTOS[picture], crop=now["play"]), {}
    if net.learning.start == "none":
        result = net.restore(y, [picture])
    else:
        run = list(net.trajectory(y, [picture], steps, seed, **settings))
        result, middle = run[-1].x.clamp(-1, 1), run[len(run) // 2]
        between = {f"first guess, {psnr(run[0].x0, x0):.1f} dB": run[0].x0, f"state at t = {middle.t}": middle.x_t}
    words = f"PSNR {psnr(y, x0):.1f} dB → {psnr(result, x0):.1f} dB"
    return Walked(result, y, {**between, "truth": x0}, words)


def view(made: Walked, split: float) -> np.ndarray:
    """Input and result in one large image, `split` in [0, 1] being how much is input; beside it what lies between.
    uint8 (H, W, 3)."""
    if made.given is None:
        return tile(list(to_unit(made.result)), cols=3, scale=4)
    before, after = (resized(to_unit(x)[0], 376) for x in (made.given, made.result))
    small = {words: to_unit(x)[0] for words, x in made.between.items()}
    return stage(split_view(before, after, split), small, made.words)


# -- a reader's own photograph ----------------------------------------------------------------------------------------


def own_controls(now: Lesson, seed: int) -> dict[str, Control]:
    """The controls of `own_photo` and `own_view`; the network for use first, where it is here."""
    first = FOR_USE if now.net("raindrop", "use") else NAMES["smres"]
    return {
        "photo": Upload(),
        "picture": Choice(tuple(PHOTOS), "Mount Rushmore", "or one of ours"),
        "weather": Choice(tuple(WEATHER)),
        "strategy": Choice(tuple(RESTORERS), first),
        "steps": Slider(1, 10, 1, USE["raindrop"].steps),
        "seed": Seed(seed),
        "split": Slider(0.0, 1.0, 0.05, 0.5, "input | result"),
    }


OWN_PRESETS = {
    "in the dark": {"weather": "darken it", "strategy": NAMES["smres"], "steps": 2},
    "in the rain": {"weather": "rain on it"},
}


def own_photo(
    now: Lesson, photo: UploadedFile | None, picture: str, weather: str, strategy: str, steps: int, seed: int
) -> tuple[Tensor, Tensor, str]:
    """(input, result, words) of a reader's photograph, or of ours, (3, H, W) in [0, 1]: degraded unless it is already,
    and restored."""
    task, degrade = WEATHER[weather]
    net, config = _net(now, task, strategy), now.task(task, RESTORERS[strategy])
    image, about = photograph(photo, config.side, pack.load(pack.picture(PHOTOS[picture])), picture)
    given = degraded(config.degradation, image, "own photo", seed) if degrade else image
    count = None if net.learning.start == "none" else steps
    restored = net.restore(to_model(given)[None], ["own photo"], count, seed)
    how = "one pass" if count is None else f"{steps} step{'s' * (steps > 1)}"
    return given, to_unit(restored)[0], f"{about} · {strategy}, {how}"


def own_full(
    now: Lesson, photo: UploadedFile | None, picture: str, weather: str, strategy: str, steps: int, seed: int, **_: Any
) -> Tensor:
    """The result at the photograph's own size, a large one in tiles: what the save button keeps, (3, H, W) in [0, 1].

    What is degraded here is so at the display size, and saved at that size.
    """
    task, degrade = WEATHER[weather]
    net = _net(now, task, strategy)
    if net.learning.start != "degraded" or net.learning.objective == "noise":
        raise ReproError(f"{strategy} is not there for an image at its own size: SM-Res and SM-Res-N are")
    if degrade:
        return own_photo(now, photo, picture, weather, strategy, steps, seed)[1]
    ours = pack.picture(PHOTOS[picture])
    image = read_image(photo.content, min_side=16, name=photo.name) if photo else pack.load(ours)
    scheduler = RDDMScheduler(objective=net.learning.objective, sum_scale=net.learning.schedule.sum_scale)
    pipe = RDDMPipeline(copy.deepcopy(net.network), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe(image, num_inference_steps=steps, seed=seed, output_type="pt").images[0]


def _net(now: Lesson, task: str, strategy: str) -> Net:
    """The network. Raises `ReproError`, which a widget shows in the image's place, where there is none."""
    variant = RESTORERS[strategy]
    if task == "fashion" and variant in BASELINES:
        raise ReproError(f"{strategy!r} restores: for Fashion-MNIST choose SM-Res, SM-N or SM-Res-N")
    if variant == "use" and task not in USE:
        raise ReproError("the network for use takes raindrops away: for low light choose SM-Res, or notebook 04's")
    if (net := now.net(task, variant)) is None:
        raise ReproError(f"no weights of {name_of(task, variant, 0, now.live)} here: repro train makes them")
    return net
