"""What notebook 05 measures: one cell, one list of values per image. The cells stand in grid.toml, their settings in
settings.toml. Everything runs in fp32; noise is keyed by (seed, image), so a row does not depend on its batch."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro import paths
from repro.adir import guidance, lora, operators, oracle, prior, retrieval
from repro.adir.adapt import Adaptation, adapted_to
from repro.adir.guidance import Guidance, reconstruct
from repro.adir.pipeline import guidance_of
from repro.data import pack
from repro.data.images import center_crop, resize, to_model, to_unit
from repro.ddpm.process import model_fn
from repro.ddpm.steps import sample as last_of
from repro.engine.checkpoint import load_checkpoint, weights_hash
from repro.engine.evaluation import Tolerance
from repro.engine.recipe import digest
from repro.engine.records import Values
from repro.engine.rng import KeyedNoise
from repro.engine.study import Sample
from repro.metrics import protocols

LPIPS, PSNR, KID = "lpips/alex-v0.1", "psnr/rgb", "kid-paired/efficientnet-lite0"
RESIDUAL, OVERLAP = "residual/rms01", "overlap/top20"
MEAN_ERROR, SPREAD_ERROR = "posterior/mean-error", "posterior/spread-error"
MEASURE_SEED = 11
TOLERANCE = {
    **dict.fromkeys((LPIPS, PSNR, KID, RESIDUAL), Tolerance(absolute=2e-3, relative=1e-2)),
    OVERLAP: Tolerance(absolute=0.051, relative=0),  # one neighbour of twenty may change places
    **dict.fromkeys((MEAN_ERROR, SPREAD_ERROR), Tolerance(absolute=1e-6, relative=1e-3)),
}
SHIPPED_LORA = "lora"  # folder of the prior's checkpoint: the factors that the first-k check runs with
CHECKED = ("sr4", "box")  # tasks whose first adaptation ships
TEXTURES = ("brick", "grass", "gravel")


SETTINGS = tomllib.loads(Path(__file__).with_name("settings.toml").read_text(encoding="utf-8"))


def profile_of(name: str) -> dict[str, Any]:
    """A profile's numbers."""
    return SETTINGS["profile"][name]


# -- images ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def images(which: str, profile: str = "small") -> tuple[tuple[str, ...], Tensor]:
    """Names and (N, 3, size, size) in [-1, 1] of a set: "photos", "adapted" (the first of them), "large" (the same at
    twice the size), "validation", "unseen" (textures that no network here was trained on)."""
    now = profile_of(profile)
    size, side = (now[k] * (2 if which == "large" else 1) for k in ("size", "side"))
    if which == "unseen":
        found = list(_textures(size, test=True))[: now["adapted"] + 1 if profile == "smoke" else None]
    else:
        keep = {"photos": now["test"], "validation": None}.get(which, now["adapted"])
        chosen = pack.photos("validation" if which == "validation" else "test")[:keep]
        found = [(p.id, center_crop(resize(pack.load(p), side), size)) for p in chosen]
    names, crops = zip(*found, strict=True)
    return names, to_model(torch.stack(crops))


def _textures(size: int, test: bool) -> Iterator[tuple[str, Tensor]]:
    """Squares of scikit-image's textures at half size: from the right half two test images each, from the left half
    eight neighbours each; no pixel is in both."""
    import skimage.data

    for name in TEXTURES:
        grey = torch.from_numpy(np.ascontiguousarray(getattr(skimage.data, name)())).float() / 255
        whole = resize(grey.expand(3, -1, -1), 4 * size)
        for i, top in enumerate(range(0, 4 * size, size)):
            if test and i < 2:
                yield f"{name}-{i}", whole[:, top : top + size, 3 * size :]
            for j in range(2 if not test else 0):
                yield f"{name}-near-{i}{j}", whole[:, top : top + size, j * size : (j + 1) * size]


@lru_cache(maxsize=2)
def index(which: str, profile: str = "small") -> retrieval.Index:
    """What neighbours are retrieved from: the gallery, and for textures also squares of their other half."""
    gallery = retrieval.gallery()
    if which != "unseen":
        return gallery
    names, squares = zip(*_textures(profile_of(profile)["size"], test=False), strict=True)
    near = retrieval.index_images(names, squares, gallery.embedding)
    read = lambda n: near.read(n) if n in names else gallery.read(n)  # noqa: E731
    vectors = torch.cat([near.vectors, gallery.vectors])
    return retrieval.Index((*names, *gallery.names), vectors, read, gallery.embedding)


