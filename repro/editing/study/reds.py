"""REDS as the benchmark's source at paper scale: pairs of sharp and blurred frames, their degree of blur measured.

The paper splits REDS' 300 sequences into 240, 30 and 30, but the ground truth of the last 30 is withheld. Decided here:
the 30 published validation sequences are the test split, as nobody trains on them, and the last 30 of the 240 training
sequences are the validation split, so that 210 are trained on. No number on this test split is one on the paper's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from repro.data.crops import crops
from repro.data.flist import Pair
from repro.data.images import read_image
from repro.data.published import read_split
from repro.editing.effects.compose import Recipe
from repro.editing.effects.masks import free_form_mask
from repro.editing.study.benchmark import SPLITS, VERSION, Split, parameters, reference_rows

_HELD = 8  # one in eight of the training sequences is held out for validation: 30 of 240


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
        files = [path for name in SPLITS for pair in self.pairs(name) for path in (pair.target, pair.input)]
        sizes = [[file.relative_to(self.root).as_posix(), file.stat().st_size] for file in files]
        settings = {"crop": self.crop, "recipe": asdict(self.recipe), "version": self.version}
        return hashlib.sha256(json.dumps({**settings, "files": sizes}, sort_keys=True).encode()).hexdigest()[:16]

    def pairs(self, name: str) -> tuple[Pair, ...]:
        """Blurred (input) and sharp (target) frames of one of the benchmark's splits."""
        found = _pairs(self.root, "val" if name == "test" else "train")
        if name == "test":
            return found
        sequences = sorted({_sequence(pair) for pair in found})
        held = set(sequences[len(sequences) - len(sequences) // _HELD :])
        return tuple(pair for pair in found if (_sequence(pair) in held) == (name == "validation"))

    def blocks(self, name: str, most: int, pairs: Sequence[Pair] | None = None) -> Iterator[Split]:
        """The crops of a split (or of some of its pairs), at most so many at once."""
        chosen, train = self.pairs(name) if pairs is None else pairs, self.pairs("train")
        every = [self._id(pair) for pair in self.pairs(name)]
        others = dict(zip(every, reference_rows(name, every, len(train), self.version).tolist(), strict=True))
        for start in range(0, len(chosen), most):
            part = chosen[start : start + most]
            ids = tuple(self._id(pair) for pair in part)
            taken = [train[others[id]] for id in ids]
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                sharp, blurred, reference = (
                    torch.stack(list(pool.map(self._cut, map(self._id, source), [getattr(p, kind) for p in source])))
                    for source, kind in ((part, "target"), (part, "input"), (taken, "target"))
                )
            degrees = zip(parameters(ids, self.version), blur_degree(sharp, blurred), strict=True)
            vectors = tuple(replace(vector, blur=beta) for vector, beta in degrees)
            hole = free_form_mask(self.version, ids, (self.crop, self.crop))
            yield Split(name, ids, sharp, reference, hole, vectors, self, blurred)

    def first(self, name: str, each: int) -> Split:
        """The first `each` frames of every sequence of a split, in memory."""
        chosen = [pair for _, group in groupby(self.pairs(name), _sequence) for pair in list(group)[:each]]
        return next(self.blocks(name, len(chosen), chosen))

    def _id(self, pair: Pair) -> str:
        """As "train/000/00000042": the published part, the sequence, the frame."""
        part, _, sequence, frame = pair.target.relative_to(self.root).parts
        return f"{part}/{sequence}/{Path(frame).stem}"

    def _cut(self, id: str, path: Path) -> Tensor:
        """A frame's crop, not mirrored; the same place for both frames of a pair."""
        return crops([read_image(path)], self.crop, [id], self.version, flip=False)[0]


def blur_degree(sharp: Tensor, blurred: Tensor) -> list[float]:
    """beta in [0, 1] of pairs (B, 3, H, W): ||sharp - blurred|| over ||sharp - mean||, at most 1, to 4 decimals.

    "Multi-task image-to-image diffusion models with fine-grained control" conditions on a "blur degree" of REDS' frames
    and does not say how a frame gets it. Decided here: the share of a crop's deviation that the blur took.
    """
    sharp = sharp.double()
    whole = (sharp - sharp.mean(dim=(2, 3), keepdim=True)).flatten(1).norm(dim=1).clamp(min=1e-6)
    return [round(beta, 4) for beta in ((sharp - blurred).flatten(1).norm(dim=1) / whole).clamp(max=1).tolist()]


def _sequence(pair: Pair) -> str:
    return pair.target.parent.name


@lru_cache(maxsize=4)
def _pairs(root: Path, part: str) -> tuple[Pair, ...]:
    return tuple(sorted(read_split("reds", part, root).pairs, key=lambda pair: pair.target))
