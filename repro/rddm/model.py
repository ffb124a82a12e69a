"""The network of RDDM in its three layouts, with the objective it learns written into its configuration; its loss.

For SM-Res-N two images are predicted: by two networks, by one encoder with two decoders, or by one network with twice
the output channels. (The released code has the first two; its residual decoder goes without skip connections.)
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from repro.engine.rng import Noises
from repro.errors import ReproError, one_of
from repro.nn.unet import UNet, pad_to_multiple, unpad
from repro.rddm import process
from repro.rddm.process import Objective, RDDMTraining

Layout = Literal["one", "two", "shared"]
Make = Callable[..., nn.Module]  # (out_channels=...) -> a network


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
        """`.sample` (B, C, H, W), or (B, 2C, H, W) with the residual first; any H, W. `timestep` is one or (B,); `cond`
        (B, C, H, W) the degraded image, for a network built with `condition`, and behind it a mask for one with that.
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
        condition: whether the degraded image is an input beside x_t (in all restoration, nothing else published).
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


# -- at its published size: the U-Net of 2022 that RDDM's experiments were run with, 36.25 M parameters ----------------

# Written from its description; with the same weights its output is the released network's, to rounding. What sets it
# apart from `repro.nn.unet`: a 7 x 7 first convolution; weight-standardised 3 x 3 convolutions; another sinusoid of
# time, which scales and shifts only the first of a block's two norms; linear attention at every level; 4 x 4
# convolutions of stride 2 down; and a last block that is given the first convolution's output again. Its linear
# attention depends on the resolution: the softmax over positions is normalised, and the values are divided by their
# number once more. A network trained at 256 px finds other features in the same image at 512 px.
GROUPS, HEADS, HEAD_WIDTH = 8, 4, 32
EPS = 1e-5  # what keeps a variance from 0