@lru_cache(maxsize=16)
def _data_hash(which: str, profile: str) -> str:
    names, _ = images(which, profile)
    total = hashlib.sha256(f"adir {which} {profile} {MEASURE_SEED}".encode())
    for name in names:
        total.update(name.encode())
        if which != "unseen":
            total.update(pack.file_hash(pack.picture(name).path).encode())
    return total.hexdigest()


def task_operator(task: str, size: int) -> operators.Separable:
    """A task's operator for square images."""
    return operators.operator(task, size, size)


def measured(which: str, task: str, profile: str = "small") -> tuple[tuple[str, ...], Tensor, Tensor]:
    """(names, x, y) of a set under a task, its noise keyed by the image's name."""
    names, x = images(which, profile)
    op = task_operator(task, x.shape[-1])
    return names, x, op.measure(x, KeyedNoise(MEASURE_SEED, list(names), f"adir/measure/{task}"))


# -- methods -----------------------------------------------------------------------------------------------------------


def setting_of(name: str, profile: str = "small", task: str = "sr4") -> tuple[Guidance, Adaptation, dict[str, Any]]:
    """(guidance, adaptation, the rest: steps, seed, k for photographs and for textures, the operator assumed)."""
    now, changes = profile_of(profile), dict(SETTINGS["setting"][name])
    if changes.get("limit") is False:
        changes["limit"] = None
    guiding, adapting = (
        {f.name: changes.pop(f.name) for f in dataclasses.fields(kind) if f.name in changes}
        for kind in (Guidance, Adaptation)
    )
    adaptation = Adaptation(**{"iterations": now["iterations"], "lr": now["lr"], **adapting})
    k = changes.pop("k", None)
    other = {"steps": now["steps"], "seed": 0, "k": (k or now["k"], k or now["unseen_k"]), **changes}
    return dataclasses.replace(guidance_of(task), **guiding), adaptation, other


def factors_file(experiment: str, cell: Mapping[str, Any], i: int, profile: str) -> str:
    """The name under which an image's LoRA factors are kept: a hash of all that they follow from."""
    _, adaptation, other = setting_of(cell["setting"], profile)
    names, x = images(cell["set"], profile)
    about = {
        "adaptation": dataclasses.asdict(adaptation),
        "to": cell["adapt"],
        "k": other["k"][cell["set"] == "unseen"],
        "task": [cell["task"], other.get("assumed", cell["task"])],
        "image": [cell["set"], names[i], x.shape[-1]],
        "weights": weights_hash(experiment),
    }
    return f"{digest(about)}.safetensors"


def factors_of(network: nn.Module, experiment: str, cell: Mapping[str, Any], i: int, profile: str) -> dict[str, Tensor]:
    """The LoRA factors of one image of a cell: shipped, kept from before in runs/, or adapted now (and kept)."""
    kept, file = paths.runs() / "adir" / "lora", factors_file(experiment, cell, i, profile)
    for folder in (paths.checkpoints() / experiment / SHIPPED_LORA, kept):
        if (folder / file).exists():
            return lora.load(folder / file)[0]
    _, adaptation, other = setting_of(cell["setting"], profile)
    _, x, y = measured(cell["set"], cell["task"], profile)
    assumed = task_operator(other.get("assumed", cell["task"]), x.shape[-1])
    near, unseen = [retrieval.as_image(y[i : i + 1], assumed)[0]], cell["set"] == "unseen"
    if cell["adapt"] != "itself":
        near = index("unseen" if unseen else "gallery", profile).nearest(near[0], other["k"][unseen]).images
    factors, _ = adapted_to(network, near, prior.schedule(), adaptation, crop=profile_of(profile)["size"])
    return lora.load(lora.save(kept / file, factors, adaptation.alpha, experiment))[0]


def reconstruction(
    network: nn.Module, cell: Mapping[str, Any], names: list[str], y: Tensor, profile: str, size: int, **instead: Any
) -> Tensor:
    """(N, 3, size, size) of a cell's method and setting for measurements y (N, …); `instead`: other steps or seed."""
    chosen, _, other = setting_of(cell["setting"], profile, cell["task"])
    other |= instead
    op, noise = task_operator(other.get("assumed", cell["task"]), size), KeyedNoise(other["seed"], names, "adir/sample")
    given = (model_fn(network), y, op, prior.schedule(), noise)
    if cell["method"] == "ddrm":
        *_, (x, _) = guidance.ddrm(*given, min(guidance.STEPS, other["steps"]))
        return x
    if cell["method"] == "dps":
        return last_of(guidance.dps(*given, other["steps"]))
    return last_of(reconstruct(*given, chosen, other["steps"]))


