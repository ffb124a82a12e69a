"""From noise to a residual: ancestral sampling as published, and two faster ways that the paper leaves for later."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from repro.errors import ReproError

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int, Tensor], Tensor]  # (step, like) -> standard normals


@dataclass
class Step:
    """One step from level `gamma`: `noisy` is the state before it, `eps` and `clean` are what was predicted from that,
    `residual` is the new state."""

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

    def between(low: float, high: float) -> float:
        """Difference of log(a / s) between two levels."""
        return 0.5 * (math.log(high / (1 - high)) - math.log(low / (1 - low)))

    g, h, D = now.gamma, between(now.gamma, g_next), now.clean
    if before is not None:
        D = D + (h / (2 * between(before.gamma, g))) * (D - before.clean)
    return math.sqrt((1 - g_next) / (1 - g)) * now.noisy - math.sqrt(g_next) * math.expm1(-h) * D


SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "dpm": dpm_solver}


@torch.no_grad()
def sample(
    name: str, denoise: Denoise, r: Tensor, levels: Sequence[float], noise: Noise, clip: float | None = None
) -> Iterator[Step]:
    """The steps of a sampler; the last one's `residual` is the result.

    Args:
        name: one of SAMPLERS.
        denoise: (noisy (B, 3, H, W), sqrt_gamma (B,)) -> predicted noise.
        r: where it starts, N(0, I) at the first level.
        levels: gamma, from the noisiest up to 1.
        noise: (step, like) -> standard normals; the deterministic samplers do not use it.
        clip: largest absolute residual predicted, in the units of `r`; eps is made to agree with it. None: unlimited.
    """
    if name not in SAMPLERS:
        raise ReproError(f"sampler {name!r} is unknown: choose {', '.join(SAMPLERS)}")
    rising = all(0 < a < b for a, b in itertools.pairwise(levels))
    if len(levels) < 2 or levels[-1] != 1 or not rising:
        raise ReproError(f"levels must rise from above 0 to 1, at least two: got {list(levels)[:4]}… {levels[-1:]}")
    before = None
    for i, (g, g_next) in enumerate(itertools.pairwise(levels)):
        a, s = math.sqrt(g), math.sqrt(1 - g)
        eps = denoise(r, torch.full((len(r),), a, device=r.device))
        clean = (r - s * eps) / a
        if clip is not None:
            clean = clean.clamp(-clip, clip)
            eps = (r - a * clean) / s
        step = Step(i, g, r, eps, clean)
        r = step.residual = SAMPLERS[name](step, g_next, before, noise)
        yield step
        before = step
