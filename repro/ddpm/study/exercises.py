"""Exercises of notebook 01: an answer is a number or a function, and `check` says whether it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from repro.ddpm import process, samplers
from repro.ddpm.schedules import linear
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

Judge = Callable[[Any], bool]
# (what it is about, maker of the judgement, what to think of when it fails)
Exercise = tuple[str, Callable[[], Judge], str]


def tensors(count: int, shape: tuple[int, ...] = (1, 4, 4), key: str = "exercise", batch: int = 3) -> list[Tensor]:
    """Numbers to try a reader's function on, (batch, *shape) float64 each."""
    noise = KeyedNoise(0, range(batch), key)
    return [noise.normal(shape, step=i).double() for i in range(count)]


def same(found: Any, wanted: Tensor) -> bool:
    """Whether an answer is this tensor, to rounding."""
    return torch.is_tensor(found) and found.shape == wanted.shape and torch.allclose(found.double(), wanted, atol=1e-6)


def like(right: Callable[..., Tensor], *cases: tuple) -> Judge:
    """Whether a reader's function gives what `right` gives in every case."""
    return lambda answer: all(same(answer(*case), right(*case)) for case in cases)


def _half() -> Judge:
    crossing = int((linear().alpha_bar < 0.5).nonzero()[0])
    return lambda answer: answer == crossing


def _estimate() -> Judge:
    right = lambda x_t, eps, a, s: process.to_x0(eps, x_t, a, s, "epsilon")  # noqa: E731
    return like(right, (*tensors(2), 0.6, 0.8), (*tensors(2), 0.8, 0.6))


def _ddim() -> Judge:
    (x_t, eps), ab = tensors(2), linear().alpha_bar
    wanted = next(samplers.ddim(lambda x, t: eps, x_t, linear(), timesteps=[700, 300], clip=False)).x
    return lambda answer: same(answer(x_t, eps, float(ab[700]), float(ab[300])), wanted)


def _gaussian() -> Judge:
    right = lambda x_t, a, s, sigma: s / (a * a * sigma * sigma + s * s) * x_t  # noqa: E731
    return like(right, (*tensors(1), 0.6, 0.8, 0.5), (*tensors(1), 0.8, 0.6, 2.0))


EXERCISES: dict[str, Exercise] = {
    "half": ("the first t with more noise than signal", _half, "compare alpha_bar with 1 - alpha_bar, not their roots"),
    "estimate": ("x0 from x_t and the noise", _estimate, "solve x_t = a x0 + s eps for x0"),
    "ddim": ("one DDIM step", _ddim, "go to x0 first, then noise it again with the same eps, to the other level"),
    "gaussian": ("the best noise predictor for N(0, sigma²)", _gaussian, "eps and x_t are jointly Gaussian: Cov / Var"),
    "calls": (
        "network calls of a refined inversion",
        lambda: lambda answer: math.isclose(answer, 50 * (1 + 3) + 50),
        "count the calls of one step of each direction",
    ),
}


def check(name: str, answer: Any, among: Mapping[str, Exercise] = EXERCISES) -> None:
    """Say whether `answer` holds; None means that the reader has not answered yet.

    `among`: the exercises of another room.
    """
    if name not in among:
        raise ReproError(f"no exercise {name!r}: there are {', '.join(among)}")
    about, make, hint = among[name]
    if answer is None:
        print(f"{name}: {about} — waiting for your answer")
        return
    try:
        right = bool(make()(answer))
    except Exception as error:  # whatever a reader's function raises is part of the answer
        print(f"{name}: not yet, your answer raised {type(error).__name__}: {error}")
        return
    print(f"{name}: right" if right else f"{name}: not yet. Hint: {hint}")
