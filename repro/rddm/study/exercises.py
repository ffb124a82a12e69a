"""Exercises of notebook 03: an answer is a number or a function, and `check` says whether it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from repro.ddpm.schedules import linear
from repro.ddpm.study import exercises as shared
from repro.engine.rng import KeyedNoise
from repro.rddm import process, samplers, transform
from repro.rddm.schedules import RDDMSchedule, by_config
from repro.rddm.steps import NO_CLIP
from repro.rddm.study import probes
from repro.rddm.study.oracles import indi_step

Judge = Callable[[Any], bool]


def _tensors(count: int) -> list[Tensor]:
    noise = KeyedNoise(0, range(2), "exercise/rddm")
    return [noise.normal((3, 4, 4), step=i).double() for i in range(count)]


def _same(found: Any, wanted: Tensor) -> bool:
    return torch.is_tensor(found) and found.shape == wanted.shape and torch.allclose(found.double(), wanted, atol=1e-6)


def _half() -> Judge:
    first = probes.first_over(by_config(), 0.5)
    return lambda answer: answer == first


def _noise() -> Judge:
    I_t, I_in, I_res = _tensors(3)
    cases = ((0.75, 0.5), (0.36, 0.2))  # abar, bbar
    return lambda answer: all(
        _same(answer(I_t, I_in, I_res, abar, bbar), process.eps_from_residual(I_t, I_in, I_res, abar, bbar))
        for abar, bbar in cases
    )


def _step() -> Judge:
    I_t, I_in, I_res, eps = _tensors(4)
    schedule = by_config()
    both = torch.cat([I_res, eps], dim=1)
    run = samplers.reverse(
        lambda x, t: both, I_t, I_in, schedule, timesteps=[700, 300], objective="res_noise", clip=NO_CLIP
    )
    wanted, (abar, bbar), (abar_s, bbar_s) = next(run).x, schedule.levels(700), schedule.levels(300)
    return lambda answer: _same(answer(I_t, I_res, eps, abar, bbar, abar_s, bbar_s), wanted)


def _indi() -> Judge:
    (x,) = _tensors(1)
    clean, (t, s) = torch.zeros_like(x), (0.8, 0.6)
    # what a step leaves of the state: the rest is the predicted clean picture's share
    keeps = float((indi_step(x, clean, t, s) / x).mean())
    return lambda answer: abs(answer(t, s) - keeps) < 1e-9


def _translate() -> Judge:
    alpha_bar = linear().alpha_bar[[0, 400, 999]]
    wanted = transform.to_rddm(alpha_bar)

    def right(answer: Any) -> bool:
        found = answer(alpha_bar)
        return len(found) == 2 and all(_same(mine, theirs) for mine, theirs in zip(found, wanted, strict=True))

    return right


def _ends() -> Judge:
    converted = RDDMSchedule.from_ddpm(linear())
    return lambda answer: abs(answer - (1 - float(converted.abar[-1]))) < 5e-4


# name -> (what it is about, maker of the judgement, what to think of when it fails)
EXERCISES: dict[str, shared.Exercise] = {
    "half": (
        "the first t with more than half of the residual",
        _half,
        "alpha is decreased: most of the residual comes early; look at schedule.abar",
    ),
    "noise": ("the noise from the residual", _noise, "solve I_t = I_in + (abar - 1) I_res + bbar eps for eps"),
    "step": ("one deterministic step", _step, "Eq. 13: take away the share of each that s holds less than t"),
    "indi": ("how much of the state InDI keeps", _indi, "of the way t to 0, the step goes t - s"),
    "translate": (
        "RDDM's coefficients of a DDPM",
        _translate,
        "with I_in = 0, I_res = -I_0: compare the factors of I_0",
    ),
    "ends": ("what a converted schedule leaves", _ends, "1 - abar at T is the square root of alpha_bar there"),
}


def check(name: str, answer: Any) -> None:
    """Say whether `answer` holds; None means that the reader has not answered yet."""
    shared.check(name, answer, EXERCISES)
