"""Image files: pairs from two folders by name or from two lists line by line, and sets that are read on demand.

A file list (flist) is UTF-8 text, one path a line, relative paths counted from the list's own folder. Lines that start
with "#" are comments and do not count in the alignment; blank lines may only end the file. Pairs must agree in their
stems ("0012" of "low/0012.png") unless `any_names` lets the order decide; numbers must agree even then.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from tyro.conf import Positional

from repro.data.decoding import SUFFIXES
from repro.data.images import image_size, read_image
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.paths import write_bytes

FILE = str | os.PathLike
Prepare = Callable[[Tensor], Tensor]  # (3, H, W) in [0, 1] -> the same kind, another size or tone
KEEP = 2 * 2**30  # bytes of each list: GoPro, the largest paired set, takes 0.4 GB at 256 px, CelebA 2.0 GB at 64 px


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
    lines = enumerate(text.rstrip().split("\n"), start=1)
    files = {number: flist.parent / line.removesuffix("\r") for number, line in lines if not line.startswith("#")}
    if not files:
        raise ReproError(f"{flist}: the file list is empty; at least one path is needed")
    for number, file in files.items():
        if not file.is_file():
            raise ReproError(f"{flist}, line {number}: {str(file)!r} is no file; the path of an image was expected")
    return files


def read_pairs(inputs: FILE, targets: FILE, *, any_names: bool = False) -> list[Pair]:
    """Pairs of two lists aligned by line; the header of every file is read.

    `any_names` accepts different stems (RainDrop's "0_rain" and "0_clean"): the order decides then, and the numbers in
    two names must agree where both have some. Raises `ReproError` for what is no pair, and files that cannot be read.
    """
    first, second = read_flist(inputs), read_flist(targets)
    for (i, a), (j, b) in zip(first.items(), second.items(), strict=False):
        few, many = sorted(([int(n) for n in re.findall(r"[0-9]+", file.stem)] for file in (a, b)), key=len)
        rest = iter(many)  # the shorter list of numbers stands in the longer one, in its order
        if (not any_names and a.stem != b.stem) or not all(n in rest for n in few):
            expected = f"the partner of {a.name} ({inputs}, line {i}) was expected"
            accepted = "accepted: equal stems, or with any_names equal numbers"
            raise ReproError(f"{targets}, line {j}: {b.name} stands where {expected}; {accepted}")
    if len(first) != len(second):
        raise ReproError(f"{inputs} lists {len(first)} images and {targets} {len(second)}; accepted: equally many")
    return checked([Pair(a, b) for a, b in zip(first.values(), second.values(), strict=True)])


def pair_folders(inputs: FILE, targets: FILE) -> list[Pair]:
    """Pairs of two folders by relative path without suffix; the header of every file is read. Raises `ReproError` for
    an image without its partner, an unreadable one and a pair of two sizes."""
    named: tuple[dict[str, Path], dict[str, Path]] = {}, {}
    for folder, files in zip((inputs, targets), named, strict=True):
        for path in list_images(folder):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if files.setdefault(stem, path) != path:
                raise ReproError(f"{path}: has the same name as {files[stem].name}; one image per name is expected")
    for problem in unpaired(named, (inputs, targets)):
        raise ReproError(problem)
    return checked([Pair(path, named[1][stem]) for stem, path in named[0].items()])


def unpaired(files: tuple[Mapping[Any, Path], Mapping[Any, Path]], places: tuple[FILE, FILE]) -> Iterator[str]:
    """A sentence for the files of either side, by their pair's name, without a partner on the other."""
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
            raise ReproError(f"{pair.input} is {one}, its target {pair.target} is {two}; accepted: pairs of one size")
    return pairs


def list_images(folder: FILE) -> list[Path]:
    """Image files under a folder, all levels, linked folders too, hidden ones left out, in the natural order of their
    paths without suffix: 2.png before 10.png, and two folders of equal names in equal order whatever the formats."""
    folder = Path(folder)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise ReproError(f"{folder}: {found}; a folder of images was expected")
    files: list[Path] = []
    for where, below, names in os.walk(folder, followlinks=True):
        over = {path.resolve() for path in Path(where, "_").absolute().parents}  # a link back to one is not followed
        below[:] = [name for name in below if not name.startswith(".") and Path(where, name).resolve() not in over]
        paths = (Path(where, name) for name in names if not name.startswith("."))
        files += [path for path in paths if path.suffix.lower() in SUFFIXES and (path.is_file() or path.is_symlink())]
    if not files:
        raise ReproError(f"{folder}: holds no image; accepted: {', '.join(SUFFIXES)}")

    def natural(path: Path) -> tuple[list[str], str]:
        return [re.sub("[0-9]+", lambda n: n[0].zfill(40), part) for part in path.with_suffix("").parts], str(path)

    return sorted(files, key=natural)


def write_flist(folder: FILE, out: FILE) -> int:
    """Write the list of a folder's images, relative to the list's own folder where that needs no ".."; the number of
    its entries. Raises `ReproError` where the folder holds no image or a name cannot stand on a line."""
    base, lines = Path(out).absolute().parent, []
    for path in list_images(Path(folder).absolute()):
        line = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
        if re.search("[\n\ud800-\udfff]", line):
            raise ReproError(f"{str(path)!r}: the name holds a line break or is not UTF-8; rename it")
        lines.append(f"./{line}" if line.startswith(("#", "\ufeff")) or not line.strip() else line)
    write_bytes(out, "".join(f"{line}\n" for line in lines).encode("utf-8"))
    return len(lines)


@dataclass
class DataFlist:
    """Write the list of a folder's images: one path per line, ordered by name, as the flist readers expect it.

    Args:
        folder: the folder; all levels below it are searched
        out: the list to write (default: FOLDER.flist beside the folder)
    """

    folder: Positional[Path]
    out: Path | None = None

    def run(self) -> int:
        folder = Path(os.path.abspath(self.folder))  # without ".."
        out = self.out or folder.parent / f"{folder.name}.flist"
        print(f"{out}: {write_flist(folder, out)} images")
        return 0


def cut(
    images: Tensor | Sequence[Tensor], size: int, draw: Tensor, *, flip: bool = True, names: Sequence | None = None
) -> Tensor:
    """Crops at given relative positions: `draw` (B, 3) in [0, 1) is top, left, and mirrored below 1/2."""
    out = []
    for image, name, (top, left, mirrored) in zip(images, names or range(len(images)), draw.tolist(), strict=True):
        height, width = image.shape[-2:]
        if not 1 <= size <= min(height, width):
            raise ReproError(f"crops: a {size}x{size} crop does not fit into sample {name!r} of {height}x{width}")
        # In double precision, in which u * n stays below n.
        y, x = int(top * (height - size + 1)), int(left * (width - size + 1))
        part = image[..., y : y + size, x : x + size]
        out.append(part.flip(-1) if flip and mirrored < 0.5 else part)
    return torch.stack(out)


def crops(
    images: Tensor | Sequence[Tensor], size: int, ids: Tensor | Sequence[int | str], seed: int, *, flip: bool = True
) -> Tensor:
    """One random crop of each image (C, H, W), mirrored with probability 1/2 if `flip`: (B, C, size, size). Row b
    depends on images[b], ids[b] and `seed` only; two crops of one image have two ids."""
    listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    return cut(images, size, KeyedNoise(seed, listed, "crop").uniform((3,)), flip=flip, names=listed)


def equalised(image: Tensor) -> Tensor:
    """Histogram equalisation of each channel of (3, H, W) in [0, 1], on 8-bit values, by OpenCV's rule: the darkest
    value becomes 0, any other 255 times the share of the brighter pixels up to it; a channel of one value stays."""
    levels = (image * 255.0).round().long()  # (3, H, W)
    for channel in levels:
        counts = torch.bincount(channel.flatten(), minlength=256)
        darkest = counts[channel.min()]
        if others := channel.numel() - int(darkest):
            above = (counts.cumsum(0) - darkest).clamp(min=0).double()
            channel.copy_((above * (255.0 / others)).round().long()[channel])
    return levels.float() / 255.0


class ImageFiles:
    """Files by index, rounded to 8 bits after `prepare`. Up to `KEEP` bytes of them stay in memory."""

    def __init__(self, files: Sequence[Path], prepare: Prepare | None = None) -> None:
        self.files, self.prepare, self.room = list(files), prepare, KEEP
        self._kept: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        """float32 (3, H, W) in [0, 1]."""
        levels = self._kept.get(index)
        if levels is None:
            image = read_image(self.files[index])
            levels = ((self.prepare(image) if self.prepare else image) * 255.0).round().to(torch.uint8)
            if levels.numel() <= self.room:
                self.room -= levels.numel()
                self._kept[index] = levels
        return levels.float() / 255.0


@dataclass
class ImageSet:
    """Targets, for restoration their inputs, and masks where the data set has them, index by index. `files` are the
    inputs' where there are some, else the targets'; `names` their paths, `ids` their stems; `size` how many."""

    targets: ImageFiles
    inputs: ImageFiles | None = None
    masks: ImageFiles | None = None

    @classmethod
    def of_pairs(
        cls, pairs: Sequence[Pair], prepare: Prepare | None = None, prepare_input: Prepare | None = None,
        masks: Sequence[Path] | None = None,
    ) -> Self:  # fmt: skip
        """`prepare` is done to input, target and mask alike, or `prepare_input` to the input."""
        inputs = ImageFiles([p.input for p in pairs], prepare_input or prepare)
        return cls(ImageFiles([p.target for p in pairs], prepare), inputs, masks and ImageFiles(masks, prepare))

    def __post_init__(self) -> None:
        self.files = (self.inputs or self.targets).files
        self.size, self.names = len(self.files), [str(file) for file in self.files]
        self.ids = [file.stem for file in self.files]

    def crops(self, indices: Tensor, side: int, draw: Tensor) -> list[Tensor | None]:
        """The same crop (B, 3, side, side) in [0, 1] of target, input and mask (or None), at `draw` as in `cut`."""
        names, parts = [self.names[i] for i in indices.tolist()], (self.targets, self.inputs, self.masks)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            read = [part and list(pool.map(part.__getitem__, indices.tolist())) for part in parts]
        return [images and cut(images, side, draw, names=names).to(draw.device) for images in read]

    def digest(self) -> str:
        """SHA-256 over the bytes of all files: of the hashes of inputs, targets and masks, each in order."""
        total = hashlib.sha256()
        for part in filter(None, (self.inputs, self.targets, self.masks)):
            one = hashlib.sha256()
            for file in part.files:
                one.update(file.read_bytes())
            total.update(one.hexdigest().encode())
        return total.hexdigest()
