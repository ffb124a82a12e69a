"""The diffusion U-Net: blocks of two convolutions, the second one conditioned; predicts the noise in the residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import ReproError
from repro.nn.padding import pad_to_multiple, unpad
from repro.nn.unet import InputSkip, sinusoid
from repro.ucdir.kernels import CONDITIONING, resized
from repro.ucdir.predictor import statistics


class PositionNorm(nn.LayerNorm):
    """LayerNorm over the channels of every position, so that a tile's result does not depend on its size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# "layer": the paper's words; "one-group": the public code's "LayerNorm", statistics over C, H and W together.
NORMS = {
    "layer": PositionNorm,
    "one-group": lambda c: nn.GroupNorm(1, c),
    "group": lambda c: nn.GroupNorm(8, c),
    "none": lambda c: nn.Identity(),
}
ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU}
GUIDANCE = ("predictor", "degraded", "feature", "none")


class Block(nn.Module):
    """norm - convolution - activation, norm - conditioned convolution - activation, shortcut (Fig. 1, right)."""

    def __init__(
        self, c_in: int, c_out: int, c_emb: int, norm: str, activation: str, guidance: str, conditioning: str
    ) -> None:
        super().__init__()
        self.own = guidance == "feature"
        c_guide = {"feature": c_out, "none": 0}.get(guidance, 3)
        self.norm1, self.norm2 = NORMS[norm](c_in), NORMS[norm](c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = CONDITIONING[conditioning](c_out, c_emb, c_guide)
        self.act = ACTIVATIONS[activation]()
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, guide: Tensor | None) -> Tensor:
        h = self.norm2(self.act(self.conv1(self.norm1(x))))
        return self.act(self.conv2(h, emb, h if self.own else guide)) + self.shortcut(x)


class SelfAttention(nn.Module):
    """One head over all positions, added to its input: in the public code, though the paper speaks of convolutions."""

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
    """A block, with self-attention behind it where asked for."""

    def __init__(self, c_in: int, c_out: int, c_emb: int, attention: bool = False, **block: str) -> None:
        super().__init__()
        self.block = Block(c_in, c_out, c_emb, **block)
        self.attention = SelfAttention(c_out) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, guide: Tensor | None) -> Tensor:
        return self.attention(self.block(x, emb, guide))


