"""Large images: network and autoencoder work tile by tile, in the place of the whole ones.

In every denoising step the network predicts overlapping tiles of the one noisy latent, and its predictions are blended
("MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", Bar-Tal et al., 2023): neighbours agree from
step to step, and the noise is the whole image's. Memory is that of a few tiles, time grows with the pixels.

Colour needs more. The input of a tile is its own part of the image, and Reinhard's transfer is about the statistics of
all of it: with the same reference for all, every tile would be stretched to the reference's contrast, a patch of sky
too. `references` therefore gives each tile the reference with those statistics that this tile has after a transfer of
the whole image; Reinhard's transfer of all tiles is then that of the whole, exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import resize, to_model
from repro.editing.effects.colour import colour_transfer
from repro.errors import ReproError
from repro.nn.padding import tile_starts, tiled


@dataclass(frozen=True)
class Tiling:
    """Tiles of `size` latents a side, `overlap` of them shared with the neighbour; `batch` run at once."""

    size: int = 32
    overlap: int = 8
    batch: int = 8

    def check(self, multiple: int) -> None:
        """Refuse what the network cannot work on. Raises `ReproError`."""
        if self.size < 1 or self.size % multiple or not 0 <= self.overlap < self.size:
            raise ReproError(
                f"tiles: got {self.size} latents with an overlap of {self.overlap}; accepted: a multiple of {multiple} "
                "and an overlap from 0 to below it"
            )

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

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        source: Tensor,
        reference: Tensor,
        vector: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """As `EditingNet.forward`, of (B, channels, h, w); `reference` (B, n, 3, th, tw) is one for each tile."""
        cut = [sample, source] if mask is None else [sample, source, mask]
        widths = [part.shape[1] for part in cut]
        parts = zip(torch.cat(cut, dim=1).split(1), timestep, reference, vector, strict=True)
        return torch.cat([self._one(widths, *part) for part in parts])

    def _one(self, widths: list[int], x: Tensor, t: Tensor, reference: Tensor, vector: Tensor) -> Tensor:
        order = iter(reference.split(self.tiling.batch))

        def predict(tiles: Tensor) -> Tensor:
            x_t, source, *mask = tiles.split(widths, dim=1)
            count = len(tiles)
            return self.whole(x_t, t.expand(count), source, next(order), vector.expand(count, -1), *mask).sample

        return self.tiling.run(predict, x)


def references(image: Tensor, reference: Tensor | None, tiling: Tiling, factor: int) -> Tensor:
    """The colour reference of each tile, (B, tiles, 3, th, tw) in [-1, 1]; zeros where there is none.

    Args:
        image: (B, 3, H, W) in [0, 1], whole latents; what is in holes counts, so fill them with something harmless.
        reference: (B or 1, 3, h, w) in [0, 1] of any size.
        factor: pixels a side of one latent.
    """
    size = [min(tiling.size, n // factor) for n in image.shape[2:]]
    starts = [tile_starts(n // factor, tiling.size, tiling.size - tiling.overlap) for n in image.shape[2:]]
    places = [(row * factor, column * factor) for row in starts[0] for column in starts[1]]  # in the order of `tiled`
    if reference is None:
        return image.new_zeros(1, 1, 3, *size).expand(len(image), len(places), -1, -1, -1)
    tall, wide = (n * factor for n in size)
    small, out = resize(reference, (tall, wide)).expand(len(image), -1, -1, -1), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a channel is flat: of a tile, that is no news
        for own, goal in zip(small.split(1), colour_transfer(image, reference), strict=True):
            moved = []
            for k in range(0, len(places), tiling.batch):
                tiles = torch.stack([goal[:, r : r + tall, c : c + wide] for r, c in places[k : k + tiling.batch]])
                moved.append(colour_transfer(own.expand(len(tiles), -1, -1, -1), tiles))
            out.append(F.avg_pool2d(to_model(torch.cat(moved)), factor))
    return torch.stack(out)
