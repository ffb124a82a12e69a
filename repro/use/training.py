"""`repro train my.toml` and `repro evaluate my.toml`: own pairs, from the first check to numbers on held-out ones."""

import dataclasses
import json
import math
import os
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from tyro.conf import Positional

from repro.data.files import ImageSet, Pair, pair_folders, read_pairs
from repro.data.images import center_crop, check_writable, image_size, to_model, to_unit, write_image
from repro.engine.checkpoint import read_card
from repro.engine.records import locked
from repro.engine.rng import KeyedNoise, Noises
from repro.engine.stats import MIN_UNITS, mean_interval
from repro.engine.tables import csv_text
from repro.engine.train import DEVICE, Recipe, places_to_indices, precision_here, seeded, train, with_progress
from repro.errors import ReproError, one_of, whole
from repro.metrics import protocols
from repro.paths import write_text
from repro.ui.plots import tile
from repro.use.restore import LEARNERS, load, restore_image

EXAMPLES = Path(__file__).parent
METRICS = ("psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1")
SIDES = ("input", "result")
LIMITS = {  # smallest and largest value of the file's numbers; LPIPS takes 31 pixels a side and more
    "images": (1, math.inf), "batch": (1, 4096), "crop": (32, 4096), "width": (8, 1024), "lr": (1e-7, 1.0),
    "seed": (0, 2**63 - 1), "threads": (1, 4096), "held_out": (0, 0.9), "steps": (1, 1000),
}  # fmt: skip


@dataclass(frozen=True)
class PairsFile:
    """Content of the file. Paths are relative to the file; `lr` and `steps` default to the method's."""

    method: str
    inputs: Path
    targets: Path
    out: Path
    any_names: bool = False
    images: int = 100_000
    batch: int = 8
    crop: int = 64
    width: int = 32
    lr: float = 0.0
    seed: int = 0
    threads: int = 0
    held_out: float = 0.1
    test_inputs: Path | None = None
    test_targets: Path | None = None
    steps: int = 0

    @property
    def recipe(self) -> Recipe:
        """How the training goes; a state is saved twenty times on the way."""
        twentieth, threads = self.images // 20, self.threads or torch.get_num_threads()
        given = {"images": self.images, "batch": self.batch, "lr": self.lr, "threads": threads}
        return Recipe(**given, warmup=twentieth, ema=max(self.images / 12, 1), save_every=max(self.batch, twentieth))

    @property
    def network_folder(self) -> Path:
        """Where the finished network goes: a diffusers pipeline."""
        return self.out / "network"


KINDS = {each.name: each.type for each in dataclasses.fields(PairsFile)}


