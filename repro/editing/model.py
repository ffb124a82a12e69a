"""The editing network: a conditional U-Net on latents, and the two ways of telling it what to do.

"Multi-task image-to-image diffusion models with fine-grained control", Fig. 1 and Table 1. Concatenated to the noisy
latent of the target are the latent of the source and the colour reference, reduced to the latents' size. The editing
vector C goes through f_theta into the cross-attention ("cross", the paper's model), or is spread over the positions and
concatenated too ("concat", its baseline Palette++). Both are one diffusers `UNet2DConditionModel` of one size; without
a context, cross-attention attends to a zero token and adds its bias.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

from repro.editing.mapping import VectorMapping
from repro.editing.vector import HIGHS, LENGTH
from repro.errors import ReproError
from repro.nn.unet import InputSkip, sinusoid

Condition = Literal["cross", "concat"]
Reference = Literal["rgb", "latent"]
_TIMES = 32  # width of the sinusoid that scales the bypass


def input_channels(channels: int, condition: Condition, reference: Reference, mask: bool) -> int:
    """Channels that go into the U-Net: noisy latent, source, reference, and where they are wanted, mask and C.

    Raises `ReproError` for an unknown condition or reference.
    """
    for name, value, known in (("condition", condition, Condition), ("reference", reference, Reference)):
        if value not in get_args(known):
            raise ReproError(f"editing network: got {name} {value!r}; accepted: {', '.join(get_args(known))}")
    wanted = 2 * channels + (3 if reference == "rgb" else channels) + mask
    return wanted + (LENGTH if condition == "concat" else 0)


class EditingNet(ModelMixin, ConfigMixin):
    """eps_theta(z_0^A, I_ref, C, z_t^B, t) (paper, Eq. 2).

    Args:
        channels: of a latent.
        widths: of the U-Net's levels; latents halve between them.
        attention_levels: levels with transformer blocks, beside the bottleneck, which has one.
        heads: of attention. (diffusers' `attention_head_dim` is the number of heads in this U-Net.)
        context: width of a context token.
        condition: "cross" or "concat": how the editing vector enters.
        reference: "rgb", the picture reduced to the latents' size, or "latent", its code.
        mask: whether the inpainting mask is an input channel. The paper lists it among the inputs in section 3.2 and
            leaves it out of Table 1.
        input_skip: whether the inputs also reach the output by a 1x1 convolution, scaled by time: most of an edit is
            the source itself, and a narrow network otherwise spends its training on carrying it through.
        layers, tokens, labels, scaled: of `VectorMapping`; with "concat", `scaled` scales C there too.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 16,
        widths: tuple[int, ...] = (32, 32, 32),
        attention_levels: tuple[int, ...] = (0, 1, 2),
        heads: int = 1,
        context: int = 64,
        condition: Condition = "cross",
        reference: Reference = "rgb",
        mask: bool = False,
        layers: int = 2,
        tokens: Literal["entry", "single"] = "entry",
        labels: bool = True,
        scaled: bool = True,
        input_skip: bool = True,
    ) -> None:
        super().__init__()
        inputs = input_channels(channels, condition, reference, mask)
        self.mapping = None
        if condition == "cross":
            self.mapping = VectorMapping(context, layers, tokens, labels, scaled)
        self.register_buffer("scale", torch.tensor(HIGHS) if scaled else torch.ones(LENGTH), persistent=False)
        down = tuple("CrossAttnDownBlock2D" if i in attention_levels else "DownBlock2D" for i in range(len(widths)))
        self.unet = UNet2DConditionModel(
            in_channels=inputs,
            out_channels=channels,
            down_block_types=down,
            up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down)),
            block_out_channels=tuple(widths),
            layers_per_block=1,
            cross_attention_dim=context,
            attention_head_dim=heads,
            norm_num_groups=8,
        )
        self.bypass = InputSkip(self.unet.config.in_channels, channels, _TIMES) if input_skip else None
        # Cross-attention by two products: exact, where the fused kernel leaves 1e-6 of gradient on a single token's
        # queries. Self-attention by the fused kernel: an edit of 128 x 128 pixels takes three fifths of the time.
        names = self.unet.attn_processors
        self.unet.set_attn_processor({n: AttnProcessor() if ".attn2." in n else AttnProcessor2_0() for n in names})

    @property
    def multiple(self) -> int:
        """Latents are padded to multiples of this."""
        return 2 ** (len(self.config.widths) - 1)

    def _times(self, timestep: Tensor | float | int, x: Tensor) -> Tensor:
        t = torch.as_tensor(timestep, device=x.device).reshape(-1).expand(len(x))
        return sinusoid(t, _TIMES).to(x.dtype)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        source: Tensor,
        reference: Tensor,
        vector: Tensor,
        mask: Tensor | None = None,
        features: bool = False,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor, ...]:
        """The prediction (B, channels, h, w), as `.sample`; with `features` the tuple (prediction, bottleneck, tokens).

        Args:
            sample: (B, channels, h, w) the noisy latent of the target.
            timestep: a number or (B,).
            source: (B, channels, h, w) latent of the source.
            reference: (B, 3 or channels, h, w) as the configuration says; zeros where colour is off.
            vector: (B, 9), as `EditingVector.tensor` gives it.
            mask: (B, 1, h, w) share of hole; needed where the network was built with it.

        Raises:
            ReproError: a mask missing or not wanted, a reference of the other kind.
        """
        wanted = 3 if self.config.reference == "rgb" else self.config.channels
        if reference.shape[1] != wanted:
            raise ReproError(
                f"editing network: got a reference of {reference.shape[1]} channels; this one was built for "
                f"{wanted} ({self.config.reference})"
            )
        if (mask is None) == self.config.mask:
            said = "was built with a mask channel and got none" if self.config.mask else "was built without a mask"
            raise ReproError(f"editing network: it {said}")
        parts = [sample, source, reference] + ([mask] if mask is not None else [])
        if self.mapping is None:
            spread = (vector / self.scale)[:, :, None, None].expand(-1, -1, *sample.shape[2:])
            parts.append(spread.to(sample))
            tokens = vector.new_zeros(len(sample), 1, self.config.context)
        else:
            tokens = self.mapping(vector)
        kept: list[Tensor] = []
        handle = self.unet.mid_block.register_forward_hook(lambda *a: kept.append(a[-1])) if features else None
        try:
            x = torch.cat([part.to(sample.dtype) for part in parts], dim=1)
            out = self.unet(x, timestep, encoder_hidden_states=tokens.to(sample.dtype)).sample
            if self.bypass is not None:
                out = out + self.bypass(x, self._times(timestep, x))
        finally:
            if handle is not None:
                handle.remove()
        if features:
            return out, kept[0], tokens
        return UNet2DConditionOutput(sample=out) if return_dict else (out,)
