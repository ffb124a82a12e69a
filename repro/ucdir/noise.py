"""Noise levels: continuous in training (WaveGrad's way), a short list of them at inference.

A noisy residual is r_g = sqrt(gamma) r + sqrt(1 - gamma) eps; gamma runs from 1 (no noise) towards 0. Training draws
sqrt(gamma) from a continuum, so inference may use any decreasing list of levels. Two families are in use: a part of the
training levels at equal distances of t ("uniform interpolation", the paper's words), and a new linear schedule of betas
from 1e-6 to 0.4 over 50 steps (the public code). They agree as long as the sum of the betas does (about 10).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


@dataclass(frozen=True)
class NoiseSchedule:
    """Betas from `start` to `end`, linear over `T` steps; the published training has T = 2000 and end = 0.01."""

    T: int = 2000
    start: float = 1e-6
    end: float = 0.01

    def __post_init__(self) -> None:
        if self.T < 1 or not 0 < self.start <= self.end < 1:
            raise ReproError(f"noise schedule: T >= 1 and 0 < start <= end < 1: got {self.T}, {self.start}, {self.end}")

    @cached_property
    def gamma(self) -> Tensor:
        """(T + 1,) float64: gamma[t] = prod of (1 - beta_i) over i <= t, gamma[0] = 1."""
        betas = torch.linspace(self.start, self.end, self.T, dtype=torch.float64)
        return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])

    def draw(self, noise: KeyedNoise, shared: bool = False) -> Tensor:
        """(B,) sqrt(gamma) of a training batch: t uniform in 1 .. T, then uniform between its root and that of t - 1.

        `shared`: one t for the whole batch, as published (that of its first sample), instead of one a sample.
        """
        t = noise.integers(1, self.T + 1).cpu()
        root = self.gamma.sqrt()
        t = t[:1].expand_as(t) if shared else t
        u = noise.uniform((), step=1)
        high, low = root[t - 1].to(u), root[t].to(u)
        return low + (high - low) * u

    def levels(self, steps: int, start: float = 0.0) -> tuple[float, ...]:
        """gamma at `steps` + 1 equal distances of t, from gamma_T up to 1: a part of this schedule, for inference.

        `start`: begin at the level whose gamma is nearest to it instead.
        """
        first = int((self.gamma - start).abs().argmin()) if start else self.T
        if not 1 <= steps <= first:
            raise ReproError(f"inference takes 1 to {first} steps of this schedule: got {steps}")
        t = torch.linspace(first, 0, steps + 1, dtype=torch.float64).round().long()
        return tuple(self.gamma[t].tolist())


TRAINING = NoiseSchedule()


def linear_levels(steps: int = 50, end: float = 0.4) -> tuple[float, ...]:
    """The public code's inference: new betas from 1e-6 to `end`; `steps` + 1 gammas, from the noise up to 1."""
    return NoiseSchedule(steps, 1e-6, end).levels(steps)


def inference_levels(steps: int) -> tuple[float, ...]:
    """What `steps` steps use here: at 50 the public code's levels, otherwise a part of the training schedule."""
    return linear_levels() if steps == 50 else TRAINING.levels(steps)
