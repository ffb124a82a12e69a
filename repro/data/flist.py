"""Pairs of image files: from two folders by name, or from two file lists line by line.

A file list (flist) is UTF-8 text, one path a line, relative paths counted from the list's own folder. Lines that start
with "#" are comments and do not count in the alignment; blank lines may only end the file. Pairs must agree in their
stems ("0012" of "low/0012.png") unless `any_names` lets the order decide; numbers must agree even then.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from repro.data.images import SUFFIXES, image_size, read_image
from repro.engine.atomic import write_bytes
from repro.errors import ReproError

FILE = str | os.PathLike


@dataclass(frozen=True)
class Pair:
    """Files of a degraded input and its target."""

    input: Path
    target: Path

    @property
    def id(self) -> str:
        return self.input.stem

    def load(self) -> tuple[Tensor, Tensor]:
        """Input and target, float32 (3, H, W) in [0, 1]."""
        return read_image(self.input), read_image(self.target)


def read_flist(flist: FILE) -> dict[int, Path]:
    """The files of a list by line (the first is 1). Raises `ReproError` naming list and line for what is missing."""
    flist = Path(flist)
    try:
        text = flist.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReproError(
            f"{flist}: cannot be read ({getattr(error, 'strerror', '') or 'not UTF-8 text'}); a file list has one path "
            "per line (`repro data flist` writes one)"
        ) from error
    # Not splitlines(): that also splits at form feeds and Unicode separators, which file names may hold.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    files = {number: flist.parent / line for number, line in enumerate(lines, start=1) if not line.startswith("#")}
    if not files:
        raise ReproError(f"{flist}: the file list is empty; at least one path is needed")
    for number, file in files.items():
        if not file.is_file():
            found = f"{str(file)!r} is no file" if lines[number - 1].strip() else "the entry is empty"
            raise ReproError(f"{flist}, line {number}: {found}; the path of an image was expected")
    return files


def read_pairs(inputs: FILE, targets: FILE, *, any_names: bool = False) -> list[Pair]:
    """Pairs of two lists aligned by line; the header of every file is read.

    Args:
        any_names: accept pairs whose stems differ (RainDrop's "0_rain" and "0_clean"): the order decides then, and
            the numbers in two names must agree where both have some.

    Raises:
        ReproError: unequal numbers of entries, different stems, missing or unreadable files, different sizes.
    """
    first, second = (
        [(f"{flist}, line {i}", file) for i, file in read_flist(flist).items()] for flist in (inputs, targets)
    )
    for (here, a), (there, b) in zip(first, second, strict=False):
        if (not any_names and a.stem != b.stem) or _other_number(a.stem, b.stem):
            raise ReproError(
                f"{there}: {b.name} stands where the partner of {a.name} ({here}) was expected; pairs must have equal "
                "stems, or with any_names equal numbers (`repro data flist` orders lists alike)"
            )
    if len(first) != len(second):
        where, alone = max(first, second, key=len)[min(len(first), len(second))]
        raise ReproError(f"{where}: {alone.name} has no partner, the other list ends before it")
    pairs = [Pair(a, b) for (_, a), (_, b) in zip(first, second, strict=True)]
    check_pairs(pairs)
    return pairs


def _other_number(first: str, second: str) -> bool:
    """Whether two names carry numbers, and neither has all that the other has."""
    one, two = (Counter(map(int, re.findall(r"[0-9]+", name))) for name in (first, second))
    return bool(one) and bool(two) and not (one <= two or two <= one)


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Read the header of every file; raise `ReproError` for the first unreadable one and the first unequal pair."""
    for pair in pairs:
        one, two = ("{}x{}".format(*image_size(path)) for path in (pair.input, pair.target))
        if one != two:
            raise ReproError(
                f"{pair.input} is {one} but its target {pair.target} is {two}; accepted: pairs of one size"
            )


def list_images(folder: FILE) -> list[Path]:
    """Image files under a folder, all levels, linked folders too, hidden ones left out, in the natural order of their
    paths without suffix: 2.png before 10.png."""
    folder = Path(folder)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise ReproError(f"{folder}: {found}; a folder of images was expected")
    files, seen = [], {folder.resolve()}
    for where, below, names in os.walk(folder, followlinks=True):
        kept = []
        for name in below:
            real = (Path(where) / name).resolve()
            if not name.startswith(".") and real not in seen:  # a link may lead back to where it lies
                seen.add(real)
                kept.append(name)
        below[:] = kept
        paths = [Path(where) / name for name in names if not name.startswith(".")]
        files += [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        raise ReproError(f"{folder}: holds no image; accepted: {', '.join(SUFFIXES)}")
    # By parts, without the suffix: two folders of equal stems come in equal order whatever their file formats.
    return sorted(files, key=lambda p: ([_natural(n) for n in p.relative_to(folder).with_suffix("").parts], p.suffix))


def _natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A key that sorts numbers in names as numbers: 2 before 10."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part], text


def pair_folders(inputs: FILE, targets: FILE) -> list[Pair]:
    """Pairs of two folders by relative path without suffix; the header of every file is read.

    Raises `ReproError` for an image without its partner, an unreadable one and a pair of two sizes.
    """
    named = [_by_stem(Path(folder)) for folder in (inputs, targets)]
    for mine, other, folder in ((named[0], named[1], targets), (named[1], named[0], inputs)):
        if alone := sorted(mine.keys() - other.keys()):
            raise ReproError(
                f"{mine[alone[0]]}: has no partner named {alone[0]}.* in {folder} "
                f"({len(alone)} of {len(mine)} pictures have none)"
            )
    pairs = [Pair(path, named[1][stem]) for stem, path in named[0].items()]
    check_pairs(pairs)
    return pairs


def _by_stem(folder: Path) -> dict[str, Path]:
    out: dict[str, Path] = {}
    for path in list_images(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in out:
            raise ReproError(f"{path}: has the same name as {out[stem].name}; one picture per name is expected")
        out[stem] = path
    return out


def write_flist(folder: FILE, out: FILE) -> int:
    """Write the list of a folder's images, relative to the list's own folder where that needs no "..".

    Returns the number of entries. Raises `ReproError` where the folder holds no image or a name cannot stand on a line.
    """
    out = Path(out)
    base = out.absolute().parent
    lines = []
    for path in list_images(folder):
        path = path.absolute()
        line = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
        if "\n" in line or line.endswith("\r") or re.search("[\ud800-\udfff]", line):
            raise ReproError(f"{str(path)!r}: the name holds a line break or is not valid Unicode; rename it")
        lines.append(f"./{line}" if line.startswith(("#", "\ufeff")) or not line.strip() else line)
    write_bytes(out, "".join(f"{line}\n" for line in lines).encode("utf-8"))
    return len(lines)
