"""The trained networks of notebook 01."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from repro.ddpm.schedules import Schedule, by_name
from repro.ddpm.study.config import PAPER, PROFILES, SMALL, DDPMConfig
from repro.ddpm.tasks import ClassifierTask, DenoisingTask, fashion_tensor
from repro.engine.recipe import Recipe
from repro.engine.registry import Experiment

CLASSIFIER = "ddpm-fashion-classifier-s0"
MAIN = "ddpm-fashion-linear-s0"
COSINE = "ddpm-fashion-cosine-s0"
PAPER_MODEL = "ddpm-cifar10-paper-s0"
SCHEDULES: dict[str, dict[str, Any]] = {"linear": SMALL.schedule, "cosine": {"name": "cosine", "T": 1000}}


def schedule_of(config: DDPMConfig) -> Schedule:
    """The profile's noise schedule."""
    return by_name(**config.schedule)


def build_network(config: DDPMConfig) -> nn.Module:
    """The profile's untrained network."""
    module, name = config.network_class.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**config.network)


def training_pictures(config: DDPMConfig) -> tuple[Tensor, list[str]]:
    """(N, C, H, W) in [-1, 1] and ids of the profile's training set."""
    if config.data == "fashion":
        pictures, _, ids = fashion_tensor("train")
        return pictures, ids
    from repro.data.published import load_cifar10

    images, _, ids = load_cifar10("train")
    return images, ids


def _denoising(config: DDPMConfig, schedule: dict[str, Any]) -> DenoisingTask:
    pictures, ids = training_pictures(config)
    learned = config.network["out_channels"] == 2 * config.channels
    return DenoisingTask(pictures, ids, by_name(**schedule), learned)


def _classifier_task() -> ClassifierTask:
    pictures, labels, ids = fashion_tensor("train")
    return ClassifierTask(pictures, labels, ids, schedule_of(SMALL))


def _build_classifier() -> nn.Module:
    from repro.nn.classifier import Classifier

    return Classifier()


@torch.inference_mode()
def accuracy(model: nn.Module, split: str = "test") -> float:
    """Share of a split's pictures that the classifier names rightly."""
    pictures, labels, _ = fashion_tensor(split)
    found = torch.cat([model(part).argmax(dim=1) for part in pictures.split(500)])
    return (found == labels).float().mean().item()


def _score_classifier(model: nn.Module) -> dict[str, Any]:
    return {
        "test accuracy": f"{accuracy(model):.4f} on the 3,000 test pictures",
        "validation accuracy": f"{accuracy(model, 'validation'):.4f} on 1,000 held-out training pictures",
    }


def generator(config: DDPMConfig, variant: str, name: str, ships: bool, summary: str) -> Experiment:
    """The experiment that trains a profile's network; `variant` names its schedule."""
    schedule = SCHEDULES.get(variant, config.schedule)
    return Experiment(
        name=name,
        room="ddpm",
        task_name="generation",
        variant=variant,
        data=config.data,
        profile=config.name,
        seed=0,
        recipe=config.recipe,
        summary=summary,
        ships=ships,
        build=lambda: build_network(config),
        task=lambda: _denoising(config, schedule),
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    generator(SMALL, "linear", MAIN, True, "Fashion-MNIST DDPM, linear schedule, learned-range variance"),
    generator(SMALL, "cosine", COSINE, False, "the same network and budget on the cosine schedule"),
    Experiment(
        name=CLASSIFIER,
        room="ddpm",
        task_name="classification",
        variant="classifier",
        data="fashion",
        profile="small",
        seed=0,
        recipe=Recipe(
            images=330_000, batch=64, lr=2e-3, warmup=5_000, ema=10_000, weight_decay=0.05, threads=1, save_every=50_000
        ),
        summary="noise-aware Fashion-MNIST classifier: features of FID and IS, gradients of classifier guidance",
        ships=True,
        build=_build_classifier,
        task=_classifier_task,
        score=_score_classifier,
    ),
    generator(PROFILES["smoke"], "linear", "ddpm-fashion-smoke-s0", False, "a tiny network for tests"),
    generator(PAPER, "linear", PAPER_MODEL, False, "the CIFAR-10 DDPM of Ho et al. at full size"),
)
