"""The initial predictor: the plain U-Net of "Learning to see in the dark" makes a first estimate of the clean image."""

from __future__ import annotations

import itertools
import math

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn
from torch.nn import functional as F

from repro.nn.padding import pad_to_multiple, unpad


def statistics(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 6) in [-2, 0]: log2 of each channel's mean and deviation, divided by 4.

    A network of convolutions sees a neighbourhood; how dark or coloured the photograph is as a whole it must be given.
    """
    x = (x.float() + 1) / 2
    both = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)], dim=1)
    return (both.clamp(min=0) + 1 / 255).log2() / 4


class Pair(nn.Module):
    """Two 3x3 convolutions, each with LeakyReLU 0.2; with scalars of width `c_emb`, which are added after the first,
    each also has a GroupNorm of one group."""

    def __init__(self, c_in: int, c_out: int, c_emb: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm1, self.norm2 = (nn.GroupNorm(1, c_out) if c_emb else nn.Identity() for _ in range(2))
        self.scalars = nn.Linear(c_emb, c_out) if c_emb else None

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        h = self.norm1(self.conv1(x))
        if self.scalars is not None:
            h = h + self.scalars(emb)[:, :, None, None]
        return F.leaky_relu(self.norm2(self.conv2(F.leaky_relu(h, 0.2))), 0.2)


class Predictor(nn.Module):
    """u(x): (B, 3, H, W) degraded image in [-1, 1] -> first estimate, same shape; any size. `config`: see `UCDIR`."""

    def __init__(self, config: FrozenDict) -> None:
        super().__init__()
        self.patch, self.light = config.patch, config.light
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
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    @property
    def stride(self) -> int:
        """Pixels that become one position of the coarsest level."""
        return self.patch * 2 ** (len(self.down) - 1)

    def forward(self, x: Tensor, view: Tensor | None = None, task: Tensor | None = None) -> Tensor:
        """The estimate of x; `view` (B, 6) are the statistics of the whole image where x is a part of one, `task` (B,)
        the numbers of the tasks, where the network was built for some."""
        emb = None
        if self.view is not None:
            emb = self.view(statistics(x) if view is None else view)
            emb = emb if self.task is None else emb + self.task(task)
        padded, box = pad_to_multiple(x, self.stride)
        h = F.pixel_unshuffle(padded, self.patch).contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for i, pair in enumerate(self.down):
            h = pair(F.max_pool2d(h, 2) if i else h, emb)
            skips.append(h)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            h = merge(torch.cat([up(h), skips.pop()], dim=1), emb)
        out = unpad(F.pixel_shuffle(self.out(h), self.patch), box)
        return x + out if self.light else out