class StandardisedConv(nn.Conv2d):
    """A convolution whose kernels have mean 0 and variance 1 each (Qiao et al. 2019, "Weight Standardization")."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return self._conv_forward(x, (self.weight - mean) * (variance + EPS).rsqrt(), self.bias)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position, with a gain and no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) * (variance + EPS).rsqrt() * self.gain


class Block(nn.Module):
    """conv - norm - SiLU, twice; time scales and shifts the first norm; the shortcut is 1 x 1 where widths differ."""

    def __init__(self, c_in: int, c_out: int, c_time: int) -> None:
        super().__init__()
        self.film = nn.Linear(c_time, 2 * c_out)
        self.conv1 = StandardisedConv(c_in, c_out, 3, padding=1)
        self.norm1 = nn.GroupNorm(GROUPS, c_out)
        self.conv2 = StandardisedConv(c_out, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(F.silu(emb))[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        h = F.silu(torch.addcmul(shift, self.norm1(self.conv1(x)), scale + 1))
        return F.silu(self.norm2(self.conv2(h))) + self.shortcut(x)


class Attention(nn.Module):
    """Self-attention over positions, added to its input; `linear`: at a cost linear in the positions, q normalised over
    its width and k over space."""

    def __init__(self, channels: int, linear: bool) -> None:
        super().__init__()
        self.linear, self.norm = linear, ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        out = nn.Conv2d(HEADS * HEAD_WIDTH, channels, 1)
        self.out = nn.Sequential(out, ChannelNorm(channels)) if linear else out

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, HEADS, HEAD_WIDTH, h * w).unbind(1)  # (B, heads, width, H*W)
        if self.linear:
            context = k.softmax(dim=3) @ (v / (h * w)).transpose(2, 3)  # (B, heads, width of k, width of v)
            y = context.transpose(2, 3) @ (q.softmax(dim=2) * HEAD_WIDTH**-0.5)
        else:
            y = F.scaled_dot_product_attention(*(part.transpose(2, 3) for part in (q, k, v))).transpose(2, 3)
        return x + self.out(y.reshape(b, HEADS * HEAD_WIDTH, h, w))


class PublishedUNet(nn.Module):
    """One network; of `mults` levels, each `dim` times that wide."""

    def __init__(self, c_in: int, out_channels: int, dim: int, mults: tuple[int, ...]) -> None:
        super().__init__()
        self.dim, c_time = dim, 4 * dim
        self.conv_in = nn.Conv2d(c_in, dim, 7, padding=3)
        self.time_mlp = nn.Sequential(nn.Linear(dim, c_time), nn.GELU(), nn.Linear(c_time, c_time))
        *widths, (before, c) = pairwise([dim, *(dim * m for m in mults)])

        def level(c_in: int, c: int, conv: nn.Conv2d) -> nn.ModuleList:
            return nn.ModuleList([Block(c_in, c, c_time), Block(c_in, c, c_time), Attention(c, linear=True), conv])

        self.down = nn.ModuleList(level(a, a, nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in widths)
        self.down.append(level(before, before, nn.Conv2d(before, c, 3, padding=1)))
        self.mid = nn.ModuleList([Block(c, c, c_time), Attention(c, linear=False), Block(c, c, c_time)])
        widths = reversed([*widths, (before, c)])
        self.up = nn.ModuleList(level(a + b, b, nn.Conv2d(b, a, 3, padding=1)) for a, b in widths)
        self.last = Block(2 * dim, dim, c_time)
        self.conv_out = nn.Conv2d(dim, out_channels, 1)

    def forward(self, sample: Tensor, timestep: Tensor | float | int, cond: Tensor | None = None) -> UNet2DOutput:
        """Any H, W: right and bottom edges are repeated to a multiple of 8 (released: zeros), the output is cropped."""
        x = sample if cond is None else torch.cat([sample, cond], dim=1)
        x, box = pad_to_multiple(x, 2 ** (len(self.down) - 1))
        t = torch.as_tensor(timestep, device=x.device).reshape(-1).expand(len(x))
        # the small networks' sinusoid stops one step before 1/10000, this one holds both ends
        emb = self.time_mlp(get_timestep_embedding(t, self.dim, downscale_freq_shift=1).to(x.dtype))
        h = self.conv_in(x)
        skips = [h]
        for first, second, attention, conv in self.down:
            h = first(h, emb)
            skips.append(h)
            h = attention(second(h, emb))
            skips.append(h)
            h = conv(h)
        first, attention, second = self.mid
        h = second(attention(first(h, emb)), emb)
        for i, (first, second, attention, conv) in enumerate(self.up):
            h = first(torch.cat([h, skips.pop()], dim=1), emb)
            h = attention(second(torch.cat([h, skips.pop()], dim=1), emb))
            h = conv(F.interpolate(h, scale_factor=2, mode="nearest") if i < len(self.up) - 1 else h)
        return UNet2DOutput(sample=unpad(self.conv_out(self.last(torch.cat([h, skips.pop()], dim=1), emb)), box))


class PublishedNet(Predictor):
    """The predictor at its published size.

    Args:
        objective, channels, condition: as in `RDDMNet`.
        layout: "one" network; for "res_noise" also "two" (72.52 M parameters). No experiment has the "shared" encoder.
        mask_channels: of a mask behind the degraded image, in the same `cond` (shadow removal: 3).
        dim, mults: width of the first level and of each level over the first; multiples of 8 in all.
    """

    @register_to_config
    def __init__(
        self,
        objective: Objective = "res",
        layout: Layout = "one",
        channels: int = 3,
        condition: bool = True,
        mask_channels: int = 0,
        dim: int = 64,
        mults: tuple[int, ...] = (1, 2, 4, 8),
    ) -> None:
        super().__init__()
        settings = {"c_in": channels * (1 + condition) + mask_channels, "dim": dim, "mults": tuple(mults)}
        self.lay_out(objective, layout, channels, partial(PublishedUNet, **settings))


def restoration_loss(
    model: nn.Module, x0: Tensor, y: Tensor, noise: Noises, learning: RDDMTraining, condition: bool = True,
    mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(B,) loss of pairs in [-1, 1] at a uniform timestep of each sample's own (report Eq. 14 and 15), or at the last.

    The network is given (x_t, t, cond), cond being y where `condition`, and a mask (B, C, H, W) behind it.
    """
    schedule, objective = learning.schedule, learning.objective
    given = [part for part in (y if condition else None, mask) if part is not None]
    cond = [torch.cat(given, dim=1)] if given else []
    if learning.start == "none":
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
