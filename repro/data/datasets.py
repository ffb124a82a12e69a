"""Published data sets: the layouts and counts of `datasets.toml`, compared by `repro data check`, and their readers.

    split = read_split("lol", "train")                                    # 485 pairs, from repro.paths.data() / "lol"
    images = ImageSet.of_pairs(split.pairs, masks=split.masks)

RainDrop's "test" is test-a (58 pairs), on which results are reported; test-b (249 other images) is read as "test_b".
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tyro.conf import Positional

from repro import paths
from repro.data import pack
from repro.data.decoding import SUFFIXES
from repro.data.files import FILE, Pair, checked, some, unpaired
from repro.data.images import resize
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
    key: str = r"(?:.*/)?([^/]+)\.[^./]+"  # of the relative path: its groups name the pair, else the stem does

    def files(self, root: Path) -> list[Path]:
        """In order of their names."""
        found = (p for p in root.glob(self.pattern) if p.suffix.lower() in self.suffixes and p.is_file())
        return sorted(p for p in found if p.name[0] != ".")

    def keyed(self, root: Path, files: Sequence[Path]) -> dict[str | None, Path]:
        """The files by the name of their pair; None for one that is misnamed."""
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


LAYOUTS: dict[str, Layout] = {
    name: Layout(**{**each, "parts": [Part(**part) for part in each["parts"]]})
    for name, each in paths.read_toml(Path(__file__).with_suffix(".toml")).items()
}


def home(name: str) -> Path:
    """A known data set's folder by default."""
    return paths.data() / (LAYOUTS[name].folder or name)


def advice(name: str, root: Path) -> str:
    """A sentence: what to get from where, and what its folder then holds."""
    layout = LAYOUTS[name]
    return f"get {layout.get} from {layout.page} and unpack it so that {root} holds {layout.needed}"


def check(name: str, root: FILE | None = None) -> tuple[list[str], list[str]]:
    """Compare a downloaded data set, one of `LAYOUTS`, with its layout: counts, names of pairs, empty files. A line for
    each part that is as it should be, and a sentence for each problem. `root`: its folder (default: `home`)."""
    layout, root = LAYOUTS[name], Path(root or home(name))
    if not root.is_dir():
        return [], [f"{root}: {'is no folder' if root.exists() else 'no such folder'}"]
    files = {part.label: part.files(root) for part in layout.parts}
    if not any(files.values()):
        below = [f for f in sorted(root.iterdir()) if f.is_dir() and any(part.files(f) for part in layout.parts)]
        deeper = f"the data set lies one level deeper; give --root {below[0]}" if below else ""
        return [], [f"{root}: {deeper or f'nothing found of {layout.needed}'}"]
    found, problems = [], []
    for part in layout.parts:
        if wrong := list(_faults(layout, part, root, files)):
            problems += wrong
        elif files[part.label]:
            found.append(f"{part.label}: {len(files[part.label]):,} files")
    return found, problems


