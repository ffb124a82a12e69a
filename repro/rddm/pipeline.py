"""RDDM in diffusers: a scheduler (`set_timesteps`, `step(...).prev_sample`) and a pipeline that restores images.

A step is made by `repro.rddm.samplers.Sampler`; only the bookkeeping is here. Generation needs no pipeline of its own:
`diffusers.DDPMPipeline(unet, RDDMScheduler.from_ddpm(scheduler))` samples an ordinary DDPM by RDDM's rule, without
retraining.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import ImageSource, image_batch, resize, to_model
from repro.ddpm.samplers import spaced
from repro.engine.checkpoint import load_checkpoint
from repro.engine.rng import check_generator
from repro.errors import ReproError, one_of, whole
from repro.nn.unet import tiled
from repro.rddm import process
from repro.rddm.model import Predictor
from repro.rddm.process import Objective, by_config
from repro.rddm.samplers import Rule, Sampler, times

WHOLE, TILE, OVERLAP = 640, 512, 64  # pixels a side: up to which an image goes in one piece, of its tiles otherwise
# How the network for use sees raindrops, chosen on validation photographs. It learned on crops of 128 pixels: attention
# and normalisation over a whole photograph are not what it learned. A mirror image has the same drops.
RAINDROPS: dict[str, Any] = {"side": 384, "steps": 1, "tile": 160, "mirrored": True}


class RDDMScheduler(SchedulerMixin, ConfigMixin):
    """Steps of the reverse process for a network of any of the three objectives.

    Args:
        num_train_timesteps, alpha, beta2, sum_scale, ddpm: the coefficients, see `repro.rddm.process.by_config`. Those
            of a DDPM are sampled at the timesteps of diffusers' DDIM, others at `repro.rddm.samplers.times`.
        objective, clip, rule: see `repro.rddm.samplers.Sampler`; clip=None for a DDPM with clip_sample=False.
    """

    @register_to_config
    def __init__(
        self, num_train_timesteps: int = 1000, alpha: str = "decreased", beta2: str = "increased",
        sum_scale: float = 1.0, ddpm: dict[str, Any] | None = None, objective: Objective = "res",
        clip: float | None = 2.0, rule: Rule = "eq12",
    ) -> None:  # fmt: skip
        self.schedule = by_config(num_train_timesteps, alpha, beta2, sum_scale=sum_scale, ddpm=ddpm)
        self.sampler = Sampler(self.schedule, objective, clip=clip, rule=rule)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(self.schedule.T - 1, -1, -1)

    @classmethod
    def from_ddpm(cls, scheduler: Any, **changes: Any) -> Self:
        """The scheduler for a noise network trained with a diffusers DDPM or DDIM scheduler, without retraining.

        It draws what diffusers' `DDIMPipeline` draws from the network and the same start with eta = 0 (rule "compose");
        `changes` go over these settings. Raises `ReproError` for a setting that has no counterpart here.
        """
        c = scheduler.config
        known = {
            "beta_schedule": ("linear", "scaled_linear"), "trained_betas": (None,), "thresholding": (False,),
            "prediction_type": ("epsilon",), "clip_sample_range": (1.0,), "timestep_spacing": ("leading",),
            "set_alpha_to_one": (True, None), "steps_offset": (0,), "rescale_betas_zero_snr": (False,),
            # Every fixed variance is left out with eta = 0; a network that predicts one has twice the outputs.
            "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        }  # fmt: skip
        for name, accepted in known.items():
            if c.get(name) not in accepted:
                raise ReproError(f"{type(scheduler).__name__} with {name}={c.get(name)!r}; accepted: {accepted}")
        T = c.num_train_timesteps
        ddpm = {"name": c.beta_schedule, "T": T, "beta_1": c.beta_start, "beta_T": c.beta_end}
        settings = {"objective": "noise", "rule": "compose", "clip": 2.0 if c.clip_sample else None}
        return cls(T, ddpm=ddpm, **settings | changes)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise to start from, at the first timestep; 1 as in a DDPM for its coefficients."""
        return 1.0 if self.config.ddpm else self.schedule.levels(int(self.timesteps[0]))[1]

    def set_timesteps(self, num_inference_steps: int, device: Any = None, start: int | None = None) -> None:
        """Choose the timesteps of a run; `start` begins below the last (see `times`), as SM-N has to."""
        T = self.schedule.T
        ts = spaced(T, num_inference_steps) if self.config.ddpm else times(T, num_inference_steps, start)
        if self.config.objective == "noise" and self.schedule.u[ts[0]] == 1:
            raise ReproError(f"SM-N cannot read its network at t={ts[0]}, where 1 - u_t is 0: start={T - 2}, say")
        self.num_inference_steps, self.timesteps = len(ts), torch.tensor(ts, device=device)

    def start(self, condition: Tensor, noise: Tensor) -> Tensor:
        """The state at the first timestep, y + init_noise_sigma * noise."""
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
    ) -> DDIMSchedulerOutput | tuple[Tensor, ...]:
        """The next state from x_t = `sample` and the network's output for it (report Eq. 12).

        `condition`: y (B, C, H, W) in [-1, 1]; None for generation, which is y = 0. `eta`: 0 deterministic, 1 the
        posterior's variance. `variance_noise`: standard normals of sample's shape in place of the generator's.
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
        output = DDIMSchedulerOutput(prev_sample=step.x, pred_original_sample=step.x0)
        return output if return_dict else output.to_tuple()


def output_of(network: Any, x: Tensor, t: int, y: Tensor, tile: int | None = None, mirrored: bool = False) -> Tensor:
    """A network's output for states x and degraded images y (B, C, H, W), in tiles that overlap and are blended, so
    that memory is that of one; `mirrored`: the mean with its output for the mirror images."""

    def once(both: Tensor) -> Tensor:
        first, last = both.chunk(2, dim=1)
        return network(first, torch.full((len(both),), t, device=x.device), last).sample

    both_ways = lambda both: (once(both) + once(both.flip(-1)).flip(-1)) / 2 if mirrored else once(both)  # noqa: E731
    both = torch.cat([x, y], dim=1)
    return torch.cat([tiled(both_ways, one, tile, OVERLAP) for one in both.split(1)]) if tile else both_ways(both)


class RDDMPipeline(DiffusionPipeline):
    """Restores images with one network, an `RDDMNet` or `PublishedNet` whose input is the degraded image, and one
    scheduler, of the objective that the network was trained for.

    `side`: where an image's shorter side has more pixels, the network sees a copy reduced to it, and the difference
    that it makes is enlarged and added: raindrops in a large image are larger than all that it was trained with.
    `steps`: of sampling, where the call does not say; `tile` (where it says "auto") and `mirrored`: see `output_of`.
    """

    model_cpu_offload_seq = "unet"

    def __init__(
        self, unet: Predictor, scheduler: RDDMScheduler, side: int | None = None, steps: int = 5,
        tile: int | None = None, mirrored: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(unet, Predictor) or not unet.config.condition or not isinstance(scheduler, RDDMScheduler):
            found = f"{type(unet).__name__} and {type(scheduler).__name__}"
            raise ReproError(f"RDDMPipeline takes an RDDMNet with condition=True and an RDDMScheduler: got {found}")
        learned, objective = unet.config.objective, scheduler.config.objective
        if learned != objective:
            raise ReproError(f"the network was trained for {learned!r}: it cannot be used as {objective!r}")
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(side=side, steps=steps, tile=tile, mirrored=mirrored)

    @classmethod
    def shipped(cls, task: str = "raindrop", variant: str = "use") -> Self:
        """The pipeline of weights that ship, of `task` "lowlight" or "raindrop"; "use" is for raindrops alone. Raises
        `ReproError` where there are no weights, and for networks that do not start from the degraded image."""
        if variant in ("regression", "regression-long", "sr3"):
            raise ReproError(f"RDDMPipeline: {variant!r} does not start from the degraded image")
        network = copy.deepcopy(load_checkpoint(f"rddm-{task}-{variant}-s0"))  # which is shared
        quiet = task == "raindrop" or variant in ("use", "quiet")  # trained and started with noise 0.1
        scheduler = RDDMScheduler(objective=network.config.objective, sum_scale=0.01 if quiet else 1.0)
        return cls(network, scheduler, **(RAINDROPS if variant == "use" else {}))

    @torch.no_grad()
    def __call__(
        self,
        image: ImageSource | Sequence[ImageSource],
        *,
        num_inference_steps: int | None = None,
        start: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        tile: int | Literal["auto"] | None = "auto",
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restored images, `.images`.

        Args:
            image: a degraded image, a batch or a list of one size, as `repro.data.images.image_batch` accepts.
            num_inference_steps, start: see `RDDMScheduler.set_timesteps`; None: the pipeline's own `steps`.
            eta: 0 deterministic, 1 the posterior's variance.
            generator: one, or one an image, so that an image does not depend on its batch; or a seed that makes one.
            tile: side of the overlapping tiles that the network sees in every step; None: one piece, "auto": the
                pipeline's own, or tiles of 512 pixels where a side has more than 640.
            output_type: "pil", or float in [0, 1]: "np" (B, H, W, C) or "pt" (B, C, H, W).
        """
        one_of("output_type", output_type, ("pil", "np", "pt"))
        device, dtype, channels = self._execution_device, self.unet.dtype, self.unet.config.channels
        given, side = image_batch(image, channels=channels), self.config.side
        small = resize(given, side) if side and min(given.shape[2:]) > side else given
        y = to_model(small).to(device, dtype)  # (B, C, H, W) in [-1, 1]
        check_generator("RDDMPipeline", generator, len(y), seed)
        if seed is not None:
            generator = torch.Generator().manual_seed(whole("RDDMPipeline: seed", seed, 0, 2**64 - 1))
        if tile == "auto":
            tile = self.config.tile or (TILE if max(y.shape[2:]) > WHOLE else None)
        if tile is not None and not (isinstance(tile, int) and tile >= 2 * OVERLAP):
            raise ReproError(f"tile is {tile!r}: accepted: at least {2 * OVERLAP} pixels, 'auto' or None")

        steps = self.config.steps if num_inference_steps is None else num_inference_steps
        self.scheduler.set_timesteps(steps, device=device, start=start)
        x = self.scheduler.start(y, randn_tensor(y.shape, generator=generator, device=device, dtype=dtype))
        for t in self.progress_bar(self.scheduler.timesteps.tolist()):
            output = output_of(self.unet, x, t, y, tile, self.config.mirrored)
            x = self.scheduler.step(output, t, x, y, eta=eta, generator=generator).prev_sample

        if small is not given:
            change = (x - y).float().cpu()
            x = to_model(given) + F.interpolate(change, given.shape[2:], mode="bicubic", antialias=True)
        images = VaeImageProcessor().postprocess(x, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
