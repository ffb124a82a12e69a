"""What notebook 03 measures: whole held-out photographs, sets of generated pictures, and what claims R4 and R6 compare.

Each test photograph is degraded once, keyed by its name; noise is keyed by (seed, name). Everything runs in fp32.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import lowlight, pack, raindrops
from repro.data.degradations import TASKS
from repro.data.images import to_model, to_unit
from repro.ddpm.process import Model, model_fn
from repro.ddpm.study.experiments import CLASSIFIER
from repro.ddpm.study.scores import FID, IS, KID, NEAREST, replicated
from repro.engine.check import Tolerance
from repro.engine.checkpoint import load_checkpoint
from repro.engine.evaluation import folders, trained
from repro.engine.records import Values
from repro.engine.registry import find
from repro.engine.rng import KeyedNoise
from repro.engine.study import Sample
from repro.metrics import protocols
from repro.rddm.samplers import PUBLISHED_CLIP
from repro.rddm.sampling import generate, restore
from repro.rddm.schedules import by_config
from repro.rddm.study import baselines, oracles, paper, transfer, use
from repro.rddm.study.config import TaskConfig
from repro.rddm.study.config import profile as config_of
from repro.rddm.study.experiments import learning_of, photographs
from repro.rddm.study.settings import CONVERTED
from repro.rddm.tasks import DEGRADATIONS, Learning
from repro.rddm.transform import matched

Metrics = Mapping[str, Values]
PROTOCOLS = ("psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1", "psnr/y", "ssim/y-wang")
SPREAD = "std/rgb01"  # standard deviation over noise seeds of a pixel's value in [0, 1], mean over the picture
TEST_SEED = 7  # of the test pictures' degradations
FULL_SIZE = 8  # photographs measured as they come
DIVERSE = 8  # photographs restored from several noises
QUICK = 10  # most steps of what the smoke profile measures
STARTS = (990, 950, 900, 800, 700)  # where SM-N may start: at T - 1 = 999 it divides by 1 - abar_T = 0
# What the degradations are drawn from: other laws make other data, and other records.
LAWS = {
    "lowlight": (lowlight.STOPS, lowlight.GAMMA, lowlight.CAST, lowlight.PHOTONS, lowlight.READ),
    "raindrop": (raindrops.RADIUS, raindrops.COVERAGE),
    "lowlight-wide": TASKS["lowlight"].law,
    "raindrop-wide": TASKS["raindrops"].law,
}
ALIASES = paper.ALIASES
_USUAL = Tolerance(absolute=2e-3, relative=5e-3)
# Where two samplers are said to agree, or the number is small, the usual tolerance would let it be anything.
TOLERANCE = {
    **dict.fromkeys((*PROTOCOLS, FID, KID, IS, NEAREST), _USUAL),
    SPREAD: Tolerance(absolute=2e-4, relative=1e-2),
    transfer.DIFFERENCE: Tolerance(absolute=1e-5, relative=0.05),
    transfer.MEAN_DIFFERENCE: Tolerance(absolute=1e-6, relative=0.05),
}


# --- what the engine asks for ---------------------------------------------------------------------------------------


def sample(experiment: str, cell: Mapping[str, Any], profile: str) -> Sample | None:
    """How many pictures a cell is measured on; None where it is not measured in this profile."""
    if profile == "paper":
        return paper.sample(experiment, cell)
    config, task = config_of(profile), cell.get("task")
    if profile == "smoke" and task and (cell.get("steps", 0) > QUICK or task.endswith(("full-size", "wide"))):
        return None
    if task is None:  # claim R6's identity: no data and no network involved
        return Sample(1, 1, hashlib.sha256(b"").hexdigest())
    fashion = config.tasks["fashion"]
    if task in ("generation", "fashion-switch", "transfer"):
        return Sample(fashion.n, fashion.k, _fashion_hash()) if trained(CLASSIFIER) else None
    if task == "equality":
        return Sample(transfer.COMPARED, 2, _fashion_hash()) if trained(CLASSIFIER) else None
    about = _task(experiment, cell, profile)
    n = about.limit or len(pack.photos("test"))
    if task.endswith("full-size"):
        return Sample(FULL_SIZE, 0, _photo_hash(about.degradation, 0, FULL_SIZE))
    n = min(DIVERSE, n) if task.endswith("diversity") else n
    return Sample(n, about.k, _photo_hash(about.degradation, about.side, about.limit))


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, profile: str = "small") -> Metrics:
    """One cell of the grid on the first `k` pictures (None: all)."""
    if profile == "paper":
        return paper.measure(experiment, cell, k)
    config, name = config_of(profile), cell.get("task")
    if name is None:
        return {"max_abs_difference": oracles.indi_gap()}
    fashion = config.tasks["fashion"]
    if name == "equality":
        return transfer.gap(cell["steps"], cell["rule"], cell["clip"], cell["with"], cell["dtype"], k)
    if name == "transfer":
        make = partial(transfer.drawn, cell["steps"], cell["rule"], cell["clip"])
        return replicated(make, fashion.n, fashion.replicates, k)
    task = _task(experiment, cell, profile)
    if experiment.startswith("baseline-"):
        run = baselines.BASELINES[task.name][experiment.removeprefix("baseline-")]
        return scored(test_pairs(task.degradation, task.side, k or task.limit), lambda x, _: run(x))
    network, learning = load_checkpoint(_folder(experiment)), learning_of(task, find(experiment).variant)
    if task.degradation == "none":
        model, learning, settings = _switched(network, learning, cell)
        return replicated(
            partial(_generated, model, learning, cell["steps"], settings), fashion.n, fashion.replicates, k
        )
    if name.endswith("diversity"):
        return _spread(config.seeds, network, learning, task, cell, k)
    _, _, settings = _switched(network, learning, cell)
    pairs = (
        test_pairs(task.degradation, 0, k or FULL_SIZE)
        if name.endswith("full-size")
        else test_pairs(task.degradation, task.side, k or task.limit)
    )
    return scored(pairs, partial(restored, network, learning, cell["steps"], settings))


def _task(experiment: str, cell: Mapping[str, Any], profile: str) -> TaskConfig:
    name = cell["task"].split("-")[0]
    if cell["task"].endswith("wide"):
        return use.USE[name]
    return config_of(profile).tasks["fashion" if name == "generation" else name]


def _folder(experiment: str) -> Any:
    return next(f for f in folders(experiment) if (f / "config.json").exists())


def _switched(
    network: nn.Module, learning: Learning, cell: Mapping[str, Any]
) -> tuple[Model | nn.Module, Learning, dict[str, Any]]:
    """Choices that the report leaves to the code, one changed at a time (claim R2).

    "converted": a generator on the coefficients converted from DDPM, told either that schedule's timestep, as when
    coefficients are "readjusted", or the one at which it has seen such states.
    """
    switch = cell.get("switch")
    if switch == "converted":
        converted = dataclasses.replace(learning, schedule=by_config(**CONVERTED))
        if cell["told"] == "own":
            return network, converted, {}
        return matched(model_fn(network), learning.schedule, converted.schedule), converted, {}
    settings = {name: cell[name] for name in ("start", "sample_as") if name in cell}
    settings |= {"clip": PUBLISHED_CLIP} if switch == "clip ±1" else {}
    settings |= {"sum_scale": 0.01} if switch == "start noise 0.1" else {}
    return network, learning, settings


# --- pictures -------------------------------------------------------------------------------------------------------


def degraded(degradation: str, image: Tensor, name: str) -> Tensor:
    """(3, H, W) in [0, 1] as the test set has it: settings, drops and sensor noise keyed by the picture's name."""
    return DEGRADATIONS[degradation](image[None], lambda purpose: KeyedNoise(TEST_SEED, [name], purpose))[0]


