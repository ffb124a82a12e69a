"""What the RDDM samplers share: the times they visit, how a network's answer is read and clipped, how a step is made.

The diffusers scheduler makes its steps from the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from repro.ddpm import steps as ddpm_steps
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.objectives import Objective, objective_of
from repro.rddm.process import Estimate
from repro.rddm.schedules import RDDMSchedule

Spacing = Literal["rddm", "leading", "trailing", "linspace"]
Rule = Literal["eq12", "compose", "rederive", "posterior"]
RULES: tuple[Rule, ...] = ("eq12", "compose", "rederive", "posterior")
AtEnd = Literal["refuse", "published"]
PUBLISHED_DIVISOR = 1e-6  # what the released code writes where 1 - abar_T is 0


@dataclass(slots=True)
class Step:
    """One step of a sampler, from I_t at timestep t to `x` at timestep t_prev (-1: the finished picture)."""

    i: int  # 0, 1, …: which step of this run
    t: int  # what the network was told
    t_prev: int  # where x belongs; -1 is the clean picture
    x_t: Tensor  # (B, C, H, W) state before the step, I_t
    x: Tensor  # (B, C, H, W) state after the step
    x0: Tensor  # (B, C, H, W) the clean picture I_0 as the step used it: after clipping
    res: Tensor  # (B, C, H, W) the residual as the step used it
    eps: Tensor  # (B, C, H, W) the noise as the step used it
    mean: Tensor  # (B, C, H, W) of the distribution that x was drawn from
    variance: float  # of the same
    output: Tensor  # what the network said about x_t
    abar: float  # share of the residual in x_t
    bbar: float  # standard deviation of the noise in x_t


@dataclass(frozen=True)
class Clip:
    """What predictions are cut to.

    Args:
        picture: the clean picture to [-1, 1].
        residual: the residual to [-residual, residual]; None leaves it. Between pictures in [-1, 1] it spans ±2, so
            the ±1 of the released code cuts off strong restorations: white from black is a residual of -2.
    """

    picture: bool = True
    residual: float | None = 2.0

    def __post_init__(self) -> None:
        if self.residual is not None and not self.residual > 0:
            raise ReproError(
                f"the residual is cut to a range above 0 (1 published, 2 exact, None off): got {self.residual}"
            )

    def I_0(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1) if self.picture else x

    def I_res(self, x: Tensor) -> Tensor:
        return x if self.residual is None else x.clamp(-self.residual, self.residual)


NO_CLIP = Clip(False, None)
PUBLISHED_CLIP = Clip(True, 1.0)


# -- times ------------------------------------------------------------------------------------------------------------


def times(T: int, steps: int, spacing: Spacing = "rddm", offset: int = 0, start: int | None = None) -> list[int]:
    """Descending timesteps: "rddm" is int(linspace(-1, T - 1, steps + 1)) without the -1, others as in `repro.ddpm`.

    `start` puts another timestep in the place of T - 1 ("rddm" only): SM-N has to start before abar reaches 1.
    """
    if start is not None and (spacing != "rddm" or not 0 <= start < T):
        raise ReproError(f"start must lie in 0..{T - 1}, with 'rddm' spacing: got start {start} and {spacing!r}")
    if spacing != "rddm":
        if spacing not in ("leading", "trailing", "linspace"):
            raise ReproError(f"timestep spacing {spacing!r} is unknown: choose rddm, leading, trailing or linspace")
        return ddpm_steps.spaced(T, steps, spacing, offset)
    if offset:
        raise ReproError(f"steps offset belongs to 'leading' spacing: got {offset} with {spacing!r}")
    end = T if start is None else start + 1
    if not 1 <= steps <= end:
        raise ReproError(f"number of sampling steps must lie in 1..{end} for a schedule of {end}: got {steps}")
    return [k * end // steps - 1 for k in range(steps, 0, -1)]  # in whole numbers: a float linspace may fall below one


def choose(
    schedule: RDDMSchedule,
    steps: int | None,
    spacing: Spacing,
    offset: int,
    start: int | None,
    timesteps: Sequence[int] | None,
) -> list[int]:
    """The descending timesteps of a run: given ones, or `steps` spaced ones, or all."""
    if timesteps is None:
        end = schedule.T if start is None else start + 1
        return times(schedule.T, end if steps is None else steps, spacing, offset, start)
    if steps is not None or start is not None:
        raise ReproError(
            f"give either steps and start or timesteps: got {steps}, {start} and {len(timesteps)} timesteps"
        )
    ts = [int(t) for t in timesteps]
    if not ts or ts[0] >= schedule.T or ts[-1] < 0 or any(b >= a for a, b in pairwise(ts)):
        raise ReproError(
            f"timesteps must fall from at most {schedule.T - 1} to at least 0, without repetition: got {ts}"
        )
    return ts


# -- one step ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Move:
    """The numbers of one step from t to s; made once per run, in float64."""

    t: int
    s: int
    abar: float
    bbar: float
    abar_s: float
    keep: float  # sqrt(bbar_s^2 - sigma^2)
    variance: float

    @classmethod
    def between(cls, schedule: RDDMSchedule, t: int, s: int, eta: float, variance: process.Variance = "sum") -> Move:
        (abar, bbar), (abar_s, bbar_s) = schedule.levels(t), schedule.levels(s)
        sigma2 = process.sigma2(schedule, t, s, eta, variance)
        return cls(t, s, abar, bbar, abar_s, max(bbar_s**2 - sigma2, 0.0) ** 0.5, sigma2)


def check_reading(
    schedule: RDDMSchedule, ts: Sequence[int], objective: Objective, clip: Clip, rule: Rule, at_end: AtEnd
) -> None:
    """Refuse what a network for `objective` cannot answer at these timesteps."""
    if rule not in RULES:
        raise ReproError(f"step rule {rule!r} is unknown: choose one of {', '.join(RULES)}")
    if at_end not in ("refuse", "published"):
        raise ReproError(f"at_end {at_end!r} is unknown: choose refuse or published")
    if objective_of(objective) != "noise":
        return
    if schedule.noiseless:
        raise ReproError(f"SM-N finds the picture by its noise: schedule {schedule.name!r} has none (sum_scale 0)")
    ended = [t for t in ts if schedule.abar[t] == 1]
    if ended and at_end == "refuse":
        raise ReproError(
            f"SM-N cannot read its network at t={ended[0]}, where 1 - abar_t is 0 and the noise says nothing about the "
            f"picture: start earlier (start={schedule.T - 2}, say), or at_end='published' for the released code's "
            f"division by {PUBLISHED_DIVISOR:g}"
        )
    if ended and not clip.picture:
        raise ReproError("at_end='published' divides by 1e-6 and needs the picture clipped: got no clipping")


def read(
    res: Tensor | None, noise: Tensor | None, x: Tensor, I_in: Tensor, move: Move, clip: Clip, rule: Rule
) -> Estimate:
    """What the network's residual and noise (None: not predicted) say about I_t = x, clipped for the rule.

    "eq12" clips as the released code does: predictions are cut one by one, and need not add up to I_t any more.
    "compose" and "rederive" tie the residual to the cut picture, I_res = I_in - I_0, where one follows from the other;
    "compose" leaves the noise as predicted, "rederive" makes it again from Eq. 7, so that all three add up to I_t.
    """
    abar, bbar, printed = move.abar, move.bbar, rule in ("eq12", "posterior")
    if noise is None:  # SM-Res
        raw, res = res, clip.I_res(res)
        eps = _noise(x, I_in, raw if rule == "compose" else res, abar, bbar)
        I_0 = clip.I_0(I_in - res)
        if not printed:
            res = I_in - I_0
    elif res is None:  # SM-N
        eps = noise
        I_0 = torch.sub(x, I_in, alpha=abar).sub_(eps, alpha=bbar).div_(1 - abar or PUBLISHED_DIVISOR)
        I_0 = clip.I_0(I_0)
        res = clip.I_res(I_in - I_0)
        if not printed:
            I_0 = I_in - res
    else:  # SM-Res-N
        eps, res = noise, clip.I_res(res)
        I_0 = clip.I_0(torch.sub(x, res, alpha=abar).sub_(eps, alpha=bbar))
    if rule == "rederive":
        eps = torch.sub(x, I_0).sub_(res, alpha=abar)
        eps = eps.div_(bbar) if bbar else eps.zero_()
    return Estimate(I_0, res, eps)


def _noise(x: Tensor, I_in: Tensor, res: Tensor, abar: float, bbar: float) -> Tensor:
    """`process.eps_from_residual`; a schedule without noise has none to find.

    There Eq. 13 moves by the predicted residual alone. That is not the limit of little noise, in which whatever the
    prediction leaves unexplained counts as noise and shrinks along with it.
    """
    eps = torch.sub(x, I_in).add_(res, alpha=1 - abar)
    return eps.div_(bbar) if bbar else eps.zero_()


def advance(x: Tensor, found: Estimate, move: Move, rule: Rule) -> Tensor:
    """Mean of I_s. "eq12": from I_t, as printed, except that the last step returns I_0, as the released code does; the
    "posterior": as the released code does where every step is taken, the mean of the exact posterior, (bbar_s^2 I_t +
    (b^2 abar_s - bbar_s^2 a) I_res + b^2 I_0) / bbar_t^2 with a = abar_t - abar_s and b^2 = bbar_t^2 - bbar_s^2; the
    other rules: from I_0, as Eq. 11 has it. Without clipping they agree."""
    if move.s < 0:
        return found.I_0
    if rule == "posterior":
        after, before = move.keep**2 + move.variance, move.bbar**2
        mean = torch.mul(x, after / before).add_(found.I_0, alpha=(before - after) / before)
        share = (before - after) * move.abar_s - after * (move.abar - move.abar_s)
        return mean.add_(found.I_res, alpha=share / before)
    if rule == "eq12":
        mean = torch.sub(x, found.I_res, alpha=move.abar - move.abar_s)
        return mean.sub_(found.eps, alpha=move.bbar - move.keep)
    return torch.add(found.I_0, found.I_res, alpha=move.abar_s).add_(found.eps, alpha=move.keep)
