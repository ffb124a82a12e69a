"""Noise schedules: a float64 table of betas and everything that follows from it.

Timesteps run from 0 to T-1, so `betas[t]` is the paper's beta_{t+1}. Sources:
linear: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", Section 4;
cosine: Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", Eq. 17;
scaled linear: the code of latent diffusion, which calls it "linear";
zero terminal SNR: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", Algorithm 1.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from repro.errors import ReproError, one_of


class Tables:
    """Float64 tables (T,) on the CPU, read at timesteps 0..T-1; a subclass has `T` and the tables as attributes."""

    T: int

    @cached_property
    def _moved(self) -> dict[tuple[str, torch.device, torch.dtype], Tensor]:
        return {}

    def gather(self, table: str, t: Tensor | int, like: Tensor) -> Tensor:
        """Entries t, (B,) or one number, of the table of that name as (B, 1, …, 1) on `like`'s device, in its type.

        Roots and differences are taken in float64 first (in float32, 1 - alpha_bar_0 = 1e-4 has three digits left); the
        cast and the move to the device happen once per table.
        """
        key = (table, like.device, like.dtype)
        if key not in self._moved:
            self._moved[key] = getattr(self, table).to(like.dtype).to(like.device)
        t = torch.as_tensor(t, device=like.device).reshape(-1)
        if t.device.type == "cpu" and len(t) and (int(t.min()) < 0 or int(t.max()) >= self.T):
            # On an accelerator this look would stop the queue; a negative t would silently read the table's end.
            raise ReproError(f"timesteps must lie in 0..{self.T - 1}: got {int(t.min())}..{int(t.max())}")
        return self._moved[key][t].reshape(-1, *[1] * (like.ndim - 1))


class Schedule(Tables):
    """A discrete noise schedule: float64 tables of shape (T,), not to be changed.

    `betas` (T,): variances of the forward steps, each in (0, 1]; only the last may be 1. `config`: what makes it again,
    `by_name(**schedule.config)`; empty for hand-made betas.
    """

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
        return self.gather("a", t, like), self.gather("s", t, like)


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
    """The schedule shifted and scaled so that its last step holds no signal (Lin et al. 2024, Algorithm 1).

    At the last step noise says nothing about the image, so the network has to predict v there.
    """
    a = (schedule.a - schedule.a[-1]) * (schedule.a[0] / (schedule.a[0] - schedule.a[-1]))  # the first stays
    alpha_bar = a**2
    betas = 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    config = {**schedule.config, "zero_terminal_snr": True} if schedule.config else {}
    return Schedule(f"{schedule.name}, zero terminal SNR", betas, config)


def by_name(name: str, **kwargs: Any) -> Schedule:
    """The schedule of that name, e.g. `by_name("linear", T=1000)`. A schedule's own `config` fits in."""
    known, zero = {"linear": linear, "cosine": cosine, "scaled_linear": scaled_linear}, "zero_terminal_snr"
    schedule = known[one_of("schedule", name, known)](**{k: v for k, v in kwargs.items() if k != zero})
    return zero_terminal_snr(schedule) if kwargs.get(zero) else schedule


def to_diffusers(schedule: Schedule, kind: Literal["ddpm", "ddim", "ddim_inverse"] = "ddpm", **kwargs: Any) -> Any:
    """The diffusers scheduler of the same betas; `kwargs` go to its constructor (prediction_type, clip_sample, …).

    diffusers keeps its tables in float32, ours are float64: the two alpha_bar agree to about 1e-6 of their value.
    """
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
