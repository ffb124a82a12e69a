"""Checkpoints that ship: a diffusers-style folder of fp16 safetensors, config.json, and a card a person can read.

checkpoints/<room>-<task>-<variant>-s<seed>/
    config.json                            class and arguments of the network
    diffusion_pytorch_model.safetensors    the averaged weights, fp16
    card.json, README.md                   data, images, loss, duration, hardware, seed, commit, command, hash
"""

import functools
import hashlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from repro import paths
from repro.engine.atomic import write_bytes, write_text
from repro.errors import ReproError, nearest

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
CARD = "card.json"


def save_checkpoint(folder: Path, model: nn.Module, card: dict[str, Any]) -> Path:
    """Write `model` (a diffusers `ModelMixin`) and its card; the folder is complete and new, or unchanged.

    Raises `ReproError` where the disk refuses (the previous checkpoint stays).
    """
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()}
    if bad := [key for key, value in tensors.items() if not torch.isfinite(value).all()]:
        raise ReproError(f"{folder.name}: weight {bad[0]} is not finite in fp16, so the checkpoint is not written")
    blob = save(tensors, metadata={"format": "pt"})
    config = {k: v for k, v in model.config.items() if not k.startswith("_")}
    config |= {"_class_name": type(model).__name__, "_module": type(model).__module__, "_format": 1}
    sha256, parameters = hashlib.sha256(blob).hexdigest(), sum(p.numel() for p in model.parameters())
    card = {"name": folder.name, "parameters": parameters, "sha256": sha256, **card}
    rows = [f"| {k} | {v} |" for k, v in sorted(card.items()) if k not in ("name", "summary", "command")]
    page = [f"# {card['name']}", "", card.get("summary", ""), "", "| | |", "|---|---|", *rows, ""]
    page += ["Train it again from a clean clone:", "", f"    {card.get('command', '')}", ""]
    partial, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    for left in (partial, old):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    try:
        write_bytes(partial / WEIGHTS, blob)
        for name, values in ((CONFIG, config), (CARD, card)):
            write_text(partial / name, json.dumps(values, indent=2, sort_keys=True) + "\n")
        write_text(partial / "README.md", "\n".join(page))
    except ReproError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ReproError(f"checkpoint {folder.name} stays what it was, unchanged: {error}") from error
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
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
    """The folder of a checkpoint: an absolute one as given, or that of a name (`places`).

    Raises `ReproError` with the nearest names where there is none.
    """
    folder = Path(name)
    for place in [folder] if folder.is_absolute() else places(str(name)):
        if place.is_dir():
            return place
    parent = folder.parent if folder.is_absolute() else paths.checkpoints()
    hint = nearest(folder.name, [p.name for p in parent.glob("*")])
    how = "`repro list` names the networks, `repro train` makes them"
    raise ReproError(f"no checkpoint {folder.name} in {parent}: {hint}{how}")


def read_card(name: str | Path) -> dict[str, Any]:
    """The machine-readable card of a checkpoint (a name or an absolute folder)."""
    return _read_json(folder_of(name) / CARD)


def weights_hash(name: str | Path) -> str:
    """SHA-256 of a checkpoint's weights, the name that records know it by."""
    return hashlib.sha256((folder_of(name) / WEIGHTS).read_bytes()).hexdigest()


def load_checkpoint(name: str | Path) -> nn.Module:
    """The network of a checkpoint, fp32, in eval mode, gradients off; treat it as read-only (it is shared).

    Raises `ReproError` naming what is missing, damaged, or of another version. Never unpickles.
    """
    return _loaded(folder_of(name))


@functools.lru_cache(maxsize=16)
def _loaded(folder: Path) -> nn.Module:
    model = _network(folder / CONFIG)
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
        raise ReproError(f"{weights} does not fit {folder / CONFIG}: {' '.join(str(error).split())}") from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _network(path: Path) -> nn.Module:
    """The untrained network that a config names; of ours or of diffusers, since a file must not choose what we call."""
    config = _read_json(path)
    arguments = {k: v for k, v in config.items() if not k.startswith("_")}
    module, name = config.get("_module", ""), config.get("_class_name", "")
    if not module.startswith(("repro.", "diffusers.")):
        raise ReproError(f"{path} names module {module!r}: networks come from repro or diffusers only")
    try:
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise AttributeError("it is not a network")
        return kind(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ReproError(f"{path} names {module}.{name}, which this version cannot build: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReproError(f"checkpoint {path.parent.name} has no {path.name}") from error
    except ValueError as error:
        raise ReproError(f"{path} is damaged: {error}") from error
