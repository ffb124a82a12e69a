"""From an experiment's name to its checkpoint: train (or go on), score, write the card."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from repro import paths
from repro.engine.atomic import locked
from repro.engine.checkpoint import save_checkpoint
from repro.engine.environment import commit
from repro.engine.registry import Experiment
from repro.engine.train import TrainStep, make_accelerator, precision_here, train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def build(experiment: Experiment) -> torch.nn.Module:
    """The experiment's untrained network, initialised from its seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)  # torch's initialisers know no other generator
        return experiment.build()


def state_path(experiment: Experiment) -> Path:
    """Where the run's resumable state lives."""
    return paths.runs() / experiment.name / "state.safetensors"


def run(experiment: Experiment, until: int | None = None) -> Iterator[TrainStep]:
    """Train an experiment to its end and write its checkpoint; the same call goes on after a kill.

    `runs/<name>/log.jsonl` gains a line of mean loss every 10,000 images. What ships goes into checkpoints/, the rest
    stays in runs/<name>/.
    """
    main = make_accelerator().is_main_process
    folder = paths.runs() / experiment.name
    with locked(folder, wait=False) if main else nullcontext():
        seconds = sum(line["seconds"] for line in _log(folder)[-1:])
        start, losses, last, mark = time.perf_counter(), [], None, None
        recipe, state = experiment.recipe, state_path(experiment)
        steps = train(build(experiment), experiment.task(), recipe, experiment.seed, state, until)
        with closing(steps):  # where the caller stops, the state is kept now
            for step in steps:
                last, done = step, step.images // 10_000
                losses.append(step.loss)
                mark = done if mark is None else mark
                if main and (done > mark or step.images >= recipe.images):
                    spent = round(seconds + time.perf_counter() - start, 1)
                    mean = sum(losses) / len(losses)
                    _append(folder, {"images": step.images, "loss": mean, "lr": step.lr, "seconds": spent})
                    mark, losses = done, []
                yield step
        if main and last is not None and last.images >= recipe.images:
            _finish(experiment, last, folder)


def weights_path(experiment: Experiment) -> Path:
    """Where the finished network goes: what ships into checkpoints/, the rest into its run's folder."""
    return paths.checkpoints() / experiment.name if experiment.ships else paths.runs() / experiment.name / "checkpoint"


def _log(folder: Path) -> list[dict[str, Any]]:
    """The run's log; a line that a kill tore is left out."""
    log, lines = folder / "log.jsonl", []
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _append(folder: Path, line: dict[str, Any]) -> None:
    log = folder / "log.jsonl"
    torn = log.exists() and not log.read_bytes().endswith(b"\n") and log.stat().st_size > 0
    with open(log, "a", encoding="utf-8") as stream:
        stream.write("\n" * torn + json.dumps(line) + "\n")


def _finish(experiment: Experiment, last: TrainStep, folder: Path) -> None:
    lines, recipe = _log(folder), experiment.recipe
    gpu = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    card = {
        "summary": experiment.summary,
        "experiment": experiment.name,
        "data": experiment.data,
        "profile": experiment.profile,
        "seed": experiment.seed,
        "images": last.images,
        "steps": -(-last.images // recipe.batch),
        "batch": recipe.batch,
        "learning rate": f"{recipe.lr:g}, {recipe.decay}, warm-up {recipe.warmup} images",
        "loss at the end": f"{lines[-1]['loss']:.4g}",
        "duration": f"{lines[-1]['seconds'] / 60:.0f} min",
        "hardware": gpu or f"{platform.machine()} CPU, {recipe.threads} thread{'s' if recipe.threads > 1 else ''}",
        "precision": f"trained in {precision_here(recipe, DEVICE)}, stored in fp16",
        "torch": torch.__version__,
        "commit": commit() or "unknown",
        "command": experiment.command,
    }
    # What a checkpoint keeps: the network itself, or the part that its own `shipped()` names (no discriminator).
    network = last.ema.shipped() if hasattr(last.ema, "shipped") else last.ema
    if experiment.score:
        card |= experiment.score(network)
    save_checkpoint(weights_path(experiment), network, card)


def precision_note(experiment: Experiment) -> str:
    """One sentence where this machine trains in another precision than the recipe names, else empty."""
    if precision_here(experiment.recipe, DEVICE) == experiment.recipe.precision:
        return ""
    return f"{experiment.name}: this processor has no bf16 instructions, so the training runs in fp32"
