"""The two networks: the initial predictor, a plain U-Net as in "Learning to see in the dark", and the diffusion U-Net,
which predicts the noise in the residual. The second convolution of its blocks takes a feature map, the embedding of the
scalars and the guide, by adaptive kernels (Eq. 2) or one of the three other ways that the paper compares with.
"""

import itertools
import math
from collections import OrderedDict
from functools import partial

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

from repro.errors import ReproError
from repro.nn.unet import pad_to_multiple, sinusoid, unpad

BASES = 8  # N, as published (the paper's figure draws 3)


class Integration(nn.Module):
    """Conditional integration module: G (B, c_out, H, W) from the guide, through a SimpleGate (one half times the
    other), and S (B, c_out, 1, 1) from the scalars, as their `product`, which starts near 1, or their sum; without a
    guide (`c_guide` = 0) S alone."""

    def __init__(self, c_guide: int, c_emb: int, c_out: int, product: bool) -> None:
        super().__init__()
        self.product, centre = product, float(product)
        if c_guide:
            self.mix = nn.Conv2d(c_guide, 2 * BASES, 1)
            self.spread = nn.Conv2d(BASES, c_out, 3, padding=1)
            nn.init.constant_(self.spread.bias, centre)
        self.scalars = nn.Sequential(nn.Linear(c_emb, BASES), nn.SiLU(), nn.Linear(BASES, c_out))
        nn.init.constant_(self.scalars[2].bias, centre)

    def forward(self, emb: Tensor, guide: Tensor | None) -> Tensor:
        S = self.scalars(emb)[:, :, None, None]
        if guide is None:
            return S
        a, b = self.mix(guide).chunk(2, dim=1)
        G = self.spread(a * b)
        return G * S if self.product else G + S


class AdaptiveKernels(nn.Module):
    """A convolution with a kernel of its own at every position: F = sum_b M[b] W_b, M = G S (Eq. 2).

    The bases W_b are grouped kernels with N groups, so all N of them cost as much as one full convolution: one grouped
    convolution C -> C N, basis fastest, then the sum over the bases weighted by M, in channels-last memory a product of
    matrices. M starts near 1 in every basis: an ordinary grouped convolution.
    """

    def __init__(self, channels: int, c_emb: int, c_guide: int) -> None:
        super().__init__()
        self.condition = Integration(c_guide, c_emb, BASES, product=True)
        self.bases = nn.Conv2d(channels, channels * BASES, 3, padding=1, groups=BASES)
        with torch.no_grad():
            self.bases.weight.mul_(BASES**-0.5)  # N of them are added
            self.bases.bias.zero_()

    def forward(self, h: Tensor, emb: Tensor, guide: Tensor | None) -> Tensor:
        h = self.bases(h).permute(0, 2, 3, 1).unflatten(-1, (-1, BASES))  # (B, H, W, C, N)
        M = self.condition(emb, guide).permute(0, 2, 3, 1)[..., None].expand(*h.shape[:3], BASES, 1)  # (B, H, W, N, 1)
        return torch.matmul(h, M.to(h.dtype)).squeeze(-1).permute(0, 3, 1, 2)


class OrdinaryKernels(nn.Module):
    """An ordinary convolution: the conditions enter its input h instead, in one of three ways.

    "addition": h + (G + S); without a guide this is DvSR's block, where only the scalars enter. "concatenation": h, and
    M = G S of as many channels behind it. "adain": G + S scales and shifts h, at every position.
    """

    def __init__(self, channels: int, c_emb: int, c_guide: int, way: str) -> None:
        super().__init__()
        self.way, joined = way, way == "concatenation"
        self.condition = Integration(c_guide, c_emb, 2 * channels if way == "adain" else channels, product=joined)
        self.conv = nn.Conv2d(2 * channels if joined else channels, channels, 3, padding=1)

    def forward(self, h: Tensor, emb: Tensor, guide: Tensor | None) -> Tensor:
        M = self.condition(emb, guide)
        if self.way == "addition":
            return self.conv(h + M)
        if self.way == "concatenation":
            return self.conv(torch.cat([h, M.expand_as(h)], dim=1))
        scale, shift = M.chunk(2, dim=1)
        return self.conv(h * (1 + scale) + shift)


CONDITIONING = {"kernels": AdaptiveKernels}
CONDITIONING |= {way: partial(OrdinaryKernels, way=way) for way in ("addition", "concatenation", "adain")}


