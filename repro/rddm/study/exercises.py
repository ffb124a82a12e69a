"""Exercises of notebook 03 for `repro.engine.exercises`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from repro.ddpm.schedules import linear
from repro.engine import exercises as shared
from repro.engine.exercises import Exercise, Judge, like, same
from repro.rddm import samplers
from repro.rddm.schedules import RDDMSchedule, by_config
from repro.rddm.study.probes import first_over, indi_step

_tensors = partial(shared.tensors, shape=(3, 4, 4), key="exercise/rddm", batch=2)


def _half() -> Judge:
    first = first_over(by_config(), 0.5)
    return lambda answer: answer == first


def _noise() -> Judge:
    right = lambda I_t, I_in, I_res, abar, bbar: (I_t - I_in - (abar - 1) * I_res) / bbar  # noqa: E731
    return like(right, (*_tensors(3), 0.75, 0.5), (*_tensors(3), 0.36, 0.2))


def _step() -> Judge:
    I_t, I_in, I_res, eps = _tensors(4)
    schedule, both = by_config(), torch.cat([I_res, eps], dim=1)
    common = {"timesteps": [700, 300], "objective": "res_noise", "clip": samplers.NO_CLIP}
    wanted = next(samplers.reverse(lambda x, t: both, I_t, I_in, schedule, **common)).x
    return lambda answer: same(answer(I_t, I_res, eps, *schedule.levels(700), *schedule.levels(300)), wanted)


def _indi() -> Judge:
    (x,) = _tensors(1)
    # what a step leaves of the state: the rest is the predicted clean image's share
    keeps = float((indi_step(x, torch.zeros_like(x), 0.8, 0.6) / x).mean())
    return lambda answer: abs(answer(0.8, 0.6) - keeps) < 1e-9


def _translate() -> Judge:
    converted, some = RDDMSchedule.from_ddpm(linear()), [0, 400, 999]

    def right(answer: Any) -> bool:
        abar, bbar = answer(linear().alpha_bar[some])
        return same(abar, converted.abar[some]) and same(bbar, converted.bbar[some])

    return right


def _ends() -> Judge:
    converted = RDDMSchedule.from_ddpm(linear())
    return lambda answer: abs(answer - (1 - float(converted.abar[-1]))) < 5e-4


EXERCISES: dict[str, Exercise] = {
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
check = partial(shared.check, among=EXERCISES)
