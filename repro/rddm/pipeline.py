"""RDDM as a diffusers pipeline: restoration where it is given images, generation where it is not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from repro.data.images import ImageSource
from repro.data.inputs import pictures
from repro.errors import ReproError
from repro.nn.padding import pad_to_multiple, tiled, unpad
from repro.rddm.model import Predictor
from repro.rddm.scheduler import RDDMScheduler

WHOLE, TILE, OVERLAP = 640, 512, 64  # pixels a side: up to which an image goes in one piece, of its tiles otherwise


class RDDMPipeline(DiffusionPipeline):
    """Restores images, or generates them, with one network and one scheduler.

    Args:
        unet: `RDDMNet`, `PublishedNet`, or a diffusers `UNet2DModel` that predicts noise.
        scheduler: names the objective the network was trained for; another one's network is refused.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: Predictor | UNet2DModel, scheduler: RDDMScheduler) -> None:
        super().__init__()
        if not isinstance(scheduler, RDDMScheduler):
            found = type(scheduler).__name__
            raise ReproError(f"RDDMPipeline needs an RDDMScheduler: got {found}; from_ddpm takes a DDPM's network")
        if not isinstance(unet, Predictor | UNet2DModel):
            raise ReproError(f"RDDMPipeline takes an RDDMNet or a UNet2DModel: got {type(unet).__name__}")
        learned, objective = unet.config.get("objective", "noise"), scheduler.config.objective
        if learned != objective:
            raise ReproError(f"the network was trained for {learned!r}: it cannot be used as {objective!r}")
        self.register_modules(unet=unet, scheduler=scheduler)
        self.channels = unet.config.get("channels", unet.config.get("in_channels"))
        self.conditional = unet.config.get("condition", False)

    @classmethod
    def from_ddpm(cls, ddpm: Any, **changes: Any) -> RDDMPipeline:
        """An ordinary DDPM (a pipeline with `unet` and `scheduler`) sampled by RDDM's rule, without retraining.

        As it comes it draws what `DDIMPipeline` draws; `changes` are settings of `RDDMScheduler`, e.g. rule="eq12".
        """
        return cls(ddpm.unet, RDDMScheduler.from_ddpm(ddpm.scheduler, **changes))

    @classmethod
    def shipped(cls, task: str = "raindrop", variant: str = "use") -> RDDMPipeline:
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
        image: ImageSource | Sequence[ImageSource] | None = None,
        *,
        batch_size: int = 1,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 5,
        start: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        tile: int | Literal["auto"] | None = "auto",
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restored or generated images, `.images`.

        Args:
            image: a degraded image, a batch or a list of one size, as `repro.data.inputs.pictures` accepts. None
                generates.
            batch_size, height, width: of what is generated (the network's own `sample_size` by default).
            num_inference_steps, start: see `RDDMScheduler.set_timesteps`.
            eta: 0 deterministic, 1 the posterior's variance.
            generator: one, or one an image, so that an image does not depend on its batch. seed: instead of it, a
                number that makes one.
            tile: side of the overlapping tiles that the network sees in every step, the noise being of the whole
                image; None: one piece, "auto": tiles of 512 pixels where a side has more than 640.
            output_type: "pil", "np" (B, H, W, C) or "pt" (B, C, H, W), the last two float in [0, 1].
        """
        if output_type not in ("pil", "np", "pt"):
            raise ReproError(f"output_type {output_type!r} is unknown: choose pil, np or pt")
        if seed is not None:
            if generator is not None:
                raise ReproError("RDDMPipeline: got a generator and a seed; accepted: one of the two")
            generator = torch.Generator().manual_seed(seed)
        if (image is None) == self.conditional:
            raise ReproError("a network that restores needs an image, image=..., and one that generates takes none")
        device, dtype = self._execution_device, self.unet.dtype
        if image is None:
            own = self.unet.config.get("sample_size")
            own = own if isinstance(own, tuple | list) else (own, own)
            size = (height or own[0], width or own[1])
            if None in size:
                raise ReproError(f"generation needs height and width, the network names no sample_size: got {size}")
            y = torch.zeros((batch_size, self.channels, *size), device=device, dtype=dtype)
        else:
            y = (2 * pictures(image, channels=self.channels) - 1).to(device, dtype)  # (B, C, H, W) in [-1, 1]
        if isinstance(generator, list) and len(generator) != len(y):
            raise ReproError(f"give one generator an image: got {len(generator)} generators for {len(y)} images")
        if tile == "auto":
            tile = TILE if image is not None and max(y.shape[2:]) > WHOLE else None
        if tile is not None and tile <= OVERLAP:
            raise ReproError(f"tile is {tile}: accepted are more than the {OVERLAP} pixels that tiles overlap, or None")

        self.scheduler.set_timesteps(num_inference_steps, device=device, start=start)
        x = self.scheduler.start(y, randn_tensor(y.shape, generator=generator, device=device, dtype=dtype))
        for t in self.progress_bar(self.scheduler.timesteps.tolist()):
            output = self._predict(x, t, y) if tile is None else self._by_tiles(x, t, y, tile)
            x = self.scheduler.step(output, t, x, y, eta=eta, generator=generator).prev_sample

        images: Any = ((x + 1) / 2).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _by_tiles(self, x: Tensor, t: int, y: Tensor, tile: int) -> Tensor:
        """The network's output tile by tile, blended where tiles overlap; memory is that of one."""

        def one(part: Tensor) -> Tensor:
            return self._predict(part[:, : self.channels], t, part[:, self.channels :])

        return torch.cat([tiled(one, both, tile, OVERLAP) for both in torch.cat([x, y], dim=1).split(1)])

    def _predict(self, x: Tensor, t: int, y: Tensor) -> Tensor:
        """The network's output; images of any size are padded for it and the output is cropped, so that neither noise
        nor result depends on the padding."""
        when = torch.full((len(x),), t, device=x.device)
        if isinstance(self.unet, Predictor):
            return self.unet(x, when, y if self.conditional else None).sample
        x, box = pad_to_multiple(x, 2 ** (len(self.unet.config.block_out_channels) - 1))
        return unpad(self.unet(x, when).sample, box)
