"""`repro data check`: published data sets compared with the layouts and counts of `datasets.toml`."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro import paths
from repro.data.flist import some, unpaired
from repro.data.images import SUFFIXES, image_size
from repro.errors import ReproError, one_of


@dataclass(frozen=True)
class Part:
    """Files of one kind."""

    label: str  # what to call them
    pattern: str  # glob, relative to the root
    count: int | None = None  # how many there are; None: any number but none
    suffixes: Sequence[str] = SUFFIXES  # accepted, lower case
    optional: bool = False  # not an error where there is none; where all parts are, one of them is needed
    partner: str = ""  # label of the part whose files pair with these
    key: str = ""  # regular expression on the relative path; its groups name the pair. Empty: the stem

    def files(self, root: Path) -> list[Path]:
        """Those that are there, in order of their names."""
        found = (p for p in root.glob(self.pattern) if p.suffix.lower() in self.suffixes and p.name[0] != ".")
        return sorted(p for p in found if p.is_file())

    def keyed(self, root: Path, files: Sequence[Path]) -> dict[str | None, Path]:
        """What names the pair of each file; None for one whose name is not of the expected form."""
        if not self.key:
            return {file.stem: file for file in files}
        found = ((re.fullmatch(self.key, file.relative_to(root).as_posix()), file) for file in files)
        return {"/".join(match.groups()) if match else None: file for match, file in found}


@dataclass(frozen=True)
class Layout:
    """A data set."""

    title: str
    page: str  # of its project
    get: str  # what to download there
    parts: Sequence[Part]
    folder: str = ""  # its own in `repro.paths.data()`, where that is not called by the data set's name
    splits: Mapping[str, str] = field(default_factory=dict)  # of paired data: label of the part that holds the inputs

    @property
    def needed(self) -> str:
        """Patterns of the parts that it cannot do without; of all, where one of them is enough."""
        needed = [part.pattern for part in self.parts if not part.optional]
        return ", ".join(needed) or " or ".join(part.pattern for part in self.parts)

    def part(self, label: str) -> Part:
        """The part of that label."""
        return next(part for part in self.parts if part.label == label)


LAYOUTS: dict[str, Layout] = {
    name: Layout(**{**each, "parts": [Part(**part) for part in each["parts"]]})
    for name, each in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}


def home(name: str) -> Path:
    """Where a known data set lies by default."""
    return paths.data() / (LAYOUTS[name].folder or name)


def advice(name: str, root: Path) -> str:
    """What to get from where, and what its folder then holds."""
    layout = LAYOUTS[name]
    return f"get {layout.get} from {layout.page} and unpack it so that {root} holds {layout.needed}"


def check(name: str, root: str | os.PathLike | None = None, *, headers: bool = False) -> tuple[list[str], list[str]]:
    """Compare a downloaded data set with its known layout: counts, names of pairs, empty files.

    Args:
        name: one of `LAYOUTS`.
        root: its folder; default: the one of its name in `repro.paths.data()`.
        headers: also open every image's header (minutes for the large sets).

    Returns:
        A line for each part that is as it should be, and a sentence for each problem.

    Raises:
        ReproError: for an unknown name.
    """
    one_of("data set", name, sorted(LAYOUTS))
    layout, root = LAYOUTS[name], home(name) if root is None else Path(root)
    if not root.is_dir():
        return [], [f"{root}: {'is no folder' if root.exists() else 'no such folder'}"]
    files = {part.label: part.files(root) for part in layout.parts}
    if not any(files.values()):
        below = [f for f in sorted(root.iterdir()) if f.is_dir() and any(part.files(f) for part in layout.parts)]
        deeper = f"the data set lies one level deeper; give --root {below[0]}" if below else ""
        return [], [f"{root}: {deeper or f'nothing found of {layout.needed}'}"]
    found, problems = [], []
    for part in layout.parts:
        wrong = list(faults(layout, part, root, files))
        if headers and part.suffixes == SUFFIXES:
            wrong += _unreadable(files[part.label])
        problems += wrong
        if files[part.label] and not wrong:
            found.append(f"{part.label}: {len(files[part.label]):,} files")
    return found, problems


def faults(layout: Layout, part: Part, root: Path, found: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """A sentence for each: a wrong number of files, empty files, misnamed files, files without partner.

    `found` holds the files of the part and of its partner by the parts' labels.
    """
    files, where = found[part.label], root / part.pattern
    if not files and part.optional:
        return
    if len(files) != part.count if part.count else not files:
        kind = "images" if part.suffixes == SUFFIXES else f"{'/'.join(part.suffixes)} files"
        yield f"{where}: {len(files):,} {kind} found, {part.count or 'at least one'} expected"
    if empty := [file for file in files if file.stat().st_size == 0]:
        yield f"{some(empty)}: empty"
    if files and part.partner and found[part.partner]:
        other = layout.part(part.partner)
        mine, theirs = part.keyed(root, files), other.keyed(root, found[other.label])
        if misnamed := mine.pop(None, None) or theirs.pop(None, None):
            yield f"{misnamed}: misnamed; names are expected to match {part.key}"
        yield from unpaired((mine, theirs), (where, root / other.pattern))


def _unreadable(files: Sequence[Path]) -> Iterator[str]:
    from tqdm import tqdm

    for file in tqdm(files, desc="headers", unit="file", delay=1.0, leave=False):
        try:
            image_size(file)
        except ReproError as error:
            yield str(error)
