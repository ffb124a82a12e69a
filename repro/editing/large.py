"""Large images, and last corrections: from the network's output to the image that a user gets.

The network works on images of about 128 pixels a side through an autoencoder. What that costs is undone here, as
`repro.editing.pipeline` puts it together, and none of it is in the records:

- an edit of a large image is made on a reduced copy and carried over, so that an amount means the same share of the
  image at every resolution; detail that the autoencoder loses is given back as far as the edit keeps it (`carried`);
- a colour transfer gets the mean and deviation of each channel that Reinhard's formula gives it (`matched`);
- a hole is filled in smoothly from its border (`membrane`), where the network alone would start from nothing.

Grain and holes are made at full size by tiles: in every denoising step the network predicts overlapping tiles of the
one noisy latent, and its predictions are blended ("MultiDiffusion: Fusing Diffusion Paths for Controlled Image
Generation", Bar-Tal et al., 2023).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.nn.unet import tiled

MOST = 4.0  # times that contrast is raised or lowered at most


@dataclass(frozen=True)
class Tiling:
    """Tiles of `size` latents a side, `overlap` of them shared with the neighbour; `batch` run at once."""

    size: int = 32
    overlap: int = 8
    batch: int = 8

    def run(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`fn` of all tiles of x (B, C, h, w), image by image."""
        return torch.cat([tiled(fn, one, self.size, self.overlap, self.batch) for one in x.split(1)])


@dataclass(frozen=True)
class _Tiled:
    """`whole` by tiles; every other attribute is that of `whole`."""

    whole: Any
    tiling: Tiling

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


class TiledAutoencoder(_Tiled):
    """`encode` and `decode` of an `Autoencoder`, by tiles."""

    def encode(self, image: Tensor) -> Tensor:
        """Latents of (B, 3, H, W) in [-1, 1], H and W multiples of the factor."""
        blocks = F.pixel_unshuffle(image, self.factor)  # (B, 3 f^2, H/f, W/f): tiles are cut in latents
        return self.tiling.run(lambda x: self.whole.encode(F.pixel_shuffle(x, self.factor)), blocks)

    def decode(self, latent: Tensor, quantize: bool = False) -> Tensor:
        """Image (B, 3, H, W) in [-1, 1] of latents."""
        blocks = self.tiling.run(lambda z: F.pixel_unshuffle(self.whole.decode(z, quantize), self.factor), latent)
        return F.pixel_shuffle(blocks, self.factor)


class TiledNetwork(_Tiled):
    """The prediction of an `EditingNet`, by tiles."""

    def __call__(self, sample: Tensor, timestep: Tensor, vector: Tensor, **inputs: Tensor) -> Tensor:
        """As `EditingNet.forward`, of `sample` and `inputs` (B, channels, h, w) each."""
        widths = [part.shape[1] for part in (sample, *inputs.values())]

        def predict(t: Tensor, c: Tensor, tiles: Tensor) -> Tensor:
            (x_t, *parts), n = tiles.split(widths, dim=1), len(tiles)
            return self.whole(x_t, t.expand(n), vector=c.expand(n, -1), **dict(zip(inputs, parts, strict=True))).sample

        images = torch.cat([part.to(sample.dtype) for part in (sample, *inputs.values())], dim=1).split(1)
        each = zip(images, timestep, vector, strict=True)
        return torch.cat([self.tiling.run(partial(predict, t, c), x) for x, t, c in each])


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
    steps = 0
    while bool(hole.any()) and steps <= max(hole.shape[-2:]):
        hole = -F.max_pool2d(-hole, 3, stride=1, padding=1)  # padding is ignored: edges do not help
        steps += 1
    return steps


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) brought to that height and width by cubic interpolation; as it is where it has them."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, size=tuple(size), mode="bicubic")
