"""The coefficient transformation: with I_in = 0, RDDM and DDPM are one process in two notations.

abar = 1 - sqrt(alpha_bar), bbar = sqrt(1 - alpha_bar); backwards alpha_bar = (1 - abar)^2, where bbar^2 = 1 - (1 -
abar)^2 holds. With one trained noise network, deterministic RDDM and DDIM then draw the same images, exactly, as long
as nothing is clipped. With clipping, Eq. 12 is no DDIM, and each of the other two rules is another DDIM:

    reverse(rule="compose")   = diffusers' DDIMScheduler as it comes
    reverse(rule="rederive")  = the same with use_clipped_model_output=True
    reverse(rule="eq12")      = neither

With noise added they part even without clipping: eta = 1 is alpha_bar_s times DDPM's posterior variance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from repro.ddpm.process import Model, prediction_part
from repro.ddpm.schedules import Schedule
from repro.errors import ReproError
from repro.rddm.samplers import Step, reverse
from repro.rddm.schedules import RDDMSchedule


def matched(model: Model, trained: RDDMSchedule, other: RDDMSchedule) -> Model:
    """A generation network of schedule `trained` as one of `other`, without retraining.

    With I_in = 0 a state is (1 - abar_t) I_0 + bbar_t eps, and two states in which the shares have the same ratio are
    one state but for a factor. So the network is given the timestep of `trained` whose ratio is nearest, and the state
    at the size that it has there; its output, residual and noise, has no factor. Given `other`'s own timestep, it would
    get noise that it has never been trained with at that time.
    """
    for schedule in (trained, other):
        if schedule.noiseless:
            raise ReproError(f"schedule {schedule.name!r} has no noise: its states have no ratio of picture to noise")
    angle, wanted = (torch.atan2(s.bbar, 1 - s.abar) for s in (trained, other))
    right = torch.searchsorted(angle, wanted).clamp(1, trained.T - 1)  # angles grow with t
    nearest = torch.where(wanted - angle[right - 1] < angle[right] - wanted, right - 1, right)
    size, size_there = (torch.hypot(s.bbar, 1 - s.abar) for s in (other, trained))
    factor = size_there[nearest] / size

    def call(x: Tensor, t: Tensor) -> Tensor:
        scale = factor.to(x.device, x.dtype)[t].reshape(-1, *[1] * (x.ndim - 1))
        return model(scale * x, nearest.to(t.device)[t])

    return call


def ddpm_by_rddm(
    model: Model, x_T: Tensor, schedule: Schedule, steps: int | None = None, **settings: Any
) -> Iterator[Step]:
    """An ordinary DDPM that predicts noise, sampled by RDDM's rule without retraining.

    Args:
        model: (x, t) -> noise in x's shape; a variance head behind it is left unread.
        x_T: (B, C, H, W) N(0, I), as that DDPM starts.
        schedule: the DDPM's.
        settings: of `reverse`; the timesteps are "leading" by default, as diffusers' DDIM has them.
    """
    settings = {"spacing": "leading", **settings, "objective": "noise"}
    noise_of = lambda x, t: prediction_part(model(x, t), x)  # noqa: E731
    return reverse(noise_of, x_T, torch.zeros_like(x_T), RDDMSchedule.from_ddpm(schedule), steps, **settings)
