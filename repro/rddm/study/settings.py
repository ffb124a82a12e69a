"""The published experiments of RDDM: settings, data, training by name.

`settings.toml` holds one row a task. The appendix's table of settings exists as a picture only: the rows are what the
released code, its folder names, its maintainer's answers and the reproduction report together prove; where they leave a
field open, it holds our choice and its name stands in `unknown`.

What is not taken over, and what takes its place:
- gradients accumulated over two batches: one batch of twice the size (`batch` x `accumulation` images a step);
- RAdam, of the generation experiments: Adam with the linear warm-up of 2 / (1 - beta_2) steps that stands in for its
  rectification (Ma and Yarats 2021, "On the adequacy of untuned warmup for adaptive optimization");
- two optimizers for two networks: one. Adam treats each weight alone, so they differ in the clipped norm only, which
  is of both networks together;
- the average, decay 0.995 at every tenth step: the same half-life, 1383 steps, at every step.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro import paths
from repro.data.datasets import LAYOUTS
from repro.data.filesets import Pictures, PictureSet, equalised, squared
from repro.data.flist import FILE, Pair, list_images
from repro.data.images import to_model
from repro.data.published import face, read_celeba, read_split
from repro.engine.recipe import Recipe
from repro.engine.registry import Experiment
from repro.errors import ReproError
from repro.rddm.model import Layout
from repro.rddm.process import STRATEGIES, Objective
from repro.rddm.schedules import RDDMSchedule, by_config
from repro.rddm.study.published import PublishedNet
from repro.rddm.tasks import Learning, Noises, diffusion_loss, restoration_loss

_SPEC = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SCHEDULES: dict[str, dict[str, Any]] = _SPEC["schedule"]
SHORT = {"res": "smres", "noise": "smn", "res_noise": "smresn"}
REPORTED = ("celeba64", "lol", "raindrop")  # the report's table: each under all three strategies
_HALF_LIFE = 10 * math.log(0.5) / math.log(0.995)  # steps


@dataclass(frozen=True)
class PaperSetting:
    """One published experiment.

    `data`        "lol", "raindrop", "istd", "gopro" (pairs), "celeba", "celeba-hq" (images), "" (no reader here).
    `size`        side in pixels that training and test images are resized to, without keeping proportions.
    `batch`       images of one pass, `accumulation` of which make a step; `steps` of the optimizer.
    `optimizer`   "adam" or "radam" (see above), `optimizers` how many.
    `condition`   I_in is given to the network; `mask` behind it the mask; `equalise` I_in is equalised before that.
    `hole`        I_in is the image with its middle replaced by grey (inpainting).
    `sampling`    steps of the published numbers; `samples` images of a generated set (0: restoration).
    `metrics`     protocol names.
    `unknown`     fields whose value is our choice.
    `network`     changes to the published network, for tests.
    """

    name: str
    title: str
    data: str
    objective: Objective
    layout: Layout
    size: int = 256
    batch: int = 1
    accumulation: int = 2
    steps: int = 80_000
    norm: Literal["l1", "l2"] = "l1"
    optimizer: Literal["adam", "radam"] = "adam"
    optimizers: int = 1
    lr: float = 8e-5
    schedule: str = "restoration"
    condition: bool = True
    mask: bool = False
    equalise: bool = False
    hole: bool = False
    sampling: int = 5
    samples: int = 0
    metrics: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Images of the whole training."""
        return self.steps * self.batch * self.accumulation

    @property
    def recipe(self) -> Recipe:
        """The training as this repository's loop runs it."""
        batch = self.batch * self.accumulation
        warmup = 200 * batch if self.optimizer == "radam" else 0  # 2 / (1 - 0.99) steps
        return Recipe(
            images=self.images, batch=batch, lr=self.lr, warmup=warmup, decay="constant", betas=(0.9, 0.99),
            ema=_HALF_LIFE * batch, precision="fp32", threads=16, save_every=2_000 * batch,
        )  # fmt: skip


def _read(spec: Mapping[str, Any]) -> PaperSetting:
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    return PaperSetting(**made | {"metrics": tuple(_SPEC["metrics"][made.get("metrics", "on_y")])})


SETTINGS: dict[str, PaperSetting] = {spec["name"]: _read(spec) for spec in _SPEC["setting"]}


def name_of(setting: PaperSetting, seed: int = 0) -> str:
    """The experiment's name, e.g. "rddm-lol-paper-smres-s0"."""
    return f"rddm-{setting.name}-paper-{SHORT[setting.objective]}-s{seed}"


