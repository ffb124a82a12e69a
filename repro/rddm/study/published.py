"""The network at its published size: the U-Net of 2022 that RDDM's experiments were run with, 36.25 M parameters.

Written from its description. What sets it apart from `repro.nn.unet`: a 7 x 7 first convolution; weight-standardised
3 x 3 convolutions; another sinusoid of time, which scales and shifts only the first of a block's two norms; linear
attention at every level; 4 x 4 convolutions of stride 2 down; and a last block that sees the first convolution's output
again. With the same weights its output is the released network's, to rounding.

Its linear attention depends on the resolution. The softmax over positions is normalised already, and the values are
divided by the number of positions H W once more: a network trained at 256 px finds other features in the same image at
512 px.
"""

from functools import partial
from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from repro.nn.unet import pad_to_multiple, unpad
from repro.rddm.model import Layout, Predictor
from repro.rddm.process import Objective

GROUPS = 8
HEADS, HEAD_WIDTH = 4, 32
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
        self.down, widths = nn.ModuleList(), [dim, *(dim * m for m in mults)]
        for i, (before, width) in enumerate(pairwise(widths)):
            size, stride = (4, 2) if i < len(mults) - 1 else (3, 1)
            conv = nn.Conv2d(before, width, size, stride=stride, padding=1)
            blocks = [Block(before, before, c_time), Block(before, before, c_time)]
            self.down.append(nn.ModuleList([*blocks, Attention(before, linear=True), conv]))
        c = widths[-1]
        self.mid = nn.ModuleList([Block(c, c, c_time), Attention(c, linear=False), Block(c, c, c_time)])
        self.up = nn.ModuleList()
        for after, width in reversed(list(pairwise(widths))):
            blocks = [Block(width + after, width, c_time), Block(width + after, width, c_time)]
            conv = nn.Conv2d(width, after, 3, padding=1)
            self.up.append(nn.ModuleList([*blocks, Attention(width, linear=True), conv]))
        self.last = Block(2 * dim, dim, c_time)
        self.conv_out = nn.Conv2d(dim, out_channels, 1)

    def forward(self, sample: Tensor, timestep: Tensor | float | int, cond: Tensor | None = None) -> UNet2DOutput:
        """Any H, W: the right and bottom edges are repeated up to a multiple of 8 (the released loader pads with
        zeros), and the output is cropped."""
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
    """The residual and noise predictor at its published size; takes the place of `repro.rddm.model.RDDMNet`.

    Args:
        objective: "res" (SM-Res), "noise" (SM-N) or "res_noise" (SM-Res-N).
        layout: "one" network; for "res_noise" also "two" (72.52 M parameters). The released "shared" encoder, in no
            experiment, is not here.
        channels: of the image.
        condition: whether the network sees the degraded image beside x_t.
        mask_channels: of a mask that it sees behind that, in the same `cond` (shadow removal: 3).
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
