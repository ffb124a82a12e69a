"""The playgrounds of notebook 03: pure functions from what a reader turns to a picture. `repro.ui.explore` shows them.

Pictures have at most 255 colours and their words are drawn by Pillow: a slider has to be answered in half a second.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, read_image, resize, to_model, to_unit
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import use
from repro.rddm.experiments import BASELINES, name_of
from repro.rddm.figures import captioned
from repro.rddm.lesson import FOR_USE, NAMES, OWN, PHOTO, Lesson, Net, held_out, psnr
from repro.rddm.schedules import RDDMSchedule, indi
from repro.rddm.switches import STARTS
from repro.rddm.tasks import DEGRADATIONS
from repro.ui.controls import UploadedFile
from repro.ui.pictures import few_colours
from repro.ui.plots import tile

TASKS = {"low light": "lowlight", "raindrops": "raindrop", "Fashion-MNIST": "fashion"}
STRATEGIES = {label: variant for variant, label in NAMES.items()}
LAST = 999
RESTORERS = {FOR_USE: use.VARIANT, **STRATEGIES}  # for a photograph of one's own
STARTING = (LAST, *STARTS)  # timesteps that sampling may begin with
# Schedules at test time: the network is still told the t of its own.
SCHEDULES: dict[str, Callable[[RDDMSchedule], RDDMSchedule]] = {
    "as trained": lambda schedule: schedule,
    "residual evenly": lambda schedule: schedule.readjust(alpha="average"),
    "residual late": lambda schedule: schedule.readjust(alpha="increased"),
    "noise evenly": lambda schedule: schedule.readjust(beta2="average"),
    "InDI": lambda schedule: indi(schedule.T, schedule.sum_scale),
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
LONGEST = 2  # longer side of an uploaded picture, in shorter sides: beyond it the middle is taken


def walk(
    now: Lesson, task: str, strategy: str, steps: int, eta: float, start: int, schedule: str, seed: int
) -> np.ndarray:
    """One restoration with its way there, or six generated pictures, at these settings; uint8 (H, W, 3)."""
    net = _net(now, TASKS[task], strategy)
    if isinstance(net, str):
        return plaque(net)
    settings = {"eta": eta} | ({} if start == LAST else {"start": start})
    if net.learning.start == "degraded":
        learning = dataclasses.replace(net.learning, schedule=SCHEDULES[schedule](net.learning.schedule))
        net = dataclasses.replace(net, learning=learning)
    elif schedule != "as trained" or start != LAST or eta > 0:
        raise ReproError(f"{strategy} goes its own way: choose schedule 'as trained', start {LAST} and eta 0 for it")
    if net.task.degradation == "none":
        return few_colours(tile(list(to_unit(net.generate(range(6), steps, seed, **settings))), cols=3, scale=4))
    I_in, I_0 = now.pair(TASKS[task], crop=now.play)
    if net.learning.start == "none":
        found = first = net.restore(I_in, [PHOTO])
        state, when = I_in, "no state: one pass"
    else:
        run = list(net.trajectory(I_in, [PHOTO], steps, seed, **settings))
        found, first, middle = run[-1].x.clamp(-1, 1), run[0].x0, run[len(run) // 2]
        state, when = middle.x_t, f"state at t = {middle.t}"
    error = ((found - I_0).abs() * 4 - 1).clamp(-1, 1)  # difference of values in [0, 1], four times as bright
    shown = {
        f"input, {psnr(I_in, I_0):.1f} dB": I_in,
        when: state,
        f"first guess, {psnr(first, I_0):.1f} dB": first,
        f"result, {psnr(found, I_0):.1f} dB": found,
        "truth": I_0,
        "error × 4": error,
    }
    return few_colours(captioned(shown, cols=3))


def own_photo(
    now: Lesson, photo: UploadedFile | None, weather: str, strategy: str, steps: int, seed: int
) -> np.ndarray:
    """A reader's photograph (or one of ours), degraded unless it is already, and restored; uint8 (H, W, 3)."""
    task, degrade = WEATHER[weather]
    net = _net(now, task, strategy)
    if isinstance(net, str):
        return plaque(net)
    clean, said = prepared(photo, net.task.side)
    given = _degraded(photo, net.task.degradation, net.task.side, seed) if degrade else clean
    restored = net.restore(to_model(given)[None], ["own photo"], None if net.learning.start == "none" else steps, seed)
    height, width = given.shape[-2:]
    words = [f"{said}, shown at {width} × {height}", f"{strategy}, {steps} step{'s' * (steps > 1)}"]
    if net.learning.start == "none":
        words[1] = f"{strategy}, one pass"
    return few_colours(captioned(dict(zip(words, (to_model(given)[None], restored), strict=True)), cols=2))


def prepared(photo: UploadedFile | None, side: int) -> tuple[Tensor, str]:
    """(3, H, W) in [0, 1] with `side` as its shorter side, and what was found; None stands for one of our photographs.

    Raises `ReproError` for what is no picture, or one smaller than 16 pixels.
    """
    if photo is None:
        return center_crop(resize(pack.load(held_out(OWN)), side), side), "a held-out photo"
    image = read_image(photo.content, min_side=16, name=photo.name)
    height, width = image.shape[-2:]
    said, most = f"{photo.name}, {width} × {height}", LONGEST * min(height, width)
    if max(height, width) > most:
        top, left = max(0, (height - most) // 2), max(0, (width - most) // 2)
        image, said = image[:, top : top + most, left : left + most], said + ", its middle"
    return resize(image, side), said


@lru_cache(maxsize=4)
def _degraded(photo: UploadedFile | None, degradation: str, side: int, seed: int) -> Tensor:
    """The photograph darkened or rained on, (3, H, W) in [0, 1]; kept, so that other steps need no new rain."""
    clean, _ = prepared(photo, side)
    return DEGRADATIONS[degradation](clean[None], lambda purpose: KeyedNoise(seed, ["own photo"], purpose))[0]


def _net(now: Lesson, task: str, strategy: str) -> Net | str:
    """The network, or the sentence that says why there is none."""
    variant = RESTORERS[strategy]
    if task == "fashion" and variant in (*BASELINES, use.VARIANT):
        raise ReproError(f"{strategy!r} restores: for Fashion-MNIST choose SM-Res, SM-N or SM-Res-N")
    net = now.net(task, variant)
    return net or f"no weights of {name_of(task, variant, 0, now.live.name)} here: repro train makes them"


def plaque(text: str) -> np.ndarray:
    """A sentence in a picture's place, and of a picture's shape."""
    canvas = torch.ones(1, 3, 280, 390)
    first, *more = textwrap.wrap(f"— {text}", 56)
    return np.concatenate([captioned({first: canvas[..., :2, :]}, 1), captioned({" ".join(more): canvas}, 1)])
