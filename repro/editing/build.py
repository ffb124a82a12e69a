"""The benchmark as a product: a folder of pictures, parameters and a manifest, written once, frozen, checked.

    repro data build editing-bench            # the small profile, from the embedded pack
    repro data check editing-bench            # every file, and every parameter, hole and crop made again

`repro.editing.card` writes what a folder says about itself, `repro.editing.readers` is what it is made from.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, __version__
from torch import Tensor
from tqdm import tqdm

from repro import paths
from repro.data.images import read_image
from repro.data.known import Report, home
from repro.editing import card, manifest
from repro.editing.benchmark import BENCH, COMPOSITES, SPLITS, TINY, VERSION, Bench, Split, reference_rows
from repro.editing.manifest import Manifest
from repro.editing.readers import Pack, Reds, Source, of_settings
from repro.errors import ReproError

KINDS = ("sharp", "blur", "grain", "colour", "inpaint", "sharpen", "mask", "reference")
COLUMNS = ("id", "file", "beta", "sigma", "lambda", "mu", "reference", "hole")
PROFILES = ("smoke", "small", "paper")
DRAWN = ("sharp", "reference", "mask")  # what is compared with the source again
SLACK = 1e-5  # share of a split's mask pixels that may fall on the other side of a stroke's edge on another machine
_BLOCK = 2**27  # bytes of the pictures that are edited together


def home_of(profile: str = "small") -> Path:
    """Where a build lies when nobody says otherwise."""
    return paths.data() / "editing-bench" / f"v{VERSION}-{profile}"


# -- writing ----------------------------------------------------------------------------------------------------------


def build(profile: str, root: Path | None, out: Path | None, png: bool, film: bool) -> str:
    """What `repro data build editing-bench` does: `write` of a profile; returns what to say about it."""
    if profile not in PROFILES:
        raise ReproError(f"editing-bench: no profile {profile!r}; accepted: {', '.join(PROFILES)}")
    if root is not None and profile != "paper":
        raise ReproError(f"editing-bench: the profile {profile} is made from the embedded pack and takes no --root")
    bench = Reds(root or home("reds")) if profile == "paper" else BENCH if profile == "small" else TINY
    if film:
        bench = replace(bench, recipe=replace(bench.recipe, grain="film"))
    folder = home_of(profile) if out is None else Path(out)
    made = write(folder, bench, profile=profile, png=png)
    counts = ", ".join(f"{name} {made.splits[name]['crops']:,}" for name in SPLITS)
    return f"{folder}: {counts} crops, {len(made.files):,} files, total {made.total}"


def write(folder: Path, bench: Bench | Source, *, profile: str = "", png: bool = False) -> Manifest:
    """Make a build of the benchmark; the folder appears when it is complete.

    Args:
        folder: must not exist, or be empty.
        bench: what it is made from: a definition over the embedded pack, or a source such as `Reds`.
        profile: the name it goes by.
        png: the training split as pictures too; by default it is a few safetensors files.

    Raises:
        ReproError: a folder that holds something; whatever the source lacks.
    """
    source, folder = Pack(bench) if isinstance(bench, Bench) else bench, Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ReproError(f"{folder}: is there already; a frozen build is not overwritten (remove it, or give another)")
    block = max(1, _BLOCK // (3 * len(KINDS) * max(map(source.side, SPLITS)) ** 2))
    digest, partial = source.digest(), folder.with_name(f".{folder.name}.partial")
    files: dict[str, str] = {}
    splits: dict[str, dict] = {}
    shutil.rmtree(partial, ignore_errors=True)  # of a build that was stopped

    def put(name: str, data: bytes) -> None:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(data)
        files[name] = hashlib.sha256(data).hexdigest()

    try:
        for name in SPLITS:
            lines, flat = [], dict.fromkeys(("colour", *_composites(name)), 0)
            with tqdm(total=len(source.ids(name)), desc=name, unit="crop", delay=1.0) as bar:
                for number, part in enumerate(source.blocks(name, block)):
                    pictures = _pictures(part, flat)
                    if name == "train" and not png:
                        put(f"train/{number:05d}.safetensors", _safetensors(pictures))
                    else:
                        for kind, values in pictures.items():
                            for stem, value in zip(map(stem_of, part.ids), values, strict=True):
                                put(f"{name}/{kind}/{stem}.png", _png(value))
                    lines += rows_of(source, part)
                    bar.update(len(part))
            put(f"{name}/parameters.csv", _csv(lines))
            splits[name] = {"crops": len(lines), "definition": definition(lines), "flat": flat}
        made_with = {"torch": torch.__version__, "pillow": __version__}
        settings = _plain(source.settings())
        made = Manifest(source.version, profile, source.name, settings, digest, block, splits, made_with, files)
        put("README.md", card.text(source, made).encode())  # the manifest's files are this dictionary
        (partial / manifest.NAME).write_text(made.text(), encoding="utf-8", newline="\n")
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    except OSError as error:
        raise ReproError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return made


def stem_of(id: str) -> str:
    """The name of a crop's files: "photos/erase_bee@256#0" is "photos-erase_bee-256-0"."""
    return re.sub(r"[^A-Za-z0-9_]", "-", id)


