"""The figures of notebook 04: schematic, kernel maps, galleries, splitting, the perception-distortion plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import center_crop, to_unit
from repro.engine.records import Record, select
from repro.metrics.pixel import psnr
from repro.ucdir.kernels import AdaptiveKernels
from repro.ucdir.model import UCDIR
from repro.ucdir.network import statistics
from repro.ucdir.patches import Tiles
from repro.ui import photos
from repro.ui.photos import Photos
from repro.ui.plots import PALETTE, Plate, curve, style, tile
from repro.ui.schematic import Schematic


def schematic(clean: Tensor, degraded: Tensor, initial: Tensor) -> Photos:
    """Fig. 1: predictor, diffusion of the residual, and a block with its two conditions. Images (1, 3, H, W)."""
    noise = torch.randn(initial.shape, generator=torch.Generator().manual_seed(0))
    drawing = Schematic(9.4, 3.9)
    for name, image, (x, y), text in (
        ("x", degraded, (0.8, 2.9), "degraded $x$"),
        ("u", initial, (3.6, 2.9), "first estimate $u(x)$"),
        ("r", ((clean - initial) * 2).clamp(-1, 1), (6.6, 2.9), "residual $r$"),
        ("n", (noise * 0.5).clamp(-1, 1), (6.6, 1.05), "pure noise"),
        ("y", clean, (8.7, 2.9), "restored $u + r$"),
    ):
        drawing.image(name, (x, y), to_unit(image)[0], height=0.95)
        drawing.note((x, y + 0.7 if name != "n" else 0.4), text, size=9)
    words = "diffusion network\n$\\epsilon_\\theta(x, r_\\gamma, \\sqrt{\\gamma};\\ u)$"
    drawing.box("net", (3.6, 1.05), words, kind="network", size=(2.2, 0.8))
    drawing.arrow("x", "u", "predictor").arrow("u", "net", "guides every block").arrow("x", "net")
    drawing.arrow("n", "r", "50 steps").arrow("net", "n", "noise to remove").arrow("r", "y", "added")
    return Photos(drawing.plate())


@torch.no_grad()
def kernel_maps(model: UCDIR, degraded: Tensor, level: float, scalars: Mapping[str, Tensor]) -> Photos:
    """Fig. 2: the maps M[b] of the first block on a photograph, with the guide; grey is a map's own mean."""
    initial = model.predictor(degraded, task=scalars.get("task"))
    block = next(m for m in model.unet.modules() if isinstance(m, AdaptiveKernels))
    emb = model.unet.embed(torch.tensor([level]), statistics(degraded), **scalars)
    size = degraded.shape[-2:]
    coarse = [-(-n // model.config.patch) for n in size]
    M = block.maps(emb, F.interpolate(initial, size=coarse, mode="bilinear", align_corners=False))[0]  # (N, h, w)
    shown = {"guide": to_unit(initial)[0]}
    for b, m in enumerate(M):
        grey = (0.5 + 0.25 * (m - m.mean()) / m.std().clamp(min=1e-6)).clamp(0, 1)
        wide = F.interpolate(grey[None, None], size=size, mode="nearest")[0].expand(3, -1, -1)
        shown[f"M[{b}]: {m.mean():.2f} ± {m.std():.2f}"] = wide
    return Photos(photos.captioned(shown, 3))


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
        lines.append(photos.captioned(cut, len(cut)))
    return Photos(tile(lines, 1, gap=4))


def splitting(images: Mapping[str, Tensor], tiles: Tiles, around: int = 56) -> Photos:
    """Fig. 6: each image (1, 3, H, W) around a place where four tiles meet, three times as large."""
    size = next(iter(images.values())).shape[-2:]
    meets = [ends[1][1] if len(ends := tiles.along(n)) > 1 else n // 2 for n in size]
    top, left = (max(0, at - around // 2) for at in meets)
    cut = {}
    for words, image in images.items():
        part = to_unit(image)[0, :, top : top + around, left : left + around]
        cut[words] = part.repeat_interleave(3, 1).repeat_interleave(3, 2)
    return Photos(photos.captioned(cut, len(cut)))


def changed(degraded: Tensor, initial: Tensor, restored: Tensor, clean: Tensor, gain: float = 4.0) -> Photos:
    """Where diffusion changes the predictor's estimate, and where that estimate was wrong; brighter = more."""

    images = {"input": degraded, "first estimate": initial, "restored": restored}
    shown = {words: to_unit(image)[0] for words, image in images.items()}
    for words, error in (
        ("what diffusion changed", restored - initial),
        ("what was wrong before", clean - initial),
        ("what is wrong after", clean - restored),
    ):
        shown[f"{words}, × {gain:g}"] = (error[0].abs().mean(dim=0) / 2 * gain).clamp(0, 1).expand(3, -1, -1)
    return Photos(photos.captioned(shown, 3))


def plane(
    records: Sequence[Record], tasks: Mapping[str, str], rows: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> Plate:
    """Perception against distortion, a panel a task: every row a point; down and to the right is better in both.

    `rows`: words -> experiment, with {task} for the task, and the cell beside the task.
    """
    with style():
        plate = Plate(figsize=(9.4, 3.1), layout="constrained")
        for axis, (task, title) in zip(np.atleast_1d(plate.subplots(1, len(tasks))), tasks.items(), strict=True):
            for i, (words, (experiment, cell)) in enumerate(rows.items()):
                same = {"task": task, **cell}
                found = select(records, experiment=experiment.format(task=task), cell=same)
                for record in [record for record in found if record.cell.keys() == same.keys()][:1]:
                    x, y = (np.mean(record.values(m)) for m in ("psnr/rgb", "lpips/alex-v0.1"))
                    axis.plot(x, y, "osD^vP"[i % 6], color=PALETTE[i % len(PALETTE)], label=words)
            axis.set(xlabel="PSNR in dB", ylabel="LPIPS")
            axis.set_title(title, loc="left")
        plate.axes[0].legend(fontsize=7)
    return plate


def steps_curve(records: Sequence[Record], experiment: str, task: str) -> Plate:
    """LPIPS over the number of steps, a line a sampler, means over photographs."""
    at, series = (2, 5, 10, 20), {}
    for name, words in (("ancestral", "ancestral"), ("ddim", "DDIM"), ("dpm", "DPM-Solver++ (2M)")):
        cells = [{"task": f"{task}-sampler", "sampler": name, "steps": steps} for steps in at]
        found = [select(records, experiment=experiment.format(task=task), cell=cell) for cell in cells]
        if all(found):
            series[words] = [np.mean(each[0].values("lpips/alex-v0.1")) for each in found]
    if not series:
        return photos.nothing("— no records of the samplers yet")
    return curve(at, series, xlabel="steps", ylabel="LPIPS", log_x=True)