def statistics(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 6) in [-2, 0]: log2 of each channel's mean and deviation, divided by 4, for a
    network of convolutions, whose outputs depend on neighbourhoods only."""
    x = (x.float() + 1) / 2
    both = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)], dim=1)
    return (both.clamp(min=0) + 1 / 255).log2() / 4


class Pair(nn.Module):
    """Two 3x3 convolutions; with scalars of width `c_emb`, added after the first, each has a GroupNorm of one group."""

    def __init__(self, c_in: int, c_out: int, c_emb: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm1, self.norm2 = (nn.GroupNorm(1, c_out) if c_emb else nn.Identity() for _ in range(2))
        self.scalars = nn.Linear(c_emb, c_out) if c_emb else None

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        h = self.norm1(self.conv1(x))
        h = h if self.scalars is None else h + self.scalars(emb)[:, :, None, None]
        return F.leaky_relu(self.norm2(self.conv2(F.leaky_relu(h, 0.2))), 0.2)


class Predictor(nn.Module):
    """u(x): (B, 3, H, W) degraded image in [-1, 1] -> first estimate, same shape; any size. `config`: see `UCDIR`."""

    def __init__(self, config: FrozenDict) -> None:
        super().__init__()
        self.patch, self.light = config.patch, config.light
        self.stride = self.patch * 2 ** (config.predictor_levels - 1)  # pixels of a position of the coarsest level
        base, c_emb = config.predictor_channels, 64 if self.light else 0
        widths = [min(base * 2**i, config.predictor_widest or math.inf) for i in range(config.predictor_levels)]
        self.view = nn.Sequential(nn.Linear(6, c_emb), nn.SiLU(), nn.Linear(c_emb, c_emb)) if self.light else None
        self.task = nn.Embedding(len(config.tasks), c_emb) if self.light and config.tasks else None
        joined = zip([3 * self.patch**2, *widths], widths, strict=False)
        self.down = nn.ModuleList(Pair(a, b, c_emb) for a, b in joined)
        steps = list(itertools.pairwise(widths))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in steps)
        self.merge = nn.ModuleList(Pair(2 * a, a, c_emb) for a, _ in steps)
        self.out = nn.Conv2d(base, 3 * self.patch**2, 1)
        if self.light:
            for p in self.out.parameters():
                nn.init.zeros_(p)

    def forward(self, x: Tensor, view: Tensor | None = None, task: Tensor | None = None) -> Tensor:
        """`view` (B, 6): statistics of the whole image where x is a part of one; `task` (B,): numbers of the tasks."""
        emb = self.view(statistics(x) if view is None else view) if self.light else None
        emb = emb if self.task is None else emb + self.task(task)
        padded, box = pad_to_multiple(x, self.stride)
        h = F.pixel_unshuffle(padded, self.patch).contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for i, pair in enumerate(self.down):
            skips.append(pair(F.max_pool2d(h, 2) if i else h, emb))
            h = skips[-1]
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            h = merge(torch.cat([up(h), skip], dim=1), emb)
        out = unpad(F.pixel_shuffle(self.out(h), self.patch), box)
        return x + out if self.light else out


# "layer": the paper's words, over the channels of every position, so that a tile's result does not depend on its size;
# "one-group": the public code's "LayerNorm", statistics over C, H and W together.
NORMS = {
    "layer": LayerNorm2d,
    "one-group": lambda c: nn.GroupNorm(1, c),
    "group": lambda c: nn.GroupNorm(8, c),
    "none": lambda c: nn.Identity(),
}
ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU}
GUIDANCE = ("predictor", "degraded", "feature", "none")


class Block(nn.Module):
    """norm - convolution - activation, norm - conditioned convolution - activation, shortcut (Fig. 1, right)."""

    def __init__(self, c_in: int, c_out: int, config: FrozenDict) -> None:
        super().__init__()
        self.own = config.guidance == "feature"
        c_guide = {"feature": c_out, "none": 0}.get(config.guidance, 3)
        self.norm1, self.norm2 = NORMS[config.norm](c_in), NORMS[config.norm](c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = CONDITIONING[config.conditioning](c_out, config.base_channels, c_guide)
        self.act = ACTIVATIONS[config.activation]()
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, guide: Tensor | None) -> Tensor:
        h = self.norm2(self.act(self.conv1(self.norm1(x))))
        return self.act(self.conv2(h, emb, h if self.own else guide)) + self.shortcut(x)


class SelfAttention(nn.Module):
    """One head over all positions; in the public code; the paper describes convolutions only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).transpose(2, 3).unbind(1)  # (B, H W, C)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(y.transpose(1, 2).reshape(b, c, h, w))


class Stage(nn.Module):
    """A block, with self-attention behind it where there is some."""

    def __init__(self, c_in: int, c_out: int, config: FrozenDict, attention: bool) -> None:
        super().__init__()
        self.block = Block(c_in, c_out, config)
        self.attention = SelfAttention(c_out) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, guide: Tensor | None) -> Tensor:
        return self.attention(self.block(x, emb, guide))


