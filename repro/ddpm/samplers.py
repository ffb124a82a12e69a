"""Samplers as generators: each step yields its state, and the caller decides what to plot, log, or stop.

    for step in ddim(model, x_T, schedule, steps=50): ...      # watch the trajectory
    x = sample(ddim(model, x_T, schedule, steps=50))           # only the result
    x = draw(network, schedule, range(8), "ddim", steps=50)    # samples by number

Ancestral sampling: Ho et al. 2020, Algorithm 2 with Eq. 7, strided as in Nichol and Dhariwal 2021, Section 4. DDIM:
Song et al. 2021, "Denoising Diffusion Implicit Models", Eq. 12 and 16; its inversion is the same ODE upwards, Eq. 14.
Guidance: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis". Coefficients are made once, in
float64, as plain numbers: a step costs a few elementwise operations and never waits for an accelerator.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro.ddpm.process import KINDS, Kind, Model, Schedule, model_fn, prediction_part, split_variance, to_eps, to_x0
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of, whole, within

Variance = Literal["fixed_small", "fixed_large", "learned_range"]
VARIANCE: dict[str, Variance] = {"ddpm": "fixed_small", "ddpm-large": "fixed_large", "ddpm-learned": "learned_range"}
SAMPLERS = (*VARIANCE, "ddim")

# The steps of a run: how many, "leading" as DDPM's code has them; or the timesteps, see `spaced`; None: all.
Steps = int | Sequence[int] | None
# Standard normals of `like`'s shape, type and device for one step; a `KeyedNoise` is one. Samplers give the timestep t
# as the step's number and never 0, so that a start x_T drawn with step 0 or T meets no number twice.
Noise = Callable[[int, Tensor], Tensor]


@dataclass(slots=True)
class Step:
    """One step of a sampler, from x_t at timestep t to x at timestep t_prev (-1: the finished sample)."""

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
    eps: Tensor | None = None  # (B, C, H, W) the noise in x_t as DDIM used it


# The gradient of a log likelihood: (x, t (B,), the step so far) -> gradient in x's shape; x is the mean, or x_t.
Guide = Callable[[Tensor, Tensor, Step], Tensor]


def sample(steps: Iterable[Step]) -> Tensor:
    """(B, C, H, W) the result of a sampler, run to its end."""
    return deque(steps, maxlen=1)[0].x


@torch.no_grad()  # holds while a step is computed, not in the caller's code between steps
def walk(x: Tensor, ts: Sequence[int], one: Callable[[int, int, Tensor, Tensor], Any]) -> Iterator[Any]:
    """The steps that visit the timesteps `ts` from x; `one` makes a step from its number, t_prev, state, and t (B,)."""
    times = torch.tensor(ts, device=x.device)[:, None].expand(-1, len(x)).contiguous()
    for i, t_prev in enumerate([*ts[1:], -1]):
        step = one(i, t_prev, x, times[i])
        x = step.x
        yield step


def ancestral(
    model: Model,
    x_T: Tensor,
    schedule: Schedule,
    noise: Noise,
    steps: Steps = None,
    *,
    prediction: Kind = "epsilon",
    variance: Variance = "fixed_small",
    clip: bool = True,
    guide: Guide | None = None,
    guide_at: Literal["mean", "x_t"] = "mean",
) -> Iterator[Step]:
    """Ancestral sampling (DDPM Algorithm 2); a stride puts alpha_bar_t / alpha_bar_prev in the place of alpha_t.

    Args:
        model: its output has x's shape, or a variance head (B, 2C, H, W), which "learned_range" alone reads.
        x_T: (B, C, H, W) the start, usually N(0, I).
        noise: see `Noise`; the last step adds none.
        variance: beta_tilde ("fixed_small"), beta ("fixed_large"), or the network's ("learned_range").
        clip: predicted samples are cut to [-1, 1], and the mean is made from the cut ones.
        guide: moves the mean by variance * gradient (Dhariwal and Nichol 2021, Algorithm 1).
        guide_at: where the gradient is taken: the derivation expands around the mean, the authors' code takes x_t.
    """
    ts, ab, ab_prev = _visited(schedule, steps, prediction)
    one_of("variance", variance, VARIANCE.values())
    beta = 1 - ab / ab_prev
    tilde = (1 - ab_prev) / (1 - ab) * beta  # DDPM Eq. 7; 0 at the last step
    a, s = ab.sqrt().tolist(), (1 - ab).sqrt().tolist()
    from_x0 = (ab_prev.sqrt() * beta / (1 - ab)).tolist()
    from_x_t = ((1 - beta).sqrt() * (1 - ab_prev) / (1 - ab)).tolist()
    fixed = (beta if variance == "fixed_large" else tilde).tolist()
    # Improved DDPM replaces the log of the last, zero beta_tilde by its neighbour; only a guide ever sees that one.
    log_tilde = torch.cat([tilde[:-1], tilde[-2:-1] if len(ts) > 1 else beta]).log()
    middle, half = (((beta.log() + sign * log_tilde) / 4).tolist() for sign in (1, -1))  # of log sigma

    def one(i: int, t_prev: int, x: Tensor, t: Tensor) -> Step:
        output = model(x, t)
        # log Sigma = v log beta + (1 - v) log beta_tilde with v = (number + 1) / 2 (Improved DDPM Eq. 15)
        sigma, sigma2 = fixed[i] ** 0.5, fixed[i]
        if variance == "learned_range":
            output, number = split_variance(output, x.shape[1])
            sigma = torch.mul(number, half[i]).add_(middle[i]).exp_()  # (B, C, H, W)
            sigma2 = sigma * sigma
        output = prediction_part(output, x)
        x0 = to_x0(output, x, a[i], s[i], prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        mean = torch.mul(x0, from_x0[i]).add_(x, alpha=from_x_t[i])
        step = Step(ts[i], t_prev, x, mean, x0, mean, sigma2, output, a[i], s[i])
        if guide is not None:
            step.x = step.mean = mean = mean + sigma2 * guide(mean if guide_at == "mean" else x, t, step)
        if t_prev >= 0:
            z = noise(ts[i], x)
            step.x = torch.addcmul(mean, sigma, z) if torch.is_tensor(sigma) else torch.add(mean, z, alpha=sigma)
        return step

    return walk(x_T, ts, one)


def ddim(
    model: Model,
    x_T: Tensor,
    schedule: Schedule,
    steps: Steps = None,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    prediction: Kind = "epsilon",
    clip: bool = True,
    eps_from_clipped: bool = True,
    final: Literal["one", "first"] = "one",
    guide: Guide | None = None,
) -> Iterator[Step]:
    """DDIM with any eta and stride (Song et al. 2021, Eq. 12, 16): 0 is deterministic, 1 has DDPM's variance.

    Args:
        noise: see `Noise`; needed where eta > 0.
        clip: predicted samples are cut to [-1, 1].
        eps_from_clipped: the noise is made again to agree with the cut sample, as guided-diffusion does; False keeps
            the network's noise, as diffusers' pipelines do.
        final: alpha_bar after the last step: 1, or the schedule's own first ("first", Stable Diffusion's setting).
        guide: moves eps by -s * gradient at x_t, before clipping (Dhariwal and Nichol 2021, Algorithm 2).
    """
    last = 1.0 if final == "one" else float(schedule.alpha_bar[0])
    ts, ab, ab_prev = _visited(schedule, steps, prediction, last)
    if within("eta", eta, 0, 1) > 0 and noise is None:
        raise ReproError(f"eta {eta} adds noise at each step: pass noise=KeyedNoise(...)")
    sigma2 = eta**2 * ((1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev)).clamp(min=0)  # Eq. 16
    a, s = ab.sqrt().tolist(), (1 - ab).sqrt().tolist()
    from_x0 = ab_prev.sqrt().tolist()
    from_eps = (1 - ab_prev - sigma2).clamp(min=0).sqrt().tolist()  # rounding can leave -1e-17
    sigma, sigma2 = sigma2.sqrt().tolist(), sigma2.tolist()
    clip_first = clip and eps_from_clipped
    as_predicted = prediction == "epsilon" and guide is None and not clip_first

    def one(i: int, t_prev: int, x: Tensor, t: Tensor) -> Step:
        output = prediction_part(model(x, t), x)
        x0 = to_x0(output, x, a[i], s[i], prediction)
        step = Step(ts[i], t_prev, x, x0, x0, x0, sigma2[i], output, a[i], s[i])
        if guide is not None:  # eps - s g, in terms of the sample: x0 = (x_t - s eps) / a moves by s^2 g / a
            x0 = torch.add(x0, guide(x, t, step), alpha=s[i] ** 2 / a[i])
        x0 = x0.clamp(-1, 1) if clip_first else x0
        step.eps = output if as_predicted else torch.sub(x, x0, alpha=a[i]).div_(s[i])
        step.x0 = x0.clamp(-1, 1) if clip and not clip_first else x0
        step.x = step.mean = torch.mul(step.x0, from_x0[i]).add_(step.eps, alpha=from_eps[i])  # Eq. 12
        if sigma[i] > 0:
            step.x = torch.add(step.mean, noise(ts[i], x), alpha=sigma[i])
        return step

    return walk(x_T, ts, one)


def ddim_invert(
    model: Model, x_0: Tensor, schedule: Schedule, steps: Steps = None, *, prediction: Kind = "epsilon", refine: int = 0
) -> Iterator[Step]:
    """Deterministic DDIM upwards, from a sample to its noise; `ddim` over the same timesteps comes back, clip=False.

    The step of `ddim` from t to t_prev used the noise predicted at (x_t, t). Upwards, x_t is not known yet: the noise
    is predicted at (x_{t_prev}, t), and the error falls with the number of steps. `refine` repeats each step that many
    times from the x_t just found (a fixed-point iteration, one network call each); the way back becomes nearly exact.
    In each `Step`, t is the level that x reaches and t_prev the level of x_t. (For v diffusers reads the output at the
    lower level, here it is read at the t that the network was given.)
    """
    ts, *levels = _visited(schedule, steps, prediction)
    ts, (ab, ab_prev) = ts[::-1], (level.flip(0) for level in levels)
    a, s = ab.sqrt().tolist(), (1 - ab).sqrt().tolist()  # the level that the step reaches
    a_from, s_from = ab_prev.sqrt().tolist(), (1 - ab_prev).sqrt().tolist()

    def one(i: int, _: int, x: Tensor, t: Tensor) -> Step:
        reached = x
        for _ in range(1 + refine):
            output = prediction_part(model(reached, t), x)
            eps = to_eps(output, reached, a[i], s[i], prediction)
            x0 = torch.sub(x, eps, alpha=s_from[i]).div_(a_from[i])
            reached = torch.mul(x0, a[i]).add_(eps, alpha=s[i])
        return Step(ts[i], ts[i - 1] if i else -1, x, reached, x0, reached, 0.0, output, a_from[i], s_from[i], eps)

    return walk(x_0, ts, one)


def spaced(T: int, steps: int, spacing: Literal["leading", "trailing", "linspace"] = "leading") -> list[int]:
    """`steps` of the timesteps 0..T-1, descending, under diffusers' names (Lin et al. 2024, Table 2).

    "leading" starts below T - 1 and ends at 0; "trailing" starts at T - 1 and ends above 0; "linspace" holds both ends.
    """
    one_of("timestep spacing", spacing, ("leading", "trailing", "linspace"))
    whole("number of sampling steps", steps, 1, T)
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


def _visited(
    schedule: Schedule, steps: Steps, prediction: Kind, final: float = 1.0
) -> tuple[list[int], Tensor, Tensor]:
    """The descending timesteps of a run, alpha_bar at each, and at the one after it (`final` after the last), (n,)."""
    steps = schedule.T if steps is None else steps
    ts = spaced(schedule.T, steps) if isinstance(steps, int) else falling(steps, schedule.T)
    if one_of("prediction type", prediction, KINDS) == "epsilon" and schedule.alpha_bar[ts[0]] == 0:
        where = f"at t={ts[0]}, where {schedule.name!r} has zero SNR"
        raise ReproError(f"a network that predicts 'epsilon' cannot start {where}: use a 'v_prediction' network")
    ab = schedule.alpha_bar[torch.tensor(ts)]
    return ts, ab, torch.cat([ab[1:], torch.tensor([final], dtype=torch.float64)])


def classifier_guide(classifier: Model, labels: Tensor, scale: float = 1.0) -> Guide:
    """scale * gradient of log p(label | x, t) of a classifier (x, t) -> logits (B, classes), trained on noisy images;
    `labels` (B,) int64. The gradient is that of a sum over the batch, so a sample's does not depend on the others."""

    def guide(x: Tensor, t: Tensor, step: Step) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_p = torch.log_softmax(classifier(x, t).float(), dim=1)
            chosen = log_p.gather(1, labels.to(x.device)[:, None]).sum()
            return torch.autograd.grad(chosen, x)[0] * scale

    return guide