def read(path: Path) -> PairsFile:
    """The file, with the method's defaults filled in. Raises `ReproError` naming file and key for anything wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        examples = ", ".join(str(p) for p in sorted(EXAMPLES.glob("*.toml")))
        raise ReproError(f"{path}: no such file; examples to copy: {examples}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ReproError(f"{path}: not a TOML file ({error})") from None
    values: dict[str, Any] = {}
    for key, value in content.items():
        part = value if key in ("train", "evaluate") and isinstance(value, dict) else {key: value}
        if twice := values.keys() & part.keys():
            raise ReproError(f"{path}: {min(twice)} stands there twice, in two sections; accepted: once")
        values |= part
    values = {one_of(f"{path}: key", key, KINDS): _value(path, key, value) for key, value in values.items()}
    if missing := [key for key in ("method", "inputs", "targets", "out") if key not in values]:
        raise ReproError(f"{path}: {missing[0]} is missing; method, inputs, targets and out are needed")
    if ("test_inputs" in values) != ("test_targets" in values):
        raise ReproError(f"{path}: test_inputs and test_targets are needed together")
    learner = LEARNERS[one_of(f"{path}: method", values["method"], LEARNERS)]
    chosen = PairsFile(**{"lr": learner.lr, "steps": learner.steps, **values})
    if chosen.crop % 16 or chosen.width % 8:
        raise ReproError(f"{path}: crop {chosen.crop} and width {chosen.width}; accepted: multiples of 16 and of 8")
    images = [p.resolve() for p in (chosen.inputs, chosen.targets, chosen.test_inputs, chosen.test_targets) if p]
    if any(chosen.out.resolve().is_relative_to(place) for place in images):
        raise ReproError(f"{path}: out, {chosen.out}, lies among the images; accepted: a folder outside theirs")
    return chosen


def _value(path: Path, key: str, value: Any) -> Any:
    kind = KINDS[key]
    if key in LIMITS:
        low, high = LIMITS[key]
        accepted = f"a {'whole ' * (kind is int)}number from {low:g}" + ("" if high == math.inf else f" to {high:g}")
        right = type(value) in (int, kind) and low <= value <= high
    else:
        accepted = "true or false" if kind is bool else "a text"
        right = isinstance(value, bool if kind is bool else str)
    if not right:
        raise ReproError(f"{path}: {key} is {value!r}; accepted: {accepted}")
    return path.absolute().parent / value if kind in (Path, Path | None) else value


def check(file: PairsFile) -> tuple[ImageSet, list[Pair], str]:
    """The pairs of training, those held out, which share none, and a summary, after reading every header and the
    pixels of those held out. Raises `ReproError` for the first pair that cannot be used."""
    pairs = _pairs(file.inputs, file.targets, file.any_names)
    if file.test_inputs is not None and file.test_targets is not None:
        train, test = pairs, _pairs(file.test_inputs, file.test_targets, file.any_names)
        if both := {p.input.resolve() for p in train} & {p.input.resolve() for p in test}:
            raise ReproError(f"{min(both)}: stands among the pairs of training and of test; accepted: one of the two")
    else:  # evenly spaced pairs: one at least of five
        count = max(round(len(pairs) * file.held_out), int(file.held_out > 0 and len(pairs) >= 5))
        held = {(2 * i + 1) * len(pairs) // (2 * count) for i in range(count)}
        train, test = ([p for i, p in enumerate(pairs) if (i in held) == out] for out in (False, True))
    if not train:
        raise ReproError(f"{file.inputs}: no pair is left for training ({len(pairs)} in all)")
    if all(p.input.resolve() == p.target.resolve() for p in pairs):
        raise ReproError(f"{file.inputs}: inputs and targets are the same files; there is nothing to learn")
    sizes = {image_size(pair.input): pair.input for pair in (*train, *test)}
    small, large = min(sizes, key=min), max(sizes, key=math.prod)
    if min(small) < file.crop:
        accepted = f"at least {file.crop} pixels a side, or a smaller crop"
        raise ReproError(f"{sizes[small]}: {small[0]}x{small[1]} is smaller than the crop; accepted: {accepted}")
    for pair in test:  # a damaged one would be found after the training; of the others the training itself reads all
        pair.load()
    span = f"{small[0]}x{small[1]}" + (f" to {large[0]}x{large[1]}" if small != large else "")
    summary = f"{len(train)} pairs for training, {len(test)} held out, {span} pixels, crops of {file.crop}"
    return ImageSet.of_pairs(train), test, summary


def _pairs(inputs: Path, targets: Path, any_names: bool) -> list[Pair]:
    if inputs.is_dir() != targets.is_dir():
        folder, other = (inputs, targets) if inputs.is_dir() else (targets, inputs)
        raise ReproError(f"{folder} is a folder and {other} is none; accepted: two folders, or two file lists")
    return pair_folders(inputs, targets) if inputs.is_dir() else read_pairs(inputs, targets, any_names=any_names)


class PairTask:
    """The engine's training task: random crops, input and target cut alike, mirrored half of the time."""

    def __init__(self, images: ImageSet, file: PairsFile) -> None:
        self.images, self.ids, self.crop, self.learner = images, images.names, file.crop, LEARNERS[file.method]
        self.settings = {"method": file.method, "crop": file.crop, "data": [*self.ids, *map(str, images.targets.files)]}

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor]:
        """(target, input) of a batch, each (B, 3, crop, crop) in [-1, 1]."""
        target, degraded, _ = self.images.crops(indices, self.crop, noise("crop").uniform((3,)))
        return to_model(target), to_model(degraded)

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        return self.learner.loss(model, *self.pair(indices, noise), noise)


