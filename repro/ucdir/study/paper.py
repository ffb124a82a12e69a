"""The paper's own scale: its data sets in the layouts that their authors publish, and its weights' names.

Low light: SID as RGB pairs (`sid-rgb/{train,test}/{input,target}`, what the paper's authors hand out). Motion blur:
GoPro. JPEG: ImageNet, encoded here at quality 10 (the public reader hands RGB to an encoder that expects BGR; here
colours are encoded as they are).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from repro import paths
from repro.data.degradations import TASKS
from repro.data.filesets import Pictures, PictureSet
from repro.data.flist import list_images, pair_folders
from repro.data.images import center_crop
from repro.data.published import read_split
from repro.errors import ReproError
from repro.ucdir.loss import Learning, RestorationTask

TEST_JPEG = 1000  # ImageNet pictures of the test, 256 pixels of their middle


def read(task: str, split: str, root: Path | None = None) -> PictureSet:
    """Inputs and targets of a task ("train" or "test"); JPEG has targets alone, its inputs are made when read.

    Raises `ReproError` for what is not there, with what was expected.
    """
    if task == "deblur":
        return PictureSet.of_pairs(read_split("gopro", split, root).pairs)
    folder = Path(root or paths.data() / {"lowlight": "sid-rgb", "jpeg": "imagenet"}[task])
    parts, needs = ("input", "target"), "SID as RGB images lies in {train,test}/{input,target}"
    if task == "jpeg":
        parts, needs = ("",), "`repro data check imagenet` says what is needed"
        split = {"train": "train", "test": "val"}[split]
    places = [folder / split / part for part in parts]
    if not places[0].is_dir():
        raise ReproError(f"{places[0]}: no such folder; {needs}")
    if task == "lowlight":
        return PictureSet.of_pairs(pair_folders(*places))
    return PictureSet(Pictures(list_images(places[0])[: TEST_JPEG if split == "val" else None]))


def training_task(task: str, learning: Learning, crop: int, root: Path | None = None) -> RestorationTask:
    """The training set of a task: crops of pairs cut alike, JPEG made of each crop."""
    files, encode = read(task, "train", root), partial(TASKS["jpeg"].degrade, quality=10)
    return RestorationTask(files.names(torch.arange(files.size)), files.crops, crop, learning, encode)


def tested(task: str, n: int, root: Path | None = None) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """(name, clean, degraded or None) of the first `n` test pictures; of ImageNet, the middle."""
    files = read(task, "test", root)
    for i, name in enumerate(files.ids[:n]):
        clean = files.targets[i]
        if files.inputs is None:
            yield name, center_crop(clean, min(256, *clean.shape[-2:])), None
        else:
            yield name, clean, files.inputs[i]


# The public code's names of weights -> ours; each replacement in turn.
_NAMES = {
    r"^denoise_fn\.": "unet.",
    r"\.noise_level_mlp\.1\.": ".level.0.",
    r"\.noise_level_mlp\.3\.": ".level.2.",
    r"\.final_conv\.": ".head.",
    r"\.attn\.": ".attention.",
    r"(\.downs\.\d+)\.conv\.": r"\1.",
    r"\.res_block\.noise_func\.": ".block.conv2.condition.scalars.",
    r"\.res_block\.conv2\.0\.": ".block.conv2.condition.mix.",
    r"\.res_block\.conv2\.2\.": ".block.conv2.condition.spread.",
    r"\.res_block\.spdyconv\.": ".block.conv2.bases.",
    r"\.res_block\.res_conv\.": ".block.shortcut.",
    r"\.res_block\.": ".block.",
    r"^predictor\.conv10_1\.": "predictor.out.",
    **{rf"^predictor\.conv{k}_": f"predictor.down.{k - 1}.conv" for k in range(1, 6)},
    **{rf"^predictor\.conv{k}_": f"predictor.merge.{k - 6}.conv" for k in range(6, 10)},
    **{rf"^predictor\.upv{k}\.": f"predictor.up.{k - 6}." for k in range(6, 10)},
}


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The public code's state dict under our names; buffers of its noise schedule are left out."""
    found = {}
    for name, weight in state.items():
        if name.startswith(("denoise_fn.", "predictor.")):
            for theirs, ours in _NAMES.items():
                name = re.sub(theirs, ours, name)
            found[name] = weight
    return found
