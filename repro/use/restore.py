"""`repro restore`, and what each method offers to a user's own images: a line each in `RESTORERS` and `LEARNERS`."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import torch
import tyro
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from tqdm import tqdm

from repro import paths
from repro.adir.adapt import USE
from repro.adir.pipeline import ADIR, Adapt, index_files
from repro.data.decoding import SUFFIXES
from repro.data.files import list_images
from repro.data.images import check_writable, image_size, read_srgb
from repro.engine.checkpoint import read_card
from repro.engine.provenance import save_result, shell
from repro.engine.rng import Noises
from repro.engine.train import DEVICE
from repro.errors import ReproError, one_of, whole
from repro.rddm.model import RDDMNet, restoration_loss
from repro.rddm.pipeline import RDDMPipeline, RDDMScheduler
from repro.rddm.process import RDDMTraining, by_config
from repro.ucdir.model import UCDIR, UCDIRLoss, training_loss
from repro.ucdir.pipeline import SHIPPED, UCDIRPipeline

Run = Callable[[Tensor, int, int], Tensor]  # (image (3, H, W) in [0, 1], steps, seed) -> the restored one


class Learner(NamedTuple):
    """How a method learns to restore from pairs."""

    build: Callable[[int], nn.Module]  # width -> the untrained network
    loss: Callable[[nn.Module, Tensor, Tensor, Noises], Tensor]  # target, input (B, 3, H, W) in [-1, 1] -> (B,)
    pipeline: Callable[[nn.Module], Any]  # trained network -> the diffusers pipeline that is saved and used
    lr: float  # learning rate, and below it sampling steps, where the file names none
    steps: int


_UCDIR = UCDIRLoss(detach=True, pixel=1.0)
LEARNERS = {
    # SM-Res: the residual is predicted, little noise is added (sum_scale 0.01), two sampling steps.
    "rddm": Learner(
        build=lambda width: RDDMNet(
            objective="res", base_channels=width, channel_mults=(1, 1, 2, 2), attention_levels=(3,), patch=2,
            input_skip=True,
        ),
        loss=partial(restoration_loss, learning=RDDMTraining("res", by_config(sum_scale=0.01), "l2")),
        pipeline=lambda network: RDDMPipeline(network, RDDMScheduler(objective="res", sum_scale=0.01)),
        lr=1e-3, steps=2,
    ),
    # The network and loss of `repro/ucdir/study/experiments.toml`, main variant, for one task without a strength.
    "ucdir": Learner(
        build=lambda width: UCDIR(
            residual_scale=4.0, residual_std=1.0, fine_std=0.1, predictor_channels=max(8, width // 2),
            predictor_levels=4, predictor_widest=2 * width, base_channels=width, channel_mults=(1, 1, 2), blocks=1,
            light=True, attention_levels=(), norm="one-group", patch=2, dropout=0.0,
        ),
        loss=lambda model, target, degraded, noise: training_loss(model, degraded, target, noise, _UCDIR),
        pipeline=UCDIRPipeline,
        lr=1.5e-3, steps=20,
    ),
}  # fmt: skip
ADIR_TASKS = ("sr4", "sr8", "box", "gauss", "colour")
PIPELINES = {"RDDMPipeline": RDDMPipeline, "UCDIRPipeline": UCDIRPipeline}


class Restorer(NamedTuple):
    """A method's networks for use."""

    tasks: Mapping[str, int]  # what `--task` accepts -> sampling steps
    shipped: Callable[..., tuple[Run, str]]  # a task (and options) -> what restores with it, its checkpoint's name
    options: tuple[str, ...] = ()  # of `repro restore` that this method has beside the others'


def _shipped_rddm(task: str) -> tuple[Run, str]:
    task = "raindrop" if task == "raindrops" else task
    variant = "use" if task == "raindrop" else "smres"  # for low light there is only the network of the comparisons
    return partial(restore_image, RDDMPipeline.shipped(task, variant)), f"rddm-{task}-{variant}-s0"


