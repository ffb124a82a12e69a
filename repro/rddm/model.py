"""The network of RDDM in its three layouts, with the objective it learns written into its configuration; its loss.

For SM-Res-N two images are predicted: by two networks, by one encoder with two decoders, or by one network with twice
the output channels. (The released code has the first two; its residual decoder goes without skip connections.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of
from repro.nn.unet import UNet
from repro.rddm import process
from repro.rddm.process import Learning, Objective

Layout = Literal["one", "two", "shared"]
Make = Callable[..., nn.Module]  # (out_channels=...) -> a network
Noises = Callable[[str], KeyedNoise]  # purpose -> a batch's random numbers


class SharedEncoder(UNet):
    """A U-Net with a second decoder for the residual; its output is (B, 2C, H, W), the residual first."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        twin = UNet(**kwargs)
        self.res_up, self.res_upsamplers = twin.up, twin.upsamplers
        self.res_norm_out, self.res_conv_out = twin.norm_out, twin.conv_out
        self.res_bypass = twin.bypass

    def forward(self, sample: Tensor, timestep: Tensor, cond: Tensor | None = None) -> UNet2DOutput:
        encoded = self.encode(sample, timestep, cond)
        res = (self.res_up, self.res_upsamplers, self.res_norm_out, self.res_conv_out, self.res_bypass)
        heads = [self.decode(*encoded, decoder) for decoder in (res, None)]
        return UNet2DOutput(sample=torch.cat(heads, dim=1))


class Predictor(ModelMixin, ConfigMixin):
    """What predicts residual and noise, by one network or two: the base of the small and the published one."""

    def lay_out(self, objective: str, layout: str, channels: int, make: Make, shared: Make | None = None) -> None:
        """Build the networks: `make` gives one with so many output channels, `shared` one with two decoders."""
        one_of("network layout", layout, get_args(Layout) if shared else ("one", "two"))
        count = process.heads(objective)
        if layout != "one" and count == 1:
            raise ReproError(f"layout {layout!r} predicts two images: objective {objective!r} takes layout 'one'")
        if layout == "two":
            self.res_net, self.noise_net = make(out_channels=channels), make(out_channels=channels)
        else:
            self.net = shared(out_channels=channels) if layout == "shared" else make(out_channels=channels * count)

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, cond: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """`.sample` (B, C, H, W), or (B, 2C, H, W) with the residual first; any H, W.

        `cond` (B, C, H, W) is the degraded image, for a network built with `condition`, with a mask behind it for one
        built with that. `timestep` is one or (B,).
        """
        if self.config.layout == "two":
            out = torch.cat([net(sample, timestep, cond).sample for net in (self.res_net, self.noise_net)], dim=1)
        else:
            out = self.net(sample, timestep, cond).sample
        return UNet2DOutput(sample=out) if return_dict else (out,)


class RDDMNet(Predictor):
    """The small predictor.

    Args:
        objective: "res" (SM-Res), "noise" (SM-N) or "res_noise" (SM-Res-N).
        layout: "one" network; "two" networks or a "shared" encoder, for "res_noise" alone.
        channels: of the image.
        condition: whether the network sees the degraded image beside x_t (restoration; the released generation,
            inpainting and translation networks do not).
        base_channels, channel_mults, blocks, attention_levels, heads, norm_groups, dropout, patch, time_scale,
            input_skip: as in `repro.nn.unet.UNet`, for each network.
    """

    @register_to_config
    def __init__(
        self,
        objective: Objective = "res",
        layout: Layout = "one",
        channels: int = 3,
        condition: bool = True,
        base_channels: int = 32,
        channel_mults: tuple[int, ...] = (1, 2, 2),
        blocks: int = 1,
        attention_levels: tuple[int, ...] = (),
        heads: int = 2,
        norm_groups: int = 8,
        dropout: float = 0.0,
        patch: int = 1,
        time_scale: float = 1.0,
        input_skip: bool = False,
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = dict(
            in_channels=channels, cond_channels=channels if condition else 0,
            base_channels=base_channels, channel_mults=tuple(channel_mults), blocks=blocks,
            attention_levels=tuple(attention_levels), heads=heads, norm_groups=norm_groups, dropout=dropout,
            patch=patch, time_scale=time_scale, input_skip=input_skip,
        )  # fmt: skip
        self.lay_out(objective, layout, channels, partial(UNet, **settings), partial(SharedEncoder, **settings))


def restoration_loss(
    model: nn.Module,
    x0: Tensor,
    y: Tensor,
    noise: Noises,
    learning: Learning,
    condition: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """(B,) loss of pairs in [-1, 1] at a uniform timestep of each sample's own (report Eq. 14 and 15), or at the last.

    The network is given (x_t, t, cond), cond being y where `condition`, and a mask (B, C, H, W) behind it.
    """
    schedule, objective = learning.schedule, learning.objective
    given = [part for part in (y if condition else None, mask) if part is not None]
    cond = [torch.cat(given, dim=1)] if given else []
    if learning.start == "none":
        if objective != "res":
            raise ReproError(f"regression predicts the residual: got objective {objective!r}")
        t, eps, x_t, r = torch.full((len(x0),), schedule.T - 1, device=x0.device), y, y, y - x0
    else:
        times = noise("time")
        t = times.integers(0, schedule.T)  # (B,) 0 .. T-1
        if learning.last:
            t = torch.where(times.uniform((), step=1) < learning.last, schedule.T - 1, t)
        eps = noise("noise").normal(tuple(x0.shape[1:])).to(x0)
        r = (torch.zeros_like(y) if learning.start == "noise" else y) - x0
        x_t = process.q_sample(x0, r, t, eps, schedule)
    return process.output_loss(model(x_t, t, *cond).sample.float(), r, eps, objective, learning.norm)
