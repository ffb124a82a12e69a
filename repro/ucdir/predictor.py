"""The initial predictor: the plain U-Net of "Learning to see in the dark" makes a first estimate of the clean image."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import ReproError
from repro.nn.padding import pad_to_multiple, unpad


def statistics(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 6) in [-2, 0]: log2 of each channel's mean and deviation, divided by 4.

    A network of convolutions sees a neighbourhood; how dark or coloured the photograph is as a whole it must be given.
    """
    x = (x.float() + 1) / 2
    both = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)], dim=1)
    return (both.clamp(min=0) + 1 / 255).log2() / 4


class Pair(nn.Module):
    """Two 3x3 convolutions, each with LeakyReLU 0.2.

    `normed`: each convolution is followed by GroupNorm of one group; `c_emb`: width of scalars added after the first.
    """

    def __init__(self, c_in: int, c_out: int, normed: bool = False, c_emb: int = 0) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm1, self.norm2 = (nn.GroupNorm(1, c_out) if normed else nn.Identity() for _ in range(2))
        self.scalars = nn.Linear(c_emb, c_out) if c_emb else None

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        h = self.norm1(self.conv1(x))
        if self.scalars is not None:
            h = h + self.scalars(emb)[:, :, None, None]
        return F.leaky_relu(self.norm2(self.conv2(F.leaky_relu(h, 0.2))), 0.2)


class Predictor(nn.Module):
    """u(x): (B, 3, H, W) degraded image in [-1, 1] -> first estimate, same shape; any size.

    The defaults are as published; with the arguments behind `patch` it is not.

    Args:
        base_channels, levels: width of the first level, doubled at each of the following.
        patch: side of the square of pixels that becomes one position.
        residual: whether the degraded image is added to the output, which starts at zero then.
        widest: most channels of a level; 0: no limit.
        normed: whether a GroupNorm of one group follows every convolution.
        view: whether it also takes `statistics` of the whole image, and the task's number where `tasks` is not 0.
    """

    def __init__(
        self,
        base_channels: int = 32,
        levels: int = 5,
        patch: int = 1,
        residual: bool = False,
        widest: int = 0,
        normed: bool = False,
        view: bool = False,
        tasks: int = 0,
    ) -> None:
        super().__init__()
        self.patch, self.residual = patch, residual
        widths = [min(base_channels * 2**i, widest or base_channels * 2**i) for i in range(levels)]
        c_emb = 64 if view else 0
        self.view = nn.Sequential(nn.Linear(6, c_emb), nn.SiLU(), nn.Linear(c_emb, c_emb)) if view else None
        self.task = nn.Embedding(tasks, c_emb) if view and tasks else None
        joined = zip([3 * patch**2, *widths], widths, strict=False)
        self.down = nn.ModuleList(Pair(a, b, normed, c_emb) for a, b in joined)
        steps = list(itertools.pairwise(widths))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in steps)
        self.merge = nn.ModuleList(Pair(2 * a, a, normed, c_emb) for a, _ in steps)
        self.out = nn.Conv2d(base_channels, 3 * patch**2, 1)
        if residual:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    @property
    def stride(self) -> int:
        """Pixels that become one position of the coarsest level."""
        return self.patch * 2 ** (len(self.down) - 1)

    def forward(self, x: Tensor, view: Tensor | None = None, task: Tensor | None = None) -> Tensor:
        """The estimate of x; `view` (B, 6) are the statistics of the whole image where x is a part of one, `task` (B,)
        the numbers of the tasks."""
        emb = None
        if self.view is not None:
            emb = self.view(statistics(x) if view is None else view)
            if self.task is not None:
                if task is None:
                    raise ReproError("this predictor needs the task's number")
                emb = emb + self.task(task)
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
        return x + out if self.residual else out
