"""The two diffusions, and what a network learns of them: the residual (SM-Res), the noise (SM-N), or both (SM-Res-N).

Eq. 7: x_t = x0 + u_t r + s_t eps. Eq. 16, the same with x0 = y - r put in: x_t = y + (u_t - 1) r + s_t eps.
Restoration and generation are one path: generation has y = 0, so r = -x0.

Coefficients: alpha_t for the residual and beta_t^2 for the noise, both additive. u_t = sum of alpha_i up to t and
s_t = sqrt(sum of beta_i^2 up to t): sums, not the products of DDPM (the sum printed in Eq. 7 runs to n instead of t).
The released code holds two versions of its families. This is the one of its restoration experiments, in which no
coefficient is zero; the other begins with 0, so that "noise from residual" divides by zero at index 0.

A network's output is (B, C, H, W), or (B, 2C, H, W) with the residual first for SM-Res-N. Misprints of the report that
are not followed: I_ub for I_in in Eq. 14; Eq. 15 without the square of Eq. 14; lambda for epsilon below Eq. 15; and
SM-Res-N with lambda_res = 0, which would be SM-N.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from repro.ddpm.process import Schedule, by_name, gather, simple
from repro.errors import ReproError, one_of


class RDDMSchedule:
    """Coefficients of both diffusions: float64 tables (T,), not to be changed.

    `alpha`: shares of the residual, at least 0; they sum to one (report, below Eq. 7), or to less where they are
    converted from a DDPM. `beta2`: variances of the noise, above 0 at t = 0.
    """

    def __init__(self, name: str, alpha: Tensor, beta2: Tensor) -> None:
        if beta2[0] == 0:
            raise ReproError(f"beta2 of {name!r} is 0 at t=0, where noise and residual could not be told apart")
        self.name, self.T, self.alpha, self.beta2 = name, len(alpha), alpha, beta2
        # the share of the residual in x_t, Eq. 7; the last is exactly 1 where the shares sum to one, to rounding
        sums = torch.cumsum(alpha, dim=0)
        self.u = sums / sums[-1] if abs(sums[-1] - 1) <= 1e-9 else sums
        # the variance of x_t given x0 (the report prints beta_t^2 there), and the standard deviation of its noise
        self.s2 = torch.cumsum(beta2, dim=0)
        self.s = self.s2.sqrt()
        self.sum_scale = float(self.s2[-1])  # s_T^2, of the noise that training ends with and sampling starts from

    def at(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(u_t, s_t), each (B, 1, …, 1)."""
        return gather(self.u, t, like), gather(self.s, t, like)

    def levels(self, t: int) -> tuple[float, float]:
        """(u_t, s_t) as numbers; t = -1 is the clean image, (0, 0)."""
        return (0.0, 0.0) if t < 0 else (float(self.u[t]), float(self.s[t]))

    @classmethod
    def from_ddpm(cls, schedule: Schedule) -> Self:
        """u = 1 - sqrt(alpha_bar), s^2 = 1 - alpha_bar: with y = 0 the forward processes are one. In restoration (the
        released code's "convert_to_ddim") u_T stays short of one (0.993647 for DDPM's linear betas), so x_T keeps 0.6%
        of x0; and s_T^2 is the DDPM's, near one, whatever sum_scale a configuration names."""
        alpha = torch.cat([torch.ones(1, dtype=torch.float64), schedule.a[:-1]]) - schedule.a
        beta2 = torch.diff(1 - schedule.alpha_bar, prepend=torch.zeros(1, dtype=torch.float64))
        return cls(f"DDPM {schedule.name}", alpha, beta2)


# t = 1..T as (T,) float64 -> shares, not yet summing to one. "level" is for beta^2: the noise level s_t grows evenly.
FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "decreased": lambda t: t.flip(0) / len(t),
    "increased": lambda t: t / len(t),
    "average": torch.ones_like,
    "level": lambda t: 2 * t - 1,
}


def by_config(
    T: int = 1000,
    alpha: str = "decreased",
    beta2: str = "increased",
    *,
    sum_scale: float = 1.0,
    ddpm: Mapping[str, Any] | None = None,
) -> RDDMSchedule:
    """The schedule of these settings; the default is RDDM's for restoration and for its own trained generation.

    `alpha`, `beta2`: a family each, see `FAMILIES`. `sum_scale`: s_T^2, the variance of the noise at the end (0.01 for
    shadow removal). `ddpm`: instead of all others, settings of `repro.ddpm.process.by_name` for a DDPM's schedule.
    """
    if sum_scale <= 0:
        raise ReproError(f"sum_scale must be a variance above 0: got {sum_scale}")
    if ddpm:
        return RDDMSchedule.from_ddpm(by_name(**ddpm))
    t = torch.arange(1, T + 1, dtype=torch.float64)
    first, second = (FAMILIES[one_of("schedule family", name, FAMILIES)](t) for name in (alpha, beta2))
    return RDDMSchedule(f"{alpha} alpha, {beta2} beta2", first / first.sum(), sum_scale * (second / second.sum()))


