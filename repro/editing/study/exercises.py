"""Exercises of notebook 02: an answer is a number, a list or a function, and `check` says whether it holds."""

import math
from functools import partial

import torch

from repro.ddpm.process import to_x0
from repro.ddpm.schedules import scaled_linear
from repro.editing.effects.grain import RADII, grain_variance
from repro.editing.effects.masks import cut_hole
from repro.editing.effects.sharpness import gaussian_3x3, unsharp_mask
from repro.editing.study.benchmark import COMBINATIONS
from repro.editing.vector import EditingVector
from repro.engine import exercises as shared
from repro.engine.exercises import Judge, like

_tensors = partial(shared.tensors, shape=(3, 6, 6), key="exercise/editing", batch=2)


def _hole() -> Judge:
    image = (noise := _tensors(1)[0]).sigmoid()
    return like(cut_hole, *((image, (noise[:, :1] > limit).double()) for limit in (-0.3, 0.8)))


def _sharpen() -> Judge:
    image = _tensors(1)[0].sigmoid()
    cases = [(image, gaussian_3x3(image), lam, mu) for lam, mu in ((2.0, 0.05), (1.0, 0.0), (3.0, 0.1))]
    return like(lambda image, _, lam, mu: unsharp_mask(image, lam, mu), *cases)


def _attend() -> Judge:
    """Attention with one token: its value, at every position."""
    queries, key, value = _tensors(3, shape=(5, 4))
    return like(lambda q, k, v: torch.softmax(q @ k.mT / 2, dim=-1) @ v, (queries, key[:, :1], value[:, :1]))


def _velocity() -> Judge:
    z_t, v = _tensors(2)
    return like(lambda z_t, v, a, s: to_x0(v, z_t, a, s, "v_prediction"), (z_t, v, 0.6, 0.8), (z_t, v, 0.8, 0.6))


def _vector() -> Judge:
    goal = EditingVector(blur=0.25, sharpen=(2.0, 0.05)).tensor().tolist()
    return lambda answer: len(answer) == 9 and all(math.isclose(a, answer[i], abs_tol=1e-5) for i, a in enumerate(goal))


def samples_needed(radius: float = RADII[0], u: float = 0.5) -> float:
    """Monte-Carlo samples at which their noise is as strong as the grain itself."""
    return u * (1 - u) / float(grain_variance(u, radius))


# name -> (what it is about, maker of the judgement, what to think of when it fails)
EXERCISES: dict[str, shared.Exercise] = {
    "vector": (
        "C of blur 0.25 with sharpening (2, 0.05)",
        _vector,
        "nine numbers: beta, sigma, lambda, mu, then the labels of blur, grain, colour, inpaint, sharpen",
    ),
    "hole": ("a black hole, 1 being hole", _hole, "the paper multiplies by M: M is 1 where the image is kept"),
    "sharpen": (
        "unsharp masking with a threshold",
        _sharpen,
        "below the threshold the original pixel stays; the result is clamped to [0, 1]",
    ),
    "attend": ("attention to one token", _attend, "what is the softmax of a single number? The queries do not matter"),
    "velocity": ("z_0 from the velocity", _velocity, "z_t = a z_0 + s eps and v = a eps - s z_0: eliminate eps"),
    "samples": (
        "samples a pixel for grain of radius 0.01",
        lambda: lambda answer: math.isclose(answer, samples_needed(), rel_tol=0.05),
        "set u (1 - u) / N equal to grain_variance(u, 0.01) at u = 1/2",
    ),
    "combinations": (
        "edits of two effects and more",
        lambda: lambda answer: answer == len(COMBINATIONS),
        "2 to the 5, less those with one effect or none",
    ),
    "left": (
        "how much of z_0 is left at the last timestep",
        lambda: lambda answer: math.isclose(answer, float(scaled_linear().alpha_bar[-1].sqrt()), abs_tol=5e-4),
        "alpha_bar is a square",
    ),
}


check = partial(shared.check, among=EXERCISES)  # says whether an answer holds; None: not answered yet