def strategies(setting: PaperSetting) -> dict[str, PaperSetting]:
    """The same experiment under each strategy, as the report's table compares them: "SM-Res", "SM-N", "SM-Res-N".

    The last one has two networks, the others one of the same size: the report does not equal the parameters.
    """
    return {
        label: dataclasses.replace(setting, objective=objective, layout="two" if objective == "res_noise" else "one")
        for label, objective in STRATEGIES.items()
    }


def measured() -> list[PaperSetting]:
    """Every published experiment, those of the report's table under each strategy."""
    found = {name_of(s): s for s in SETTINGS.values()}
    for name in REPORTED:
        found |= {name_of(s): s for s in strategies(SETTINGS[name]).values()}
    return list(found.values())


def schedule(setting: PaperSetting) -> RDDMSchedule:
    """The coefficients that it is trained and sampled with."""
    return by_config(**SCHEDULES[setting.schedule])


def build_network(setting: PaperSetting) -> PublishedNet:
    """The untrained network at its published size."""
    mask = 3 if setting.mask else 0
    return PublishedNet(setting.objective, setting.layout, 3, setting.condition, mask, **setting.network)


def experiment(setting: PaperSetting, root: FILE | None = None, seed: int = 0) -> Experiment:
    """What `repro train` runs; `root` is the data set's folder (default: the one of its name)."""
    return Experiment(
        name=name_of(setting, seed),
        room="rddm",
        task_name={"lol": "lowlight", "celeba64": "fashion"}.get(setting.name, setting.name),
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


# -- data -------------------------------------------------------------------------------------------------------------


def read(setting: PaperSetting, split: str, root: FILE | None = None, *, full: bool = False) -> PictureSet:
    """A split of a setting's data set.

    Args:
        split: "train" or "test".
        root: the data set's folder; default: the one of its name in `repro.paths.data()`.
        full: the files' own size, where the published setting squeezes every image to a square.

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
    pairs = [Pair(file, file) for file in _nine_tenths(split, root)]
    return PictureSet.of_pairs(pairs, prepare, prepare_input=lambda image: holed(prepare(image)))


def holed(image: Tensor) -> Tensor:
    """(3, H, W) with its middle, H/4..3H/4 by W/4..3W/4, replaced by grey."""
    h, w = image.shape[-2:]
    out = image.clone()
    out[..., h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] = 0.5
    return out


def _nine_tenths(split: str, root: FILE | None) -> list[Path]:
    """CelebA-HQ from one folder: by name, the first nine tenths (27,000 of 30,000) train and the others test."""
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
        crop: side of the training images: of the whole image where all are squares of that side (then only the
            mirroring is left of a random crop), else of a random part, cut alike from input, target and mask.
        condition: I_in is given to the network.
    """

    def __init__(self, pictures: PictureSet, learning: Learning, crop: int, condition: bool = True) -> None:
        if condition and pictures.inputs is None:
            raise ReproError("a network that sees I_in needs pairs: there are no inputs")
        self.pictures, self.learning, self.crop, self.condition = pictures, learning, crop, condition
        self.size, self.names = pictures.size, pictures.names
        self.settings = {**learning.settings, "crop": crop, "condition": condition}

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor, Tensor | None]:
        """(I_0, I_in, mask) of a batch, each (B, 3, crop, crop) in [-1, 1]; I_in is zeros for generation."""
        target, given, mask = self.pictures.crops(indices, self.crop, noise("crop").uniform((3,)))
        I_in = torch.zeros_like(target) if given is None else to_model(given)
        return to_model(target), I_in, None if mask is None else to_model(mask)

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        I_0, I_in, mask = self.pair(indices, noise)
        if self.condition and mask is None:
            return restoration_loss(model, I_0, I_in, noise, self.learning)
        cond = torch.cat([I_in, mask], dim=1) if self.condition else mask
        return diffusion_loss(model, I_0, I_in, cond, noise, self.learning)


def task(setting: PaperSetting, root: FILE | None = None, *, full: bool = False) -> PictureTask:
    """What a published experiment learns from its training images; arguments as in `read`.

    `full` trains on random crops of the setting's size from images of their own size.
    """
    learning = Learning(setting.objective, schedule(setting), setting.norm)
    return PictureTask(read(setting, "train", root, full=full), learning, setting.size, setting.condition)
