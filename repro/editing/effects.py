"""The effects on images, each a formula with its source, and `compose`: what every target is made by.

"Multi-task image-to-image diffusion models with fine-grained control" leaves much of them open. Decided here:

- Blur (Table 1) has a degree that is never defined: REDS gives every sharp frame one blurred frame. Here beta in [0, 1]
  is the length of the path of a shaken camera as a fraction of the longest; beta = 0 returns the image bit for bit.
- Sharpening: the supplement's Algorithm 1 sharpens where |x - blurred| <= mu, which would amplify the noise of flat
  areas and leave the edges alone. What is meant, and done here, is the classic filter. (The text also calls the
  kernel's size "mu = 3"; the threshold mu is another number.)
- Colour: Reinhard et al., "Color transfer between images" (2001), x -> ratio (x - mean_image) + mean_reference, ratio =
  deviation_reference / deviation_image, in the logarithmic l-alpha-beta space of Ruderman et al. The script that the
  supplement used works in 8-bit CIE Lab and by default scales by the *inverse* ratio.
- Holes: "Free-Form Image Inpainting with Gated Convolution" (Yu et al., ICCV 2019) draws strokes whose vertices turn by
  about 2 pi / 5, back and forth; the constants are those of its common implementation (DeepFillv2). Lengths scale with
  the diagonal, so that the share that is hole keeps its distribution (mean 0.15, 5% 0.036, 95% 0.29). 1 is hole, 0 is
  kept, everywhere in this repository.
- Composites (Table 3): the order matters, since sharpening amplifies grain that is already there, colour transfer takes
  grain for contrast, and blur wipes it out. Here it is the order in which the paper names the tasks. Inpainting is no
  effect on the target: the hole is cut into the source, and a sequence of models fills it first.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.grain import Ids, gaussian_grain
from repro.editing.vector import EditingVector
from repro.engine.rng import KeyedNoise

Numbers = float | Sequence[float] | Tensor  # one for all images, or one each

LONGEST = 1 / 8  # of the shorter side: the path at beta = 1, 32 pixels on a 256-pixel crop
KNOTS = 33  # of a trajectory, evenly spaced in time
SMOOTHNESS = 1.0  # exposures: correlation time of the hand; shorter makes scribbles that look like defocus
SIGMA = 1.0  # of the 3x3 Gaussian of sharpening, in pixels
_STEPS = 64  # points between two knots: under 0.1 pixel apart for paths below 200 pixels

Ratio = Literal["reinhard", "inverse"]
LEAST_GRAIN = 1e-4  # pixels: finer grain, below a hundredth of a grey level, is none
FLAT = 1e-3  # deviation below a rounding error of 8-bit images
OFFSET = 1 / 255  # keeps the logarithm finite at black and the map invertible, which a floor would not
_RGB_TO_LMS = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))  # Reinhard et al., Eq. 4
_A, _B, _C = 1 / math.sqrt(3), 1 / math.sqrt(6), 1 / math.sqrt(2)
_LMS_TO_LAB = ((_A, _A, _A), (_B, _B, -2 / math.sqrt(6)), (_C, -_C, 0.0))  # Eq. 6

STROKES, SEGMENTS = (1, 3), (4, 11)  # least and most of a mask, and of a stroke
WIDTH = (12, 39)  # of the brush, pixels at 256 x 256
MEAN_ANGLE, ANGLE_RANGE = 2 * math.pi / 5, 2 * math.pi / 15


def shake_trajectories(seed: int, ids: Sequence[int | str]) -> Tensor:
    """float64 (B, KNOTS, 2): random camera paths (x, y), centred, of length 1, at equal times of the exposure.

    Both coordinates are samples of a Gaussian process of Matern 5/2 covariance, paths without corners, as in Schuler et
    al., "Learning to Deblur". The centroid is 0, so blur does not shift the image. The length is that of the straight,
    evenly travelled path of equal spread, sqrt(12) times the root mean square distance from the centroid, so that paths
    of one length blur about equally.
    """
    t = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
    r = math.sqrt(5) * (t[:, None] - t[None, :]).abs() / SMOOTHNESS
    covariance = (1 + r + r.square() / 3) * torch.exp(-r) + 1e-10 * torch.eye(KNOTS, dtype=torch.float64)
    normals = KeyedNoise(seed, ids, "editing/blur").normal((KNOTS, 2)).double()
    knots = torch.einsum("tk,bkc->btc", torch.linalg.cholesky(covariance), normals)
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
    image: Tensor, beta: Numbers, seed: int, ids: Sequence[int | str], *, longest: float | None = None
) -> Tensor:
    """Blur of a shaken camera: (B, 3, H, W) in [0, 1] -> the same shape, reflected at the borders.

    The path of an image depends on (seed, id) alone and is beta * longest pixels long, beta being the degree in [0, 1]
    and `longest` at most half the shorter side, by default an eighth of it.
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


