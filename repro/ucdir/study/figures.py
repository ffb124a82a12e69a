"""What notebook 04 shows: live images, figures, widgets as pure functions, exercises; and the README's row of it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data import pack
from repro.data.degradations import TASKS
from repro.data.images import center_crop, resize, to_model, to_unit
from repro.engine.checkpoint import in_profile, load_checkpoint, trained
from repro.engine.records import Record, select
from repro.engine.rng import KeyedNoise, Noises
from repro.engine.study import Exercise, Lesson, check_answer, like, near, tensors
from repro.metrics.pixel import psnr
from repro.ucdir import pipeline
from repro.ucdir.model import UCDIR
from repro.ucdir.network import AdaptiveKernels, statistics
from repro.ucdir.pipeline import SHIPPED, TONED, Tiles, scalars
from repro.ui.controls import UploadedFile
from repro.ui.pictures import Photos, captioned, photograph, plaque, to_uint8
from repro.ui.plots import PALETTE, PngFigure, Schematic, panels, tile

PHOTO, SECOND = "photos/erase_kitten", "photos/monuments_brandenburgGate"  # held out from every training
SIZES = {"side": 192, "crop": 160, "steps": 20, "live": "small"}
LESSONS = {
    "smoke": Lesson("ucdir", "04_ucdir", "smoke", 0.3, {"side": 64, "crop": 48, "steps": 3, "live": "smoke"}),
    **{name: Lesson("ucdir", "04_ucdir", name, 2.0, SIZES) for name in ("small", "paper")},
}
WORDS = {"low light": "lowlight", "motion blur": "deblur", "JPEG": "jpeg"}
STARTS = {"pure noise": 0.0, "middle": 0.5, "last levels": pipeline.START}
SAMPLERS = {"ancestral": "ancestral", "DDIM": "ddim", "DPM-Solver++": "dpm"}


def net(now: Lesson, name: str) -> UCDIR | None:
    """The network for use of a task, or that of a name, in the profile that runs live; None without weights."""
    own = in_profile(SHIPPED.format(task=name) if name in WORDS.values() else name, now["live"])
    return load_checkpoint(own) if trained(own) else None


def stream(seed: int, name: str = "open") -> Noises:
    """purpose -> the random numbers of one sample."""
    return partial(KeyedNoise, seed, [name])


def spoiled(clean: Tensor, task: str, strength: float, noises: Noises) -> Tensor:
    """(1, 3, H, W) in [0, 1], degraded with a strength in [0, 1] as `repro.data.degradations` counts it."""
    low, high = TASKS[task].accepts
    value = max(low, min(high, round(100 - 100 * strength))) if task == "jpeg" else strength * high
    return TASKS[task].degrade(clean, noises, **{TASKS[task].setting: value})[0]


def pair(name: str, side: int, task: str, strength: float) -> tuple[Tensor, Tensor]:
    """(clean, degraded) of a held-out photograph of that shorter side, each (1, 3, H, W) in [-1, 1]."""
    clean = resize(pack.load(pack.image(name)), side)[None]
    return to_model(clean), to_model(spoiled(clean, task, strength, stream(0, name)))


def estimate(model: UCDIR, degraded: Tensor, task: str) -> Tensor:
    """The first estimate of (1, 3, H, W) images in [-1, 1], as it is used."""
    return pipeline.first_estimate(model, degraded, scalars(model, task).get("task"), tones=task in TONED).clamp(-1, 1)


def restored(model: UCDIR, degraded: Tensor, task: str, steps: int, sampler: str, seed: int, **settings: Any) -> Tensor:
    """(1, 3, H, W) in [-1, 1], as the widgets and galleries draw it; the network does not know the strength."""
    settings = {"steps": steps, "sampler": sampler, "tones": task in TONED, **scalars(model, task), **settings}
    return pipeline.restore(model, degraded, stream(seed, "play")("sample"), **settings)


def results(now: Lesson, name: str, task: str, strength: float, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Input and results of the networks that are here for a held-out photograph, and the truth."""
    truth, x = pair(name, now["side"], task, strength)
    images = {"input": x}
    if (model := net(now, f"ucdir-{task}-regression-s0")) is not None:
        images["regression"] = model(x, **scalars(model, task))[0].clamp(-1, 1)
    if (model := net(now, task)) is not None:
        images["first estimate"] = estimate(model, x, task)
        images["pure noise"] = restored(model, x, task, now["steps"], pipeline.SAMPLER, seed)
        images["last levels"] = restored(model, x, task, pipeline.STEPS, pipeline.SAMPLER, seed, start=pipeline.START)
    return images, truth


