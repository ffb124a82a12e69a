"""Every network of notebook 04, read from `experiments.toml`, and the images that it is trained and tested on."""

import itertools
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from repro import paths
from repro.data.datasets import read_split
from repro.data.degradations import TASKS
from repro.data.files import ImageFiles, ImageSet, cut, list_images, pair_folders
from repro.data.images import center_crop
from repro.data.pack import photographs
from repro.engine.checkpoint import Experiment
from repro.engine.train import Recipe
from repro.errors import one_of
from repro.ucdir.model import UCDIR, RestorationTask, UCDIRLoss

SPEC: Mapping[str, Any] = paths.read_toml(paths.room_file("ucdir", "experiments.toml"))
LABELS = {"lowlight": "low light", "deblur": "motion blur", "jpeg": "JPEG", "all": "all three tasks"}


def settings_of(chosen: str, task: str = "", variant: str = "main") -> dict[str, Any]:
    """The settings of a profile and over them a variant's, each with what it has of its own for a task."""
    over: dict[str, Any] = {"network": {}, "learning": {}}
    for spec in (SPEC["profile"][one_of("profile", chosen, SPEC["profile"])], SPEC["variant"][variant]):
        for part in (spec, spec.get("own", {}).get(task, {})):
            over |= part | {kind: over[kind] | part.get(kind, {}) for kind in ("network", "learning")}
    return over


def network_of(task: str, variant: str, chosen: str = "small") -> dict[str, Any]:
    """Arguments of `UCDIR`."""
    return settings_of(chosen, task, variant)["network"] | ({} if chosen == "paper" else {"tasks": tasks_of(task)})


def tasks_of(task: str) -> list[str]:
    """The tasks of a network: its own, or all of them."""
    return [task] if task != "all" else [name for name in LABELS if name != "all"]


def read(task: str, split: str) -> ImageSet:
    """Inputs and targets of a task ("train" or "test") at the paper's scale, as their authors publish them.

    Low light: SID as RGB pairs, as the paper's authors hand it out, in sid-rgb/<split>/{input,target}. Motion blur:
    GoPro. JPEG: ImageNet, targets alone, of the test the middle of the first 1000 (the paper has a list of 1000); they
    are encoded here (the public reader hands RGB to an encoder that expects BGR; here colours are as they are).
    """
    if task == "deblur":
        return ImageSet.of_pairs(read_split("gopro", split).pairs)
    if task == "lowlight":
        return ImageSet.of_pairs(pair_folders(*(paths.data() / "sid-rgb" / split / p for p in ("input", "target"))))
    if split == "train":
        return ImageSet(ImageFiles(list_images(paths.data() / "imagenet" / split)))
    middle = lambda x: center_crop(x, min(256, *x.shape[-2:]))  # noqa: E731
    return ImageSet(ImageFiles(list_images(paths.data() / "imagenet" / "val")[:1000], middle))


def training_task(task: str, variant: str, chosen: str = "small") -> RestorationTask:
    """Training set and loss; at the paper's scale crops of pairs cut alike, or JPEG of quality 10 made of each crop."""
    settings = settings_of(chosen, task, variant)
    learning = UCDIRLoss(**settings["learning"])
    if chosen == "paper":
        files, encode = read(task, "train"), [partial(TASKS["jpeg"].degrade, quality=10)]
        return RestorationTask(files.names, files.crops, settings["crop"], learning, encode)
    ids, images = photographs("train", settings["side"], settings.get("limit", 0))

    def crops(indices: Tensor, side: int, draw: Tensor) -> tuple[Tensor, None]:
        return cut([images[i] for i in indices.tolist()], side, draw.cpu()).to(draw.device), None

    degrade = [TASKS[each].degrade for each in tasks_of(task)]
    return RestorationTask(ids, crops, settings["crop"], learning, degrade, scalars=True, lamp=settings.get("lamp"))


def _experiment(entry: Mapping[str, Any], task: str, variant: str, seed: int, chosen: str) -> Experiment:
    small = chosen == "small"
    own = {"images": entry["images"], **entry.get("recipe", {})} if small else {}
    data = "photos" if chosen != "paper" else {"lowlight": "SID", "deblur": "GoPro", "jpeg": "ImageNet"}[task]
    name = lambda variant: f"ucdir-{task}-{'' if small else f'{chosen}-'}{variant}-s{seed}"  # noqa: E731
    return Experiment(
        name=name(variant), begins=name(entry["begins"]) if "begins" in entry else "",
        room="ucdir", task_name=task, variant=variant, data=data, profile=chosen, seed=seed,
        recipe=Recipe(**settings_of(chosen)["recipe"] | own), ships=small and entry.get("ships", False),
        summary=f"{LABELS[task]}: {SPEC['variant'][variant]['label']}",
        build=lambda: UCDIR(**network_of(task, variant, chosen)), task=lambda: training_task(task, variant, chosen),
    )  # fmt: skip


EXPERIMENTS: tuple[Experiment, ...] = tuple(
    _experiment(entry, task, variant, seed, chosen)
    for chosen, entry in itertools.product(SPEC["profile"], SPEC["experiment"])
    for task, variant in itertools.product(entry["tasks"], entry["variants"])
    if chosen != "paper" or (variant in ("main", "regression") and task != "all")
    for seed in entry.get("seeds", [0])
    if chosen == "small" or seed == 0
)


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The public code's state dict under our names; buffers of its noise schedule are left out."""
    found = {}
    for name, weight in state.items():
        if name.startswith(("denoise_fn.", "predictor.")):
            for theirs, ours in SPEC["published"].items():
                name = re.sub(theirs, ours, name)
            found[name] = weight
    return found
