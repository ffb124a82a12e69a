"""The coefficient transformation: with I_in = 0, RDDM and DDPM are one process in two notations.

abar = 1 - sqrt(alpha_bar), bbar = sqrt(1 - alpha_bar); backwards alpha_bar = (1 - abar)^2, where bbar^2 = 1 - (1 -
abar)^2 holds. With one trained noise network, deterministic RDDM and DDIM then draw the same pictures, exactly, as long
as nothing is clipped. With clipping, Eq. 12 is no DDIM, and each of the other two rules is another DDIM:

    reverse(rule="compose")   = diffusers' DDIMScheduler as it comes
    reverse(rule="rederive")  = the same with use_clipped_model_output=True
    reverse(rule="eq12")      = neither

With noise added they part even without clipping: eta = 1 is alpha_bar_s times DDPM's posterior variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from repro.ddpm.process import Model, prediction_part
from repro.ddpm.schedules import Schedule
from repro.ddpm.steps import Noise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.samplers import reverse
from repro.rddm.schedules import RDDMSchedule
from repro.rddm.steps import Clip, Rule, Spacing, Step


def to_rddm(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """(abar, bbar) of DDPM's alpha_bar in [0, 1], any shape."""
    if not ((alpha_bar >= 0) & (alpha_bar <= 1)).all():
        raise ReproError(f"alpha_bar must lie in [0, 1]: got {alpha_bar.min().item():g}..{alpha_bar.max().item():g}")
    return 1 - alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def matched(model: Model, trained: RDDMSchedule, other: RDDMSchedule) -> Model:
    """A generation network of schedule `trained` as one of `other`, without retraining.

    With I_in = 0 a state is (1 - abar_t) I_0 + bbar_t eps, and two states in which the shares have the same ratio are
    one state but for a factor. So the network is told the timestep of `trained` whose ratio is nearest, and shown the
    state at the size that it has there; its answers, residual and noise, have no factor. Told `other`'s own timestep,
    it would be shown noise that it has never seen at that time.
    """
    for schedule in (trained, other):
        if schedule.noiseless:
            raise ReproError(f"schedule {schedule.name!r} has no noise: its states have no ratio of picture to noise")
    angle, wanted = (torch.atan2(s.bbar, 1 - s.abar) for s in (trained, other))
    right = torch.searchsorted(angle, wanted).clamp(1, trained.T - 1)  # angles grow with t
    told = torch.where(wanted - angle[right - 1] < angle[right] - wanted, right - 1, right)
    size, size_there = (torch.hypot(s.bbar, 1 - s.abar) for s in (other, trained))
    factor = size_there[told] / size

    def call(x: Tensor, t: Tensor) -> Tensor:
        scale = factor.to(x.device, x.dtype)[t].reshape(-1, *[1] * (x.ndim - 1))
        return model(scale * x, told.to(t.device)[t])

    return call


def ddpm_by_rddm(
    model: Model,
    x_T: Tensor,
    schedule: Schedule,
    steps: int | None = None,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    variance: process.Variance = "sum",
    spacing: Spacing = "leading",
    offset: int = 0,
    timesteps: Sequence[int] | None = None,
    clip: Clip | None = None,
    rule: Rule = "eq12",
) -> Iterator[Step]:
    """An ordinary DDPM that predicts noise, sampled by RDDM's rule without retraining; arguments as in `reverse`.

    Args:
        model: (x, t) -> noise in x's shape; a variance head behind it is left unread.
        x_T: (B, C, H, W) N(0, I), as that DDPM starts.
        schedule: the DDPM's.
        spacing: "leading" by default, as diffusers' DDIM.
    """
    return reverse(
        lambda x, t: prediction_part(model(x, t), x),
        x_T,
        torch.zeros_like(x_T),
        RDDMSchedule.from_ddpm(schedule),
        steps,
        objective="noise",
        eta=eta,
        noise=noise,
        variance=variance,
        spacing=spacing,
        offset=offset,
        timesteps=timesteps,
        clip=clip,
        rule=rule,
    )
