"""What notebook 05 measures: one cell, one list of values per image. The cells stand in grid.toml, their settings in
settings.toml. Everything runs in fp32; noise is keyed by (seed, image), so a row does not depend on its batch."""

import copy
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro import paths
from repro.adir import guidance, pipeline
from repro.adir.adapt import SCHEDULE, Adaptation, adapt, load_factors, recoloured, save_factors, with_factors
from repro.adir.guidance import operator
from repro.adir.pipeline import GUIDANCE, Index, as_image
from repro.data import pack
from repro.data.images import center_crop, resize, to_model, to_unit
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import sample as last_of
from repro.engine.checkpoint import DEVICE, load_checkpoint, weights_hash
from repro.engine.evaluation import Sample, Tolerance
from repro.engine.records import Values
from repro.engine.rng import KeyedNoise
from repro.engine.train import digest
from repro.metrics import protocols
from repro.metrics.features import paired_kid

LPIPS, PSNR, KID = "lpips/alex-v0.1", "psnr/rgb", "kid-paired/efficientnet-lite0"
RESIDUAL, OVERLAP = "residual/rms01", "overlap/top20"
MEAN_ERROR, SPREAD_ERROR = "posterior/mean-error", "posterior/spread-error"
MEASURE_SEED = 11
TOLERANCE = {
    **dict.fromkeys((LPIPS, PSNR, KID, RESIDUAL), Tolerance(absolute=2e-3, relative=1e-2)),
    OVERLAP: Tolerance(absolute=0.051, relative=0),  # one neighbour of twenty may change places
    **dict.fromkeys((MEAN_ERROR, SPREAD_ERROR), Tolerance(absolute=1e-6, relative=1e-3)),
}
# Sets and tasks for whose first image factors ship, in the folder lora of the checkpoint: the first-k check uses them.
SHIPPED = (("adapted", "sr4"), ("adapted", "box"), ("unseen", "sr4"))
SETTINGS = paths.read_toml(Path(__file__).with_name("settings.toml"))
PROFILES: dict[str, dict[str, Any]] = {
    name: {key: by[name] for key, by in SETTINGS["profile"].items()} for name in ("small", "smoke", "paper")
}

# Squares of scikit-image's textures at half size, (texture, row, column) of four by four: what is measured lies right
# of what neighbours are taken from, and no pixel is in both.
TEXTURES = ("brick", "grass", "gravel")
NEAR = tuple(product(TEXTURES, range(4), range(2)))
OTHERS = ((2, 3), (3, 3), (0, 2), (1, 2), (2, 2), (3, 2))
SQUARES = {
    "unseen": tuple(product(TEXTURES, range(2), [3])),
    "recurring": tuple(("brick", *place) for place in OTHERS),
    "irregular": tuple((name, *place) for name in TEXTURES[1:] for place in OTHERS[:3]),
}


@lru_cache(maxsize=8)
def images(which: str, profile: str = "small") -> tuple[tuple[str, ...], Tensor]:
    """Names and (N, 3, size, size) in [-1, 1] of a set: "photos", "recoloured" (the same in other colours), "adapted"
    (the first of them), "large" (the same at twice the size), or `SQUARES` of textures, not trained on here."""
    now = PROFILES[profile]
    size, side = (now[k] * (2 if which == "large" else 1) for k in ("size", "side"))
    if which in SQUARES:
        found = squares(SQUARES[which][: now["squares"]], size)
    else:
        chosen = pack.photos("test")[: now["test" if which in ("photos", "recoloured") else "adapted"]]
        found = {p.id: center_crop(resize(pack.load(p), side), size) for p in chosen}
    x = to_model(torch.stack([*found.values()]))
    if which == "recoloured":
        x = recoloured(x, KeyedNoise(MEASURE_SEED, [*found], "adir/recoloured"))
    return tuple(found), x


def squares(places: Iterable[tuple[str, int, int]], size: int) -> dict[str, Tensor]:
    """Name -> (3, size, size) in [0, 1] of squares of textures."""
    import skimage.data

    greys = {t: torch.from_numpy(np.ascontiguousarray(getattr(skimage.data, t)())) / 255 for t in TEXTURES}
    wholes = {texture: resize(grey.float().expand(3, -1, -1), 4 * size) for texture, grey in greys.items()}
    names = "{}-near-{}0", "{}-near-{}1", "{}-{}2", "{}-{}"  # by column
    return {names[j].format(t, i): wholes[t].unfold(1, size, size).unfold(2, size, size)[:, i, j] for t, i, j in places}


