"""What the samplers share: which timesteps they visit, the state they yield, where their noise comes from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from repro.ddpm.process import Kind, check_kind
from repro.ddpm.schedules import Schedule
from repro.errors import ReproError

Spacing = Literal["leading", "trailing", "linspace"]

# Standard normals of `like`'s shape, type and device for one step; a `KeyedNoise` is one. Samplers ask with the
# timestep t as the step's number and never with 0, so that a start x_T drawn with step 0 or T meets no number twice.
Noise = Callable[[int, Tensor], Tensor]


@dataclass(slots=True)
class Step:
    """One step of a sampler, from x_t at timestep t to x at timestep t_prev (-1: the finished sample)."""

    i: int  # 0, 1, …: which step of this run
    t: int  # what the network was told
    t_prev: int  # where x belongs; -1 is the data
    x_t: Tensor  # (B, C, H, W) state before the step
    x: Tensor  # (B, C, H, W) state after the step
    x0: Tensor  # (B, C, H, W) the sample as the step used it: after guidance and clipping
    mean: Tensor  # (B, C, H, W) of the distribution that x was drawn from
    variance: Tensor | float  # of the same; a tensor (B, C, H, W) where the network predicts it
    output: Tensor  # what the network said about x_t, without its variance head
    a: float  # sqrt(alpha_bar) of x_t
    s: float  # sqrt(1 - alpha_bar) of x_t
    used_eps: Tensor | None = None  # the noise as the step used it, where it did

    @property
    def eps(self) -> Tensor:
        """(B, C, H, W) the noise in x_t as the step used it, or the one that x0 leaves: (x_t - a x0) / s."""
        if self.used_eps is None:
            self.used_eps = torch.sub(self.x_t, self.x0, alpha=self.a).div_(self.s)
        return self.used_eps


class Guide(Protocol):
    """The gradient of a log likelihood: (x, t (B,), the step so far) -> gradient in x's shape.

    Where x lies is the sampler's business (the mean, or x_t); `step` offers x_t, x0, eps and variance of the moment.
    """

    def __call__(self, x: Tensor, t: Tensor, step: Step, /) -> Tensor: ...


def last(steps: Iterable[Step]) -> Step:
    """Run a sampler to its end and keep only the last step."""
    return deque(steps, maxlen=1)[0]


def sample(steps: Iterable[Step]) -> Tensor:
    """(B, C, H, W) the result of a sampler."""
    return last(steps).x


def generator_noise(generator: torch.Generator) -> Noise:
    """A torch.Generator as the samplers' noise; unlike `KeyedNoise`, its draws depend on their order."""

    def draw(step: int, like: Tensor) -> Tensor:
        made = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
        return made.to(like.device)

    return draw


def spaced(T: int, steps: int, spacing: Spacing = "leading", offset: int = 0) -> list[int]:
    """`steps` of the timesteps 0..T-1, descending, under diffusers' names (Lin et al. 2024, Table 2).

    "leading" starts below T - 1 and ends at `offset`; "trailing" starts at T - 1, as zero terminal SNR needs;
    "linspace" holds both ends.
    """
    if not 1 <= steps <= T:
        raise ReproError(f"number of sampling steps must lie in 1..{T} for a schedule of {T}: got {steps}")
    if spacing == "leading":
        ts = [k * (T // steps) + offset for k in range(steps)]
        if offset < 0 or ts[-1] >= T:
            raise ReproError(
                f"steps offset {offset} with {steps} leading steps must stay in 0..{T - 1}: got t={ts[-1]}"
            )
        return ts[::-1]
    if offset:
        raise ReproError(f"steps offset belongs to 'leading' spacing: got {offset} with {spacing!r}")
    if spacing == "trailing":
        stride = (T - T / steps) - T  # negative, and rounded as numpy's arange does, so that ties fall as in diffusers
        return [round(T + k * stride) - 1 for k in range(steps)]
    if spacing == "linspace":
        if steps == 1:
            raise ReproError("one 'linspace' step would visit t=0 alone: use 'trailing'")
        return [round(k * ((T - 1) / (steps - 1))) for k in range(steps)][::-1]
    raise ReproError(f"timestep spacing {spacing!r} is unknown: choose leading, trailing or linspace")


def choose(
    schedule: Schedule, steps: int | None, spacing: Spacing, offset: int, timesteps: Sequence[int] | None
) -> list[int]:
    """The descending timesteps of a run: given ones, or `steps` spaced ones, or all."""
    if timesteps is None:
        return spaced(schedule.T, schedule.T if steps is None else steps, spacing, offset)
    if steps is not None:
        raise ReproError(f"give either steps or timesteps: got steps={steps} and {len(timesteps)} timesteps")
    ts = [int(t) for t in timesteps]
    if not ts or ts[0] >= schedule.T or ts[-1] < 0 or any(b >= a for a, b in pairwise(ts)):
        raise ReproError(
            f"timesteps must fall from at most {schedule.T - 1} to at least 0, without repetition: got {ts}"
        )
    return ts


def check_start(x: Tensor, schedule: Schedule, ts: Sequence[int], prediction: Kind) -> None:
    """Refuse what no sampler can work on."""
    check_kind(prediction)
    if x.ndim < 2 or not x.is_floating_point():
        raise ReproError(f"a sampler starts from a float tensor (B, …): got {tuple(x.shape)} of {x.dtype}")
    if prediction == "epsilon" and schedule.alpha_bar[ts[0]] == 0:
        raise ReproError(
            f"a network that predicts 'epsilon' cannot start at t={ts[0]}, where {schedule.name!r} has zero SNR "
            f"and the noise says nothing about the sample: use a 'v_prediction' or 'sample' network"
        )


def levels(schedule: Schedule, ts: Sequence[int], final: float = 1.0) -> tuple[Tensor, Tensor]:
    """alpha_bar at each visited timestep and at the one after it, float64 (n,); `final` follows the last."""
    ab = schedule.alpha_bar[torch.tensor(ts)]
    return ab, torch.cat([ab[1:], torch.tensor([final], dtype=torch.float64)])


def batch_times(ts: Sequence[int], x: Tensor) -> Tensor:
    """(n, B) int64 on x's device, so that row i is what the network takes at step i."""
    return torch.tensor(ts, device=x.device)[:, None].expand(-1, len(x)).contiguous()


def prediction_part(output: Tensor, x_t: Tensor) -> Tensor:
    """The network's output without its variance head, where it has one that this sampler does not ask for."""
    channels = x_t.shape[1]
    if output.shape[1] == 2 * channels:
        output = output[:, :channels]
    if output.shape != x_t.shape:  # (B, 2, …) would broadcast against (B, 1, …) without a word
        raise ReproError(f"the network answered {tuple(output.shape)} to a state of shape {tuple(x_t.shape)}")
    return output


def to_x0(output: Tensor, x_t: Tensor, a: float, s: float, prediction: Kind) -> Tensor:
    """`process.x0_from_…` in place, with plain numbers that were checked before the run."""
    if prediction == "epsilon":
        return torch.sub(x_t, output, alpha=s).div_(a)
    if prediction == "sample":
        return output
    return torch.mul(x_t, a).sub_(output, alpha=s)


def to_eps(output: Tensor, x_t: Tensor, a: float, s: float, prediction: Kind) -> Tensor:
    """`process.eps_from_…` in the same manner."""
    if prediction == "epsilon":
        return output
    if prediction == "sample":
        return torch.sub(x_t, output, alpha=a).div_(s)
    return torch.mul(x_t, s).add_(output, alpha=a)
