"""The networks of notebook 03, read from `experiments.toml`: how each task is learned, and from what, in each profile.

The paper profile holds the published experiments. What is not taken over of them, and what takes its place:
- gradients accumulated over two batches: one batch of twice the size;
- RAdam, of the generation experiments: Adam with the linear warm-up of 2 / (1 - beta_2) steps that stands in for its
  rectification (Ma and Yarats 2021, "On the adequacy of untuned warmup for adaptive optimization");
- two optimizers for two networks: one. Adam treats each weight alone, so they differ in the clipped norm only, which
  is of both networks together;
- the average, decay 0.995 at every tenth step: the same half-life, 1383 steps, at every step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro import paths
from repro.data import wetglass
from repro.data.datasets import face, read_celeba, read_split
from repro.data.degradations import LOW_LIGHT_LAW, TASKS, low_light, plain_surfaces, raindrops
from repro.data.files import ImageFiles, ImageSet, Pair, cut, equalised, list_images
from repro.data.images import resize, to_model
from repro.data.pack import fashion, photographs
from repro.engine.checkpoint import Experiment
from repro.engine.rng import KeyedNoise, Noises
from repro.engine.train import Recipe
from repro.errors import ReproError
from repro.paths import read_toml
from repro.rddm.model import PublishedNet, RDDMNet, restoration_loss
from repro.rddm.process import RDDMTraining, by_config

_SPEC = read_toml(Path(__file__).with_suffix(".toml"))
SCHEDULES: dict[str, dict[str, Any]] = _SPEC["schedule"]
BASELINES = ("regression", "sr3")
TEST_SEED = 7  # of the test photographs' degradations


@dataclass(frozen=True)
class TaskConfig:
    """One task of a profile."""

    name: str
    title: str
    network: Mapping[str, Any]  # arguments of its class, objective and layout left out
    recipe: Recipe
    steps: int  # sampling steps of the main table
    data: str = "photos"  # or "fashion"; of the published: a data set, "" where it cannot be read
    degradation: str = "none"  # of `DEGRADATIONS`, or "none" (generation: y = 0)
    wider: Mapping[str, float] | None = None  # shares in training: `plain_surfaces`; `sky` and `film` of `wet_glass`
    schedule: str = "restoration"  # of `SCHEDULES`
    norm: Literal["l1", "l2"] = "l2"
    crop: int = 64  # side of the training crops in pixels
    side: int = 256  # the shorter side of whole images, 0: as they come; of the published both sides
    n: int = 0  # generation: samples in a set, and sets
    replicates: int = 1
    k: int = 1  # samples, or images, of the check
    limit: int = 0  # images used at most; 0: all
    # Of the published experiments alone:
    published: bool = False  # the network is `PublishedNet`
    variants: Sequence[str] = ()  # the published one first
    cells: str = ""  # the task of the small profile's cells that it is measured in
    equalise: bool = False  # the input is equalised
    hole: bool = False  # the input is the image with its middle replaced by grey
    unread: str = ""  # why it cannot be read


def _published(steps: int, batch: int = 1, lr: float = 8e-5, radam: bool = False) -> Recipe:
    """A published training of so many steps of two batches, as this repository's loop runs it."""
    batch, half_life = 2 * batch, 10 * math.log(0.5) / math.log(0.995)
    sizes = {"images": steps * batch, "batch": batch, "warmup": 200 * batch * radam, "ema": half_life * batch}
    return Recipe(**sizes, lr=lr, decay="constant", precision="fp32", threads=16, save_every=2_000 * batch)


def _task(name: str, spec: Mapping[str, Any], profile: str) -> TaskConfig:
    spec = {**_SPEC["like"].get(spec.get("like", profile), {}), **spec}
    spec.pop("like", None)
    recipe = (_published if "steps" in spec["recipe"] else Recipe)(**spec["recipe"])
    return TaskConfig(name, **{**spec, "network": _SPEC["network"][spec["network"]], "recipe": recipe})


