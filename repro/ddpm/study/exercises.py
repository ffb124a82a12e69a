"""Exercises of notebook 01 for `repro.engine.exercises`."""

from __future__ import annotations

import math
from functools import partial

from repro.ddpm import process, samplers
from repro.ddpm.schedules import linear
from repro.engine import exercises as shared
from repro.engine.exercises import Exercise, Judge, like, same, tensors


def _half() -> Judge:
    crossing = int((linear().alpha_bar < 0.5).nonzero()[0])
    return lambda answer: answer == crossing


def _estimate() -> Judge:
    right = lambda x_t, eps, a, s: process.to_x0(eps, x_t, a, s, "epsilon")  # noqa: E731
    return like(right, (*tensors(2), 0.6, 0.8), (*tensors(2), 0.8, 0.6))


def _ddim() -> Judge:
    (x_t, eps), ab = tensors(2), linear().alpha_bar
    wanted = next(samplers.ddim(lambda x, t: eps, x_t, linear(), [700, 300], clip=False)).x
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
check = partial(shared.check, among=EXERCISES)
