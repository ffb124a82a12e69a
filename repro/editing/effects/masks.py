"""Free-form holes for inpainting: brush strokes with the constants of DeepFillv2's common implementation, and boxes.

"Free-Form Image Inpainting with Gated Convolution" (Yu et al., ICCV 2019) draws strokes whose vertices turn by about
2 pi / 5, back and forth. The constants are those of a 256 x 256 image; for another size all lengths scale with its
diagonal, so that the share of the image that is hole keeps its distribution (strokes: mean 0.15, 5% 0.036, 95% 0.29;
boxes: mean 0.19).

Polarity: 1 is hole, 0 is kept, everywhere in this repository; an image is cut by `cut_hole`, not by multiplying.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise

STROKES = (1, 3)  # a mask has 1 to 3
SEGMENTS = (4, 11)  # a stroke has 4 to 11
WIDTH = (12, 39)  # of the brush, pixels at 256 x 256
MEAN_ANGLE, ANGLE_RANGE = 2 * math.pi / 5, 2 * math.pi / 15
BOX, SHRINK = 128, 16  # the box's side and the most that is taken off each of its sides, pixels at 256 x 256


def free_form_mask(
    seed: int,
    ids: Sequence[int | str] | Tensor,
    size: tuple[int, int] = (256, 256),
    *,
    fraction: float | Tensor | None = None,
) -> Tensor:
    """Random brush strokes, (B, 1, H, W) float32: 1 in the hole, 0 elsewhere; a mask depends on (seed, its id, size).

    Args:
        seed, ids, size: the experiment's seed, one id per mask, (H, W) in pixels.
        fraction: None draws the published size. A number in [0, 1], or (B,), makes that share of the image the hole:
            the same strokes shorter and thinner, or thicker. A smaller hole lies inside a larger one of the same id.
    """
    growth = _growth(seed, ids, *size)  # (B, H, W)
    if fraction is None:
        return (growth <= 1)[:, None].float()
    count = (torch.as_tensor(fraction, dtype=torch.float64) * (size[0] * size[1])).round()
    # The pixels that the growing strokes reach first; ties are broken by place, so that the count is exact.
    rank = growth.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < count.expand(len(growth))[:, None]).view_as(growth)[:, None].float()


def box_mask(seed: int, ids: Sequence[int | str] | Tensor, size: tuple[int, int] = (256, 256)) -> Tensor:
    """A random box of about half the image's sides, (B, 1, H, W) float32: 1 in the hole."""
    noise, inside = KeyedNoise(seed, ids, "box mask"), []
    for axis, length in enumerate(size):
        side, most = round(length * BOX / 256), round(length * SHRINK / 256)
        start = noise.integers(0, max(1, length - side), step=2 * axis)
        shrink = noise.integers(0, most + 1, step=2 * axis + 1)
        place = torch.arange(length)
        inside.append((place >= (start + shrink)[:, None]) & (place < (start + side - shrink)[:, None]))
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()


def cut_hole(image: Tensor, mask: Tensor, fill: float = 0.0) -> Tensor:
    """The image (B, C, H, W) or (C, H, W) with `fill` where the mask (B or 1, 1, H, W) or (1, H, W) is 1.

    `fill` 0 is black for an image in [0, 1] and mid-grey for one in [-1, 1].
    """
    return torch.where(mask.bool(), fill, image)


def _growth(seed: int, ids: Sequence[int | str] | Tensor, height: int, width: int) -> Tensor:
    """(B, H, W): the growth g at which each pixel is painted.

    At growth g a stroke is drawn up to the share g of its segments, with g times its brush; g = 1 is the whole stroke.
    A pixel's g for one segment is the larger of its distance in brush radii and the drawn share at the nearest point.
    """
    start, end, brush, share = _strokes(seed, ids, height, width)  # (B, S, 2), (B, S, 2), (B, S), (B, S, 2)
    y = torch.arange(height, dtype=torch.float32)[:, None] + 0.5
    x = torch.arange(width, dtype=torch.float32)[None, :] + 0.5
    growth = torch.full((len(brush), height, width), math.inf)
    for segment in range(brush.shape[1]):
        on = brush[:, segment] > 0  # the masks that have this segment
        (ay, ax), (by, bx) = (v[on, segment].T[:, :, None, None] for v in (start, end))  # (b, 1, 1) each
        dy, dx = by - ay, bx - ax
        along = (((y - ay) * dy + (x - ax) * dx) / (dy * dy + dx * dx).clamp(min=1e-6)).clamp_(0, 1)
        distance = torch.hypot(y - ay - along * dy, x - ax - along * dx)
        first, last = share[on, segment].T[:, :, None, None]
        reached = torch.maximum(distance / brush[on, segment, None, None], first + along * (last - first))
        growth[on] = torch.minimum(growth[on], reached)
    return growth


def _strokes(seed: int, ids: Sequence[int | str] | Tensor, height: int, width: int) -> list[Tensor]:
    """Segments of all strokes: from and to (B, S, 2) as (y, x), brush radius (B, S), 0 where there is none, and the
    share of its stroke that is drawn before and after it (B, S, 2)."""
    noise = KeyedNoise(seed, ids, "free-form mask")
    scale = math.hypot(height, width) / math.hypot(256, 256)
    step = math.hypot(256, 256) / 8  # mean length of a segment at 256 x 256
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
