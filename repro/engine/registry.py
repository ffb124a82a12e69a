"""Every experiment of every room by name, and from its name to its checkpoint: train (or go on), write the card.

A room lists its experiments in `repro/<room>/study/experiments.py` as `EXPERIMENTS`; this module finds them there
lazily, so that the engine never depends on a method.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import importlib.util
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repro import paths
from repro.engine.atomic import locked
from repro.engine.checkpoint import places, save_checkpoint
from repro.engine.environment import commit
from repro.engine.recipe import Recipe, Task
from repro.engine.records import ROOMS
from repro.engine.train import TrainStep, make_accelerator, precision_here, train
from repro.errors import ReproError, one_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Experiment:
    """One trained network and what is measured with it.

    `name`     `<room>-<task>-<variant>-s<seed>`, also the checkpoint's folder.
    `ships`    its weights are in the repository; else only its records are, marked `recorded`.
    `build`    makes the untrained network.   `task` makes training set and loss.
    `score`    makes numbers for the card from the trained network.
    """

    name: str
    room: str
    task_name: str
    variant: str
    data: str
    profile: str
    seed: int
    recipe: Recipe
    summary: str
    ships: bool
    build: Callable[[], nn.Module]
    task: Callable[[], Task]
    score: Callable[[nn.Module], dict[str, Any]] | None = None

    @property
    def command(self) -> str:
        return f"repro train {self.name}"

    @property
    def state(self) -> Path:
        """Where the run's resumable state lives."""
        return paths.runs() / self.name / "state.safetensors"

    @property
    def weights(self) -> Path:
        """Where the finished network goes: what ships into checkpoints/, the rest into its run's folder."""
        return places(self.name)[0 if self.ships else 1]


def experiments(room: str | None = None) -> list[Experiment]:
    """All experiments, or those of one room, in the rooms' order."""
    rooms = ROOMS if room is None else (one_of("room", room, ROOMS),)
    modules = [study_module(each, "experiments") for each in rooms]
    return [experiment for module in modules if module for experiment in module.EXPERIMENTS]


def study_module(room: str, name: str) -> Any:
    """`repro.<room>.study.<name>`, None where there is none."""
    module = f"repro.{room}.study.{name}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


@functools.lru_cache(maxsize=16)
def in_profile(name: str, profile: str) -> str:
    """The name of a small-profile experiment in another profile: same room, task, variant and training seed there.

    What is no experiment (a baseline) keeps its name, as does what the profile does not have.
    """
    room = name.split("-")[0]
    known = experiments(room) if room in ROOMS and profile != "small" else []
    about = [(e.task_name, e.variant, e.seed) for e in known if e.name == name]
    same = [e.name for e in known if e.profile == profile and (e.task_name, e.variant, e.seed) in about]
    return same[0] if same else name


def find(name: str) -> Experiment:
    """The experiment of that name. Raises `ReproError` with the nearest names."""
    known = {e.name: e for e in experiments()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? `repro list` shows all" if near else "`repro list` shows all"
    raise ReproError(f"unknown experiment {name!r}: {hint}")


def build(experiment: Experiment) -> nn.Module:
    """The experiment's untrained network, initialised from its seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)  # torch's initialisers know no other generator
        return experiment.build()


def run(experiment: Experiment, until: int | None = None) -> Iterator[TrainStep]:
    """Train an experiment to its end and write its checkpoint; the same call goes on after a kill.

    `runs/<name>/log.jsonl` gains a line of mean loss every 10,000 images. What ships goes into checkpoints/, the rest
    stays in runs/<name>/.
    """
    main, recipe = make_accelerator().is_main_process, experiment.recipe
    log = experiment.state.with_name("log.jsonl")
    with locked(log.parent, wait=False) if main else nullcontext():
        seconds = sum(line["seconds"] for line in _lines(log)[-1:])
        start, losses, last, mark = time.perf_counter(), [], None, None
        steps = train(build(experiment), experiment.task(), recipe, experiment.seed, experiment.state, until)
        with closing(steps):  # where the caller stops, the state is kept now
            for step in steps:
                last, done = step, step.images // 10_000
                losses.append(step.loss)
                mark = done if mark is None else mark
                if main and (done > mark or step.images >= recipe.images):
                    spent = round(seconds + time.perf_counter() - start, 1)
                    mean = sum(losses) / len(losses)
                    line = {"images": step.images, "loss": mean, "lr": step.lr, "seconds": spent}
                    with open(log, "a", encoding="utf-8") as stream:  # on a new line, wherever a kill tore the last one
                        stream.write("\n" * (stream.tell() > 0) + json.dumps(line))
                    mark, losses = done, []
                yield step
        if main and last is not None and last.images >= recipe.images:
            _finish(experiment, last, _lines(log)[-1])


def _lines(log: Path) -> list[dict[str, Any]]:
    """The run's log; a line that a kill tore is left out."""
    found = []
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(text))
    return found


def _finish(experiment: Experiment, last: TrainStep, line: dict[str, Any]) -> None:
    recipe = experiment.recipe
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
        "loss at the end": f"{line['loss']:.4g}",
        "duration": f"{line['seconds'] / 60:.0f} min",
        "hardware": gpu or f"{platform.machine()} CPU, {recipe.threads} thread{'s' if recipe.threads > 1 else ''}",
        "precision": f"trained in {precision_here(recipe, DEVICE)}, stored in fp16",
        "torch": torch.__version__,
        "commit": commit() or "unknown",
        "command": experiment.command,
    }
    # What a checkpoint keeps: the network itself, or the part that its own `shipped()` names (no discriminator).
    network = copy.deepcopy(last.ema.shipped() if hasattr(last.ema, "shipped") else last.ema).cpu()
    if experiment.score:
        card |= experiment.score(network)
    save_checkpoint(experiment.weights, network, card)


def precision_note(experiment: Experiment) -> str:
    """One sentence where this machine trains in another precision than the recipe names, else empty."""
    if precision_here(experiment.recipe, DEVICE) == experiment.recipe.precision:
        return ""
    return f"{experiment.name}: this processor has no bf16 instructions, so the training runs in fp32"
