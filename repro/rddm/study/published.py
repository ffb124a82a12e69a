"""The network at its published size: the U-Net of 2022 that RDDM's experiments were run with, 36.25 M parameters.

Written from its description. What sets it apart from `repro.nn.unet`: a 7 x 7 first convolution; weight-standardised
3 x 3 convolutions; another sinusoid of time, which scales and shifts only the first of a block's two norms; linear
attention at every level; 4 x 4 convolutions of stride 2 down; and a last block that sees the first convolution's output
again. With the same weights its output is the released network's, to rounding.

Its linear attention depends on the resolution. The softmax over positions is normalised already, and the values are
divided by the number of positions H W once more: what a map of the same content contributes falls with its area,
against the bias and the norm that follow. A network trained at 256 px finds other features in the same image at
512 px.
"""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import ReproError
from repro.nn.padding import pad_to_multiple, unpad
from repro.rddm.model import Layout, check_layout
from repro.rddm.process import Objective, heads

GROUPS = 8
HEADS, HEAD_WIDTH = 4, 32


def _eps(x: Tensor) -> float:
    """What keeps a variance from 0; half precision needs more."""
    return 1e-5 if x.element_size() >= 4 else 1e-3


def sinusoid(t: Tensor, width: int) -> Tensor:
    """(B,) times -> (B, width) sines and cosines at frequencies from 1 to 1/10000, both ends included.

    `repro.nn.unet.sinusoid`, which the small networks are trained with, stops one step before 1/10000.
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angle = t.to(torch.float32)[:, None] * frequency[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class StandardisedConv(nn.Conv2d):
    """A convolution whose kernels have mean 0 and variance 1 each (Qiao et al. 2019, "Weight Standardization")."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return self._conv_forward(x, (self.weight - mean) * (variance + _eps(x)).rsqrt(), self.bias)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position, with a gain and no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) * (variance + _eps(x)).rsqrt() * self.gain


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


class LinearAttention(nn.Module):
    """Attention at a cost linear in the positions, added to its input; q is normalised over its width, k over space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.out = nn.Sequential(nn.Conv2d(HEADS * HEAD_WIDTH, channels, 1), ChannelNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, HEADS, HEAD_WIDTH, h * w).unbind(1)  # (B, heads, width, H*W)
        q = q.softmax(dim=2) * HEAD_WIDTH**-0.5
        context = k.softmax(dim=3) @ (v / (h * w)).transpose(2, 3)  # (B, heads, width of k, width of v)
        y = context.transpose(2, 3) @ q
        return x + self.out(y.reshape(b, HEADS * HEAD_WIDTH, h, w))


class FullAttention(nn.Module):
    """Ordinary self-attention over positions, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.out = nn.Conv2d(HEADS * HEAD_WIDTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, HEADS, HEAD_WIDTH, h * w).transpose(3, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(1))  # (B, heads, H*W, width)
        return x + self.out(y.transpose(2, 3).reshape(b, HEADS * HEAD_WIDTH, h, w))