@lru_cache(maxsize=8)
def test_pairs(degradation: str, side: int, limit: int = 0) -> tuple[tuple[str, Tensor, Tensor], ...]:
    """(id, degraded, clean) of the held-out photographs, pictures (3, H, W) in [0, 1]."""
    ids, pictures = photographs("test", side, limit)
    return tuple((i, degraded(degradation, x, i), x) for i, x in zip(ids, pictures, strict=True))


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


# --- scores ---------------------------------------------------------------------------------------------------------


def scored(pairs: Sequence[tuple[str, Tensor, Tensor]], method: Callable[[Tensor, str], Tensor]) -> Metrics:
    """Every protocol's values, one per picture, of `method(degraded (3, H, W) in [0, 1], id)`."""
    found: dict[str, list[float]] = {name: [] for name in PROTOCOLS}
    for name, given, clean in pairs:
        output = method(given, name)[None]
        for protocol in PROTOCOLS:
            found[protocol] += protocols.score(protocol, output, clean[None]).tolist()
    return found


def restored(
    network: nn.Module, learning: Learning, steps: int, settings: Mapping[str, Any], image: Tensor, name: str
) -> Tensor:
    """(3, H, W) in [0, 1], its noise keyed by its name."""
    return to_unit(restore(network, to_model(image)[None], [name], learning, steps, **settings))[0]


def _generated(
    network: Model | nn.Module, learning: Learning, steps: int, settings: Mapping[str, Any], ids: range
) -> Tensor:
    return generate(network, learning, ids, steps, **settings)


def _spread(
    seeds: Sequence[int],
    network: nn.Module,
    learning: Learning,
    task: TaskConfig,
    cell: Mapping[str, Any],
    k: int | None,
) -> Metrics:
    """How far restorations of one picture under different noise lie apart (claim R6)."""
    spread = []
    for i, given, _ in test_pairs(task.degradation, task.side, k or min(DIVERSE, task.limit or DIVERSE)):
        I_in = to_model(given)[None]
        runs = [restore(network, I_in, [i], learning, cell["steps"], seed, eta=cell["eta"]) for seed in seeds]
        spread.append(to_unit(torch.cat(runs)).std(dim=0).mean().item())
    return {SPREAD: spread}
