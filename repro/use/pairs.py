"""One TOML file that defines a training on own pairs; read strictly, checked before anything is trained."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.data.filesets import PictureSet
from repro.data.flist import Pair, pair_folders, read_pairs
from repro.data.images import image_size, to_model, to_unit, write_image
from repro.engine.rng import KeyedNoise
from repro.engine.train import Recipe
from repro.errors import ReproError
from repro.use.methods import LEARNERS, Noises

EXAMPLES = Path(__file__).parent
DRAWN = 6  # pairs of the first batch


def _key(table: str, default: float, low: float, high: float = math.inf) -> Any:
    """A number in a table of the file: its default, its smallest and largest value."""
    return field(default=default, metadata={"table": table, "limits": (low, high)})


@dataclass(frozen=True)
class PairsFile:
    """Content of the file. Paths are relative to the file; `lr` and `steps` default to the method's."""

    method: str
    inputs: Path
    targets: Path
    out: Path
    any_names: bool = False
    images: int = _key("train", 100_000, 1)
    batch: int = _key("train", 8, 1, 4096)
    crop: int = _key("train", 64, 16, 4096)
    width: int = _key("train", 32, 8, 1024)
    lr: float = _key("train", 0.0, 1e-7, 1.0)
    seed: int = _key("train", 0, 0, 2**63 - 1)
    threads: int = _key("train", 0, 1, 4096)
    held_out: float = _key("evaluate", 0.1, 0, 0.9)
    test_inputs: Path | None = field(default=None, metadata={"table": "evaluate"})
    test_targets: Path | None = field(default=None, metadata={"table": "evaluate"})
    steps: int = _key("evaluate", 0, 1, 1000)

    @property
    def recipe(self) -> Recipe:
        """How the training goes; a state is saved twenty times on the way."""
        threads = self.threads or os.cpu_count() or 1
        every = max(self.batch, self.images // 20)
        return Recipe(
            images=self.images, batch=self.batch, lr=self.lr, warmup=self.images // 20, ema=max(self.images / 12, 1),
            threads=threads, save_every=every,
        )  # fmt: skip

    @property
    def network_folder(self) -> Path:
        """Where the finished network goes: a diffusers pipeline."""
        return self.out / "network"


_FIELDS = {each.name: each for each in dataclasses.fields(PairsFile)}


def read(path: Path) -> PairsFile:
    """The file, with the method's defaults filled in. Raises `ReproError` naming file and key for anything wrong."""
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        examples = ", ".join(str(p) for p in sorted(EXAMPLES.glob("*.toml")))
        raise ReproError(f"{path}: no such file; examples to copy: {examples}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ReproError(f"{path}: not a TOML file ({error})") from None
    tables = {name: content.pop(name, {}) for name in ("train", "evaluate")} | {"": content}
    values: dict[str, Any] = {}
    for table, entries in tables.items():
        known = [key for key, each in _FIELDS.items() if each.metadata.get("table", "") == table]
        if not isinstance(entries, Mapping):
            raise ReproError(f"{path}: {table} is {entries!r}; a table [{table}] is accepted")
        if unknown := sorted(entries.keys() - set(known)):
            raise ReproError(f"{path}: {unknown[0]!r} is unknown; accepted here: {', '.join(known)}")
        values |= {key: _value(path, key, value) for key, value in entries.items()}
    if missing := [key for key in ("method", "inputs", "targets", "out") if key not in values]:
        raise ReproError(f"{path}: {missing[0]} is missing; method, inputs, targets and out are needed")
    if values["method"] not in LEARNERS:
        raise ReproError(f"{path}: method {values['method']!r} is unknown; accepted: {', '.join(LEARNERS)}")
    if ("test_inputs" in values) != ("test_targets" in values):
        raise ReproError(f"{path}: test_inputs and test_targets are needed together")
    learner = LEARNERS[values["method"]]()
    chosen = PairsFile(**{"lr": learner.lr, "steps": learner.steps, **values})
    if chosen.crop % 16 or chosen.width % 8:
        raise ReproError(f"{path}: crop {chosen.crop} and width {chosen.width}; accepted: multiples of 16 and of 8")
    return chosen


def _value(path: Path, key: str, value: Any) -> Any:
    kind, (low, high) = _FIELDS[key].type, _FIELDS[key].metadata.get("limits", (None, None))
    if low is not None:
        accepted = f"a {'whole ' * (kind == 'int')}number from {low:g}" + ("" if high == math.inf else f" to {high:g}")
        right = type(value).__name__ in ("int", kind) and low <= value <= high
    elif kind == "bool":
        accepted, right = "true or false", isinstance(value, bool)
    else:
        accepted, right = "a text", isinstance(value, str) and value.strip()
    if not right:
        raise ReproError(f"{path}: {key} is {value!r}; accepted: {accepted}")
    return path.absolute().parent / value if kind.startswith("Path") else value


def check(file: PairsFile) -> tuple[PictureSet, list[Pair], str]:
    """Read every header: counts, names, sizes. The pairs of training, those held out, which share none, and a summary.

    Raises `ReproError` for the first pair that cannot be trained on.
    """
    pairs = _pairs(file.inputs, file.targets, file.any_names)
    if file.test_inputs is not None and file.test_targets is not None:
        train, test = pairs, _pairs(file.test_inputs, file.test_targets, file.any_names)
        both = {p.input.resolve() for p in train} & {p.input.resolve() for p in test}
        if both:
            raise ReproError(f"{min(both)}: stands among the pairs of training and of test; accepted: one of the two")
    else:
        train, test = _split(pairs, file.held_out)
    if not train:
        raise ReproError(f"{file.inputs}: no pair is left for training ({len(pairs)} in all)")
    if all(p.input.resolve() == p.target.resolve() for p in pairs):
        raise ReproError(f"{file.inputs}: inputs and targets are the same files; there is nothing to learn")
    sizes = {image_size(pair.input): pair.input for pair in pairs}
    small, large = min(sizes, key=min), max(sizes, key=math.prod)
    if min(small) < file.crop:
        raise ReproError(
            f"{sizes[small]}: {small[0]}x{small[1]} is smaller than the crop; accepted: at least {file.crop} pixels a "
            "side, or a smaller crop"
        )
    span = f"{small[0]}x{small[1]}" + (f" to {large[0]}x{large[1]}" if small != large else "")
    summary = f"{len(train)} pairs for training, {len(test)} held out, {span} pixels, crops of {file.crop}"
    return PictureSet.of_pairs(train), test, summary


def _pairs(inputs: Path, targets: Path, any_names: bool) -> list[Pair]:
    if inputs.is_dir() != targets.is_dir():
        folder, other = (inputs, targets) if inputs.is_dir() else (targets, inputs)
        raise ReproError(f"{folder} is a folder and {other} is none; accepted: two folders, or two file lists")
    return pair_folders(inputs, targets) if inputs.is_dir() else read_pairs(inputs, targets, any_names=any_names)


def _split(pairs: list[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Evenly spaced pairs are held out: one at least of five, where the share is above 0."""
    count = max(round(len(pairs) * share), int(share > 0 and len(pairs) >= 5))
    held = {(2 * i + 1) * len(pairs) // (2 * count) for i in range(count)}
    return [p for i, p in enumerate(pairs) if i not in held], [p for i, p in enumerate(pairs) if i in held]


class PairTask:
    """The engine's training task: random crops, input and target cut alike, mirrored half of the time."""

    def __init__(self, pictures: PictureSet, file: PairsFile) -> None:
        self.pictures, self.crop, self.size, self.learner = pictures, file.crop, pictures.size, LEARNERS[file.method]()
        self.settings = {"method": file.method, "crop": file.crop, "data": pictures.names(torch.arange(pictures.size))}

    def names(self, indices: Tensor) -> list[str]:
        return self.pictures.names(indices)

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor]:
        """(target, input) of a batch, each (B, 3, crop, crop) in [-1, 1]."""
        target, degraded, _ = self.pictures.crops(indices, self.crop, noise("crop").uniform((3,)))
        return to_model(target), to_model(degraded)

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        return self.learner.loss(model, *self.pair(indices, noise), noise)


def first_batch(task: PairTask, file: PairsFile) -> Path:
    """An image of the first pairs as they are trained on, inputs above their targets: `first_batch.png` in `out`."""
    from repro.engine.train import places_to_indices
    from repro.ui.plots import tile

    places = torch.arange(min(DRAWN, file.batch))
    indices = places_to_indices(places, task.size, file.seed)
    target, degraded = task.pair(indices, lambda purpose: KeyedNoise(file.seed, places, f"train/{purpose}"))
    pixels = tile([*to_unit(degraded), *to_unit(target)], len(places), gap=4)
    return write_image(file.out / "first_batch.png", pixels)
