"""Profiles and trained networks of notebook 01, read from `experiments.toml`."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repro.data.datasets import load_cifar10
from repro.ddpm.schedules import by_name
from repro.ddpm.tasks import ClassifierTask, DenoisingTask, fashion_tensor
from repro.engine.atomic import read_toml
from repro.engine.registry import Experiment
from repro.engine.train import Recipe
from repro.errors import one_of
from repro.nn.classifier import Classifier

_SPEC = read_toml(Path(__file__).with_suffix(".toml"))
SCHEDULES = {name: by_name(**settings) for name, settings in _SPEC["schedule"].items()}
LINEAR = SCHEDULES["linear"]  # of every profile's main network
MAIN, CLASSIFIER, PAPER_MODEL = "ddpm-fashion-linear-s0", "ddpm-fashion-classifier-s0", "ddpm-cifar10-paper-s0"


@dataclass(frozen=True)
class DDPMConfig:
    """One profile.

    `data`      what is learned: "fashion" (embedded) or "cifar10" (downloaded).
    `network`   arguments of the network class `network_class` ("repro.nn.unet.UNet" or diffusers' "UNet2DModel").
    `n`         images in one replicate of a row; `replicates` disjoint sets of sampling noise, five at least for an
                interval.
    `k`         images that `make reproduce` samples again for each row.
    """

    name: str
    data: str
    channels: int
    size: int
    network_class: str
    network: Mapping[str, Any]
    recipe: Recipe
    n: int
    replicates: int
    k: int
    batch: int


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has lists for tuples, and no None."""
    return {k: tuple(v) if isinstance(v, list) else None if v == "none" else v for k, v in values.items()}


PROFILES = {
    name: DDPMConfig(name, **{**spec, "network": _plain(spec["network"]), "recipe": Recipe(**_plain(spec["recipe"]))})
    for name, spec in _SPEC["profile"].items()
}
SMOKE, PAPER = PROFILES["smoke"], PROFILES["paper"]


def profile(name: str) -> DDPMConfig:
    """The profile of that name."""
    return PROFILES[one_of("profile", name, PROFILES)]


def build_network(config: DDPMConfig) -> nn.Module:
    """The profile's untrained network."""
    module, name = config.network_class.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**config.network)


def training_task(config: DDPMConfig, variant: str) -> DenoisingTask | ClassifierTask:
    """Training set and loss."""
    images, labels, ids = fashion_tensor("train") if config.data == "fashion" else load_cifar10("train")
    if variant == "classifier":
        return ClassifierTask(images, labels, ids, LINEAR)
    learned = config.network["out_channels"] == 2 * config.channels
    # Ho et al., appendix B: random mirroring for CIFAR-10
    return DenoisingTask(images, ids, SCHEDULES[variant], learned, mirror=config.data == "cifar10")


@torch.inference_mode()
def accuracy(model: nn.Module, split: str = "test", k: int | None = None) -> float:
    """Share of a split's first `k` images (None: all) that the classifier names rightly."""
    images, labels, _ = fashion_tensor(split)
    found = torch.cat([model(part).argmax(dim=1) for part in images[:k].split(250)])
    return (found == labels[:k]).float().mean().item()


def _score_classifier(model: nn.Module) -> dict[str, Any]:
    return {
        "test accuracy": f"{accuracy(model):.4f} on the 3,000 test images",
        "validation accuracy": f"{accuracy(model, 'validation'):.4f} on 1,000 held-out training images",
    }


def experiment(spec: Mapping[str, Any], config: DDPMConfig | None = None) -> Experiment:
    """One entry of the list; `config` in the place of its profile's."""
    config, variant = config or PROFILES[spec["profile"]], spec["variant"]
    about = {"name": spec["name"], "room": "ddpm", "task_name": "generation", "variant": variant, "seed": 0}
    about |= {"data": config.data, "profile": config.name, "summary": spec["summary"], "recipe": config.recipe}
    about |= {"ships": spec.get("ships", False), "build": partial(build_network, config), "score": None}
    if variant == "classifier":
        about |= {"task_name": "classification", "build": Classifier, "score": _score_classifier}
        about |= {"recipe": Recipe(**spec["recipe"])}
    return Experiment(**about, task=partial(training_task, config, variant))


EXPERIMENTS: tuple[Experiment, ...] = tuple(experiment(spec) for spec in _SPEC["experiment"])
