"""The forward process: noise schedules, what a network can predict (noise or velocity), and its losses.

Timesteps run from 0 to T-1, so `betas[t]` is the paper's beta_{t+1}. With a = sqrt(alpha_bar_t), s = sqrt(1 -
alpha_bar_t): x_t = a x0 + s eps, v = a eps - s x0 (Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of
Diffusion Models", Appendix D). All of it is elementwise, so any shape (B, …) works, and `a`, `s` are numbers or tensors
that broadcast to it.

Schedules. linear: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", Section 4; cosine: Nichol and Dhariwal
2021, "Improved Denoising Diffusion Probabilistic Models", Eq. 17; scaled linear: the code of latent diffusion, which
calls it "linear"; zero terminal SNR: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed".

Losses are one number per sample; the caller averages. The simple loss is DDPM Eq. 14; learned-range variance (Eq. 15)
and the hybrid loss (Eq. 16) are Improved DDPM's. Likelihood terms are in bits per dimension, as in that paper's code:
the weight 0.001 belongs to those units.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import ReproError, one_of

Kind = Literal["epsilon", "v_prediction"]  # diffusers' names
KINDS: tuple[Kind, ...] = get_args(Kind)

Model = Callable[[Tensor, Tensor], Tensor]  # (x (B, C, H, W), t (B,) int64) -> (B, C, H, W), or 2C with a variance head


@lru_cache(maxsize=64)
def _moved(table: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return table.to(dtype).to(device)


def gather(table: Tensor, t: Tensor | int, like: Tensor) -> Tensor:
    """Entries t, (B,) or one number, of a schedule's table (T,) as (B, 1, …, 1) on `like`'s device, in its type.

    Tables are float64 on the CPU, for roots and differences lose their digits in float32 (1 - alpha_bar_0 = 1e-4 has
    three left); they are cast and moved once.
    """
    t = torch.as_tensor(t, device=like.device).reshape(-1)
    if t.device.type == "cpu" and len(t) and (int(t.min()) < 0 or int(t.max()) >= len(table)):
        # On an accelerator this look would stop the queue; a negative t would silently read the table's end.
        raise ReproError(f"timesteps must lie in 0..{len(table) - 1}: got {int(t.min())}..{int(t.max())}")
    return _moved(table, like.device, like.dtype)[t].reshape(-1, *[1] * (like.ndim - 1))


class Schedule:
    """A discrete noise schedule: float64 tables (T,), not to be changed, made from the variances `betas` of the forward
    steps; `by_name(**config)` makes it again (empty for hand-made betas)."""

    def __init__(self, name: str, betas: Tensor, config: Mapping[str, Any] | None = None) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu").detach().clone()
        wrong = ~((betas > 0) & (betas <= 1))  # true for NaN too
        wrong[:-1] |= betas[:-1] == 1  # which erases the signal
        if wrong.any():
            at = int(wrong.nonzero()[0])
            found = f"got {betas[at].item():g} at t={at} of schedule {name!r}"
            raise ReproError(f"betas must lie in (0, 1], and only the last may be 1: {found}")
        self.name, self.config, self.T = name, config or {}, len(betas)
        self.betas, self.log_betas = betas, betas.log()
        # prod of (1 - beta), DDPM Eq. 4; and the same one step nearer to the data
        self.alpha_bar = torch.cumprod(1.0 - betas, dim=0)
        self.alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        # the share of the sample in x_t, and the standard deviation of its noise
        self.a, self.s = self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()
        # beta_tilde, DDPM Eq. 7; the log of its 0 at t = 0 is replaced by the one at t = 1, as in Improved DDPM
        self.posterior_variance = (1 - self.alpha_bar_prev) / (1 - self.alpha_bar) * betas
        finite = self.posterior_variance.clone()
        finite[0] = finite[1] if self.T > 1 else betas[0]
        self.posterior_log_variance = finite.log()
        # DDPM Eq. 7: the mean of the posterior is posterior_x0 * x0 + posterior_xt * x_t
        self.posterior_x0 = self.alpha_bar_prev.sqrt() * betas / (1 - self.alpha_bar)
        self.posterior_xt = (1 - betas).sqrt() * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

    def at(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) = (sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)), each (B, 1, …, 1) on `like`'s device, in its type."""
        return gather(self.a, t, like), gather(self.s, t, like)


