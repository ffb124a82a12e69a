"""RDDM as a diffusers pipeline that restores images.

Generation needs no pipeline of its own: `diffusers.DDPMPipeline(unet, RDDMScheduler.from_ddpm(scheduler))` samples an
ordinary DDPM by RDDM's rule, without retraining.
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from repro.data.images import ImageSource
from repro.data.inputs import pictures
from repro.errors import ReproError, one_of
from repro.nn.unet import tiled
from repro.rddm.model import Predictor
from repro.rddm.scheduler import RDDMScheduler

WHOLE, TILE, OVERLAP = 640, 512, 64  # pixels a side: up to which an image goes in one piece, of its tiles otherwise


class RDDMPipeline(DiffusionPipeline):
    """Restores images with one network and one scheduler.

    Args:
        unet: `RDDMNet` or `PublishedNet` that sees the degraded image.
        scheduler: names the objective the network was trained for; another one's network is refused.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: Predictor, scheduler: RDDMScheduler) -> None:
        super().__init__()
        if not isinstance(unet, Predictor) or not unet.config.condition or not isinstance(scheduler, RDDMScheduler):
            found = f"{type(unet).__name__} and {type(scheduler).__name__}"
            raise ReproError(f"RDDMPipeline takes an RDDMNet with condition=True and an RDDMScheduler: got {found}")
        learned, objective = unet.config.objective, scheduler.config.objective
        if learned != objective:
            raise ReproError(f"the network was trained for {learned!r}: it cannot be used as {objective!r}")
        self.register_modules(unet=unet, scheduler=scheduler)

    @classmethod
    def shipped(cls, task: str = "raindrop", variant: str = "use") -> Self:
        """The pipeline of weights that ship, of `task` "lowlight" or "raindrop"; "use" is for raindrops alone.

        Raises `ReproError` where there are no weights, and for networks that do not start from the degraded image.
        """
        from repro.engine.checkpoint import load_checkpoint

        if variant in ("regression", "regression-long", "sr3"):
            raise ReproError(f"RDDMPipeline: {variant!r} does not start from the degraded image")
        # A copy: a pipeline may be moved or cast, what `load_checkpoint` gave is shared.
        network = copy.deepcopy(load_checkpoint(f"rddm-{task}-{variant}-s0"))
        quiet = task == "raindrop" or variant in ("use", "quiet")  # trained and started with noise 0.1
        return cls(network, RDDMScheduler(objective=network.config.objective, sum_scale=0.01 if quiet else 1.0))

    @torch.no_grad()
    def __call__(
        self,
        image: ImageSource | Sequence[ImageSource],
        *,
        num_inference_steps: int = 5,
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
            image: a degraded image, a batch or a list of one size, as `repro.data.inputs.pictures` accepts.
            num_inference_steps, start: see `RDDMScheduler.set_timesteps`.
            eta: 0 deterministic, 1 the posterior's variance.
            generator: one, or one an image, so that an image does not depend on its batch. seed: instead of it, a
                number that makes one.
            tile: side of the overlapping tiles that the network sees in every step, the noise being of the whole
                image; None: one piece, "auto": tiles of 512 pixels where a side has more than 640.
            output_type: "pil", "np" (B, H, W, C) or "pt" (B, C, H, W), the last two float in [0, 1].
        """
        one_of("output_type", output_type, ("pil", "np", "pt"))
        if seed is not None:
            if generator is not None:
                raise ReproError("RDDMPipeline: got a generator and a seed; accepted: one of the two")
            try:
                generator = torch.Generator().manual_seed(seed)
            except (RuntimeError, TypeError, ValueError):
                raise ReproError(f"RDDMPipeline: got seed {seed!r}; accepted: a whole number of 64 bits") from None
        device, dtype, channels = self._execution_device, self.unet.dtype, self.unet.config.channels
        y = (2 * pictures(image, channels=channels) - 1).to(device, dtype)  # (B, C, H, W) in [-1, 1]
        if isinstance(generator, list) and len(generator) != len(y):
            raise ReproError(f"give one generator an image: got {len(generator)} generators for {len(y)} images")
        if tile == "auto":
            tile = TILE if max(y.shape[2:]) > WHOLE else None
        if tile is not None and not (isinstance(tile, int) and tile > OVERLAP):
            raise ReproError(
                f"tile is {tile!r}: accepted are more than the {OVERLAP} pixels that tiles overlap, or None"
            )

        def predict(x: Tensor, y: Tensor, t: int) -> Tensor:
            return self.unet(x, torch.full((len(x),), t, device=device), y).sample

        self.scheduler.set_timesteps(num_inference_steps, device=device, start=start)
        x = self.scheduler.start(y, randn_tensor(y.shape, generator=generator, device=device, dtype=dtype))
        for t in self.progress_bar(self.scheduler.timesteps.tolist()):
            if tile is None:
                output = predict(x, y, t)
            else:  # tile by tile, blended where they overlap: memory is that of one
                one = lambda part, t=t: predict(*part.chunk(2, dim=1), t)  # noqa: E731
                output = torch.cat([tiled(one, both, tile, OVERLAP) for both in torch.cat([x, y], dim=1).split(1)])
            x = self.scheduler.step(output, t, x, y, eta=eta, generator=generator).prev_sample

        images = VaeImageProcessor().postprocess(x, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
