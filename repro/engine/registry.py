"""Every experiment of every room by name, and from its name to its checkpoint: train (or go on), write the card.

A room lists its experiments in `repro/<room>/study/experiments.py` as `EXPERIMENTS`; this module finds them there
lazily, so that the engine never depends on a method.
"""

import copy
import functools
import importlib
import importlib.util
import json
import math
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
from repro.engine.records import ROOMS, commit
from repro.engine.train import Recipe, Task, TrainStep, make_accelerator, precision_here, train
from repro.errors import ReproError, nearest, one_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Experiment:
    """One trained network and what is measured with it.

    `name`     `<room>-<task>-<variant>-s<seed>`, also the checkpoint's folder.
    `ships`    its weights are in the repository; else only its records are, marked `recorded`.
    `build`    makes the untrained network.   `task` makes training set and loss.
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

    @property
    def command(self) -> str:
        return f"repro train {self.name}"

    @property
    def state(self) -> Path:
        """The run's resumable state."""
        return paths.runs() / self.name / "state.safetensors"

    @property
    def weights(self) -> Path:
        """The finished network: in checkpoints/ where it ships, else in its run's folder."""
        return places(self.name)[0 if self.ships else 1]


def experiments(room: str | None = None) -> list[Experiment]:
    """All experiments, or those of one room, in the rooms' order."""
    modules = [study_module(each, "experiments") for each in (ROOMS if room is None else [one_of("room", room, ROOMS)])]
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
    if name not in known:
        raise ReproError(f"unknown experiment {name!r}: {nearest(name, known)}`repro list` shows all")
    return known[name]


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
        before, start, losses = _logged(log).get("seconds", 0.0), time.perf_counter(), []
        steps = train(build(experiment), experiment.task(), recipe, experiment.seed, experiment.state, until)
        with closing(steps):  # where the caller stops, the state is kept now
            for step in steps:
                losses.append(step.loss)
                finished = step.images >= recipe.images
                if main and math.isfinite(step.loss) and (finished or step.images % 10_000 < recipe.batch):
                    spent = round(before + time.perf_counter() - start, 1)
                    mean, losses = sum(losses) / len(losses), []
                    line = {"images": step.images, "loss": mean, "lr": step.lr, "seconds": spent}
                    with open(log, "a", encoding="utf-8") as stream:  # on a new line, wherever a kill tore the last one
                        stream.write("\n" * (stream.tell() > 0) + json.dumps(line))
                yield step
        if main and finished:
            _finish(experiment, step, _logged(log))


def _logged(log: Path) -> dict[str, Any]:
    """The last line of the run's log that no kill tore; {} where there is none."""
    for text in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []):
        with suppress(json.JSONDecodeError):
            return json.loads(text)
    return {}


def _finish(experiment: Experiment, last: TrainStep, line: dict[str, Any]) -> None:
    recipe = experiment.recipe
    cpu = f"{platform.machine()} CPU, {recipe.threads} thread{'s' * (recipe.threads > 1)}"
    card = {key: getattr(experiment, key) for key in ("summary", "data", "profile", "seed", "command")} | {
        "experiment": experiment.name,
        "images": last.images,
        "steps": -(-last.images // recipe.batch),
        "batch": recipe.batch,
        "learning rate": f"{recipe.lr:g}, {recipe.decay}, warm-up {recipe.warmup} images",
        "loss at the end": f"{line['loss']:.4g}",
        "duration": f"{line['seconds'] / 60:.0f} min",
        "hardware": torch.cuda.get_device_name() if DEVICE == "cuda" else cpu,
        "precision": f"trained in {precision_here(recipe, DEVICE)}, stored in fp16",
        "torch": torch.__version__,
        "commit": commit() or "unknown",
    }
    # What a checkpoint keeps: the network itself, or the part that its own `shipped()` names (no discriminator).
    network = copy.deepcopy(last.ema.shipped() if hasattr(last.ema, "shipped") else last.ema).cpu()
    save_checkpoint(experiment.weights, network, card)
