"""What notebook 04 does in each profile, its widgets as pure functions, and its exercises."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from repro.data import pack
from repro.data.degradations import TASKS
from repro.data.images import resize, to_model, to_unit
from repro.engine import exercises
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.exercises import like, near
from repro.engine.registry import in_profile
from repro.engine.rng import KeyedNoise
from repro.engine.study import Lesson
from repro.ucdir import pipeline
from repro.ucdir.model import UCDIR
from repro.ucdir.patches import Tiles
from repro.ucdir.pipeline import scalars
from repro.ucdir.study.figures import scored
from repro.ui import photos
from repro.ui.controls import UploadedFile
from repro.ui.photos import captioned, plaque

PHOTO, SECOND = "photos/erase_kitten", "photos/monuments_brandenburgGate"  # held out from every training
SIZES = {"side": 192, "crop": 160, "steps": 20, "live": "small"}
LESSONS: Mapping[str, Lesson] = {
    "smoke": Lesson("ucdir", "04_ucdir", "smoke", 0.3, {"side": 64, "crop": 48, "steps": 3, "live": "smoke"}),
    "small": Lesson("ucdir", "04_ucdir", "small", 1.5, SIZES),
    "paper": Lesson("ucdir", "04_ucdir", "paper", 1.5, SIZES),
}
WORDS = {"low light": "lowlight", "motion blur": "deblur", "JPEG": "jpeg"}
STARTS = {"pure noise": 0.0, "middle": 0.5, "last levels": pipeline.START}
SAMPLERS = {"ancestral": "ancestral", "DDIM": "ddim", "DPM-Solver++": "dpm"}


def net(now: Lesson, name: str) -> UCDIR | None:
    """The network for use of a task, or the one of a small-profile name, in the profile whose networks run live; None
    where it is not here."""
    own = in_profile(pipeline.SHIPPED.format(task=name) if name in WORDS.values() else name, now["live"])
    return load_checkpoint(own) if trained(own) else None


def stream(seed: int, name: str = "open") -> Callable[[str], KeyedNoise]:
    """purpose -> the random numbers of one sample."""
    return lambda purpose: KeyedNoise(seed, [name], purpose)


def spoiled(clean: Tensor, task: str, strength: float, noises: Callable[[str], KeyedNoise]) -> Tensor:
    """(1, 3, H, W) in [0, 1], degraded with a strength in [0, 1] as `repro.data.degradations` counts it."""
    low, high = TASKS[task].accepts
    value = max(low, min(high, round(100 - 100 * strength))) if task == "jpeg" else strength * high
    return TASKS[task].degrade(clean, noises, **{TASKS[task].setting: value})[0]


@lru_cache(maxsize=8)
def photograph(name: str, side: int) -> Tensor:
    """(3, H, W) in [0, 1], the shorter side resized to `side`."""
    return resize(pack.load(pack.picture(name)), side)


@lru_cache(maxsize=16)
def pair(name: str, side: int, task: str, strength: float) -> tuple[Tensor, Tensor]:
    """(clean, degraded) of a held-out photograph, each (1, 3, H, W) in [-1, 1]."""
    clean = photograph(name, side)[None]
    return to_model(clean), to_model(spoiled(clean, task, strength, stream(0, name)))


def estimate(model: UCDIR, degraded: Tensor, task: str) -> Tensor:
    """The first estimate of (1, 3, H, W) images in [-1, 1]."""
    return model.predictor(degraded, task=scalars(model, task).get("task")).clamp(-1, 1)


def restored(model: UCDIR, degraded: Tensor, task: str, steps: int, sampler: str, seed: int, **settings: Any) -> Tensor:
    """(1, 3, H, W) in [-1, 1], as the widgets and galleries draw it; the network does not know the strength."""
    noise = stream(seed, "play")("sample")
    return pipeline.restore(model, degraded, noise, steps=steps, sampler=sampler, **scalars(model, task), **settings)


def results(now: Lesson, name: str, task: str, strength: float, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Input and results of the networks that are here for a held-out photograph, and the truth."""
    truth, x = pair(name, now["side"], task, strength)
    shown = {"input": x}
    if (model := net(now, f"ucdir-{task}-regression-s0")) is not None:
        shown["regression"] = model(x, **scalars(model, task))[0].clamp(-1, 1)
    if (model := net(now, task)) is not None:
        shown["first estimate"] = estimate(model, x, task)
        shown["ours"] = restored(model, x, task, now["steps"], pipeline.SAMPLER, seed)
        shown["last levels"] = restored(model, x, task, pipeline.STEPS, pipeline.SAMPLER, seed, start=pipeline.START)
    return shown, truth