def outputs(experiment: str, cell: Mapping[str, Any], k: int | None, profile: str) -> tuple[Tensor, Tensor, Tensor]:
    """(x, y, estimate) of a cell, x and the estimate (N, 3, H, W) in [-1, 1]."""
    names, x, y = measured(cell["set"], cell["task"], profile)
    names, x, y = list(names[:k]), x[:k], y[:k]
    op = task_operator(cell["task"], x.shape[-1])
    if experiment == "baseline-input":
        return x, y, op.transpose(y, "upsampling") if op.back is not None else y
    if experiment == "baseline-pseudo-inverse":
        return x, y, op.pseudo_inverse(y)
    network = private(experiment)
    run = partial(reconstruction, network, cell, profile=profile, size=x.shape[-1])
    if cell["adapt"] == "none":
        return x, y, run(names=names, y=y)
    found, texture = [], {**cell, "set": "unseen", "adapt": "neighbours"}
    for i, name in enumerate(names):
        # "foreign": ordinary photographs under the factors of the first texture, which shows what was forgotten
        adapted_as = (texture, 0) if cell["adapt"] == "foreign" else (cell, i)
        with lora.adapted(network, factors_of(network, experiment, *adapted_as, profile)):
            found.append(run(names=[name], y=y[i : i + 1]))
    return x, y, torch.cat(found)


@lru_cache(maxsize=2)
def private(experiment: str) -> nn.Module:
    """A copy of a checkpoint's network that adaptation may write on."""
    return copy.deepcopy(load_checkpoint(experiment)).requires_grad_(False)


# -- the study's two functions -----------------------------------------------------------------------------------------


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, profile: str) -> Mapping[str, Values]:
    """metric -> values of a cell, one an image."""
    if experiment == "oracle-posterior":
        chosen = setting_of(cell["setting"])[0]
        errors = [oracle.distance(chosen, cell["steps"], seed) for seed in range(5)[:k]]
        return {MEAN_ERROR: [e[0] for e in errors], SPREAD_ERROR: [e[1] for e in errors]}
    if experiment == "retrieval-efficientnet":
        return {OVERLAP: overlaps(cell["blur"], k, profile)}
    x, y, estimate = outputs(experiment, cell, k, profile)
    op = task_operator(cell["task"], x.shape[-1])
    unit, truth = to_unit(estimate), to_unit(x)
    error = (op.A(to_model(unit)) - y).square().flatten(1).mean(dim=1).sqrt() / 2
    found: dict[str, Values] = {
        LPIPS: protocols.score(LPIPS, unit, truth).tolist(),
        PSNR: protocols.score(PSNR, unit, truth).tolist(),
        RESIDUAL: error.tolist(),
    }
    if k is None and len(x) > 2:
        from repro.metrics.distribution import paired_kid

        found[KID] = paired_kid(retrieval.efficientnet(unit), retrieval.efficientnet(truth)).tolist()
    return found


def overlaps(blur: int, k: int | None, profile: str, count: int = 20) -> list[float]:
    """Share of the neighbours of x that are also neighbours of its box-blurred, noisy measurement (A6); a negative blur
    counts as downsampling."""
    task = f"box{blur}" if blur > 0 else f"sr{-blur}"
    _, x, y = measured("photos", task, profile)
    seen, gallery = retrieval.as_image(y, task_operator(task, x.shape[-1])), index("gallery", profile)
    pairs = [(set(gallery.nearest(v, count).names) for v in pair) for pair in zip(to_unit(x[:k]), seen, strict=False)]
    return [len(of_x & of_y) / count for of_x, of_y in pairs]


def sample(experiment: str, cell: Mapping[str, Any], profile: str) -> Sample | None:
    """How many images a cell has, how many of them the check repeats, and the data's hash."""
    if profile == "paper":  # other data and weights: see `repro.adir.paper`
        return None
    if experiment == "oracle-posterior":
        return Sample(5, 1, hashlib.sha256(b"gaussian").hexdigest())
    if experiment == "retrieval-efficientnet":
        return Sample(len(images("photos", profile)[0]), 1, _data_hash("photos", profile))
    n, data = len(images(cell["set"], profile)[0]), _data_hash(cell["set"], profile)
    if experiment.startswith("baseline"):
        return Sample(n, 2, data)
    adapted = cell["adapt"] != "none"
    quick = cell["setting"] == "default" and cell["set"] != "large" and cell["method"] != "dps"
    k = int(quick and (not adapted or (cell["adapt"] == "neighbours" and cell["task"] in CHECKED)))
    return Sample(n, k, data, ships=k > 0)