def schematic(clean: Tensor, degraded: Tensor, initial: Tensor) -> Photos:
    """Fig. 1: predictor, diffusion of the residual, and a block with its two conditions. Images (1, 3, H, W)."""
    noise = torch.randn(initial.shape, generator=torch.Generator().manual_seed(0))
    drawing = Schematic(9.4, 3.9)
    for name, image, (x, y), text in (
        ("x", degraded, (0.85, 2.9), "degraded $x$"),
        ("u", initial, (3.5, 2.9), "first estimate $u(x)$"),
        ("r", ((clean - initial) * 2).clamp(-1, 1), (6.4, 2.9), "residual $r$"),
        ("n", (noise * 0.5).clamp(-1, 1), (6.4, 1.05), "pure noise"),
        ("y", clean, (8.55, 2.9), "restored $u + r$"),
    ):
        drawing.image(name, (x, y), to_unit(image)[0], height=0.85)
        drawing.note((x, y + 0.7 if name != "n" else 0.4), text, size=9)
    words = "diffusion network\n$\\epsilon_\\theta(x, r_\\gamma, \\sqrt{\\gamma};\\ u)$"
    drawing.box("net", (3.5, 1.05), words, kind="network", size=(2.0, 0.8))
    drawing.arrow("x", "u", "predictor").arrow("u", "net", "guides every block").arrow("x", "net")
    drawing.arrow("n", "r", "50 steps").arrow("net", "n", "noise").arrow("r", "y", "added")
    return Photos(drawing)


