"""The embedded pack: 102 photographs, 138 thumbnails and a Fashion-MNIST subset, with attribution and a fixed split.

The split (`pack/split.csv`) is by subject: whatever shows a subject of `test` or `validation` is in no other split, and
`gallery` shares no subject with `train`. It was settled once by looking at every image; a test keeps it leak-free.
Fashion-MNIST: `validation` is the last 100 training images of each class, `train` the other 1,100, `test` its own 300.
"""

import csv
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.data.images import read_image, resize
from repro.errors import ReproError, one_of
from repro.paths import reading

PACK = Path(__file__).parent / "pack"
FASHION = "fashion_mnist_subset.npz"
SPLITS = ("train", "validation", "test", "gallery")
KINDS = ("photo", "thumb")
class_names = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_HELD_OUT = 100  # validation images per Fashion-MNIST class


@dataclass(frozen=True)
class PackImage:
    """One image of the pack. `id` is the file without its suffix, e.g. "photos/erase_bee"."""

    id: str
    path: Path
    kind: str
    subject: str
    category: str
    split: str
    author: str
    licence: str
    source: str

    @property
    def credit(self) -> str:
        """The line beside a reproduction; the images are resized from their source."""
        return f"{self.author}, {self.licence}, {self.source}"


def _rows(name: str) -> list[dict[str, str]]:
    with reading(PACK / name) as path, path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=1)
def _images() -> list[PackImage]:
    lists = {"photos": "ATTRIBUTION.csv", "thumbs": "THUMBS_ATTRIBUTION.csv"}
    credits = {f"{folder}/{row['file']}": row for folder, name in lists.items() for row in _rows(name)}
    found = []
    with reading(PACK / "split.csv"):
        for row in _rows("split.csv"):
            file = row.pop("file")
            credit = {key: credits[file][key] for key in ("author", "licence", "source")}
            found.append(PackImage(file.rsplit(".", 1)[0], PACK / file, **row, **credit))
    return found


def photos(split: str | None = None, kind: str | None = "photo") -> list[PackImage]:
    """Images of a split (None: all) and kind ("photo", "thumb", None: both), in the order of split.csv."""
    one_of("photos: split", split, (*SPLITS, None))
    one_of("photos: kind", kind, (*KINDS, None))
    return [p for p in _images() if split in (None, p.split) and kind in (None, p.kind)]


def image(id: str) -> PackImage:
    """The image of an id, e.g. "photos/erase_bee"; a bare stem that only one image has is accepted too."""
    found = [p for p in _images() if id in (p.id, p.path.stem)]
    if len(found) != 1:
        raise ReproError(f"image: {id!r} names {len(found)} images of the pack; an id is like {_images()[0].id!r}")
    return found[0]


def load(image: PackImage) -> Tensor:
    """float32 (3, H, W) in [0, 1]."""
    return read_image(image.path)


@lru_cache(maxsize=8)
def photographs(split: str, side: int, limit: int = 0) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Ids and images (3, H, W) in [0, 1] of a split, the shorter side resized to `side` (0: as they come)."""
    chosen = photos(split)[: limit or None]
    return tuple(p.id for p in chosen), tuple(resize(x, side) if side else x for x in map(load, chosen))


@lru_cache(maxsize=3)
def fashion(split: str) -> tuple[Tensor, Tensor, list[str]]:
    """Fashion-MNIST subset: "train" 11,000, "validation" 1,000, "test" 3,000 images (N, 1, 28, 28) float32 in [-1, 1],
    classes balanced; labels (N,) int64; ids, unique over the splits. Treat them as read-only (they are shared)."""
    one_of("fashion: split", split, SPLITS[:3])
    with reading(PACK / FASHION) as path, np.load(path, allow_pickle=False) as file:
        images = np.concatenate([file["train_images"], file["test_images"]])  # training first
        labels = np.concatenate([file["train_labels"], file["test_labels"]]).astype(np.int64)
        train = len(file["train_labels"])
    held_out = np.sort([np.flatnonzero(labels[:train] == c)[-_HELD_OUT:] for c in range(len(class_names))], axis=None)
    ids = (np.setdiff1d(np.arange(train), held_out), held_out, np.arange(train, len(labels)))[SPLITS.index(split)]
    chosen = torch.from_numpy(images[ids]).float().div_(127.5).sub_(1.0)[:, None]
    return chosen, torch.from_numpy(labels[ids]), [f"fashion {i}" for i in ids]


def file_hash(path: Path) -> str:
    """SHA-256 by which records know a file of the pack: its own or, where a smaller file with the same pixels replaced
    the first one, that of the first (the manifest has both)."""
    found, row = _sha256(path), _manifest().get(path.relative_to(PACK).as_posix(), {})
    return row["first"] if row.get("first") and found == row["sha256"] else found


@lru_cache(maxsize=1)
def _manifest() -> dict[str, dict[str, str]]:
    return {row["file"]: row for row in _rows("manifest.csv")}


def _sha256(path: Path) -> str:
    """Line ends of text are hashed as "\\n", so that a checkout on Windows agrees."""
    data = path.read_bytes()
    return hashlib.sha256(data.replace(b"\r\n", b"\n") if path.suffix == ".csv" else data).hexdigest()


@lru_cache(maxsize=1)
def pack_hash() -> str:
    """SHA-256 over names and contents of the data (images, Fashion-MNIST, split; not the credits)."""
    files = (p.path.relative_to(PACK).as_posix() for p in _images())
    names = sorted(["split.csv", FASHION, *files])
    return hashlib.sha256("".join(f"{name} {file_hash(PACK / name)}\n" for name in names).encode()).hexdigest()


def verify() -> list[str]:
    """What differs from the committed manifest, one sentence each; empty where the pack is whole."""
    expected = {name: row["sha256"] for name, row in _manifest().items()}
    files = [p for p in PACK.rglob("*") if p.is_file() and p.name != "manifest.csv" and p.name[0] != "."]
    found = {p.relative_to(PACK).as_posix(): _sha256(p) for p in files}
    return [
        f"{PACK / name}: {'missing' if name not in found else 'not part of the pack, or changed: another SHA-256'}"
        for name in sorted(expected | found)
        if expected.get(name) != found.get(name)
    ]
