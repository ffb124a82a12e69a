"""Rows of a profile that learns a downloaded data set: samplers against steps, and real pictures as the floor.

The same samplers, keys and metrics as in the small profile; data, shape, steps and features come from the config. The
metrics are those of Ho et al. (2020), Table 1: FID against the training set and Inception Score, on `config.n` samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from repro.data import cifar
from repro.ddpm.config import DDPMConfig
from repro.ddpm.experiments import PAPER_MODEL, schedule_of
from repro.ddpm.sampling import draw
from repro.ddpm.scores import unit
from repro.engine.checkpoint import load_checkpoint, weights_hash
from repro.engine.evaluation import Row, folders, trained
from repro.engine.records import Values
from repro.metrics import distribution, features
from repro.metrics.features import FeatureNet

FEATURES: dict[str, Callable[[], FeatureNet]] = {"inception": lambda: features.inception(device=_device())}
SAMPLERS = ("ddpm", "ddpm-large", "ddim")  # the paper's network predicts no variance


class SetMetrics:
    """FID, KID (x 1000) and IS of pictures (N, C, H, W) in [-1, 1]; the reference is embedded once, at first use."""

    def __init__(self, make_net: Callable[[], FeatureNet], reference: Tensor, batch: int) -> None:
        self.make_net, self.reference, self.batch = make_net, reference, batch
        self._embedded: tuple[FeatureNet, Tensor] | None = None

    def __call__(self, pictures: Tensor) -> dict[str, float]:
        if self._embedded is None:
            net = self.make_net()
            self._embedded = net, features.extract(net, unit(self.reference), batch=self.batch)
        net, wanted = self._embedded
        x = unit(pictures)
        found = features.extract(net, x, batch=self.batch)
        size = min(len(found), len(wanted), 1000)
        return {
            f"fid/{net.name}": distribution.fid(found, wanted),
            f"kid/{net.name}": distribution.kid(found, wanted, subset_size=size, subsets=50, seed=0)[0],
            f"is/{net.name}": distribution.inception_score(
                features.extract(net, x, "logits", batch=self.batch), splits=1, seed=0
            )[0],
        }


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def rows(config: DDPMConfig, experiment: str = PAPER_MODEL, net: Callable[[], FeatureNet] | None = None) -> list[Row]:
    """Every row whose network is here; `net` stands in for the profile's features under its own name.

    Raises `ReproError` with what to download where the data set is absent; missing feature weights are refused when a
    row is measured.
    """
    if not trained(experiment):
        return []
    reference, test = (cifar.load_cifar10(split)[0] for split in ("train", "test"))
    score = SetMetrics(net or FEATURES[config.features], reference, config.batch)
    folder = next(f for f in folders(experiment) if (f / "config.json").exists())
    model, schedule = copy.deepcopy(load_checkpoint(folder)).to(_device()), schedule_of(config)
    shared = {"n": config.n, "data": cifar.data_hash("train"), "k": config.k, "profile": config.name}

    def sampled(sampler: str, steps: int, k: int | None) -> Mapping[str, Values]:
        ids, shape = range(k or config.n), (config.channels, config.size, config.size)
        return score(
            draw(model, schedule, ids, sampler, steps, batch=config.batch, shape=shape, device=_device()).cpu()
        )

    def real(k: int | None) -> Mapping[str, Values]:
        return score(test[: k or config.n])

    base = {**shared, "n": min(config.n, len(test))}
    found = [Row("ddpm", f"baseline-real-{config.data}", {"task": "generation"}, real, **base)]
    for sampler in SAMPLERS:
        for steps in (*config.steps, *config.full_steps):
            cell = {"task": "generation", "sampler": sampler, "steps": steps, "eta": 0.0 if sampler == "ddim" else 1.0}
            own = {"k": config.k if steps in config.steps else 0, "weights": weights_hash(folder), "ships": False}
            found.append(Row("ddpm", experiment, cell, partial(sampled, sampler, steps), **{**shared, **own}))
    return found
