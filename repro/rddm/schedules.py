"""Two tables of coefficients: alpha_t for the residual and beta_t^2 for the noise, both float64, both additive.

abar_t = sum of alpha_i up to t and bbar_t = sqrt(sum of beta_i^2 up to t): sums, not the products of DDPM (report
Eq. 7, whose printed sum runs to n instead of t). Index 0 is the report's t = 1.

The families are powers, P(x, a) = x^a over its sum, with x = t / T for t = 1..T, applied to alpha and to beta^2 (not
beta). The released code holds two versions. This is the one of its restoration experiments, in which no coefficient is
zero; the other takes x from 0, so that bbar is 0 at index 0 and "noise from residual" divides by zero there.
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
class RDDMSchedule:
    """Coefficients of both diffusions; tables are float64 on the CPU, shape (T,).

    Args:
        name: what pictures and records call it.
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
            table = torch.as_tensor(getattr(self, which), dtype=torch.float64, device="cpu").detach().clone()
            if table.ndim != 1 or len(table) == 0:
                raise ReproError(f"{which} must be one list of at least one number: got shape {tuple(table.shape)}")
            wrong = ~((table >= 0) & table.isfinite())  # true for NaN too
            if wrong.any():
                at = int(wrong.nonzero()[0])
                raise ReproError(
                    f"{which} must be at least 0, so that both diffusions only grow: got {table[at].item():g} "
                    f"at t={at} of schedule {self.name!r}"
                )
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

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def T(self) -> int:
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
    def _moved(self) -> dict[tuple[str, torch.device, torch.dtype], Tensor]:
        return {}

    def gather(self, table: str, t: Tensor | int, like: Tensor) -> Tensor:
        """Entries t of "alpha", "beta2", "abar", "bbar", … as (B, 1, …, 1) on `like`'s device, in its type."""
        key = (table, like.device, like.dtype)
        if key not in self._moved:
            self._moved[key] = getattr(self, table).to(like.dtype).to(like.device)
        t = torch.as_tensor(t, device=like.device).reshape(-1)
        if t.device.type == "cpu" and len(t) and (int(t.min()) < 0 or int(t.max()) >= self.T):
            # On an accelerator this look would stop the queue; a negative t would silently read the table's end.
            raise ReproError(f"timesteps must lie in 0..{self.T - 1}: got {int(t.min())}..{int(t.max())}")
        return self._moved[key][t].reshape(-1, *[1] * (like.ndim - 1))

    def at(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(abar_t, bbar_t), each (B, 1, …, 1)."""
        return self.gather("abar", t, like), self.gather("bbar", t, like)

    def levels(self, t: int) -> tuple[float, float]:
        """(abar_t, bbar_t) as numbers; t = -1 is the clean picture, (0, 0)."""
        if not -1 <= t < self.T:
            raise ReproError(f"timesteps must lie in -1..{self.T - 1}: got {t}")
        return (0.0, 0.0) if t < 0 else (float(self.abar[t]), float(self.bbar[t]))

    # -- conversion ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_ddpm(cls, schedule: ddpm.Schedule) -> RDDMSchedule:
        """abar = 1 - sqrt(alpha_bar), bbar^2 = 1 - alpha_bar: with I_in = 0 the forward processes are one.

        Two properties to know before using it for restoration (the released code's "convert_to_ddim"): abar_T stays
        short of one (0.993647 for DDPM's linear betas), so I_T keeps 0.6% of I_0; and bbar_T^2 is the DDPM's, near one,
        whatever sum_scale a configuration names. Code that starts from sqrt(sum_scale) all the same starts with other
        noise than it trained with; `process.start` reads the schedule.
        """
        a = schedule.alpha_bar.sqrt()
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        alpha = torch.cat([one, a[:-1]]) - a
        beta2 = torch.diff(1 - schedule.alpha_bar, prepend=zero)
        config = {"T": schedule.T, "alpha": "ddpm", "beta2": "ddpm", "ddpm": dict(schedule.config)}
        name = f"DDPM {schedule.name}"
        return cls(name, alpha, beta2, partial=not schedule.zero_terminal, config=config if schedule.config else {})

    @cached_property
    def alpha_bar(self) -> Tensor:
        """(T,) DDPM's alpha_bar of the same pictures for I_in = 0: exists where signal and noise keep unit variance."""
        alpha_bar = (1 - self.abar) ** 2
        gap = (self.bbar2 - (1 - alpha_bar)).abs()
        if float(gap.max()) > _EXACT:
            at = int(gap.argmax())
            raise ReproError(
                f"schedule {self.name!r} has no DDPM counterpart, which needs bbar^2 = 1 - (1 - abar)^2: at t={at} "
                f"bbar^2 is {self.bbar2[at].item():g} and 1 - (1 - abar)^2 is {1 - alpha_bar[at].item():g}"
            )
        return alpha_bar

    def readjust(
        self,
        alpha: str | None = None,
        beta2: str | None = None,
        *,
        alpha_power: float = 1.0,
        beta2_power: float = 1.0,
    ) -> RDDMSchedule:
        """Another family for one diffusion at test time, the other one kept, with its sum_scale.

        The network is still told t, which belongs to the coefficients it was trained with.
        """
        changed: dict[str, Any] = {}
        tables = {"alpha": self.alpha, "beta2": self.beta2}
        if alpha is not None:
            tables["alpha"] = family(alpha, self.T, alpha_power)
            changed |= {"alpha": alpha, "alpha_power": alpha_power}
        if beta2 is not None:
            tables["beta2"] = self.sum_scale * family(beta2, self.T, beta2_power)
            changed |= {"beta2": beta2, "beta2_power": beta2_power, "sum_scale": self.sum_scale}
        if not changed:
            raise ReproError("readjust changes one diffusion: name a family for alpha or for beta2")
        config = {**self.config, **changed} if self.config else {}
        name = f"{self.name}, readjusted " + " ".join(f"{k}={v}" for k, v in changed.items())
        return RDDMSchedule(name, **tables, partial=self.partial and alpha is None, config=config)


def family(name: str, T: int, power: float = 1.0) -> Tensor:
    """(T,) float64 shares that sum to one, none of them zero.

    increased: (t / T)^power, t = 1..T; at power 1, t * 2 / (T (T + 1)). decreased: the same, backwards. average: 1 / T.
    normal: a Gaussian bump over T midpoints from -3 to 3 standard deviations (how wide is our decision).
    "level": as 2t - 1, so that for beta^2 the noise level bbar_t itself grows by equal steps.
    """
    if not isinstance(T, int) or T < 1:
        raise ReproError(f"a schedule needs a whole number of steps, at least 1: got {T!r}")
    if not power > 0:
        raise ReproError(f"the power of a schedule family must be above 0: got {power}")
    if power != 1 and name not in ("decreased", "increased"):
        raise ReproError(f"a power belongs to the families decreased and increased: got {power} with {name!r}")
    t = torch.arange(1, T + 1, dtype=torch.float64)
    if name == "increased":
        shares = (t / T) ** power
    elif name == "decreased":
        shares = (t.flip(0) / T) ** power
    elif name == "average":
        shares = torch.ones(T, dtype=torch.float64)
    elif name == "normal":
        shares = torch.exp(-0.5 * (6 * (t - 0.5) / T - 3) ** 2)
    elif name == "level":
        shares = 2 * t - 1
    else:
        raise ReproError(f"schedule family {name!r} is unknown: choose one of {', '.join(FAMILIES)}")
    return shares / shares.sum()


def by_config(
    T: int = 1000,
    alpha: str = "decreased",
    beta2: str = "increased",
    *,
    alpha_power: float = 1.0,
    beta2_power: float = 1.0,
    sum_scale: float = 1.0,
    ddpm: Mapping[str, Any] | None = None,
) -> RDDMSchedule:
    """The schedule of these settings; the default is RDDM's for restoration and for its own trained generation.

    Args:
        T: steps.
        alpha, beta2: a family each (see `family`), or "ddpm" for the coefficients converted from the schedule `ddpm`.
        alpha_power, beta2_power: the a of P(x, a).
        sum_scale: bbar_T^2, the variance of the noise at the end: 1, or 0.01 for shadow removal. A converted beta2
            brings its own and takes no other.
        ddpm: settings of `repro.ddpm.schedules.by_name`, e.g. {"name": "linear", "T": 1000}.
    """
    converted = None
    if "ddpm" in (alpha, beta2):
        if not ddpm:
            raise ReproError(
                "coefficients 'ddpm' need the schedule they come from, e.g. ddpm={'name': 'linear'}: got none"
            )
        converted = RDDMSchedule.from_ddpm(_ddpm_schedule(ddpm))
        if converted.T != T:
            raise ReproError(f"the DDPM schedule has {converted.T} steps: the RDDM schedule was asked for {T}")
    if not (sum_scale >= 0 and sum_scale < float("inf")):
        raise ReproError(f"sum_scale must be a variance, at least 0: got {sum_scale}")
    if beta2 == "ddpm" and sum_scale != 1.0:
        raise ReproError(
            f"a DDPM-converted noise schedule ends with the DDPM's own variance: got sum_scale {sum_scale}"
        )
    first = converted.alpha if alpha == "ddpm" else family(alpha, T, alpha_power)
    second = converted.beta2 if beta2 == "ddpm" else sum_scale * family(beta2, T, beta2_power)
    if alpha == beta2 == "ddpm":
        return converted
    config = {"T": T, "alpha": alpha, "beta2": beta2, "alpha_power": alpha_power, "beta2_power": beta2_power}
    config |= {"sum_scale": sum_scale} | ({"ddpm": dict(ddpm)} if converted else {})
    name = f"{alpha} alpha, {beta2} beta2"
    return RDDMSchedule(name, first, second, partial=alpha == "ddpm" and converted.partial, config=config)


def indi(T: int = 1000, sum_scale: float = 1.0) -> RDDMSchedule:
    """abar_t = (t + 1) / T and bbar_t = sqrt(sum_scale) (t + 1) / T: SM-Res on it is InDI, with noise of that variance
    added to its input (Delbracio and Milanfar 2023, "Inversion by Direct Iteration")."""
    return by_config(T, "average", "level", sum_scale=sum_scale)


def _ddpm_schedule(config: Mapping[str, Any]) -> ddpm.Schedule:
    return ddpm.by_name(**config)
