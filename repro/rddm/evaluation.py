"""What notebook 03 measures, row by row, on whole held-out photographs and on sets of generated pictures.

Each test photograph is degraded once, keyed by its name; noise is keyed by (seed, name). Everything runs in fp32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import lowlight, pack, raindrops
from repro.data.degradations import TASKS
from repro.data.images import to_model, to_unit
from repro.ddpm.experiments import CLASSIFIER
from repro.ddpm.process import Model
from repro.ddpm.scores import FID, IS, KID, NEAREST, replicated
from repro.engine.check import Tolerance
from repro.engine.checkpoint import load_checkpoint, weights_hash
from repro.engine.evaluation import Row, folders, trained
from repro.engine.records import Values
from repro.engine.rng import KeyedNoise
from repro.metrics import protocols
from repro.rddm import baselines, oracles, paper, switches, transfer, use
from repro.rddm.config import RDDMConfig, TaskConfig, profile
from repro.rddm.experiments import (
    EXPERIMENTS,
    LONG,
    STRATEGIES,
    TRAINED,
    VARIANTS,
    learning_of,
    name_of,
    photographs,
)
from repro.rddm.sampling import generate, restore
from repro.rddm.tasks import DEGRADATIONS, Learning

Metrics = Mapping[str, Values]
PROTOCOLS = ("psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1", "psnr/y", "ssim/y-wang")
SPREAD = "std/rgb01"  # standard deviation over noise seeds of a pixel's value in [0, 1], mean over the picture
TEST_SEED = 7  # of the test pictures' degradations
SR3_STEPS = (5, 10, 20)
SPREAD_STEPS = 10  # of the diversity from pure noise: in the task's own few steps it draws no pictures yet
FULL_SIZE = 8  # photographs measured as they come
# What the degradations are drawn from: other laws make other data, and other records.
LAWS = {
    "lowlight": (lowlight.STOPS, lowlight.GAMMA, lowlight.CAST, lowlight.PHOTONS, lowlight.READ),
    "raindrop": (raindrops.RADIUS, raindrops.COVERAGE),
    "lowlight-wide": TASKS["lowlight"].law,
    "raindrop-wide": TASKS["raindrops"].law,
}
_USUAL = Tolerance(absolute=2e-3, relative=5e-3)
# Where two samplers are said to agree, or the number is small, the usual tolerance would let it be anything.
TOLERANCE = {
    **dict.fromkeys((*PROTOCOLS, FID, KID, IS, NEAREST), _USUAL),
    SPREAD: Tolerance(absolute=2e-4, relative=1e-2),
    transfer.DIFFERENCE: Tolerance(absolute=1e-5, relative=0.05),
    transfer.MEAN_DIFFERENCE: Tolerance(absolute=1e-6, relative=0.05),
}


# --- the pictures ---------------------------------------------------------------------------------------------------


def degraded(degradation: str, image: Tensor, name: str) -> Tensor:
    """(3, H, W) in [0, 1] as the test set has it: settings, drops and sensor noise keyed by the picture's name."""
    return DEGRADATIONS[degradation](image[None], lambda purpose: KeyedNoise(TEST_SEED, [name], purpose))[0]


@lru_cache(maxsize=8)
def test_pairs(degradation: str, side: int, limit: int = 0) -> tuple[tuple[str, Tensor, Tensor], ...]:
    """(id, degraded, clean) of the held-out photographs, pictures (3, H, W) in [0, 1]."""
    ids, pictures = photographs("test", side, limit)
    return tuple((i, degraded(degradation, x, i), x) for i, x in zip(ids, pictures, strict=True))


def scored(pairs: Sequence[tuple[str, Tensor, Tensor]], method: Callable[[Tensor, str], Tensor]) -> Metrics:
    """Every protocol's values, one per picture, of `method(degraded (3, H, W) in [0, 1], id)`."""
    found: dict[str, list[float]] = {name: [] for name in PROTOCOLS}
    for name, given, clean in pairs:
        output = method(given, name)[None]
        for protocol in PROTOCOLS:
            found[protocol] += protocols.score(protocol, output, clean[None]).tolist()
    return found


# --- rows -----------------------------------------------------------------------------------------------------------