def unsharp_mask(image: Tensor, amount: Numbers, threshold: Numbers = 0.0) -> Tensor:
    """x + lambda (x - blurred), clamped, where |x - blurred| >= mu; x elsewhere. (B, 3, H, W) in [0, 1] -> the same.

    `amount`: lambda, in the paper 1 to 3. `threshold`: mu in units of [0, 1]; each channel decides for itself.
    """
    amount, threshold = (
        torch.as_tensor(value, dtype=torch.float64).reshape(-1).to(image)[:, None, None, None]
        for value in (amount, threshold)
    )
    detail = image - gaussian_3x3(image)
    return torch.where(detail.abs() >= threshold, (image + amount * detail).clamp(0, 1), image)


def rgb_to_lalphabeta(image: Tensor) -> Tensor:
    """(…, 3, H, W) RGB in [0, 1], as stored -> l, alpha, beta of log10(LMS + OFFSET)."""
    return _mix(_LMS_TO_LAB, (_mix(_RGB_TO_LMS, image) + OFFSET).log10())


def lalphabeta_to_rgb(lab: Tensor) -> Tensor:
    """The inverse, not clamped; by the inverted matrices, since the paper's printed inverses are rounded."""
    return _mix(_RGB_TO_LMS, 10 ** _mix(_LMS_TO_LAB, lab, inverse=True) - OFFSET, inverse=True)


def _mix(matrix: tuple[tuple[float, ...], ...], image: Tensor, *, inverse: bool = False) -> Tensor:
    weights = torch.tensor(matrix, dtype=torch.float64)
    return torch.einsum("dc,...chw->...dhw", (weights.inverse() if inverse else weights).to(image), image)


def match_statistics(values: Tensor, reference: Tensor, ratio: Ratio = "reinhard") -> Tensor:
    """(B, 3, H, W) values of a colour space with the means (and, by Reinhard's ratio, deviations) of the reference's.

    The reference is (B, 3, h, w) or (1, 3, h, w) of any size. Population deviations. Nothing is clipped here. A channel
    whose divisor is below FLAT has no ratio: it keeps its deviations, with a warning, and only its mean moves. So a
    grey image takes the mean hue of the reference, not its variety of hues.
    """
    std, mean = torch.std_mean(values, dim=(2, 3), keepdim=True, correction=0)  # (B, 3, 1, 1)
    ref_std, ref_mean = torch.std_mean(reference, dim=(2, 3), keepdim=True, correction=0)
    over, under = torch.broadcast_tensors(*((ref_std, std) if ratio == "reinhard" else (std, ref_std)))
    flat = under < FLAT
    if flat.any():
        where = ", ".join(f"{('l', 'alpha', 'beta')[c]} of image {i}" for i, c, *_ in flat.nonzero().tolist())
        who = "image" if ratio == "reinhard" else "reference"
        warnings.warn(f"colour transfer: flat {who}, deviations kept and only means moved: {where}", stacklevel=3)
    scale = torch.where(flat, torch.ones_like(over), over / under.clamp(min=FLAT))
    return scale * (values - mean) + ref_mean


