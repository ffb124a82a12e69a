"""Picture files read on demand: prepared alike, kept in memory as 8-bit pictures while there is room, pairs in step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repro.data.flist import Entry, Pair, load_entry
from repro.data.images import resize
from repro.errors import ReproError

Prepare = Callable[[Tensor], Tensor]  # (3, H, W) in [0, 1] -> the same kind, another size or tone
KEEP = 4 * 2**30  # bytes: GoPro, the largest paired set at 256 px, takes 0.8 GB, CelebA at 64 px 2.5 GB


def as_is(image: Tensor) -> Tensor:
    """The file's own size."""
    return image


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
    out = torch.empty_like(levels)
    for channel, into in zip(levels, out, strict=True):
        counts = torch.bincount(channel.flatten(), minlength=256)
        darkest = int(counts.nonzero()[0])
        others = channel.numel() - int(counts[darkest])
        if others == 0:
            into.copy_(channel)
            continue
        above = (counts.cumsum(0) - counts[darkest]).clamp(min=0).double()
        into.copy_((above * (255.0 / others)).round().long()[channel])
    return out.float() / 255.0


def then(*steps: Prepare) -> Prepare:
    """One after the other."""

    def prepare(image: Tensor) -> Tensor:
        for step in steps:
            image = step(image)
        return image

    return prepare


class Pictures:
    """Files of a list, addressed by index.

    After `prepare` a picture is rounded to 8 bits, as resizing an 8-bit file gives it, whether it is kept or not.

    Args:
        entries: the files.
        prepare: what is done to each after reading.
        keep: bytes of prepared pictures that may stay in memory; 0 reads them anew each time.
        threads: files decoded at once.
    """

    def __init__(
        self, entries: Sequence[Entry], prepare: Prepare = as_is, *, keep: int = KEEP, threads: int | None = None
    ) -> None:
        if not entries:
            raise ReproError("a set of pictures needs at least one file: got none")
        self.entries, self.prepare, self.size = list(entries), prepare, len(entries)
        self.room, self.threads = keep, threads or min(8, os.cpu_count() or 1)
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.size

    def names(self, indices: Tensor) -> list[str]:
        """Paths of the files."""
        return [str(self.entries[i].path) for i in indices.tolist()]

    def __getitem__(self, index: int) -> Tensor:
        """float32 (3, H, W) in [0, 1]."""
        return self._levels(int(index)).float() / 255.0

    def batch(self, indices: Tensor) -> Tensor:
        """float32 (B, 3, H, W) in [0, 1]; refused where the sizes differ."""
        return torch.stack(_of_one_size(self.several(indices), self.names(indices)))

    def several(self, indices: Tensor) -> list[Tensor]:
        """float32 (3, H, W) in [0, 1] each, any sizes."""
        wanted = indices.tolist()
        if len(wanted) > 1 and self.threads > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(self.__getitem__, wanted))
        return [self[i] for i in wanted]

    def digest(self) -> str:
        """SHA-256 over the files' bytes, in order."""
        total = hashlib.sha256()
        for entry in self.entries:
            total.update(entry.path.read_bytes())
        return total.hexdigest()

    def _levels(self, index: int) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        levels = (self.prepare(load_entry(self.entries[index])) * 255.0).round().to(torch.uint8)
        if levels.numel() <= self.room:
            self.room -= levels.numel()
            self._kept[index] = levels
        return levels


@dataclass(frozen=True)
class PictureSet:
    """Targets, for restoration their degraded inputs, and masks where the data set has them, index by index."""

    targets: Pictures
    inputs: Pictures | None = None
    masks: Pictures | None = None

    def __post_init__(self) -> None:
        for kind, part in (("inputs", self.inputs), ("masks", self.masks)):
            if part is not None and part.size != self.targets.size:
                raise ReproError(f"every target needs its own: got {part.size} {kind} for {self.targets.size} targets")

    @classmethod
    def of_pairs(
        cls,
        pairs: Sequence[Pair],
        prepare: Prepare = as_is,
        *,
        prepare_input: Prepare | None = None,
        masks: Sequence[Entry] | None = None,
        keep: int = KEEP,
        threads: int | None = None,
    ) -> PictureSet:
        """A paired data set.

        Args:
            pairs: see `repro.data.flist` and `repro.data.paired`.
            prepare: what is done to input, target and mask alike, e.g. `squared(256)`; default: their own size.
            prepare_input: what is done to the input instead, e.g. `then(equalised, squared(256))`.
            masks: one a pair.
        """
        make: dict[str, Any] = {"keep": keep // (2 if masks is None else 3), "threads": threads}
        return cls(
            Pictures([p.target for p in pairs], prepare, **make),
            Pictures([p.input for p in pairs], prepare_input or prepare, **make),
            None if masks is None else Pictures(masks, prepare, **make),
        )

    @property
    def size(self) -> int:
        """How many."""
        return self.targets.size

    @property
    def ids(self) -> list[str]:
        """Stems of the files, the input's where there is one."""
        return [entry.path.stem for entry in (self.inputs or self.targets).entries]

    def names(self, indices: Tensor) -> list[str]:
        """Paths of the files, the input's where there is one."""
        return (self.inputs or self.targets).names(indices)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """(I_in, I_0), each float32 (3, H, W) in [0, 1]."""
        return self._inputs[index], self.targets[index]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(I_in, I_0), each float32 (B, 3, H, W) in [0, 1]; refused where the sizes differ."""
        return self._inputs.batch(indices), self.targets.batch(indices)

    def digest(self) -> str:
        """SHA-256 over the bytes of all files."""
        parts = [part.digest() for part in (self.inputs, self.targets, self.masks) if part is not None]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    @property
    def _inputs(self) -> Pictures:
        if self.inputs is None:
            raise ReproError("this set has pictures, no pairs: it is for generation")
        return self.inputs


def _of_one_size(pictures: list[Tensor], names: list[str]) -> list[Tensor]:
    for picture, name in zip(pictures, names, strict=True):
        if picture.shape != pictures[0].shape:
            (h, w), (h0, w0) = picture.shape[1:], pictures[0].shape[1:]
            raise ReproError(
                f"pictures of one batch need one size: {name} is {w}x{h}, {names[0]} {w0}x{h0}; resize or crop them"
            )
    return pictures
