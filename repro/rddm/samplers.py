"""RDDM's sampler as a generator: each step yields its state, and the caller decides what to plot, log, or stop.

    x_T = process.start(y, z, schedule)
    for step in Sampler(schedule, "res").run(model, x_T, y, 5): ...
    x = sample(Sampler(schedule, "res").run(model, x_T, y, 5))   # only the result

The model is a function (x_t, t (B,)) -> (B, C, H, W), or (B, 2C, H, W) for "res_noise"; a network that sees y gets it
by `model_fn(network, cond=y)`.

The coefficient transformation: with y = 0, RDDM and DDPM are one process in two notations (`RDDMSchedule.from_ddpm`).
With one trained noise network, deterministic RDDM and DDIM then draw the same images, exactly, as long as nothing is
clipped. With clipping, rule "eq12" is no DDIM, and each of the other two is another DDIM. With noise added they part
even without clipping: eta = 1 has alpha_bar times DDPM's posterior variance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from repro.ddpm.process import Model, model_fn
from repro.ddpm.samplers import Noise, Steps, falling, sample, start_noise, walk
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of, whole, within
from repro.rddm import process
from repro.rddm.process import Objective, RDDMSchedule, RDDMTraining, heads, split

Rule = Literal["eq12", "compose", "rederive"]
PUBLISHED_DIVISOR = 1e-6  # what the released code writes where 1 - u_T is 0


@dataclass(slots=True)
class Step:
    """A step from x_t at timestep t to `x` at t_prev (-1: the finished image); clean image, residual and noise as it
    used them, clipped. All tensors (B, C, H, W)."""

    t: int
    t_prev: int
    x_t: Tensor
    x: Tensor
    x0: Tensor
    r: Tensor
    eps: Tensor


def times(T: int, steps: int | None = None, start: int | None = None) -> list[int]:
    """Descending timesteps: int(linspace(-1, T - 1, steps + 1)) without the -1; None takes them all.

    `start` takes the place of T - 1: SM-N has to start before u reaches 1.
    """
    end = T if start is None else start + 1
    steps = end if steps is None else steps
    whole(f"sampling steps from t={end - 1} of a schedule of {T}", end, 1, T)
    whole(f"sampling steps from t={end - 1} of a schedule of {T}", steps, 1, end)
    return [k * end // steps - 1 for k in range(steps, 0, -1)]  # in whole numbers: a float linspace may fall below one


@dataclass(frozen=True)
class Sampler:
    """The strided reverse process.

    Args:
        objective: what the network learned.
        eta: 0 deterministic, 1 the exact posterior. (The released code silently sets it to 0 for restoration.)
        clip: the clean image is cut to [-1, 1] and the residual to [-clip, clip]; None cuts nothing. Between images in
            [-1, 1] a residual spans ±2, so the ±1 of the released code cuts off strong restorations: white from black
            is a residual of -2.
        rule: how a step uses clipped predictions; without clipping all agree.
            "eq12": Eq. 12 as printed and released. Predictions are cut one by one, and need not add up to x_t any more;
            the step subtracts a fraction of the cut residual from the uncut x_t, and is no DDIM.
            "compose": r = y - x0 where one follows from the other; the step goes to x0 + u r + s eps with the network's
            noise kept: diffusers' DDIM as it comes.
            "rederive": the same with the noise made again by Eq. 7, so that all add up to x_t: DDIM with
            use_clipped_model_output.
    """

    schedule: RDDMSchedule
    objective: Objective
    eta: float = 0.0
    clip: float | None = 2.0
    rule: Rule = "eq12"

    def __post_init__(self) -> None:
        heads(self.objective)
        one_of("step rule", self.rule, get_args(Rule))
        within("eta", self.eta, 0, 1)

    def estimate(self, output: Tensor, x_t: Tensor, y: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """(x0, r, eps) by a network's output at (x_t, t): one predicted, the others by Eq. 16, or both predicted.

        SM-N divides by 1 - u_t, which is 0 at the start: x_T = y + s_T eps does not hold x0. With clipping 1e-6 takes
        its place, as in the released code, whose first image is then ±1 in every pixel; without it that is refused.
        """
        (u, s), (r, eps) = self.schedule.levels(t), split(output, x_t, self.objective)
        cut = (lambda x, most: x) if self.clip is None else (lambda x, most: x.clamp(-most, most))
        if eps is None:  # SM-Res
            raw, r = r, cut(r, self.clip)
            eps = torch.sub(x_t, y).add_(raw if self.rule == "compose" else r, alpha=1 - u).div_(s)
            x0 = cut(y - r, 1)
            r = r if self.rule == "eq12" else y - x0
        elif r is None:  # SM-N
            if u == 1 and self.clip is None:
                raise ReproError(f"the noise does not determine the image at t={t}, where 1 - u_t = 0: start earlier")
            x0 = cut(torch.sub(x_t, y, alpha=u).sub_(eps, alpha=s).div_(1 - u or PUBLISHED_DIVISOR), 1)
            r = cut(y - x0, self.clip)
            x0 = x0 if self.rule == "eq12" else y - r
        else:  # SM-Res-N
            r = cut(r, self.clip)
            x0 = cut(torch.sub(x_t, r, alpha=u).sub_(eps, alpha=s), 1)
        if self.rule == "rederive":
            eps = torch.sub(x_t, x0).sub_(r, alpha=u).div_(s)
        return x0, r, eps

    def variance(self, t: int, t_prev: int) -> float:
        """eta (s_t^2 - s_prev^2) s_prev^2 / s_t^2 (below Eq. 11); the difference is the sum of beta^2 over a stride.
        eta = 1 is the "sum-constrained variance": the exact posterior of this chain, and not DDPM's."""
        after, before = float(self.schedule.s2[t_prev]), float(self.schedule.s2[t])
        return self.eta * (before - after) * after / before

    def step(self, output: Tensor, x_t: Tensor, y: Tensor, t: int, t_prev: int, noise: Noise | None = None) -> Step:
        """One step by a network's output (report Eq. 12; Eq. 13 for eta = 0); the last returns x0, as released."""
        x0, r, eps = self.estimate(output, x_t, y, t)
        if t_prev < 0:
            return Step(t, t_prev, x_t, x0, x0, r, eps)
        (u, s), (u_prev, s_prev) = self.schedule.levels(t), self.schedule.levels(t_prev)
        variance = self.variance(t, t_prev)
        keep = max(s_prev**2 - variance, 0.0) ** 0.5
        if self.rule == "eq12":
            x = torch.sub(x_t, r, alpha=u - u_prev).sub_(eps, alpha=s - keep)
        else:  # Eq. 11
            x = torch.add(x0, r, alpha=u_prev).add_(eps, alpha=keep)
        if variance > 0:
            x = torch.add(x, noise(t, x_t), alpha=variance**0.5)
        return Step(t, t_prev, x_t, x, x0, r, eps)

    def run(
        self, model: Model, x_T: Tensor, y: Tensor, steps: Steps = None, noise: Noise | None = None
    ) -> Iterator[Step]:
        """Every step of a run from x_T (B, C, H, W), made by `process.start` at the first timestep visited.

        `y` (B, C, H, W): degraded images in [-1, 1], zeros for generation. `steps`: how many, see `times`, or the
        timesteps visited, falling; None: all. `noise`: see `repro.ddpm.samplers.Noise`; needed where eta > 0.
        """
        T = self.schedule.T
        ts = times(T, steps) if steps is None or isinstance(steps, int) else falling(steps, T)
        return walk(x_T, ts, lambda i, t_prev, x, t: self.step(model(x, t), x, y, ts[i], t_prev, noise))


