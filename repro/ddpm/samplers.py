"""Samplers as generators: each step yields its state, and the caller decides what to plot, log, or stop.

    for step in ddim(model, x_T, schedule, steps=50): ...      # watch the trajectory
    x = sample(ddim(model, x_T, schedule, steps=50))           # only the result
    x = draw(network, schedule, range(8), "ddim", steps=50)    # samples by number

Ancestral sampling: Ho et al. 2020, Algorithm 2 with Eq. 7, strided as in Nichol and Dhariwal 2021, Section 4. DDIM:
Song et al. 2021, "Denoising Diffusion Implicit Models", Eq. 12 and 16; its inversion is the same ODE upwards, Eq. 14.
Guidance: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis". Coefficients are made once, in
float64, as plain numbers: a step costs a few elementwise operations and never waits for an accelerator.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro.ddpm.losses import split_variance
from repro.ddpm.process import KINDS, Kind, Model, model_fn, prediction_part, to_eps, to_x0
from repro.ddpm.schedules import Schedule
from repro.ddpm.steps import Guide, Noise, Step, Steps, batch_times, check_start, falling, last, sample, spaced
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of

__all__ = ["Guide", "Noise", "Step", "ancestral", "ddim", "ddim_invert", "last", "sample", "spaced"]

Variance = Literal["fixed_small", "fixed_large", "learned_range"]
SAMPLERS = ("ddpm", "ddpm-large", "ddpm-learned", "ddim")
VARIANCE: dict[str, Variance] = {"ddpm": "fixed_small", "ddpm-large": "fixed_large", "ddpm-learned": "learned_range"}


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
    """Ancestral sampling (DDPM Algorithm 2) over all steps, `steps` of them, or given timesteps.

    A stride puts alpha_bar_t / alpha_bar_prev in the place of alpha_t; the network is given the original t.

    Args:
        model: (x, t (B,)) -> output in x's shape, or (B, 2C, H, W) with a variance head, which "learned_range" needs
            and every other setting leaves unread.
        x_T: (B, C, H, W) the start, usually N(0, I).
        noise: see `Noise`; the last step adds none.
        variance: beta_tilde ("fixed_small"), beta ("fixed_large"), or the network's ("learned_range").
        clip: predicted samples are cut to [-1, 1], and the mean is made from the cut ones.
        guide: moves the mean by variance * gradient (Dhariwal and Nichol 2021, Algorithm 1).
        guide_at: where the gradient is taken: the derivation expands around the mean, the authors' code takes x_t.
    """
    ts = _visited(x_T, schedule, steps, prediction)
    one_of("variance", variance, VARIANCE.values())
    one_of("guide_at", guide_at, ("mean", "x_t"))
    ab, ab_prev = _levels(schedule, ts)
    beta = 1 - ab / ab_prev
    tilde = (1 - ab_prev) / (1 - ab) * beta  # DDPM Eq. 7; 0 at the last step
    a, s = ab.sqrt().tolist(), (1 - ab).sqrt().tolist()
    from_x0 = (ab_prev.sqrt() * beta / (1 - ab)).tolist()
    from_x_t = ((1 - beta).sqrt() * (1 - ab_prev) / (1 - ab)).tolist()
    fixed = (beta if variance == "fixed_large" else tilde).tolist()
    # Improved DDPM replaces the log of the last, zero beta_tilde by its neighbour; only a guide ever sees that one.
    log_tilde = torch.cat([tilde[:-1], tilde[-2:-1] if len(ts) > 1 else beta]).log()
    log_middle = ((beta.log() + log_tilde) / 2).tolist()
    log_half = ((beta.log() - log_tilde) / 2).tolist()
    times = batch_times(ts, x_T)

    @torch.no_grad()  # holds while a step is computed, not in the caller's code between steps
    def run(x: Tensor) -> Iterator[Step]:
        for i, t in enumerate(ts):
            output = model(x, times[i])
            # log Sigma = v log beta + (1 - v) log beta_tilde with v = (number + 1) / 2 (Improved DDPM Eq. 15)
            sigma, sigma2 = fixed[i] ** 0.5, fixed[i]
            if variance == "learned_range":
                output, number = split_variance(output, x.shape[1])
                sigma = torch.mul(number, log_half[i] / 2).add_(log_middle[i] / 2).exp_()  # (B, C, H, W)
                sigma2 = sigma * sigma
            output = prediction_part(output, x)
            x0 = to_x0(output, x, a[i], s[i], prediction)
            if clip:
                x0 = x0.clamp(-1, 1)
            mean = torch.mul(x0, from_x0[i]).add_(x, alpha=from_x_t[i])
            t_prev = ts[i + 1] if i + 1 < len(ts) else -1
            step = Step(i, t, t_prev, x, mean, x0, mean, sigma2, output, a[i], s[i])
            if guide is not None:
                step.x = step.mean = mean = mean + sigma2 * guide(mean if guide_at == "mean" else x, times[i], step)
            if t_prev >= 0:
                z = noise(t, x)
                step.x = torch.addcmul(mean, sigma, z) if torch.is_tensor(sigma) else torch.add(mean, z, alpha=sigma)
            x = step.x
            yield step

    return run(x_T)


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
    ts = _visited(x_T, schedule, steps, prediction)
    check_start(x_T, eta, noise)
    one_of("final", final, ("one", "first"))
    if guide is not None and schedule.alpha_bar[ts[0]] == 0:
        raise ReproError(f"DDIM guidance moves the noise, which at t={ts[0]} (zero SNR) says nothing about the sample")
    ab, ab_prev = _levels(schedule, ts, 1.0 if final == "one" else float(schedule.alpha_bar[0]))
    sigma2 = eta**2 * ((1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev)).clamp(min=0)  # Eq. 16
    a, s = ab.sqrt().tolist(), (1 - ab).sqrt().tolist()
    from_x0 = ab_prev.sqrt().tolist()
    from_eps = (1 - ab_prev - sigma2).clamp(min=0).sqrt().tolist()  # rounding can leave -1e-17
    sigma, sigma2 = sigma2.sqrt().tolist(), sigma2.tolist()
    times = batch_times(ts, x_T)

    @torch.no_grad()
    def run(x: Tensor) -> Iterator[Step]:
        for i, t in enumerate(ts):
            output = prediction_part(model(x, times[i]), x)
            x0 = to_x0(output, x, a[i], s[i], prediction)
            t_prev = ts[i + 1] if i + 1 < len(ts) else -1
            step = Step(i, t, t_prev, x, x0, x0, x0, sigma2[i], output, a[i], s[i])
            if guide is not None:
                # eps - s g, in terms of the sample: x0 = (x_t - s eps) / a moves by s^2 g / a
                step.x0 = torch.add(x0, guide(x, times[i], step), alpha=s[i] ** 2 / a[i])
                step.used_eps = None
            elif prediction == "epsilon" and not (clip and eps_from_clipped):
                step.used_eps = output
            if clip and eps_from_clipped:
                step.x0, step.used_eps = step.x0.clamp(-1, 1), None
            eps = step.eps
            if clip and not eps_from_clipped:
                step.x0 = step.x0.clamp(-1, 1)
            step.x = step.mean = torch.mul(step.x0, from_x0[i]).add_(eps, alpha=from_eps[i])  # Eq. 12
            if sigma[i] > 0:
                step.x = torch.add(step.mean, noise(t, x), alpha=sigma[i])
            x = step.x
            yield step

    return run(x_T)


def ddim_invert(
    model: Model, x_0: Tensor, schedule: Schedule, steps: Steps = None, *, prediction: Kind = "epsilon", refine: int = 0
) -> Iterator[Step]:
    """Deterministic DDIM upwards, from a sample to its noise; `ddim` over the same timesteps comes back, clip=False.

    The step of `ddim` from t to t_prev used the noise predicted at (x_t, t). Upwards, x_t is not known yet: the noise
    is predicted at (x_{t_prev}, t), and the error falls with the number of steps. `refine` repeats each step that many
    times from the x_t just found (a fixed-point iteration, one network call each); the way back becomes nearly exact.

    The output is read at the t that the network was given. (For v and sample predictions diffusers reads it at the
    lower level, where for "sample" the first step divides zero by zero.) In each `Step`, t is the level that x reaches
    and t_prev the level of x_t; the first x_t is the sample.
    """
    ts = _visited(x_0, schedule, steps, prediction, upwards=True)
    ab, ab_prev = (table.flip(0) for table in _levels(schedule, ts))
    a, s = ab.sqrt().tolist(), (1 - ab).sqrt().tolist()  # the level that the step reaches
    a_from, s_from = ab_prev.sqrt().tolist(), (1 - ab_prev).sqrt().tolist()
    ts = ts[::-1]
    times = batch_times(ts, x_0)

    @torch.no_grad()
    def run(x: Tensor) -> Iterator[Step]:
        for i, t in enumerate(ts):
            reached = x
            for _ in range(1 + refine):
                output = prediction_part(model(reached, times[i]), x)
                eps = to_eps(output, reached, a[i], s[i], prediction)
                x0 = torch.sub(x, eps, alpha=s_from[i]).div_(a_from[i])
                reached = torch.mul(x0, a[i]).add_(eps, alpha=s[i])
            t_prev = ts[i - 1] if i else -1
            yield Step(i, t, t_prev, x, reached, x0, reached, 0.0, output, a_from[i], s_from[i], eps)
            x = reached

    return run(x_0)


def _visited(x: Tensor, schedule: Schedule, steps: Steps, prediction: Kind, upwards: bool = False) -> list[int]:
    """The descending timesteps of a run; refuses what cannot be sampled."""
    check_start(x)
    one_of("prediction type", prediction, KINDS)
    if steps is None or isinstance(steps, int):
        ts = spaced(schedule.T, schedule.T if steps is None else steps)
    else:
        ts = falling(steps, schedule.T)
    first = ts[-1 if upwards else 0]
    if prediction == "epsilon" and schedule.alpha_bar[first] == 0:
        raise ReproError(
            f"a network that predicts 'epsilon' cannot start at t={first}, where {schedule.name!r} has zero SNR "
            f"and the noise says nothing about the sample: use a 'v_prediction' or 'sample' network"
        )
    return ts


def _levels(schedule: Schedule, ts: Sequence[int], final: float = 1.0) -> tuple[Tensor, Tensor]:
    """alpha_bar at each visited timestep and at the one after it, float64 (n,); `final` follows the last."""
    ab = schedule.alpha_bar[torch.tensor(ts)]
    return ab, torch.cat([ab[1:], torch.tensor([final], dtype=torch.float64)])


def classifier_guide(classifier: Model, labels: Tensor, scale: float = 1.0) -> Guide:
    """scale * gradient of log p(label | x, t) of a classifier (x, t) -> logits (B, classes), trained on noisy images.

    `labels` (B,) int64. The gradient is that of a sum over the batch, so samples do not see one another.
    """

    def guide(x: Tensor, t: Tensor, step: Step) -> Tensor:
        if len(labels) != len(x):
            raise ReproError(f"guidance needs one label per sample: got {len(labels)} labels for {len(x)} samples")
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

    `guide(ids)` makes the guidance of a batch; `settings` go to the sampler.
    """
    parts = []
    for first in range(ids.start, ids.stop, batch):
        some = range(first, min(first + batch, ids.stop))
        x_T, noise = start_noise(some, shape, seed).to(device), KeyedNoise(seed, list(some), "sample/noise", device)
        extra = {**settings, "guide": guide(some)} if guide else settings
        if sampler == "ddim":
            run = ddim(model_fn(model), x_T, schedule, steps, eta=eta, noise=noise, **extra)
        else:
            run = ancestral(model_fn(model), x_T, schedule, noise, steps, variance=VARIANCE[sampler], **extra)
        parts.append(sample(run))
    return torch.cat(parts)
