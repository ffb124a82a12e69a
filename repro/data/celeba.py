"""CelebA for generation: the aligned pictures, cropped at the face's middle, split by the data set's own list.

The crop of the RDDM line's FID: 128 px around column 89, row 121, resized to 64. Its 256 px version cuts a square of
256 out of pictures 178 px wide and so adds black borders; here 256 px come from the largest square that fits, 178 px.
A plain resize of the whole picture, which one of its experiments reads, squeezes faces: not the same data.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from repro.data.filesets import Prepare
from repro.data.flist import Entry, read_flist
from repro.data.images import resize
from repro.data.known import advice, home
from repro.errors import ReproError

COLUMN, ROW = 89, 121  # middle of the face
SHAPE = (218, 178)  # of every aligned picture
CROPS = {64: 128, 256: 178}  # side of the result -> side of the square it comes from
PARTS = {"train": 0, "validation": 1, "test": 2}
COUNTS = {"train": 162_770, "validation": 19_867, "test": 19_962}


def face(side: int) -> Prepare:
    """(3, 218, 178) -> (3, side, side), side 64 or 256."""
    if side not in CROPS:
        raise ReproError(f"CelebA is cropped for {', '.join(map(str, CROPS))} px: got {side}")
    half = CROPS[side] // 2

    def crop(image: Tensor) -> Tensor:
        if tuple(image.shape[-2:]) != SHAPE:
            raise ReproError(
                f"an aligned CelebA picture is {SHAPE[1]}x{SHAPE[0]} px: got {image.shape[-1]}x{image.shape[-2]} "
                "(img_align_celeba is wanted, neither the wild nor an already cropped version)"
            )
        return resize(image[..., ROW - half : ROW + half, COLUMN - half : COLUMN + half], (side, side))

    return crop


def read_celeba(split: str, root: str | os.PathLike | None = None) -> list[Entry]:
    """The files of a split, in the list's order.

    Raises:
        ReproError: an unknown split, what is absent (with what to get from where), a line that is no entry, another
            number of pictures than the split has.
    """
    if split not in PARTS:
        raise ReproError(f"CelebA has no split {split!r}; accepted: {', '.join(PARTS)}")
    root = home("celeba") if root is None else Path(root)
    listed, folder = root / "list_eval_partition.txt", root / "img_align_celeba"
    if not listed.is_file() or not folder.is_dir():
        absent = listed if not listed.is_file() else folder
        raise ReproError(f"{absent}: not found; {advice('celeba', root)}")
    there = {file.name for file in os.scandir(folder)}
    entries = []
    for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise ReproError(f"{listed}, line {number}: {line[:60]!r} is not a file name and 0, 1 or 2")
        if int(fields[1]) != PARTS[split]:
            continue
        if fields[0] not in there:
            raise ReproError(f"{listed}, line {number}: {folder / fields[0]} does not exist")
        entries.append(Entry(folder / fields[0], listed, number))
    return _counted(entries, split, listed)


def read_celeba_flist(split: str, flist: str | os.PathLike, *, any_count: bool = False) -> list[Entry]:
    """The files of a split from a file list of aligned pictures."""
    if split not in PARTS:
        raise ReproError(f"CelebA has no split {split!r}; accepted: {', '.join(PARTS)}")
    entries = read_flist(flist)
    return entries if any_count else _counted(entries, split, Path(flist))


def _counted(entries: list[Entry], split: str, origin: Path) -> list[Entry]:
    if len(entries) != COUNTS[split]:
        raise ReproError(f"{origin} lists {len(entries):,} pictures of {split}: CelebA has {COUNTS[split]:,}")
    return entries
