"""`repro data check`: published data sets compared with the layouts and counts of `datasets.toml`."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro import paths
from repro.data.images import SUFFIXES, image_size
from repro.errors import ReproError


@dataclass(frozen=True)
class Part:
    """Files of one kind.

    Attributes:
        label: what to call them.
        pattern: glob, relative to the root.
        count: how many there are; None: any number but none.
        suffixes: accepted suffixes, lower case.
        optional: not an error where there is none; where all parts are, one of them is needed.
        folders: how many folders they lie in, where that is known.
        partner: label of the part whose files pair with these.
        key: regular expression on the relative path; its groups name the pair. Empty: the stem.
    """

    label: str
    pattern: str
    count: int | None = None
    suffixes: Sequence[str] = SUFFIXES
    optional: bool = False
    folders: int | None = None
    partner: str = ""
    key: str = ""

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
    """A data set: title, its project page, what to get there, its parts; `folder` is its own in `repro.paths.data()`,
    where that is not called by the data set's name; `splits` of paired data: the part that holds the inputs."""

    title: str
    page: str
    get: str
    parts: Sequence[Part]
    folder: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)

    @property
    def needed(self) -> Sequence[Part]:
        """The parts that it cannot do without; all, where one of them is enough."""
        return [part for part in self.parts if not part.optional] or self.parts

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
    joint = " or " if all(part.optional for part in layout.parts) else ", "
    holds = joint.join(part.pattern for part in layout.needed)
    return f"get {layout.get} from {layout.page} and unpack it so that {root} holds {holds}"


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
    if name not in LAYOUTS:
        raise ReproError(f"no data set {name!r} is known; accepted: pack, {', '.join(sorted(LAYOUTS))}")
    layout, root = LAYOUTS[name], home(name) if root is None else Path(root)
    if not root.is_dir():
        return [], [f"{root}: {'is no folder' if root.exists() else 'no such folder'}"]
    files = {part.label: part.files(root) for part in layout.parts}
    if not any(files.values()):
        below = [f for f in sorted(root.iterdir()) if f.is_dir() and any(part.files(f) for part in layout.needed)]
        needed = " or ".join(part.pattern for part in layout.needed)
        deeper = f"the data set lies one level deeper; give --root {below[0]}" if below else ""
        return [], [f"{root}: {deeper or f'nothing found of {needed}'}"]
    found, problems = [], []
    for part in layout.parts:
        wrong = list(miscounted(root, part, files[part.label]))
        if part.partner and files[part.label] and files[part.partner]:
            wrong += unpaired(root, (part, layout.part(part.partner)), files)
        if headers and part.suffixes == SUFFIXES:
            wrong += _unreadable(files[part.label])
        problems += wrong
        if files[part.label] and not wrong:
            found.append(f"{part.label}: {len(files[part.label]):,} files")
    return found, problems


def miscounted(root: Path, part: Part, files: Sequence[Path]) -> Iterator[str]:
    """A sentence for a wrong number of files or folders, and one for empty files."""
    folders = len({file.parent for file in files})
    if not files and part.optional:
        return
    if len(files) != part.count if part.count else not files:
        kind = "images" if part.suffixes == SUFFIXES else f"{'/'.join(part.suffixes)} files"
        yield f"{root / part.pattern}: {len(files):,} {kind} found, {part.count or 'at least one'} expected"
    elif part.folders not in (None, folders):
        yield f"{root / part.pattern}: {folders} folders found, {part.folders} expected"
    if empty := [file for file in files if file.stat().st_size == 0]:
        yield f"{_some(empty)}: empty"


def unpaired(root: Path, parts: tuple[Part, Part], files: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """A sentence for misnamed files, and one for those of either part that have no partner in the other."""
    mine, theirs = (part.keyed(root, files[part.label]) for part in parts)
    if misnamed := mine.pop(None, None) or theirs.pop(None, None):
        yield f"{misnamed}: misnamed; names are expected to match {parts[0].key}"
    for here, there, other in ((mine, theirs, parts[1]), (theirs, mine, parts[0])):
        if alone := [file for key, file in here.items() if key not in there]:
            yield f"{_some(alone)}: no partner in {root / other.pattern}"


def _some(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files[:3])) + (f" and {len(files) - 3:,} more" if len(files) > 3 else "")


def _unreadable(files: Sequence[Path]) -> Iterator[str]:
    from tqdm import tqdm

    for file in tqdm(files, desc="headers", unit="file", delay=1.0, leave=False):
        try:
            image_size(file)
        except ReproError as error:
            yield str(error)
