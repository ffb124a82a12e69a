"""The initial predictor: the plain U-Net of "Learning to see in the dark" makes a first estimate of the clean image."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.nn.padding import pad_to_multiple, unpad


def statistics(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 6): mean and deviation of each channel over the whole image, log2, in [-2, 0].

    A network of convolutions sees a neighbourhood; how dark or coloured the photograph is as a whole it must be given.
    """
    x = (x.float() + 1) / 2
    both = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)], dim=1)
    return (both.clamp(min=0) + 1 / 255).log2() / 4


class Pair(nn.Sequential):
    """Two 3x3 convolutions, each with LeakyReLU 0.2."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(c_out, c_out, 3, padding=1),
            nn.LeakyReLU(0.2),
        )


class Predictor(nn.Module):
    """u(x): (B, 3, H, W) degraded image in [-1, 1] -> first estimate, same shape; any size.

    Args:
        base_channels, levels: width of the first level, doubled at each of the following (published: 32 and 5).
        patch: side of the square of pixels that becomes one position.
        residual: whether the degraded image is added to the output, which starts at zero then (not as published).
        widest: most channels of a level; 0: no limit, as published.
        view: whether the coarsest level also takes `statistics` of the whole image (not as published).
    """

    def __init__(
        self,
        base_channels: int = 32,
        levels: int = 5,
        patch: int = 1,
        residual: bool = False,
        widest: int = 0,
        view: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.residual = patch, residual
        widths = [min(base_channels * 2**i, widest or base_channels * 2**i) for i in range(levels)]
        self.down = nn.ModuleList(Pair(a, b) for a, b in zip([3 * patch**2, *widths], widths, strict=False))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(list(itertools.pairwise(widths)))
        )
        self.merge = nn.ModuleList(Pair(2 * c, c) for c in reversed(widths[:-1]))
        self.out = nn.Conv2d(base_channels, 3 * patch**2, 1)
        self.view = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, widths[-1])) if view else None
        if residual:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        padded, box = pad_to_multiple(x, self.patch * 2 ** (len(self.down) - 1))
        h = F.pixel_unshuffle(padded, self.patch).contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for i, pair in enumerate(self.down):
            h = pair(F.max_pool2d(h, 2) if i else h)
            skips.append(h)
        skips.pop()
        if self.view is not None:
            h = h + self.view(statistics(x))[:, :, None, None]
        for up, merge in zip(self.up, self.merge, strict=True):
            h = merge(torch.cat([up(h), skips.pop()], dim=1))
        out = unpad(F.pixel_shuffle(self.out(h), self.patch), box)
        return x + out if self.residual else out
