"""Exercises of notebook 02: an answer is a number, a list or a function, and `check` says whether it holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from repro.ddpm.process import x0_from_v
from repro.ddpm.schedules import scaled_linear
from repro.ddpm.study import exercises as shared
from repro.editing.effects.grain import RADII
from repro.editing.effects.grain_law import grain_variance
from repro.editing.effects.masks import cut_hole
from repro.editing.effects.sharpen import gaussian_3x3, unsharp_mask
from repro.editing.study.benchmark import COMBINATIONS
from repro.editing.vector import EditingVector
from repro.engine.rng import KeyedNoise

Judge = Callable[[Any], bool]
ASKED = EditingVector(blur=0.25, sharpen=(2.0, 0.05))  # of "vector"


def _tensors(count: int, shape: tuple[int, ...] = (3, 6, 6)) -> list[Tensor]:
    noise = KeyedNoise(0, range(2), "exercise/editing")
    return [noise.normal(shape, step=i).double() for i in range(count)]


def _same(found: Any, wanted: Tensor) -> bool:
    return torch.is_tensor(found) and found.shape == wanted.shape and torch.allclose(found.double(), wanted, atol=1e-6)


def _vector() -> Judge:
    wanted = ASKED.tensor()

    def right(answer: Any) -> bool:
        return len(answer) == len(wanted) and torch.allclose(torch.tensor([float(v) for v in answer]), wanted)

    return right


def _hole() -> Judge:
    (noise,) = _tensors(1)
    image = noise.sigmoid()
    holes = [(noise[:, :1] > limit).double() for limit in (-0.3, 0.8)]
    return lambda answer: all(_same(answer(image, hole), cut_hole(image, hole, 0.0)) for hole in holes)


def _sharpen() -> Judge:
    (noise,) = _tensors(1)
    image = noise.sigmoid()
    cases = ((2.0, 0.05), (1.0, 0.0), (3.0, 0.1))  # lambda, mu
    return lambda answer: all(
        _same(answer(image, gaussian_3x3(image), amount, threshold), unsharp_mask(image, amount, threshold))
        for amount, threshold in cases
    )


def _attend() -> Judge:
    """Attention with one token: its value, at every position."""
    queries, key, value = _tensors(3, (5, 4))
    wanted = torch.softmax(queries @ key[:, :1].mT / 2, dim=-1) @ value[:, :1]  # (2, 5, 4)
    return lambda answer: _same(answer(queries, key[:, :1], value[:, :1]), wanted)


def _velocity() -> Judge:
    z_t, v = _tensors(2)
    cases = ((0.6, 0.8), (0.8, 0.6))  # a, s
    return lambda answer: all(_same(answer(z_t, v, a, s), x0_from_v(z_t, v, a, s)) for a, s in cases)


def samples_needed(radius: float = RADII[0], u: float = 0.5) -> float:
    """Monte-Carlo samples at which their noise is as strong as the grain itself."""
    return u * (1 - u) / float(grain_variance(u, radius))


def _samples() -> Judge:
    least = samples_needed()
    return lambda answer: math.isclose(answer, least, rel_tol=0.05)


def _combinations() -> Judge:
    return lambda answer: answer == len(COMBINATIONS)


def _left() -> Judge:
    left = float(scaled_linear().alpha_bar[-1].sqrt())
    return lambda answer: math.isclose(answer, left, abs_tol=5e-4)


# name -> (what it is about, maker of the judgement, what to think of when it fails)
EXERCISES: dict[str, shared.Exercise] = {
    "vector": (
        "C of blur 0.25 with sharpening (2, 0.05)",
        _vector,
        "nine numbers: beta, sigma, lambda, mu, then the labels of blur, grain, colour, inpaint, sharpen",
    ),
    "hole": ("a black hole, 1 being hole", _hole, "the paper multiplies by M: M is 1 where the picture is kept"),
    "sharpen": (
        "unsharp masking with a threshold",
        _sharpen,
        "below the threshold the original pixel stays; the result is clamped to [0, 1]",
    ),
    "attend": ("attention to one token", _attend, "what is the softmax of a single number? The queries do not matter"),
    "velocity": ("z_0 from the velocity", _velocity, "z_t = a z_0 + s eps and v = a eps - s z_0: eliminate eps"),
    "samples": (
        "samples a pixel for grain of radius 0.01",
        _samples,
        "set u (1 - u) / N equal to grain_variance(u, 0.01) at u = 1/2",
    ),
    "combinations": ("edits of two effects and more", _combinations, "2 to the 5, less those with one effect or none"),
    "left": ("how much of z_0 is left at the last timestep", _left, "alpha_bar is a square"),
}


def check(name: str, answer: Any) -> None:
    """Say whether `answer` holds; None means that the reader has not answered yet."""
    shared.check(name, answer, EXERCISES)
