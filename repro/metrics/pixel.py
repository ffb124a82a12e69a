"""l1, PSNR and SSIM on batches: (B, C, H, W) float64 in [0, 1] -> (B,) float64. No rounding, no crop unless stated.

Called through `repro.metrics.protocols.score`, which checks shapes and ranges and chooses the colour space.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_SIGMA, _RADIUS = 1.5, 5  # 11 taps: the window of Wang et al. 2004
WINDOW = 2 * _RADIUS + 1
_C1, _C2 = 0.01**2, 0.03**2  # for a data range of 1


def luma(rgb: Tensor) -> Tensor:
    """Y of MATLAB's `rgb2ycbcr` on doubles: (B, 3, H, W) in [0, 1] -> (B, 1, H, W) in [16/255, 235/255], unrounded."""
    weights = rgb.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    return ((rgb * weights).sum(dim=1, keepdim=True) + 16.0) / 255.0


def quantise(image: Tensor) -> Tensor:
    """What an 8-bit file keeps: rounded half up to 255 steps, as MATLAB's `im2uint8` rounds."""
    return (image * 255.0 + 0.5).floor() / 255.0


def luma_uint8(rgb: Tensor) -> Tensor:
    """Y of MATLAB's `rgb2ycbcr` on a uint8 image: the image is rounded to 8 bits, and so is Y."""
    return quantise(luma(quantise(rgb)))


def l1(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference over pixels and channels, in units of the [0, 1] range."""
    return (image - reference).abs().flatten(1).mean(dim=1)


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """10 log10(1 / MSE) in dB, one MSE over all channels of an image; infinite for equal images."""
    return -10.0 * (image - reference).square().flatten(1).mean(dim=1).log10()


def _blur_matrix(n: int, like: Tensor, replicate: bool) -> Tensor:
    """The Gaussian along one axis as a banded matrix: (n - 10, n) inside the axis, or (n, n) with replicated borders.

    Two dense products per image are several times faster than a double-precision convolution on the CPU.
    """
    taps = torch.arange(-_RADIUS, _RADIUS + 1, device=like.device)
    window = torch.exp(-0.5 * (taps.to(like.dtype) / _SIGMA).square())
    first, last = (0, n) if replicate else (_RADIUS, n - _RADIUS)
    centres = torch.arange(first, last, device=like.device)
    columns = (centres[:, None] + taps).clamp(0, n - 1)
    matrix = torch.zeros(len(centres), n, dtype=like.dtype, device=like.device)
    return matrix.scatter_add_(1, columns, (window / window.sum()).expand(len(centres), -1))


def _ssim(image: Tensor, reference: Tensor, blur: Callable[[Tensor], Tensor], sample: float = 1.0) -> Tensor:
    """Eq. 13 of "Image Quality Assessment: From Error Visibility to Structural Similarity", mean over positions.

    Moments are the population's, times `sample`.
    """
    maps = torch.cat([image, reference, image * image, reference * reference, image * reference])
    mu_x, mu_y, xx, yy, xy = blur(maps).chunk(5)
    variances, covariance = sample * (xx - mu_x.square() + yy - mu_y.square()), sample * (xy - mu_x * mu_y)
    top = (2 * mu_x * mu_y + _C1) * (2 * covariance + _C2)
    bottom = (mu_x.square() + mu_y.square() + _C1) * (variances + _C2)
    return (top / bottom).flatten(1).mean(dim=1)


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Wang's SSIM: Gaussian 11x11, sigma 1.5, only where the window fits (5 border pixels a side give no value),
    mean over positions and then over channels. Equals scikit-image with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1`.
    """
    rows, columns = (_blur_matrix(n, image, replicate=False) for n in image.shape[2:])
    return _ssim(image, reference, lambda maps: rows @ maps @ columns.T)


def ssim_3d(image: Tensor, reference: Tensor) -> Tensor:
    """What MATLAB's `ssim` does with an HxWx3 array, and BasicSR's "3-D" SSIM after it: colour is taken for a third
    spatial axis. Gaussian 11x11x11, replicated borders, mean over every position.
    """
    depth, rows, columns = (_blur_matrix(n, image, replicate=True) for n in image.shape[1:])
    return _ssim(image, reference, lambda maps: torch.einsum("dc,bchw->bdhw", depth, rows @ maps @ columns.T))


def ssim_uniform(image: Tensor, reference: Tensor) -> Tensor:
    """scikit-image's default SSIM (a trap): uniform 7x7 window, sample covariance, 3 border pixels a side dropped."""
    return _ssim(image, reference, lambda maps: F.avg_pool2d(maps, 7, stride=1), sample=49 / 48)


# --- MATLAB's evaluation scripts, which resize the ground truth before they measure ----------------------------------


def imresize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """MATLAB's `imresize(image, [height width])` on a uint8 image: bicubic (a = -1/2), antialiased, edges mirrored.

    (..., H, W) in [0, 1], rounded to 8 bits first as a file's pixels are, becomes (..., height, width) float64 of 8-bit
    values in [0, 1]. Between an image's borders it is Pillow's and torch's antialiased bicubic; those renormalise the
    kernel at a border where MATLAB mirrors the image.

    The scripts of the deraining and low-light literature score a 256 px output against a ground truth of another size
    resized by this; PSNR and SSIM are then protocols "psnr/y-uint8" and "ssim/y-uint8-wang". The same output scored at
    full resolution is another measurement.
    """
    rows, columns = (_weights(n, m).to(image.device) for n, m in zip(image.shape[-2:], size, strict=True))
    x = quantise(image.double())
    height, width = (size[i] / image.shape[i - 2] for i in (0, 1))
    if height <= width:  # the axis that shrinks most first, and 8 bits between the two
        x = quantise((rows @ x).clamp(0, 1)) @ columns.T
    else:
        x = rows @ quantise((x @ columns.T).clamp(0, 1))
    return quantise(x.clamp(0, 1))


def _weights(length: int, size: int) -> Tensor:
    """(size, length) float64: which old pixels make a new one, in which shares."""
    scale = size / length
    stretch = min(scale, 1.0)  # below 1 the kernel is widened, so that it also averages
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5
    reach = int(-(-2 // stretch)) + 1
    places = centre.floor().long()[:, None] + torch.arange(-reach, reach + 1)  # (size, taps)
    x = (stretch * (places - centre[:, None])).abs()  # of Keys' kernel with a = -1/2
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    shares = torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    shares = shares / shares.sum(dim=1, keepdim=True)
    mirrored = places % (2 * length)
    mirrored = torch.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    return torch.zeros(size, length, dtype=torch.float64).scatter_add_(1, mirrored, shares)
