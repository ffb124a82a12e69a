"""The small U-Net that the methods share: residual blocks, FiLM time conditioning, attention only where it is cheap.

It follows Ho et al. ("Denoising Diffusion Probabilistic Models", appendix B) with the scale-shift conditioning of
Nichol and Dhariwal ("Improved DDPM"), and is a diffusers model (`save_pretrained`, `from_pretrained`,
`.sample`), so that a checkpoint of this repository drops into a diffusers pipeline and back.
"""

import math
from collections.abc import Callable
from itertools import product

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import ReproError

# Positions up to which, on a CPU, two products beat the fused attention kernel (by a tenth of the whole training step).
FEW = 256


def sinusoid(t: Tensor, width: int, scale: float = 1.0) -> Tensor:
    """(B,) times -> (B, width) sines and cosines at geometric frequencies from 1 down to just above 1/10000."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10000.0) / half))
    angle = (t.to(torch.float32) * scale)[:, None] * frequency[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class ResBlock(nn.Module):
    """norm - SiLU - conv, twice; time scales and shifts the second norm; the shortcut is 1x1 where widths differ."""

    def __init__(self, c_in: int, c_out: int, c_time: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(groups, c_in), c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = nn.Linear(c_time, 2 * c_out)
        self.norm2 = nn.GroupNorm(math.gcd(groups, c_out), c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # every block starts as its shortcut
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        h = torch.addcmul(shift, self.norm2(h), scale + 1)
        return self.conv2(self.dropout(F.silu(h))) + self.shortcut(x)


class Attention(nn.Module):
    """Self-attention over positions, added to its input."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(math.gcd(groups, channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4)
        q, k, v = qkv.unbind(1)  # (B, heads, H*W, C/heads)
        if x.device.type == "cpu" and h * w <= FEW:
            y = ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)).softmax(dim=3) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(2, 3).reshape(b, c, h, w))


