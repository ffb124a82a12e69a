"""What notebook 04 does in each profile, its widgets as pure functions, and its exercises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data import pack
from repro.data.degradations import TASKS
from repro.data.images import center_crop, read_image, resize, to_model, to_unit
from repro.engine import exercises as shared
from repro.engine.checkpoint import trained
from repro.engine.registry import in_profile
from repro.engine.rng import KeyedNoise
from repro.engine.study import Lesson
from repro.metrics.pixel import psnr
from repro.ucdir import pipeline
from repro.ucdir.kernels import BASES
from repro.ucdir.model import UCDIR
from repro.ucdir.noise import TRAINING, linear_levels
from repro.ucdir.patches import Tiles
from repro.ucdir.study import measure
from repro.ui.controls import UploadedFile
from repro.ui.photos import captioned, plaque

PHOTO, SECOND = "photos/erase_kitten", "photos/monuments_brandenburgGate"  # held out from every training
LESSONS: Mapping[str, Lesson] = {
    "smoke": Lesson("ucdir", "04_ucdir", "smoke", 0.3, {"side": 64, "crop": 48, "steps": 3, "live": "smoke"}),
    "small": Lesson("ucdir", "04_ucdir", "small", 1.5, {"side": 192, "crop": 160, "steps": 20, "live": "small"}),
    "paper": Lesson("ucdir", "04_ucdir", "paper", 1.5, {"side": 192, "crop": 160, "steps": 20, "live": "small"}),
}
WORDS = {"low light": "lowlight", "motion blur": "deblur", "JPEG": "jpeg"}
STARTS = {"pure noise": 0.0, "middle": 0.5, "last levels": pipeline.START}
SAMPLERS = {"ancestral": "ancestral", "DDIM": "ddim", "DPM-Solver++": "dpm"}
# The setting behind a strength in [0, 1] of each task, as `repro.data.degradations` counts it.
SETTING: Mapping[str, Callable[[float], dict[str, float]]] = {
    "lowlight": lambda s: {"stops": 6 * s},
    "deblur": lambda s: {"length": 21 * s},
    "jpeg": lambda s: {"quality": max(1, min(100, round(100 - 100 * s)))},
}


def net(now: Lesson, name: str) -> UCDIR | None:
    """The network for use of a task, or the one of a small-profile name, in the profile whose networks run live; None
    where it is not here."""
    own = in_profile(pipeline.SHIPPED.format(task=name) if name in SETTING else name, now["live"])
    return measure.network(own) if trained(own) else None


@lru_cache(maxsize=8)
def photograph(name: str, side: int) -> Tensor:
    """(3, H, W) in [0, 1], the shorter side resized to `side`."""
    return resize(pack.load(next(p for p in pack.photos() if p.id == name)), side)


@lru_cache(maxsize=16)
def pair(name: str, side: int, task: str, strength: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(clean, degraded) of a held-out photograph, each (1, 3, H, W) in [-1, 1]."""
    clean = photograph(name, side)[None]
    noises = lambda purpose: KeyedNoise(seed, [name], purpose)  # noqa: E731
    return to_model(clean), to_model(TASKS[task].degrade(clean, noises, **SETTING[task](strength))[0])


@torch.no_grad()
def estimate(model: UCDIR, degraded: Tensor, task: str) -> Tensor:
    """The first estimate of (1, 3, H, W) images in [-1, 1]."""
    return model.predictor(degraded, task=measure.scalars(model, task).get("task")).clamp(-1, 1)


def stream(seed: int) -> Callable[[str], KeyedNoise]:
    """purpose -> the random numbers of one sample."""
    return lambda purpose: KeyedNoise(seed, ["open"], purpose)


def restored(model: UCDIR, degraded: Tensor, task: str, steps: int, sampler: str, seed: int, **settings: Any) -> Tensor:
    """(1, 3, H, W) in [-1, 1], as the widgets and galleries draw it; the network does not know the strength."""
    noise = KeyedNoise(seed, ["play"], "sample")
    return pipeline.restore(
        model, degraded, noise, steps=steps, sampler=sampler, **measure.scalars(model, task), **settings
    )