def colour_transfer(image: Tensor, reference: Tensor, ratio: Ratio = "reinhard") -> Tensor:
    """The image in the reference's colours: (B, 3, H, W) in [0, 1] -> the same, clamped.

    `reference`: (B, 3, h, w), or (1, 3, h, w) for all, in [0, 1], of any size.
    """
    values, target = rgb_to_lalphabeta(image), rgb_to_lalphabeta(reference)
    return lalphabeta_to_rgb(match_statistics(values, target, ratio)).clamp(0, 1)


def free_form_mask(
    seed: int, ids: Ids, size: tuple[int, int] = (256, 256), *, fraction: float | Tensor | None = None
) -> Tensor:
    """Random brush strokes, (B, 1, H, W) float32: 1 in the hole, 0 elsewhere; a mask depends on (seed, its id, size).

    `fraction`: None draws the published size. A number in [0, 1], or (B,), makes that share of the image the hole: the
    same strokes shorter and thinner, or thicker. A smaller hole lies inside a larger one of the same id.

    At growth g a stroke is drawn up to the share g of its segments, with g times its brush; g = 1 is the whole stroke.
    A pixel's g for one segment is the larger of its distance in brush radii and the drawn share at the nearest point.
    """
    start, end, brush, share = _strokes(seed, ids, *size)  # (B, S, 2), (B, S, 2), (B, S), (B, S, 2)
    y, x = (torch.arange(n, dtype=torch.float32) + 0.5 for n in size)
    growth, y = torch.full((len(brush), *size), math.inf), y[:, None]  # the growth at which each pixel is painted
    for segment in range(brush.shape[1]):
        on = brush[:, segment] > 0  # the masks that have this segment
        (ay, ax), (by, bx) = (v[on, segment].T[:, :, None, None] for v in (start, end))  # (b, 1, 1) each
        dy, dx = by - ay, bx - ax
        along = (((y - ay) * dy + (x - ax) * dx) / (dy * dy + dx * dx).clamp(min=1e-6)).clamp_(0, 1)
        distance = torch.hypot(y - ay - along * dy, x - ax - along * dx)
        first, last = share[on, segment].T[:, :, None, None]
        reached = torch.maximum(distance / brush[on, segment, None, None], first + along * (last - first))
        growth[on] = torch.minimum(growth[on], reached)
    if fraction is None:
        return (growth <= 1)[:, None].float()
    count = (torch.as_tensor(fraction, dtype=torch.float64) * (size[0] * size[1])).round()
    # The pixels that the growing strokes reach first; ties are broken by place, so that the count is exact.
    rank = growth.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < count.expand(len(growth))[:, None]).view_as(growth)[:, None].float()


def cut_hole(image: Tensor, mask: Tensor, fill: float = 0.0) -> Tensor:
    """The image (B, C, H, W) with `fill` where the mask (B or 1, 1, H, W) is 1."""
    return torch.where(mask.bool(), fill, image)


