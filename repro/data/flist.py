"""File lists (flist) as the RDDM code uses them: one path per line, pairs aligned by line; and pairing of two folders.

What a list may hold: UTF-8, one path a line, relative paths counted from the list's own folder. Lines that start with
"#" are comments and do not count in the alignment; blank lines may only end the file, elsewhere they are an empty entry
and an error. Pairs must agree in their stems ("0012" of "low/0012.png") unless ``any_names=True`` says that the order
decides; numbers must agree even then. Every error names the list and the line.
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
from repro.errors import ReproError


@dataclass(frozen=True)
class Entry:
    """One line of a list (line 1 is the first), or one file of a folder (line 0)."""

    path: Path
    origin: Path
    line: int = 0

    @property
    def where(self) -> str:
        return f"{self.origin}, line {self.line}" if self.line else f"{self.origin}"


@dataclass(frozen=True)
class Pair:
    """A degraded input and its target."""

    input: Entry
    target: Entry

    @property
    def id(self) -> str:
        return self.input.path.stem

    def load(self) -> tuple[Tensor, Tensor]:
        """Input and target, float32 (3, H, W) in [0, 1]. Raises `ReproError` where their sizes differ."""
        first, second = load_entry(self.input), load_entry(self.target)
        if first.shape != second.shape:
            raise _sizes(self, tuple(first.shape[:0:-1]), tuple(second.shape[:0:-1]))
        return first, second


def load_entry(entry: Entry) -> Tensor:
    """The picture of an entry; errors name the list and the line too."""
    return read_image(entry.path, name=f"{entry.path} ({entry.where})" if entry.line else str(entry.path))


def _sizes(pair: Pair, first: tuple[int, int], second: tuple[int, int]) -> ReproError:
    return ReproError(
        f"{pair.input.where}: {pair.input.path.name} is {first[0]}x{first[1]} but its target {pair.target.path} "
        f"({pair.target.where}) is {second[0]}x{second[1]}; the sizes of a pair must be equal"
    )


def read_flist(flist: str | os.PathLike, *, must_exist: bool = True) -> list[Entry]:
    """The entries of a list, in order. Raises `ReproError` naming list and line for empty and missing ones."""
    flist = Path(flist)
    try:
        text = flist.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ReproError(f"{flist}: no such file list") from error
    except IsADirectoryError as error:
        raise ReproError(f"{flist}: is a folder; a file list was expected (`repro data flist` writes one)") from error
    except UnicodeDecodeError as error:
        raise ReproError(f"{flist}: is not UTF-8 text; a file list has one path per line") from error
    except OSError as error:
        raise ReproError(f"{flist}: cannot be read ({error.strerror or error})") from error
    # Not splitlines(): that also splits at form feeds and Unicode separators, which file names may hold.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    entries = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            continue
        if not line.strip():
            raise ReproError(f"{flist}, line {number}: the entry is empty; one path per line is expected")
        if "\0" in line:
            raise ReproError(f"{flist}, line {number}: holds a zero byte; one path per line is expected")
        entry = Entry(flist.parent / line, flist, number)
        if must_exist and not entry.path.is_file():
            found = "is a folder" if entry.path.is_dir() else "does not exist"
            raise ReproError(f"{flist}, line {number}: {entry.path} {found}; an image file was expected")
        entries.append(entry)
    if not entries:
        raise ReproError(f"{flist}: the file list is empty; at least one path is needed")
    return entries


def read_pairs(
    inputs: str | os.PathLike, targets: str | os.PathLike, *, any_names: bool = False, check_sizes: bool = True
) -> list[Pair]:
    """Pairs of two lists aligned by line.

    Args:
        any_names: accept pairs whose stems differ (RainDrop's "0_rain" and "0_clean"): the order decides then, and
            the numbers in two names must agree where both have some.
        check_sizes: read every file's header now, so that a pair of two sizes is found before the training is.

    Raises:
        ReproError: unequal numbers of entries, different stems, missing or unreadable files, different sizes.
    """
    first, second = read_flist(inputs), read_flist(targets)
    stop = min(len(first), len(second))
    pairs = [Pair(a, b) for a, b in zip(first[:stop], second[:stop], strict=True)]
    if not any_names:
        for pair in pairs:
            if pair.input.path.stem != pair.target.path.stem:
                raise ReproError(
                    f"{pair.target.where}: {pair.target.path.name} stands where the partner of "
                    f"{pair.input.path.name} ({pair.input.where}) was expected; pairs must have equal stems "
                    "unless any_names is set"
                )
    if len(first) != len(second):
        longer = (first if len(first) > stop else second)[stop]
        raise ReproError(
            f"{inputs} has {len(first)} entries and {targets} has {len(second)}: {longer.path.name} "
            f"({longer.where}) has no partner"
        )
    for pair in pairs:
        if _other_number(pair.input.path, pair.target.path):
            raise ReproError(
                f"{pair.target.where}: {pair.target.path.name} stands beside {pair.input.path.name} "
                f"({pair.input.where}), and their numbers differ; order the lists alike (`repro data flist` does)"
            )
    if check_sizes:
        check_pairs(pairs)
    return pairs


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Read the header of every file; raise `ReproError` for the first unreadable one and the first unequal pair."""
    for pair in pairs:
        sizes = [image_size(e.path, name=f"{e.path} ({e.where})") for e in (pair.input, pair.target)]
        if sizes[0] != sizes[1]:
            raise _sizes(pair, *sizes)


def list_images(folder: str | os.PathLike) -> list[Path]:
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
    return sorted(
        files, key=lambda p: ([_natural(part) for part in p.relative_to(folder).with_suffix("").parts], p.suffix)
    )


def _natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A key that sorts numbers in names as numbers: 2 before 10."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part], text


def _other_number(first: Path, second: Path) -> bool:
    """Whether two names carry numbers, and neither has all that the other has."""
    one, two = (Counter(int(n) for n in re.findall(r"[0-9]+", path.stem)) for path in (first, second))
    return bool(one) and bool(two) and not (one <= two or two <= one)


def pair_folders(inputs: str | os.PathLike, targets: str | os.PathLike, *, check_sizes: bool = True) -> list[Pair]:
    """Pairs of two folders by relative path without suffix. Raises `ReproError` for a picture without its partner."""
    named = [_by_stem(Path(folder)) for folder in (inputs, targets)]
    for mine, other, folder in ((named[0], named[1], targets), (named[1], named[0], inputs)):
        alone = sorted(mine.keys() - other.keys())
        if alone:
            raise ReproError(
                f"{mine[alone[0]]}: has no partner named {alone[0]}.* in {folder} "
                f"({len(alone)} of {len(mine)} pictures have none)"
            )
    pairs = [Pair(Entry(path, Path(inputs)), Entry(named[1][stem], Path(targets))) for stem, path in named[0].items()]
    if check_sizes:
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


def write_flist(folder: str | os.PathLike, out: str | os.PathLike) -> int:
    """Write the list of a folder's images, relative to the list's own folder where that needs no "..".

    Returns the number of entries. Raises `ReproError` where the folder holds no image or a name cannot stand on a line.
    """
    out = Path(out)
    if out.is_dir():
        raise ReproError(f"{out}: is a folder; the name of the list to write was expected")
    base = out.absolute().parent
    lines = []
    for path in list_images(folder):
        path = path.absolute()
        line = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
        if "\n" in line or line.endswith("\r"):
            raise ReproError(f"{str(path)!r}: the name holds a line break and cannot stand in a file list")
        lines.append(f"./{line}" if line.startswith(("#", "\ufeff")) or not line.strip() else line)
    try:
        base.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".{out.name}.part")
        temporary.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
        os.replace(temporary, out)
    except UnicodeEncodeError as error:
        raise ReproError(f"{folder}: a file name is not valid Unicode ({error.reason}); rename it") from error
    except OSError as error:
        raise ReproError(f"{out}: cannot be written ({error.strerror or error})") from error
    return len(lines)
