"""The published experiments from end to end: trained by name, sampled, scored as published and beside it.

A restoration is scored twice, and the record's cell says how: "size" 256 is the published way, input squeezed to a
square and ground truth resized to the output (`repro.metrics.matlab`); "full" is the same network on the pictures' own
size, for which the literature reports lower numbers. Protocol names say the rest (Y or RGB, rounded or not).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.data.filesets import PictureSet
from repro.data.images import to_model, to_unit
from repro.ddpm.paper import SetMetrics
from repro.engine.checkpoint import load_checkpoint, weights_hash
from repro.engine.evaluation import Row, folders, trained
from repro.engine.records import Values
from repro.engine.registry import Experiment
from repro.metrics import features, protocols
from repro.metrics.features import FeatureNet
from repro.metrics.matlab import ground_truth
from repro.rddm import process, samplers
from repro.rddm.readers import FILE, read, task
from repro.rddm.sampling import start_noise
from repro.rddm.settings import SETTINGS, PaperSetting, build_network, schedule, strategies

SHORT = {"res": "smres", "noise": "smn", "res_noise": "smresn"}
CHECKED = 4  # pictures of a restoration that a check restores again
BATCH = 250  # generated at once
REPORTED = ("celeba64", "lol", "raindrop")  # the report's table: each under all three strategies


def name_of(setting: PaperSetting, seed: int = 0) -> str:
    """The experiment's name, e.g. "rddm-lol-paper-smres-s0"."""
    return f"rddm-{setting.name}-paper-{SHORT[setting.objective]}-s{seed}"


def measured() -> list[PaperSetting]:
    """Every published experiment, those of the report's table under each strategy."""
    found = {name_of(s): s for s in SETTINGS.values()}
    for name in REPORTED:
        found |= {name_of(s): s for s in strategies(SETTINGS[name]).values()}
    return list(found.values())


def experiment(setting: PaperSetting, root: FILE | None = None, seed: int = 0) -> Experiment:
    """What `repro train` runs; `root` is the data set's folder (default: the one of its name)."""
    return Experiment(
        name=name_of(setting, seed),
        room="rddm",
        task_name=setting.name,
        variant=SHORT[setting.objective],
        data=setting.data,
        profile="paper",
        seed=seed,
        recipe=setting.recipe,
        summary=setting.title,
        ships=False,
        build=lambda: build_network(setting),
        task=lambda: task(setting, root),
    )


# --- sampling -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def restored(
    network: nn.Module,
    setting: PaperSetting,
    I_in: Tensor,
    ids: Sequence[int | str],
    mask: Tensor | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] sampled as published: deterministic, Eq. 12, everything cut to ±1.

    `I_in` is zeros for generation; `mask` (B, 3, H, W) in [-1, 1] for a setting that has one; `ids` key the noise.
    """
    table, steps = schedule(setting), steps or setting.sampling
    x_T = process.start(I_in, start_noise(ids, tuple(I_in.shape[1:]), seed).to(I_in), table)
    seen = [part for part, wanted in ((I_in, setting.condition), (mask, setting.mask)) if wanted]
    cond = torch.cat(seen, dim=1) if seen else None
    return samplers.sample(
        samplers.reverse(
            lambda x, t: network(x, t, cond).sample,
            x_T,
            I_in,
            table,
            steps,
            objective=setting.objective,
            clip=samplers.PUBLISHED_CLIP,
            at_end="published",
        )
    ).clamp(-1, 1)


def generated(network: nn.Module, setting: PaperSetting, ids: Sequence[int], device: str = "cpu") -> Tensor:
    """Samples `ids` (len(ids), 3, size, size) in [-1, 1], on the CPU."""
    parts = []
    for first in range(0, len(ids), BATCH):
        some = list(ids[first : first + BATCH])
        zero = torch.zeros(len(some), 3, setting.size, setting.size, device=device)
        parts.append(restored(network, setting, zero, some).cpu())
    return torch.cat(parts)


# --- rows -----------------------------------------------------------------------------------------------------------


def rows(
    setting: PaperSetting,
    root: FILE | None = None,
    *,
    experiment: str | None = None,
    net: Callable[[], FeatureNet] | None = None,
) -> list[Row]:
    """What is measured with a setting's network, where it is here; refused where the test pictures are not.

    Args:
        experiment: another name than `name_of`.
        net: stands in for Inception under its own name.
    """
    name = experiment or name_of(setting)
    if not trained(name):
        return []
    folder = next(f for f in folders(name) if (f / "config.json").exists())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = copy.deepcopy(load_checkpoint(folder)).to(device)
    if setting.samples:
        return _generation(setting, name, folder, network, device, root, net)
    found: list[Row] = []
    for full in (False, True) if setting.data != "celeba-hq" else (False,):
        given = read(setting, "test", root, full=full)
        clean = given if setting.data == "celeba-hq" else read(setting, "test", root, full=True)
        found += _restoration(setting, name, folder, network, device, given, clean, full)
    return found


def _restoration(
    setting: PaperSetting,
    name: str,
    folder: Path,
    network: nn.Module,
    device: str,
    given: PictureSet,
    clean: PictureSet,
    full: bool,
) -> list[Row]:
    cell: dict[str, Any] = {"task": setting.name, "size": "full" if full else setting.size}
    if setting.equalise:
        cell["input"] = "equalised"
    shared: dict[str, Any] = {"n": given.size, "data": given.digest(), "k": CHECKED, "profile": "paper"}

    def output(i: int) -> Tensor:
        mask = None if given.masks is None else to_model(given.masks[i])[None].to(device)
        I_in = to_model(given.inputs[i])[None].to(device)
        return to_unit(restored(network, setting, I_in, [given.ids[i]], mask)).cpu()

    def measured(answer: Callable[[int], Tensor], k: int | None) -> Mapping[str, Values]:
        found: dict[str, list[float]] = {metric: [] for metric in setting.metrics}
        for i in range(min(k or given.size, given.size)):
            x, target = answer(i), clean.targets[i][None]
            if target.shape != x.shape:
                target = ground_truth(target, x)
            for metric, values in found.items():
                values += protocols.score(metric, x, target).tolist()
        return found

    more = {"weights": weights_hash(folder), "ships": False}
    return [
        Row("rddm", "baseline-input", cell, partial(measured, lambda i: given.inputs[i][None]), **shared),
        Row("rddm", name, {**cell, "steps": setting.sampling}, partial(measured, output), **shared, **more),
    ]


def _generation(
    setting: PaperSetting,
    name: str,
    folder: Path,
    network: nn.Module,
    device: str,
    root: FILE | None,
    net: Callable[[], FeatureNet] | None,
) -> list[Row]:
    """FID, KID and IS against the cropped test split, as published for CelebA."""
    real = read(setting, "test", root)
    reference = to_model(real.targets.batch(torch.arange(real.size)))
    score = SetMetrics(net or (lambda: features.inception(device=device)), reference, BATCH)

    def measure(k: int | None) -> Mapping[str, Values]:
        return score(generated(network, setting, range(k or setting.samples), device))

    cell = {"task": setting.name, "size": setting.size, "steps": setting.sampling}
    more = {"weights": weights_hash(folder), "ships": False, "profile": "paper", "k": min(64, setting.samples)}
    return [Row("rddm", name, cell, measure, n=setting.samples, data=real.digest(), **more)]