@dataclass(frozen=True)
class Net:
    """A trained network and what it learned: images by name or number, the same in any batch, process or order.

    `ids` name the images and key the noise; `steps` goes over the network's own; `settings` are `start`, a timestep to
    begin with, `sum_scale` as in `process.start`, and those of `Sampler`.
    """

    network: nn.Module | Model
    learning: RDDMTraining
    steps: int

    @torch.no_grad()
    def restore(
        self, y: Tensor, ids: Sequence[int | str], steps: int | None = None, seed: int = 0, **settings: Any
    ) -> Tensor:
        """Degraded images (B, C, H, W) in [-1, 1] restored, in the same form. Regression has one step."""
        if self.learning.start == "none":
            t = torch.full((len(y),), self.learning.schedule.T - 1, device=y.device)
            return (y - self.network(y, t, y).sample).clamp(-1, 1)
        return sample(self.trajectory(y, ids, steps, seed, **settings)).clamp(-1, 1)

    @torch.no_grad()
    def generate(
        self, ids: Sequence[int], steps: int | None = None, seed: int = 0, shape: tuple[int, int, int] = (1, 28, 28),
        batch: int = 100, device: torch.device | str = "cpu", **settings: Any,
    ) -> Tensor:  # fmt: skip
        """Samples (len(ids), *shape) in [-1, 1], on the CPU: restoration with y = 0, which the network is not given."""
        settings |= {"steps": steps, "seed": seed, "condition": False}
        parts = [ids[first : first + batch] for first in range(0, len(ids), batch)]
        runs = (self.trajectory(torch.zeros(len(part), *shape, device=device), part, **settings) for part in parts)
        return torch.cat([sample(run).clamp(-1, 1).cpu() for run in runs])

    def trajectory(
        self, y: Tensor, ids: Sequence[int | str], steps: int | None = None, seed: int = 0, condition: bool = True,
        start: int | None = None, sum_scale: float | None = None, **settings: Any,
    ) -> Iterator[Step]:  # fmt: skip
        """The same as a generator of steps, to be watched; `condition`: whether the network is given y."""
        learning, schedule = self.learning, self.learning.schedule
        if learning.start == "none":
            raise ReproError("a regression network has no trajectory: it restores in one pass")
        model = model_fn(self.network, cond=y) if condition else model_fn(self.network)
        if learning.start == "noise":  # sampled by DDIM's rule
            y, settings = torch.zeros_like(y), {"rule": "compose", **settings}
        x_T = process.start(y, start_noise(ids, tuple(y.shape[1:]), seed).to(y), schedule, start, sum_scale)
        visited = times(schedule.T, steps or self.steps, start)
        noise = KeyedNoise(seed, list(ids), "sample/noise", y.device)
        return Sampler(schedule, learning.objective, **settings).run(model, x_T, y, visited, noise)


def matched(model: Model, trained: RDDMSchedule, other: RDDMSchedule) -> Model:
    """A generation network of schedule `trained` as one of `other`, without retraining.

    With y = 0 a state is (1 - u_t) x0 + s_t eps, and states of one ratio of shares differ by a factor: the network is
    given the timestep of `trained` whose ratio is nearest, and the state at the size that it has there.
    """
    angle, target = (torch.atan2(each.s, 1 - each.u) for each in (trained, other))
    right = torch.searchsorted(angle, target).clamp(1, trained.T - 1)  # angles grow with t
    nearest = torch.where(target - angle[right - 1] < angle[right] - target, right - 1, right)
    size_there, size = (torch.hypot(each.s, 1 - each.u) for each in (trained, other))
    factor = size_there[nearest] / size

    def call(x: Tensor, t: Tensor) -> Tensor:
        scale = factor.to(x.device, x.dtype)[t].reshape(-1, *[1] * (x.ndim - 1))
        return model(scale * x, nearest.to(t.device)[t])

    return call