class DiffusionUNet(nn.Module):
    """(degraded, noisy residual), scalars and guide -> predicted noise. `config`: see `UCDIR`."""

    def __init__(self, config: FrozenDict) -> None:
        super().__init__()
        base, mults, light, patch = config.base_channels, config.channel_mults, config.light, config.patch
        self.patch, self.light, self.tasks = patch, light, tuple(config.tasks)
        self.guided = config.guidance in ("predictor", "degraded")
        self.stride = patch * 2 ** (len(mults) - 1)
        self.level = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, base))
        if self.tasks:
            self.task = nn.Embedding(len(self.tasks), base)
            self.strength = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, base))
            self.unknown = nn.Parameter(torch.zeros(base))
        self.view = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, base)) if light else None

        self.downs, c = nn.ModuleList([nn.Conv2d(6 * patch**2, base, 3, padding=1)]), base
        skips = [] if light else [c]
        for i, mult in enumerate(mults):
            for _ in range(config.blocks):
                self.downs.append(Stage(c, base * mult, config, i in config.attention_levels))
                c = base * mult
                skips.append(c)
            if i < len(mults) - 1:
                self.downs.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips += [] if light else [c]
        attends = [bool(config.attention_levels)] + [False] * (not light)
        self.mid = nn.ModuleList(Stage(c, c, config, attention) for attention in attends)
        self.ups = nn.ModuleList()
        for i, mult in reversed(list(enumerate(mults))):
            for _ in range(config.blocks if light else config.blocks + 1):
                self.ups.append(Stage(c + skips.pop(), base * mult, config, i in config.attention_levels))
                c = base * mult
            if i > 0:
                parts = OrderedDict(wide=nn.Upsample(scale_factor=2), conv=nn.Conv2d(c, c, 3, padding=1))
                self.ups.append(nn.Sequential(parts))
        self.head = nn.Sequential(
            NORMS["one-group" if config.norm == "group" else config.norm](c),
            ACTIVATIONS[config.activation](),
            nn.Dropout(config.dropout),
            nn.Conv2d(c, 3 * patch**2, 3, padding=1),
        )
        for p in self.head[3].parameters():
            nn.init.zeros_(p)

    def embed(
        self, level: Tensor, view: Tensor | None, task: Tensor | None = None, strength: Tensor | None = None
    ) -> Tensor:
        """(B, base_channels) of the scalars: `level` (B,), `view` (B, 6), `task` (B,) indices, `strength` (B,) in
        [0, 1], nan where it is unknown. Task and strength must be given where the network was built for them."""
        got = [name for name, value in (("task", task), ("strength", strength)) if value is not None]
        if len(got) != 2 * bool(self.tasks):
            takes = "both" if self.tasks else "neither"
            raise ReproError(f"of task and strength this network takes {takes}: got {' and '.join(got) or 'neither'}")
        width = self.level[0].in_features
        emb = self.level(sinusoid(level, width))
        if task is not None and strength is not None:
            given = self.strength(sinusoid(strength.nan_to_num(), width, scale=100.0))
            given = torch.where(strength.isfinite()[:, None], given, self.unknown.to(given.dtype))
            emb = emb + self.task(task) + given
        return emb if self.view is None else emb + self.view(view)

    def forward(
        self, degraded: Tensor, noisy: Tensor, level: Tensor, guide: Tensor | None, **scalars: Tensor | None
    ) -> Tensor:
        """(B, 3, H, W) of images of any size; `scalars`: see `embed`; `view` as `Predictor` takes it."""
        view = scalars.pop("view", None)
        emb = self.embed(level, statistics(degraded) if view is None else view, **scalars)
        x, box = pad_to_multiple(torch.cat([degraded, noisy], dim=1), self.stride)
        h = F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last)
        guide = pad_to_multiple(guide, self.stride)[0] if self.guided else None
        guides: dict[int, Tensor] = {}  # by width: the guide at the size of every level

        def run(module: nn.Module, h: Tensor) -> Tensor:
            if not isinstance(module, Stage):
                return module(h)
            if self.guided and h.shape[-1] not in guides:
                scaled = F.interpolate(guide, size=h.shape[-2:], mode="bilinear")
                guides[h.shape[-1]] = scaled.contiguous(memory_format=torch.channels_last)
            return module(h, emb, guides.get(h.shape[-1]))

        skips = []
        for module in self.downs:
            h = run(module, h)
            if isinstance(module, Stage) or not self.light:
                skips.append(h)
        for module in self.mid:
            h = run(module, h)
        for module in self.ups:
            h = run(module, torch.cat([h, skips.pop()], dim=1) if isinstance(module, Stage) else h)
        return unpad(F.pixel_shuffle(self.head(h), self.patch), box)
