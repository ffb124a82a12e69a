"""What notebook 03 measures: whole held-out photographs, sets of generated images, and what claims R4 and R6 compare.

Each test photograph is degraded once, keyed by its name; noise is keyed by (seed, name). Everything runs in fp32.

At paper scale the report's table is measured in the cells of the small profile's: LOL for low light, RainDrop, CelebA
for generation. A restoration's input is squeezed to a square and the ground truth resized to the output; a "full-size"
cell is the same network on the images' own size. Protocol names say the rest (Y or RGB, rounded or not).
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import to_model, to_unit
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import start_noise
from repro.ddpm.study.experiments import CLASSIFIER, MAIN
from repro.ddpm.study.measure import FID, IS, KID, NEAREST, data_hash, replicated
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.evaluation import Sample, Tolerance
from repro.engine.records import Values
from repro.engine.registry import DEVICE, find
from repro.metrics import features, protocols
from repro.metrics.features import SetMetrics
from repro.metrics.pixel import imresize
from repro.rddm.samplers import Net, matched
from repro.rddm.schedules import by_config
from repro.rddm.study import baselines, probes
from repro.rddm.study import experiments as own
from repro.rddm.study.experiments import PAPER, TaskConfig, learning_of, name_of, profile
from repro.rddm.tasks import LAWS

PUBLISHED = ("psnr/y-uint8", "ssim/y-uint8-wang", "psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1")  # at paper scale
PROTOCOLS = ("psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1", "psnr/y", "ssim/y-wang")
SPREAD = "std/rgb01"  # standard deviation over noise seeds of a pixel's value in [0, 1], mean over the image
DIFFERENCE, MEAN_DIFFERENCE = "max_abs_difference", "mean_abs_difference"
FULL_SIZE = 8  # photographs measured as they come
DIVERSE = 8  # photographs restored from several noises
COMPARED = 8  # samples whose pixels are compared
QUICK = 10  # most steps of what the smoke profile measures
STARTS = (990, 950, 900, 800, 700)  # where SM-N may start: at T - 1 = 999 it divides by 1 - u_T = 0
BATCH = 250  # generated at once at paper scale
# Metrics of the paper profile under the names that tables look for.
ALIASES = {
    "psnr/y-uint8": "psnr/y",
    "ssim/y-uint8-wang": "ssim/y-wang",
    **{f"{m}/inception": f"{m}/fashion-classifier" for m in ("fid", "kid", "is")},
}
_USUAL = Tolerance(absolute=2e-3, relative=5e-3)
# Where two samplers are said to agree, or the number is small, the usual tolerance would let it be anything.
TOLERANCE = {
    **dict.fromkeys((*PROTOCOLS, FID, KID, IS, NEAREST), _USUAL),
    SPREAD: Tolerance(absolute=2e-4, relative=1e-2),
    DIFFERENCE: Tolerance(absolute=1e-5, relative=0.05),
    MEAN_DIFFERENCE: Tolerance(absolute=1e-6, relative=0.05),
}


def sample(experiment: str, cell: Mapping[str, Any], chosen: str) -> Sample | None:
    """How many images a cell is measured on; None where it is not measured in the chosen profile."""
    if chosen == "paper":
        found = published(experiment, cell)
        given = found and own.read(found[0], "test", found[1])
        return found and Sample(n := found[0].n or given.size, min(found[0].k, n), given.digest())
    fashion, task = profile(chosen)["fashion"], cell.get("task")
    if chosen == "smoke" and task and (cell.get("steps", 0) > QUICK or task.endswith(("full-size", "wide"))):
        return None
    if task is None:  # claim R6's identity: no data and no network involved
        return Sample(1, 1, hashlib.sha256(b"").hexdigest())
    if task in ("generation", "fashion-switch", "transfer", "equality"):
        n, k = (COMPARED, 2) if task == "equality" else (fashion.n, fashion.k)
        return Sample(n, k, data_hash()) if trained(CLASSIFIER) else None
    about = _task(cell, chosen)
    if task.endswith("full-size"):
        return Sample(FULL_SIZE, 0, _photo_hash(about.degradation, 0, FULL_SIZE))
    n = about.limit or len(pack.photos("test"))
    n = min(DIVERSE, n) if task.endswith("diversity") else n
    return Sample(n, about.k, _photo_hash(about.degradation, about.side, about.limit))


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, chosen: str = "small") -> Mapping[str, Values]:
    """One cell of the grid on the first `k` images (None: all)."""
    if chosen == "paper":
        return _at_paper_scale(experiment, cell, k)
    fashion, name = profile(chosen)["fashion"], cell.get("task")
    if name is None:
        return {DIFFERENCE: probes.indi_gap()}
    if name == "equality":
        x_T, dtype = start_noise(range(k or COMPARED), (1, 28, 28)), getattr(torch, cell["dtype"])
        steps, rule, other = cell["steps"], cell["rule"], cell["with"]
        *_, apart = probes.gaps(load_checkpoint(MAIN), x_T, steps, rule, other, clip=cell["clip"], dtype=dtype)
        apart = apart.flatten(1)
        return {DIFFERENCE: apart.amax(dim=1).tolist(), MEAN_DIFFERENCE: apart.mean(dim=1).tolist()}
    if name == "transfer":
        settings = (cell["steps"], cell["rule"], cell["clip"])

        def drawn(ids: range) -> Tensor:
            parts = start_noise(ids, (1, 28, 28)).split(100)
            return torch.cat([probes.draw(load_checkpoint(MAIN), x_T, *settings) for x_T in parts])

        return replicated(drawn, fashion.n, fashion.replicates, k)
    task = _task(cell, chosen)
    pairs = partial(test_pairs, task.degradation, task.side)
    if experiment.startswith("baseline-"):
        run = baselines.BASELINES[task.name][experiment.removeprefix("baseline-")]
        return scored(pairs(k or task.limit), lambda x, _: run(x))
    learning = learning_of(task, find(experiment).variant)
    net, settings = switched(Net(load_checkpoint(experiment), learning, cell["steps"]), cell)
    if task.degradation == "none":
        return replicated(lambda ids: net.generate(ids, **settings), fashion.n, fashion.replicates, k)
    if name.endswith("diversity"):
        some = pairs(k or min(DIVERSE, task.limit or DIVERSE))
        return {SPREAD: [_spread(net, to_model(x)[None], i, cell["eta"], own.SEEDS[chosen]) for i, x, _ in some]}
    full = name.endswith("full-size")
    some = test_pairs(task.degradation, 0, k or FULL_SIZE) if full else pairs(k or task.limit)
    return scored(some, lambda x, name: to_unit(net.restore(to_model(x)[None], [name], **settings))[0])


def _task(cell: Mapping[str, Any], chosen: str) -> TaskConfig:
    name = cell["task"].split("-")[0]
    if cell["task"].endswith("wide"):
        return own.USE[name]
    return profile(chosen)["fashion" if name == "generation" else name]


def switched(net: Net, cell: Mapping[str, Any]) -> tuple[Net, dict[str, Any]]:
    """Choices that the report leaves to the code, one changed at a time (claim R2): network, settings of its methods.

    "converted": a generator on the coefficients converted from DDPM, given either that schedule's timestep, as when
    coefficients are "readjusted", or the one at which it was trained on such states.
    """
    switch, learning = cell.get("switch"), net.learning
    if switch == "converted":
        converted = replace(learning, schedule=by_config(**own.SCHEDULES["converted"]))
        model = net.network
        if cell["told"] != "own":
            model = matched(model_fn(model), learning.schedule, converted.schedule)
        return Net(model, converted, net.steps), {}
    if (head := cell.get("sample_as")) is not None:
        both, at = net.network, int(head == "noise")  # SM-Res or SM-N without retraining

        def one(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return both(x, t, cond).sample.chunk(2, dim=1)[at]

        net = Net(one, replace(learning, objective=head), net.steps)
    settings = {"start": cell["start"]} if "start" in cell else {}
    settings |= {"clip": 1.0} if switch == "clip ±1" else {}
    settings |= {"sum_scale": 0.01} if switch == "start noise 0.1" else {}
    return net, settings


@lru_cache(maxsize=8)
def test_pairs(degradation: str, side: int, limit: int = 0) -> tuple[tuple[str, Tensor, Tensor], ...]:
    """(id, degraded, clean) of the held-out photographs, images (3, H, W) in [0, 1]."""
    ids, images = own.photographs("test", side, limit)
    return tuple((i, own.degraded(degradation, x, i), x) for i, x in zip(ids, images, strict=True))


@lru_cache(maxsize=8)
def _photo_hash(degradation: str, side: int, limit: int) -> str:
    """Of the test photographs' files, the size they are brought to, the degradation's law and its seed."""
    law = f"{degradation} {LAWS[degradation]}"
    total = hashlib.sha256(f"side {side} limit {limit} seed {own.TEST_SEED} {law}".encode())
    for picture in pack.photos("test")[: limit or None]:
        total.update(f"{picture.id} {pack.file_hash(picture.path)}".encode())
    return total.hexdigest()


def scored(
    pairs: Iterable[tuple[str, Tensor, Tensor]],
    method: Callable[[Tensor, str], Tensor],
    names: Sequence[str] | None = None,
) -> dict[str, list[float]]:
    """The values of protocols (None: `PROTOCOLS`), one per image, of `method(degraded (3, H, W) in [0, 1], id)`."""
    found: dict[str, list[float]] = {name: [] for name in names or PROTOCOLS}
    for name, given, clean in pairs:
        output = method(given, name)[None]
        for protocol, values in found.items():
            values += protocols.score(protocol, output, clean[None]).tolist()
    return found


def _spread(net: Net, y: Tensor, name: str, eta: float, seeds: Sequence[int]) -> float:
    """How far restorations of one image under different noise lie apart (claim R6)."""
    runs = [net.restore(y, [name], seed=seed, eta=eta) for seed in seeds]
    return to_unit(torch.cat(runs)).std(dim=0).mean().item()


# -- at paper scale ---------------------------------------------------------------------------------------------------


def published(experiment: str, cell: Mapping[str, Any]) -> tuple[TaskConfig, bool] | None:
    """The published task of a cell, and whether images keep their own size; None where it is not measured."""
    name = str(cell.get("task", ""))
    plain = name.removesuffix("-full-size")
    for task in PAPER.values():
        ours = [name_of(task.name, variant, 0, "paper") for variant in task.variants]
        if task.cells == plain and experiment in (*ours, "baseline-input") and any(map(trained, ours)):
            switched = "switch" in cell or cell.get("eta") or cell.get("steps", task.steps) != task.steps
            return None if switched else (task, plain != name)
    return None


def _at_paper_scale(experiment: str, cell: Mapping[str, Any], k: int | None) -> Mapping[str, Values]:
    """A restoration scored image by image, a generator by FID, KID and IS against the cropped test split; sampled as
    published: everything cut to ±1."""
    task, full = published(experiment, cell)  # type: ignore[misc]
    given, net = own.read(task, "test", full), None
    if experiment != "baseline-input":
        network = copy.deepcopy(load_checkpoint(experiment)).to(DEVICE)
        net = Net(network, learning_of(task, find(experiment).variant), task.steps)
    if task.n:
        reference = to_model(torch.stack(given.targets.several(torch.arange(given.size))))
        score = SetMetrics(lambda: features.inception(device=DEVICE), reference, BATCH)
        settings = {"shape": (3, task.side, task.side), "batch": BATCH, "device": DEVICE, "clip": 1.0}
        return score(net.generate(range(k or task.n), **settings))
    clean = own.read(task, "test", full=True).targets

    def pairs() -> Iterable[tuple[str, Tensor, Tensor]]:
        for i in range(min(k or given.size, given.size)):
            x, target = given.inputs[i], clean[i]
            same = target.shape == x.shape
            yield given.ids[i], x, target if same else imresize(target, tuple(x.shape[-2:])).float()

    def run(x: Tensor, name: str) -> Tensor:
        return x if net is None else to_unit(net.restore(to_model(x)[None].to(DEVICE), [name], clip=1.0))[0].cpu()

    return scored(pairs(), run, PUBLISHED)