def _strokes(seed: int, ids: Ids, height: int, width: int) -> list[Tensor]:
    """Segments of all strokes: from and to (B, S, 2) as (y, x), brush radius (B, S), 0 where there is none, and the
    share of its stroke that is drawn before and after it (B, S, 2)."""
    noise = KeyedNoise(seed, ids, "free-form mask")
    scale, step = math.hypot(height, width) / math.hypot(256, 256), math.hypot(256, 256) / 8  # of a segment, on average
    most, longest = STROKES[1], SEGMENTS[1]
    strokes = noise.integers(STROKES[0], most + 1, step=0)  # (B,)
    segments = noise.integers(SEGMENTS[0], longest + 1, (most,), step=1)  # (B, strokes)
    brush = noise.integers(WIDTH[0], WIDTH[1] + 1, (most,), step=2).float() * (scale / 2)
    low, high = (
        MEAN_ANGLE + sign * ANGLE_RANGE * noise.uniform((most, 1), step=3 + i) for i, sign in enumerate((-1, 1))
    )
    angle = low + (high - low) * noise.uniform((most, longest), step=5)
    angle[..., ::2] = 2 * math.pi - angle[..., ::2]  # zig, then zag
    length = (step + step // 2 * noise.normal((most, longest), step=6)).clamp_(0, 2 * step) * scale
    limit = torch.tensor([height, width], dtype=torch.float32)
    vertices = [noise.uniform((most, 2), step=7) * limit]  # (B, strokes, 2) as (y, x)
    for i in range(longest):
        move = torch.stack([length[..., i] * angle[..., i].sin(), length[..., i] * angle[..., i].cos()], dim=-1)
        vertices.append((vertices[-1] + move).clamp(min=torch.zeros_like(limit), max=limit))
    path = torch.stack(vertices, dim=2)  # (B, strokes, longest + 1, 2)
    number = torch.arange(longest)
    exists = (number < segments[..., None]) & (torch.arange(most) < strokes[:, None])[..., None]
    share = torch.stack([number, number + 1], dim=-1) / segments[..., None, None]
    return [part.flatten(1, 2) for part in (path[:, :, :-1], path[:, :, 1:], brush[..., None] * exists, share)]


@dataclass(frozen=True)
class TargetRules:
    """What the paper leaves open about its targets, decided; data of a benchmark, hashed with it.

    order: of the effects on the target. longest: pixels of the path of blur at beta = 1, None for an eighth of the
    image's shorter side. Colour is Reinhard's transfer, grain the Gaussian field, a hole in the source black: the
    paper's product with the mask is 0 or 0.5 as images are in [0, 1] or [-1, 1] then.
    """

    order: tuple[str, ...] = ("blur", "grain", "colour", "sharpen")
    longest: float | None = None

    def hashed(self) -> dict[str, Any]:
        """What the digest of a benchmark covers; choices that are no longer open stay in it."""
        closed = {"fill": 0.0, "space": "lalphabeta", "ratio": "reinhard", "samples": 800, "grain": "field"}
        return {**asdict(self), **closed}

    def sequence(self, vector: EditingVector) -> tuple[EditingVector, ...]:
        """The request as single tasks, in the order in which a sequence of single-task models runs them."""
        return tuple(vector.only(task) for task in ("inpaint", *self.order) if task in vector.active)


def compose(
    image: Tensor, vectors: Sequence[EditingVector], *, seed: int, ids: Sequence[int | str],
    reference: Tensor | None = None, rules: TargetRules | None = None,
) -> Tensor:  # fmt: skip
    """Targets of images (B, 3, H, W) in [0, 1], each by its request, seed and id alone, whatever else is in the batch.

    `reference` (B, 3, h, w), or (1, 3, h, w) for all, in [0, 1]; needed where colour is on.
    """
    rules, target = rules or TargetRules(), image
    for effect in rules.order:
        on = [i for i, v in enumerate(vectors) if effect in v.active and (effect != "grain" or v.grain >= LEAST_GRAIN)]
        part, values, names = target[on], [getattr(vectors[i], effect) for i in on], [ids[i] for i in on]
        if not on:
            continue
        if effect == "blur":
            part = motion_blur(part, values, seed, names, longest=rules.longest)
        elif effect == "grain":
            part = gaussian_grain(part, torch.tensor(values, dtype=torch.float64), seed=seed, ids=names)
        elif effect == "sharpen":
            part = unsharp_mask(part, *zip(*values, strict=True))
        else:
            part = colour_transfer(part, reference[on] if len(reference) == len(image) else reference)
        target = target.index_copy(0, torch.tensor(on, device=image.device), part)
    return target
