"""Experiments by name, from training to the checkpoint that ships: a diffusers-style folder and a card.

checkpoints/<room>-<task>-<variant>-s<seed>/
    config.json                            class and arguments of the network
    diffusion_pytorch_model.safetensors    the averaged weights, fp16
    card.json, README.md                   data, images, loss, duration, hardware, seed, commit, command, hash

A method's study registers itself and lists its experiments in `experiments.py` as `EXPERIMENTS`; the engine knows the
methods that a caller has imported, and no others.
"""

import copy
import functools
import hashlib
import importlib
import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from repro import paths
from repro.engine.records import commit, locked
from repro.engine.train import DEVICE, Recipe, Task, TrainStep, make_accelerator, precision_here, seeded, train
from repro.errors import ReproError, nearest, one_of

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
CARD = "card.json"
_STUDIES: dict[str, tuple[str, str]] = {}  # method -> its notebook, the package of its study


@dataclass(frozen=True)
class Experiment:
    """One trained network: `build` makes its network, `task` makes training set and loss; its name is
    `<room>-<task>-<variant>-s<seed>`, as is its folder's. Unless it `ships`, only its records are in the repository."""

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
    begins: str = ""  # the experiment whose network this one goes on from

    @property
    def command(self) -> str:
        return " ".join(["repro train", *filter(None, [self.begins]), self.name])

    def network(self) -> nn.Module:
        """What its training begins with: an untrained network, or the one it goes on from."""
        if not self.begins:
            return seeded(self.build, self.seed)
        return copy.deepcopy(load_checkpoint(self.begins)).requires_grad_(True)

    @property
    def state(self) -> Path:
        """The run's resumable state."""
        return paths.runs() / self.name / "state.safetensors"

    @property
    def weights(self) -> Path:
        """The finished network: in checkpoints/ where it ships, else in its run's folder."""
        return places(self.name)[0 if self.ships else 1]


def register(study: str, notebook: str) -> None:
    """Make a method known: `study` is the package, `repro.<room>.study`, that calls this when it is imported."""
    _STUDIES[study.split(".")[-2]] = notebook, study


def rooms() -> list[str]:
    """The registered methods, in the notebooks' order, which every overview follows."""
    return sorted(_STUDIES, key=_STUDIES.__getitem__)


def study_module(room: str, name: str) -> Any:
    """A file of a method's study, as a module. Raises `ReproError` for a method that is not registered."""
    return importlib.import_module(f"{_STUDIES[one_of('method', room, rooms())][1]}.{name}")


def experiments(room: str | None = None) -> list[Experiment]:
    """All experiments, or those of one room, in the rooms' order."""
    chosen = rooms() if room is None else [room]
    return [experiment for each in chosen for experiment in study_module(each, "experiments").EXPERIMENTS]


@functools.lru_cache(maxsize=16)
def in_profile(name: str, profile: str) -> str:
    """The name of a small-profile experiment in another profile: same room, task, variant and training seed there. A
    baseline keeps its name, as does what the profile does not have."""
    room = name.split("-")[0]
    known = experiments(room) if room in _STUDIES and profile != "small" else []
    about = [(e.task_name, e.variant, e.seed) for e in known if e.name == name]
    return next((e.name for e in known if e.profile == profile and (e.task_name, e.variant, e.seed) in about), name)


def find(name: str) -> Experiment:
    """The experiment of that name. Raises `ReproError` with the nearest names."""
    known = {e.name: e for e in experiments()}
    if name not in known:
        raise ReproError(f"unknown experiment {name!r}: {nearest(name, known)}`repro list` shows all")
    return known[name]