def start_noise(ids: Sequence[int | str], shape: Sequence[int], seed: int = 0) -> Tensor:
    """x_T of the samples `ids`: (len(ids), *shape) standard normals, the same whatever batch they are drawn in."""
    return KeyedNoise(seed, list(ids), "sample/x_T").normal(shape)


def draw(
    model: nn.Module,
    schedule: Schedule,
    ids: range,
    sampler: str,
    steps: int,
    eta: float = 0.0,
    seed: int = 0,
    batch: int = 100,
    shape: tuple[int, ...] = (1, 28, 28),
    guide: Callable[[range], Guide] | None = None,
    device: torch.device | str = "cpu",
    **settings: Any,
) -> Tensor:
    """Samples `ids` in [-1, 1], (len(ids), C, H, W), by one of `SAMPLERS`: the same in any batch, process or order.
    `guide(ids)` makes the guidance of a batch; `settings` go to the sampler."""
    settings |= {"eta": eta} if sampler == "ddim" else {"variance": VARIANCE[sampler]}
    kind, parts = ddim if sampler == "ddim" else ancestral, []
    for some in (ids[first : first + batch] for first in range(0, len(ids), batch)):
        x_T, noise = start_noise(some, shape, seed).to(device), KeyedNoise(seed, list(some), "sample/noise", device)
        settings |= {"noise": noise, "guide": guide(some) if guide else None}
        parts.append(sample(kind(model_fn(model), x_T, schedule, steps=steps, **settings)))
    return torch.cat(parts)
