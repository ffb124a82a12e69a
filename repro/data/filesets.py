"""Image files read on demand: prepared alike, kept in memory as 8-bit images while there is room, pairs in step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from repro.data import crops
from repro.data.flist import Pair
from repro.data.images import read_image, resize
from repro.errors import ReproError

Prepare = Callable[[Tensor], Tensor]  # (3, H, W) in [0, 1] -> the same kind, another size or tone
KEEP = 2 * 2**30  # bytes of each list: GoPro, the largest paired set, takes 0.4 GB at 256 px, CelebA 2.0 GB at 64 px


def squared(side: int) -> Prepare:
    """Resized to side x side, proportions not kept, as RDDM's restoration experiments do with training and test data
    (antialiased bicubic: by what filter is not published)."""
    return lambda image: resize(image, (side, side))


def equalised(image: Tensor) -> Tensor:
    """Histogram equalisation of each channel of (3, H, W) in [0, 1] on its own, on 8-bit values, by OpenCV's rule.

    The darkest value that occurs becomes 0, and any other goes to the share of brighter-than-darkest pixels up to it,
    times 255; a channel of one value stays. Colours shift, since each channel gets a map of its own.
    """
    levels = (image * 255.0).round().long()  # (3, H, W)
    for channel in levels:
        counts = torch.bincount(channel.flatten(), minlength=256)
        darkest = counts[channel.min()]
        if others := channel.numel() - int(darkest):
            above = (counts.cumsum(0) - darkest).clamp(min=0).double()
            channel.copy_((above * (255.0 / others)).round().long()[channel])
    return levels.float() / 255.0


class Pictures:
    """Files of a list, addressed by index.

    After `prepare` (default: nothing) an image is rounded to 8 bits, as resizing an 8-bit file gives it. Up to `KEEP`
    bytes of them stay in memory.
    """

    def __init__(self, files: Sequence[Path], prepare: Prepare | None = None) -> None:
        if not files:
            raise ReproError("a set of images needs at least one file: got none")
        self.files, self.prepare, self.room = list(files), prepare, KEEP
        self._kept: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        """float32 (3, H, W) in [0, 1]."""
        levels = self._kept.get(index)
        if levels is None:
            image = read_image(self.files[index])
            levels = ((self.prepare(image) if self.prepare else image) * 255.0).round().to(torch.uint8)
            if levels.numel() <= self.room:
                self.room -= levels.numel()
                self._kept[index] = levels
        return levels.float() / 255.0

    def several(self, indices: Tensor) -> list[Tensor]:
        """float32 (3, H, W) in [0, 1] each, any sizes."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(self.__getitem__, indices.tolist()))


@dataclass(frozen=True)
class PictureSet:
    """Targets, for restoration their degraded inputs, and masks where the data set has them, index by index."""

    targets: Pictures
    inputs: Pictures | None = None
    masks: Pictures | None = None

    @classmethod
    def of_pairs(
        cls,
        pairs: Sequence[Pair],
        prepare: Prepare | None = None,
        prepare_input: Prepare | None = None,
        masks: Sequence[Path] | None = None,
    ) -> PictureSet:
        """A paired data set: `prepare` is done to input, target and mask alike, or `prepare_input` to the input."""
        inputs = Pictures([p.input for p in pairs], prepare_input or prepare)
        return cls(Pictures([p.target for p in pairs], prepare), inputs, masks and Pictures(masks, prepare))

    @property
    def files(self) -> list[Path]:
        """The files, the input's where there is one."""
        return (self.inputs or self.targets).files

    @property
    def size(self) -> int:
        """How many."""
        return len(self.files)

    @property
    def ids(self) -> list[str]:
        """Stems of the files."""
        return [file.stem for file in self.files]

    def names(self, indices: Tensor) -> list[str]:
        """Paths of the files."""
        return [str(self.files[i]) for i in indices.tolist()]

    def crops(self, indices: Tensor, side: int, draw: Tensor) -> list[Tensor | None]:
        """The same crop (B, 3, side, side) in [0, 1] of target, input and mask, None of what there is not.

        `draw` is (B, 3) in [0, 1) as `repro.data.crops.cut` takes it.
        """
        names = self.names(indices)
        return [
            None if part is None else crops.cut(part.several(indices), side, draw, names=names).to(draw.device)
            for part in (self.targets, self.inputs, self.masks)
        ]

    def digest(self) -> str:
        """SHA-256 over the bytes of all files: of the hashes of inputs, targets and masks, each in order."""
        total = hashlib.sha256()
        for part in (self.inputs, self.targets, self.masks):
            if part is not None:
                one = hashlib.sha256()
                for file in part.files:
                    one.update(file.read_bytes())
                total.update(one.hexdigest().encode())
        return total.hexdigest()
