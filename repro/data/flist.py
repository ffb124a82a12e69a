"""Pairs of image files: from two folders by name, or from two file lists line by line.

A file list (flist) is UTF-8 text, one path a line, relative paths counted from the list's own folder. Lines that start
with "#" are comments and do not count in the alignment; blank lines may only end the file. Pairs must agree in their
stems ("0012" of "low/0012.png") unless `any_names` lets the order decide; numbers must agree even then.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        reason = getattr(error, "strerror", "") or "not UTF-8 text"
        raise ReproError(f"{flist}: cannot be read ({reason}); `repro data flist` writes a file list") from error
    # Not splitlines(): that also splits at form feeds and Unicode separators, which file names may hold.
    lines = {number: line.removesuffix("\r") for number, line in enumerate(text.split("\n"), start=1)}
    while lines and not lines[len(lines)].strip():
        lines.popitem()
    files = {number: flist.parent / line for number, line in lines.items() if not line.startswith("#")}
    if not files:
        raise ReproError(f"{flist}: the file list is empty; at least one path is needed")
    for number, file in files.items():
        if not file.is_file():
            found = f"{str(file)!r} is no file" if lines[number].strip() else "the entry is empty"
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
    return checked([Pair(a, b) for (_, a), (_, b) in zip(first, second, strict=True)])


def _other_number(first: str, second: str) -> bool:
    """Whether two names carry numbers, and neither has all that the other has."""
    one, two = (Counter(map(int, re.findall(r"[0-9]+", name))) for name in (first, second))
    return bool(one) and bool(two) and not (one <= two or two <= one)


def pair_folders(inputs: FILE, targets: FILE) -> list[Pair]:
    """Pairs of two folders by relative path without suffix; the header of every file is read.

    Raises `ReproError` for an image without its partner, an unreadable one and a pair of two sizes.
    """
    named = _named(inputs), _named(targets)
    for problem in unpaired(named, (inputs, targets)):
        raise ReproError(problem)
    return checked([Pair(path, named[1][stem]) for stem, path in named[0].items()])


def _named(folder: FILE) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in list_images(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if files.setdefault(stem, path) != path:
            raise ReproError(f"{path}: has the same name as {files[stem].name}; one image per name is expected")
    return files


def unpaired(files: tuple[Mapping[Any, Path], Mapping[Any, Path]], places: tuple[FILE, FILE]) -> Iterator[str]:
    """A sentence for those of either side, by their pair's name, that have no partner on the other."""
    for mine, theirs, other in ((files[0], files[1], places[1]), (files[1], files[0], places[0])):
        if alone := [file for name, file in mine.items() if name not in theirs]:
            yield f"{some(alone)}: no partner in {other}"


def some(files: Sequence[Path]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(map(str, files[:3])) + (f" and {len(files) - 3:,} more" if len(files) > 3 else "")


def checked(pairs: list[Pair]) -> list[Pair]:
    """The same; the header of every file is read. Raises `ReproError` for an unreadable one and an unequal pair."""
    for pair in pairs:
        one, two = ("{}x{}".format(*image_size(path)) for path in (pair.input, pair.target))
        if one != two:
            raise ReproError(
                f"{pair.input} is {one} but its target {pair.target} is {two}; accepted: pairs of one size"
            )
    return pairs


def list_images(folder: FILE) -> list[Path]:
    """Image files under a folder, all levels, linked folders too, hidden ones left out, in the natural order of their
    paths without suffix: 2.png before 10.png."""
    folder = Path(folder)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise ReproError(f"{folder}: {found}; a folder of images was expected")
    files, visited = [], set()
    for where, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in visited:  # a link that leads back to where it lies
            below.clear()
            continue
        visited.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
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
