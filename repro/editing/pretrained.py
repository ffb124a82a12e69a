"""The networks of published text-to-image models in our classes: what the paper's training starts from.

Decided here, "Multi-task image-to-image diffusion models with fine-grained control" being silent: the autoencoder stays
frozen; latents are the mode of its distribution, not a sample, so that a picture has one latent, which is made once and
kept; the input convolution's weights for new channels start at zero, so that training begins at the pretrained model;
nothing but the mapping network is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from repro.editing.autoencoder import Autoencoder
from repro.editing.mapping import VectorMapping
from repro.editing.model import Condition, EditingNet, Reference, input_channels
from repro.editing.vector import HIGHS, LENGTH, SCALARS
from repro.editing.weights import MODELS, Pretrained, agrees, fill, located, read, renamed
from repro.errors import ReproError


class PretrainedEditingNet(EditingNet):
    """`EditingNet` around a U-Net of a published size, without the input's bypass: the pretrained one needs none.

    Args:
        settings: configuration of the pretrained U-Net, as published; its input is widened here.
        channels, context: of its latents and its context; told again so that they can be asked for by name.
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


def widened(weight: Tensor, inputs: int) -> Tensor:
    """A convolution's weight (O, I, kh, kw) for `inputs` channels: its own first, then zeros."""
    out = weight.new_zeros(len(weight), inputs, *weight.shape[2:])
    out[:, : weight.shape[1]] = weight
    return out


def initialise(net: PretrainedEditingNet, model: Pretrained, root: Path | None = None) -> PretrainedEditingNet:
    """Give `net` the pretrained U-Net, so that it says what that one says of the same context tokens.

    `root` is the model's folder; default: `located(model)`. Raises `ReproError` for what is missing or does not fit.
    """
    where = located(model) if root is None else Path(root)
    agrees(where / "scheduler" / "scheduler_config.json", model.scheduler)
    tensors, file = read(where / "unet", model.unet)
    if "conv_in.weight" in tensors:
        tensors["conv_in.weight"] = widened(tensors["conv_in.weight"], net.unet.config.in_channels)
    fill(net.unet, tensors, file)
    return net


class PretrainedAutoencoder(Autoencoder):
    """A published autoencoder, frozen, with the face of ours: latents are the mode, times the model's scale.

    Args:
        settings: configuration of the diffusers class `kind`; `scaling_factor` brings latents to unit deviation.
    """

    @register_to_config
    def __init__(
        self, settings: Mapping[str, Any], kind: Literal["AutoencoderKL", "VQModel"] = "AutoencoderKL"
    ) -> None:
        super(Autoencoder, self).__init__()  # its layers are others
        known = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
        if kind not in known:
            raise ReproError(f"autoencoder: got the kind {kind!r}; accepted: {', '.join(known)}")
        self.vq = known[kind](**settings)
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


@lru_cache(maxsize=2)
def load_autoencoder(folder: Path, name: str) -> PretrainedAutoencoder:
    """The frozen autoencoder of MODELS[name] from its folder, fp32, in eval mode; read-only, since it is shared."""
    model = MODELS[name]
    made = PretrainedAutoencoder(dict(model.autoencoder), model.kind)
    tensors, file = read(folder / model.part, model.autoencoder)
    fill(made.vq, {renamed(key): value for key, value in tensors.items()}, file)
    return made.eval().requires_grad_(False)
