"""What the benchmark is made from: the embedded pack, REDS at paper scale, and pictures of domains never trained on.

A source gives the crops of its splits in blocks, as `repro.editing.benchmark.Split`. REDS differs from the pack in two
things: the blurred target is the crop of the blurred frame, and beta is measured (`repro.editing.degree`).

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
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from repro.data import pack
from repro.data.crops import crop_places
from repro.data.flist import Pair
from repro.data.images import center_crop, image_size, read_image, resize
from repro.data.known import advice, files_of, home
from repro.data.layouts import LAYOUTS
from repro.data.paired import read_split
from repro.editing.benchmark import SPLITS, VERSION, Bench, Split, crop_ids, levels, parameters, reference_rows, split
from repro.editing.compose import Composite, Recipe
from repro.editing.degree import blur_degree
from repro.editing.masks import free_form_mask
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

UNSEEN = {"ffhq": ("images1024x1024", "thumbnails128x128"), "cars": ("cars_test",)}  # data set -> parts, best first
FIELD = Recipe(grain="field")
_HELD = 8  # one in eight of REDS' training sequences is held out for validation: 30 of 240


class Source(Protocol):
    """Where a build takes its crops from."""

    name: str
    version: int
    recipe: Recipe

    def digest(self) -> str:
        """Short hash of the definition and of what it is made from."""

    def settings(self) -> dict[str, Any]:
        """The definition as plain values, from which `of_settings` makes it again."""

    def ids(self, name: str) -> tuple[str, ...]:
        """The crops of a split."""

    def side(self, name: str) -> int:
        """Pixels of a crop's side."""

    def blocks(self, name: str, most: int) -> Iterator[Split]:
        """The crops of a split, at most so many at once."""


