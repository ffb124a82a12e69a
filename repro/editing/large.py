"""Large images, and last corrections: from the network's output to the image that a user gets.

The network works on images of about 128 pixels a side through an autoencoder. What that costs is undone here, as
`repro.editing.pipeline` puts it together, and none of it is in the records:

- an edit of a large image is made on a reduced copy and carried over, so that an amount means the same share of the
  image at every resolution; detail that the autoencoder loses is given back as far as the edit keeps it (`carried`);
- a colour transfer gets the mean and deviation of each channel that Reinhard's formula gives it (`matched`);
- a hole is filled in smoothly from its border (`membrane`), where the network alone would start from nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 4.0  # times that contrast is raised or lowered at most


def carried(image: Tensor, small: Tensor, plain: Tensor, edited: Tensor) -> Tensor:
    """The edit of a reduced copy on the image (B, 3, H, W) itself, with the detail that the autoencoder lost as far as
    the edit kept detail.

    `small` is the copy, or the image itself, `plain` the same through the autoencoder alone, `edited` its edit,
    (B, 3, h, w) each. How much of the finest octave of `plain` is in `edited`, from 0 to MOST, is a regression over
    pixels. Detail finer than the copy keeps as much; of a blur, which takes more from every finer octave, the square.
    """
    fine, known = (
        x - enlarged(F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), x.shape[-2:])
        for x in (edited, plain)
    )
    over, under = (x.sum(dim=(2, 3), keepdim=True) for x in (fine * known, known.square()))
    kept, size = (over / under.clamp(min=1e-6)).clamp(0, MOST), image.shape[-2:]  # (B, C, 1, 1)
    base, detail = edited + kept * (small - plain), image - enlarged(small, size)
    return (enlarged(base, size) + torch.where(kept < 1, kept.square(), kept) * detail).clamp(0, 1)


def matched(image: Tensor, like: Tensor) -> Tensor:
    """`image` (B, 3, H, W) in [0, 1] with mean and deviation of each channel of `like`, which has any size."""
    deviation, mean = torch.std_mean(like, dim=(2, 3), keepdim=True, correction=0)
    for _ in range(3):  # what is cut off at 0 and 1 moves both a little
        own, middle = torch.std_mean(image, dim=(2, 3), keepdim=True, correction=0)
        scale = (deviation / own.clamp(min=1e-4)).clamp(1 / MOST, MOST)
        image = ((image - middle) * scale + mean).clamp(0, 1)
    return image


def membrane(values: Tensor, known: Tensor) -> Tensor:
    """`values` (B, C, H, W) where `known` (B, 1, H, W) is 1, and a smooth surface through its surroundings elsewhere.

    Averages of what is known, twice as wide at each level, come back down where nothing nearer is known (pull-push).
    """
    height, width = values.shape[-2:]
    if max(height, width) == 1 or bool(known.all()):
        return values * known
    even = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(known, even), 2)
    mean = F.avg_pool2d(F.pad(values * known, even), 2) / weight.clamp(min=1e-8)
    coarse = membrane(mean, (weight > 0).to(known))
    smooth = F.interpolate(coarse, scale_factor=2, mode="bilinear")[..., :height, :width]
    return torch.where(known > 0, values, smooth)


def thickness(hole: Tensor) -> int:
    """Pixels from the innermost point of a hole (1, 1, H, W) to what is known; the image's edge is no border."""
    from scipy.ndimage import distance_transform_cdt

    return int(distance_transform_cdt(hole[0, 0].cpu().numpy(), metric="chessboard").max())


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) brought to that height and width by cubic interpolation; as it is where it has them."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, size=tuple(size), mode="bicubic")
