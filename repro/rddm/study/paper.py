"""The published experiments of RDDM: settings, data, training by name; sampled and scored as published and beside it.

`paper.toml` holds one row a task. The appendix's table of settings exists as an image only: the rows are what the
released code, its folder names, its maintainer's answers and the reproduction report together prove; where they leave a
field open, it holds our choice and its name stands in `unknown`.

What is not taken over, and what takes its place:
- gradients accumulated over two batches: one batch of twice the size (`batch` x `ACCUMULATED` images a step);
- RAdam, of the generation experiments: Adam with the linear warm-up of 2 / (1 - beta_2) steps that stands in for its
  rectification (Ma and Yarats 2021, "On the adequacy of untuned warmup for adaptive optimization");
- two optimizers for two networks: one. Adam treats each weight alone, so they differ in the clipped norm only, which
  is of both networks together;
- the average, decay 0.995 at every tenth step: the same half-life, 1383 steps, at every step.

The report's table is measured in the cells of the small profile's: LOL for low light, RainDrop, CelebA for generation.
A restoration's input is squeezed to a square and the ground truth resized to the output (`repro.metrics.pixel`); a
"full-size" cell is the same network on the images' own size. Protocol names say the rest (Y or RGB, rounded or not).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro import paths
from repro.data.datasets import LAYOUTS, face, read_celeba, read_split
from repro.data.filesets import Pictures, PictureSet, equalised, squared
from repro.data.flist import FILE, Pair, list_images
from repro.data.images import to_model, to_unit
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.recipe import Recipe
from repro.engine.records import Values
from repro.engine.registry import Experiment
from repro.engine.study import Sample
from repro.errors import ReproError
from repro.metrics import protocols
from repro.metrics.pixel import ground_truth
from repro.rddm.model import Layout
from repro.rddm.process import STRATEGIES, Objective
from repro.rddm.sampling import Net
from repro.rddm.schedules import by_config
from repro.rddm.study.published import PublishedNet
from repro.rddm.tasks import Learning, Noises, PairTask

_SPEC = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SCHEDULES: dict[str, dict[str, Any]] = _SPEC["schedule"]
SHORT = {"res": "smres", "noise": "smn", "res_noise": "smresn"}
# The report's table, each under all three strategies -> the task of the small profile's cells
REPORTED = {"lol": "lowlight", "raindrop": "raindrop", "celeba64": "generation"}
# Metrics under the names that tables look for.
ALIASES = {
    "psnr/y-uint8": "psnr/y",
    "ssim/y-uint8-wang": "ssim/y-wang",
    **{f"{m}/inception": f"{m}/fashion-classifier" for m in ("fid", "kid", "is")},
}
ACCUMULATED = 2  # batches to a step of the optimizer
CHECKED = 4  # images of a restoration that a check restores again
BATCH = 250  # generated at once
_HALF_LIFE = 10 * math.log(0.5) / math.log(0.995)  # steps


@dataclass(frozen=True)
class PaperSetting:
    """One published experiment."""

    name: str
    title: str
    objective: Objective
    data: str = ""  # "lol", "raindrop", "istd", "gopro" (pairs), "celeba", "celeba-hq" (images), "" (no reader here)
    size: int = 256  # side in pixels that images are resized to, without keeping proportions
    batch: int = 1  # images of one pass, `ACCUMULATED` of which make a step
    steps: int = 80_000  # of the optimizer
    norm: Literal["l1", "l2"] = "l1"
    optimizer: Literal["adam", "radam"] = "adam"  # see above
    optimizers: int = 1
    lr: float = 8e-5
    schedule: str = "restoration"
    condition: bool = True  # the input is given to the network
    mask: bool = False  # and behind it the mask
    equalise: bool = False  # the input is equalised before that
    hole: bool = False  # the input is the image with its middle replaced by grey (inpainting)
    sampling: int = 5  # steps of the published numbers
    samples: int = 0  # images of a generated set; 0: restoration
    metrics: tuple[str, ...] = ()  # protocol names
    unknown: tuple[str, ...] = ()  # fields whose value is our choice
    notes: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)  # changes to the published network, for tests

    @property
    def layout(self) -> Layout:
        """Two networks where two images are predicted, else one of the same size: parameters are not made equal."""
        return "two" if self.objective == "res_noise" else "one"

    @property
    def images(self) -> int:
        """Images of the whole training."""
        return self.steps * self.batch * ACCUMULATED

    @property
    def recipe(self) -> Recipe:
        """The training as this repository's loop runs it."""
        batch = self.batch * ACCUMULATED
        warmup = 200 * batch if self.optimizer == "radam" else 0  # 2 / (1 - 0.99) steps
        return Recipe(
            images=self.images, batch=batch, lr=self.lr, warmup=warmup, decay="constant", betas=(0.9, 0.99),
            ema=_HALF_LIFE * batch, precision="fp32", threads=16, save_every=2_000 * batch,
        )  # fmt: skip


def _setting(spec: Mapping[str, Any]) -> PaperSetting:
    made = {"metrics": "on_y", **_SPEC.get(spec.get("like"), {}), **spec}
    made |= {"metrics": _SPEC["metrics"][made["metrics"]]}
    made.pop("like", None)
    return PaperSetting(**{key: tuple(value) if isinstance(value, list) else value for key, value in made.items()})


SETTINGS: dict[str, PaperSetting] = {spec["name"]: _setting(spec) for spec in _SPEC["setting"]}