def _faults(layout: Layout, part: Part, root: Path, found: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """A sentence for each problem: a wrong number of files (`found`, by labels), empty, misnamed or unpaired ones."""
    files, where = found[part.label], root / part.pattern
    if not files and part.optional:
        return
    if len(files) != part.count if part.count else not files:
        kind = "images" if part.suffixes == SUFFIXES else f"{'/'.join(part.suffixes)} files"
        yield f"{where}: {len(files):,} {kind} found, {part.count or 'at least one'} expected"
    if empty := [file for file in files if file.stat().st_size == 0]:
        yield f"{some(empty)}: empty"
    if files and part.partner and found[part.partner]:
        other = next(p for p in layout.parts if p.label == part.partner)
        mine, theirs = part.keyed(root, files), other.keyed(root, found[other.label])
        if misnamed := mine.pop(None, None) or theirs.pop(None, None):
            yield f"{misnamed}: misnamed; names are expected to match {part.key}"
        yield from unpaired((mine, theirs), (where, root / other.pattern))


class Split(NamedTuple):
    """Pairs of one split, and one mask a pair where the data set has them."""

    pairs: list[Pair]
    masks: list[Path] | None


def read_split(name: str, split: str, root: FILE | None = None) -> Split:
    """A split of a complete download of lol, raindrop, istd, gopro or reds, counted and matched by name.

    Splits are train and test; of reds train and val, the ground truth of its test sequences is withheld. Raises
    `ReproError` for what is absent (with what to get from where), and for all that `check` and `checked` find.
    """
    one_of("paired data set", name, [known for known, layout in LAYOUTS.items() if layout.splits])
    layout, root = LAYOUTS[name], Path(root or home(name))
    labelled = {part.label: part for part in layout.parts}
    inputs = labelled[layout.splits[one_of(f"{name}: split", split, layout.splits)]]
    parts = [inputs, labelled[inputs.partner], *(p for p in layout.parts if p.partner == inputs.label)]
    files = {part.label: part.files(root) for part in parts}
    for part in parts:
        for problem in _faults(layout, replace(part, optional=False), root, files):
            absent = "" if files[part.label] else f"; {advice(name, root)}"
            raise ReproError(f"{problem}{absent}; `repro data check {name} --root {root}` lists everything")
    found, targets, *masks = (part.keyed(root, files[part.label]) for part in parts)
    pairs = checked([Pair(path, targets[key]) for key, path in found.items()])
    return Split(pairs, [masks[0][key] for key in found] if masks else None)


CELEBA = {"train": 162_770, "validation": 19_867, "test": 19_962}  # in the order of the list's numbers 0, 1, 2


def face(image: Tensor) -> Tensor:
    """Aligned CelebA (3, 218, 178) -> (3, 64, 64), by the crop of RDDM's FID: 128 px around row 121, column 89."""
    if tuple(image.shape[-2:]) != (218, 178):
        found = f"{image.shape[-1]}x{image.shape[-2]} (img_align_celeba is expected, not a cropped version)"
        raise ReproError(f"an aligned CelebA image is 178x218 px: got {found}")
    return resize(image[..., 121 - 64 : 121 + 64, 89 - 64 : 89 + 64], (64, 64))


def read_celeba(split: str) -> list[Path]:
    """The files of a split (train, validation, test), in the order of the data set's own list. Raises `ReproError` for
    another split, what is absent (with what to get from where), and another number of images than the split has."""
    listed, folder = home("celeba") / "list_eval_partition.txt", home("celeba") / "img_align_celeba"
    if absent := [needed for needed in (listed, folder) if not needed.exists()]:
        raise ReproError(f"{absent[0]}: not found; {advice('celeba', home('celeba'))}")
    there, number = {file.name for file in folder.iterdir()}, str(list(CELEBA).index(one_of("split", split, CELEBA)))
    lines = [line.split() for line in listed.read_text(encoding="utf-8").splitlines()]
    entries = [folder / name for name, *part in filter(None, lines) if part == [number] and name in there]
    if len(entries) != CELEBA[split]:
        found = f"{len(entries):,} images of {split} that are in {folder}"
        raise ReproError(f"{listed} lists {found}: CelebA has {CELEBA[split]:,}")
    return entries


CIFAR = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_BYTES = 1 + 3 * 32 * 32  # an image's: label, 1,024 of red, of green, of blue


def load_cifar10(split: str) -> tuple[Tensor, Tensor, list[str]]:
    """Images (N, 3, 32, 32) float32 in [-1, 1], labels (N,) int64 in 0..9 and ids of CIFAR-10's binary version, "train"
    (five files) or "test". Raises `ReproError` for files that are absent (with what to download) or cut short."""
    parts, ids = [], []
    for file in _cifar_files(split):
        raw = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        if not len(raw) or len(raw) % _BYTES or raw[::_BYTES].max() > 9:
            expected = f"images of {_BYTES:,} with a label from 0 to 9"
            raise ReproError(f"{file}: {len(raw):,} bytes are not {expected}: it is cut short or no CIFAR-10")
        parts.append(raw.view(-1, _BYTES))
        ids += [f"cifar10 {file.stem} {i}" for i in range(len(parts[-1]))]
    data = torch.cat(parts)
    return data[:, 1:].reshape(-1, 3, 32, 32).float().div_(127.5).sub_(1.0), data[:, 0].long(), ids


def cifar10_hash(split: str) -> str:
    """SHA-256 over the split's files in order."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in _cifar_files(split))).hexdigest()


def _cifar_files(split: str) -> list[Path]:
    files = [home("cifar10") / name for name in CIFAR[one_of("CIFAR-10: split", split, CIFAR)]]
    if absent := [file for file in files if not file.is_file()]:
        raise ReproError(f"{absent[0]}: not found; {advice('cifar10', files[0].parent)}, or set REPRO_DATA")
    return files


@dataclass
class DataCheck:
    """Verify a data set against its known layout and counts; exit status 1 where something is missing.

    Args:
        name: the data set: pack, cifar10, fashion-mnist, celeba, lol, raindrop, istd, gopro, reds, ffhq, cars, div2k,
            sid, imagenet, open-images
        root: its folder (default: the one of its name in REPRO_DATA, else in runs/data; the embedded pack takes none)
    """

    name: Positional[str]
    root: Path | None = None

    def run(self) -> int:
        if one_of("data set", self.name, ["pack", *sorted(LAYOUTS)]) == "pack":
            if self.root:
                raise ReproError(f"{self.root}: the embedded images take no --root, they lie at {pack.PACK}")
            root, title, problems = pack.PACK, "embedded images", pack.verify()
            found = [] if problems else ["every photograph, thumbnail and list has the SHA-256 that was committed"]
            again = "restore the files with `git checkout -- repro/data/pack`, or install the package again"
        else:
            root, title = self.root or home(self.name), LAYOUTS[self.name].title
            (found, problems), again = check(self.name, root), advice(self.name, root)
        print(f"{self.name} ({title}) at {root}: {'incomplete or absent' if problems else 'complete'}")
        lines = [f"  ok       {line}" for line in found] + [f"  problem  {line}" for line in problems]
        print(*lines, *([f"  to do    {again}"] if problems else []), sep="\n")
        return 1 if problems else 0