PROFILES = {profile: {n: _task(n, s, profile) for n, s in found.items()} for profile, found in _SPEC["task"].items()}
USE, FIRST = PROFILES.pop("use"), PROFILES.pop("first")
SMALL, SMOKE, PAPER = PROFILES["small"], PROFILES["smoke"], PROFILES["paper"]
SEEDS = {"small": (0, 1, 2, 3), "smoke": (0, 1)}  # noise seeds of the diversity rows
# One way to learn a task each: `learning`, arguments of `RDDMTraining`, perhaps under a `schedule` in the place of the
# task's; `layout`; `halves`, task -> base channels of each of two networks; `times` as many images as the recipe says.
VARIANTS: dict[str, dict[str, Any]] = _SPEC["variant"]
# (task, variant, whether it ships)
TRAINED = [
    (t, v, kind == "ships") for t, kinds in _SPEC["trained"].items() for kind, some in kinds.items() for v in some
]


def name_of(task: str, variant: str, seed: int = 0, profile: str = "small") -> str:
    """An experiment's name, e.g. "rddm-lowlight-smres-s0"."""
    return f"rddm-{task}-{variant}-s{seed}" if profile == "small" else f"rddm-{task}-{profile}-{variant}-s{seed}"


def learning_of(task: TaskConfig, variant: str) -> RDDMTraining:
    """What a variant of a task learns, and by which coefficients it is trained and sampled."""
    schedule = by_config(**SCHEDULES[VARIANTS[variant].get("schedule", task.schedule)])
    return RDDMTraining(schedule=schedule, norm=task.norm, **VARIANTS[variant]["learning"])


def build_network(task: TaskConfig, variant: str) -> RDDMNet | PublishedNet:
    """The untrained network."""
    chosen, objective = VARIANTS[variant], VARIANTS[variant]["learning"]["objective"]
    if task.published:  # two networks of the size of one where two images are predicted
        return PublishedNet(objective, "two" if objective == "res_noise" else "one", **task.network)
    width = chosen.get("halves", {}).get(task.name)
    layout = chosen.get("layout", "two" if width else "one")
    return RDDMNet(objective, layout, **task.network | ({"base_channels": width} if width else {}))


# (B, 3, H, W) in [0, 1] -> the degraded images, of the same shape and range; the wide one is made like real ones
DEGRADATIONS: dict[str, Callable[[Tensor, Noises], Tensor]] = {
    "lowlight": low_light,
    "raindrop": lambda images, noise: wetglass.rain(images, noise("degrade/drops")),
    "raindrop-wide": lambda images, noise: TASKS["raindrops"].degrade(images, noise)[0],
}
# What they are drawn from: other laws make other data, and other records.
LAWS = {
    "lowlight": LOW_LIGHT_LAW,
    "raindrop": str((wetglass.LENS_RADIUS, wetglass.LENS_COVERAGE)),
    "raindrop-wide": TASKS["raindrops"].law,
}


def degraded(degradation: str, image: Tensor, name: str, seed: int = TEST_SEED) -> Tensor:
    """(3, H, W) in [0, 1] as the test set has it: settings, drops and sensor noise keyed by the image's name."""
    return DEGRADATIONS[degradation](image[None], lambda purpose: KeyedNoise(seed, [name], purpose))[0]


def read(task: TaskConfig, split: str, full: bool = False) -> ImageSet:
    """A split, "train" or "test", of a published task's data set; every image squeezed to a square (the filter is
    not published), unless `full`. Of CelebA-HQ, one folder, the first nine tenths by name (27,000 of 30,000) are for
    training. Raises `ReproError` for a task without a reader, and for what the files lack."""
    prepare = (lambda image: image) if full else partial(resize, size=(task.side, task.side))
    if task.unread:
        raise ReproError(f"task {task.name!r} cannot be read: {task.unread}")
    if task.data == "celeba":
        return ImageSet(ImageFiles(read_celeba(split), face))
    if task.hole:
        files = list_images(paths.data() / task.data)
        trained = len(files) * 9 // 10
        pairs = [Pair(file, file) for file in (files[:trained] if split == "train" else files[trained:])]
        return ImageSet.of_pairs(pairs, prepare, prepare_input=lambda image: holed(prepare(image)))
    found, masked = read_split(task.data, split), "mask_channels" in task.network
    tone = (lambda image: prepare(equalised(image))) if task.equalise else prepare
    return ImageSet.of_pairs(found.pairs, prepare, prepare_input=tone, masks=found.masks if masked else None)