class Upsample(nn.Module):
    """Nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class DiffusionUNet(nn.Module):
    """(degraded, noisy residual), scalars and guide -> predicted noise.

    Args:
        base_channels, channel_mults, blocks: width of the first level, of each level over it, blocks a level down (one
            more up).
        light: as many blocks up as down, one in the middle, and only the blocks' outputs skip to the other side.
        attention_levels, mid_attention: where self-attention is (nowhere, in a network of pure convolutions).
        norm, activation, guidance, conditioning: names of NORMS, ACTIVATIONS, GUIDANCE, `kernels.CONDITIONING`.
        patch: side of the square of pixels that becomes one position.
        input_skip: whether the input is also added to the output, mixed per position and scaled by the scalars.
        tasks: names of the tasks a network tells apart: it takes task and strength too. Empty: it takes neither.
        dropout: before the last convolution.
        blind: whether the strength may be unknown (nan), for which the network has a vector of its own.
        view: whether `predictor.statistics` of the whole degraded image are scalars too.
        level_scale: factor on the noise level before its sinusoid (published: 1, which hardly tells low levels apart).
    """

    def __init__(
        self,
        base_channels: int,
        channel_mults: tuple[int, ...],
        blocks: int,
        light: bool,
        attention_levels: tuple[int, ...],
        mid_attention: bool,
        norm: str,
        activation: str,
        guidance: str,
        conditioning: str,
        patch: int,
        input_skip: bool,
        tasks: tuple[str, ...],
        dropout: float,
        level_scale: float = 1.0,
        blind: bool = False,
        view: bool = False,
    ) -> None:
        super().__init__()
        for what, value, known in (
            ("norm", norm, NORMS), ("activation", activation, ACTIVATIONS), ("guidance", guidance, GUIDANCE),
            ("conditioning", conditioning, CONDITIONING),
        ):  # fmt: skip
            if value not in known:
                raise ReproError(f"{what} {value!r} is unknown: choose {', '.join(known)}")
        self.guidance, self.patch, self.tasks, self.light = guidance, patch, tuple(tasks), light
        self.level_scale = level_scale
        self.stride = patch * 2 ** (len(channel_mults) - 1)
        c_emb = self.c_emb = base_channels
        self.level = nn.Sequential(nn.Linear(c_emb, 4 * c_emb), nn.SiLU(), nn.Linear(4 * c_emb, c_emb))
        if tasks:
            self.task = nn.Embedding(len(tasks), c_emb)
            self.strength = nn.Sequential(nn.Linear(c_emb, 4 * c_emb), nn.SiLU(), nn.Linear(4 * c_emb, c_emb))
        self.unknown = nn.Parameter(torch.zeros(c_emb)) if tasks and blind else None
        self.view = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, c_emb)) if view else None
        choices: dict[str, Any] = dict(norm=norm, activation=activation, guidance=guidance, conditioning=conditioning)

        def stage(c_in: int, c_out: int, attention: bool) -> Stage:
            return Stage(c_in, c_out, c_emb, attention, **choices)

        c = base_channels
        downs: list[nn.Module] = [nn.Conv2d(6 * patch**2, c, 3, padding=1)]
        skips = [] if light else [c]
        for i, mult in enumerate(channel_mults):
            for _ in range(blocks):
                downs.append(stage(c, base_channels * mult, i in attention_levels))
                c = base_channels * mult
                skips.append(c)
            if i < len(channel_mults) - 1:
                downs.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips += [] if light else [c]
        self.downs = nn.ModuleList(downs)
        self.mid = nn.ModuleList([stage(c, c, mid_attention), *([] if light else [stage(c, c, False)])])
        ups: list[nn.Module] = []
        for i, mult in reversed(list(enumerate(channel_mults))):
            for _ in range(blocks if light else blocks + 1):
                ups.append(stage(c + skips.pop(), base_channels * mult, i in attention_levels))
                c = base_channels * mult
            if i > 0:
                ups.append(Upsample(c))
        self.ups = nn.ModuleList(ups)
        self.head = nn.Sequential(
            nn.Identity() if norm == "none" else nn.GroupNorm(1, c) if norm != "layer" else PositionNorm(c),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            nn.Conv2d(c, 3 * patch**2, 3, padding=1),
        )
        nn.init.zeros_(self.head[3].weight)
        nn.init.zeros_(self.head[3].bias)
        self.bypass = InputSkip(6 * patch**2, 3 * patch**2, c_emb) if input_skip else None

    def embed(
        self, level: Tensor, task: Tensor | None = None, strength: Tensor | None = None, view: Tensor | None = None
    ) -> Tensor:
        """(B, c_emb) of the scalars; exactly those the network was built for must be given."""
        if (task is not None, strength is not None) != (bool(self.tasks),) * 2:
            takes = "noise level, task and strength" if self.tasks else "the noise level alone"
            gets = ", ".join(n for n, v in (("task", task), ("strength", strength)) if v is not None) or "neither"
            raise ReproError(f"this network takes {takes}: of task and strength it was given {gets}")
        emb = self.level(sinusoid(level, self.c_emb, self.level_scale))
        if task is not None and strength is not None:
            known = strength.isfinite()
            if self.unknown is None and not known.all():
                raise ReproError("this network needs the strength, in [0, 1]: it was not trained without")
            given = self.strength(sinusoid(strength.nan_to_num(), self.c_emb, scale=100.0))
            if self.unknown is not None:
                given = torch.where(known[:, None], given, self.unknown.to(given.dtype))
            emb = emb + self.task(task) + given
        if self.view is not None and view is not None:
            emb = emb + self.view(view)
        return emb

    def forward(
        self,
        degraded: Tensor,
        noisy: Tensor,
        level: Tensor,
        guide: Tensor | None,
        task: Tensor | None = None,
        strength: Tensor | None = None,
        view: Tensor | None = None,
    ) -> Tensor:
        """(B, 3, H, W) of images of any size; `level` (B,), `task` (B,) indices, `strength` (B,) in [0, 1]; `view`
        (B, 6), the statistics of the whole image where `degraded` is a part of one."""
        if self.view is not None and view is None:
            view = statistics(degraded)
        emb = self.embed(level, task, strength, view)
        x, box = pad_to_multiple(torch.cat([degraded, noisy], dim=1), self.stride)
        x = F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last)
        guides: dict[int, Tensor] = {}
        if self.guidance in ("predictor", "degraded"):
            if guide is None or guide.shape != degraded.shape:
                found = "none" if guide is None else tuple(guide.shape)
                raise ReproError(f"the guide must have the degraded image's shape {tuple(degraded.shape)}: got {found}")
            guide = pad_to_multiple(guide, self.stride)[0]

        def run(module: nn.Module, h: Tensor) -> Tensor:
            if not isinstance(module, Stage):
                return module(h)
            if self.guidance not in ("predictor", "degraded"):
                return module(h, emb, None)
            if h.shape[-1] not in guides:
                guides[h.shape[-1]] = resized(guide, h).contiguous(memory_format=torch.channels_last)
            return module(h, emb, guides[h.shape[-1]])

        h, skips = x, []
        for module in self.downs:
            h = run(module, h)
            if isinstance(module, Stage) or not self.light:
                skips.append(h)
        for module in self.mid:
            h = run(module, h)
        for module in self.ups:
            h = run(module, torch.cat([h, skips.pop()], dim=1) if isinstance(module, Stage) else h)
        out = self.head(h)
        if self.bypass is not None:
            out = out + self.bypass(x, emb)
        return unpad(F.pixel_shuffle(out, self.patch), box)