class Encoder(nn.Module):
    """Down to the bottleneck and through it."""

    def __init__(self, c_in: int, dim: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        c_time = 4 * dim
        self.dim = dim
        self.conv_in = nn.Conv2d(c_in, dim, 7, padding=3)
        self.time_mlp = nn.Sequential(nn.Linear(dim, c_time), nn.GELU(), nn.Linear(c_time, c_time))
        self.levels = nn.ModuleList()
        before = dim
        for i, width in enumerate(widths):
            last = i == len(widths) - 1
            down = nn.Conv2d(before, width, 3, padding=1) if last else nn.Conv2d(before, width, 4, stride=2, padding=1)
            blocks = [Block(before, before, c_time), Block(before, before, c_time)]
            self.levels.append(nn.ModuleList([*blocks, LinearAttention(before), down]))
            before = width
        self.mid = nn.ModuleList([Block(before, before, c_time), FullAttention(before), Block(before, before, c_time)])

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Bottleneck, skips (the first convolution's output, then two a level), time embedding (B, 4 dim)."""
        emb = self.time_mlp(sinusoid(t, self.dim).to(x.dtype))
        h = self.conv_in(x)
        skips = [h]
        for first, second, attention, down in self.levels:
            h = first(h, emb)
            skips.append(h)
            h = attention(second(h, emb))
            skips.append(h)
            h = down(h)
        first, attention, second = self.mid
        return second(attention(first(h, emb)), emb), skips, emb


class Decoder(nn.Module):
    """Up from the bottleneck to an image; without `skips` its only input from the encoder is the bottleneck."""

    def __init__(self, c_out: int, dim: int, widths: tuple[int, ...], skips: bool = True) -> None:
        super().__init__()
        self.skips = skips
        c_time = 4 * dim
        self.levels = nn.ModuleList()
        for i, width in reversed(list(enumerate(widths))):
            after = widths[i - 1] if i else dim  # also the width of the encoder's level
            blocks = [Block(width + after * skips, width, c_time) for _ in range(2)]
            up = nn.Conv2d(width, after, 3, padding=1)
            self.levels.append(nn.ModuleList([*blocks, LinearAttention(width), up]))
        self.last = Block(dim + dim * skips, dim, c_time)
        self.conv_out = nn.Conv2d(dim, c_out, 1)

    def forward(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        left = list(skips)

        def seen(h: Tensor) -> Tensor:
            return torch.cat([h, left.pop()], dim=1) if self.skips else h

        for i, (first, second, attention, conv) in enumerate(self.levels):
            h = attention(second(seen(first(seen(h), emb)), emb))
            h = conv(F.interpolate(h, scale_factor=2, mode="nearest") if i < len(self.levels) - 1 else h)
        return self.conv_out(self.last(seen(h), emb))


class PublishedUNet(nn.Module):
    """One encoder with a decoder for each image it predicts; the residual's, where there are two, has no skips."""

    def __init__(self, c_in: int, c_out: int, dim: int, widths: tuple[int, ...], shared: bool = False) -> None:
        super().__init__()
        self.encoder = Encoder(c_in, dim, widths)
        self.decoder = Decoder(c_out, dim, widths)
        self.res_decoder = Decoder(c_out, dim, widths, skips=False) if shared else None

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        found = self.encoder(x, t)
        out = self.decoder(*found)
        return out if self.res_decoder is None else torch.cat([self.res_decoder(*found), out], dim=1)


class PublishedNet(ModelMixin, ConfigMixin):
    """The residual and noise predictor at its published size; takes the place of `repro.rddm.model.RDDMNet`.

    Args:
        objective: "res" (SM-Res), "noise" (SM-N) or "res_noise" (SM-Res-N).
        layout: "one" network; for "res_noise" also "two" networks (72.52 M parameters), or a "shared" encoder
            (51.98 M) whose residual decoder works from the bottleneck alone. "res_noise" in "one" network of twice
            the output channels was never released.
        channels: of the image.
        condition: whether the network sees I_in beside I_t.
        mask_channels: of a mask that it sees behind I_in, in the same `cond` (shadow removal: 3).
        dim, mults: width of the first level and of each level over the first; multiples of 8 in all.

    The released objective "residual + added noise" of the shared layout, whose second decoder predicts the sum of both,
    is not here: the second decoder predicts the noise.
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
        check_layout(objective, layout)
        if dim < 1 or dim % GROUPS:
            raise ReproError(f"the published network normalises in {GROUPS} groups: dim {dim} is not a multiple")
        c_in = channels * (1 + condition) + mask_channels
        widths = tuple(dim * m for m in mults)
        if layout == "two":
            self.res_net = PublishedUNet(c_in, channels, dim, widths)
            self.noise_net = PublishedUNet(c_in, channels, dim, widths)
        else:
            shared = layout == "shared"
            self.net = PublishedUNet(c_in, channels * (1 if shared else heads(objective)), dim, widths, shared)

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, cond: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """`.sample` (B, C, H, W), or (B, 2C, H, W) with the residual first.

        Any H, W: the right and bottom edges are repeated up to a multiple of 8 (the released loader pads with zeros),
        and the output is cropped. `cond` (B, C + mask_channels, H, W): I_in, then the mask. `timestep` is one or (B,).
        """
        config = self.config
        wanted = config.channels * config.condition + config.mask_channels
        found = 0 if cond is None else cond.shape[1]
        if found != wanted:
            raise ReproError(f"the network was built for a condition of {wanted} channels: got {found}")
        x = sample if cond is None else torch.cat([sample, cond], dim=1)
        x, box = pad_to_multiple(x, 2 ** (len(config.mults) - 1))
        t = torch.as_tensor(timestep, device=sample.device)
        nets = [self.res_net, self.noise_net] if config.layout == "two" else [self.net]
        t = t.reshape(-1).expand(len(sample))
        out = unpad(torch.cat([net(x, t) for net in nets], dim=1), box)
        return UNet2DOutput(sample=out) if return_dict else (out,)