def holed(image: Tensor) -> Tensor:
    """(3, H, W) with its middle, H/4..3H/4 by W/4..3W/4, replaced by grey."""
    (h, w), out = image.shape[-2:], image.clone()
    out[..., h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] = 0.5
    return out


class PairTask:
    """Learn from pairs of clean and degraded images, named by `ids`. `pair`: (indices (B,), noises) -> x0 and y,
    (B, C, H, W) in [-1, 1], and where there is one a mask of that size; `settings` are what it depends on. `condition`:
    whether the network is given y."""

    def __init__(
        self, learning: RDDMTraining, ids: Sequence[str], pair: Callable, condition: bool = True, **settings: Any
    ) -> None:
        self.learning, self.ids, self.pair, self.condition = learning, list(ids), pair, condition
        self.settings = {**learning.settings, **settings}

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        x0, y, *mask = self.pair(indices, noise)
        return restoration_loss(model, x0, y, noise, self.learning, self.condition, *mask)


def training_task(task: TaskConfig, variant: str) -> PairTask:
    """Training set and loss of a variant; generation has zeros as the degraded images."""
    learning = learning_of(task, variant)
    if task.published:
        images = read(task, "train")

        def of_files(indices: Tensor, noise: Noises) -> list[Tensor]:
            # of squares only the mirroring is left of a random crop
            x0, y, *mask = images.crops(indices, task.side, noise("crop").uniform((3,)))
            y = torch.full_like(x0, 0.5) if y is None else y
            return [to_model(x) for x in (x0, y, *mask) if x is not None]

        files, condition = [str(file) for file in images.files], task.network.get("condition", True)
        return PairTask(learning, files, of_files, condition, crop=task.side)
    if task.degradation == "none":
        images, _, ids = fashion("train")

        def generated(indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor]:
            x0 = images[indices].to(noise("noise").device)
            return x0, torch.zeros_like(x0)

        return PairTask(learning, ids, generated, condition=False)
    ids, photos = photographs("train", task.side, task.limit)
    settings: dict[str, Any] = {"crop": task.crop, "degradation": LAWS[task.degradation]}
    degrade, wider = DEGRADATIONS[task.degradation], dict(task.wider or {})
    plain = wider.pop("plain", 0.0)
    if task.wider:
        drops, settings["wider"] = replace(TASKS["raindrops"], draw=partial(raindrops, **wider)), task.wider
        degrade = lambda images, noise: drops.degrade(images, noise)[0]  # noqa: E731

    def degraded_afresh(indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor]:
        draw = noise("crop").uniform((3,))
        clean = cut([photos[i] for i in indices.tolist()], task.crop, draw.cpu()).to(draw.device)
        clean = plain_surfaces(clean, noise, plain) if plain else clean
        return to_model(clean), to_model(degrade(clean, noise))

    return PairTask(learning, ids, degraded_afresh, **settings)


def experiment(profile: str, task: TaskConfig, variant: str, ships: bool = False) -> Experiment:
    """One entry of the list."""
    name = (task.cells or task.name).replace("generation", "fashion")
    recipe = replace(task.recipe, images=task.recipe.images * VARIANTS[variant].get("times", 1))
    return Experiment(
        name_of(task.name, variant, 0, profile), "rddm", name, variant, task.data, profile, seed=0, recipe=recipe,
        summary=f"{task.title}: {VARIANTS[variant]['label']}", ships=ships, build=partial(build_network, task, variant),
        task=partial(training_task, task, variant),
        begins=name_of(task.name, VARIANTS[variant]["begin"]) if "begin" in VARIANTS[variant] else "",
    )  # fmt: skip


EXPERIMENTS: tuple[Experiment, ...] = (
    *(experiment("small", SMALL[t], v, ships) for t, v, ships in TRAINED),
    *(experiment("small", t, v, v == "use") for v, some in (("first", FIRST), ("use", USE)) for t in some.values()),
    *(experiment("smoke", SMOKE[t], v) for t, v, _ in TRAINED),
    *(experiment("paper", task, v) for task in PAPER.values() for v in task.variants),
)
