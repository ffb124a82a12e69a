"""Published text-to-image models: which of them the paper may start from, and their files.

"Multi-task image-to-image diffusion models with fine-grained control", section 3.2: "The VQ autoencoder and the
denoising U-Net are initialized from a pretrained text-to-image model", citing "High-Resolution Image Synthesis with
Latent Diffusion Models". That is, most likely, the one of 1.45 billion parameters: it was trained at the paper's 256
pixels, and though no text-to-image model of those authors has a VQ autoencoder, the files of this one call its KL
autoencoder `vqvae`. Stable Diffusion v1 is the other candidate. Both have latents of 4 channels and factor 8.

Files are in diffusers' layout: .safetensors, or .bin of which only tensors are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro import paths
from repro.errors import ReproError

UNET: dict[str, Any] = {  # of both: 320 channels, times 1, 2, 4, 4, two blocks a level, 8 heads
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,  # in this U-Net of diffusers, the number of heads
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
}
KL: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "scaling_factor": 0.18215,
}
# What latent diffusion models call linear, in diffusers' words; the same table as `repro.editing.config.SCHEDULE`.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
}
# diffusers' attention once had other names, and published autoencoders still have them.
_OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Pretrained:
    """A published text-to-image model.

    `hub`          where it is published.   `folder` its own in `repro.paths.data()`, laid out as there.
    `part`         subfolder of the autoencoder; that of the U-Net is "unet".
    `suffix`       of the published weight files; both .safetensors and .bin are read, the latter without unpickling.
    `kind`         diffusers' class of the autoencoder.
    `unet`, `autoencoder`, `scheduler`  what their config.json must say, as far as it says it.
    """

    title: str
    hub: str
    folder: str
    part: str = "vae"
    suffix: str = ".safetensors"
    kind: Literal["AutoencoderKL", "VQModel"] = "AutoencoderKL"
    unet: Mapping[str, Any] = field(default_factory=lambda: dict(UNET))
    autoencoder: Mapping[str, Any] = field(default_factory=lambda: dict(KL))
    scheduler: Mapping[str, Any] = field(default_factory=lambda: dict(SCHEDULER))

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of `PretrainedEditingNet`."""
        unet = dict(self.unet)
        return {"settings": unet, "channels": unet["out_channels"], "context": unet["cross_attention_dim"]}


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
        # trained at 512 pixels; a U-Net takes any size
        unet={**UNET, "sample_size": 64, "cross_attention_dim": 768},
    ),
}


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
    files = [f"{part}/{name}" for part in parts for name in ("config.json", _STEM + model.suffix)]
    try:
        return Path(snapshot_download(model.hub, allow_patterns=[*files, "scheduler/scheduler_config.json"]))
    except (OSError, HfHubHTTPError) as error:
        raise ReproError(
            f"{own}: the pretrained weights ({model.title}) are not there and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}); get the folders {', '.join(parts)} and scheduler of {model.hub} from it and "
            "put them there"
        ) from error


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weight file in a part's folder."""
    file = _file(folder)
    return _sha256(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _sha256(file: Path, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file(folder: Path) -> Path:
    """The weight file of a part, safetensors before others."""
    for suffix in (".safetensors", ".bin"):
        if (folder / (_STEM + suffix)).is_file():
            return folder / (_STEM + suffix)
    raise ReproError(f"{folder}: holds no {_STEM}.safetensors or .bin, the pretrained weights")


def read(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Tensor], Path]:
    """Weights of a part and the file they lie in, after its configuration was found to be the expected one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    agrees(folder / "config.json", settings)
    file = _file(folder)
    try:
        if file.suffix == ".bin":
            return torch.load(file, map_location="cpu", weights_only=True), file
        return load_file(file), file
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise ReproError(f"{file} is damaged: {error}") from error


def agrees(file: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a configuration that says otherwise; what it leaves out is diffusers' default of its time."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReproError(f"{file}: not found; a folder in diffusers' layout has one") from error
    except (OSError, ValueError) as error:
        raise ReproError(f"{file} is damaged: {error}") from error
    for key, value in wanted.items():
        if key in found and found[key] != value and key != "sample_size":  # the size asks nothing of the weights
            raise ReproError(f"{file}: {key} is {found[key]!r}; accepted: {value!r}, that of the model told of here")


def renamed(key: str) -> str:
    for old, new in _OLD.items():
        key = key.replace(old, new)
    return key


def fill(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Load weights, all of them and no others."""
    own, name = module.state_dict(), type(module).__name__
    for key, value in own.items():
        if key not in tensors:
            raise ReproError(f"{file} lacks the weight {key} that {name} needs")
        if tensors[key].shape != value.shape:
            shapes = tuple(tensors[key].shape), tuple(value.shape)
            raise ReproError(f"{file}: {key} has shape {shapes[0]}, {name} needs {shapes[1]}")
    if extra := sorted(set(tensors) - set(own)):
        raise ReproError(f"{file} holds the weight {extra[0]}, which {name} does not have")
    module.load_state_dict({key: value.float() for key, value in tensors.items()})