def linear(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
    """Betas in equal steps (DDPM, Section 4)."""
    betas = torch.linspace(beta_1, beta_T, T, dtype=torch.float64)
    return Schedule("linear", betas, {"name": "linear", "T": T, "beta_1": beta_1, "beta_T": beta_T})


def cosine(T: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """alpha_bar follows a squared cosine (Improved DDPM, Eq. 17); betas are cut at `max_beta`."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2  # (T + 1,)
    betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return Schedule("cosine", betas, {"name": "cosine", "T": T, "offset": offset, "max_beta": max_beta})


def scaled_linear(T: int = 1000, beta_1: float = 0.00085, beta_T: float = 0.012) -> Schedule:
    """Square roots of the betas in equal steps: what latent diffusion calls "linear"."""
    betas = torch.linspace(beta_1**0.5, beta_T**0.5, T, dtype=torch.float64) ** 2
    return Schedule("scaled_linear", betas, {"name": "scaled_linear", "T": T, "beta_1": beta_1, "beta_T": beta_T})


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule shifted and scaled so that its last step holds no signal (Lin et al. 2024, Algorithm 1): the noise
    does not determine the image there, so the network has to predict v."""
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    config = {**schedule.config, "zero_terminal_snr": True} if schedule.config else {}
    return Schedule(f"{schedule.name}, zero terminal SNR", rescale_zero_terminal_snr(schedule.betas), config)


def by_name(name: str, **kwargs: Any) -> Schedule:
    """The schedule of that name, e.g. `by_name("linear", T=1000)`. A schedule's own `config` fits in."""
    known, zero = {"linear": linear, "cosine": cosine, "scaled_linear": scaled_linear}, "zero_terminal_snr"
    schedule = known[one_of("schedule", name, known)](**{k: v for k, v in kwargs.items() if k != zero})
    return zero_terminal_snr(schedule) if kwargs.get(zero) else schedule


def to_diffusers(schedule: Schedule, kind: Literal["ddpm", "ddim", "ddim_inverse"] = "ddpm", **kwargs: Any) -> Any:
    """The diffusers scheduler of the same betas, its tables in float32; `kwargs` go to its constructor."""
    import diffusers

    classes = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "ddim_inverse": "DDIMInverseScheduler"}
    config = schedule.config  # by recipe where diffusers has the same, so its JSON is short
    if config.get("name") in ("linear", "scaled_linear"):
        betas = {"beta_schedule": config["name"], "beta_start": config["beta_1"], "beta_end": config["beta_T"]}
    elif config.get("name") == "cosine" and (config["offset"], config["max_beta"]) == (0.008, 0.999):
        betas = {"beta_schedule": "squaredcos_cap_v2"}
    else:
        betas = {"trained_betas": schedule.betas.tolist()}
    if config.get("zero_terminal_snr"):
        betas["rescale_betas_zero_snr"] = True
    return getattr(diffusers, classes[kind])(num_train_timesteps=schedule.T, **betas, **kwargs)


def q_sample(x0: Tensor, t: Tensor | int, eps: Tensor, schedule: Schedule) -> Tensor:
    """x_t given x0 in one jump (DDPM Eq. 4 in the form of Section 3.2). t is (B,) or one number."""
    a, s = schedule.at(t, x0)
    return a * x0 + s * eps


def q_posterior(x0: Tensor, x_t: Tensor, t: Tensor | int, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Mean (B, …) and variance (B, 1, …, 1) of x_{t-1} given x_t and x0 (DDPM Eq. 6-7); at t = 0 they are x0 and 0."""
    mean = gather(schedule.posterior_x0, t, x0) * x0 + gather(schedule.posterior_xt, t, x0) * x_t
    return mean, gather(schedule.posterior_variance, t, x0)


def target(kind: Kind, x0: Tensor, eps: Tensor, t: Tensor | int, schedule: Schedule) -> Tensor:
    """The target of the network's output at x_t = q_sample(x0, t, eps); exact at every t, zero terminal SNR too."""
    if one_of("prediction type", kind, KINDS) == "epsilon":
        return eps
    a, s = schedule.at(t, x0)
    return a * eps - s * x0


def from_x0(kind: Kind, x_t: Tensor, x0: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """The output that means x0: eps = (x_t - a x0) / s, or v = (a x_t - x0) / s; s > 0 in a schedule."""
    return (x_t - a * x0) / s if kind == "epsilon" else (a * x_t - x0) / s


def to_x0(output: Tensor, x_t: Tensor, a: float, s: float, prediction: Kind) -> Tensor:
    """The sample by a network's output for x_t (DDPM Eq. 15 for noise, undefined at a = 0, which samplers refuse)."""
    if prediction == "epsilon":
        return torch.sub(x_t, output, alpha=s).div_(a)
    return torch.mul(x_t, a).sub_(output, alpha=s)


def to_eps(output: Tensor, x_t: Tensor, a: float, s: float, prediction: Kind) -> Tensor:
    """The noise in x_t by a network's output."""
    return output if prediction == "epsilon" else torch.mul(x_t, s).add_(output, alpha=a)


def prediction_part(output: Tensor, x_t: Tensor) -> Tensor:
    """The network's output without its variance head, where it has one that this sampler does not use."""
    if output.shape[1] == 2 * x_t.shape[1]:
        output = output[:, : x_t.shape[1]]
    if output.shape != x_t.shape:  # (B, 2, …) would broadcast against (B, 1, …) without a word
        raise ReproError(f"the network's output is {tuple(output.shape)} for a state of shape {tuple(x_t.shape)}")
    return output


def model_fn(module: nn.Module, *args: Any, **kwargs: Any) -> Model:
    """A diffusers-style module as a plain function (x, t) -> tensor; `args` and `kwargs` (conditions) go along."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        out = module(x, t, *args, **kwargs)
        return out if isinstance(out, torch.Tensor) else out.sample

    return call


def simple(output: Tensor, expected: Tensor, norm: Literal["l1", "l2"] = "l2") -> Tensor:
    """(B,) mean absolute (l1) or squared (l2) difference; half-precision outputs are compared in float32."""
    if output.shape != expected.shape:
        raise ReproError(f"loss needs two tensors of one shape: got {tuple(output.shape)} and {tuple(expected.shape)}")
    measure = F.l1_loss if one_of("loss norm", norm, ("l1", "l2")) == "l1" else F.mse_loss
    return measure(output.to(expected.dtype), expected, reduction="none").flatten(1).mean(dim=1)


def simple_loss(
    model: Model, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: Kind = "epsilon"
) -> Tensor:
    """(B,) the simple loss of a network at given steps t (B,) and noise eps (DDPM Eq. 14)."""
    return simple(model(q_sample(x0, t, eps, schedule), t), target(prediction, x0, eps, t, schedule))


def split_variance(output: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """A two-headed output (B, 2C, …) into the prediction (B, C, …) and the variance number in [-1, 1] (B, C, …)."""
    if (found := output.shape[1]) != 2 * channels:
        raise ReproError(f"learned_range needs a network with {2 * channels} output channels: got {found}")
    return output[:, :channels], output[:, channels:]


def learned_range_log_variance(number: Tensor, t: Tensor | int, schedule: Schedule) -> Tensor:
    """log Sigma = v log beta_t + (1 - v) log beta_tilde_t with v = (number + 1) / 2 (Improved DDPM Eq. 15)."""
    v = (number + 1) / 2
    return v * gather(schedule.log_betas, t, number) + (1 - v) * gather(schedule.posterior_log_variance, t, number)


def discretized_nll(x0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """-log probability in nats of 8-bit values x0 in [-1, 1] under a Gaussian cut into 256 bins (DDPM Eq. 13).

    The two end bins reach to infinity, so the 256 probabilities sum to one. A bin far out in a tail is evaluated in the
    lower tail (by symmetry), where the difference of two cumulative values keeps its digits.
    """
    inverse = torch.exp(-0.5 * log_var)
    upper = torch.where(x0 > 0.999, math.inf, inverse * (x0 - mean + 1 / 255))
    lower = torch.where(x0 < -0.999, -math.inf, inverse * (x0 - mean - 1 / 255))
    flip = lower > 0
    low, high = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    # erfc, since torch's ndtr is (1 + erf) / 2 and has no digits left in the lower tail either
    mass = 0.5 * (torch.erfc(high * -(0.5**0.5)) - torch.erfc(low * -(0.5**0.5)))
    return -torch.log(mass.clamp(min=1e-12))


def vlb_term(x0: Tensor, x_t: Tensor, t: Tensor, mean: Tensor, log_var: Tensor, schedule: Schedule) -> Tensor:
    """(B,) one term of the bound in bits per dimension (DDPM Eq. 5): L_{t-1} a KL, L_0 the decoder's NLL."""
    true_mean, _ = q_posterior(x0, x_t, t, schedule)
    low = gather(schedule.posterior_log_variance, t, x0)
    # of the true posterior from the network's Gaussian, in nats
    kl = 0.5 * (log_var - low + torch.exp(low - log_var) + (true_mean - mean) ** 2 * torch.exp(-log_var) - 1)
    first = (t == 0).reshape(-1, *[1] * (x0.ndim - 1))
    # The KL at t = 0 uses a substituted variance and is finite, so the branch not taken sends no NaN through `where`.
    return torch.where(first, discretized_nll(x0, mean, log_var), kl).flatten(1).mean(dim=1) / math.log(2)


def hybrid_loss(model: Model, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """(B,) L_simple + 0.001 L_vlb for a network that predicts noise and its variance (Improved DDPM Eq. 16).

    L_vlb is the sum over T terms; one uniformly drawn t stands for it with the factor T. Its gradient reaches the
    variance head only: the mean is held fixed (stop-gradient), so that L_simple alone trains the prediction.
    """
    x_t = q_sample(x0, t, eps, schedule)
    output, number = split_variance(model(x_t, t), x0.shape[1])
    beta, s = gather(schedule.betas, t, x_t), schedule.at(t, x_t)[1]
    mean = (x_t - beta / s * output.detach().to(x0.dtype)) / (1 - beta).sqrt()  # DDPM Eq. 11
    log_var = learned_range_log_variance(number.to(x0.dtype), t, schedule)
    return simple(output, eps) + 0.001 * schedule.T * vlb_term(x0, x_t, t, mean, log_var, schedule)
