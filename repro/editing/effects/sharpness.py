"""Motion blur of a degree beta in [0, 1], a still photograph under a camera's shake; and unsharp masking.

"Multi-task image-to-image diffusion models with fine-grained control" (Table 1) has a degree of blur but never defines
it: REDS gives every sharp frame one blurred frame. Decided here, so that it can be chosen and measured: beta is the
length of the camera's path as a fraction of the longest. beta = 0 returns the image bit for bit.

The supplement's Algorithm 1 for sharpening is inverted as printed: its mask marks |x - blurred| <= mu and its `Where`
puts the sharpened value there, which would amplify the noise of flat areas and leave the edges alone. What is meant,
and done here, is the classic filter: a difference below the threshold keeps the original pixel. (The text also calls
the kernel's size "mu = 3"; the threshold mu is another number.) It is not Polesel et al.'s adaptive filter, which the
paper cites.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise

LONGEST = 1 / 8  # of the shorter side: the path at beta = 1, 32 pixels on a 256-pixel crop
KNOTS = 33  # of a trajectory, evenly spaced in time
SMOOTHNESS = 1.0  # exposures: correlation time of the hand; shorter makes scribbles that look like defocus
SIGMA = 1.0  # of the 3x3 Gaussian of sharpening, in pixels
_STEPS = 64  # points between two knots: under 0.1 pixel apart for paths below 200 pixels


@lru_cache(maxsize=1)
def _shake_factor() -> Tensor:
    """(KNOTS, KNOTS) Cholesky factor of a Matern 5/2 covariance over the exposure: paths without corners."""
    t = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
    r = math.sqrt(5) * (t[:, None] - t[None, :]).abs() / SMOOTHNESS
    covariance = (1 + r + r.square() / 3) * torch.exp(-r)
    return torch.linalg.cholesky(covariance + 1e-10 * torch.eye(KNOTS, dtype=torch.float64))


def shake_trajectories(seed: int, ids: Sequence[int | str]) -> Tensor:
    """float64 (B, KNOTS, 2): random camera paths (x, y), centred, of length 1, at equal times of the exposure.

    Both coordinates are samples of a Gaussian process, as in Schuler et al., "Learning to Deblur". The centroid is 0,
    so blur does not shift the image. The length is that of the straight, evenly travelled path of equal spread,
    sqrt(12) times the root mean square distance from the centroid, so that paths of one length blur about equally.
    """
    normals = KeyedNoise(seed, ids, "editing/blur").normal((KNOTS, 2)).double()
    knots = torch.einsum("tk,bkc->btc", _shake_factor(), normals)
    moments = torch.stack([_dense(path) for path in knots])  # (B, S, 2)
    centre = moments.mean(dim=1, keepdim=True)
    spread = (moments - centre).square().sum(dim=2).mean(dim=1).sqrt()  # (B,)
    return (knots - centre) / (math.sqrt(12) * spread)[:, None, None]


def _dense(knots: Tensor) -> Tensor:
    """(S, 2) midpoints of even time steps along the straight pieces between the knots (K, 2)."""
    t = (torch.arange(_STEPS, dtype=torch.float64) + 0.5) / _STEPS
    return torch.lerp(knots[:-1, None], knots[1:, None], t[None, :, None]).reshape(-1, 2)


def line_kernels(paths: Tensor) -> Tensor:
    """float32 (B, K, K), K odd: the time each pixel of a kernel is lit along the paths (B, KNOTS, 2), in pixels.

    The integral of the bilinear tent over the path: a sub-pixel anti-aliased line. A kernel sums to 1 and keeps the
    path's centroid exactly. Made on the CPU in float64: scattered sums on an accelerator come in no fixed order.
    """
    half = max(1, math.ceil(paths.abs().max().item()))
    size = 2 * half + 1
    out = torch.zeros(len(paths), size * size, dtype=torch.float64)
    for kernel, path in zip(out, paths, strict=True):
        at = _dense(path) + half
        cell = at.floor().clamp(max=size - 2)
        right, below = (at - cell).unbind(1)
        base = (cell[:, 1] * size + cell[:, 0]).long()
        for dx, wx in ((0, 1 - right), (1, right)):
            for dy, wy in ((0, 1 - below), (1, below)):
                kernel.index_add_(0, base + dy * size + dx, wx * wy)
    return (out / out.sum(dim=1, keepdim=True)).view(-1, size, size).float()


def motion_blur(
    image: Tensor,
    beta: float | Sequence[float] | Tensor,
    seed: int,
    ids: Sequence[int | str],
    *,
    longest: float | None = None,
) -> Tensor:
    """Blur of a shaken camera: (B, 3, H, W) in [0, 1] -> the same shape, reflected at the borders.

    Args:
        beta: degree in [0, 1], one number or one an image: the path is beta * longest pixels long. An image's path
            has one shape for all degrees, so its blur grows along it.
        seed, ids: the path depends on (seed, id) alone, not on the batch.
        longest: pixels of the path at beta = 1, at most half the shorter side; by default an eighth of it.
    """
    beta = torch.as_tensor(beta, dtype=torch.float64).cpu().reshape(-1).expand(len(image))
    longest = LONGEST * min(image.shape[-2:]) if longest is None else longest
    moved = beta > 0
    if not moved.any():
        return image.clone()
    kernels = line_kernels(shake_trajectories(seed, ids) * (beta * longest)[:, None, None])  # (B, K, K)
    half, channels = kernels.shape[-1] // 2, image.shape[1]
    padded = F.pad(image, (half, half, half, half), mode="reflect").flatten(0, 1)[None]
    weight = kernels.flip(1, 2).to(image).repeat_interleave(channels, dim=0)[:, None]  # convolution, not correlation
    blurred = F.conv2d(padded, weight, groups=padded.shape[1]).view_as(image).clamp(0, 1)
    return torch.where(moved.to(image.device)[:, None, None, None], blurred, image)


def gaussian_3x3(image: Tensor) -> Tensor:
    """(B, C, H, W) blurred by the separable 3-tap Gaussian of SIGMA, reflected at the borders."""
    tap = torch.exp(torch.tensor(-0.5 / SIGMA**2, dtype=torch.float64))
    side, middle = (tap / (1 + 2 * tap)).item(), (1 / (1 + 2 * tap)).item()
    x = F.pad(image, (1, 1, 1, 1), mode="reflect")
    x = middle * x[..., 1:-1, :] + side * (x[..., :-2, :] + x[..., 2:, :])
    return middle * x[..., 1:-1] + side * (x[..., :-2] + x[..., 2:])


def unsharp_mask(
    image: Tensor, amount: float | Sequence[float] | Tensor, threshold: float | Sequence[float] | Tensor = 0.0
) -> Tensor:
    """x + lambda (x - blurred), clamped, where |x - blurred| >= mu; x elsewhere. (B, 3, H, W) in [0, 1] -> the same.

    Args:
        amount: lambda >= 0, one number or one an image; 0 is the identity, the paper's are 1 to 3.
        threshold: mu >= 0 in units of the [0, 1] range, one number or one an image; each channel decides for itself.
    """
    amount, threshold = (
        torch.as_tensor(value, dtype=torch.float64).reshape(-1).to(image)[:, None, None, None]
        for value in (amount, threshold)
    )
    detail = image - gaussian_3x3(image)
    return torch.where(detail.abs() >= threshold, (image + amount * detail).clamp(0, 1), image)
