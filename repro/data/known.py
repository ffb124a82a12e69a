"""Known data sets: what a complete download looks like, and what to do where it is not there.

Counts are those of the data sets' own pages and papers. `check` counts files, compares the names of pairs, finds empty
files, and recognises the usual slips (one folder too deep, another file format, another case).
"""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from repro import paths
from repro.data.images import image_size
from repro.data.layouts import LAYOUTS, Layout, Part
from repro.errors import ReproError

_SHOWN = 3  # names shown of a longer list of the same problem


@dataclass
class Report:
    """What `check` found.

    Attributes:
        present: whether anything of the data set was found.
        found: one line per part that is as it should be.
        problems: one sentence per thing that is not; empty means usable.
        advice: where to get the data set and how to lay it out.
    """

    name: str
    title: str
    root: Path
    present: bool = False
    found: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    advice: str = ""

    @property
    def ok(self) -> bool:
        return self.present and not self.problems

    def text(self) -> str:
        """For a terminal."""
        state = "complete" if self.ok else "incomplete" if self.present else "absent"
        lines = [f"{self.name} ({self.title}) at {self.root}: {state}"]
        lines += [f"  ok       {line}" for line in self.found]
        lines += [f"  problem  {line}" for line in self.problems]
        if not self.ok and self.advice:
            lines.append(f"  to do    {self.advice}")
        return "\n".join(lines)


def names() -> list[str]:
    """Every name that `check` accepts."""
    return ["pack", *sorted(LAYOUTS)]


def check(name: str, root: str | os.PathLike | None = None, *, headers: bool = False) -> Report:
    """Compare a downloaded data set with its known layout.

    Args:
        name: one of `names()`.
        root: its folder; default: the one of its name in `repro.paths.data()`. The embedded pack takes none.
        headers: also open every image's header (minutes for the large sets).

    Raises:
        ReproError: for an unknown name.
    """
    if name == "pack":
        return _check_pack(root)
    layout = LAYOUTS.get(name)
    if layout is None:
        raise ReproError(f"no data set {name!r} is known; accepted: {', '.join(names())}")
    root = home(name) if root is None else Path(root)
    report = Report(name, layout.title, root, advice=advice(name, root))
    if not root.is_dir():
        report.problems.append(f"{root}: {'is not a folder' if root.exists() else 'no such folder'}")
        return report
    files: dict[str, list[Path]] = {}
    for part in layout.parts:
        files[part.label] = files_of(root, part)
        report.present = report.present or bool(files[part.label])
        _count(report, root, part, files[part.label])
        if headers and part.images:
            _headers(report, files[part.label])
    for part in layout.parts:
        if part.partner and files[part.label] and files[part.partner]:
            _partners(report, root, layout, part, files)
    if not report.present:
        nested = _nested(root, layout)
        if nested:
            report.problems = [f"{root}: the data set lies one level deeper; give --root {nested}"]
        elif not report.problems:  # every part is optional
            report.problems = [f"{root}: nothing found of {' or '.join(p.pattern for p in layout.parts)}"]
    return report


def home(name: str) -> Path:
    """Where a known data set lies when nobody says otherwise."""
    return paths.data() / (LAYOUTS[name].folder or name)


def advice(name: str, root: Path) -> str:
    """What to get from where, and what its folder then holds."""
    layout = LAYOUTS[name]
    wanted = (" or " if layout.any_of else ", ").join(part.pattern for part in layout.needed)
    return f"get {layout.get} from {layout.page} and unpack it so that {root} holds {wanted}"


