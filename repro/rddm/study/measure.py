"""What notebook 03 measures: whole held-out photographs, sets of generated images, and what claims R4 and R6 compare.

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
from repro.ddpm.study.measure import FID, IS, KID, NEAREST, data_hash, replicated
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.evaluation import Tolerance
from repro.engine.records import Values
from repro.engine.registry import find
from repro.engine.study import Sample
from repro.metrics import protocols
from repro.rddm.samplers import PUBLISHED_CLIP
from repro.rddm.sampling import generate, restore
from repro.rddm.schedules import by_config
from repro.rddm.study import baselines, paper, probes
from repro.rddm.study.experiments import SEEDS, TEST_SEED, USE, TaskConfig, degraded, learning_of, photographs, profile
from repro.rddm.study.settings import SCHEDULES
from repro.rddm.tasks import Learning
from repro.rddm.transform import matched

Metrics = Mapping[str, Values]
PROTOCOLS = ("psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1", "psnr/y", "ssim/y-wang")
SPREAD = "std/rgb01"  # standard deviation over noise seeds of a pixel's value in [0, 1], mean over the image
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
    probes.DIFFERENCE: Tolerance(absolute=1e-5, relative=0.05),
    probes.MEAN_DIFFERENCE: Tolerance(absolute=1e-6, relative=0.05),
}


def sample(experiment: str, cell: Mapping[str, Any], chosen: str) -> Sample | None:
    """How many images a cell is measured on; None where it is not measured in the chosen profile."""
    if chosen == "paper":
        return paper.sample(experiment, cell)
    fashion, task = profile(chosen)["fashion"], cell.get("task")
    if chosen == "smoke" and task and (cell.get("steps", 0) > QUICK or task.endswith(("full-size", "wide"))):
        return None
    if task is None:  # claim R6's identity: no data and no network involved
        return Sample(1, 1, hashlib.sha256(b"").hexdigest())
    if task in ("generation", "fashion-switch", "transfer"):
        return Sample(fashion.n, fashion.k, data_hash()) if trained(CLASSIFIER) else None
    if task == "equality":
        return Sample(probes.COMPARED, 2, data_hash()) if trained(CLASSIFIER) else None
    about = _task(cell, chosen)
    if task.endswith("full-size"):
        return Sample(FULL_SIZE, 0, _photo_hash(about.degradation, 0, FULL_SIZE))
    n = about.limit or len(pack.photos("test"))
    n = min(DIVERSE, n) if task.endswith("diversity") else n
    return Sample(n, about.k, _photo_hash(about.degradation, about.side, about.limit))


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, chosen: str = "small") -> Metrics:
    """One cell of the grid on the first `k` images (None: all)."""
    if chosen == "paper":
        return paper.measure(experiment, cell, k)
    fashion, name = profile(chosen)["fashion"], cell.get("task")
    if name is None:
        return {"max_abs_difference": probes.indi_gap()}
    if name == "equality":
        return probes.gap(cell["steps"], cell["rule"], cell["clip"], cell["with"], cell["dtype"], k)
    if name == "transfer":
        make = partial(probes.drawn, cell["steps"], cell["rule"], cell["clip"])
        return replicated(make, fashion.n, fashion.replicates, k)
    task = _task(cell, chosen)
    pairs = partial(test_pairs, task.degradation, task.side, k or task.limit)
    if experiment.startswith("baseline-"):
        run = baselines.BASELINES[task.name][experiment.removeprefix("baseline-")]
        return scored(pairs(), lambda x, _: run(x))
    network, learning = load_checkpoint(experiment), learning_of(task, find(experiment).variant)
    if task.degradation == "none":
        model, learning, settings = _switched(network, learning, cell)
        generated = lambda ids: generate(model, learning, ids, cell["steps"], **settings)  # noqa: E731
        return replicated(generated, fashion.n, fashion.replicates, k)
    if name.endswith("diversity"):
        some = test_pairs(task.degradation, task.side, k or min(DIVERSE, task.limit or DIVERSE))
        again = partial(restore, network, learning=learning, steps=cell["steps"], eta=cell["eta"])
        return {SPREAD: [_spread(again, to_model(x)[None], i, SEEDS[chosen]) for i, x, _ in some]}
    if name.endswith("full-size"):
        pairs = partial(test_pairs, task.degradation, 0, k or FULL_SIZE)
    _, _, settings = _switched(network, learning, cell)

    def restored(image: Tensor, name: str) -> Tensor:
        return to_unit(restore(network, to_model(image)[None], [name], learning, cell["steps"], **settings))[0]

    return scored(pairs(), restored)


def _task(cell: Mapping[str, Any], chosen: str) -> TaskConfig:
    name = cell["task"].split("-")[0]
    if cell["task"].endswith("wide"):
        return USE[name]
    return profile(chosen)["fashion" if name == "generation" else name]


def _switched(
    network: nn.Module, learning: Learning, cell: Mapping[str, Any]
) -> tuple[Model | nn.Module, Learning, dict[str, Any]]:
    """Choices that the report leaves to the code, one changed at a time (claim R2).

    "converted": a generator on the coefficients converted from DDPM, given either that schedule's timestep, as when
    coefficients are "readjusted", or the one at which it was trained on such states.
    """
    switch = cell.get("switch")
    if switch == "converted":
        converted = dataclasses.replace(learning, schedule=by_config(**SCHEDULES["converted"]))
        if cell["told"] == "own":
            return network, converted, {}
        return matched(model_fn(network), learning.schedule, converted.schedule), converted, {}
    settings = {name: cell[name] for name in ("start", "sample_as") if name in cell}
    settings |= {"clip": PUBLISHED_CLIP} if switch == "clip ±1" else {}
    settings |= {"sum_scale": 0.01} if switch == "start noise 0.1" else {}
    return network, learning, settings


@lru_cache(maxsize=8)
def test_pairs(degradation: str, side: int, limit: int = 0) -> tuple[tuple[str, Tensor, Tensor], ...]:
    """(id, degraded, clean) of the held-out photographs, images (3, H, W) in [0, 1]."""
    ids, images = photographs("test", side, limit)
    return tuple((i, degraded(degradation, x, i), x) for i, x in zip(ids, images, strict=True))


@lru_cache(maxsize=8)
def _photo_hash(degradation: str, side: int, limit: int) -> str:
    """Of the test photographs' files, the size they are brought to, the degradation's law and its seed."""
    law = f"{degradation} {LAWS[degradation]}"
    total = hashlib.sha256(f"side {side} limit {limit} seed {TEST_SEED} {law}".encode())
    for picture in pack.photos("test")[: limit or None]:
        total.update(f"{picture.id} {pack.file_hash(picture.path)}".encode())
    return total.hexdigest()


def scored(pairs: Sequence[tuple[str, Tensor, Tensor]], method: Callable[[Tensor, str], Tensor]) -> Metrics:
    """Every protocol's values, one per image, of `method(degraded (3, H, W) in [0, 1], id)`."""
    found: dict[str, list[float]] = {name: [] for name in PROTOCOLS}
    for name, given, clean in pairs:
        output = method(given, name)[None]
        for protocol in PROTOCOLS:
            found[protocol] += protocols.score(protocol, output, clean[None]).tolist()
    return found


def _spread(again: Callable[..., Tensor], I_in: Tensor, name: str, seeds: Sequence[int]) -> float:
    """How far restorations of one image under different noise lie apart (claim R6)."""
    runs = [again(I_in, [name], seed=seed) for seed in seeds]
    return to_unit(torch.cat(runs)).std(dim=0).mean().item()
