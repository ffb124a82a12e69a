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
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

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
    """A published text-to-image model.

    `hub`          where it is published.   `folder` its own in `repro.paths.data()`, laid out as there.
    `part`         subfolder of the autoencoder; that of the U-Net is "unet".
    `suffix`       of the published weight files; both .safetensors and .bin (of which only tensors are read) will do.
    `unet`, `autoencoder`  their configuration, where it is not diffusers' default.
    """

    title: str
    hub: str
    folder: str
    part: str = "vae"
    suffix: str = ".safetensors"
    unet: Mapping[str, Any] = field(default_factory=lambda: dict(UNET))
    autoencoder: Mapping[str, Any] = field(default_factory=lambda: dict(KL))

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of `EditingNet`; the input's bypass is left out, since a pretrained network needs none."""
        unet = dict(self.unet)
        sizes = {"channels": unet["out_channels"], "context": unet["cross_attention_dim"]}
        return {"published": unet, **sizes, "input_skip": False, "checkpointing": True}


MODELS: dict[str, Pretrained] = {
    "ldm": Pretrained(
        "latent diffusion, text to image, 1.45 billion parameters",
        "CompVis/ldm-text2im-large-256",
        "ldm-text2im-large-256",
        part="vqvae",
        suffix=".bin",
    ),
    "sd1": Pretrained(
        "Stable Diffusion v1.5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "stable-diffusion-v1-5",
        unet={**UNET, "cross_attention_dim": 768},
    ),
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


def located(model: Pretrained) -> Path:
    """The model's folder: its own in `repro.paths.data()`, else what the Hugging Face hub gives, fetched once.

    Raises `ReproError` in one sentence where there is neither.
    """
    own = paths.data() / model.folder
    if own.is_dir():
        return own
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    parts = ("unet", model.part)
    files = [f"{part}/{name}" for part in parts for name in ("config.json", "diffusion_pytorch_model" + model.suffix)]
    try:
        return Path(snapshot_download(model.hub, allow_patterns=files))
    except (OSError, HfHubHTTPError) as error:
        raise ReproError(
            f"{own}: the pretrained weights ({model.title}) are not there and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}); get the folders {', '.join(parts)} of {model.hub} from it and put them there"
        ) from error


def _loaded(kind: Any, folder: Path, settings: Mapping[str, Any]) -> nn.Module:
    """A part of a published model in fp32, after its configuration was found to be the expected one."""
    try:
        found = kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise ReproError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    for key, value in settings.items():
        given = found.config.get(key)
        if (list(given) if isinstance(given, tuple) else given) != value:
            raise ReproError(f"{folder}: {key} is {given!r}; accepted: {value!r}, that of the model named here")
    return found.float()


def initialise(net: EditingNet, model: Pretrained) -> EditingNet:
    """Give `net` the pretrained U-Net: its output is then that of the U-Net with the same context tokens.

    Raises `ReproError` for what is missing or does not fit.
    """
    state = _loaded(UNet2DConditionModel, located(model) / "unet", model.unet).state_dict()
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
    made.vq = _loaded(AutoencoderKL, located(model) / model.part, model.autoencoder)
    return made.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def autoencoder_hash(name: str) -> str:
    """SHA-256 of the weights of MODELS[name]'s autoencoder."""
    (file,) = sorted((located(MODELS[name]) / MODELS[name].part).glob("diffusion_pytorch_model.*"))[-1:]
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