# --- widgets: each uint8 (H, W, 3) ------------------------------------------------------------------------------------


def restore_view(
    now: Lesson, task: str, strength: float, start: str, steps: int, sampler: str, seed: int
) -> np.ndarray:
    """Input, first estimate, result and truth of a held-out photograph at these settings."""
    name = WORDS[task]
    if (model := net(now, name)) is None:
        return missing(task)
    clean, degraded = pair(PHOTO, now["side"], name, strength)
    shown = {"input": degraded, "first estimate": estimate(model, degraded, name)}
    result = restored(model, degraded, name, steps, SAMPLERS[sampler], seed, start=STARTS[start])
    return captioned(scored({**shown, f"restored, {steps} steps": result, "truth": clean}, clean), 2)


def tiles_view(now: Lesson, where: str, size: int, margin: int, task: str, seed: int) -> np.ndarray:
    """One photograph split inside or outside the step, beside the result in one piece."""
    name, tiles = WORDS[task], Tiles(size, margin)  # refuses a margin that leaves nothing of the tile
    if (model := net(now, name)) is None:
        return missing(task)
    clean, degraded = pair(SECOND, now["side"], name, 0.6)
    way = {"tiles" if where == "inside the step" else "outside": tiles}
    whole, split = (restored(model, degraded, name, 8, "ancestral", seed, **ways) for ways in ({}, way))
    seam = ((split - whole).abs() * 4 - 1).clamp(-1, 1)
    shown = {"in one piece": whole, f"split {where}": split, "difference × 4": seam, "truth": clean}
    return captioned(scored(shown, clean), 2)


def own_photo(
    now: Lesson, photo: UploadedFile | None, task: str, strength: float, spoil: bool, start: str, steps: int, seed: int
) -> np.ndarray:
    """A reader's photograph (or one of ours), degraded first where asked for, and restored."""
    name = WORDS[task]
    if (model := net(now, name)) is None:
        return missing(task)
    ours = pack.load(pack.picture(SECOND))
    image, words = photos.photograph(photo, now["side"], ours, "a held-out photograph")
    given = spoiled(image[None], name, strength, stream(seed, "own")) if spoil else image[None]
    result = restored(model, to_model(given), name, steps, "ancestral", seed, start=STARTS[start])
    return captioned({words: given[0], f"restored, {steps} steps": to_unit(result)[0]}, 2)


def missing(task: str) -> np.ndarray:
    """In place of a result, a sentence that says which network is not here."""
    return plaque(f"no weights for {task} here: repro train {pipeline.SHIPPED.format(task=WORDS[task])} makes them")


def credits() -> str:
    """Who took the photographs shown."""
    chosen = [pack.picture(name) for name in (PHOTO, SECOND)]
    return "photographs: " + "; ".join(f"{p.id.split('/')[-1]} by {p.author} ({p.licence})" for p in chosen)


# --- exercises ------------------------------------------------------------------------------------------------------

_GIVEN = (*exercises.tensors(2), 0.64)
_BASES = exercises.tensors(1, ())[0], exercises.tensors(1, (3, 3))[0]  # M (N,), W (N, k, k)
_TILES = len(Tiles(128, 16).along(384)) * len(Tiles(128, 16).along(256))


def _noisy(r: Tensor, eps: Tensor, gamma: float) -> Tensor:
    return gamma**0.5 * r + (1 - gamma) ** 0.5 * eps


def _clean(noisy: Tensor, eps: Tensor, gamma: float) -> Tensor:
    return (noisy - (1 - gamma) ** 0.5 * eps) / gamma**0.5


def _fused(M: Tensor, W: Tensor) -> Tensor:
    return (M[:, None, None] * W).sum(dim=0)


EXERCISES: dict[str, exercises.Exercise] = {
    "noisy": ("the noisy residual at level gamma", lambda: like(_noisy, _GIVEN), "two roots, squares add up to one"),
    "clean": ("the residual from the predicted noise", lambda: like(_clean, _GIVEN), "solve the first exercise for r"),
    "fused": ("the kernel of one position", lambda: like(_fused, _BASES), "Eq. 2: a sum over the bases, weighted"),
    "cost": ("how much N bases cost against one full convolution", near(1.0), "N groups: each costs 1/N"),
    "budget": ("the sum of the betas of both published schedules", near(10.0, 0.3), "T times the mean beta"),
    "tiles": ("how many tiles of 128 with margin 16 cover 384 × 256", near(_TILES), "a new tile every 96 pixels"),
}


def check(name: str, answer: Any) -> None:
    """Say whether `answer` holds; None means that the reader has not answered yet."""
    exercises.check(name, answer, EXERCISES)
