"""What MATLAB's evaluation scripts do before they measure: the ground truth resized to the output's size.

The scripts of the deraining and low-light literature score a 256 px output against a ground truth of another size,
resized by `imresize` on 8-bit values; PSNR and SSIM are then protocols "psnr/y-uint8" and "ssim/y-uint8-wang". The
same output scored at full resolution is another measurement.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.metrics.pixel import quantise


def imresize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """MATLAB's `imresize(image, [height width])` on a uint8 picture: bicubic (a = -1/2), antialiased, edges mirrored.

    Between a picture's borders it is Pillow's and torch's antialiased bicubic; those renormalise the kernel at a border
    where MATLAB mirrors the picture.

    Args:
        image: (..., H, W) in [0, 1]; rounded to 8 bits first, as a file's pixels are.

    Returns:
        (..., height, width) float64 of 8-bit values in [0, 1].
    """
    if min(size) < 1:
        raise ReproError(f"imresize: both sides must be at least 1 pixel: got {size[0]}x{size[1]}")
    rows, columns = (_weights(n, m).to(image.device) for n, m in zip(image.shape[-2:], size, strict=True))
    x = quantise(image.double())
    height, width = (size[i] / image.shape[i - 2] for i in (0, 1))
    if height <= width:  # the axis that shrinks most first, and 8 bits between the two
        x = quantise((rows @ x).clamp(0, 1)) @ columns.T
    else:
        x = rows @ quantise((x @ columns.T).clamp(0, 1))
    return quantise(x.clamp(0, 1))


def ground_truth(reference: Tensor, output: Tensor) -> Tensor:
    """`reference` (B, C, H, W) as the scripts compare it with `output` (B, C, h, w): float32, h x w."""
    return imresize(reference, tuple(output.shape[-2:])).float()


def _weights(length: int, size: int) -> Tensor:
    """(size, length) float64: which old pixels make a new one, in which shares."""
    scale = size / length
    stretch = min(scale, 1.0)  # below 1 the kernel is widened, so that it also averages
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5
    reach = int(-(-2 // stretch)) + 1
    places = centre.floor().long()[:, None] + torch.arange(-reach, reach + 1)  # (size, taps)
    shares = _cubic(stretch * (places - centre[:, None]))
    shares = shares / shares.sum(dim=1, keepdim=True)
    mirrored = places % (2 * length)
    mirrored = torch.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    return torch.zeros(size, length, dtype=torch.float64).scatter_add_(1, mirrored, shares)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2."""
    x = x.abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
