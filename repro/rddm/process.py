"""The forward process, and what a network learns of it: the residual (SM-Res), the noise (SM-N), or both (SM-Res-N).

Eq. 7: x_t = x0 + u_t r + s_t eps. Eq. 16, the same with x0 = y - r put in: x_t = y + (u_t - 1) r + s_t eps.
Restoration and generation are one path: generation has y = 0, so r = -x0.

A network's output is (B, C, H, W), or (B, 2C, H, W) with the residual first for SM-Res-N, whether it is two networks,
one encoder with two decoders, or one network with twice the channels (`repro.rddm.model`). Misprints of the report that
are not followed: I_ub for I_in in Eq. 14; Eq. 15 without the square of Eq. 14; lambda for epsilon below Eq. 15; and
SM-Res-N with lambda_res = 0, which would be SM-N.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from repro.ddpm.losses import simple
from repro.errors import ReproError, one_of
from repro.rddm.schedules import RDDMSchedule

Objective = Literal["res", "noise", "res_noise"]
STRATEGIES: dict[str, Objective] = {"SM-Res": "res", "SM-N": "noise", "SM-Res-N": "res_noise"}
# Where the diffusion starts. "degraded": from the degraded image (RDDM). "noise": from pure noise, the degraded image
# being a condition of the network (SR3). "none": no diffusion, one pass from the degraded image (regression).
Start = Literal["degraded", "noise", "none"]


@dataclass(frozen=True)
class Learning:
    """What a network learns, and from where its diffusion starts.

    `last` is the share of samples that are trained at the last timestep, where sampling begins; the other times are
    uniform. In one or two steps hardly any other is visited.
    """

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
        return {**found, "last": self.last} if self.last else found


# -- forward ----------------------------------------------------------------------------------------------------------


def q_sample(x0: Tensor, r: Tensor, t: Tensor | int, eps: Tensor, schedule: RDDMSchedule) -> Tensor:
    """x_t in one jump (Eq. 7). t is (B,) or one number."""
    u, s = schedule.at(t, x0)
    return x0 + u * r + s * eps


def q_step(x_prev: Tensor, r: Tensor, t: Tensor | int, eps: Tensor, schedule: RDDMSchedule) -> Tensor:
    """One forward step from t - 1 to t (Eq. 6 and 9); t = 0 starts from x0."""
    return x_prev + schedule.gather("alpha", t, x_prev) * r + schedule.gather("beta2", t, x_prev).sqrt() * eps


def start(y: Tensor, z: Tensor, schedule: RDDMSchedule, t: int | None = None, sum_scale: float | None = None) -> Tensor:
    """Where sampling begins: y + s_t z, by default at T - 1 (the report explains I_T as "I_T + eps").

    At an earlier t the true state is (u_t - 1) r away, which is not known yet: the start is then wrong by 1 - u_t of
    the residual. SM-N needs such a start, since at u_T = 1 noise does not determine the image.

    Args:
        y: (B, C, H, W) degraded images in [-1, 1]; zeros for generation.
        z: standard normals of the same shape.
        sum_scale: another variance than the schedule's s_t^2. Only to measure the mistake of a start whose noise was
            not trained for.
    """
    level = schedule.levels(schedule.T - 1 if t is None else t)[1] if sum_scale is None else sum_scale**0.5
    return torch.add(y, z, alpha=level)


# -- what a network predicts ------------------------------------------------------------------------------------------


def heads(objective: str) -> int:
    """How many images the network's output holds. Raises `ReproError` for an objective that does not exist."""
    return 2 if one_of("objective", objective, STRATEGIES.values()) == "res_noise" else 1


def target(r: Tensor, eps: Tensor, objective: Objective) -> Tensor:
    """The target of the network's output."""
    return torch.cat({"res": [r], "noise": [eps], "res_noise": [r, eps]}[objective], dim=1)


def split(output: Tensor, like: Tensor, objective: Objective) -> tuple[Tensor | None, Tensor | None]:
    """The predicted (residual, noise) in a network's output for a state `like` (B, C, H, W); None for what it lacks."""
    channels = like.shape[1]
    if output.shape != (like.shape[0], channels * heads(objective), *like.shape[2:]):
        raise ReproError(
            f"a network for objective {objective!r} has {channels * heads(objective)} output channels for a state of "
            f"shape {tuple(like.shape)}: got {tuple(output.shape)}"
        )
    return {
        "res": (output, None),
        "noise": (None, output),
        "res_noise": (output[:, :channels], output[:, channels:]),
    }[objective]


def output_loss(output: Tensor, r: Tensor, eps: Tensor, objective: Objective, norm: Literal["l1", "l2"]) -> Tensor:
    """(B,) the losses of Eq. 14 and 15, added, of an output (B, heads * C, H, W).

    The papers write the squared norm; the released code takes l1 for restoration.
    """
    parts = zip(split(output, r, objective), (r, eps), strict=True)
    return sum(simple(estimate, truth, norm) for estimate, truth in parts if estimate is not None)