@lru_cache(maxsize=2)
def index(which: str, profile: str = "small") -> Index:
    """What neighbours are retrieved from: the gallery, and for textures also the squares `NEAR`."""
    gallery = pipeline.gallery()
    if which not in SQUARES:
        return gallery
    near = squares(NEAR, PROFILES[profile]["size"])
    vectors = torch.cat([pipeline.index_images(near, gallery.embedding).vectors, gallery.vectors])
    read = lambda name: near[name] if name in near else gallery.read(name)  # noqa: E731
    return Index((*near, *gallery.names), vectors, read, gallery.embedding)


def measured(which: str, task: str, profile: str = "small") -> tuple[tuple[str, ...], Tensor, Tensor]:
    """(names, x, y) of a set under a task, its noise keyed by the image's name."""
    names, x = images(which, profile)
    return names, x, operator(task, x.shape[-1]).measure(x, KeyedNoise(MEASURE_SEED, names, f"adir/measure/{task}"))


def setting_of(cell: Mapping[str, Any], profile: str = "small") -> dict[str, Any]:
    """What a cell's `setting` means for its `task` and `set`: `guidance` and `adaptation`, `steps` and `seed` of
    sampling, `k` neighbours, and the task that A is taken for (`assumed`)."""
    now, changes = PROFILES[profile], dict(SETTINGS["setting"][cell["setting"]])
    task, k = cell.get("task", "sr4"), now["texture_k" if cell.get("set") in SQUARES else "k"]
    made = {"guidance": GUIDANCE[task], "adaptation": Adaptation(iterations=now["iterations"], lr=now["lr"])}
    for name, base in made.items():
        own = {f.name: changes.pop(f.name) for f in dataclasses.fields(base) if f.name in changes}
        made[name] = dataclasses.replace(base, **own)
    return made | {"steps": now["steps"], "seed": 0, "k": k, "assumed": task, **changes}


def factors_of(experiment: str, cell: Mapping[str, Any], i: int, profile: str) -> dict[str, Tensor]:
    """The LoRA factors of one image of a cell: shipped, kept in runs/, or made now and kept; the name of their file is
    a hash of all that they depend on."""
    chosen, (names, x, y) = setting_of(cell, profile), measured(cell["set"], cell["task"], profile)
    about = {"adaptation": dataclasses.asdict(chosen["adaptation"]), "to": cell["adapt"], "k": chosen["k"]}
    about |= {"task": [cell["task"], chosen["assumed"]], "image": [cell["set"], names[i], x.shape[-1]]}
    about |= {"weights": weights_hash(experiment)}
    kept, file = paths.runs() / "adir" / "lora", f"{digest(about)}.safetensors"
    for folder in (paths.checkpoints() / experiment / "lora", kept):
        if (folder / file).exists():
            return load_factors(folder / file)
    near = [as_image(y[i : i + 1], operator(chosen["assumed"], x.shape[-1]))[0]]
    if cell["adapt"] != "itself":
        near = index("unseen" if cell["set"] in SQUARES else "gallery", profile).nearest(near[0], chosen["k"]).images
    *_, last = adapt(private(experiment), near, chosen["adaptation"], crop=PROFILES[profile]["size"])
    return load_factors(save_factors(kept / file, last.factors, chosen["adaptation"].alpha, experiment))


def reconstruction(
    network: nn.Module, cell: Mapping[str, Any], names: Sequence[str], y: Tensor, profile: str, **other: Any
) -> Tensor:
    """(N, 3, H, W) of a cell's method and setting for measurements y (N, …); `other`: steps or seed instead."""
    chosen = setting_of(cell, profile) | other
    op = operator(chosen["assumed"], images(cell["set"], profile)[1].shape[-1])
    noise = KeyedNoise(chosen["seed"], names, "adir/sample", DEVICE)
    given = (model_fn(network), y.to(DEVICE), op, SCHEDULE, noise)
    if cell["method"] == "ddrm":
        *_, (x, _) = guidance.ddrm(*given, min(guidance.STEPS, chosen["steps"]))
        return x.cpu()
    guided_by = guidance.DPS if cell["method"] == "dps" else chosen["guidance"]
    return last_of(guidance.reconstruct(*given, guided_by, chosen["steps"])).cpu()


