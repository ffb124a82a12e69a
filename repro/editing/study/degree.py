"""The degree beta of a blurred frame whose sharp frame is known: the length of the motion that would differ as much.

"Multi-task image-to-image diffusion models with fine-grained control" takes blurred frames from REDS, conditions its
model on "blur degree beta in [0, 1]" and does not say how a frame gets its degree. Our decision: a crop's difference
from the sharp crop is measured, and beta is the length, as a fraction of the longest path that stills are blurred with
(`LONGEST`), of the straight and even motion that would make that difference in this crop. So beta
grows with the difference, lies in [0, 1], does not depend on how much there is to see in a crop, and means the same for
frames as for stills.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from repro.editing.effects.blur import LONGEST
from repro.errors import ReproError

STEPS = 64  # of length between no motion and the longest: half a pixel each on a 256-pixel crop
DECIMALS = 4  # of a degree: far finer than what it measures, coarser than what rounding does to it
FLAT = 0.5 / 255  # deviation of a crop in which there is nothing to be blurred: half a grey level
_ANGLES = 64  # of motion, over a quarter turn


def blur_degree(sharp: Tensor, blurred: Tensor) -> list[float]:
    """beta in [0, 1] of each pair, both (B, 3, H, W) in [0, 1]; rounded to DECIMALS.

    With w a Hann window (the borders of a crop are blurred with what lies beyond them), the difference is

        d = ||w (sharp - blurred)|| / ||w (sharp - mean)||

    and motion over L pixels into an unknown direction would make, from the crop's power spectrum |S(f)|^2,

        d(L)^2 = sum_f |S(f)|^2 g(|f| L) / sum_f |S(f)|^2,   g(x) = mean over angles a of (1 - sinc(x cos a))^2.

    beta is L / longest at d(L) = d: 1 beyond the longest, 0 in a crop flatter than FLAT.
    """
    if sharp.shape != blurred.shape or sharp.dim() != 4 or not sharp.is_floating_point():
        raise ReproError(
            f"blur degree: got {tuple(sharp.shape)} and {tuple(blurred.shape)}; accepted: two floating point "
            "(B, 3, H, W) of one shape"
        )
    height, width = sharp.shape[-2:]
    window, ring, curves = _tables(height, width)
    seen = (sharp.double() - sharp.double().mean(dim=(2, 3), keepdim=True)) * window
    difference = ((sharp.double() - blurred.double()) * window).square().sum(dim=(1, 2, 3))  # (B,)
    power = torch.fft.fft2(seen).abs().square().sum(dim=1).flatten(1)  # (B, H W)
    rings = torch.zeros(len(sharp), curves.shape[1], dtype=torch.float64).index_add_(1, ring, power)
    whole = seen.square().sum(dim=(1, 2, 3))  # (B,) by Parseval, rings.sum / (H W)
    flat = whole < FLAT**2 * sharp.shape[1] * window.square().sum()
    expected = rings @ curves.T / (height * width)  # (B, STEPS + 1) squared differences over the lengths
    expected = expected.cummax(dim=1).values  # a spectrum of one frequency would turn back
    at = torch.searchsorted(expected, difference[:, None])[:, 0].clamp(1, STEPS)
    low, high = (expected.gather(1, i[:, None])[:, 0].sqrt() for i in (at - 1, at))
    between = ((difference.sqrt() - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    beta = torch.where(flat, 0.0, (at - 1 + between) / STEPS)
    return [round(b, DECIMALS) for b in beta.tolist()]


@lru_cache(maxsize=4)
def _tables(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Window (H, W), the ring of |f| that each frequency lies in (H W), and g over lengths and rings."""
    hann = [torch.hann_window(n, periodic=False, dtype=torch.float64) for n in (height, width)]
    frequency = [torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width)]  # cycles a pixel
    radius = torch.hypot(frequency[0][:, None], frequency[1][None, :])
    finest = max(height, width)
    ring = (radius * finest).round().long().flatten()
    lengths = torch.linspace(0, LONGEST * min(height, width), STEPS + 1, dtype=torch.float64)
    cosines = torch.cos((torch.arange(_ANGLES, dtype=torch.float64) + 0.5) / _ANGLES * (math.pi / 2))
    rings = torch.arange(int(ring.max()) + 1, dtype=torch.float64) / finest
    curves = torch.stack([(1 - torch.sinc(length * rings[:, None] * cosines)).square().mean(1) for length in lengths])
    return hann[0][:, None] * hann[1][None, :], ring, curves
