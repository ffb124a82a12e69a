"""The published experiments of RDDM sampled and scored, as published and beside it.

The report's table is measured in the cells of the small profile's: LOL for low light, RainDrop, CelebA for generation.
A restoration's input is squeezed to a square and the ground truth resized to the output (`repro.metrics.pixel`); a
"full-size" cell is the same network on the images' own size. Protocol names say the rest (Y or RGB, rounded or not).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repro.data.images import to_model, to_unit
from repro.ddpm.samplers import start_noise
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.records import Values
from repro.engine.study import Sample
from repro.metrics import features, protocols
from repro.metrics.features import FeatureNet, SetMetrics
from repro.metrics.pixel import ground_truth
from repro.rddm import process, samplers
from repro.rddm.study.settings import PaperSetting, measured, name_of, read, schedule

CHECKED = 4  # images of a restoration that a check restores again
BATCH = 250  # generated at once
_TASKS = {"lol": "lowlight", "raindrop": "raindrop", "celeba64": "generation"}  # of the small profile
# Its metrics under the names that tables look for.
ALIASES = {
    "psnr/y-uint8": "psnr/y",
    "ssim/y-uint8-wang": "ssim/y-wang",
    **{f"{m}/inception": f"{m}/fashion-classifier" for m in ("fid", "kid", "is")},
}


@torch.no_grad()
def restored(
    network: nn.Module,
    setting: PaperSetting,
    I_in: Tensor,
    ids: Sequence[int | str],
    mask: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] sampled as published: deterministic, Eq. 12, everything cut to ±1.

    `I_in` is zeros for generation; `mask` (B, 3, H, W) in [-1, 1] for a setting that has one; `ids` key the noise.
    """
    table = schedule(setting)
    x_T = process.start(I_in, start_noise(ids, tuple(I_in.shape[1:]), seed).to(I_in), table)
    given = [part for part, there in ((I_in, setting.condition), (mask, setting.mask)) if there]
    cond = torch.cat(given, dim=1) if given else None
    as_published = {"objective": setting.objective, "clip": samplers.PUBLISHED_CLIP, "at_end": "published"}
    run = samplers.reverse(lambda x, t: network(x, t, cond).sample, x_T, I_in, table, setting.sampling, **as_published)
    return samplers.sample(run).clamp(-1, 1)


def generated(network: nn.Module, setting: PaperSetting, ids: Sequence[int], device: str = "cpu") -> Tensor:
    """Samples `ids` (len(ids), 3, size, size) in [-1, 1], on the CPU."""
    parts = []
    for first in range(0, len(ids), BATCH):
        some = list(ids[first : first + BATCH])
        zero = torch.zeros(len(some), 3, setting.size, setting.size, device=device)
        parts.append(restored(network, setting, zero, some).cpu())
    return torch.cat(parts)


def _meant(experiment: str, cell: Mapping[str, Any]) -> tuple[PaperSetting, bool] | None:
    """The setting that a cell of the grid means at paper scale, and whether images keep their own size."""
    task = str(cell.get("task", ""))
    plain = task.removesuffix("-full-size")
    known = {name_of(s): s for s in measured()}
    ours = [s for s in known.values() if _TASKS.get(s.name) == plain]
    setting = known.get(experiment) or (ours[0] if experiment == "baseline-input" and ours else None)
    if setting is None or _TASKS.get(setting.name) != plain or "switch" in cell or cell.get("eta"):
        return None
    if cell.get("steps", setting.sampling) != setting.sampling or not any(trained(name_of(s)) for s in ours):
        return None
    return setting, plain != task


def sample(experiment: str, cell: Mapping[str, Any]) -> Sample | None:
    """How many images of the data set a cell is measured on; None where it is not measured at paper scale."""
    found = _meant(experiment, cell)
    if found is None:
        return None
    setting, full = found
    given = read(setting, "test", full=full)
    n, k = (setting.samples, min(64, setting.samples)) if setting.samples else (given.size, CHECKED)
    return Sample(n, k, given.digest())


def measure(
    experiment: str, cell: Mapping[str, Any], k: int | None, net: Callable[[], FeatureNet] | None = None
) -> Mapping[str, Values]:
    """A restoration scored image by image, a generator by FID, KID and IS against the cropped test split.

    `net` stands in for Inception under its own name.
    """
    setting, full = _meant(experiment, cell)  # type: ignore[misc]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = None
    if experiment != "baseline-input":
        network = copy.deepcopy(load_checkpoint(experiment)).to(device)
    given = read(setting, "test", full=full)
    if setting.samples:
        reference = to_model(torch.stack(given.targets.several(torch.arange(given.size))))
        score = SetMetrics(net or (lambda: features.inception(device=device)), reference, BATCH)
        return score(generated(network, setting, range(k or setting.samples), device))  # type: ignore[arg-type]
    clean = read(setting, "test", full=True)
    found: dict[str, list[float]] = {metric: [] for metric in setting.metrics}
    for i in range(min(k or given.size, given.size)):
        x, target = given.inputs[i][None], clean.targets[i][None]  # type: ignore[index]
        if network is not None:
            mask = None if given.masks is None else to_model(given.masks[i])[None].to(device)
            x = to_unit(restored(network, setting, to_model(x).to(device), [given.ids[i]], mask)).cpu()
        if target.shape != x.shape:
            target = ground_truth(target, x)
        for metric, values in found.items():
            values += protocols.score(metric, x, target).tolist()
    return found