@dataclass
class TrainPairs:
    """Train on own pairs, as one TOML file defines it; the same command continues an interrupted training."""

    file: Positional[Path]
    """the TOML file; `repro/use/rddm.toml` is a commented example"""
    until: int | None = None
    """stop, with the state saved, after this many images"""
    check_only: bool = False
    """check the pairs and draw the first batch, without training"""

    def run(self) -> int:
        whole("--until", 1 if self.until is None else self.until, 1, 10**12)
        if os.getenv("WORLD_SIZE", "1") != "1":
            raise ReproError("own pairs are trained by one process: start the command without torchrun")
        file = read(self.file)
        images, test, summary = check(file)
        print(f"{self.file}: {file.method}, {summary}")
        task = PairTask(images, file)
        places = torch.arange(min(6, file.batch))  # what is drawn of the first batch
        indices = places_to_indices(places, len(task.ids), file.seed)
        target, degraded = task.pair(indices, lambda purpose: KeyedNoise(file.seed, places, f"train/{purpose}"))
        drawn = tile([*to_unit(degraded), *to_unit(target)], len(places), gap=4)
        recipe, start, state = file.recipe, time.perf_counter(), file.out / "state.safetensors"
        check_writable(picture := file.out / "first_batch.png", (1, 1))
        with locked(file.out, wait=False):  # of two trainings, each would replace the other's files
            print(f"first batch, inputs above targets: {write_image(picture, drawn)}", flush=True)
            if self.check_only:
                return 0
            network = seeded(lambda: task.learner.build(file.width), file.seed)
            last = with_progress(train(network, task, recipe, file.seed, state, self.until), recipe, file.method, state)
        if last.images < recipe.images:
            print(f"stopped at {last.images:,} images; the same command goes on")
            return 0
        task.learner.pipeline(last.ema.cpu()).save_pretrained(file.network_folder)
        card = {**dataclasses.asdict(file), "pairs": summary, "test": [p.id for p in test], "threads": recipe.threads}
        card |= {"precision": precision_here(recipe, DEVICE), "seconds of this run": round(time.perf_counter() - start)}
        write_text(file.network_folder / "card.json", json.dumps(card, indent=2, default=str) + "\n")
        then = f"next: repro evaluate {self.file}; repro restore PHOTO --checkpoint {file.network_folder}"
        print(f"written: {file.network_folder}\n{then}")
        return 0


@dataclass
class EvaluatePairs:
    """Restore the held-out pairs; print PSNR, SSIM and LPIPS of input and result, write results.csv and results.png."""

    file: Positional[Path]
    """the TOML file by which the network was trained"""

    def run(self) -> int:
        file = read(self.file)
        if not (file.network_folder / "model_index.json").exists():
            raise ReproError(f"{file.network_folder}: no trained network; `repro train {self.file}` makes it")
        pairs = check(file)[1]
        if not pairs:
            raise ReproError(f"{self.file}: no held-out pair; accepted: held_out above 0 or a test set")
        if read_card(file.network_folder).get("test", ids := [pair.id for pair in pairs]) != ids:
            raise ReproError(f"{self.file}: other pairs are held out than in the training; accepted: the same pairs")
        pipe, rows, images = load(file.network_folder), [], []
        for pair in tqdm(pairs, unit="img", desc="evaluate", file=sys.stdout):
            degraded, target = pair.load()
            result = restore_image(pipe, degraded, steps=file.steps, seed=file.seed)
            for what, image in zip(SIDES, (degraded, result), strict=True):
                scores = [protocols.score(name, image[None], target[None]).item() for name in METRICS]
                rows.append((os.fsencode(pair.id).decode("utf-8", "replace"), what, *scores))
            images += [degraded, result, target] if len(images) < 12 else []
        table, drawn = file.out / "results.csv", file.out / "results.png"
        write_text(table, csv_text(("image", "what", *METRICS), rows))
        enough = len(pairs) >= MIN_UNITS
        print(f"{len(pairs)} held-out pairs" + ("" if enough else f", an interval needs {MIN_UNITS}"))
        for column, name in enumerate(METRICS, start=2):
            words = []
            for what in SIDES:
                values = [row[column] for row in rows if row[1] == what]
                interval = mean_interval(values) if enough and all(map(math.isfinite, values)) else None
                half = f" ± {(interval.high - interval.low) / 2:.3f}" if interval else ""
                words.append(f"{what} {sum(values) / len(values):.3f}{half}")
            print(f"{name:>16}: {', '.join(words)}")
        side = min(256, *(min(image.shape[1:]) for image in images))
        write_image(drawn, tile([center_crop(image, side) for image in images], 3, gap=4))
        print(f"written: {table}, {drawn} (input, result, target)")
        return 0
