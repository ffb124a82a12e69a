"""Large pictures: network and autoencoder work tile by tile, in the place of the whole ones.

In every denoising step the network looks at overlapping tiles of the one noisy latent, and what it says is blended
("MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", Bar-Tal et al., 2023): neighbours agree from
step to step, and the noise is the whole picture's. Memory is that of a few tiles, time grows with the pixels.

Colour needs more. A tile sees its own part of the picture, and Reinhard's transfer is about the statistics of all of
it: shown the same reference, every tile would be stretched to the reference's contrast, a patch of sky too.
`references` therefore shows each tile the reference with those statistics that this tile has after a transfer of the
whole picture; Reinhard's transfer of all tiles is then that of the whole, exactly.
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
from repro.editing.autoencoder import Autoencoder
from repro.editing.effects.colour import colour_transfer
from repro.editing.model import EditingNet
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

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Where tiles begin, in latents, in the order in which `tiled` visits them."""
        rows, columns = (tile_starts(n, self.size, self.size - self.overlap) for n in (height, width))
        return [(row, column) for row in rows for column in columns]

    def run(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`fn` of all tiles of x (B, C, h, w), picture by picture."""
        return torch.cat([tiled(fn, one, self.size, self.overlap, self.batch) for one in x.split(1)])


@dataclass(frozen=True)
class TiledAutoencoder:
    """`encode` and `decode` of an `Autoencoder`, by tiles."""

    whole: Autoencoder
    tiling: Tiling

    @property
    def factor(self) -> int:
        return self.whole.factor

    @property
    def channels(self) -> int:
        return self.whole.channels

    def encode(self, image: Tensor) -> Tensor:
        """Latents of (B, 3, H, W) in [-1, 1], H and W multiples of the factor."""
        blocks = F.pixel_unshuffle(image, self.factor)  # (B, 3 f^2, H/f, W/f): tiles are cut in latents
        return self.tiling.run(lambda x: self.whole.encode(F.pixel_shuffle(x, self.factor)), blocks)

    def decode(self, latent: Tensor, quantize: bool = False) -> Tensor:
        """Picture (B, 3, H, W) in [-1, 1] of latents."""
        blocks = self.tiling.run(lambda z: F.pixel_unshuffle(self.whole.decode(z, quantize), self.factor), latent)
        return F.pixel_shuffle(blocks, self.factor)


@dataclass(frozen=True)
class TiledNetwork:
    """The prediction of an `EditingNet`, by tiles."""

    whole: EditingNet
    tiling: Tiling

    @property
    def device(self) -> Any:
        return self.whole.device

    @property
    def config(self) -> Any:
        return self.whole.config

    @property
    def multiple(self) -> int:
        return self.whole.multiple

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
        parts = zip(torch.cat(cut, dim=1).split(1), timestep, reference, vector, strict=True)
        return torch.cat([self._one([part.shape[1] for part in cut], *part) for part in parts])

    def _one(self, widths: list[int], x: Tensor, t: Tensor, reference: Tensor, vector: Tensor) -> Tensor:
        order = iter(reference.split(self.tiling.batch))

        def predict(tiles: Tensor) -> Tensor:
            x_t, source, *mask = tiles.split(widths, dim=1)
            count = len(tiles)
            return self.whole(x_t, t.expand(count), source, next(order), vector.expand(count, -1), *mask).sample

        return self.tiling.run(predict, x)


def references(image: Tensor, reference: Tensor | None, tiling: Tiling, factor: int) -> Tensor:
    """What each tile is shown as its colour reference, (B, tiles, 3, th, tw) in [-1, 1]; zeros where there is none.

    Args:
        image: (B, 3, H, W) in [0, 1], whole latents; what is in holes counts, so fill them with something harmless.
        reference: (B or 1, 3, h, w) in [0, 1] of any size.
        factor: pixels a side of one latent.
    """
    height, width = (n // factor for n in image.shape[2:])
    size = (min(tiling.size, height), min(tiling.size, width))
    places = tiling.places(height, width)
    if reference is None:
        return image.new_zeros(1, 1, 3, *size).expand(len(image), len(places), -1, -1, -1)
    small = resize(reference, (size[0] * factor, size[1] * factor)).expand(len(image), -1, -1, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a channel is flat: of a tile, that is no news
        wanted = colour_transfer(image, reference)
        out = [
            torch.cat([_moved(seen, one, places[k : k + tiling.batch], size, factor) for k in starts])
            for seen, one in zip(small.split(1), wanted, strict=True)
            for starts in [range(0, len(places), tiling.batch)]
        ]
    return torch.stack(out)


def _moved(seen: Tensor, wanted: Tensor, places: list[tuple[int, int]], size: tuple[int, int], factor: int) -> Tensor:
    """The reference (1, 3, ., .) with the statistics of each of these tiles of `wanted` (3, H, W), at latent size."""
    tall, wide = (n * factor for n in size)
    tiles = torch.stack([wanted[:, r * factor :, c * factor :][:, :tall, :wide] for r, c in places])
    return F.avg_pool2d(to_model(colour_transfer(seen.expand(len(tiles), -1, -1, -1), tiles)), factor)
