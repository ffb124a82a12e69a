"""Profiles and networks of notebook 01, read from `experiments.toml`, and what they learn."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data.datasets import load_cifar10
from repro.data.pack import fashion
from repro.ddpm import process
from repro.engine.checkpoint import Experiment
from repro.engine.rng import KeyedNoise
from repro.engine.train import Recipe
from repro.nn.classifier import Classifier
from repro.paths import read_toml

_SPEC = read_toml(Path(__file__).with_suffix(".toml"))
SCHEDULES = {name: process.by_name(**settings) for name, settings in _SPEC["schedule"].items()}
LINEAR = SCHEDULES["linear"]  # of every profile's main network
MAIN, PAPER_MODEL = "ddpm-fashion-linear-s0", "ddpm-cifar10-paper-s0"


@dataclass(frozen=True)
class DDPMConfig:
    """One profile."""

    name: str
    data: str  # the training set: "fashion" (embedded) or "cifar10" (downloaded)
    channels: int
    size: int
    network_class: str  # "repro.nn.unet.UNet" or "diffusers.UNet2DModel"
    network: Mapping[str, Any]  # its arguments
    recipe: Recipe
    n: int  # images in one replicate of a row
    replicates: int  # disjoint sets of sampling noise, five at least for an interval
    k: int  # images that `make reproduce` samples again for each row
    batch: int


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has lists for tuples, and no None."""
    return {k: tuple(v) if isinstance(v, list) else None if v == "none" else v for k, v in values.items()}


PROFILES = {
    name: DDPMConfig(name, **{**spec, "network": _plain(spec["network"]), "recipe": Recipe(**_plain(spec["recipe"]))})
    for name, spec in _SPEC["profile"].items()
}
SMOKE, PAPER = PROFILES["smoke"], PROFILES["paper"]


def build_network(config: DDPMConfig) -> nn.Module:
    """The profile's untrained network."""
    module, name = config.network_class.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**config.network)


@dataclass
class DenoisingTask:
    """Learn noise from clean images (Ho et al. 2020, algorithm 1): with `learned_variance` by the hybrid loss of 2 C
    output channels (Nichol and Dhariwal 2021, eq. 16). `mirror`: half of the images, drawn anew, are mirrored."""

    images: Tensor  # (N, C, H, W) in [-1, 1]
    ids: list[str]
    schedule: process.Schedule
    learned_variance: bool = True
    mirror: bool = False

    def __post_init__(self) -> None:
        self.settings = {"schedule": self.schedule.name, "learned variance": self.learned_variance}
        self.settings |= {"mirrored": True} if self.mirror else {}

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        drawn = noise("noise")
        x0 = self.images[indices].to(drawn.device)  # (B, C, H, W)
        if self.mirror:
            x0 = torch.where((noise("mirror").uniform() < 0.5)[:, None, None, None], x0.flip(-1), x0)
        eps = drawn.normal(x0.shape[1:])
        t = noise("time").integers(0, self.schedule.T)  # (B,) 0 .. T-1
        loss = process.hybrid_loss if self.learned_variance else process.simple_loss
        return loss(process.model_fn(model), x0, t, eps, self.schedule)


@dataclass
class ClassifierTask:
    """Learn the ten classes from clean images (half of each batch), for the features of FID and Inception Score, and
    from noisy ones (the other half), for the gradients of guidance."""

    images: Tensor
    labels: Tensor
    ids: list[str]
    schedule: process.Schedule

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        drawn = noise("noise")
        x0, y = self.images[indices].to(drawn.device), self.labels[indices].to(drawn.device)
        # jitter of up to two pixels over the background, -1; clothes are not mirrored
        padded, (h, w) = F.pad(x0, (2, 2, 2, 2), value=-1.0), x0.shape[2:]
        places = (noise("shift").integers(-2, 3, (2,)) + 2).tolist()
        x0 = torch.stack([x[:, i : i + h, j : j + w] for x, (i, j) in zip(padded, places, strict=True)])
        t = noise("time").integers(0, self.schedule.T)
        noisy = process.q_sample(x0, t, drawn.normal(x0.shape[1:]), self.schedule)
        clean = noise("clean").uniform() < 0.5  # (B,)
        logits = model(torch.where(clean[:, None, None, None], x0, noisy), torch.where(clean, 0, t + 1))
        return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=0.05)


def training_task(config: DDPMConfig, variant: str) -> DenoisingTask | ClassifierTask:
    """Training set and loss."""
    images, labels, ids = fashion("train") if config.data == "fashion" else load_cifar10("train")
    if variant == "classifier":
        return ClassifierTask(images, labels, ids, LINEAR)
    learned = config.network["out_channels"] == 2 * config.channels
    # Ho et al., appendix B: random mirroring for CIFAR-10
    return DenoisingTask(images, ids, SCHEDULES[variant], learned, mirror=config.data == "cifar10")


def experiment(spec: Mapping[str, Any], config: DDPMConfig | None = None) -> Experiment:
    """One entry of the list; `config` in the place of its profile's."""
    config, variant = config or PROFILES[spec["profile"]], spec["variant"]
    own = {"task_name": "generation", "build": partial(build_network, config), "recipe": config.recipe}
    if variant == "classifier":
        own = {"task_name": "classification", "build": Classifier, "recipe": Recipe(**spec["recipe"])}
    return Experiment(
        spec["name"], "ddpm", variant=variant, data=config.data, profile=config.name, seed=0, summary=spec["summary"],
        ships=spec.get("ships", False), task=partial(training_task, config, variant), **own,
    )  # fmt: skip


EXPERIMENTS: tuple[Experiment, ...] = tuple(experiment(spec) for spec in _SPEC["experiment"])
