"""How conditions enter a block: adaptive kernels (Eq. 2), and the three other ways that the paper compares with.

Each class takes a feature map, the embedding of the scalars and the guide, and ends in the block's second convolution.
"""

from functools import partial

import torch
from torch import Tensor, nn

from repro.errors import ReproError

BASES = 8  # N, as published (the paper's figure draws 3)


class Integration(nn.Module):
    """Conditional integration module: G (B, c_out, H, W) from the guide and S (B, c_out, 1, 1) from the scalars, as
    their `product`, which starts near 1, or their sum; without a guide (`c_guide` = 0) S alone.

    G: 1x1 convolution, SimpleGate (one half times the other), 3x3 convolution. S: linear, Swish, linear.
    """

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
    convolution C -> C N, basis fastest, then the sum over the bases weighted by M. In channels-last memory that sum is
    a product of matrices, which makes it fast. M starts near 1 in every basis: an ordinary grouped convolution.
    """

    def __init__(self, channels: int, c_emb: int, c_guide: int) -> None:
        super().__init__()
        if channels % BASES:
            raise ReproError(f"adaptive kernels need channels divisible by the {BASES} bases: got {channels}")
        self.condition = Integration(c_guide, c_emb, BASES, product=True)
        self.bases = nn.Conv2d(channels, channels * BASES, 3, padding=1, groups=BASES)
        with torch.no_grad():
            self.bases.weight.mul_(BASES**-0.5)  # N of them are added
            self.bases.bias.zero_()

    def maps(self, emb: Tensor, guide: Tensor | None) -> Tensor:
        """M (B, N, H, W), or (B, N, 1, 1) without a guide."""
        return self.condition(emb, guide)

    def forward(self, h: Tensor, emb: Tensor, guide: Tensor | None) -> Tensor:
        h = self.bases(h).permute(0, 2, 3, 1).unflatten(-1, (-1, BASES))  # (B, H, W, C, N)
        M = self.maps(emb, guide).permute(0, 2, 3, 1)[..., None].expand(*h.shape[:3], BASES, 1)  # (B, H, W, N, 1)
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
            h = h + M
        elif self.way == "concatenation":
            h = torch.cat([h, M.expand_as(h)], dim=1)
        else:
            scale, shift = M.chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.conv(h)


CONDITIONING = {
    "kernels": AdaptiveKernels,
    **{way: partial(OrdinaryKernels, way=way) for way in ("addition", "concatenation", "adain")},
}