def indi(T: int = 1000, sum_scale: float = 1.0) -> RDDMSchedule:
    """u_t = (t + 1) / T and s_t = sqrt(sum_scale) (t + 1) / T: SM-Res on it is InDI, with noise of that variance added
    to its input (Delbracio and Milanfar 2023, "Inversion by Direct Iteration")."""
    return by_config(T, "average", "level", sum_scale=sum_scale)


Objective = Literal["res", "noise", "res_noise"]
STRATEGIES: dict[str, Objective] = {"SM-Res": "res", "SM-N": "noise", "SM-Res-N": "res_noise"}
# Where the diffusion starts. "degraded": from the degraded image (RDDM). "noise": from pure noise, the degraded image
# being a condition of the network (SR3). "none": no diffusion, one pass from the degraded image (regression).
Start = Literal["degraded", "noise", "none"]


@dataclass(frozen=True)
class RDDMTraining:
    """What a network learns, and from where its diffusion starts. `last`: share of samples that are trained at the last
    timestep, where sampling begins (in one or two steps hardly any other is visited); other times are uniform."""

    objective: Objective
    schedule: RDDMSchedule
    norm: Literal["l1", "l2"]
    start: Start = "degraded"
    last: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved training must not be continued without."""
        schedule = f"{self.schedule.name}, sum_scale {self.schedule.sum_scale:g}"
        found = {"objective": self.objective, "norm": self.norm, "start": self.start, "schedule": schedule}
        return found | ({"last": self.last} if self.last else {})


def q_sample(x0: Tensor, r: Tensor, t: Tensor | int, eps: Tensor, schedule: RDDMSchedule) -> Tensor:
    """x_t in one jump (Eq. 7). t is (B,) or one number."""
    u, s = schedule.at(t, x0)
    return x0 + u * r + s * eps


def q_step(x_prev: Tensor, r: Tensor, t: Tensor | int, eps: Tensor, schedule: RDDMSchedule) -> Tensor:
    """One forward step from t - 1 to t (Eq. 6 and 9); t = 0 starts from x0."""
    return x_prev + gather(schedule.alpha, t, x_prev) * r + gather(schedule.beta2, t, x_prev).sqrt() * eps


def start(y: Tensor, z: Tensor, schedule: RDDMSchedule, t: int | None = None, sum_scale: float | None = None) -> Tensor:
    """Where sampling begins: y + s_t z, by default at T - 1 (the report explains I_T as "I_T + eps").

    An earlier start, which SM-N needs (at u_T = 1 noise does not determine the image), is wrong by 1 - u_t of the
    residual. `y` (B, C, H, W): degraded images in [-1, 1], zeros for generation; `z`: standard normals of that shape.
    `sum_scale`: another variance than s_t^2, to measure the mistake of a start whose noise was not trained for.
    """
    level = schedule.levels(schedule.T - 1 if t is None else t)[1] if sum_scale is None else sum_scale**0.5
    return torch.add(y, z, alpha=level)


def heads(objective: str) -> int:
    """How many images the network's output holds. Raises `ReproError` for an objective that does not exist."""
    return 2 if one_of("objective", objective, STRATEGIES.values()) == "res_noise" else 1


def target(r: Tensor, eps: Tensor, objective: Objective) -> Tensor:
    """The target of the network's output."""
    return torch.cat({"res": [r], "noise": [eps], "res_noise": [r, eps]}[objective], dim=1)


def split(output: Tensor, like: Tensor, objective: Objective) -> tuple[Tensor | None, Tensor | None]:
    """The predicted (residual, noise) in a network's output for a state `like` (B, C, H, W); None for what it lacks."""
    channels = like.shape[1]
    expected = (like.shape[0], channels * heads(objective), *like.shape[2:])
    if output.shape != expected:
        raise ReproError(f"the output of a network for {objective!r} has shape {expected}: got {tuple(output.shape)}")
    if objective == "res_noise":
        return output[:, :channels], output[:, channels:]
    return (output, None) if objective == "res" else (None, output)


def output_loss(output: Tensor, r: Tensor, eps: Tensor, objective: Objective, norm: Literal["l1", "l2"]) -> Tensor:
    """(B,) the losses of Eq. 14 and 15, added, of an output (B, heads * C, H, W). (Released for restoration: l1.)"""
    parts = zip(split(output, r, objective), (r, eps), strict=True)
    return sum(simple(estimate, truth, norm) for estimate, truth in parts if estimate is not None)
