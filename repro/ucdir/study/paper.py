"""The paper's own scale: its data sets in the layouts that their authors publish, and its weights' names.

Low light: SID, either as RGB pairs (`sid-rgb/{train,test}/{input,target}`, what the paper's authors hand out) or as the
raw files of `sid` with their lists, developed by the optional `rawpy`. Motion blur: GoPro. JPEG: ImageNet, encoded here
at quality 10 (the public reader hands RGB to an encoder that expects BGR; here colours are encoded as they are).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro import paths
from repro.data.degradations import TASKS
from repro.data.filesets import PictureSet
from repro.data.flist import Pair, list_images, pair_folders
from repro.data.images import center_crop, to_model
from repro.data.published import read_split
from repro.engine.rng import KeyedNoise
from repro.engine.study import Sample
from repro.errors import ReproError
from repro.ucdir.loss import Learning, Noises, training_loss

TEST_JPEG = 1000  # ImageNet pictures of the test, 256 pixels of their middle


def read(task: str, split: str, root: Path | None = None) -> PictureSet:
    """Inputs and targets of a task ("train" or "test"); JPEG has targets alone, its inputs are made when read.

    Raises `ReproError` for what is not there, with what was expected.
    """
    data = {"lowlight": "sid-rgb", "deblur": "gopro", "jpeg": "imagenet"}[task]
    folder = paths.data() / data if root is None else Path(root)
    if task == "deblur":
        return PictureSet.of_pairs(read_split("gopro", split, root).pairs)
    if task == "lowlight":
        inputs, targets = (folder / split / kind for kind in ("input", "target"))
        if not inputs.is_dir():
            raise ReproError(f"{inputs}: no such folder; SID as RGB images lies in {{train,test}}/{{input,target}}")
        return PictureSet.of_pairs(pair_folders(inputs, targets))
    where = folder / {"train": "train", "test": "val"}[split]
    if not where.is_dir():
        raise ReproError(f"{where}: no such folder; `repro data check imagenet` says what is needed")
    files = list_images(where)[: TEST_JPEG if split == "test" else None]
    return PictureSet.of_pairs([Pair(f, f) for f in files])


def raw_pairs(root: Path, split: str) -> list[tuple[Path, Path, float]]:
    """(short, long, exposure ratio) of SID's raw files by its own list, Sony_<split>_list.txt."""
    found = []
    for line in (root / f"Sony_{split}_list.txt").read_text(encoding="utf-8").splitlines():
        short, long = (root / part.removeprefix("./") for part in line.split()[:2])
        seconds = [float(re.search(r"_([\d.]+)s\.", path.name)[1]) for path in (short, long)]  # type: ignore[index]
        found.append((short, long, min(seconds[1] / seconds[0], 300.0)))
    return found


def develop(file: Path, ratio: float = 1.0) -> Tensor:
    """float32 (3, H, W) in [0, 1] of a raw file, exposure times `ratio`; camera white balance, half size."""
    try:
        import rawpy
    except ImportError:
        raise ReproError(f"{file}: raw files need the package rawpy, which is not installed") from None
    with rawpy.imread(str(file)) as raw:
        linear = raw.postprocess(use_camera_wb=True, half_size=True, no_auto_bright=True, output_bps=16, gamma=(1, 1))
    light = torch.from_numpy(linear.astype("float32") / 65535).permute(2, 0, 1) * ratio
    from repro.data.lowlight import linear_to_srgb

    return linear_to_srgb(light.clamp(0, 1))


class FileTask:
    """The engine's training task on files: crops of pairs cut alike, JPEG made of each crop."""

    def __init__(self, files: PictureSet, task: str, crop: int, learning: Learning) -> None:
        self.files, self.task, self.crop, self.learning, self.size = files, task, crop, learning, files.size
        self.settings: dict[str, Any] = {"task": task, "crop": crop, "objective": learning.objective}

    def names(self, indices: Tensor) -> list[str]:
        return self.files.names(indices)

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor]:
        """(clean, degraded), each (B, 3, crop, crop) in [-1, 1]."""
        draw = noise("crop")
        clean, degraded, _ = self.files.crops(indices, self.crop, draw.uniform((3,)))
        if self.task == "jpeg":
            degraded = TASKS["jpeg"].degrade(clean, noise, quality=10)[0]
        return to_model(clean), to_model(degraded)

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        clean, degraded = self.pair(indices, noise)
        return training_loss(model, degraded, clean, noise, self.learning)


