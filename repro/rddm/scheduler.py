"""RDDM as a diffusers scheduler: `set_timesteps`, `step(...).prev_sample`, `save_pretrained`.

A step is made by `repro.rddm.samplers.Sampler`; only the bookkeeping is here.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from repro.ddpm.samplers import spaced
from repro.errors import ReproError, one_of
from repro.rddm import process
from repro.rddm.process import Objective, by_config
from repro.rddm.samplers import Rule, Sampler, times


@dataclass
class RDDMSchedulerOutput(BaseOutput):
    """`prev_sample` is the next state; the others are the clean image, residual and noise as the step used them
    (B, C, H, W)."""

    prev_sample: Tensor
    pred_original_sample: Tensor
    pred_residual: Tensor
    pred_noise: Tensor


class RDDMScheduler(SchedulerMixin, ConfigMixin):
    """Steps of the reverse process for a network of any of the three objectives.

    Args:
        num_train_timesteps, alpha, beta2, sum_scale, ddpm: the coefficients, see `repro.rddm.process.by_config`.
        objective, clip, rule: see `repro.rddm.samplers.Sampler`.
        timestep_spacing: "rddm", see `repro.rddm.samplers.times`, or "leading" as diffusers' DDIM.
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
        clip: float | None = 2.0,
        rule: Rule = "eq12",
        timestep_spacing: Literal["rddm", "leading"] = "rddm",
    ) -> None:
        one_of("timestep spacing", timestep_spacing, ("rddm", "leading"))
        self.schedule = by_config(num_train_timesteps, alpha, beta2, sum_scale=sum_scale, ddpm=ddpm)
        self.sampler = Sampler(self.schedule, objective, clip=clip, rule=rule)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(self.schedule.T - 1, -1, -1)

    @classmethod
    def from_ddpm(cls, scheduler: Any, **changes: Any) -> Self:
        """The scheduler for a noise network trained with a diffusers DDPM or DDIM scheduler, without retraining.

        Defaults make RDDM's rule draw what diffusers' `DDIMPipeline` draws from the network and the same start with
        eta = 0 (rule "compose"); `changes` go over them. diffusers' tables are float32, these float64. Raises
        `ReproError` for a setting that has no counterpart here.
        """
        c = scheduler.config
        known = {"beta_schedule": ("linear", "scaled_linear"), "trained_betas": (None,), "thresholding": (False,)}
        known |= {"prediction_type": ("epsilon",), "clip_sample_range": (1.0,), "timestep_spacing": ("leading",)}
        known |= {"set_alpha_to_one": (True, None), "steps_offset": (0,), "rescale_betas_zero_snr": (False,)}
        for name, accepted in known.items():
            if c.get(name) not in accepted:
                raise ReproError(f"{type(scheduler).__name__} with {name}={c.get(name)!r}; accepted: {accepted}")
        T, clip = c.num_train_timesteps, 2.0 if c.clip_sample else None
        ddpm = {"name": c.beta_schedule, "T": T, "beta_1": c.beta_start, "beta_T": c.beta_end}
        settings = {"objective": "noise", "rule": "compose", "clip": clip, "timestep_spacing": "leading", **changes}
        return cls(T, ddpm=ddpm, **settings)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise to start from, at the first timestep; 1 as in a DDPM for its coefficients."""
        return 1.0 if self.config.ddpm else self.schedule.levels(int(self.timesteps[0]))[1]

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Nothing to scale; part of every diffusers scheduler."""
        return sample

    def set_timesteps(self, num_inference_steps: int, device: Any = None, start: int | None = None) -> None:
        """Choose the timesteps of a run; `start` begins below the last (see `times`).

        Raises `ReproError` for SM-N where u_t = 1: the noise says nothing about the image there.
        """
        T, leading = self.schedule.T, self.config.timestep_spacing == "leading"
        ts = spaced(T, num_inference_steps) if leading else times(T, num_inference_steps, start)
        if self.config.objective == "noise" and self.schedule.u[ts[0]] == 1:
            raise ReproError(f"SM-N cannot read its network at t={ts[0]}, where 1 - u_t is 0: start={T - 2}, say")
        self.num_inference_steps, self.timesteps = len(ts), torch.tensor(ts, device=device)

    def start(self, condition: Tensor, noise: Tensor) -> Tensor:
        """The state at the first timestep: y + init_noise_sigma * noise; y (B, C, H, W) zeros for generation."""
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
        """The next state from x_t = `sample` and the network's output for it (report Eq. 12).

        Args:
            model_output: (B, C, H, W), or (B, 2C, H, W) with the residual first for "res_noise".
            condition: y (B, C, H, W) in [-1, 1]; None for generation, which is y = 0.
            eta: 0 deterministic, 1 the posterior's variance.
            variance_noise: standard normals of sample's shape in place of the generator's.
        """
        t, ts = int(timestep), self.timesteps.tolist()
        if t not in ts:
            raise ReproError(f"set_timesteps has not chosen timestep {t}: got {ts}")

        def noise(_: int, like: Tensor) -> Tensor:
            if variance_noise is not None:
                return variance_noise
            return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)

        y, t_prev = torch.zeros_like(sample) if condition is None else condition, [*ts, -1][ts.index(t) + 1]
        step = replace(self.sampler, eta=eta).step(model_output, sample, y, t, t_prev, noise)
        output = RDDMSchedulerOutput(step.x, step.x0, step.r, step.eps)
        return output if return_dict else output.to_tuple()

    def __len__(self) -> int:
        return self.schedule.T