def rows(profile_name: str = "small") -> list[Row]:
    """Every row of notebook 03 whose networks are here."""
    if profile_name == "paper":  # other data sets, other protocols: its rows have a module of their own
        found = [row for setting in paper.measured() for row in paper.rows(setting)]
        # Three strategies share their degraded input.
        return list({(row.experiment, *sorted(row.cell.items())): row for row in found}.values())
    config = profile(profile_name)
    found = []
    for task in config.tasks.values():
        found += _generation(config, task) if task.degradation == "none" else _restoration(config, task)
    return [*found, *_for_use(config), _indi(config), *transfer.rows(config)]


def _indi(config: RDDMConfig) -> Row:
    """Claim R6: SM-Res with noise in step with the residual is InDI; no data and no network involved."""
    none = hashlib.sha256(b"").hexdigest()

    def measure(_: int | None) -> Metrics:
        return {"max_abs_difference": oracles.indi_gap()}

    return Row("rddm", "oracle-indi", {}, measure, n=1, data=none, k=1, profile=config.name)


def networks(config: RDDMConfig, task: TaskConfig) -> Iterator[tuple[str, str, Path, bool]]:
    """(variant, experiment, folder, whether it ships) of the task's networks that are here."""
    ships = {experiment.name: experiment.ships for experiment in EXPERIMENTS}
    for variant, _ in TRAINED[task.name]:
        name = name_of(task.name, variant, 0, config.name)
        if trained(name):
            yield variant, name, next(f for f in folders(name) if (f / "config.json").exists()), ships[name]


@lru_cache(maxsize=1)
def _fashion_hash() -> str:
    return pack.file_hash(pack.PACK / "fashion_mnist_subset.npz")


@lru_cache(maxsize=8)
def _photo_hash(degradation: str, side: int, limit: int) -> str:
    """Of the test photographs' files, the size they are brought to, the degradation's law and its seed."""
    law = f"{degradation} {LAWS[degradation]}"
    total = hashlib.sha256(f"side {side} limit {limit} seed {TEST_SEED} {law}".encode())
    for picture in pack.photos("test")[: limit or None]:
        total.update(f"{picture.id} {pack.file_hash(picture.path)}".encode())
    return total.hexdigest()


def _generation(config: RDDMConfig, task: TaskConfig) -> list[Row]:
    if not trained(CLASSIFIER):
        return []
    found = []
    for variant, name, folder, ships in networks(config, task):
        network, learning = load_checkpoint(folder), learning_of(task, variant)
        sets = [
            ({"task": "generation", "steps": steps, "eta": 0.0}, partial(_generated, network, learning, steps, {}))
            for steps in task.sweep
        ]
        sets += [
            ({"task": f"{task.name}-switch", **cell}, partial(_generated, model, other, cell["steps"], settings))
            for cell, model, other, settings in switches.of_generation(task, variant, network, learning)
        ]
        for cell, make in sets:
            found.append(
                Row(
                    "rddm",
                    name,
                    cell,
                    partial(replicated, make, task.n, task.replicates),
                    n=task.n,
                    data=_fashion_hash(),
                    k=task.k,
                    profile=config.name,
                    weights=weights_hash(folder),
                    ships=ships,
                )
            )
    return found


def _generated(
    network: Model | nn.Module, learning: Learning, steps: int, settings: Mapping[str, Any], ids: range
) -> Tensor:
    return generate(network, learning, ids, steps, **settings)


def _restoration(config: RDDMConfig, task: TaskConfig) -> list[Row]:
    pairs = partial(test_pairs, task.degradation, task.side)
    n = task.limit or len(pack.photos("test"))

    def row(experiment: str, cell: dict[str, Any], method: Callable[[Tensor, str], Tensor], **more: Any) -> Row:
        def measure(k: int | None) -> Metrics:
            return scored(pairs(k or task.limit), method)

        more = {"k": task.k, "data": _photo_hash(task.degradation, task.side, task.limit), **more}
        return Row("rddm", experiment, {"task": task.name, **cell}, measure, n=n, profile=config.name, **more)

    found = [
        row(f"baseline-{name}", {}, lambda x, _, run=run: run(x))
        for name, run in baselines.BASELINES[task.degradation].items()
    ]
    for variant, name, folder, ships in networks(config, task):
        network, learning = load_checkpoint(folder), learning_of(task, variant)
        more = {"weights": weights_hash(folder), "ships": ships}
        for steps in _steps(task, variant):
            method = partial(_restored, network, learning, steps, {})
            found.append(row(name, {"steps": steps}, method, **more))
        for cell, settings in switches.of(task, variant):
            method = partial(_restored, network, learning, cell.get("steps", task.steps), settings)
            found.append(row(name, {"task": f"{task.name}-switch", **cell}, method, **more))
        found += _diversity(config, task, variant, name, network, more)
        found += _full_size(config, task, variant, name, network, more)
    return found