def rows_of(source: Source, part: Split) -> list[list[str]]:
    """The lines of parameters.csv for these crops, COLUMNS each."""
    train = source.ids("train")
    ids = source.ids(part.name) if part.name == "train" else part.ids  # in training a crop's place counts
    chosen = dict(zip(ids, reference_rows(part.name, ids, len(train), source.version).tolist(), strict=True))
    out = []
    for id, vector, hole in zip(part.ids, part.vectors, part.hole, strict=True):
        amount, threshold = vector.sharpen
        numbers = (vector.blur, vector.grain, amount, threshold)
        fraction = hole.double().mean().item()
        out.append([id, stem_of(id), *map(repr, numbers), train[chosen[id]], repr(fraction)])
    return out


def definition(lines: Sequence[Sequence[str]]) -> str:
    """SHA-256 of which crop is asked for what, holes left out: the same on every machine."""
    return hashlib.sha256("\n".join(",".join(line[:-1]) for line in lines).encode()).hexdigest()


def _pictures(part: Split, flat: dict[str, int]) -> dict[str, Tensor]:
    """uint8 (B, C, S, S) of every kind and composite; counts in `flat` the crops with a flat channel."""
    found = {"sharp": part.sharp}
    for tasks in (("blur",), ("grain",), ("colour",), ("inpaint",), ("sharpen",)):
        found[tasks[0]] = _edited(part, tasks, flat)
    found |= {"mask": part.hole, "reference": part.reference}
    found |= {name: _edited(part, tasks, flat) for name, tasks in _composites(part.name).items()}
    return {kind: (value * 255).round().to(torch.uint8) for kind, value in found.items()}


def _edited(part: Split, tasks: tuple[str, ...], flat: dict[str, int]) -> Tensor:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = part.edit(*tasks)
    for warning in caught:
        message = str(warning.message)
        if message.startswith("colour transfer: flat"):
            flat["+".join(tasks)] += len(set(re.findall(r"of picture (\d+)", message)))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return made.source if tasks == ("inpaint",) else made.target


def _composites(name: str) -> dict[str, tuple[str, ...]]:
    return {} if name == "train" else {"+".join(tasks): tasks for tasks in COMPOSITES}


def _png(value: Tensor) -> bytes:
    """uint8 (3, S, S) or (1, S, S)."""
    array = value.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(array[:, :, 0] if len(value) == 1 else array).save(file, format="PNG")
    return file.getvalue()