def files_of(root: Path, part: Part) -> list[Path]:
    """The files of one part, in order of their names."""
    found = (p for p in root.glob(part.pattern) if p.suffix.lower() in part.suffixes and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def _count(report: Report, root: Path, part: Part, files: list[Path]) -> None:
    if not files:
        if not part.optional:
            report.problems.append(f"{root / part.pattern}: nothing found, {part.expected} expected{_slip(root, part)}")
        return
    sizes = [p for p in files if p.stat().st_size == 0]
    if sizes:
        report.problems.append(f"{_some(sizes)}: empty, {_of(sizes, files)}")
    if part.magic:
        damaged = [problem for problem in (_idx(p, part.magic) for p in files) if problem]
        report.problems.extend(damaged)
        if damaged:
            return
    if part.count is not None and len(files) != part.count:
        word = "missing" if len(files) < part.count else "too many"
        report.problems.append(
            f"{root / part.pattern}: {len(files):,} found, {part.expected} expected "
            f"({abs(part.count - len(files)):,} {word}){_slip(root, part)}"
        )
        return
    folders = {p.parent for p in files}
    if part.folders is not None and len(folders) != part.folders:
        report.problems.append(f"{root / part.pattern}: {len(folders)} folders found, {part.folders} expected")
        return
    report.found.append(f"{part.label}: {len(files):,} files")


def _slip(root: Path, part: Part) -> str:
    """A hint for the usual mistakes, or nothing."""
    others = [p for p in root.glob(part.pattern) if p.is_file() and p.suffix.lower() not in part.suffixes]
    if others:
        kinds = ", ".join(sorted({p.suffix or "no suffix" for p in others})[:_SHOWN])
        return f"; {len(others):,} files of another kind ({kinds}) lie there, accepted: {', '.join(part.suffixes)}"
    place, missing = root, None
    for step in Path(part.pattern).parts[:-1]:
        if "*" in step:
            break
        if not (place / step).is_dir():
            missing = step
            break
        place = place / step
    if missing is None:
        return ""
    near = [p.name for p in place.iterdir() if p.is_dir() and _plain(p.name) == _plain(missing)]
    return f"; {place / near[0]} should be named {missing}" if near else f"; there is no folder {place / missing}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _nested(root: Path, layout: Layout) -> Path | None:
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        if any(files_of(folder, part) for part in layout.needed):
            return folder
    return None


def _partners(report: Report, root: Path, layout: Layout, part: Part, files: dict[str, list[Path]]) -> None:
    other = layout.part(part.partner)
    mine, theirs = ({p.key_of(f.relative_to(root).as_posix()): f for f in files[p.label]} for p in (part, other))
    unnamed = [f for f in files[part.label] if part.key_of(f.relative_to(root).as_posix()) is None]
    if unnamed:
        report.problems.append(f"{_some(unnamed)}: misnamed, {_of(unnamed, files[part.label])}; {part.naming}")
    for here, there, there_part in ((mine, theirs, other), (theirs, mine, part)):
        alone = [f for key, f in here.items() if key is not None and key not in there]
        if alone:
            report.problems.append(
                f"{_some(alone)}: no partner in {root / there_part.pattern}, {_of(alone, list(here.values()))}"
            )


def _some(files: list[Path]) -> str:
    more = f" and {len(files) - _SHOWN:,} more" if len(files) > _SHOWN else ""
    return ", ".join(str(f) for f in files[:_SHOWN]) + more


def _of(some: list[Path], files: list[Path]) -> str:
    return f"{len(some):,} of {len(files):,} files"


def _headers(report: Report, files: list[Path]) -> None:
    from tqdm import tqdm

    for file in tqdm(files, desc="headers", unit="file", delay=1.0, leave=False):
        try:
            image_size(file)
        except ReproError as error:
            report.problems.append(str(error))


def _idx(path: Path, expected: tuple[int, ...]) -> str:
    """A problem of an IDX file's header (magic number and shape), or nothing."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4 * len(expected))
    except (OSError, EOFError) as error:
        return f"{path}: cannot be read ({error})"
    found = tuple(int.from_bytes(head[i : i + 4], "big") for i in range(0, len(head), 4))
    return "" if found == expected else f"{path}: the header says {found}, {expected} expected"


def _check_pack(root: str | os.PathLike | None) -> Report:
    from repro.data import pack

    if root is not None and Path(root).resolve() != pack.PACK.resolve():
        raise ReproError(f"the pack lies at {pack.PACK} and takes no --root; got {root}")
    report = Report("pack", "embedded photographs and Fashion-MNIST subset", pack.PACK, present=pack.PACK.is_dir())
    report.advice = "restore the files with `git checkout -- repro/data/pack`, or install the package again"
    report.problems = pack.verify()
    if not report.problems:
        counts = {k: len(pack.photos(None, k)) for k in pack.KINDS}
        report.found = [
            f"{counts['photo']} photographs and {counts['thumb']} thumbnails, every SHA-256 as committed",
            f"Fashion-MNIST: {', '.join(f'{s} {len(pack.fashion(s)):,}' for s in pack.SPLITS[:3])}",
        ]
    return report
