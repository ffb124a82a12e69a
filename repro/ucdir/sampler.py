"""From noise to a residual: ancestral sampling as published, and two faster samplers that the paper leaves for later.

Each takes `denoise(noisy (B, 3, H, W), sqrt_gamma (B,)) -> predicted noise` and a list of levels gamma, from the
noisiest up to 1, and yields its steps; the last step's `residual` is the result. All of them work in the scaled
residual, with `clip` in the same units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int, Tensor], Tensor]  # (step, like) -> standard normals


@dataclass
class Step:
    """One step: `residual` is the new state, `noisy` the state before, `clean` and `eps` what was predicted from it."""

    i: int
    gamma: float
    noisy: Tensor
    eps: Tensor
    clean: Tensor
    residual: Tensor


def _predict(denoise: Denoise, r: Tensor, gamma: float, clip: float | None) -> tuple[Tensor, Tensor]:
    """(eps, clean residual) predicted from the state; a clipped residual makes eps agree with it."""
    a, s = math.sqrt(gamma), math.sqrt(1 - gamma)
    eps = denoise(r, torch.full((len(r),), a, device=r.device))
    clean = (r - s * eps) / a
    if clip is not None:
        clean = clean.clamp(-clip, clip)
        eps = (r - a * clean) / s
    return eps, clean


def _check(levels: Sequence[float]) -> None:
    rising = all(0 < a < b for a, b in itertools.pairwise(levels))
    if len(levels) < 2 or levels[-1] != 1 or not rising:
        raise ReproError(f"levels must rise from above 0 to 1, at least two: got {list(levels)[:4]}… {levels[-1:]}")


@torch.no_grad()
def ancestral(
    denoise: Denoise, r: Tensor, levels: Sequence[float], noise: Noise, clip: float | None = None
) -> Iterator[Step]:
    """DDPM's posterior at every step, variance (1 - g') / (1 - g) beta, none at the last. `r` starts as N(0, I)."""
    _check(levels)
    for i, (g, g_next) in enumerate(itertools.pairwise(levels)):
        eps, clean = _predict(denoise, r, g, clip)
        beta = 1 - g / g_next
        mean = clean * (math.sqrt(g_next) * beta / (1 - g)) + r * (math.sqrt(1 - beta) * (1 - g_next) / (1 - g))
        sigma = math.sqrt((1 - g_next) / (1 - g) * beta)
        new = mean + sigma * noise(i + 1, r) if sigma > 0 else mean
        yield Step(i, g, r, eps, clean, new)
        r = new


@torch.no_grad()
def ddim(
    denoise: Denoise, r: Tensor, levels: Sequence[float], noise: Noise, clip: float | None = None
) -> Iterator[Step]:
    """Song et al., deterministic (eta = 0): `noise` is not used after the start."""
    _check(levels)
    for i, (g, g_next) in enumerate(itertools.pairwise(levels)):
        eps, clean = _predict(denoise, r, g, clip)
        new = math.sqrt(g_next) * clean + math.sqrt(1 - g_next) * eps
        yield Step(i, g, r, eps, clean, new)
        r = new


@torch.no_grad()
def dpm_solver(
    denoise: Denoise, r: Tensor, levels: Sequence[float], noise: Noise, clip: float | None = None
) -> Iterator[Step]:
    """DPM-Solver++(2M) of Lu et al.: second order from the last two predictions, first order at both ends."""
    _check(levels)
    before: Tensor | None = None
    h_before = 0.0
    for i, (g, g_next) in enumerate(itertools.pairwise(levels)):
        eps, clean = _predict(denoise, r, g, clip)
        if g_next == 1:
            yield Step(i, g, r, eps, clean, clean)
            return
        h = 0.5 * (math.log(g_next / (1 - g_next)) - math.log(g / (1 - g)))  # difference of log(a / s)
        D = clean if before is None else clean + (h / (2 * h_before)) * (clean - before)
        new = math.sqrt((1 - g_next) / (1 - g)) * r - math.sqrt(g_next) * math.expm1(-h) * D
        yield Step(i, g, r, eps, clean, new)
        r, before, h_before = new, clean, h


SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "dpm": dpm_solver}