def save_checkpoint(folder: Path, model: nn.Module, card: dict[str, Any]) -> Path:
    """Write `model` (a diffusers `ModelMixin`) and its card; where that fails (`ReproError`) the old folder stays."""
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()}
    if bad := [key for key, value in tensors.items() if not torch.isfinite(value).all()]:
        raise ReproError(f"{folder.name}: weight {bad[0]} is not finite in fp16, so the checkpoint is not written")
    blob = save(tensors, metadata={"format": "pt"})
    config = {k: v for k, v in model.config.items() if not k.startswith("_")}
    config |= {"_class_name": type(model).__name__, "_module": type(model).__module__, "_format": 1}
    parameters = sum(p.numel() for p in model.parameters())
    card = {"name": folder.name, "parameters": parameters, "sha256": hashlib.sha256(blob).hexdigest(), **card}
    rows = [f"| {k} | {v} |" for k, v in sorted(card.items()) if k not in ("name", "summary", "command")]
    page = [f"# {card['name']}", "", card.get("summary", ""), "", "| | |", "|---|---|", *rows, ""]
    page += ["Train it again from a clean clone:", "", f"    {card.get('command', '')}", ""]
    partial, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)  # left by a kill
    try:
        paths.write_bytes(partial / WEIGHTS, blob)
        for name, values in ((CONFIG, config), (CARD, card)):
            paths.write_text(partial / name, json.dumps(values, indent=2, sort_keys=True) + "\n")
        paths.write_text(partial / "README.md", "\n".join(page))
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
    except (OSError, ReproError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():  # also of a save that was killed between the two renames
            old.rename(folder)
        raise ReproError(f"checkpoint {folder.name} stays what it was, unchanged: {error}") from error
    shutil.rmtree(old, ignore_errors=True)
    _loaded.cache_clear()
    return folder


def places(name: str) -> list[Path]:
    """Where the weights of that name may lie: in checkpoints/ where they ship, else in their run's folder."""
    return [paths.checkpoints() / name, paths.runs() / name / "checkpoint"]


def trained(name: str) -> bool:
    """Whether the weights of that name are here."""
    return any((place / CONFIG).exists() for place in places(name))


def folder_of(name: str | Path) -> Path:
    """The folder of a checkpoint: by its name (`places`), or as given. Raises `ReproError` with the nearest names."""
    folder = Path(name)
    for place in (*places(str(name)), folder):  # of an absolute folder these are itself
        if place.is_dir():
            return place
    parent = folder.parent if folder.is_absolute() else paths.checkpoints()
    hint = nearest(folder.name, [p.name for p in parent.glob("*")])
    how = "`repro list` names the networks, `repro train` makes them"
    raise ReproError(f"no checkpoint {folder.name} in {parent}: {hint}{how}")


def read_card(name: str | Path) -> dict[str, Any]:
    """The machine-readable card of a checkpoint (a name or a folder)."""
    return _read_json(folder_of(name) / CARD)


def weights_hash(name: str | Path) -> str:
    """SHA-256 of a checkpoint's weights, the name that records know it by."""
    return hashlib.sha256((folder_of(name) / WEIGHTS).read_bytes()).hexdigest()


def load_checkpoint(name: str | Path) -> nn.Module:
    """The network of a checkpoint, fp32, in eval mode, gradients off; treat it as read-only (it is shared). Raises
    `ReproError` naming what is missing, damaged, or of another version."""
    return _loaded(folder_of(name))


@functools.lru_cache(maxsize=16)
def _loaded(folder: Path) -> nn.Module:
    config, arguments = folder / CONFIG, _read_json(folder / CONFIG)
    module, name = (arguments.pop(key, "") for key in ("_module", "_class_name"))
    if (version := arguments.pop("_format", 1)) != 1:
        raise ReproError(f"{config} has format {version}: this version reads format 1")
    if not module.startswith(("repro.", "diffusers.")):  # a file must not choose what we call
        raise ReproError(f"{config} names module {module!r}: networks come from repro or diffusers only")
    try:
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise AttributeError("it is not a network")
        model = kind(**{k: v for k, v in arguments.items() if not k.startswith("_")})
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ReproError(f"{config} names {module}.{name}, which this version cannot build: {error}") from error
    weights, expected = folder / WEIGHTS, _read_json(folder / CARD).get("sha256")
    if not weights.exists():
        raise ReproError(f"checkpoint {folder.name} has no {WEIGHTS}: the weights are missing")
    blob = weights.read_bytes()
    if (found := hashlib.sha256(blob).hexdigest()) != expected:
        raise ReproError(f"{weights} is damaged: its SHA-256 is {found[:16]}…, its card says {str(expected)[:16]}…")
    try:
        model.load_state_dict({key: value.float() for key, value in load(blob).items()})
    except SafetensorError as error:
        raise ReproError(f"{weights} is damaged: {error}") from error
    except RuntimeError as error:  # torch names every weight that is missing, unexpected or of another shape
        raise ReproError(f"{weights} does not fit {config}: {' '.join(str(error).split())}") from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReproError(f"checkpoint {path.parent.name} has no {path.name}") from error
    except ValueError as error:
        raise ReproError(f"{path} is damaged: {error}") from error


def run(experiment: Experiment, until: int | None = None) -> Iterator[TrainStep]:
    """Train an experiment to its end and write its checkpoint; the same call goes on after a kill.
    `runs/<name>/log.jsonl` gains a line of mean loss every 10,000 images."""
    main, recipe = make_accelerator().is_main_process, experiment.recipe
    log = experiment.state.with_name("log.jsonl")
    with locked(log.parent, wait=False) if main else nullcontext():
        before, start, losses = _logged(log).get("seconds", 0.0), time.perf_counter(), []
        steps = train(experiment.network(), experiment.task(), recipe, experiment.seed, experiment.state, until)
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
        "images": last.images, "steps": -(-last.images // recipe.batch), "batch": recipe.batch,
        "learning rate": f"{recipe.lr:g}, {recipe.decay}, warm-up {recipe.warmup} images",
        "loss at the end": f"{line.get('loss', math.nan):.4g}",
        "duration": f"{line.get('seconds', 0) / 60:.0f} min",
        "hardware": torch.cuda.get_device_name() if DEVICE == "cuda" else cpu,
        "precision": f"trained in {precision_here(recipe, DEVICE)}, stored in fp16",
        "torch": torch.__version__, "commit": commit() or "unknown",
    }  # fmt: skip
    # What a checkpoint keeps: the network itself, or the part that its own `shipped()` names (no discriminator).
    save_checkpoint(experiment.weights, last.ema.shipped() if hasattr(last.ema, "shipped") else last.ema, card)
