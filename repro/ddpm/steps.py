"""What the samplers share: which timesteps they visit, and the state they yield."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from repro.errors import ReproError, one_of

Spacing = Literal["leading", "trailing", "linspace"]

# The steps of a run: how many, "leading" as DDPM's code has them; or the timesteps, see `spaced`; None: all.
Steps = int | Sequence[int] | None

# Standard normals of `like`'s shape, type and device for one step; a `KeyedNoise` is one. Samplers ask with the
# timestep t as the step's number and never with 0, so that a start x_T drawn with step 0 or T meets no number twice.
Noise = Callable[[int, Tensor], Tensor]


@dataclass(slots=True)
class Step:
    """One step of a sampler, from x_t at timestep t to x at timestep t_prev (-1: the finished sample)."""

    i: int  # 0, 1, …: which step of this run
    t: int  # timestep given to the network
    t_prev: int  # where x belongs; -1 is the data
    x_t: Tensor  # (B, C, H, W) state before the step
    x: Tensor  # (B, C, H, W) state after the step
    x0: Tensor  # (B, C, H, W) the sample as the step used it: after guidance and clipping
    mean: Tensor  # (B, C, H, W) of the distribution that x was drawn from
    variance: Tensor | float  # of the same; a tensor (B, C, H, W) where the network predicts it
    output: Tensor  # raw network output, without its variance head
    a: float  # sqrt(alpha_bar) of x_t
    s: float  # sqrt(1 - alpha_bar) of x_t
    used_eps: Tensor | None = None  # the noise as the step used it, where it did

    @property
    def eps(self) -> Tensor:
        """(B, C, H, W) the noise in x_t as the step used it, or the one that x0 leaves: (x_t - a x0) / s."""
        if self.used_eps is None:
            self.used_eps = torch.sub(self.x_t, self.x0, alpha=self.a).div_(self.s)
        return self.used_eps


# The gradient of a log likelihood: (x, t (B,), the step so far) -> gradient in x's shape. Where x lies is the sampler's
# business (the mean, or x_t); the step offers x_t, x0, eps and variance of the moment.
Guide = Callable[[Tensor, Tensor, Step], Tensor]


def last(steps: Iterable[Step]) -> Step:
    """Run a sampler to its end and keep only the last step."""
    return deque(steps, maxlen=1)[0]


def sample(steps: Iterable[Step]) -> Tensor:
    """(B, C, H, W) the result of a sampler."""
    return last(steps).x


def spaced(T: int, steps: int, spacing: Spacing = "leading") -> list[int]:
    """`steps` of the timesteps 0..T-1, descending, under diffusers' names (Lin et al. 2024, Table 2).

    "leading" starts below T - 1 and ends at 0; "trailing" starts at T - 1, as zero terminal SNR needs;
    "linspace" holds both ends.
    """
    one_of("timestep spacing", spacing, ("leading", "trailing", "linspace"))
    if not 1 <= steps <= T:
        raise ReproError(f"number of sampling steps must lie in 1..{T} for a schedule of {T}: got {steps}")
    if spacing == "leading":
        return [k * (T // steps) for k in range(steps)][::-1]
    if spacing == "trailing":
        stride = (T - T / steps) - T  # negative, and rounded as numpy's arange does, so that ties fall as in diffusers
        return [round(T + k * stride) - 1 for k in range(steps)]
    if steps == 1:
        raise ReproError("one 'linspace' step would visit t=0 alone: use 'trailing'")
    return [round(k * ((T - 1) / (steps - 1))) for k in range(steps)][::-1]


def falling(timesteps: Sequence[int], T: int) -> list[int]:
    """Timesteps chosen by hand, where a run over 0..T-1 can visit them in that order."""
    ts = [int(t) for t in timesteps]
    if not ts or ts[0] >= T or ts[-1] < 0 or any(b >= a for a, b in pairwise(ts)):
        raise ReproError(f"timesteps must fall from at most {T - 1} to at least 0, without repetition: got {ts}")
    return ts


def check_start(x: Tensor, eta: float = 0.0, noise: Noise | None = None) -> None:
    """Refuse a start that is no batch of floats, an eta outside [0, 1], and one above 0 without noise."""
    if x.ndim < 2 or not x.is_floating_point():
        raise ReproError(f"a sampler starts from a float tensor (B, …): got {tuple(x.shape)} of {x.dtype}")
    if not 0 <= eta <= 1:
        raise ReproError(f"eta must lie in [0, 1]: got {eta}")
    if eta > 0 and noise is None:
        raise ReproError(f"eta {eta} adds noise at each step: pass noise=KeyedNoise(...)")


def batch_times(ts: Sequence[int], x: Tensor) -> Tensor:
    """(n, B) int64 on x's device, so that row i is what the network takes at step i."""
    return torch.tensor(ts, device=x.device)[:, None].expand(-1, len(x)).contiguous()