def _safetensors(pictures: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({kind: value.contiguous() for kind, value in pictures.items()})


def _csv(lines: Sequence[Sequence[str]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([COLUMNS, *lines])
    return file.getvalue().encode()


def _plain(value):
    """As JSON would give it back."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


# -- reading and checking ---------------------------------------------------------------------------------------------


def parameters_of(folder: Path, name: str) -> list[list[str]]:
    """The lines of a split's parameters.csv, COLUMNS each."""
    file = Path(folder) / name / "parameters.csv"
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            head, *lines = csv.reader(stream)
    except (OSError, ValueError, csv.Error) as error:
        raise ReproError(f"{file}: cannot be read ({error}); a build of the benchmark has one") from error
    if tuple(head) != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
        raise ReproError(f"{file}: has the columns {', '.join(head)}; accepted: {', '.join(COLUMNS)}")
    return lines


def load(folder: Path, name: str, kinds: Sequence[str] = KINDS) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
    """Ids and uint8 pictures (B, C, S, S) of a split of a build, block by block; "mask" is 255 in the hole.

    Raises:
        ReproError: a folder without manifest, a kind that the split does not have, an unreadable file.
    """
    folder, block = Path(folder), manifest.read(Path(folder)).block
    lines = parameters_of(folder, name)
    for number, start in enumerate(range(0, len(lines), block)):
        part = lines[start : start + block]
        shard = folder / name / f"{number:05d}.safetensors"
        if shard.exists():
            yield [line[0] for line in part], _read_shard(shard, kinds)
            continue
        files = {kind: [folder / name / kind / f"{line[1]}.png" for line in part] for kind in kinds}
        pictures = {kind: torch.stack([_read_png(file, kind) for file in files[kind]]) for kind in kinds}
        yield [line[0] for line in part], pictures


def check(folder: Path | None = None, source_root: Path | None = None) -> Report:
    """Compare a build with its manifest, and its parameters, holes and crops with what its source gives today.

    Args:
        folder: default: that of the small profile.
        source_root: REDS' folder for a build made from it; default: the usual one. Where it is absent, the files are
            compared with the manifest alone, and the report says so.
    """
    folder = home_of() if folder is None else Path(folder)
    report = Report("editing-bench", "sharp crops and their five edits", folder)
    report.advice = f"make it again with `repro data build editing-bench --out {folder}`, after removing what is there"
    try:
        held = manifest.read(folder)
    except ReproError as error:
        report.present = folder.is_dir() and any(folder.iterdir())
        report.problems.append(str(error) if report.present else f"{folder}: no build lies there")
        return report
    report.present = True
    wrong = manifest.compare(folder, held)
    report.problems += wrong.values()
    if not wrong:
        report.found.append(f"{len(held.files):,} files, each with the SHA-256 of the manifest; total {held.total}")
    if held.version != VERSION:
        report.problems.append(f"{folder}: version {held.version}; this code makes version {VERSION}")
        return report
    try:
        source = of_settings(held.source, held.settings, source_root)
        found = source.digest()
    except ReproError as error:
        report.found.append(f"parameters, holes and crops were not made again: {error}")
        return report
    if found != held.digest:
        report.problems.append(
            f"{folder}: was made from another definition or other data (digest {held.digest}, here {found})"
        )
        return report
    for name in SPLITS:
        if any(path.startswith(f"{name}/") for path in wrong):
            continue  # its files were told about
        problems = list(_again(folder, name, source, held.block))
        report.problems += problems
        if not problems:
            report.found.append(f"{name}: parameters, holes and crops of {held.splits[name]['crops']:,} made again")
    return report


def _again(folder: Path, name: str, source: Source, block: int) -> Iterator[str]:
    """What the source gives otherwise today, one sentence a kind."""
    lines, stored = parameters_of(folder, name), load(folder, name, DRAWN)
    if len(lines) != (count := len(source.ids(name))):
        yield f"{folder / name}: {len(lines):,} crops, {count:,} expected"
        return
    other: dict[str, list[str]] = {kind: [] for kind in ("parameters", *DRAWN)}
    moved, pixels = 0, 0
    blocks = zip(source.blocks(name, block), stored, strict=True)
    for number, (part, (_, pictures)) in enumerate(tqdm(blocks, desc=name, unit="block", delay=1.0, leave=False)):
        own = lines[number * block : number * block + len(part)]
        made = {"sharp": part.sharp, "reference": part.reference, "mask": part.hole}
        steps = {
            kind: ((made[kind] * 255).round() - pictures[kind].float()).abs().flatten(1).amax(dim=1) for kind in DRAWN
        }
        for at, (wanted, line) in enumerate(zip(rows_of(source, part), own, strict=True)):
            if wanted[:-1] != line[:-1]:
                other["parameters"].append(wanted[0])
            for kind in ("sharp", "reference"):  # one level: another machine's rounding of the same number
                if steps[kind][at] > 1:
                    other[kind].append(wanted[0])
            if steps["mask"][at] > 0:
                other["mask"].append(wanted[0])
        moved += int((part.hole.bool() != (pictures["mask"] > 0)).sum())
        pixels += part.hole.numel()
    if moved <= SLACK * pixels:
        other["mask"] = []
    for kind, ids in other.items():
        if ids:
            more = f" and {len(ids) - 1:,} more" if len(ids) > 1 else ""
            yield f"{folder / name}: {kind} of {ids[0]}{more}: not what {source.name} gives"


def _read_png(file: Path, kind: str) -> Tensor:
    values = (read_image(file) * 255).round().to(torch.uint8)
    return values[:1] if kind == "mask" else values


def _read_shard(file: Path, kinds: Sequence[str]) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            return {kind: tensors.get_tensor(kind) for kind in kinds}
    except SafetensorError as error:
        raise ReproError(f"{file}: cannot be read ({error})") from error
