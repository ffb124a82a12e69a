"""The forward process, its posterior, and the way between residual, noise and clean picture.

Eq. 7: I_t = I_0 + abar_t I_res + bbar_t eps. Eq. 16, the same with I_0 = I_in - I_res put in: I_t = I_in +
(abar_t - 1) I_res + bbar_t eps. All of it is elementwise: any shape (B, …) works, and `abar`, `bbar` are numbers or
tensors that broadcast to it.

Restoration and generation are one path: generation has I_in = 0, so I_res = -I_0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.rddm.schedules import RDDMSchedule

Level = Tensor | float
Variance = Literal["sum", "preserving"]


# -- forward ----------------------------------------------------------------------------------------------------------


def residual(I_in: Tensor, I_0: Tensor) -> Tensor:
    """I_res = I_in - I_0: degraded minus clean, in every task."""
    return I_in - I_0


def q_sample(I_0: Tensor, I_res: Tensor, t: Tensor | int, eps: Tensor, schedule: RDDMSchedule) -> Tensor:
    """I_t in one jump (Eq. 7). t is (B,) or one number."""
    abar, bbar = schedule.at(t, I_0)
    return I_0 + abar * I_res + bbar * eps


def q_step(I_prev: Tensor, I_res: Tensor, t: Tensor | int, eps: Tensor, schedule: RDDMSchedule) -> Tensor:
    """One forward step from t - 1 to t (Eq. 6 and 9); t = 0 starts from I_0."""
    return I_prev + schedule.gather("alpha", t, I_prev) * I_res + schedule.gather("beta2", t, I_prev).sqrt() * eps


def start(
    I_in: Tensor, z: Tensor, schedule: RDDMSchedule, t: int | None = None, sum_scale: float | None = None
) -> Tensor:
    """Where sampling begins: I_in + bbar_t z, by default at T - 1 (the report explains I_T as "I_T + eps").

    At an earlier t the true state is (abar_t - 1) I_res away, which nobody knows yet: the start is then wrong by
    1 - abar_t of the residual. SM-N needs such a start, since at abar_T = 1 it cannot say anything.

    Args:
        I_in: (B, C, H, W) in [-1, 1]; zeros for generation.
        z: standard normals of the same shape.
        sum_scale: another variance than the schedule's bbar_t^2. Only to measure the mistake of a start whose noise
            was not trained for.
    """
    level = schedule.levels(schedule.T - 1 if t is None else t)[1] if sum_scale is None else sum_scale**0.5
    return torch.add(I_in, z, alpha=level)


# -- posterior --------------------------------------------------------------------------------------------------------


def sigma2(schedule: RDDMSchedule, t: int, s: int, eta: float = 1.0, kind: Variance = "sum") -> float:
    """Variance of the step from t to s: eta (bbar_t^2 - bbar_s^2) bbar_s^2 / bbar_t^2 (below Eq. 11).

    The difference is beta_t^2 for s = t - 1; a stride puts the sum of the skipped ones in its place. eta = 1 is the
    "sum-constrained variance": the exact posterior of this chain, and not DDPM's, of which it is alpha_bar_s times.

    `kind` "preserving" is DDIM's instead, for schedules that have a DDPM counterpart: there eta multiplies the
    standard deviation, and eta = 1 is DDPM's posterior variance (Song et al. 2021, Eq. 16).
    """
    if not -1 <= s < t < schedule.T:
        raise ReproError(f"a step goes from t down to s with -1 <= s < t <= {schedule.T - 1}: got t={t}, s={s}")
    if not 0 <= eta <= 1:
        raise ReproError(f"eta must lie in [0, 1]: got {eta}")
    if kind not in ("sum", "preserving"):
        raise ReproError(f"variance {kind!r} is unknown: choose sum or preserving")
    ab = schedule.alpha_bar if kind == "preserving" else None  # refuses a schedule without DDPM counterpart
    if s < 0 or schedule.noiseless:
        return 0.0
    if ab is not None:
        return eta**2 * float((1 - ab[s]) / (1 - ab[t]) * (1 - ab[t] / ab[s]))
    after, before = float(schedule.bbar2[s]), float(schedule.bbar2[t])
    return eta * (before - after) * after / before


def q_posterior(
    I_t: Tensor, I_0: Tensor, I_res: Tensor, t: int, s: int, schedule: RDDMSchedule, eta: float = 1.0
) -> tuple[Tensor, float]:
    """Mean (B, …) and variance of I_s given I_t, I_0 and I_res, for any s < t (Eq. 11, with stride)."""
    variance = sigma2(schedule, t, s, eta)
    (abar, bbar), (abar_s, bbar_s) = schedule.levels(t), schedule.levels(s)
    keep = max(bbar_s**2 - variance, 0.0) ** 0.5 / bbar if bbar else 0.0
    return I_0 + abar_s * I_res + keep * (I_t - I_0 - abar * I_res), variance


# -- conversions ------------------------------------------------------------------------------------------------------


def eps_from_residual(I_t: Tensor, I_in: Tensor, I_res: Tensor, abar: Level, bbar: Level) -> Tensor:
    """SM-Res (Eq. 16 solved for eps). Undefined where bbar = 0: such a state holds no noise."""
    return (I_t - I_in - (abar - 1) * I_res) / nonzero(bbar, "the noise from the residual", "bbar_t = 0")


def I0_from_noise(I_t: Tensor, I_in: Tensor, eps: Tensor, abar: Level, bbar: Level) -> Tensor:
    """SM-N (Eq. 16). Undefined where abar = 1, that is at the start: I_T = I_in + bbar_T eps says nothing of I_0."""
    return (I_t - abar * I_in - bbar * eps) / nonzero(1 - abar, "the clean picture from the noise", "1 - abar_t = 0")


def I0_from_both(I_t: Tensor, I_res: Tensor, eps: Tensor, abar: Level, bbar: Level) -> Tensor:
    """SM-Res-N (Eq. 7 solved for I_0); defined everywhere."""
    return I_t - abar * I_res - bbar * eps


def eps_from_I0(I_t: Tensor, I_in: Tensor, I_0: Tensor, abar: Level, bbar: Level) -> Tensor:
    """The noise that I_t holds if I_0 is the clean image (Eq. 7 solved for eps). Undefined where bbar = 0."""
    return (I_t - I_0 - abar * (I_in - I_0)) / nonzero(bbar, "the noise from image and residual", "bbar_t = 0")


def nonzero(level: Level, what: str, where: str) -> Level:
    """`level`, a divisor, unless it is 0 somewhere."""
    # On an accelerator a look at a tensor would stop the queue; there the samplers check their times beforehand.
    if isinstance(level, Tensor) and level.device.type != "cpu":
        return level
    if bool((level == 0).any() if isinstance(level, Tensor) else level == 0):
        raise ReproError(f"{what} is undefined at a timestep with {where}: choose another timestep or another strategy")
    return level


@dataclass(frozen=True)
class Estimate:
    """What is held to be true of a state I_t: without clipping, I_t = I_0 + abar_t I_res + bbar_t eps between them."""

    I_0: Tensor
    I_res: Tensor
    eps: Tensor
