"""The networks of published text-to-image models in our classes: what the paper's training starts from.

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
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from repro import paths
from repro.editing.autoencoder import Autoencoder
from repro.editing.mapping import VectorMapping
from repro.editing.model import Condition, EditingNet, Reference, input_channels
from repro.editing.vector import HIGHS, LENGTH, SCALARS
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


@dataclass(frozen=True)
class Pretrained:
    """A published text-to-image model.

    `hub`          where it is published.   `folder` its own in `repro.paths.data()`, laid out as there.
    `part`         subfolder of the autoencoder; that of the U-Net is "unet".
    `suffix`       of the published weight files; both .safetensors and .bin (of which only tensors are read) will do.
    `kind`         diffusers' class of the autoencoder.
    `unet`, `autoencoder`  what their config.json must say.
    """

    title: str
    hub: str
    folder: str
    part: str = "vae"
    suffix: str = ".safetensors"
    kind: Literal["AutoencoderKL", "VQModel"] = "AutoencoderKL"
    unet: Mapping[str, Any] = field(default_factory=lambda: dict(UNET))
    autoencoder: Mapping[str, Any] = field(default_factory=lambda: dict(KL))

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


class PretrainedEditingNet(EditingNet):
    """`EditingNet` around a U-Net of a published size, without the input's bypass: the pretrained one needs none.

    Args:
        settings: configuration of the pretrained U-Net, as published; its input is widened here.
        channels, context: of its latents and its context, also by name.
        checkpointing: whether activations are computed again in the backward pass instead of kept. Without it a batch
            of 12 does not fit the paper's 24 GB.
        condition, reference, mask, layers, tokens, labels, scaled: of `EditingNet`. Without layers, C itself is the
            context, filled up with zeros to the width of the pretrained keys and values, so that none is lost.
    """

    @register_to_config
    def __init__(
        self,
        settings: Mapping[str, Any],
        channels: int = 4,
        context: int = 1280,
        condition: Condition = "cross",
        reference: Reference = "rgb",
        mask: bool = False,
        layers: int = 2,
        tokens: Literal["entry", "single"] = "entry",
        labels: bool = True,
        scaled: bool = True,
        checkpointing: bool = True,
    ) -> None:
        super(EditingNet, self).__init__()  # its U-Net is another one
        inputs = input_channels(channels, condition, reference, mask)
        for name, told, found in (
            ("channels", channels, (settings["in_channels"], settings["out_channels"])),
            ("context", context, (settings["cross_attention_dim"],)),
        ):
            if {told} != set(found):
                raise ReproError(f"editing network: got {name} {told} for a U-Net of {' and '.join(map(str, found))}")
        self.mapping: nn.Module | None = None
        if condition == "cross":
            entries = LENGTH if labels else len(SCALARS)
            self.mapping = VectorMapping(context if layers else entries, layers, tokens, labels, scaled)
            if not layers:
                self.mapping = nn.Sequential(self.mapping, nn.ConstantPad1d((0, context - entries), 0.0))
        self.register_buffer("scale", torch.tensor(HIGHS) if scaled else torch.ones(LENGTH), persistent=False)
        self.unet = UNet2DConditionModel(**{**settings, "in_channels": inputs})
        self.bypass = None
        if checkpointing:
            self.unet.enable_gradient_checkpointing()

    @property
    def multiple(self) -> int:
        """Latents are padded to multiples of this."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)


class PretrainedAutoencoder(Autoencoder):
    """A published autoencoder, frozen, used like ours: latents are the mode, times the model's scale.

    Args:
        settings: configuration of the diffusers class `kind`; `scaling_factor` brings latents to unit deviation.
    """

    @register_to_config
    def __init__(
        self, settings: Mapping[str, Any], kind: Literal["AutoencoderKL", "VQModel"] = "AutoencoderKL"
    ) -> None:
        super(Autoencoder, self).__init__()  # its layers are others
        self.vq = _KINDS[kind](**settings)
        shift = settings.get("shift_factor") or 0.0
        self.register_buffer("mean", torch.full((self.channels,), float(shift)), persistent=False)
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
        """The mode of the latents' distribution, or of a VQ model the latents before quantisation, not scaled."""
        self._check(image)
        found = self.vq.encode(image)
        return found.latents if isinstance(self.vq, VQModel) else found.latent_dist.mode()

    def render(self, raw: Tensor) -> Tensor:
        """The decoder alone, of latents that are not scaled."""
        more = {"force_not_quantize": True} if isinstance(self.vq, VQModel) else {}
        return self.vq.decode(raw, **more).sample

    def decode(self, latent: Tensor, quantize: bool = False) -> Tensor:
        """As of `Autoencoder`; a KL autoencoder has no codebook to go through and refuses to."""
        if quantize and not isinstance(self.vq, VQModel):
            raise ReproError("autoencoder: it has no codebook, so its latents cannot be quantised")
        return super().decode(latent, quantize)

    def forward(self, image: Tensor) -> Tensor:
        """There and back, (B, 3, H, W) in [-1, 1]; it is not trained."""
        return self.decode(self.encode(image))


_KINDS = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}


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


def _loaded(kind: Any, folder: Path, wanted: Mapping[str, Any]) -> nn.Module:
    """A part of a published model in fp32, after its configuration was found to be the expected one."""
    try:
        found = kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise ReproError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    for key, value in wanted.items():
        given = found.config.get(key)
        given = list(given) if isinstance(given, tuple) else given
        if given != value and key != "sample_size":  # a U-Net takes any size
            raise ReproError(f"{folder}: {key} is {given!r}; accepted: {value!r}, that of the model named here")
    return found.float()


def initialise(net: PretrainedEditingNet, model: Pretrained, root: Path | None = None) -> PretrainedEditingNet:
    """Give `net` the pretrained U-Net, so that it answers what that one answers to the same context tokens.

    `root` is the model's folder; default: `located(model)`. Raises `ReproError` for what is missing or does not fit.
    """
    state = _loaded(UNet2DConditionModel, (root or located(model)) / "unet", model.unet).state_dict()
    own = state["conv_in.weight"]
    state["conv_in.weight"] = own.new_zeros(len(own), net.unet.config.in_channels, *own.shape[2:])
    state["conv_in.weight"][:, : own.shape[1]] = own
    net.unet.load_state_dict(state)
    return net


def build_network(arguments: Mapping[str, Any], name: str) -> PretrainedEditingNet:
    """The network that training begins at, of MODELS[name]; on the meta device without its weights."""
    net = PretrainedEditingNet(**arguments)
    return net if next(net.parameters()).is_meta else initialise(net, MODELS[name])


@lru_cache(maxsize=2)
def load_autoencoder(name: str, folder: Path | None = None) -> PretrainedAutoencoder:
    """The frozen autoencoder of MODELS[name], in eval mode, on the accelerator where there is one; read-only."""
    model = MODELS[name]
    made = PretrainedAutoencoder(dict(model.autoencoder), model.kind)
    made.vq = _loaded(_KINDS[model.kind], (folder or located(model)) / model.part, model.autoencoder)
    return made.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def autoencoder_hash(name: str) -> str:
    """SHA-256 of the weights of MODELS[name]'s autoencoder."""
    (file,) = sorted((located(MODELS[name]) / MODELS[name].part).glob("diffusion_pytorch_model.*"))[-1:]
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