def _for_use(config: RDDMConfig) -> Iterator[Row]:
    """The networks for use on test photographs under their own, wider degradations, beside classical methods."""
    for task in use.USE.values() if config.name == "small" else ():
        name = name_of(task.name, use.VARIANT)
        if not trained(name):
            continue
        folder = next(f for f in folders(name) if (f / "config.json").exists())
        network, learning = load_checkpoint(folder), learning_of(task, use.VARIANT)
        methods: dict[str, Callable[[Tensor, str], Tensor]] = {
            f"baseline-{method}": lambda x, _, run=run: run(x)
            for method, run in baselines.BASELINES[task.name].items()
            if method in ("input", "equalised", "median")
        }
        for experiment, method in {**methods, name: partial(_restored, network, learning, task.steps, {})}.items():
            more = {"weights": weights_hash(folder), "ships": True} if experiment == name else {}
            yield Row(
                "rddm",
                experiment,
                {"task": task.degradation, **({"steps": task.steps} if more else {})},
                lambda k, task=task, method=method: scored(test_pairs(task.degradation, task.side, k or 0), method),
                n=len(pack.photos("test")),
                data=_photo_hash(task.degradation, task.side, 0),
                k=task.k,
                profile=config.name,
                **more,
            )


def _steps(task: TaskConfig, variant: str) -> tuple[int, ...]:
    if VARIANTS[variant].start == "none":
        return (1,)
    if variant == "sr3":
        return SR3_STEPS if task.limit == 0 else task.sweep
    return task.sweep if variant in (*STRATEGIES, "long") else (task.steps,)


def _restored(
    network: nn.Module, learning: Learning, steps: int, settings: Mapping[str, Any], image: Tensor, name: str
) -> Tensor:
    return to_unit(restore(network, to_model(image)[None], [name], learning, steps, **settings))[0]


def _diversity(
    config: RDDMConfig, task: TaskConfig, variant: str, name: str, network: nn.Module, more: Mapping[str, Any]
) -> list[Row]:
    """How far restorations of one picture under different noise lie apart (claim R6)."""
    if variant in ("regression", "one", "shared", *LONG):
        return []
    learning, n = learning_of(task, variant), min(8, task.limit or 8)
    steps = SPREAD_STEPS if variant == "sr3" else task.steps

    def measure(eta: float, k: int | None) -> Metrics:
        spread = []
        for i, given, _ in test_pairs(task.degradation, task.side, k or n):
            I_in = to_model(given)[None]
            runs = [restore(network, I_in, [i], learning, steps, seed, eta=eta) for seed in config.seeds]
            spread.append(to_unit(torch.cat(runs)).std(dim=0).mean().item())
        return {SPREAD: spread}

    return [
        Row(
            "rddm",
            name,
            {"task": f"{task.name}-diversity", "steps": steps, "eta": eta},
            partial(measure, eta),
            n=n,
            data=_photo_hash(task.degradation, task.side, task.limit),
            k=task.k,
            profile=config.name,
            **more,
        )
        for eta in ((0.0, 1.0) if variant in STRATEGIES else (0.0,))
    ]


def _full_size(
    config: RDDMConfig,
    task: TaskConfig,
    variant: str,
    name: str,
    network: nn.Module,
    more: Mapping[str, Any],
) -> list[Row]:
    """The same network on the photographs as they come: what published tables at 256 px do not show."""
    if config.name != "small" or variant not in ("smres", "regression"):
        return []
    learning, steps = learning_of(task, variant), task.steps if variant != "regression" else 1

    def measure(k: int | None) -> Metrics:
        method = partial(_restored, network, learning, steps, {})
        return scored(test_pairs(task.degradation, 0, k or FULL_SIZE), method)

    cell, data = {"task": f"{task.name}-full-size", "steps": steps}, _photo_hash(task.degradation, 0, FULL_SIZE)
    return [Row("rddm", name, cell, measure, n=FULL_SIZE, data=data, k=0, profile=config.name, **more)]
