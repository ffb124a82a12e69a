"""The trained networks of notebook 03, read from `experiments.toml`; the published ones come from `paper`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from repro.data import pack
from repro.data.images import resize, to_model, to_unit
from repro.ddpm.tasks import fashion_tensor
from repro.engine.recipe import Recipe
from repro.engine.registry import Experiment
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.metrics import protocols
from repro.rddm.model import Layout, RDDMNet
from repro.rddm.process import Objective
from repro.rddm.sampling import Net
from repro.rddm.schedules import by_config
from repro.rddm.study import paper
from repro.rddm.tasks import DEGRADATIONS, Learning, PairTask, Start, generation_task, restoration_task

_SPEC: Mapping[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
STRATEGIES, BASELINES, LONG = ("smres", "smn", "smresn"), ("regression", "sr3"), ("long", "regression-long")
TEST_SEED = 7  # of the test photographs' degradations


@dataclass(frozen=True)
class TaskConfig:
    """One task of a profile."""

    name: str
    degradation: str  # of `repro.rddm.tasks.DEGRADATIONS`, or "none" (generation: y = 0)
    network: Mapping[str, Any]  # arguments of `repro.rddm.model.RDDMNet`, objective and layout left out
    recipe: Recipe
    steps: int  # sampling steps of the main table
    schedule: str = "restoration"  # of `paper.SCHEDULES`
    crop: int = 64  # side of the training crops in pixels
    side: int = 256  # the shorter side of whole images; 0: as they come
    n: int = 0  # generation: samples in a set, and sets
    replicates: int = 1
    k: int = 1  # samples, or images, of the check
    limit: int = 0  # images used at most; 0: all


@dataclass(frozen=True)
class Variant:
    """One way to learn a task."""

    label: str
    objective: Objective
    start: Start = "degraded"
    layout: Layout = "one"
    schedule: str = ""  # of `paper.SCHEDULES`, in the place of the task's
    halves: Mapping[str, int] = field(default_factory=dict)  # task -> base channels of each of two networks
    times: int = 1  # as many images as the task's recipe says
    last: float = 0.0  # share of samples trained at the last timestep, see `repro.rddm.tasks.Learning`


def _task(name: str, spec: Mapping[str, Any]) -> TaskConfig:
    network = {k: tuple(v) if isinstance(v, list) else v for k, v in _SPEC["network"][spec["network"]].items()}
    return TaskConfig(**{**spec, "name": name, "network": network, "recipe": Recipe(**spec["recipe"])})


_TASKS = {profile: {n: _task(n, s) for n, s in found.items()} for profile, found in _SPEC["task"].items()}
USE = _TASKS.pop("use")
SMALL, SMOKE = _TASKS["small"], _TASKS["smoke"]
SEEDS = {"small": (0, 1, 2, 3), "smoke": (0, 1)}  # noise seeds of the diversity rows
VARIANTS = {name: Variant(**spec) for name, spec in _SPEC["variant"].items()}
# task -> (variant, whether it ships)
TRAINED: dict[str, tuple[tuple[str, bool], ...]] = {
    task: tuple((v, kind == "ships") for kind in ("ships", "recorded") for v in found[kind])
    for task, found in _SPEC["trained"].items()
}


def profile(name: str) -> dict[str, TaskConfig]:
    """The tasks of the profile of that name."""
    if name not in _TASKS:
        raise ReproError(f"unknown profile {name!r}: there are {', '.join(_TASKS)}, paper")
    return _TASKS[name]


def name_of(task: str, variant: str, seed: int = 0, profile: str = "small") -> str:
    """An experiment's name, e.g. "rddm-lowlight-smres-s0"."""
    return f"rddm-{task}-{variant}-s{seed}" if profile == "small" else f"rddm-{task}-{profile}-{variant}-s{seed}"


def learning_of(task: TaskConfig, variant: str) -> Learning:
    """What a variant of a task learns, and by which coefficients it is trained and sampled."""
    chosen = VARIANTS[variant]
    schedule = by_config(**paper.SCHEDULES[chosen.schedule or task.schedule])
    return Learning(chosen.objective, schedule, "l2", chosen.start, chosen.last)


def build_network(task: TaskConfig, variant: str) -> RDDMNet:
    """The untrained network."""
    chosen = VARIANTS[variant]
    width = chosen.halves.get(task.name)
    layout = "two" if width and chosen.layout == "one" else chosen.layout
    network = {**task.network, "base_channels": width or task.network["base_channels"]}
    return RDDMNet(objective=chosen.objective, layout=layout, **network)


@lru_cache(maxsize=8)
def photographs(split: str, side: int, limit: int = 0) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Ids and images (3, H, W) in [0, 1] of a split, the shorter side resized to `side` (0: as they come)."""
    chosen = pack.photos(split)[: limit or None]
    images = [pack.load(p) for p in chosen]
    return tuple(p.id for p in chosen), tuple(resize(x, side) if side else x for x in images)


def degraded(degradation: str, image: Tensor, name: str, seed: int = TEST_SEED) -> Tensor:
    """(3, H, W) in [0, 1] as the test set has it: settings, drops and sensor noise keyed by the image's name."""
    return DEGRADATIONS[degradation](image[None], lambda purpose: KeyedNoise(seed, [name], purpose))[0]


def training_task(task: TaskConfig, variant: str) -> PairTask:
    """Training set and loss of a variant."""
    learning = learning_of(task, variant)
    if task.degradation == "none":
        images, _, ids = fashion_tensor("train")
        return generation_task(images, ids, learning)
    ids, images = photographs("train", task.side, task.limit)
    return restoration_task(images, ids, task.degradation, task.crop, learning)


def _score(task: TaskConfig, network: nn.Module) -> dict[str, str]:
    """PSNR and LPIPS on the validation photographs, for the card: of the degraded input and of the result."""
    net, found = Net(network, learning_of(task, "use"), task.steps), {}
    for name, clean in zip(*photographs("validation", task.side), strict=True):
        given = degraded(task.degradation, clean, name, seed=0)[None]
        output = to_unit(net.restore(to_model(given), [name]))
        for protocol in ("psnr/rgb", "lpips/alex-v0.1"):
            for what, image in (("input", given), ("result", output)):
                score = protocols.score(protocol, image, clean[None]).item()
                found.setdefault(f"{protocol}, {what}, validation", []).append(score)
    return {what: f"{sum(values) / len(values):.3f}" for what, values in found.items()}


def _experiment(profile: str, task: TaskConfig, variant: str, ships: bool) -> Experiment:
    what = {"fashion": "Fashion-MNIST generation", "lowlight": "low light", "raindrop": "raindrops"}[task.name]
    recipe = replace(task.recipe, images=task.recipe.images * VARIANTS[variant].times)
    return Experiment(
        name_of(task.name, variant, 0, profile), "rddm", task.name, variant,
        "fashion" if task.degradation == "none" else "photos", profile, seed=0, recipe=recipe,
        summary=f"{what}: {VARIANTS[variant].label}", ships=ships, build=partial(build_network, task, variant),
        task=partial(training_task, task, variant), score=partial(_score, task) if variant == "use" else None,
    )  # fmt: skip


EXPERIMENTS: tuple[Experiment, ...] = (
    *(_experiment("small", SMALL[t], v, ships) for t, found in TRAINED.items() for v, ships in found),
    *(_experiment("small", task, "use", True) for task in USE.values()),
    *(_experiment("smoke", SMOKE[t], v, False) for t in SMOKE for v, _ in TRAINED[t]),
    *(paper.experiment(setting) for setting in paper.measured().values()),
)