@torch.no_grad()
def kernel_maps(model: UCDIR, degraded: Tensor, level: float, given: Mapping[str, Tensor]) -> Photos:
    """Fig. 2: the maps M[b] of the first block on a photograph, with the guide; grey is a map's own mean."""
    initial, size = model.predictor(degraded, task=given.get("task")), degraded.shape[-2:]
    block = next(m for m in model.unet.modules() if isinstance(m, AdaptiveKernels))
    emb = model.unet.embed(torch.tensor([level]), statistics(degraded), **given)
    coarse = [-(-n // model.config.patch) for n in size]
    M = block.condition(emb, F.interpolate(initial, size=coarse, mode="bilinear", align_corners=False))[0]  # (N, h, w)
    images = {"guide": to_unit(initial)[0]}
    for b, m in enumerate(M):
        grey = (0.5 + 0.25 * (m - m.mean()) / m.std().clamp(min=1e-6)).clamp(0, 1)
        images[f"M[{b}]: {m.mean():.2f} ± {m.std():.2f}"] = F.interpolate(grey[None, None], size=size)[0]
    return Photos(captioned(images, 3))


def scored(images: Mapping[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
    """Images (1, 3, H, W) in [-1, 1] under their names, those that are results with their PSNR."""
    named = {}
    for words, image in images.items():
        plain = words == "truth" or "difference" in words
        named[words if plain else f"{words}, {psnr(to_unit(image), to_unit(truth)).item():.1f} dB"] = to_unit(image)[0]
    return named


def gallery(rows: Mapping[str, tuple[Mapping[str, Tensor], Tensor]], crop: int) -> Photos:
    """Figs 3 to 5: a row a photograph, (results, truth) of (1, 3, H, W); its middle, PSNR of the whole."""
    lines = []
    for results, truth in rows.values():
        named = scored({**results, "truth": truth}, truth)
        cut = {words: center_crop(x, min(crop, *x.shape[-2:])) for words, x in named.items()}
        lines.append(captioned(cut, len(cut)))
    return Photos(tile(lines, 1, gap=4))


def splitting(images: Mapping[str, Tensor], tiles: Tiles, around: int = 56) -> Photos:
    """Fig. 6: each image (1, 3, H, W) around a place where four tiles meet, three times as large."""
    size = next(iter(images.values())).shape[-2:]
    meets = [ends[1][1] if len(ends := tiles.along(n)) > 1 else n // 2 for n in size]
    top, left = (max(0, at - around // 2) for at in meets)
    parts = {words: to_unit(x[0, :, top : top + around, left : left + around]) for words, x in images.items()}
    return Photos(captioned({words: to_uint8(x).repeat(3, 0).repeat(3, 1) for words, x in parts.items()}, len(parts)))


def plane(
    records: Sequence[Record], tasks: Mapping[str, str], rows: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> PngFigure:
    """Perception against distortion, a panel a task: every row a point; down and to the right is better in both.

    `rows`: words -> experiment, with {task} for the task, and the cell beside the task.
    """
    with panels((9.4, 3.1), 1, len(tasks), squeeze=False) as (figure, axes):
        for axis, (task, title) in zip(axes[0], tasks.items(), strict=True):
            for i, (words, (experiment, cell)) in enumerate(rows.items()):
                found = select(records, experiment=experiment.format(task=task), cell={"task": task, **cell})
                for record in [record for record in found if len(record.cell) == 1 + len(cell)][:1]:
                    x, y = (np.mean(record.values(m)) for m in ("psnr/rgb", "lpips/alex-v0.1"))
                    axis.plot(x, y, "osD^vP"[i % 6], color=PALETTE[i % len(PALETTE)], label=words)
            axis.set(xlabel="PSNR in dB", ylabel="LPIPS")
            axis.set_title(title, loc="left")
        figure.axes[0].legend(fontsize=7)
    return figure


def restore_view(
    now: Lesson, task: str, strength: float, start: str, steps: int, sampler: str, seed: int
) -> np.ndarray:
    """Input, first estimate, result and truth of a held-out photograph at these settings."""
    if (model := net(now, name := WORDS[task])) is None:
        return missing(task)
    clean, degraded = pair(PHOTO, now["side"], name, strength)
    images = {"input": degraded, "first estimate": estimate(model, degraded, name)}
    result = restored(model, degraded, name, steps, SAMPLERS[sampler], seed, start=STARTS[start])
    return captioned(scored({**images, f"restored, {steps} steps": result, "truth": clean}, clean), 2)


def tiles_view(now: Lesson, where: str, size: int, margin: int, task: str, seed: int) -> np.ndarray:
    """One photograph split inside or outside the step, beside the result in one piece."""
    name, tiles = WORDS[task], Tiles(size, margin)  # refuses a margin that leaves nothing of the tile
    if (model := net(now, name)) is None:
        return missing(task)
    clean, degraded = pair(SECOND, now["side"], name, 0.6)
    draw = partial(restored, model, degraded, name, 8, "ancestral", seed, tones=False)
    whole, split = draw(), draw(**{"tiles" if where == "inside the step" else "outside": tiles})
    seam = ((split - whole).abs() * 4 - 1).clamp(-1, 1)
    images = {"in one piece": whole, f"split {where}": split, "difference × 4": seam, "truth": clean}
    return captioned(scored(images, clean), 2)


def own_photo(
    now: Lesson, photo: UploadedFile | None, task: str, strength: float, spoil: bool, start: str, steps: int, seed: int
) -> np.ndarray:
    """A reader's photograph (or one of ours), degraded first where asked for, and restored."""
    if (model := net(now, name := WORDS[task])) is None:
        return missing(task)
    image, words = photograph(photo, now["side"], pack.load(pack.image(SECOND)), "a held-out photograph")
    given = spoiled(image[None], name, strength, stream(seed, "own")) if spoil else image[None]
    result = restored(model, to_model(given), name, steps, "ancestral", seed, start=STARTS[start])
    return captioned({words: given[0], f"restored, {steps} steps": to_unit(result)[0]}, 2)


def missing(task: str) -> np.ndarray:
    """In place of a result, a sentence that says which network is not here."""
    return plaque(f"no weights for {task} here: repro train {SHIPPED.format(task=WORDS[task])} makes them")


_GIVEN = (*tensors(2), 0.64)
_BASES = tensors(1, ())[0], tensors(1, (3, 3))[0]  # M (N,), W (N, k, k)
_noisy = partial(like, lambda r, eps, gamma: gamma**0.5 * r + (1 - gamma) ** 0.5 * eps, _GIVEN)
_clean = partial(like, lambda noisy, eps, gamma: (noisy - (1 - gamma) ** 0.5 * eps) / gamma**0.5, _GIVEN)
_fused = partial(like, lambda M, W: (M[:, None, None] * W).sum(dim=0), _BASES)
EXERCISES: dict[str, Exercise] = {
    "noisy": ("the noisy residual at level gamma", _noisy, "two roots, squares add up to one"),
    "clean": ("the residual from the predicted noise", _clean, "solve the first exercise for r"),
    "fused": ("the kernel of one position", _fused, "Eq. 2: a sum over the bases, weighted"),
    "cost": ("how much N bases cost against one full convolution", near(1.0), "N groups: each costs 1/N"),
    "budget": ("the sum of the betas of both published schedules", near(10.0, 0.3), "T times the mean beta"),
    "tiles": ("how many tiles of 128 with margin 16 cover 384 × 256", near(12), "a new tile every 96 pixels"),
}
check = partial(check_answer, among=EXERCISES)  # (name, answer): says whether it holds; None is no answer yet


TITLE = "04 UCDIR: a first estimate, and the residual that diffusion adds to it"
SHOWN = (
    ("lowlight", "photos/erase_red_panda", {"stops": 3.0}, "three stops too dark"),
    ("deblur", "photos/farm_animals_sheep", {"length": 10.0}, "shaken"),
)
NEEDS = tuple(SHIPPED.format(task=task) for task, *_ in SHOWN)


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], inputs before their results."""
    made: dict[str, Tensor] = {}
    for task, photo, fixed, words in SHOWN:
        clean = resize(pack.load(pack.image(photo)), 256)[None]
        given = TASKS[task].degrade(clean, stream(7, photo), **fixed)[0][0]
        pipe = pipeline.UCDIRPipeline.shipped(task)
        pipe.set_progress_bar_config(disable=True)
        made |= {f"input: {words}": given, "restored" + " " * len(made): pipe(given, output_type="pt").images[0]}
    return {name: center_crop(resize(image, 192), (192, 256)) for name, image in made.items()}
