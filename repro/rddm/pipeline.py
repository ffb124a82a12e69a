"""RDDM as a diffusers pipeline: restoration where it is given images, generation where it is not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from repro.data.images import ImageSource
from repro.data.inputs import pictures
from repro.errors import ReproError
from repro.nn.padding import pad_to_multiple, tiled, unpad
from repro.nn.unet import UNet
from repro.rddm.model import RDDMNet
from repro.rddm.process import Objective, heads
from repro.rddm.scheduler import RDDMScheduler

WHOLE, TILE, OVERLAP = 640, 512, 64  # pixels a side: up to which an image goes in one piece, of its tiles otherwise


class RDDMPipeline(DiffusionPipeline):
    """Restores images, or generates them, with one network and one scheduler.

    Args:
        unet: `RDDMNet`, `repro.nn.unet.UNet`, or a diffusers `UNet2DModel`. A network that takes a
            condition is given I_in; a `UNet2DModel` of twice the image's input channels gets it behind I_t.
        scheduler: names the objective the network was trained for; another one's network is refused.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: nn.Module, scheduler: RDDMScheduler) -> None:
        super().__init__()
        if not isinstance(scheduler, RDDMScheduler):
            raise ReproError(
                f"RDDMPipeline needs an RDDMScheduler: got {type(scheduler).__name__}; a DDPM that predicts noise goes "
                f"in by RDDMPipeline.from_ddpm"
            )
        self.register_modules(unet=unet, scheduler=scheduler)
        self.channels, self.conditional = _channels(unet, scheduler.config.objective)

    @classmethod
    def from_ddpm(cls, ddpm: Any, **changes: Any) -> RDDMPipeline:
        """An ordinary DDPM (a pipeline with `unet` and `scheduler`) sampled by RDDM's rule, without retraining.

        As it comes it draws what `DDIMPipeline` draws; `changes` are settings of `RDDMScheduler`, e.g. rule="eq12".
        """
        return cls(ddpm.unet, RDDMScheduler.from_ddpm(ddpm.scheduler, **changes))

    @classmethod
    def shipped(cls, task: str = "lowlight", variant: str = "use") -> RDDMPipeline:
        """The pipeline of weights that ship: of `task` "lowlight" or "raindrop" by default the network for use.

        Raises `ReproError` where there are no weights, and for networks that do not start from the degraded image.
        """
        from repro.engine.checkpoint import load_checkpoint, trained

        if variant in ("regression", "regression-long", "sr3"):
            raise ReproError(f"RDDMPipeline: {variant!r} does not start from the degraded picture")
        name = f"rddm-{task}-{variant}-s0"
        if not trained(name):
            raise ReproError(f"{name}: no weights here; `repro list rddm` names the networks and what trains them")
        # A copy: a pipeline may be moved or cast, what `load_checkpoint` gave is shared.
        network = copy.deepcopy(load_checkpoint(name))
        quiet = task == "raindrop" or variant in ("use", "quiet")  # trained and started with noise 0.1
        return cls(network, RDDMScheduler(objective=network.config.objective, sum_scale=0.01 if quiet else 1.0))

    @torch.no_grad()
    def __call__(
        self,
        image: ImageSource | Sequence[ImageSource] | None = None,
        *,
        batch_size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 5,
        start: int | None = None,
        timesteps: list[int] | None = None,
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
            batch_size, height, width: of what is generated (1 and the network's own `sample_size` by default).
            num_inference_steps, start, timesteps: see `RDDMScheduler.set_timesteps`; `timesteps` go over the number.
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
        device, dtype = self._execution_device, self.unet.dtype
        if image is None:
            shape = self._shape(1 if batch_size is None else batch_size, height, width)
            I_in = torch.zeros(shape, device=device, dtype=dtype)
        else:
            if (batch_size, height, width) != (None, None, None):
                raise ReproError("batch_size, height and width belong to generation: here the given pictures decide")
            I_in = (2 * pictures(image, channels=self.channels) - 1).to(device, dtype)  # (B, C, H, W) in [-1, 1]
        if isinstance(generator, list) and len(generator) != len(I_in):
            raise ReproError(f"give one generator a picture: got {len(generator)} generators for {len(I_in)} pictures")

        if tile == "auto":
            tile = TILE if image is not None and max(I_in.shape[2:]) > WHOLE else None
        if tile is not None and tile <= OVERLAP:
            raise ReproError(f"tile is {tile}: accepted are more than the {OVERLAP} pixels that tiles overlap, or None")
        steps = num_inference_steps if timesteps is None else None
        self.scheduler.set_timesteps(steps, device=device, timesteps=timesteps, start=start)
        z = randn_tensor(I_in.shape, generator=generator, device=device, dtype=dtype)
        x = self.scheduler.start(I_in, z)
        for t in self.progress_bar(self.scheduler.timesteps.tolist()):
            output = self._predict(x, t, I_in) if tile is None else self._by_tiles(x, t, I_in, tile)
            x = self.scheduler.step(output, t, x, I_in, eta=eta, generator=generator).prev_sample

        images: Any = ((x + 1) / 2).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _by_tiles(self, x: Tensor, t: int, I_in: Tensor, tile: int) -> Tensor:
        """The network's output tile by tile, blended where tiles overlap; memory is that of one."""

        def one(part: Tensor) -> Tensor:
            return self._predict(part[:, : self.channels], t, part[:, self.channels :])

        return torch.cat([tiled(one, both, tile, OVERLAP) for both in torch.cat([x, I_in], dim=1).split(1)])

    def _predict(self, x: Tensor, t: int, I_in: Tensor) -> Tensor:
        """The network's output; images of any size are padded for it and the output is cropped, so that neither noise
        nor result depends on the padding."""
        times = torch.full((len(x),), t, device=x.device)
        if isinstance(self.unet, _PADS_ITSELF):
            return self.unet(x, times, I_in if self.conditional else None).sample
        seen = torch.cat([x, I_in], dim=1) if self.conditional else x
        seen, box = pad_to_multiple(seen, 2 ** (len(self.unet.config.block_out_channels) - 1))
        return unpad(self.unet(seen, times).sample, box)

    def _shape(self, count: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        own = self.unet.config.get("sample_size")
        own = (own, own) if isinstance(own, int) else own or (None, None)
        size = (height or own[0], width or own[1])
        if self.conditional:
            raise ReproError("this network restores: give it a picture, image=...")
        if None in size or min(count, *size) < 1:
            raise ReproError(
                f"generation needs batch_size, height and width of at least 1, where the network names no sample_size: "
                f"got {count}, {size[0]}, {size[1]}"
            )
        return count, self.channels, *size


_PADS_ITSELF = (UNet, RDDMNet)


def _channels(unet: nn.Module, objective: Objective) -> tuple[int, bool]:
    """Channels of an image, and whether the network takes I_in; refuses a network that did not learn `objective`."""
    config, found = unet.config, heads(objective)
    if isinstance(unet, RDDMNet):
        if config.objective != objective:
            raise ReproError(f"the network was trained for {config.objective!r}: it cannot be used as {objective!r}")
        return config.channels, config.condition
    if isinstance(unet, UNet):
        channels, given = config.in_channels, config.cond_channels
    elif "block_out_channels" in config:
        channels = config.out_channels // found
        given = config.in_channels - channels
    else:
        raise ReproError(f"RDDMPipeline takes an RDDMNet, a UNet or a UNet2DModel: got {type(unet).__name__}")
    if config.out_channels != channels * found or given not in (0, channels):
        raise ReproError(
            f"objective {objective!r} needs {found} x an image's channels out, and in: those of the state, or twice "
            f"with I_in as condition: got {config.out_channels} out and {given} beside the {channels} of the state"
        )
    return channels, given > 0
