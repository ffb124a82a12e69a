"""The training and test pictures of the published settings, and the task that learns them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from repro import paths
from repro.data.datasets import LAYOUTS
from repro.data.filesets import Pictures, PictureSet, equalised, squared
from repro.data.flist import FILE, Pair, list_images
from repro.data.images import to_model
from repro.data.published import face, read_celeba, read_split
from repro.errors import ReproError
from repro.rddm.study.settings import PaperSetting, schedule
from repro.rddm.tasks import Learning, Noises, diffusion_loss, restoration_loss

GREY = 0.5


def read(
    setting: PaperSetting,
    split: str,
    root: FILE | None = None,
    *,
    full: bool = False,
) -> PictureSet:
    """A split of a setting's data set.

    Args:
        split: "train" or "test".
        root: the data set's folder; default: the one of its name in `repro.paths.data()`.
        full: the files' own size, where the published setting squeezes every picture to a square.

    Raises:
        ReproError: no reader for this setting; whatever the files lack.
    """
    prepare = (lambda image: image) if full else squared(setting.size)
    if setting.data in LAYOUTS and LAYOUTS[setting.data].splits:
        found = read_split(setting.data, split, root)
        tone = (lambda image: prepare(equalised(image))) if setting.equalise else prepare
        masks = found.masks if setting.mask else None
        return PictureSet.of_pairs(found.pairs, prepare, prepare_input=tone, masks=masks)
    if setting.data not in ("celeba", "celeba-hq"):
        raise ReproError(f"setting {setting.name!r} cannot be read: {' '.join(setting.notes)}")
    if full:
        raise ReproError(f"{setting.data} is read at {setting.size} px only: full size was asked for")
    if setting.data == "celeba":
        return PictureSet(Pictures(read_celeba(split, root), face(setting.size)))
    entries = _nine_tenths(split, root)
    if not setting.hole:
        return PictureSet(Pictures(entries, prepare))
    return PictureSet.of_pairs(
        [Pair(e, e) for e in entries], prepare, prepare_input=lambda image: holed(prepare(image))
    )


def holed(image: Tensor) -> Tensor:
    """(3, H, W) with its middle, H/4..3H/4 by W/4..3W/4, replaced by grey."""
    h, w = image.shape[-2:]
    out = image.clone()
    out[..., h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] = GREY
    return out


def _nine_tenths(split: str, root: FILE | None) -> list[Path]:
    """CelebA-HQ from one folder: by name, the first nine tenths (27,000 of 30,000) train and the others test."""
    if split not in ("train", "test"):
        raise ReproError(f"celeba-hq has no split {split!r}; accepted: train, test")
    folder = paths.data() / "celeba-hq" if root is None else Path(root)
    files = list_images(folder)
    cut = len(files) * 9 // 10
    chosen = files[:cut] if split == "train" else files[cut:]
    if not chosen:
        raise ReproError(f"{folder}: holds {len(files)} picture(s), none of them left for {split}")
    return chosen


class PictureTask:
    """Learn from a `PictureSet`: restoration where it has inputs, generation (I_in = 0) where it has none.

    Args:
        crop: side of the training pictures: of the whole picture where all are squares of that side (then only the
            mirroring is left of a random crop), else of a random part, cut alike from input, target and mask.
        condition: the network sees I_in.
    """

    def __init__(self, pictures: PictureSet, learning: Learning, crop: int, condition: bool = True) -> None:
        if condition and pictures.inputs is None:
            raise ReproError("a network that sees I_in needs pairs: there are no inputs")
        self.pictures, self.learning, self.crop, self.condition = pictures, learning, crop, condition
        self.size = pictures.size
        self.settings = {**learning.settings, "crop": crop, "condition": condition}

    def names(self, indices: Tensor) -> list[str]:
        return self.pictures.names(indices)

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor, Tensor | None]:
        """(I_0, I_in, mask) of a batch, each (B, 3, crop, crop) in [-1, 1]; I_in is zeros for generation."""
        target, given, mask = self.pictures.crops(indices, self.crop, noise("crop").uniform((3,)))
        I_in = torch.zeros_like(target) if given is None else to_model(given)
        return to_model(target), I_in, None if mask is None else to_model(mask)

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        I_0, I_in, mask = self.pair(indices, noise)
        learning = self.learning
        if self.condition and mask is None:
            return restoration_loss(model, I_0, I_in, noise, learning)
        cond = torch.cat([I_in, mask], dim=1) if self.condition else mask
        return diffusion_loss(model, I_0, I_in, cond, noise("noise"), noise("time"), learning)


def task(setting: PaperSetting, root: FILE | None = None, *, full: bool = False) -> PictureTask:
    """What a published experiment learns from its training pictures; arguments as in `read`.

    `full` trains on random crops of the setting's size from pictures of their own size.
    """
    pictures = read(setting, "train", root, full=full)
    learning = Learning(setting.objective, schedule(setting), setting.norm)
    return PictureTask(pictures, learning, setting.size, setting.condition)
