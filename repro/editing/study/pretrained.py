"""The networks of published text-to-image models: what the paper's training starts from.

"Multi-task image-to-image diffusion models with fine-grained control", section 3.2: "The VQ autoencoder and the
denoising U-Net are initialized from a pretrained text-to-image model", citing "High-Resolution Image Synthesis with
Latent Diffusion Models". That is, most likely, the one of 1.45 billion parameters: it was trained at the paper's 256
pixels, and though no text-to-image model of those authors has a VQ autoencoder, the files of this one call its KL
autoencoder `vqvae`. Stable Diffusion v1 is the other candidate. Both have latents of 4 channels and factor 8.

Decided here, the paper being silent: the autoencoder stays frozen; latents are the mode of its distribution, not a
sample, so that an image has one latent; the input convolution's weights for new channels start at zero, so that
training begins at the pretrained model; nothing but the mapping network is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from safetensors.torch import save
from torch import Tensor

from repro import paths
from repro.editing.autoencoder import Autoencoder
from repro.editing.model import EditingNet
from repro.errors import ReproError

UNET: dict[str, Any] = {  # of both: 320 channels, times 1, 2, 4, 4, two blocks a level, 8 heads
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,  # in this U-Net of diffusers, the number of heads
    "norm_num_groups": 32,
}
KL: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}


@dataclass(frozen=True)
class Pretrained:
    """A published text-to-image model, in diffusers' layout.

    `hub`   where it is published; its own folder in `repro.paths.data()` bears the name after the slash.
    `part`  subfolder of the autoencoder; that of the U-Net is "unet".
    `unet`, `autoencoder`  their configuration, where it is not diffusers' default.
    """

    hub: str
    part: str
    unet: Mapping[str, Any] = field(default_factory=lambda: dict(UNET))
    autoencoder: Mapping[str, Any] = field(default_factory=lambda: dict(KL))

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of `EditingNet`; the input's bypass is left out, since a pretrained network needs none."""
        unet = dict(self.unet)
        sizes = {"channels": unet["out_channels"], "context": unet["cross_attention_dim"]}
        return {"published": unet, **sizes, "input_skip": False, "checkpointing": True}

    def load(self, kind: Any, part: str, settings: Mapping[str, Any]) -> Any:
        """A part as diffusers' class `kind`, in fp32: from the model's own folder, else from the Hugging Face hub.

        Raises `ReproError` where it is in neither, and where its configuration is not `settings`.
        """
        own = paths.data() / self.hub.split("/")[-1]
        try:  # of .bin files, too, only tensors are read
            found = kind.from_pretrained(str(own) if own.is_dir() else self.hub, subfolder=part)
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            raise ReproError(
                f"{own / part}: no pretrained weights ({' '.join(str(error).split())[:200]}); accepted there: "
                f"the folder {part} of {self.hub} on the Hugging Face hub, which could not be fetched"
            ) from error
        for key, value in settings.items():
            given = found.config.get(key)
            if (list(given) if isinstance(given, tuple) else given) != value:
                raise ReproError(f"{self.hub}/{part}: {key} is {given!r}; accepted: {value!r}, as published")
        return found.float()


MODELS: dict[str, Pretrained] = {
    "ldm": Pretrained("CompVis/ldm-text2im-large-256", "vqvae"),
    "sd1": Pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5", "vae", {**UNET, "cross_attention_dim": 768}),
}


class PretrainedAutoencoder(Autoencoder):
    """A published KL autoencoder, frozen, used like ours: latents are the mode, times the model's scale.

    Args:
        settings: configuration of diffusers' `AutoencoderKL`; `scaling_factor` brings latents to unit deviation.
    """

    @register_to_config
    def __init__(self, settings: Mapping[str, Any]) -> None:
        super(Autoencoder, self).__init__()  # its layers are others
        self.vq = AutoencoderKL(**settings)
        self.register_buffer("mean", torch.zeros(self.channels), persistent=False)
        scale = torch.full((self.channels,), 1.0 / self.vq.config.scaling_factor)
        self.register_buffer("deviation", scale, persistent=False)

    @property
    def factor(self) -> int:
        """Pixels a side of one latent."""
        return 2 ** (len(self.vq.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.vq.config.latent_channels

    def raw(self, image: Tensor) -> Tensor:
        """The mode of the latents' distribution, not scaled."""
        return self.vq.encode(image).latent_dist.mode()

    def render(self, raw: Tensor) -> Tensor:
        """The decoder alone, of latents that are not scaled."""
        return self.vq.decode(raw).sample


def initialise(net: EditingNet, model: Pretrained) -> EditingNet:
    """Give `net` the pretrained U-Net: its output is then that of the U-Net with the same context tokens."""
    state = model.load(UNet2DConditionModel, "unet", model.unet).state_dict()
    own = state["conv_in.weight"]
    state["conv_in.weight"] = own.new_zeros(len(own), net.unet.config.in_channels, *own.shape[2:])
    state["conv_in.weight"][:, : own.shape[1]] = own
    net.unet.load_state_dict(state)
    return net


@lru_cache(maxsize=2)
def load_autoencoder(name: str) -> PretrainedAutoencoder:
    """The frozen autoencoder of MODELS[name], in eval mode, on the accelerator where there is one; read-only."""
    model = MODELS[name]
    made = PretrainedAutoencoder(dict(model.autoencoder))
    made.vq = model.load(AutoencoderKL, model.part, model.autoencoder)
    return made.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=2)
def autoencoder_hash(name: str) -> str:
    """SHA-256 of the weights of MODELS[name]'s autoencoder."""
    state = load_autoencoder(name).state_dict()
    return hashlib.sha256(save({key: value.contiguous() for key, value in state.items()})).hexdigest()
