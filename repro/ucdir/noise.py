"""Noise levels, continuous in training (WaveGrad's way) and a short list at inference, and the samplers that walk them.

A noisy residual is r_g = sqrt(gamma) r + sqrt(1 - gamma) eps; gamma runs from 1 (no noise) towards 0. Inference uses a
part of the training levels at equal distances of t ("uniform interpolation", the paper's words), or a new linear
schedule of betas from 1e-6 to 0.4 over 50 steps (the public code): they agree as long as the sum of the betas does.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of

Denoise = Callable[[Tensor, Tensor], Tensor]  # (noisy (B, 3, H, W), sqrt_gamma (B,)) -> predicted noise
Noise = Callable[[int, Tensor], Tensor]  # (step, like) -> standard normals


@dataclass(frozen=True)
class NoiseSchedule:
    """Betas from 1e-6 to `end`, linear over `T` steps; the published training has T = 2000 and end = 0.01."""

    T: int = 2000
    end: float = 0.01

    @cached_property
    def gamma(self) -> Tensor:
        """(T + 1,) float64: gamma[t] = prod of (1 - beta_i) over i <= t, gamma[0] = 1."""
        betas = torch.linspace(1e-6, self.end, self.T, dtype=torch.float64)
        return F.pad((1 - betas).cumprod(0), (1, 0), value=1)

    def draw(self, noise: KeyedNoise, shared: bool = False) -> Tensor:
        """(B,) sqrt(gamma) of a training batch: t uniform in 1 .. T, then uniform between its root and that of t - 1.

        `shared`: one t for the whole batch, as published (that of its first sample), instead of one a sample.
        """
        t, u, root = noise.integers(1, self.T + 1).cpu(), noise.uniform((), step=1), self.gamma.sqrt()
        t = t[:1].expand_as(t) if shared else t
        high, low = root[t - 1].to(u), root[t].to(u)
        return low + (high - low) * u

    def levels(self, steps: int, start: float = 0.0) -> tuple[float, ...]:
        """gamma at `steps` + 1 equal distances of t, from gamma_T up to 1: a part of this schedule, for inference.

        `start`: begin at the level whose gamma is nearest to it instead.
        """
        first = int((self.gamma - start).abs().argmin()) if start else self.T
        if steps not in range(1, first + 1):
            raise ReproError(f"inference takes 1 to {first} steps of this schedule: got {steps}")
        t = torch.linspace(first, 0, steps + 1, dtype=torch.float64).round().long()
        return tuple(self.gamma[t].tolist())


TRAINING = NoiseSchedule()


def linear_levels(steps: int = 50, end: float = 0.4) -> tuple[float, ...]:
    """The public code's inference: new betas from 1e-6 to `end`; `steps` + 1 gammas, from the noise up to 1."""
    return NoiseSchedule(steps, end).levels(steps)


@dataclass
class Step:
    """One step from level `gamma`: the state before it, what was predicted from that, and the new state, `residual`."""

    i: int
    gamma: float
    noisy: Tensor
    eps: Tensor
    clean: Tensor
    residual: Tensor = field(init=False)


def ancestral(now: Step, g_next: float, before: Step | None, noise: Noise) -> Tensor:
    """DDPM's posterior, variance (1 - g') / (1 - g) beta; the last step, to g' = 1, adds none."""
    g, beta = now.gamma, 1 - now.gamma / g_next
    mean = now.clean * (math.sqrt(g_next) * beta / (1 - g))
    mean = mean + now.noisy * (math.sqrt(1 - beta) * (1 - g_next) / (1 - g))
    sigma = math.sqrt((1 - g_next) / (1 - g) * beta)
    return mean + sigma * noise(now.i + 1, now.noisy) if sigma > 0 else mean


def ddim(now: Step, g_next: float, before: Step | None, noise: Noise) -> Tensor:
    """Song et al., deterministic (eta = 0)."""
    return math.sqrt(g_next) * now.clean + math.sqrt(1 - g_next) * now.eps


def dpm_solver(now: Step, g_next: float, before: Step | None, noise: Noise) -> Tensor:
    """DPM-Solver++(2M) of Lu et al.: second order from the last two predictions, first order at both ends."""
    if g_next == 1:
        return now.clean
    level = lambda gamma: 0.5 * math.log(gamma / (1 - gamma))  # log(a / s)  # noqa: E731
    g, h, D = now.gamma, level(g_next) - level(now.gamma), now.clean
    if before is not None:
        D = D + (h / (2 * (level(g) - level(before.gamma)))) * (D - before.clean)
    return math.sqrt((1 - g_next) / (1 - g)) * now.noisy - math.sqrt(g_next) * math.expm1(-h) * D


SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "dpm": dpm_solver}


@torch.no_grad()
def sample(
    name: str, denoise: Denoise, r: Tensor, levels: Sequence[float], noise: Noise, clip: float | None = None
) -> Iterator[Step]:
    """The steps of a sampler, the last one with the result as its `residual`.

    Args:
        r: where it starts, N(0, I) at the first level.
        levels: gamma, from the noisiest up to 1.
        noise: the deterministic samplers do not use it.
        clip: largest absolute residual predicted, in the units of `r`; eps is made to agree with it. None: unlimited.
    """
    advance, before = SAMPLERS[one_of("sampler", name, SAMPLERS)], None
    for i, (g, g_next) in enumerate(itertools.pairwise(levels)):
        a, s = math.sqrt(g), math.sqrt(1 - g)
        eps = denoise(r, torch.full((len(r),), a, device=r.device))
        clean = (r - s * eps) / a
        if clip is not None:
            clean = clean.clamp(-clip, clip)
            eps = (r - a * clean) / s
        step = Step(i, g, r, eps, clean)
        r = step.residual = advance(step, g_next, before, noise)
        yield step
        before = step