def _shipped_adir(task: str, adapt: str = "neighbours", neighbours: Path | None = None) -> tuple[Run, str]:
    one_of("--adapt", adapt, get_args(Adapt))
    pipe, index = ADIR.shipped(), None if neighbours is None else index_files(list_images(neighbours))
    for name in index.skipped if index else ():
        print(f"{name}: is no readable image, left out of the neighbours")
    options: dict[str, Any] = {"adapt": adapt, "neighbours": index, "progress": True, "state": paths.runs() / "adir"}
    return lambda image, steps, seed: pipe(image, task, steps=steps, seed=seed, **options), USE


RESTORERS: dict[str, Restorer] = {
    # The first that has a task is used where no method is named: in low light the better one on validation photographs.
    "ucdir": Restorer(
        dict.fromkeys(("lowlight", "deblur", "jpeg"), 5),
        lambda task: (partial(restore_image, UCDIRPipeline.shipped(task)), SHIPPED.format(task=task)),
    ),
    "rddm": Restorer({"lowlight": 2, "raindrops": 1}, _shipped_rddm),
    "adir": Restorer(dict.fromkeys(ADIR_TASKS, 100), _shipped_adir, ("adapt", "neighbours")),
}


def chosen(method: str | None, task: str | None, checkpoint: Path | None, **options: Any) -> tuple[Run, int, str]:
    """What restores an image, its sampling steps, and a line that names its network. `ReproError` names the choices."""
    if checkpoint is not None:
        if method or task or any(value is not None for value in options.values()):
            raise ReproError("--checkpoint names a network; accepted: it without method, task and adir's options")
        pipe, card = load(checkpoint), read_card(checkpoint) if (checkpoint / "card.json").exists() else {}
        trained = f"{card['method']}, {card['pairs']}, {card['images']:,} crops seen" if card else type(pipe).__name__
        return partial(restore_image, pipe), card.get("steps") or 2, f"{checkpoint}: {trained}"
    able = RESTORERS if method is None else {method: RESTORERS[one_of("--method", method, RESTORERS)]}
    known = "; ".join(f"{name}: {', '.join(r.tasks)}" for name, r in able.items())
    if task is None:
        raise ReproError(f"--task is missing: say what the image suffers from ({known}), or give --checkpoint")
    if (method := next((name for name, r in able.items() if task in r.tasks), None)) is None:
        raise ReproError(f"--task {task!r} is unknown; accepted: {known}")
    restorer, options = RESTORERS[method], {name: value for name, value in options.items() if value is not None}
    if unknown := [name for name in options if name not in restorer.options]:
        raise ReproError(f"--{unknown[0]} is no option of {method}: leave it out")
    run, name = restorer.shipped(task, **options)
    card = read_card(name)
    about = f"{card.get('summary', '')}, {card['parameters']:,} parameters, last trained on {card['images']:,} crops"
    return run, restorer.tasks[task], f"{name}: {about}"


def load(folder: Path) -> Any:
    """The pipeline that a folder holds, as `repro train my.toml` or `save_pretrained` wrote it, or a `ReproError`."""
    try:
        name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ReproError(f"{folder}: holds no pipeline; accepted: a folder that `repro train my.toml` wrote") from None
    if name not in PIPELINES:
        raise ReproError(f"{folder}: holds a {name}; accepted: {', '.join(PIPELINES)}")
    diffusers_logging.disable_progress_bar()
    try:
        return PIPELINES[name].from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise ReproError(f"{folder}: the pipeline cannot be read ({error})") from error


def restore_image(pipe: Any, image: Tensor, steps: int, seed: int = 0) -> Tensor:
    """(3, H, W) in [0, 1] -> the same restored, on this machine's device; the result is on the CPU."""
    pipe.set_progress_bar_config(disable=True)
    pipe.to(DEVICE)
    generator = torch.Generator("cpu").manual_seed(seed)
    out = pipe(image, num_inference_steps=steps, generator=generator, output_type="pt").images[0]
    return out.float().clamp(0, 1).cpu()