def name_of(setting: PaperSetting) -> str:
    """The experiment's name, e.g. "rddm-lol-paper-smres-s0"."""
    return f"rddm-{setting.name}-paper-{SHORT[setting.objective]}-s0"


def strategies(setting: PaperSetting) -> dict[str, PaperSetting]:
    """The same experiment under each strategy, as the report's table compares them: "SM-Res", "SM-N", "SM-Res-N"."""
    return {label: dataclasses.replace(setting, objective=objective) for label, objective in STRATEGIES.items()}


def measured() -> dict[str, PaperSetting]:
    """Every published experiment by name, those of the report's table under each strategy."""
    found = {name_of(s): s for s in SETTINGS.values()}
    return found | {name_of(s): s for name in REPORTED for s in strategies(SETTINGS[name]).values()}


def learning(setting: PaperSetting) -> Learning:
    """What it learns, and by which coefficients it is trained and sampled."""
    return Learning(setting.objective, by_config(**SCHEDULES[setting.schedule]), setting.norm)


def build_network(setting: PaperSetting) -> PublishedNet:
    """The untrained network at its published size."""
    mask = 3 if setting.mask else 0
    return PublishedNet(setting.objective, setting.layout, 3, setting.condition, mask, **setting.network)


def experiment(setting: PaperSetting, root: FILE | None = None) -> Experiment:
    """What `repro train` runs; `root` is the data set's folder (default: the one of its name)."""
    name = {"lol": "lowlight", "celeba64": "fashion"}.get(setting.name, setting.name)
    return Experiment(
        name_of(setting), "rddm", name, SHORT[setting.objective], setting.data, "paper", seed=0, recipe=setting.recipe,
        summary=setting.title, ships=False, build=lambda: build_network(setting), task=lambda: task(setting, root),
    )  # fmt: skip


# -- data -------------------------------------------------------------------------------------------------------------


def read(setting: PaperSetting, split: str, root: FILE | None = None, *, full: bool = False) -> PictureSet:
    """A split, "train" or "test", of a setting's data set.

    Args:
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
    if not setting.data:
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
        raise ReproError(f"{folder}: holds {len(files)} image(s), none of them left for {split}")
    return chosen


def task(setting: PaperSetting, root: FILE | None = None, *, full: bool = False) -> PairTask:
    """What a published experiment learns from its training images; arguments as in `read`.

    Of squares only the mirroring is left of a random crop; `full` trains on random crops of the setting's size from
    images of their own size, cut alike from input, target and mask.
    """
    pictures, crop = read(setting, "train", root, full=full), setting.size

    def pair(indices: Tensor, noise: Noises) -> list[Tensor]:
        x0, y, mask = pictures.crops(indices, crop, noise("crop").uniform((3,)))
        y = torch.zeros_like(x0) if y is None else to_model(y)
        return [to_model(x0), y, *([] if mask is None else [to_model(mask)])]

    files = (pictures.inputs or pictures.targets).files
    return PairTask([str(file) for file in files], pair, learning(setting), setting.condition, crop=crop)


# -- measured ---------------------------------------------------------------------------------------------------------


def restored(
    network: nn.Module,
    setting: PaperSetting,
    y: Tensor,
    ids: Sequence[int | str],
    mask: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] sampled as published: deterministic, Eq. 12, everything cut to ±1.

    `y` is zeros for generation; `mask` (B, 3, H, W) in [-1, 1] for a setting that has one; `ids` key the noise.
    """
    given = [part for part, there in ((y, setting.condition), (mask, setting.mask)) if there]
    seen = torch.cat(given, dim=1) if given else None
    known = Net(lambda x, t, cond: network(x, t, seen).sample, learning(setting), setting.sampling)
    return known.restore(y, ids, seed=seed, clip=1.0)


def _meant(experiment: str, cell: Mapping[str, Any]) -> tuple[PaperSetting, bool] | None:
    """The setting that a cell of the grid means at paper scale, and whether images keep their own size."""
    task = str(cell.get("task", ""))
    plain, known = task.removesuffix("-full-size"), measured()
    ours = [s for s in known.values() if REPORTED.get(s.name) == plain]
    setting = known.get(experiment) or (ours[0] if experiment == "baseline-input" and ours else None)
    if setting not in ours or "switch" in cell or cell.get("eta"):
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
    experiment: str, cell: Mapping[str, Any], k: int | None, net: Callable[[], Any] | None = None
) -> Mapping[str, Values]:
    """A restoration scored image by image, a generator by FID, KID and IS against the cropped test split.

    `net` makes a `FeatureNet` that stands in for Inception under its own name.
    """
    from repro.metrics import features

    setting, full = _meant(experiment, cell)  # type: ignore[misc]
    device, network = "cuda" if torch.cuda.is_available() else "cpu", None
    if experiment != "baseline-input":
        network = copy.deepcopy(load_checkpoint(experiment)).to(device)
    given = read(setting, "test", full=full)
    if setting.samples:
        reference = to_model(torch.stack(given.targets.several(torch.arange(given.size))))
        score = features.SetMetrics(net or (lambda: features.inception(device=device)), reference, BATCH)
        drawn, shape = Net(network, learning(setting), setting.sampling), (3, setting.size, setting.size)
        return score(drawn.generate(range(k or setting.samples), shape=shape, batch=BATCH, device=device, clip=1.0))
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