def training_task(task: str, learning: Learning, crop: int, root: Path | None = None) -> FileTask:
    """The training set of a task."""
    return FileTask(read(task, "train", root), task, crop, learning)


def pairs(task: str, n: int, root: Path | None = None) -> list[tuple[str, Tensor, Tensor, Tensor]]:
    """(name, degraded, strength, clean) of the first `n` test pictures, as `measure` takes them."""
    files, found = read(task, "test", root), []
    for i in range(min(n, files.size)):
        given, clean = files.inputs[i], files.targets[i]
        name, strength = files.ids[i], torch.zeros(1)
        if task == "jpeg":
            clean = center_crop(clean, min(256, *clean.shape[-2:]))
            noises = lambda purpose, name=name: KeyedNoise(0, [name], purpose)  # noqa: E731
            made, strength = TASKS["jpeg"].degrade(clean[None], noises, quality=10)
            given = made[0]
        found.append((name, given, strength, clean))
    return found


def sample(task: str) -> Sample:
    """How many test pictures a task has, and the hash of their bytes."""
    files = read(task, "test")
    return Sample(files.size, 0, files.digest())


# --- the public code's weights ----------------------------------------------------------------------------------------

_STAGE = {
    "noise_func.0": "conv2.condition.scalars.0",
    "noise_func.2": "conv2.condition.scalars.2",
    "norm1": "norm1",
    "norm2": "norm2",
    "conv1": "conv1",
    "conv2.0": "conv2.condition.mix",
    "conv2.2": "conv2.condition.spread",
    "spdyconv": "conv2.bases",
    "res_conv": "shortcut",
}
_TOP = {
    "noise_level_mlp.1": "level.0",
    "noise_level_mlp.3": "level.2",
    "final_conv.0": "head.0",
    "final_conv.3": "head.3",
}
_PREDICTOR: Mapping[str, str] = {
    **{f"conv{k}_{j}": f"down.{k - 1}.conv{j}" for k in range(1, 6) for j in (1, 2)},
    **{f"conv{k}_{j}": f"merge.{k - 6}.conv{j}" for k in range(6, 10) for j in (1, 2)},
    **{f"upv{k}": f"up.{k - 6}" for k in range(6, 10)},
    "conv10_1": "out",
}


def renamed(key: str) -> str:
    """A weight's name in the public code -> its name here. Raises `ReproError` for a name that it does not have."""
    owner, _, rest = key.partition(".")
    name, _, kind = rest.rpartition(".")
    if owner == "predictor" and name in _PREDICTOR:
        return f"predictor.{_PREDICTOR[name]}.{kind}"
    if owner == "denoise_fn":
        if name in _TOP:
            return f"unet.{_TOP[name]}.{kind}"
        if found := re.fullmatch(r"(downs|mid|ups)\.(\d+)\.res_block\.(.+)", name):
            if found[3] in _STAGE:
                return f"unet.{found[1]}.{found[2]}.block.{_STAGE[found[3]]}.{kind}"
        elif found := re.fullmatch(r"(downs|mid|ups)\.(\d+)\.attn\.(norm|qkv|out)", name):
            return f"unet.{found[1]}.{found[2]}.attention.{found[3]}.{kind}"
        elif found := re.fullmatch(r"(downs\.\d+)(?:\.conv)?|(ups\.\d+\.conv)", name):
            return f"unet.{found[1] or found[2]}.{kind}"
    raise ReproError(f"weight {key!r} belongs to no published UCDIR network")


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The public code's state dict under our names; buffers of its noise schedule are left out."""
    kept: Sequence[str] = [k for k in state if k.startswith(("denoise_fn.", "predictor."))]
    return {renamed(key): state[key] for key in kept}