@dataclass
class Restore:
    """Restore a photo, or every photo of a folder, with a shipped network or one trained on own pairs."""

    photo: Annotated[Path, tyro.conf.Positional]
    """the photo to restore, or a folder of photos, of any size (large ones in tiles, raindrops by a smaller copy); with
    adir at most a megapixel"""
    task: str | None = None
    """what the image suffers from: lowlight, raindrops, deblur or jpeg; with adir sr4, sr8, box, gauss or colour"""
    method: str | None = None
    """ucdir, rddm or adir (default: the first of them that has the task)"""
    checkpoint: Path | None = None
    """a network that `repro train my.toml` wrote, instead of a method and a task"""
    steps: int | None = None
    """number of sampling steps (default: the method's own)"""
    adapt: str | None = None
    """what adir adapts its network to: neighbours (the default), itself (the image) or none"""
    neighbours: Path | None = None
    """a folder from which adir retrieves neighbours, instead of the gallery that ships"""
    seed: int = 0
    """seed of the noise; the same command gives the same image"""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """the file to write: .png (holds its command, see `repro provenance`), .jpg or .webp; a folder for a folder
    (default: restored-PHOTO.png, or restored-FOLDER)"""

    def run(self) -> int:
        whole("--steps", 1 if self.steps is None else self.steps, 1, 1000)
        whole("--seed", self.seed, 0, 2**64 - 1)
        target, places = self._places()  # everything that can be known before the work
        options = {"adapt": self.adapt, "neighbours": self.neighbours}
        restore, steps, about = chosen(self.method, self.task, self.checkpoint, **options)
        print(f"network: {about}", flush=True)
        bar = tqdm(places, unit="img", desc="restore", file=sys.stdout, disable=len(places) == 1)
        failed: list[str] = []
        for photo, out in bar:
            try:
                image, note = read_srgb(photo)
                check_writable(out, (image.shape[2], image.shape[1]))
                if note:
                    tqdm.write(note, file=sys.stdout)
                save_result(
                    restore(image, self.steps or steps, self.seed), out, shell("restore", photo, vars(self), out)
                )
            except ReproError as error:  # of a folder's images the others go on
                failed.append(f"{error}" if str(photo) in f"{error}" else f"{photo}: {error}")
        if failed and not self.photo.is_dir():
            raise ReproError(failed[0])
        for message in failed:
            print(f"repro restore: {message}", file=sys.stderr)
        counts = f", {len(places) - len(failed)} of {len(places)} images" if self.photo.is_dir() else ""
        print(f"written: {target}{counts}")
        return int(bool(failed))

    def _places(self) -> tuple[Path, list[tuple[Path, Path]]]:
        """Where results go, and each photo with its result's place. Raises `ReproError` where that cannot be."""
        folder, place = self.photo.is_dir(), Path(os.path.abspath(self.photo))  # of ".", too
        target = self.out or place.parent / f"restored-{place.name if folder else place.stem + '.png'}"
        if not folder:
            check_writable(target, image_size(self.photo))
        if target.exists() and self.photo.exists() and target.samefile(self.photo):
            raise ReproError(f"{target}: is the {'folder' if folder else 'image'} that was given; choose another place")
        if not folder:
            return target, [(self.photo, target)]
        if target.suffix.lower() in SUFFIXES or target.is_file():
            raise ReproError(f"{target}: {self.photo} is a folder; accepted: a folder for the results")
        if self.photo.resolve().is_relative_to(target.resolve()):
            raise ReproError(f"{target}: holds {self.photo}; accepted: a folder for the results beside or inside that")
        check_writable(target / "result.png", (1, 1))
        places: dict[Path, Path] = {}
        for photo in list_images(self.photo):
            out = target / photo.relative_to(self.photo).with_suffix(".png")
            if photo.resolve().is_relative_to(target.resolve()):
                continue  # results of an earlier run, in a folder inside this one
            if out in places:
                raise ReproError(f"{photo}: {places[out].name} has the same result, {out.name}; rename one of the two")
            places[out] = photo
        return target, [(photo, out) for out, photo in places.items()]
