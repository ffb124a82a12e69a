"""REDS as the benchmark's source at paper scale: pairs of sharp and blurred frames, their degree of blur measured.

The paper splits REDS' 300 sequences into 240, 30 and 30, but the ground truth of the last 30 is withheld. Decided here:
the 30 published validation sequences are the test split, as nobody trains on them, and the last 30 of the 240 training
sequences are the validation split, so that 210 are trained on. No number on this test split is one on the paper's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from repro.data.crops import crop_places
from repro.data.flist import Pair
from repro.data.images import read_image
from repro.data.published import read_split
from repro.editing.effects.compose import Composite, Recipe
from repro.editing.effects.masks import free_form_mask
from repro.editing.study.benchmark import SPLITS, VERSION, Split, parameters, reference_rows
from repro.editing.study.degree import blur_degree
from repro.errors import ReproError

_HELD = 8  # one in eight of the training sequences is held out for validation: 30 of 240


@dataclass(frozen=True)
class PairedSplit(Split):
    """Crops whose blurred counterpart is known: `blurred` (N, 3, S, S) stands where blur would be computed."""

    blurred: Tensor

    def at(self, places: Sequence[int]) -> PairedSplit:
        """The crops at these places."""
        return replace(super().at(places), blurred=self.blurred[list(places)])  # type: ignore[return-value]

    def edit(self, *tasks: str) -> Composite:
        """Source and target with these tasks on, in 256 levels: other effects follow on the blurred crop."""
        if "blur" not in tasks:
            return super().edit(*tasks)
        others = [task for task in tasks if task not in ("blur", "inpaint")]
        target = replace(self, sharp=self.blurred).edit(*others).target
        source, _, hole = super().edit(*(task for task in tasks if task == "inpaint"))
        return Composite(source, target, hole)


@dataclass(frozen=True)
class Reds:
    """REDS in its published layout: `train/train_sharp/000/00000000.png`, `train/train_blur/…`, `val/…`.

    One crop of crop x crop pixels from every pair of frames, at a place keyed by (version, id). recipe: as of `Bench`.
    """

    root: Path
    crop: int = 256
    recipe: Recipe = Recipe(longest=None, grain="field")  # noqa: RUF009 (frozen)
    version: int = VERSION

    def digest(self) -> str:
        """Short hash of the definition, and of names and sizes of the files."""
        files = [path for name in SPLITS for pair in self.pairs(name) for path in (pair.target.path, pair.input.path)]
        sizes = [[file.relative_to(self.root).as_posix(), file.stat().st_size] for file in files]
        settings = {"crop": self.crop, "recipe": asdict(self.recipe), "version": self.version}
        return hashlib.sha256(json.dumps({**settings, "files": sizes}, sort_keys=True).encode()).hexdigest()[:16]

    def pairs(self, name: str) -> tuple[Pair, ...]:
        """Blurred (input) and sharp (target) frames of one of the benchmark's splits."""
        if name not in SPLITS:
            raise ReproError(f"benchmark: no split {name!r}; accepted: {', '.join(SPLITS)}")
        found = _pairs(self.root, "val" if name == "test" else "train")
        if name == "test":
            return found
        sequences = sorted({pair.target.path.parent.name for pair in found})
        held = set(sequences[len(sequences) - len(sequences) // _HELD :])
        return tuple(pair for pair in found if (pair.target.path.parent.name in held) == (name == "validation"))

    def blocks(self, name: str, most: int, pairs: Sequence[Pair] | None = None) -> Iterator[PairedSplit]:
        """The crops of a split (or of some of its pairs), at most so many at once."""
        chosen, train = self.pairs(name) if pairs is None else pairs, self.pairs("train")
        every = [self._id(pair) for pair in self.pairs(name)]
        others = dict(zip(every, reference_rows(name, every, len(train), self.version).tolist(), strict=True))
        for start in range(0, len(chosen), most):
            part = chosen[start : start + most]
            ids = tuple(self._id(pair) for pair in part)
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                cut = list(pool.map(self._cut, ids, [(pair.target.path, pair.input.path) for pair in part]))
                drawn = [train[others[id]] for id in ids]
                taken = list(pool.map(self._cut, map(self._id, drawn), [(pair.target.path,) for pair in drawn]))
            sharp, blurred = (torch.stack([crops[i] for crops in cut]) for i in (0, 1))
            degrees = zip(parameters(ids, self.version), blur_degree(sharp, blurred), strict=True)
            yield PairedSplit(
                name,
                ids,
                sharp,
                torch.stack([crops[0] for crops in taken]),
                free_form_mask(self.version, ids, (self.crop, self.crop)),
                tuple(replace(vector, blur=beta) for vector, beta in degrees),
                self,  # type: ignore[arg-type]
                blurred,
            )

    def first(self, name: str, each: int) -> PairedSplit:
        """The first `each` frames of every sequence of a split, in memory."""
        groups: dict[Path, list[Pair]] = defaultdict(list)
        for pair in self.pairs(name):
            groups[pair.target.path.parent].append(pair)
        chosen = [pair for group in groups.values() for pair in group[:each]]
        return next(self.blocks(name, len(chosen), chosen))

    def _id(self, pair: Pair) -> str:
        """As "train/000/00000042": the published part, the sequence, the frame."""
        part, _, sequence, frame = pair.target.path.relative_to(self.root).parts
        return f"{part}/{sequence}/{Path(frame).stem}"

    def _cut(self, id: str, paths: Sequence[Path]) -> list[Tensor]:
        """The same crop of each image, none of them mirrored."""
        images = [read_image(path) for path in paths]
        (top,), (left,), _ = crop_places([tuple(images[0].shape[1:])], self.crop, [id], self.version)
        return [image[:, top : top + self.crop, left : left + self.crop].clone() for image in images]


@lru_cache(maxsize=4)
def _pairs(root: Path, part: str) -> tuple[Pair, ...]:
    return tuple(sorted(read_split("reds", part, root).pairs, key=lambda pair: pair.target.path))
