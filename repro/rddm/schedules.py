"""Two tables of coefficients: alpha_t for the residual and beta_t^2 for the noise, both float64, both additive.

abar_t = sum of alpha_i up to t and bbar_t = sqrt(sum of beta_i^2 up to t): sums, not the products of DDPM (report
Eq. 7, whose printed sum runs to n instead of t). Index 0 is the report's t = 1.

The released code holds two versions of its families. This is the one of its restoration experiments, in which no
coefficient is zero; the other begins with 0, so that bbar is 0 at index 0 and "noise from residual" divides by zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from repro.ddpm import schedules as ddpm
from repro.errors import ReproError

FAMILIES = ("decreased", "increased", "average", "normal", "level")
_EXACT = 1e-9  # how far a float64 sum of some thousand numbers may stray


@dataclass(frozen=True, eq=False)
class RDDMSchedule(ddpm.Tables):
    """Coefficients of both diffusions; tables are float64 on the CPU, shape (T,).

    Args:
        name: what images and records call it.
        alpha: (T,) shares of the residual, at least 0, summing to one (report, below Eq. 7: abar_T = 1).
        beta2: (T,) variances of the noise, at least 0. Their sum is bbar_T^2, called `sum_scale` in the released code;
            all zero means a schedule without noise.
        partial: alpha may sum to less than one, as in schedules converted from DDPM, which never quite reach I_in.
        config: keyword arguments of `by_config` that make it again; empty for hand-made tables.
    """

    name: str
    alpha: Tensor
    beta2: Tensor
    partial: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for which in ("alpha", "beta2"):
            table = ddpm.table(getattr(self, which), which)
            wrong = ~((table >= 0) & table.isfinite())  # true for NaN too
            if wrong.any():
                at = int(wrong.nonzero()[0])
                raise ReproError(f"{which} must be at least 0: got {table[at].item():g} at t={at} of {self.name!r}")
            object.__setattr__(self, which, table)
        if len(self.alpha) != len(self.beta2):
            raise ReproError(f"alpha and beta2 must be equally long: got {len(self.alpha)} and {len(self.beta2)}")
        total = float(self.alpha.sum())
        if not (0 < total <= 1 + _EXACT if self.partial else abs(total - 1) <= _EXACT):
            allowed = "more than 0 and at most 1" if self.partial else "1 (partial=True allows less)"
            raise ReproError(f"alpha of schedule {self.name!r} sums to {total:.10g}: it must sum to {allowed}")
        if not self.noiseless and self.beta2[0] == 0:
            raise ReproError(
                f"beta2 of schedule {self.name!r} is 0 at t=0, where the noise could not be told from the residual: "
                f"every entry 0, or the first above 0"
            )

    @property
    def T(self) -> int:  # type: ignore[override]
        """Number of forward steps."""
        return len(self.alpha)

    @property
    def noiseless(self) -> bool:
        """Whether there is no noise at any step."""
        return bool((self.beta2 == 0).all())

    @property
    def sum_scale(self) -> float:
        """bbar_T^2, the variance of the noise that training ends with and sampling has to start from."""
        return float(self.bbar2[-1])

    @cached_property
    def abar(self) -> Tensor:
        """(T,) sums of alpha, Eq. 7; the last is exactly 1 unless `partial`."""
        sums = torch.cumsum(self.alpha, dim=0)
        return sums.clamp(max=1.0) if self.partial else sums / sums[-1]

    @cached_property
    def bbar2(self) -> Tensor:
        """(T,) sums of beta^2: the variance of I_t given I_0 (the report prints beta_t^2 there)."""
        return torch.cumsum(self.beta2, dim=0)

    @cached_property
    def bbar(self) -> Tensor:
        """(T,) standard deviation of the noise in I_t, Eq. 7."""
        return self.bbar2.sqrt()

    @cached_property
    def alpha_bar(self) -> Tensor:
        """(T,) DDPM's alpha_bar of the same images for I_in = 0: exists where signal and noise keep unit variance."""
        alpha_bar = (1 - self.abar) ** 2
        gap = (self.bbar2 - (1 - alpha_bar)).abs()
        if float(gap.max()) > _EXACT:
            at = int(gap.argmax())
            raise ReproError(
                f"schedule {self.name!r} has no DDPM counterpart, which needs bbar^2 = 1 - (1 - abar)^2: at t={at} "
                f"bbar^2 is {self.bbar2[at].item():g} and 1 - (1 - abar)^2 is {1 - alpha_bar[at].item():g}"
            )
        return alpha_bar

    def at(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(abar_t, bbar_t), each (B, 1, …, 1)."""
        return self.gather("abar", t, like), self.gather("bbar", t, like)

    def levels(self, t: int) -> tuple[float, float]:
        """(abar_t, bbar_t) as numbers; t = -1 is the clean image, (0, 0)."""
        if not -1 <= t < self.T:
            raise ReproError(f"timesteps must lie in -1..{self.T - 1}: got {t}")
        return (0.0, 0.0) if t < 0 else (float(self.abar[t]), float(self.bbar[t]))

    @classmethod
    def from_ddpm(cls, schedule: ddpm.Schedule) -> RDDMSchedule:
        """abar = 1 - sqrt(alpha_bar), bbar^2 = 1 - alpha_bar: with I_in = 0 the forward processes are one.

        Two properties to know before using it for restoration (the released code's "convert_to_ddim"): abar_T stays
        short of one (0.993647 for DDPM's linear betas), so I_T keeps 0.6% of I_0; and bbar_T^2 is the DDPM's, near one,
        whatever sum_scale a configuration names. Code that starts from sqrt(sum_scale) all the same starts with other
        noise than it trained with; `process.start` reads the schedule.
        """
        alpha = torch.cat([torch.ones(1, dtype=torch.float64), schedule.a[:-1]]) - schedule.a
        beta2 = torch.diff(1 - schedule.alpha_bar, prepend=torch.zeros(1, dtype=torch.float64))
        config = {"T": schedule.T, "alpha": "ddpm", "beta2": "ddpm", "ddpm": dict(schedule.config)}
        name, partial = f"DDPM {schedule.name}", not schedule.zero_terminal
        return cls(name, alpha, beta2, partial=partial, config=config if schedule.config else {})

    def readjust(self, alpha: str | None = None, beta2: str | None = None) -> RDDMSchedule:
        """Another family for one diffusion at test time, the other one kept, with its sum_scale.

        The network is still given t, which belongs to the coefficients it was trained with.
        """
        changed = {name: family for name, family in (("alpha", alpha), ("beta2", beta2)) if family is not None}
        if not changed:
            raise ReproError("readjust changes one diffusion: name a family for alpha or for beta2")
        first = self.alpha if alpha is None else family_of(alpha, self.T)
        second = self.beta2 if beta2 is None else self.sum_scale * family_of(beta2, self.T)
        name = f"{self.name}, readjusted " + " ".join(f"{k}={v}" for k, v in changed.items())
        return RDDMSchedule(name, first, second, partial=self.partial and alpha is None)


def family_of(name: str, T: int) -> Tensor:
    """(T,) float64 shares that sum to one, none of them zero, t = 1..T.

    increased: t * 2 / (T (T + 1)). decreased: the same, backwards. average: 1 / T. normal: a Gaussian bump over T
    midpoints from -3 to 3 standard deviations (how wide is our decision). "level": as 2t - 1, so that for beta^2 the
    noise level bbar_t itself grows by equal steps.
    """
    t = torch.arange(1, ddpm.count(T) + 1, dtype=torch.float64)
    shapes = {
        "increased": lambda: t / T,
        "decreased": lambda: t.flip(0) / T,
        "average": lambda: torch.ones_like(t),
        "normal": lambda: torch.exp(-0.5 * (6 * (t - 0.5) / T - 3) ** 2),
        "level": lambda: 2 * t - 1,
    }
    if name not in shapes:
        raise ReproError(f"schedule family {name!r} is unknown: choose one of {', '.join(FAMILIES)}")
    shares = shapes[name]()
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
        alpha, beta2: a family each (see `family_of`), or both "ddpm": the coefficients converted from the schedule
            `ddpm`, which bring their own variance at the end.
        sum_scale: bbar_T^2, the variance of the noise at the end: 1, or 0.01 for shadow removal.
        ddpm: settings of `repro.ddpm.schedules.by_name`, e.g. {"name": "linear", "T": 1000}.
    """
    if not 0 <= sum_scale < float("inf"):
        raise ReproError(f"sum_scale must be a variance, at least 0: got {sum_scale}")
    if "ddpm" in (alpha, beta2):
        if not alpha == beta2 == "ddpm" or not ddpm:
            raise ReproError("coefficients 'ddpm' need both families 'ddpm' and the schedule they come from, ddpm={…}")
        converted = RDDMSchedule.from_ddpm(_by_name(**ddpm))
        if converted.T != T or sum_scale != 1.0:
            raise ReproError(f"{converted.name} brings its T and variance: got T={T}, sum_scale {sum_scale}")
        return converted
    config = {"T": T, "alpha": alpha, "beta2": beta2, "sum_scale": sum_scale}
    first, second = family_of(alpha, T), sum_scale * family_of(beta2, T)
    return RDDMSchedule(f"{alpha} alpha, {beta2} beta2", first, second, config=config)


_by_name = ddpm.by_name  # `by_config` has an argument of the module's name


def indi(T: int = 1000, sum_scale: float = 1.0) -> RDDMSchedule:
    """abar_t = (t + 1) / T and bbar_t = sqrt(sum_scale) (t + 1) / T: SM-Res on it is InDI, with noise of that variance
    added to its input (Delbracio and Milanfar 2023, "Inversion by Direct Iteration")."""
    return by_config(T, "average", "level", sum_scale=sum_scale)
