"""The editing network: a conditional U-Net on latents, with two ways for the editing vector to enter.

"Multi-task image-to-image diffusion models with fine-grained control", Fig. 1 and Table 1. Concatenated to the noisy
latent of the target are the latent of the source and the colour reference, reduced to the latents' size. The editing
vector C goes through f_theta into the cross-attention ("cross", the paper's model), or is spread over the positions and
concatenated too ("concat", its baseline Palette++); cross-attention then attends to a zero token and adds its bias.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from torch.nn import functional as F

from repro.editing.vector import HIGHS, LENGTH, SCALARS
from repro.errors import one_of
from repro.nn.unet import InputSkip, sinusoid

_TIMES = 32  # width of the sinusoid that scales the bypass


class VectorMapping(ModelMixin, ConfigMixin):
    """f_theta: the editing vector C (B, 9) -> context tokens (B, tokens, width) of cross-attention (section 3.2).

    The paper does not say how many tokens, and it matters: the softmax over a *single* token is 1 whatever the query,
    so to_q and to_k never receive a gradient and cross-attention adds one learned vector at every position.

    Args:
        width: of a token, the U-Net's `cross_attention_dim`, and of the hidden layers.
        layers: linear layers, SiLU between them (Table 4: 0, 1, 2 or 4); with 0 a token holds the entries themselves,
            filled up with zeros.
        tokens: "entry": one token per entry, its first layer with a weight and a bias of each entry's own, so that an
            entry is known by more than its magnitude. "single": one token of all entries, the literal reading.
        labels: False drops the five binary labels (the ablation of Table 4): four entries remain.
        scaled: True divides each entry by its largest value. As written in the paper, raw magnitudes differ 30-fold.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 128,
        layers: int = 2,
        tokens: Literal["entry", "single"] = "entry",
        labels: bool = True,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.entries = entries = LENGTH if labels else len(SCALARS)
        self.register_buffer("scale", torch.tensor(HIGHS[:entries]) if scaled else torch.ones(entries), False)
        self.first = self.weight = self.bias = None
        if layers and tokens == "single":
            self.first = nn.Linear(entries, width)
        elif layers:  # a linear layer of one input each, initialised as torch initialises one
            self.weight, self.bias = (nn.Parameter(torch.empty(entries, width)) for _ in range(2))
            nn.init.uniform_(self.weight, -1, 1)
            nn.init.uniform_(self.bias, -1, 1)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))

    def forward(self, vector: Tensor) -> Tensor:
        c = vector[:, : self.entries].to(self.scale.dtype) / self.scale
        if self.weight is not None:
            h = torch.addcmul(self.bias, c[:, :, None], self.weight)  # (B, entries, width)
        elif self.first is not None:
            h = self.first(c[:, None])  # (B, 1, width)
        else:
            h = torch.diag_embed(c) if self.config.tokens == "entry" else c[:, None]
            h = F.pad(h, (0, self.config.width - self.entries))
        for linear in self.rest:
            h = linear(F.silu(h))
        return h