class InputSkip(nn.Module):
    """The input, mixed linearly per position and scaled by time: what a narrow network need not carry through."""

    def __init__(self, c_in: int, c_out: int, c_time: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.film = nn.Linear(c_time, c_out)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.mix(x) * (1 + self.film(emb)[:, :, None, None])


Box = tuple[int, int]  # height and width before padding
# stages and upsamplers, innermost first; last norm, last convolution; what brings the input to the output, if anything
Decoder = tuple[nn.ModuleList, nn.ModuleList, nn.Module, nn.Module, InputSkip | None]


class UNet(ModelMixin, ConfigMixin):
    """Noise (or residual, or clean image) predictor.

    Args:
        in_channels: channels of the noisy image.
        out_channels: channels predicted; twice `in_channels` for a learned-range variance or a two-headed output.
        cond_channels: channels of a condition concatenated to the input (0: none).
        base_channels, channel_mults: width of the first level, and of each over it; the image halves between levels.
        blocks: residual blocks a level on the way down (one more on the way up).
        attention_levels, heads: levels, counted from 0, with self-attention of so many heads after each block.
        norm_groups: groups of each GroupNorm.
        dropout: inside the residual blocks.
        patch: side of the square of pixels that becomes one position (pixel-unshuffle in, pixel-shuffle out);
            2 quarters the positions of the widest maps.
        input_skip: whether the input is also added to the output by `InputSkip`.
        time_scale: factor on the timestep before its sinusoid (1 for integers 0..T-1, 1000 for noise levels in [0, 1]).
        sample_size: side of the images trained on; any size works, diffusers' pipelines ask for it.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        cond_channels: int = 0,
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
        sample_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        widths, c_time = [base_channels * m for m in channel_mults], 4 * base_channels
        raw, out = (in_channels + cond_channels) * patch**2, out_channels * patch**2
        self.time_mlp = nn.Sequential(nn.Linear(base_channels, c_time), nn.SiLU(), nn.Linear(c_time, c_time))
        self.conv_in = nn.Conv2d(raw, widths[0], 3, padding=1)

        def stage(c_in: int, c_out: int, level: int) -> nn.ModuleList:
            parts: list[nn.Module] = [ResBlock(c_in, c_out, c_time, norm_groups, dropout)]
            if level in attention_levels:
                parts.append(Attention(c_out, heads, norm_groups))
            return nn.ModuleList(parts)

        self.down, self.downsamplers = nn.ModuleList(), nn.ModuleList()
        skips, c = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            stages = nn.ModuleList()
            for _ in range(blocks):
                stages.append(stage(c, width, level))
                c = width
                skips.append(c)
            self.down.append(stages)
            if level < len(widths) - 1:
                self.downsamplers.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips.append(c)
        self.mid = stage(c, c, len(widths) - 1)
        self.up, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            stages = nn.ModuleList()
            for _ in range(blocks + 1):
                stages.append(stage(c + skips.pop(), width, level))
                c = width
            self.up.append(stages)
            if level > 0:
                self.upsamplers.append(nn.Conv2d(c, c, 3, padding=1))
        self.norm_out = nn.GroupNorm(math.gcd(norm_groups, c), c)
        self.conv_out = nn.Conv2d(c, out, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        self.bypass = InputSkip(raw, out, c_time) if input_skip else None

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, cond: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict from the noisy `sample` (B, C, H, W) at `timestep` (a number or (B,)); any H, W: padding is undone.

        `cond` (B, cond_channels, H, W) is concatenated behind the sample. Returns `.sample` (B, out_channels, H, W).
        """
        out = self.decode(*self.encode(sample, timestep, cond))
        return UNet2DOutput(sample=out) if return_dict else (out,)

    def encode(
        self, sample: Tensor, timestep: Tensor | float | int, cond: Tensor | None
    ) -> tuple[Tensor, list[Tensor], Tensor, Box]:
        """Up to the bottleneck: its features, the skips (the input, then outermost first), time embedding, size."""
        expected, found = self.config.cond_channels, 0 if cond is None else cond.shape[1]
        if found != expected:
            raise ReproError(f"{type(self).__name__} was built for a condition of {expected} channels: got {found}")
        x = sample if cond is None else torch.cat([sample, cond], dim=1)
        t = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))
        weight = self.time_mlp[0].weight
        emb = F.silu(self.time_mlp(sinusoid(t, self.config.base_channels, self.config.time_scale).to(weight.dtype)))

        patch = self.config.patch
        x, box = pad_to_multiple(x, patch * 2 ** (len(self.down) - 1))
        x = F.pixel_unshuffle(x, patch) if patch > 1 else x
        h = self.conv_in(x)
        skips = [x, h]
        for level, stages in enumerate(self.down):
            for parts in stages:
                h = self._run(parts, h, emb)
                skips.append(h)
            if level < len(self.downsamplers):
                h = self.downsamplers[level](h)
                skips.append(h)
        return self._run(self.mid, h, emb), skips, emb, box

    def decode(self, h: Tensor, skips: list[Tensor], emb: Tensor, box: Box, decoder: Decoder | None = None) -> Tensor:
        """From the bottleneck to the image, by its own decoder or another."""
        own = self.up, self.upsamplers, self.norm_out, self.conv_out, self.bypass
        up, upsamplers, norm, conv, bypass = decoder or own
        left = list(skips)
        for level, stages in enumerate(up):
            for parts in stages:
                h = self._run(parts, torch.cat([h, left.pop()], dim=1), emb)
            if level < len(upsamplers):
                h = upsamplers[level](F.interpolate(h, scale_factor=2, mode="nearest"))
        out = conv(F.silu(norm(h)))
        if bypass is not None:
            out = out + bypass(left.pop(), emb)
        return unpad(F.pixel_shuffle(out, self.config.patch) if self.config.patch > 1 else out, box)

    @staticmethod
    def _run(parts: nn.ModuleList, h: Tensor, emb: Tensor) -> Tensor:
        h = parts[0](h, emb)
        return parts[1](h) if len(parts) > 1 else h


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, Box]:
    """Repeat the right and bottom edge of (B, C, H, W) until H and W are multiples; returns image and old size."""
    h, w = x.shape[-2:]
    bottom, right = -h % multiple, -w % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x, (h, w)


def unpad(x: Tensor, box: Box) -> Tensor:
    """Crop (B, C, H', W') back to the size before `pad_to_multiple`."""
    return x[..., : box[0], : box[1]]


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin along one axis: every `stride`, the last one flush with the end."""
    return [0] if length <= tile else [*range(0, length - tile, stride), length - tile]


def tiled(fn: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, batch: int = 1) -> Tensor:
    """Apply `fn` (B, C, h, w) -> (B, C', h, w) to overlapping tiles of x (1, C, H, W), `batch` at a time, and blend
    them with a linear ramp. Weights sum to one: a pointwise `fn` is reproduced exactly. 0 <= overlap < tile."""
    h, w = x.shape[-2:]
    places = list(product(*(tile_starts(n, tile, tile - overlap) for n in (h, w))))

    def ramp(length: int) -> Tensor:
        position = torch.arange(length, dtype=x.dtype, device=x.device) + 0.5
        return (torch.minimum(position, length - position) / max(overlap, 1)).clamp(max=1.0)

    weight = ramp(min(tile, h))[:, None] * ramp(min(tile, w))
    total, norm = None, x.new_zeros(1, 1, h, w)
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        out = fn(torch.cat([x[..., r : r + tile, c : c + tile] for r, c in some]))
        if total is None:
            total = out.new_zeros(1, out.shape[1], h, w)
        for (r, c), piece in zip(some, out, strict=True):
            total[..., r : r + tile, c : c + tile] += piece * weight
            norm[..., r : r + tile, c : c + tile] += weight
    return (total / norm).to(total.dtype)
