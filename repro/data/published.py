"""Readers of the published data sets, split by split.

    split = read_split("lol", "train")                                    # 485 pairs, from repro.paths.data() / "lol"
    images = PictureSet.of_pairs(split.pairs, squared(256), masks=split.masks)

RainDrop's results are reported on test-a (58 pairs). test-b (249) has other images, and a number on it compares with
none of them: it is refused under the name "test" and read as "test_b".
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from repro.data.datasets import LAYOUTS, advice, faults, home
from repro.data.filesets import Prepare
from repro.data.flist import Pair, checked
from repro.data.images import resize
from repro.errors import ReproError, one_of


@dataclass(frozen=True)
class Split:
    """Pairs of one split, and one mask a pair where the data set has them."""

    pairs: list[Pair]
    masks: list[Path] | None = None


def read_split(name: str, split: str, root: str | os.PathLike | None = None) -> Split:
    """A split of a complete download, counted and matched by name.

    Args:
        name: lol, raindrop, istd, gopro or reds.
        split: train or test; of reds train or val, the ground truth of its test sequences is withheld.
        root: its folder; default: the one of its name in `repro.paths.data()`.

    Raises:
        ReproError: absent (with what to get from where), another number of files, a file without partner or of another
            name than expected, a pair of two sizes, an unreadable header.
    """
    one_of("paired data set", name, [known for known, layout in LAYOUTS.items() if layout.splits])
    layout, root = LAYOUTS[name], home(name) if root is None else Path(root)
    one_of(f"{name}: split", split, layout.splits)
    inputs = layout.part(layout.splits[split])
    parts = [inputs, layout.part(inputs.partner), *(p for p in layout.parts if p.partner == inputs.label)]
    files = {part.label: part.files(root) for part in parts}
    for part in parts:
        for problem in faults(layout, replace(part, optional=False), root, files):
            absent = "" if files[part.label] else f"; {advice(name, root)}"
            raise ReproError(f"{problem}{absent}; `repro data check {name} --root {root}` lists everything")
    found, targets, *masks = (part.keyed(root, files[part.label]) for part in parts)
    pairs = checked([Pair(path, targets[key]) for key, path in found.items()])
    return Split(pairs, [masks[0][key] for key in found] if masks else None)


# --- CelebA -----------------------------------------------------------------------------------------------------------

COLUMN, ROW = 89, 121  # middle of the face
SHAPE = (218, 178)  # of every aligned image
CROPS = {64: 128, 256: 178}  # side of the result -> side of the square it comes from
CELEBA = {"train": 162_770, "validation": 19_867, "test": 19_962}  # in the order of the list's numbers 0, 1, 2


def face(side: int) -> Prepare:
    """Aligned CelebA (3, 218, 178) -> (3, side, side), side 64 or 256, cropped at the face's middle.

    The crop of the RDDM line's FID: 128 px around column 89, row 121, resized to 64. Its 256 px version cuts a square
    of 256 out of images 178 px wide and so adds black borders; here 256 px come from the largest square that fits.
    """
    half = CROPS[side] // 2

    def crop(image: Tensor) -> Tensor:
        if tuple(image.shape[-2:]) != SHAPE:
            raise ReproError(
                f"an aligned CelebA image is {SHAPE[1]}x{SHAPE[0]} px: got {image.shape[-1]}x{image.shape[-2]} "
                "(img_align_celeba is expected, neither the wild nor an already cropped version)"
            )
        return resize(image[..., ROW - half : ROW + half, COLUMN - half : COLUMN + half], (side, side))

    return crop


def read_celeba(split: str, root: str | os.PathLike | None = None) -> list[Path]:
    """The files of a split (train, validation, test), in the order of the data set's own list.

    Raises `ReproError` for an unknown split, what is absent (with what to get from where), a line that is no entry and
    another number of images than the split has.
    """
    one_of("CelebA: split", split, CELEBA)
    root = home("celeba") if root is None else Path(root)
    listed, folder = root / "list_eval_partition.txt", root / "img_align_celeba"
    for needed in (listed, folder):
        if not needed.exists():
            raise ReproError(f"{needed}: not found; {advice('celeba', root)}")
    there, entries = {file.name for file in os.scandir(folder)}, []
    for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, part = line.strip().partition(" ")
        if part.strip() not in ("0", "1", "2") or name not in there:
            raise ReproError(f"{listed}, line {number}: {line[:60]!r} is not a file of {folder} and 0, 1 or 2")
        if list(CELEBA)[int(part)] == split:
            entries.append(folder / name)
    if len(entries) != CELEBA[split]:
        raise ReproError(f"{listed} lists {len(entries):,} images of {split}: CelebA has {CELEBA[split]:,}")
    return entries


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------

CIFAR = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_BYTES = 1 + 3 * 32 * 32  # an image's: label, 1,024 of red, of green, of blue


def load_cifar10(split: str) -> tuple[Tensor, Tensor, list[str]]:
    """CIFAR-10's binary version, "train" (five files) or "test", from `cifar-10-batches-bin` in `repro.paths.data()`.

    Returns images (N, 3, 32, 32) float32 in [-1, 1], labels (N,) int64 in 0..9, ids. Raises `ReproError` for an unknown
    split, files that are absent (with what to download), cut short or no CIFAR-10.
    """
    parts, ids = [], []
    for file in _cifar_files(split):
        raw = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        if not len(raw) or len(raw) % _BYTES or raw[::_BYTES].max() > 9:
            raise ReproError(
                f"{file}: {len(raw):,} bytes are not images of {_BYTES:,} with a label from 0 to 9: it is cut short or "
                "no CIFAR-10"
            )
        parts.append(raw.view(-1, _BYTES))
        ids += [f"cifar10 {file.stem} {i}" for i in range(len(parts[-1]))]
    data = torch.cat(parts)
    return data[:, 1:].reshape(-1, 3, 32, 32).float().div_(127.5).sub_(1.0), data[:, 0].long(), ids


def cifar10_hash(split: str) -> str:
    """SHA-256 over the split's files in order."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in _cifar_files(split))).hexdigest()


def _cifar_files(split: str) -> list[Path]:
    one_of("CIFAR-10: split", split, CIFAR)
    files = [home("cifar10") / name for name in CIFAR[split]]
    if absent := [file for file in files if not file.is_file()]:
        raise ReproError(f"{absent[0]}: not found; {advice('cifar10', files[0].parent)}, or set REPRO_DATA")
    return files