@dataclass(frozen=True)
class Pack:
    """The embedded pack, as `bench` says."""

    bench: Bench
    name: str = field(default="pack", init=False)

    @property
    def version(self) -> int:
        return self.bench.version

    @property
    def recipe(self) -> Recipe:
        return self.bench.recipe

    def digest(self) -> str:
        return self.bench.digest()

    def settings(self) -> dict[str, Any]:
        return asdict(self.bench)

    def ids(self, name: str) -> tuple[str, ...]:
        return crop_ids(name, self.bench)

    def side(self, name: str) -> int:
        return self.bench.crop[SPLITS.index(name)]

    def blocks(self, name: str, most: int) -> Iterator[Split]:
        whole = split(name, self.bench)
        for start in range(0, len(whole), most):
            yield whole.at(range(start, min(start + most, len(whole))))

    def photos(self) -> list[pack.Picture]:
        """Every photograph that a crop or a reference is cut from."""
        return [photo for name in SPLITS for photo in pack.photos(name)[: self.bench.limit or None]]


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

    One crop of crop x crop pixels from every pair of frames, at a place keyed by (version, id). recipe: as of `Bench`;
    its order starts with blur, since blurred frames are what the others are applied to.
    """

    root: Path
    crop: int = 256
    recipe: Recipe = FIELD
    version: int = VERSION
    name: str = field(default="reds", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if self.recipe.order[0] != "blur":
            raise ReproError(f"REDS' frames are blurred already: got the order {self.recipe.order}; blur comes first")

    def digest(self) -> str:
        files = [path for name in SPLITS for pair in self._pairs(name) for path in (pair.target.path, pair.input.path)]
        sizes = [[file.relative_to(self.root).as_posix(), file.stat().st_size] for file in files]
        text = json.dumps({**self.settings(), "files": sizes}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        return {"crop": self.crop, "recipe": asdict(self.recipe), "version": self.version}

    def ids(self, name: str) -> tuple[str, ...]:
        """As "train/000/00000042": the published part, the sequence, the frame."""
        return tuple(_reds_id(pair, self.root) for pair in self._pairs(name))

    def side(self, name: str) -> int:
        return self.crop

    def blocks(self, name: str, most: int) -> Iterator[PairedSplit]:
        ids, pairs, train = self.ids(name), self._pairs(name), self._pairs("train")
        chosen = reference_rows(name, ids, len(train), self.version).tolist()
        for start in range(0, len(ids), most):
            own = ids[start : start + most]
            paths = [(pair.target.path, pair.input.path) for pair in pairs[start : start + most]]
            others = [train[row] for row in chosen[start : start + most]]
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                cut = list(pool.map(self._cut, own, paths))
                names = [_reds_id(pair, self.root) for pair in others]
                drawn = list(pool.map(self._cut, names, [(pair.target.path,) for pair in others]))
            sharp, blurred = (torch.stack([crops[i] for crops in cut]) for i in (0, 1))
            reference = torch.stack([crops[0] for crops in drawn])
            degrees = blur_degree(sharp, blurred)
            asked = zip(parameters(own, self.version), degrees, strict=True)
            vectors = tuple(replace(vector, blur=beta) for vector, beta in asked)
            hole = free_form_mask(self.version, own, (self.crop, self.crop))
            yield PairedSplit(name, own, sharp, reference, hole, vectors, self, blurred)

    def _pairs(self, name: str) -> tuple[Pair, ...]:
        """Blurred (input) and sharp (target) frames of one of the benchmark's splits."""
        if name not in SPLITS:
            raise ReproError(f"benchmark: no split {name!r}; accepted: {', '.join(SPLITS)}")
        found = _reds_pairs(self.root, "val" if name == "test" else "train")
        if name == "test":
            return found
        sequences = sorted({pair.target.path.parent.name for pair in found})
        held = set(sequences[len(sequences) - len(sequences) // _HELD :])
        return tuple(pair for pair in found if (pair.target.path.parent.name in held) == (name == "validation"))

    def _cut(self, id: str, paths: Sequence[Path]) -> list[Tensor]:
        """The same crop of each picture, none of them mirrored."""
        pictures = [read_image(path) for path in paths]
        (top,), (left,), _ = crop_places([tuple(pictures[0].shape[1:])], self.crop, [id], self.version)
        return [picture[:, top : top + self.crop, left : left + self.crop].clone() for picture in pictures]


def of_settings(name: str, settings: dict[str, Any], root: Path | None = None) -> Source:
    """The source of that name ("pack", "reds") with these settings; root: of REDS' folder, None for the usual one."""
    values = {key: _tuples(value) for key, value in settings.items()}
    try:
        values["recipe"] = Recipe(**{key: _tuples(value) for key, value in settings["recipe"].items()})
        if name == "pack":
            return Pack(Bench(**values))
        if name == "reds":
            return Reds(root or home("reds"), **values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ReproError(f"benchmark: settings that this version does not know ({error}): {settings}") from error
    raise ReproError(f"benchmark: no source {name!r}; accepted: pack, reds")


def unseen(name: str, bench: Bench | Reds, pool: Split, root: Path | None = None, *, count: int = 1000) -> Split:
    """Pictures of another domain than the training's, asked for the same: what "unseen data sets" are tested with.

    The middle square of a picture is brought to the crops' side; pictures with a shorter side are passed over. Which
    `count` are shown is keyed by (version, id): fewer are the first of more. All effects are computed, blur too.

    Args:
        name: "ffhq" or "cars".
        bench: whose version keys the draws and whose recipe makes the targets.
        pool: the training split, or a part of it: of its crops references are chosen, and its side is the crops'.
        root: the data set's folder; default: the one of its name in `repro.paths.data()`.

    Raises:
        ReproError: an unknown name, no pictures (with what to get from where), fewer than `count` large enough.
    """
    if name not in UNSEEN:
        raise ReproError(f"no data set {name!r} of unseen pictures is known; accepted: {', '.join(UNSEEN)}")
    root, side = home(name) if root is None else Path(root), pool.sharp.shape[-1]
    parts = [LAYOUTS[name].part(label) for label in UNSEEN[name]]
    files = next((found for part in parts if (found := files_of(root, part))), None)
    if files is None:
        raise ReproError(f"{root}: no pictures of {LAYOUTS[name].title}; {advice(name, root)}")
    every = [f"{name}/{file.stem}" for file in files]
    order = KeyedNoise(bench.version, every, "bench/unseen").uniform(()).argsort(stable=True).tolist()
    large = (i for i in order if min(image_size(files[i])) >= side)
    chosen = [i for i, _ in zip(large, range(count), strict=False)]
    if len(chosen) < count:
        raise ReproError(
            f"{root}: {len(chosen):,} of {len(files):,} pictures are at least {side} pixels wide and high; "
            f"{count:,} were asked for (`repro data check {name} --root {root}` says more)"
        )
    ids = tuple(every[i] for i in chosen)
    sharp = torch.stack([_middle(files[i], side) for i in chosen])
    rows = reference_rows(name, ids, len(pool), bench.version)
    hole = free_form_mask(bench.version, ids, (side, side))
    return Split(name, ids, sharp, pool.sharp[rows], hole, tuple(parameters(ids, bench.version)), bench)


def _middle(file: Path, side: int) -> Tensor:
    picture = read_image(file)
    return levels(resize(center_crop(picture, min(picture.shape[1:])), side))


@lru_cache(maxsize=4)
def _reds_pairs(root: Path, part: str) -> tuple[Pair, ...]:
    return tuple(sorted(read_split("reds", part, root).pairs, key=lambda pair: pair.target.path))


def _reds_id(pair: Pair, root: Path) -> str:
    part, _, sequence, frame = pair.target.path.relative_to(root).parts
    return f"{part}/{sequence}/{Path(frame).stem}"


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
