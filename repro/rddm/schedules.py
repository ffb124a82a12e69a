"""Two tables of coefficients: alpha_t for the residual and beta_t^2 for the noise, both float64, both additive.

u_t = sum of alpha_i up to t and s_t = sqrt(sum of beta_i^2 up to t): sums, not the products of DDPM (report Eq. 7,
whose printed sum runs to n instead of t; it writes alpha bar and beta bar). Index 0 is the report's t = 1.

The released code holds two versions of its families. This is the one of its restoration experiments, in which no
coefficient is zero; the other begins with 0, so that s is 0 at index 0 and "noise from residual" divides by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from repro.ddpm.schedules import Schedule, Tables, by_name, count, table
from repro.errors import ReproError, one_of

_EXACT = 1e-9  # how far a float64 sum of some thousand numbers may stray


class RDDMSchedule(Tables):
    """Coefficients of both diffusions; tables are float64 on the CPU, shape (T,), not to be changed.

    Args:
        name: what images and records call it.
        alpha: (T,) shares of the residual, at least 0. They sum to one (report, below Eq. 7), or to less: schedules
            converted from DDPM never quite reach the degraded image.
        beta2: (T,) variances of the noise, at least 0, above 0 at t = 0.
    """

    def __init__(self, name: str, alpha: Tensor, beta2: Tensor) -> None:
        alpha, beta2 = table(alpha, "alpha"), table(beta2, "beta2")
        for which, values in (("alpha", alpha), ("beta2", beta2)):
            wrong = ~((values >= 0) & values.isfinite())  # true for NaN too
            if wrong.any():
                at = int(wrong.nonzero()[0])
                raise ReproError(f"{which} must be at least 0: got {values[at].item():g} at t={at} of {name!r}")
        if len(alpha) != len(beta2):
            raise ReproError(f"alpha and beta2 must be equally long: got {len(alpha)} and {len(beta2)}")
        if not 0 < (total := float(alpha.sum())) <= 1 + _EXACT:
            raise ReproError(f"alpha of {name!r} must sum to more than 0 and at most 1: got {total:.10g}")
        if beta2[0] == 0:
            raise ReproError(f"beta2 of {name!r} is 0 at t=0, where noise and residual could not be told apart")
        self.name, self.T, self.alpha, self.beta2 = name, len(alpha), alpha, beta2
        # the share of the residual in x_t, Eq. 7; the last is exactly 1 where the shares sum to one
        sums = torch.cumsum(alpha, dim=0)
        self.u = sums / sums[-1] if abs(total - 1) <= _EXACT else sums
        # the variance of x_t given x0 (the report prints beta_t^2 there), and the standard deviation of its noise
        self.s2 = torch.cumsum(beta2, dim=0)
        self.s = self.s2.sqrt()
        # s_T^2, the variance of the noise that training ends with and sampling has to start from
        self.sum_scale = float(self.s2[-1])

    def at(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(u_t, s_t), each (B, 1, …, 1)."""
        return self.gather("u", t, like), self.gather("s", t, like)

    def levels(self, t: int) -> tuple[float, float]:
        """(u_t, s_t) as numbers; t = -1 is the clean image, (0, 0)."""
        if not -1 <= t < self.T:
            raise ReproError(f"timesteps must lie in -1..{self.T - 1}: got {t}")
        return (0.0, 0.0) if t < 0 else (float(self.u[t]), float(self.s[t]))

    @classmethod
    def from_ddpm(cls, schedule: Schedule) -> RDDMSchedule:
        """u = 1 - sqrt(alpha_bar), s^2 = 1 - alpha_bar: with y = 0 the forward processes are one.

        Two properties to know before using it for restoration (the released code's "convert_to_ddim"): u_T stays short
        of one (0.993647 for DDPM's linear betas), so x_T keeps 0.6% of x0; and s_T^2 is the DDPM's, near one, whatever
        sum_scale a configuration names. Code that starts from sqrt(sum_scale) all the same starts with other noise
        than it trained with; `process.start` reads the schedule.
        """
        alpha = torch.cat([torch.ones(1, dtype=torch.float64), schedule.a[:-1]]) - schedule.a
        beta2 = torch.diff(1 - schedule.alpha_bar, prepend=torch.zeros(1, dtype=torch.float64))
        return cls(f"DDPM {schedule.name}", alpha, beta2)

    def readjust(self, alpha: str | None = None, beta2: str | None = None) -> RDDMSchedule:
        """Another family for one diffusion at test time, the other one kept, with its sum_scale.

        The network is still given t, which belongs to the coefficients it was trained with.
        """
        first = self.alpha if alpha is None else family_of(alpha, self.T)
        second = self.beta2 if beta2 is None else self.sum_scale * family_of(beta2, self.T)
        return RDDMSchedule(f"{self.name}, readjusted", first, second)


# t = 1..T as (T,) float64 -> shares, not yet summing to one. "level" is for beta^2: the noise level s_t grows evenly.
FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "decreased": lambda t: t.flip(0) / len(t),
    "increased": lambda t: t / len(t),
    "average": torch.ones_like,
    "level": lambda t: 2 * t - 1,
}


def family_of(name: str, T: int) -> Tensor:
    """(T,) float64 shares that sum to one, none of them zero."""
    t = torch.arange(1, count(T) + 1, dtype=torch.float64)
    shares = FAMILIES[one_of("schedule family", name, FAMILIES)](t)
    return shares / shares.sum()


def by_config(
    T: int = 1000,
    alpha: str = "decreased",
    beta2: str = "increased",
    *,
    sum_scale: float = 1.0,
    ddpm: Mapping[str, Any] | None = None,
) -> RDDMSchedule:
    """The schedule of these settings; the default is RDDM's for restoration and for its own trained generation.

    Args:
        T: steps.
        alpha, beta2: a family each, see `FAMILIES`.
        sum_scale: s_T^2, the variance of the noise at the end: 1, or 0.01 for shadow removal.
        ddpm: instead of all others, settings of `repro.ddpm.schedules.by_name`, e.g. {"name": "linear", "T": 1000}: the
            coefficients are converted from that schedule, which brings its own variance.
    """
    if not 0 < sum_scale < float("inf"):
        raise ReproError(f"sum_scale must be a variance above 0: got {sum_scale}")
    if ddpm:
        converted = RDDMSchedule.from_ddpm(by_name(**ddpm))
        if (T, alpha, beta2, sum_scale) != (converted.T, "decreased", "increased", 1.0):
            found = f"T={T}, alpha {alpha!r}, beta2 {beta2!r}, sum_scale {sum_scale}"
            raise ReproError(f"{converted.name} brings its T, families and variance: got {found}")
        return converted
    return RDDMSchedule(f"{alpha} alpha, {beta2} beta2", family_of(alpha, T), sum_scale * family_of(beta2, T))


def indi(T: int = 1000, sum_scale: float = 1.0) -> RDDMSchedule:
    """u_t = (t + 1) / T and s_t = sqrt(sum_scale) (t + 1) / T: SM-Res on it is InDI, with noise of that variance added
    to its input (Delbracio and Milanfar 2023, "Inversion by Direct Iteration")."""
    return by_config(T, "average", "level", sum_scale=sum_scale)
