"""RDDM as a diffusers scheduler: `set_timesteps`, `step(...).prev_sample`, `save_pretrained`.

A step is made by the same functions as in `samplers`; only the bookkeeping is here.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from repro.errors import ReproError
from repro.rddm import process, schedules
from repro.rddm.process import Objective, split
from repro.rddm.samplers import AtEnd, Clip, Move, Rule, Spacing, Variance, advance, check_reading, choose, read


@dataclass
class RDDMSchedulerOutput(BaseOutput):
    """`prev_sample` is I_s; the others are the clean image, residual and noise as the step used them (B, C, H, W)."""

    prev_sample: Tensor
    pred_original_sample: Tensor
    pred_residual: Tensor
    pred_noise: Tensor


class RDDMScheduler(SchedulerMixin, ConfigMixin):
    """Steps of the reverse process for a network of any of the three objectives.

    Args:
        num_train_timesteps, alpha, beta2, sum_scale, ddpm: the coefficients, see `repro.rddm.schedules.by_config`.
        objective, sample_as, rule, at_end: see `repro.rddm.samplers.reverse`.
        clip_sample: predicted images are cut to [-1, 1].
        residual_range: predicted residuals are cut to ± this; null leaves them.
        variance, timestep_spacing, steps_offset: see `repro.rddm.samplers`, `sigma2` and `times`.
        ddim_steps: a step leads T // steps below its timestep, as diffusers' DDIM has it, and not to the next timestep
            visited; the two part where the timesteps are unevenly spaced.
        unit_start: start from noise of variance 1 whatever the coefficients end with, as DDPM pipelines do.
    """

    order = 1
    has_compatibles = False

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        alpha: str = "decreased",
        beta2: str = "increased",
        sum_scale: float = 1.0,
        ddpm: dict[str, Any] | None = None,
        objective: Objective = "res",
        sample_as: Objective | None = None,
        clip_sample: bool = True,
        residual_range: float | None = 2.0,
        rule: Rule = "eq12",
        variance: Variance = "sum",
        at_end: AtEnd = "refuse",
        timestep_spacing: Spacing = "rddm",
        steps_offset: int = 0,
        ddim_steps: bool = False,
        unit_start: bool = False,
    ) -> None:
        self.schedule = schedules.by_config(num_train_timesteps, alpha, beta2, sum_scale=sum_scale, ddpm=ddpm)
        self.clip = Clip(clip_sample, residual_range)
        check_reading(self.schedule, [], sample_as or objective, self.clip, rule, at_end)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(self.schedule.T - 1, -1, -1)
        self._next: dict[int, int] = {}
        self._moves: dict[tuple[int, float], Move] = {}

    @classmethod
    def from_ddpm(cls, scheduler: Any, **changes: Any) -> RDDMScheduler:
        """The scheduler for a noise network trained with a diffusers scheduler (DDPM, DDIM, …), without retraining.

        Defaults make RDDM's rule draw what diffusers' `DDIMPipeline` draws from the network (rule "compose", the
        scheduler's own timesteps and DDIM's steps between them, unit start, DDIM's variance); `changes` go over them.
        diffusers' tables are float32, these float64. Raises `ReproError` for a setting that has no counterpart here.
        """
        ddpm = _ddpm_config(scheduler.config)
        config = DDIMScheduler.from_config(scheduler.config).config  # as `DDIMPipeline` reads it
        for refused, why in (
            (config.prediction_type != "epsilon", "networks have to predict 'epsilon'"),
            (config.thresholding, "dynamic thresholding has no counterpart in RDDM"),
            (config.clip_sample and config.clip_sample_range != 1.0, "images are clipped to [-1, 1]"),
            (not config.set_alpha_to_one, "RDDM's last step ends at the image itself"),
        ):
            if refused:
                names = ("prediction_type", "thresholding", "clip_sample_range", "set_alpha_to_one")
                found = ", ".join(f"{name}={config[name]!r}" for name in names)
                raise ReproError(f"{why}: got a scheduler with {found}")
        _refuse_unknown(scheduler)
        settings = {
            "num_train_timesteps": config.num_train_timesteps,
            "alpha": "ddpm",
            "beta2": "ddpm",
            "ddpm": ddpm,
            "objective": "noise",
            "clip_sample": config.clip_sample,
            "residual_range": None,
            "rule": "compose",
            "variance": "preserving",
            "timestep_spacing": config.timestep_spacing,
            "steps_offset": config.steps_offset if config.timestep_spacing == "leading" else 0,
            "ddim_steps": True,
            "unit_start": True,
        }
        return cls(**{**settings, **changes})

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise to start from, at the first timestep."""
        return 1.0 if self.config.unit_start else self.schedule.levels(int(self.timesteps[0]))[1]

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Nothing to scale; part of every diffusers scheduler."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[int] | None = None,
        start: int | None = None,
    ) -> None:
        """Choose the timesteps of a run: how many, or which; `start` begins below the last (see `times`)."""
        c = self.config
        ts = choose(self.schedule.T, num_inference_steps, start, timesteps, c.timestep_spacing, c.steps_offset)
        check_reading(self.schedule, ts, c.sample_as or c.objective, self.clip, c.rule, c.at_end)
        self.num_inference_steps = len(ts)
        self.timesteps = torch.tensor(ts, device=device)
        after = [*ts[1:], -1]
        if c.ddim_steps and timesteps is None:
            after = [max(t - self.schedule.T // len(ts), -1) for t in ts]
        self._next, self._moves = dict(zip(ts, after, strict=True)), {}

    def start(self, condition: Tensor, noise: Tensor) -> Tensor:
        """The state at the first timestep: I_in + init_noise_sigma * noise; I_in (B, C, H, W) zeros for generation."""
        return process.start(condition, noise, self.schedule, sum_scale=self.init_noise_sigma**2)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        condition: Tensor | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> RDDMSchedulerOutput | tuple[Tensor, ...]:
        """I_s from I_t = `sample` and the network's output for it (report Eq. 12).

        Args:
            model_output: (B, C, H, W), or (B, 2C, H, W) with the residual first for "res_noise".
            condition: I_in (B, C, H, W) in [-1, 1]; None for generation, which is I_in = 0.
            eta: 0 deterministic, 1 the posterior's variance.
            variance_noise: standard normals of sample's shape in place of the generator's.
        """
        t = int(timestep)
        if t not in self._next:
            raise ReproError(f"set_timesteps has not chosen timestep {t}: got {self.timesteps.tolist()}")
        if not 0 <= eta <= 1:
            raise ReproError(f"eta must lie in [0, 1]: got {eta}")
        if (t, eta) not in self._moves:
            self._moves[t, eta] = Move.between(self.schedule, t, self._next[t], eta, self.config.variance)
        move, rule = self._moves[t, eta], self.config.rule
        I_in = torch.zeros_like(sample) if condition is None else condition
        parts = split(model_output, sample, self.config.objective, self.config.sample_as)
        found = read(*parts, sample, I_in, move, self.clip, rule)
        after = advance(sample, found, move, rule)
        if move.variance > 0:
            if variance_noise is None:
                like = {"device": sample.device, "dtype": sample.dtype}
                variance_noise = randn_tensor(sample.shape, generator=generator, **like)
            after = torch.add(after, variance_noise, alpha=move.variance**0.5)
        if not return_dict:
            return after, found.I_0, found.I_res, found.eps
        return RDDMSchedulerOutput(after, found.I_0, found.I_res, found.eps)

    def add_noise(
        self, original_samples: Tensor, noise: Tensor, timesteps: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """The forward process in one jump (Eq. 7): I_t for I_0, noise and t (B,); `condition` is I_in, None for 0."""
        I_in = torch.zeros_like(original_samples) if condition is None else condition
        return process.q_sample(original_samples, I_in - original_samples, timesteps, noise, self.schedule)

    def __len__(self) -> int:
        return self.schedule.T


def _refuse_unknown(scheduler: Any) -> None:
    """Refuse what a scheduler of another class was set to and DDIM has no word for; its variance is DDIM's here."""
    own, ddim = (inspect.signature(kind.__init__).parameters for kind in (type(scheduler), DDIMScheduler))
    for name, value in scheduler.config.items():
        known = name in ddim or name not in own or name == "variance_type"
        if not known and value != own[name].default:
            raise ReproError(f"{type(scheduler).__name__}'s {name}={value!r} has no counterpart in RDDM's sampler")


def _ddpm_config(config: Any) -> dict[str, Any]:
    """The settings of `repro.ddpm.schedules.by_name` for a diffusers scheduler's configuration."""
    if config.get("trained_betas") is not None:
        raise ReproError("a DDPM with hand-made betas (trained_betas) has no recipe to save; name its schedule")
    kind, T = config.beta_schedule, config.num_train_timesteps
    if kind in ("linear", "scaled_linear"):
        found: dict[str, Any] = {"name": kind, "T": T, "beta_1": config.beta_start, "beta_T": config.beta_end}
    elif kind == "squaredcos_cap_v2":
        found = {"name": "cosine", "T": T}
    else:
        raise ReproError(f"beta schedule {kind!r} is unknown: plug in one of linear, scaled_linear, squaredcos_cap_v2")
    return {**found, "zero_terminal_snr": True} if config.get("rescale_betas_zero_snr") else found