def outputs(experiment: str, cell: Mapping[str, Any], k: int | None, profile: str) -> tuple[Tensor, Tensor, Tensor]:
    """(x, y, estimate) of a cell, x and the estimate (N, 3, H, W) in [-1, 1]."""
    names, x, y = (part[:k] for part in measured(cell["set"], cell["task"], profile))
    op = operator(cell["task"], x.shape[-1])
    if experiment == "baseline-input":
        return x, y, op.transpose(y, "upsampling") if op.back is not None else y
    if experiment == "baseline-pseudo-inverse":
        return x, y, op.pseudo_inverse(y)
    network = private(experiment)
    if cell["adapt"] == "none":
        return x, y, reconstruction(network, cell, names, y, profile)
    found, texture = [], {**cell, "set": "unseen", "adapt": "neighbours"}
    for i, name in enumerate(names):
        # "foreign": ordinary photographs under the factors of the first texture, which shows what was forgotten
        adapted_as = (texture, 0) if cell["adapt"] == "foreign" else (cell, i)
        adapted = with_factors(network, factors_of(experiment, *adapted_as, profile))
        found.append(reconstruction(adapted, cell, [name], y[i : i + 1], profile))
    return x, y, torch.cat(found)


@lru_cache(maxsize=2)
def private(experiment: str) -> nn.Module:
    """A copy of a checkpoint's network that adaptation may write on."""
    return copy.deepcopy(load_checkpoint(experiment)).to(DEVICE)


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, profile: str) -> Mapping[str, Values]:
    """metric -> values of a cell, one an image."""
    if experiment == "oracle-posterior":
        chosen = setting_of(cell)["guidance"]
        errors = [guidance.distance(chosen, cell["steps"], seed) for seed in range(5)[:k]]
        return {MEAN_ERROR: [e[0] for e in errors], SPREAD_ERROR: [e[1] for e in errors]}
    if experiment == "retrieval-efficientnet":
        task = f"box{cell['blur']}" if cell["blur"] > 0 else f"sr{-cell['blur']}"
        _, x, y = measured("photos", task, profile)
        sides = (to_unit(x[:k]), as_image(y[:k], operator(task, x.shape[-1])))
        near = [[{*index("gallery", profile).nearest(image, 20).names} for image in images] for images in sides]
        return {OVERLAP: [len(a & b) / 20 for a, b in zip(*near, strict=True)]}  # A6
    x, y, estimate = outputs(experiment, cell, k, profile)
    op, unit, truth = operator(cell["task"], x.shape[-1]), to_unit(estimate), to_unit(x)
    found: dict[str, Values] = {name: protocols.score(name, unit, truth).tolist() for name in (LPIPS, PSNR)}
    found[RESIDUAL] = ((op.A(to_model(unit)) - y).square().flatten(1).mean(dim=1).sqrt() / 2).tolist()
    if k is None and len(x) > 2:
        found[KID] = paired_kid(pipeline.efficientnet(unit), pipeline.efficientnet(truth)).tolist()
    return found


def sample(experiment: str, cell: Mapping[str, Any], profile: str) -> Sample | None:
    """How many images a cell has, how many of them the check repeats, and the data's hash."""
    if profile == "paper":  # other data and weights: see `repro.adir.study.paper`
        return None
    if experiment == "oracle-posterior":
        return Sample(5, 1, hashlib.sha256(b"gaussian").hexdigest())
    names = images(which := cell.get("set", "photos"), profile)[0]
    files = {name: "" if which in SQUARES else pack.file_hash(pack.image(name).path) for name in names}
    text = f"adir {which} {profile} {MEASURE_SEED}" + "".join(name + file for name, file in files.items())
    data = hashlib.sha256(text.encode()).hexdigest()
    if "adapt" not in cell:  # a baseline, or retrieval
        return Sample(len(names), 2 if "set" in cell else 1, data)
    here = cell["adapt"] == "none" or (cell["adapt"] == "neighbours" and (which, cell["task"]) in SHIPPED)
    k = int(here and cell["setting"] == "default" and cell["set"] != "large" and cell["method"] != "dps")
    return Sample(len(names), k, data, ships=k > 0)
