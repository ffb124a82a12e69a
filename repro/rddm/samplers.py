"""RDDM's sampler as a generator: each step yields its state, and the caller decides what to plot, log, or stop.

    x_T = process.start(I_in, z, schedule)
    for step in reverse(model, x_T, I_in, schedule, steps=5, objective="res"): ...
    x = sample(reverse(...))                                     # only the result

One update is `read` (estimates from the output), then `advance` (Eq. 12); the diffusers scheduler calls the same two.
Restoration and generation are one path: generation passes zeros as I_in. The model is a function (I_t, t (B,)) ->
(B, C, H, W), or (B, 2C, H, W) for "res_noise"; a network that sees I_in gets it by `model_fn(network, cond=I_in)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from repro.ddpm.process import Model
from repro.ddpm.steps import Noise, batch_times, check_start, falling, last, sample, spaced
from repro.errors import ReproError
from repro.rddm.process import Estimate, Objective, check_objective, split
from repro.rddm.schedules import RDDMSchedule

__all__ = ["NO_CLIP", "PUBLISHED_CLIP", "Clip", "Step", "last", "reverse", "sample", "times"]

Spacing = Literal["rddm", "leading", "trailing", "linspace"]
Variance = Literal["sum", "preserving"]
Rule = Literal["eq12", "compose", "rederive", "posterior"]
AtEnd = Literal["refuse", "published"]
PUBLISHED_DIVISOR = 1e-6  # what the released code writes where 1 - abar_T is 0


@dataclass(slots=True)
class Step:
    """One step of a sampler, from I_t at timestep t to `x` at timestep t_prev (-1: the finished image)."""

    i: int  # 0, 1, …: which step of this run
    t: int  # timestep given to the network
    t_prev: int  # where x belongs; -1 is the clean image
    x_t: Tensor  # (B, C, H, W) state before the step, I_t
    x: Tensor  # (B, C, H, W) state after the step
    x0: Tensor  # (B, C, H, W) the clean image I_0 as the step used it: after clipping
    res: Tensor  # (B, C, H, W) the residual as the step used it
    eps: Tensor  # (B, C, H, W) the noise as the step used it
    mean: Tensor  # (B, C, H, W) of the distribution that x was drawn from
    variance: float  # of the same
    output: Tensor  # raw network output
    abar: float  # share of the residual in x_t
    bbar: float  # standard deviation of the noise in x_t


@dataclass(frozen=True)
class Clip:
    """What predictions are cut to.

    Args:
        picture: the clean image to [-1, 1].
        residual: the residual to [-residual, residual]; None leaves it. Between images in [-1, 1] it spans ±2, so
            the ±1 of the released code cuts off strong restorations: white from black is a residual of -2.
    """

    picture: bool = True
    residual: float | None = 2.0

    def __post_init__(self) -> None:
        if self.residual is not None and not self.residual > 0:
            raise ReproError(f"the residual is cut to ± a number above 0 (None: not cut): got {self.residual}")

    def I_0(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1) if self.picture else x

    def I_res(self, x: Tensor) -> Tensor:
        return x if self.residual is None else x.clamp(-self.residual, self.residual)


NO_CLIP = Clip(False, None)
PUBLISHED_CLIP = Clip(True, 1.0)


def times(T: int, steps: int, spacing: Spacing = "rddm", offset: int = 0, start: int | None = None) -> list[int]:
    """Descending timesteps: "rddm" is int(linspace(-1, T - 1, steps + 1)) without the -1, others as in `repro.ddpm`.

    `start` puts another timestep in the place of T - 1 ("rddm" only): SM-N has to start before abar reaches 1.
    """
    if start is not None and (spacing != "rddm" or not 0 <= start < T):
        raise ReproError(f"start must lie in 0..{T - 1}, with 'rddm' spacing: got start {start} and {spacing!r}")
    if spacing != "rddm":
        return spaced(T, steps, spacing, offset)
    end = T if start is None else start + 1
    if not 1 <= steps <= end:
        raise ReproError(f"number of sampling steps must lie in 1..{end} for a schedule of {end}: got {steps}")
    return [k * end // steps - 1 for k in range(steps, 0, -1)]  # in whole numbers: a float linspace may fall below one


def choose(
    T: int,
    steps: int | None,
    start: int | None = None,
    timesteps: Sequence[int] | None = None,
    spacing: Spacing = "rddm",
    offset: int = 0,
) -> list[int]:
    """The descending timesteps of a run: given ones, or `steps` spaced ones, or all."""
    if timesteps is None:
        return times(T, (T if start is None else start + 1) if steps is None else steps, spacing, offset, start)
    if steps is not None or start is not None:
        raise ReproError(f"give either steps and start or timesteps: got {steps}, {start} and {timesteps}")
    return falling(timesteps, T)


def sigma2(schedule: RDDMSchedule, t: int, s: int, eta: float = 1.0, kind: Variance = "sum") -> float:
    """Variance of the step from t to s: eta (bbar_t^2 - bbar_s^2) bbar_s^2 / bbar_t^2 (below Eq. 11).

    The difference is beta_t^2 for s = t - 1; a stride puts the sum of the skipped ones in its place. eta = 1 is the
    "sum-constrained variance": the exact posterior of this chain, and not DDPM's, of which it is alpha_bar_s times.

    `kind` "preserving" is DDIM's instead, for schedules that have a DDPM counterpart: there eta multiplies the
    standard deviation, and eta = 1 is DDPM's posterior variance (Song et al. 2021, Eq. 16).
    """
    ab = schedule.alpha_bar if kind == "preserving" else None  # refuses a schedule without DDPM counterpart
    if s < 0 or schedule.noiseless:
        return 0.0
    if ab is not None:
        return eta**2 * float((1 - ab[s]) / (1 - ab[t]) * (1 - ab[t] / ab[s]))
    after, before = float(schedule.bbar2[s]), float(schedule.bbar2[t])
    return eta * (before - after) * after / before


@dataclass(frozen=True, slots=True)
class Move:
    """The numbers of one step from t to s; made once per run, in float64."""

    t: int
    s: int
    abar: float
    bbar: float
    abar_s: float
    keep: float  # sqrt(bbar_s^2 - sigma^2)
    variance: float

    @classmethod
    def between(cls, schedule: RDDMSchedule, t: int, s: int, eta: float, variance: Variance = "sum") -> Move:
        (abar, bbar), (abar_s, bbar_s) = schedule.levels(t), schedule.levels(s)
        found = sigma2(schedule, t, s, eta, variance)
        return cls(t, s, abar, bbar, abar_s, max(bbar_s**2 - found, 0.0) ** 0.5, found)


def check_reading(
    schedule: RDDMSchedule, ts: Sequence[int], objective: Objective, clip: Clip, rule: Rule, at_end: AtEnd
) -> None:
    """Refuse settings that do not exist, and what a network for `objective` cannot say at these timesteps."""
    for name, found, known in (
        ("step rule", rule, ("eq12", "compose", "rederive", "posterior")),
        ("at_end", at_end, ("refuse", "published")),
    ):
        if found not in known:
            raise ReproError(f"{name} {found!r} is unknown: choose one of {', '.join(known)}")
    if check_objective(objective) != "noise":
        return
    if schedule.noiseless:
        raise ReproError(f"SM-N finds the picture by its noise: schedule {schedule.name!r} has none (sum_scale 0)")
    ended = [t for t in ts if schedule.abar[t] == 1]
    if ended and at_end == "refuse":
        raise ReproError(
            f"SM-N cannot read its network at t={ended[0]}, where 1 - abar_t is 0 and the noise says nothing about the "
            f"picture: start earlier (start={schedule.T - 2}, say), or at_end='published' for the released code's "
            f"division by {PUBLISHED_DIVISOR:g}"
        )
    if ended and not clip.picture:
        raise ReproError("at_end='published' divides by 1e-6 and needs the picture clipped: got no clipping")


def read(
    res: Tensor | None, noise: Tensor | None, x: Tensor, I_in: Tensor, move: Move, clip: Clip, rule: Rule
) -> Estimate:
    """Image, residual and noise of I_t = x from the predicted ones (None: not predicted), clipped for the rule.

    "eq12" and "posterior" clip as the released code does: predictions are cut one by one, and need not add up to I_t
    any more. "compose" and "rederive" tie the residual to the cut image, I_res = I_in - I_0, where one follows from the
    other; "compose" leaves the noise as predicted, "rederive" makes it again from Eq. 7, so that all add up to I_t.
    """
    abar, bbar, printed = move.abar, move.bbar, rule in ("eq12", "posterior")

    def over_bbar(eps: Tensor) -> Tensor:
        """A schedule without noise has none to find: there Eq. 13 moves by the predicted residual alone.

        (That is not the limit of little noise, in which all that the prediction leaves unexplained counts as noise.)
        """
        return eps.div_(bbar) if bbar else eps.zero_()

    if noise is None:  # SM-Res
        raw, res = res, clip.I_res(res)
        eps = over_bbar(torch.sub(x, I_in).add_(raw if rule == "compose" else res, alpha=1 - abar))
        I_0 = clip.I_0(I_in - res)
        if not printed:
            res = I_in - I_0
    elif res is None:  # SM-N
        eps = noise
        I_0 = torch.sub(x, I_in, alpha=abar).sub_(eps, alpha=bbar).div_(1 - abar or PUBLISHED_DIVISOR)
        I_0 = clip.I_0(I_0)
        res = clip.I_res(I_in - I_0)
        if not printed:
            I_0 = I_in - res
    else:  # SM-Res-N
        eps, res = noise, clip.I_res(res)
        I_0 = clip.I_0(torch.sub(x, res, alpha=abar).sub_(eps, alpha=bbar))
    if rule == "rederive":
        eps = over_bbar(torch.sub(x, I_0).sub_(res, alpha=abar))
    return Estimate(I_0, res, eps)


def advance(x: Tensor, found: Estimate, move: Move, rule: Rule) -> Tensor:
    """Mean of I_s. "eq12": from I_t, as printed, except that the last step returns I_0, as the released code does; the
    "posterior": as the released code does where every step is taken, the mean of the exact posterior, (bbar_s^2 I_t +
    (b^2 abar_s - bbar_s^2 a) I_res + b^2 I_0) / bbar_t^2 with a = abar_t - abar_s and b^2 = bbar_t^2 - bbar_s^2; the
    other rules: from I_0, as Eq. 11 has it. Without clipping they agree."""
    if move.s < 0:
        return found.I_0
    if rule == "posterior":
        after, before = move.keep**2 + move.variance, move.bbar**2
        mean = torch.mul(x, after / before).add_(found.I_0, alpha=(before - after) / before)
        share = (before - after) * move.abar_s - after * (move.abar - move.abar_s)
        return mean.add_(found.I_res, alpha=share / before)
    if rule == "eq12":
        mean = torch.sub(x, found.I_res, alpha=move.abar - move.abar_s)
        return mean.sub_(found.eps, alpha=move.bbar - move.keep)
    return torch.add(found.I_0, found.I_res, alpha=move.abar_s).add_(found.eps, alpha=move.keep)


def reverse(
    model: Model,
    x_T: Tensor,
    I_in: Tensor,
    schedule: RDDMSchedule,
    steps: int | None = None,
    *,
    objective: Objective,
    sample_as: Objective | None = None,
    eta: float = 0.0,
    noise: Noise | None = None,
    variance: Variance = "sum",
    spacing: Spacing = "rddm",
    start: int | None = None,
    timesteps: Sequence[int] | None = None,
    clip: Clip | None = None,
    rule: Rule = "eq12",
    at_end: AtEnd = "refuse",
) -> Iterator[Step]:
    """The strided reverse process with any eta (report Eq. 12; Eq. 13 for eta = 0).

    Args:
        model: see the module; it is given the timestep.
        x_T: (B, C, H, W) from `process.start`, at the first timestep visited.
        I_in: (B, C, H, W) degraded images in [-1, 1]; zeros for generation.
        steps: how many; None takes every timestep.
        objective: what the network learned.
        sample_as: read only one head of a "res_noise" network.
        eta: 0 deterministic, 1 the exact posterior. (The released code silently sets it to 0 for restoration.)
        noise: see `repro.ddpm.steps.Noise`; needed where eta > 0. The last step adds none.
        variance: see `sigma2`.
        spacing, start, timesteps: see `times`; `start` below T - 1 starts earlier.
        clip: what predictions are cut to; default image ±1, residual ±2 (nothing true is cut).
        rule: how a step uses clipped predictions; without clipping all agree.
            "eq12": from I_t, Eq. 12 as printed and released. It subtracts a fraction of the cut residual from the uncut
            I_t, and with clipping is no DDIM.
            "compose": I_0 + abar_s I_res + bbar_s eps, the network's noise kept: diffusers' DDIM as it comes.
            "rederive": the same with the noise made again from the cut image: DDIM with use_clipped_model_output.
            "posterior": the mean of the exact posterior, eta 1: the released code's loop where steps = T.
        at_end: SM-N at abar_T = 1 divides by 0. "refuse", or "published": by 1e-6, as the released code, whose first
            image is then ±1 in every pixel.
    """
    clip = Clip() if clip is None else clip
    ts = choose(schedule.T, steps, start, timesteps, spacing)
    check_start(x_T, eta, noise)
    if I_in.shape != x_T.shape:
        raise ReproError(f"I_in must have the shape of the start {tuple(x_T.shape)}: got {tuple(I_in.shape)}")
    check_reading(schedule, ts, sample_as or objective, clip, rule, at_end)
    if rule == "posterior" and (eta != 1 or schedule.noiseless):
        raise ReproError(f"rule 'posterior' needs eta 1 and a schedule with noise: got eta {eta}")
    moves = [Move.between(schedule, t, s, eta, variance) for t, s in zip(ts, [*ts[1:], -1], strict=True)]
    rows = batch_times(ts, x_T)

    @torch.no_grad()  # holds while a step is computed, not in the caller's code between steps
    def run(x: Tensor) -> Iterator[Step]:
        for i, m in enumerate(moves):
            output = model(x, rows[i])
            found = read(*split(output, x, objective, sample_as), x, I_in, m, clip, rule)
            mean = after = advance(x, found, m, rule)
            if m.variance > 0:
                after = torch.add(mean, noise(m.t, x), alpha=m.variance**0.5)
            estimate = (found.I_0, found.I_res, found.eps)
            yield Step(i, m.t, m.s, x, after, *estimate, mean, m.variance, output, m.abar, m.bbar)
            x = after

    return run(x_T)