def results(now: Lesson, name: str, task: str, strength: float, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Input and results of the networks that are here for a held-out photograph, and the truth."""
    truth, x = pair(name, now["side"], task, strength)
    shown = {"input": x}
    if (model := net(now, f"ucdir-{task}-regression-s0")) is not None:
        shown["regression"] = pipeline.regress(model, x, **measure.scalars(model, task))
    if (model := net(now, task)) is not None:
        shown["first estimate"] = estimate(model, x, task)
        shown["ours"] = restored(model, x, task, now["steps"], pipeline.SAMPLER, seed)
        shown["last levels"] = restored(model, x, task, pipeline.STEPS, pipeline.SAMPLER, seed, start=pipeline.START)
    return shown, truth


def restore_view(
    now: Lesson, task: str, strength: float, start: str, steps: int, sampler: str, seed: int
) -> np.ndarray:
    """Input, first estimate, result and truth of a held-out photograph at these settings; uint8 (H, W, 3)."""
    model = net(now, WORDS[task])
    if model is None:
        return missing(task)
    clean, degraded = pair(PHOTO, now["side"], WORDS[task], strength)
    initial = estimate(model, degraded, WORDS[task])
    result = restored(model, degraded, WORDS[task], steps, SAMPLERS[sampler], seed, start=STARTS[start])
    shown = {"input": degraded, "first estimate": initial, f"restored, {steps} steps": result, "truth": clean}
    return labelled(shown, clean)


def tiles_view(now: Lesson, where: str, size: int, margin: int, task: str, seed: int) -> np.ndarray:
    """One photograph split inside or outside the step, beside the result in one piece; uint8 (H, W, 3)."""
    model = net(now, WORDS[task])
    if model is None:
        return missing(task)
    tiles = Tiles(size, margin)  # refuses a margin that leaves nothing of the tile
    clean, degraded = pair(SECOND, now["side"], WORDS[task], 0.6)
    run = lambda **split: restored(model, degraded, WORDS[task], 8, "ancestral", seed, **split)  # noqa: E731
    whole, split = run(), run(**{"tiles" if where == "inside the step" else "outside": tiles})
    seam = ((split - whole).abs() * 4 - 1).clamp(-1, 1)
    return labelled({"in one piece": whole, f"split {where}": split, "difference × 4": seam, "truth": clean}, clean)


def own_photo(
    now: Lesson,
    photo: UploadedFile | None,
    task: str,
    strength: float,
    degrade: bool,
    start: str,
    steps: int,
    seed: int,
) -> np.ndarray:
    """A reader's photograph (or one of ours), degraded first where asked for, and restored; uint8 (H, W, 3)."""
    model = net(now, WORDS[task])
    if model is None:
        return missing(task)
    if photo is None:
        image, words = photograph(SECOND, now["side"]), "a held-out photograph"
    else:
        image = read_image(photo.content, min_side=16, name=photo.name)
        words = f"{photo.name}, {image.shape[2]} × {image.shape[1]}"
        most = 2 * min(image.shape[1:])
        image = resize(image[:, :most, :most], now["side"])
    given = image[None]
    if degrade:
        noises = lambda purpose: KeyedNoise(seed, ["own"], purpose)  # noqa: E731
        given = TASKS[WORDS[task]].degrade(given, noises, **SETTING[WORDS[task]](strength))[0]
    result = restored(model, to_model(given), WORDS[task], steps, "ancestral", seed, start=STARTS[start])
    return captioned({words: given[0], f"restored, {steps} steps": to_unit(result)[0]}, 2)


def labelled(shown: Mapping[str, Tensor], clean: Tensor) -> np.ndarray:
    """Images (1, 3, H, W) in [-1, 1] in two columns under their names, with the PSNR of what is a result."""
    named = {}
    for words, image in shown.items():
        plain = words == "truth" or "difference" in words
        named[words if plain else f"{words}: {psnr(to_unit(image), to_unit(clean)).item():.1f} dB"] = to_unit(image)[0]
    return captioned(named, 2)


def missing(task: str) -> np.ndarray:
    """In place of a result, a sentence that says which network is not here."""
    return plaque(f"no weights for {task} here: repro train {pipeline.SHIPPED.format(task=WORDS[task])} makes them")


def credits() -> str:
    """Who took the photographs shown."""
    chosen = [p for p in pack.photos() if p.id in (PHOTO, SECOND)]
    return "photographs: " + "; ".join(f"{p.id.split('/')[-1]} by {p.author} ({p.licence})" for p in chosen)


# --- exercises ------------------------------------------------------------------------------------------------------


def _same(answer: Any, wanted: Any) -> bool:
    return torch.allclose(
        torch.as_tensor(answer, dtype=torch.float64), torch.as_tensor(wanted, dtype=torch.float64), atol=1e-6
    )


def _noisy() -> Callable[[Any], bool]:
    r, eps = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 2.0])
    return lambda answer: _same(answer(r, eps, 0.64), 0.8 * r + 0.6 * eps)


def _clean() -> Callable[[Any], bool]:
    noisy, eps = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 2.0])
    return lambda answer: _same(answer(noisy, eps, 0.64), (noisy - 0.6 * eps) / 0.8)


def _fused() -> Callable[[Any], bool]:
    M, W = torch.arange(3.0) + 1, torch.arange(12.0).view(3, 2, 2)
    return lambda answer: _same(answer(M, W), (M[:, None, None] * W).sum(0))


EXERCISES: dict[str, shared.Exercise] = {
    "noisy": ("the noisy residual at level gamma", _noisy, "two roots whose squares add up to one"),
    "clean": ("the residual from the predicted noise", _clean, "solve the first exercise for r"),
    "fused": ("the kernel of one position", _fused, "Eq. 2: a sum over the bases, weighted"),
    "cost": (
        "how much N bases cost against one full convolution",
        lambda: lambda answer: abs(float(answer) - 1.0) < 1e-9,
        f"{BASES} grouped kernels with {BASES} groups: each costs 1/{BASES}",
    ),
    "budget": (
        "the sum of the betas of both published schedules",
        lambda: lambda answer: abs(float(answer) - 10.0) < 0.3,
        "T times the mean of first and last beta: 2000 × 0.01 / 2, and 50 × 0.4 / 2",
    ),
    "tiles": (
        "how many tiles of 128 with margin 16 cover 384 × 256",
        lambda: lambda answer: int(answer) == len(Tiles(128, 16).along(384)) * len(Tiles(128, 16).along(256)),
        "a new tile every 128 - 2 × 16 pixels, the last one flush with the border",
    ),
}


def check(name: str, answer: Any) -> None:
    """Say whether `answer` holds; None means that the reader has not answered yet."""
    shared.check(name, answer, EXERCISES)


__all__ = ["LESSONS", "TRAINING", "center_crop", "check", "linear_levels"]
