"""The paired data sets by name and split, from their own folders or from file lists, counted and matched by name.

    split = read_split("lol", "train")                                    # 485 pairs, from repro.paths.data() / "lol"
    pairs = PictureSet.of_pairs(split.pairs, squared(256), masks=split.masks)

RainDrop's results are reported on test-a (58 pairs). test-b (249) has other pictures, and a number on it compares with
none of them: it is refused under the name "test" and read as "test_b".
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.data.flist import Entry, Pair, check_pairs, read_pairs
from repro.data.known import advice, files_of, home
from repro.data.layouts import LAYOUTS, Part
from repro.errors import ReproError

# Data set -> split -> the part that holds the inputs; the targets are its partner, masks the part whose partner it is.
SPLITS: dict[str, dict[str, str]] = {
    "lol": {"train": "our485/low", "test": "eval15/low"},
    "raindrop": {"train": "train/data", "test": "test_a/data", "test_b": "test_b/data"},
    "istd": {"train": "train/train_A", "test": "test/test_A"},
    "gopro": {"train": "train blur", "test": "test blur"},
    "reds": {"train": "train/train_blur", "val": "val/val_blur"},
}
FILES = str | os.PathLike


@dataclass(frozen=True)
class Split:
    """Pairs of one split, and one mask a pair where the data set has them."""

    data: str
    name: str
    pairs: list[Pair]
    masks: list[Entry] | None = None


def parts_of(name: str, split: str) -> tuple[Part, Part, Part | None]:
    """Inputs, targets and masks of a split in the data set's layout."""
    if name not in SPLITS:
        raise ReproError(f"no paired data set {name!r} is known; accepted: {', '.join(SPLITS)}")
    if split not in SPLITS[name]:
        raise ReproError(f"{name} has no split {split!r}; accepted: {', '.join(SPLITS[name])}")
    layout = LAYOUTS[name]
    first = layout.part(SPLITS[name][split])
    masks = [part for part in layout.parts if part.partner == first.label]
    return first, layout.part(first.partner), masks[0] if masks else None


def read_split(name: str, split: str, root: FILES | None = None) -> Split:
    """A split of a complete download.

    Args:
        name: lol, raindrop, istd, gopro or reds.
        split: train or test; of reds train or val, the ground truth of its test sequences is withheld.
        root: its folder; default: the one of its name in `repro.paths.data()`.

    Raises:
        ReproError: absent (with what to get from where), another number of files, a file without partner or of another
            name than expected, a pair of two sizes, an unreadable header.
    """
    inputs, targets, masks = parts_of(name, split)
    root = home(name) if root is None else Path(root)
    found = [_by_key(name, root, part) for part in (inputs, targets, masks) if part is not None]
    for other, part in zip(found[1:], (targets, masks), strict=False):
        alone = sorted(found[0].keys() ^ other.keys())
        if alone:
            file = found[0].get(alone[0]) or other[alone[0]]
            where = root / (part if alone[0] in found[0] else inputs).pattern
            raise ReproError(f"{file}: has no partner in {where}; {_more(name, root)}")
    pairs = [Pair(Entry(path, root), Entry(found[1][key], root)) for key, path in found[0].items()]
    check_pairs(pairs)
    return Split(name, split, pairs, [Entry(found[2][key], root) for key in found[0]] if masks else None)


def read_split_flists(name: str, split: str, flists: Sequence[FILES], *, any_count: bool = False) -> Split:
    """A split from file lists: inputs, targets, and for ISTD the masks, aligned by line.

    Args:
        any_count: accept another number of pairs than the data set's; what is measured is then another data set.

    Raises:
        ReproError: as `repro.data.flist.read_pairs`; names that are not the data set's, or not of one pair.
    """
    inputs, targets, masks = parts_of(name, split)
    wanted = 3 if masks else 2
    if len(flists) != wanted:
        kinds = "inputs, targets and masks" if masks else "inputs and targets"
        raise ReproError(f"{name} takes {wanted} file lists, {kinds}: got {len(flists)}")
    pairs = read_pairs(flists[0], flists[1], any_names=bool(inputs.key))
    if inputs.key:
        for pair in pairs:
            first, second = _key(inputs, pair.input), _key(targets, pair.target)
            if first != second:
                raise ReproError(
                    f"{pair.target.where}: {pair.target.path} stands where the partner of {pair.input.path} "
                    f"({pair.input.where}) was expected"
                )
    if not any_count and inputs.count is not None and len(pairs) != inputs.count:
        raise ReproError(
            f"{flists[0]} has {len(pairs):,} entries: {name} {split} has {inputs.count:,} pairs (any_count=True reads "
            f"another selection)"
        )
    if not masks:
        return Split(name, split, pairs)
    aligned = read_pairs(flists[0], flists[2])  # the same names, line by line
    return Split(name, split, pairs, [pair.target for pair in aligned])


def _by_key(name: str, root: Path, part: Part) -> dict[str, Path]:
    files = files_of(root, part)
    if not files:
        raise ReproError(f"{root / part.pattern}: nothing found; {advice(name, root)}")
    if part.count is not None and len(files) != part.count:
        raise ReproError(
            f"{root / part.pattern}: {len(files):,} files found, {part.expected} expected; {_more(name, root)}"
        )
    keyed = {part.key_of(file.relative_to(root).as_posix()): file for file in files}
    if None in keyed or len(keyed) != len(files):
        raise ReproError(f"{keyed.get(None, files[0])}: misnamed or there twice, {part.naming}; {_more(name, root)}")
    return keyed  # type: ignore[return-value]


def _key(part: Part, entry: Entry) -> str:
    """What names the pair, from as many of the path's last parts as the data set's names take."""
    depth = part.key.count("/") - part.key.count("[^/]") + 1  # slashes that separate, not those inside a class
    tail = "/".join(entry.path.absolute().parts[-depth:])
    key = part.key_of(tail)
    if key is None:
        raise ReproError(f"{entry.where}: {tail} is not a name of this data set; {part.naming}")
    return key


def _more(name: str, root: Path) -> str:
    return f"`repro data check {name} --root {root}` says more"
