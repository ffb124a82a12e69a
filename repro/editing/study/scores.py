"""Scores of notebook 02's edits per photograph: protocols against the target, strengths of effects, shares of KID."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from repro.editing.study import strength
from repro.editing.study.benchmark import Split
from repro.engine.evaluation import Tolerance
from repro.engine.records import Values
from repro.metrics import distribution, protocols
from repro.metrics.features import FeatureNet, efficientnet_lite0, extract, inception

Metrics = Mapping[str, Values]
Method = Callable[[Split, Sequence[str]], Tensor]  # (crops, tasks) -> edited images
L1, SSIM, LPIPS = "l1/rgb01", "ssim/rgb-wang", "lpips/alex-v0.1"
PROTOCOLS = (L1, SSIM, LPIPS)
KID = "kid/efficientnet-lite0-paired"  # `repro.metrics.distribution.paired_kid`
HOLE = "l1/rgb01-hole"  # inside the hole alone
EXCESS = "l1/rgb01-hole-excess"  # l1 inside the hole less l1 outside
HUE = "lab-distance/mean"  # between the mean colours of result and target
CRISP = "gradient-log-ratio/target"  # ln of the gradient energy over the target's; 0 is as crisp as it should be
SPREAD = "std/rgb01"  # of a pixel over noise seeds, mean over the image
STRENGTH = {task: f"strength/{task}" for task in strength.MEASURES}
GAP = {task: f"strength-gap/{task}" for task in strength.MEASURES}  # to the target's, absolute
DRIFT = {task: f"drift/{task}" for task in (*strength.MEASURES, "colour")}  # see `kept`
RANK = {task: f"spearman/{task}" for task in strength.MEASURES}
SPAN = {task: f"strength-span/{task}" for task in strength.MEASURES}  # of a slider's last place over its first
SILHOUETTE = {where: f"silhouette/{where}" for where in ("bottleneck", "label")}
LEAST = 8  # photographs for a KID
# Of the check that measures the first k again; metrics of the paper's profile -> what tables look for.
_SMALL = Tolerance(absolute=2e-2, relative=1e-2)
TOLERANCE = {
    **dict.fromkeys((*PROTOCOLS, HOLE, EXCESS, KID), Tolerance(absolute=2e-3, relative=5e-3)),
    SPREAD: Tolerance(absolute=2e-4, relative=1e-2),
    **dict.fromkeys((HUE, CRISP, *STRENGTH.values(), *GAP.values(), *DRIFT.values()), _SMALL),
    **dict.fromkeys((*RANK.values(), *SPAN.values(), *SILHOUETTE.values()), _SMALL),
}
ALIASES = {"paired-kid/inception": KID}


@lru_cache(maxsize=4)
def crops(source: Any, each: int) -> Split:
    """The first `each` crops of every held-out photograph, photograph by photograph; of REDS, frames of a sequence."""
    return source.first("test", each)


def by_photo(values: Tensor, each: int) -> list[float]:
    """(N,) values of crops -> one per photograph."""
    return values.double().view(-1, each).mean(dim=1).tolist()


@lru_cache(maxsize=2)
def _net(real: bool = False) -> FeatureNet:
    return inception(device="cuda" if torch.cuda.is_available() else "cpu") if real else efficientnet_lite0()


@lru_cache(maxsize=64)
def target_of(data: Split, tasks: tuple[str, ...]) -> Tensor:
    """The target of an edit, kept: grain costs more than the edits themselves."""
    return data.edit(*tasks).target


@lru_cache(maxsize=64)
def _target_features(data: Split, tasks: tuple[str, ...]) -> Tensor:
    return extract(_net(), target_of(data, tasks))


def scored(
    data: Split, each: int, tasks: Sequence[str], method: Method, kid: bool = True, real: object = False
) -> Metrics:
    """Every protocol, per photograph, KID's shares too (`real`: of Inception); strengths where they are defined."""
    tasks = tuple(tasks)
    output, target = method(data, tasks).clamp(0, 1), target_of(data, tasks)
    raw = {p: protocols.score(p, output, target) for p in PROTOCOLS}
    for task, measure in strength.MEASURES.items():
        if task in tasks:
            raw[STRENGTH[task]] = measure(output, data.sharp)
            raw[GAP[task]] = (raw[STRENGTH[task]] - measure(target, data.sharp)).abs()
    raw[CRISP] = strength.sharpen(output, target)
    if "colour" in tasks:
        raw[HUE] = strength.colour(output, target)
    if "inpaint" in tasks:
        share = data.hole.mean(dim=(1, 2, 3)).clamp(min=1e-6)
        error = (output - target).abs()
        raw[HOLE] = (error * data.hole).mean(dim=(1, 2, 3)) / share
        raw[EXCESS] = raw[HOLE] - (error * (1 - data.hole)).mean(dim=(1, 2, 3)) / (1 - share).clamp(min=1e-6)
    found: dict[str, Values] = {name: by_photo(values, each) for name, values in raw.items()}
    if kid and real and len(data) > 1:
        a, b = (extract(_net(True), images) for images in (output, target))
        found["paired-kid/inception"] = by_photo(distribution.paired_kid(a, b), each)
        found["kid/inception"] = distribution.kid(a, b, subset_size=min(len(a), 1000), subsets=50, seed=0)[0]
    elif kid and data is crops(data.bench, each) and len(data) // each >= LEAST:  # a whole test split
        found[KID] = by_photo(distribution.paired_kid(extract(_net(), output), _target_features(data, tasks)), each)
    return found


def kept(data: Split, tasks: Sequence[str], method: Method) -> Metrics:
    """How far a composite leaves the strength that each of its edits has alone, per crop (claim E14).

    |(s(composite) - s(single)) - (the same of the targets)|, s the strength of `study.strength`; of colour the distance
    in CIE Lab of the two changes of the mean colour.
    """
    output, target = method(data, tasks).clamp(0, 1), data.edit(*tasks).target
    found: dict[str, Values] = {}
    for task in tasks:
        alone, single = method(data, [task]).clamp(0, 1), data.edit(task).target
        if task == "colour":
            change = strength.mean_lab(output) - strength.mean_lab(alone)
            found[DRIFT[task]] = (change - strength.mean_lab(target) + strength.mean_lab(single)).norm(dim=1).tolist()
        elif measure := strength.MEASURES.get(task):
            own, theirs = (
                measure(a, data.sharp) - measure(b, data.sharp) for a, b in ((output, alone), (target, single))
            )
            found[DRIFT[task]] = (own - theirs).abs().double().tolist()
    return found
