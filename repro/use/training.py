"""`repro train my.toml` and `repro evaluate my.toml`: own pairs, from the first check to numbers on held-out ones."""

import csv
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tyro.conf import Positional

from repro.engine.atomic import write_text
from repro.errors import ReproError
from repro.use.pairs import PairTask, check, first_batch, read

METRICS = ("psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1")


@dataclass
class TrainPairs:
    """Train on own pairs, as one TOML file defines it; the same command continues an interrupted training.

    Args:
        file: the TOML file; `repro/use/rddm.toml` is a commented example.
        until: stop, with the state saved, once this many images are seen.
        check_only: check the pairs and draw the first batch, without training.
    """

    file: Positional[Path]
    until: int | None = None
    check_only: bool = False

    def run(self) -> int:
        from repro.engine.train import train, with_progress

        if self.until is not None and self.until < 1:
            raise ReproError(f"--until counts images and must be positive: got {self.until}")
        file = read(self.file)
        pictures, _, summary = check(file)
        print(f"{self.file}: {file.method}, {summary}")
        task = PairTask(pictures, file)
        print(f"first batch, inputs above targets: {first_batch(task, file)}", flush=True)
        if self.check_only:
            return 0
        recipe = file.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(file.seed)
            network = task.learner.build(file.width)
        start = time.perf_counter()
        steps = train(network, task, recipe, file.seed, file.out / "state.safetensors", self.until)
        last = with_progress(steps, recipe.images, file.method)
        if last.images < recipe.images:
            print(f"stopped at {last.images:,} images; the same command goes on")
            return 0
        task.learner.pipeline(last.ema.cpu()).save_pretrained(file.network_folder)
        seconds = round(time.perf_counter() - start)
        card = {**asdict(file), "pairs": summary, "seconds of this run": seconds, "threads": recipe.threads}
        write_text(file.network_folder / "card.json", json.dumps(card, indent=2, default=str) + "\n")
        print(f"written: {file.network_folder}")
        print(f"next: repro evaluate {self.file}; repro restore PHOTO --checkpoint {file.network_folder}")
        return 0


@dataclass
class EvaluatePairs:
    """Restore the held-out pairs; print PSNR, SSIM and LPIPS of input and result, write results.csv and results.png.

    Args:
        file: the TOML file that the network was trained by.
        limit: pairs measured at most.
    """

    file: Positional[Path]
    limit: int | None = None

    def run(self) -> int:
        from tqdm import tqdm

        from repro.metrics import protocols
        from repro.use.methods import load, restore_image

        file = read(self.file)
        if not (file.network_folder / "model_index.json").exists():
            raise ReproError(f"{file.network_folder}: no trained network; `repro train {self.file}` makes it")
        pairs = check(file)[1][: self.limit]
        if not pairs:
            accepted = "held_out above 0, or test_inputs and test_targets"
            raise ReproError(f"{self.file}: no pair is held out; accepted: {accepted}")
        pipe, rows, images = load(file.network_folder), [], []
        for pair in tqdm(pairs, unit="img", desc="evaluate", file=sys.stdout):
            degraded, target = pair.load()
            result = restore_image(pipe, degraded, steps=file.steps, seed=file.seed)
            for what, image in (("input", degraded), ("result", result)):
                scores = {name: protocols.score(name, image[None], target[None]).item() for name in METRICS}
                rows.append({"image": pair.id, "what": what, **scores})
            images += [degraded, result, target] if len(images) < 12 else []
        _report(file.out, rows, images)
        return 0


def _report(out: Path, rows: list[dict[str, Any]], images: list[torch.Tensor]) -> None:
    from repro.data.images import center_crop, write_image
    from repro.engine.stats import MIN_UNITS, mean_interval
    from repro.ui.plots import tile

    with (out / "results.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    count = len(rows) // 2
    print(f"{count} held-out pairs" + ("" if count >= MIN_UNITS else f", an interval needs {MIN_UNITS}"))
    for name in METRICS:
        words = []
        for what in ("input", "result"):
            values = [row[name] for row in rows if row["what"] == what]
            words.append(f"{what} {sum(values) / count:.3f}")
            if count >= MIN_UNITS:
                interval = mean_interval(values)
                words[-1] += f" ± {(interval.high - interval.low) / 2:.3f}"
        print(f"{name:>16}: {', '.join(words)}")
    side = min(256, *(min(image.shape[1:]) for image in images))
    write_image(out / "results.png", tile([center_crop(image, side) for image in images], 3, gap=4))
    print(f"written: {out / 'results.csv'}, {out / 'results.png'} (input, result, target)")
