"""From an experiment's name to its checkpoint: train (or go on), score, write the card."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from repro import paths
from repro.engine.checkpoint import save_checkpoint
from repro.engine.environment import commit
from repro.engine.registry import Experiment
from repro.engine.train import TrainStep, precision_here, train


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
    from repro.engine.train import make_accelerator

    main = make_accelerator().is_main_process
    folder = paths.runs() / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    seconds = _seconds_before(folder)
    start, losses, last, mark = time.perf_counter(), [], None, None
    for step in train(
        build(experiment), experiment.task(), experiment.recipe, experiment.seed, state_path(experiment), until
    ):
        last = step
        losses.append(step.loss)
        mark = step.images // 10_000 if mark is None else mark
        if main and (step.images // 10_000 > mark or step.images >= experiment.recipe.images):
            mark = step.images // 10_000
            spent = seconds + time.perf_counter() - start
            line = {"images": step.images, "loss": sum(losses) / len(losses), "lr": step.lr, "seconds": round(spent, 1)}
            with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            losses = []
        yield step
    if main and last is not None and last.images >= experiment.recipe.images:
        _finish(experiment, last, folder)


def _seconds_before(folder: Path) -> float:
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return json.loads(lines[-1])["seconds"] if lines else 0.0


def _finish(experiment: Experiment, last: TrainStep, folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    recipe = experiment.recipe
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
        "hardware": hardware(recipe.threads),
        "precision": f"trained in {precision_here(recipe, device())}, stored in fp16",
        "torch": torch.__version__,
        "commit": commit() or "unknown",
        "command": experiment.command,
    }
    network = shipped(last.ema)
    if experiment.score:
        card |= experiment.score(network)
    target = paths.checkpoints() / experiment.name if experiment.ships else folder / "checkpoint"
    save_checkpoint(target, network, card)


def shipped(model: torch.nn.Module) -> torch.nn.Module:
    """What a checkpoint keeps: the network itself, or the part that its own `shipped()` names (no discriminator)."""
    return model.shipped() if hasattr(model, "shipped") else model


def device() -> str:
    """The type of device that a training runs on here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision_note(experiment: Experiment) -> str:
    """One sentence where this machine trains in another precision than the recipe names, else empty."""
    if precision_here(experiment.recipe, device()) == experiment.recipe.precision:
        return ""
    return f"{experiment.name}: this processor has no bf16 instructions, so the training runs in fp32"


def hardware(threads: int) -> str:
    """One line on what trains here."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"