class EditingNet(ModelMixin, ConfigMixin):
    """eps_theta(z_0^A, I_ref, C, z_t^B, t) (paper, Eq. 2).

    Args:
        channels: of a latent.
        widths: of the U-Net's levels; latents halve between them.
        attention_levels: levels with transformer blocks, beside the bottleneck, which has one.
        heads: of attention. (diffusers' `attention_head_dim` is the number of heads in this U-Net.)
        context: width of a context token.
        condition: "cross" or "concat": how the editing vector enters.
        reference: "rgb", the image reduced to the latents' size, or "latent", its code.
        mask: whether the inpainting mask is an input channel, as in section 3.2 of the paper; in Table 1 it is not.
        layers, tokens, labels, scaled: of `VectorMapping`; with "concat", `scaled` scales C there too.
        input_skip: whether the inputs also reach the output by a 1x1 convolution, scaled by time: most of an edit is
            the source itself, which a narrow network otherwise has to carry through.
        published: configuration of a published `UNet2DConditionModel` instead of widths, attention_levels and heads.
        checkpointing: whether activations are computed again in the backward pass: a batch of 12 of a published size
            then fits the paper's 24 GB.

    Raises `ReproError` for an unknown condition, reference or tokens.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 16,
        widths: tuple[int, ...] = (32, 32, 32),
        attention_levels: tuple[int, ...] = (0, 1, 2),
        heads: int = 1,
        context: int = 64,
        condition: Literal["cross", "concat"] = "cross",
        reference: Literal["rgb", "latent"] = "rgb",
        mask: bool = False,
        layers: int = 2,
        tokens: Literal["entry", "single"] = "entry",
        labels: bool = True,
        scaled: bool = True,
        input_skip: bool = True,
        published: Mapping[str, Any] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        choices = {"condition": ("cross", "concat"), "reference": ("rgb", "latent"), "tokens": ("entry", "single")}
        for name, accepted in choices.items():
            one_of(f"editing network: {name}", self.config[name], accepted)
        self.mapping = VectorMapping(context, layers, tokens, labels, scaled) if condition == "cross" else None
        self.register_buffer("scale", torch.tensor(HIGHS) if scaled else torch.ones(LENGTH), persistent=False)
        down = tuple("CrossAttnDownBlock2D" if i in attention_levels else "DownBlock2D" for i in range(len(widths)))
        settings = published or {
            "out_channels": channels,
            "down_block_types": down,
            "up_block_types": tuple(block.replace("Down", "Up") for block in reversed(down)),
            "block_out_channels": tuple(widths),
            "layers_per_block": 1,
            "cross_attention_dim": context,
            "attention_head_dim": heads,
            "norm_num_groups": 8,
        }
        inputs = 2 * channels + (3 if reference == "rgb" else channels) + mask + LENGTH * (condition == "concat")
        self.unet = UNet2DConditionModel(**{**settings, "in_channels": inputs})
        self.bypass = InputSkip(inputs, channels, _TIMES) if input_skip else None
        # Cross-attention by two products: exact, where the fused kernel leaves 1e-6 of gradient on a single token's
        # queries. Self-attention by the fused kernel: an edit of 128 x 128 pixels takes three fifths of the time.
        names = self.unet.attn_processors
        self.unet.set_attn_processor({n: AttnProcessor() if ".attn2." in n else AttnProcessor2_0() for n in names})
        if checkpointing:
            self.unet.enable_gradient_checkpointing()

    @property
    def multiple(self) -> int:
        """Latents are padded to multiples of this."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        source: Tensor,
        reference: Tensor,
        vector: Tensor,
        mask: Tensor | None = None,
        features: bool = False,
    ) -> UNet2DConditionOutput | tuple[Tensor, ...]:
        """The prediction (B, channels, h, w), as `.sample`; with `features` the tuple (prediction, bottleneck, tokens).

        Args:
            sample, source: (B, channels, h, w) the noisy latent of the target, the latent of the source.
            timestep: a number or (B,).
            reference: (B, 3 or channels, h, w) as the configuration says; zeros where colour is off.
            vector: (B, 9), as `EditingVector.tensor` gives it.
            mask: (B, 1, h, w) share of hole, for a network with `mask`.
        """
        parts = [sample, source, reference] + ([mask] if mask is not None else [])
        if self.mapping is None:
            parts.append((vector / self.scale)[:, :, None, None].expand(-1, -1, *sample.shape[2:]))
            tokens = vector.new_zeros(len(sample), 1, self.config.context)
        else:
            tokens = self.mapping(vector)
        x, bottleneck = torch.cat([part.to(sample.dtype) for part in parts], dim=1), []
        with self.unet.mid_block.register_forward_hook(lambda *a: bottleneck.append(a[-1])):
            out = self.unet(x, timestep, encoder_hidden_states=tokens.to(sample.dtype)).sample
        if self.bypass is not None:
            t = torch.as_tensor(timestep, device=x.device).reshape(-1).expand(len(x))
            out = out + self.bypass(x, sinusoid(t, _TIMES).to(x.dtype))
        return (out, bottleneck[0], tokens) if features else UNet2DConditionOutput(sample=out)
