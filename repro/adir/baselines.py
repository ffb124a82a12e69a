"""DDRM and DPS: two other ways to let a measurement guide a diffusion network, in the same notation.

Kawar et al., "Denoising Diffusion Restoration Models"; Chung et al., "Diffusion Posterior Sampling for General Noisy
Inverse Problems".
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from repro.adir.guidance import Guidance, reconstruct, through_network
from repro.adir.operators import Operator, Separable
from repro.ddpm.process import Model
from repro.ddpm.schedules import Schedule
from repro.ddpm.steps import Step, spaced
from repro.engine.rng import KeyedNoise

ETA, ETA_B, STEPS = 0.85, 1.0, 20  # the published settings of DDRM
SMALLEST = 3e-2  # singular values below it count as 0, as in DDRM's code


def ddrm(
    model: Model,
    y: Tensor,
    operator: Separable,
    schedule: Schedule,
    noise: KeyedNoise,
    steps: int = STEPS,
    eta: float = ETA,
    eta_b: float = ETA_B,
    smallest: float = SMALLEST,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(state, clean estimate) of each step, both (B, 3, H, W); the last state is the result.

    Works in the coordinates of A's right singular vectors, where every coordinate is seen alone, with noise of sigma /
    singular value, or not at all (DDRM, eqs. 4 to 8). States are scaled as x_t / sqrt(alpha_bar_t), noise level
    sqrt(1 - alpha_bar_t) / sqrt(alpha_bar_t).
    """
    ts = spaced(schedule.T, steps, "linspace") if steps > 1 else [schedule.T - 1]
    ab = [float(schedule.alpha_bar[t]) for t in ts]
    level = [((1 - a) / a) ** 0.5 for a in ab] + [0.0]
    singular = operator.singular_values.to(y)
    seen = singular > smallest
    y_bar = torch.where(seen, operator.Ut(y) / singular.clamp(min=smallest), 0)
    floor = torch.where(seen, operator.noise / singular.clamp(min=smallest), torch.inf)  # noise of y_bar
    z = noise.normal(operator.image, step=schedule.T).to(y)
    start = torch.where(seen & (floor <= level[0]), y_bar, 0)
    spread = torch.where(seen & (floor <= level[0]), (level[0] ** 2 - floor**2).clamp(min=0), level[0] ** 2).sqrt()
    x_bar = start + spread * z  # eq. 7
    for i, t in enumerate(ts):
        x = operator.V(x_bar)
        with torch.no_grad():
            eps = model(x * ab[i] ** 0.5, torch.full((len(x),), t))[:, : x.shape[1]]
        x0 = (x - level[i] * eps).clamp(-1, 1)
        clean, now, before = operator.Vt(x0), level[i + 1], level[i]
        drift = (1 - eta**2) ** 0.5 * now
        unseen = clean + drift * (x_bar - clean) / before
        noisy = clean + drift * (y_bar - clean) / floor.clamp(min=1e-12)
        exact = (1 - eta_b) * clean + eta_b * y_bar
        mean = torch.where(seen, torch.where(floor > now, noisy, exact), unseen)
        near = (now**2 - (eta_b * floor) ** 2).clamp(min=0).sqrt()
        sigma = torch.where(seen & (floor <= now), near.nan_to_num(), eta * now)
        x_bar = mean + sigma * noise.normal(operator.image, step=t).to(y) if now > 0 else mean
        yield operator.V(x_bar), x0


def dps(
    model: Model,
    y: Tensor,
    operator: Operator,
    schedule: Schedule,
    noise: KeyedNoise,
    steps: int | None = 250,
    scale: float = 1.0,
) -> Iterator[Step]:
    """DPS, algorithm 1 as its code has it: a step of the prior, then -scale * grad ||y - A x0_hat(x_t)||, not squared.

    The gradient runs through the network at x_t and is not multiplied by the step's variance.
    """

    def move(x: Tensor, t: Tensor, step: Step) -> Tensor:
        g = through_network(model, step.x_t, t, y, operator, step.a, step.s, squared=False)
        return scale * g / step.variance  # the sampler multiplies by the variance

    return reconstruct(model, y, operator, schedule, noise, Guidance(), steps, instead=move)
