"""What notebook 01 shows beside its tables: its sizes in each profile, drawings, widgets' parts, and its exercises.

Samples come in as (N, 1, H, W) in [-1, 1]. `TITLE`, `NEEDS` and `tiles` are this method's row of the README's figure.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import center_crop, read_image, to_unit
from repro.ddpm import process
from repro.ddpm.samplers import Step, ddim, start_noise
from repro.ddpm.study.experiments import LINEAR, MAIN
from repro.engine import stats
from repro.engine.checkpoint import load_checkpoint
from repro.engine.records import Record
from repro.engine.rng import KeyedNoise
from repro.engine.study import Exercise, Lesson, check_answer, like, near, tensors
from repro.engine.tables import Table
from repro.engine.train import Recipe, seeded
from repro.metrics.features import FID, NET
from repro.nn.unet import UNet
from repro.ui.plots import DASHES, PALETTE, PngFigure, Schematic, curve, nothing, panels, sheet, tile

TITLE = "01 DDPM and DDIM: garments drawn from noise, DDIM with 20 steps"
NEEDS = (MAIN,)


def _demo(images: int) -> Recipe:
    return Recipe(images=images, batch=32, lr=4e-3, warmup=images // 20, ema=images / 12, precision="fp32", threads=1)


# `demo`: recipe of the small network trained in the notebook, with `demo_width` channels, sampled at `looks` images.
# `drawn`: samples of the shipped network, sorted by class. `few`: images of side-by-side comparisons. `memory`: images
# that the live cells' ideal denoiser has memorised. `probes`: images per point of the denoising curve. `photos` of
# `side`: crops of the metric traps. The live cells of the paper profile are the small one's.
_SMALL: dict[str, Any] = {
    "demo": _demo(19_200), "demo_width": 16, "looks": (1_600, 4_800, 9_600, 19_200), "drawn": 120, "few": 8,
    "memory": 3_000, "probes": 32, "photos": 6, "side": 96,
}  # fmt: skip
_SMOKE: dict[str, Any] = {
    "demo": _demo(128), "demo_width": 8, "looks": (64, 128), "drawn": 12, "few": 2, "memory": 50, "probes": 2,
    "photos": 2, "side": 64,
}  # fmt: skip
_ALL = ("smoke", 0.3, _SMOKE), ("small", 1.9, _SMALL), ("paper", 1.9, _SMALL)  # profile, minutes, settings
LESSONS = {name: Lesson("ddpm", "01_ddpm_basics", name, *more) for name, *more in _ALL}


def tiles() -> dict[str, object]:
    """Caption -> image, from the noise to the samples."""
    x = start_noise(range(12), (1, 28, 28))
    steps = list(ddim(process.model_fn(load_checkpoint(MAIN)), x, LINEAR, 20))
    states = {"input: noise": x / 3} | {f"after {n} of 20 steps": steps[n - 1].x for n in (10, 15, 20)}
    return {caption: tile(unpack(images), 4, gap=1, scale=2) for caption, images in states.items()}


def unpack(*groups: Tensor) -> list[Tensor]:
    """Batches of [-1, 1] images as one list of (1, H, W) in [0, 1]."""
    return [image for group in groups for image in to_unit(group)]


def schematic(x0: Tensor, schedule: process.Schedule) -> Schematic:
    """The method in one drawing; `x0` (1, H, W) in [-1, 1] is a real image, noised for real."""
    eps = KeyedNoise(0, [0], "schematic").normal(x0.shape)
    images = [to_unit(x0), *(to_unit(process.q_sample(x0[None], t, eps, schedule)[0]) for t in (200, 999))]
    drawing = Schematic(8.6, 3.1)
    for name, x, image, text in zip("abc", (0.8, 4.0, 7.8), images, ("$x_0$", "$x_t$", "$x_T$"), strict=True):
        drawing.image(name, (x, 2.1), image, height=0.95).note((x, 2.75), text, size=10)
    drawing.arrow("a", "b", r"$q(x_t\,|\,x_0)$: add noise, nothing to learn", bend=-0.18)
    drawing.arrow("b", "c", "the same, further", bend=-0.18)
    drawing.arrow("c", "b", r"$p_\theta(x_{t-1}\,|\,x_t)$: one step back, many times", bend=-0.18, dashed=True)
    drawing.arrow("b", "a", "", bend=-0.18, dashed=True)
    drawing.box("net", (4.0, 0.5), "U-Net $\\epsilon_\\theta(x_t, t)$", kind="network", size=(1.7, 0.55))
    drawing.box("loss", (1.2, 0.5), r"$\|\epsilon_\theta - \epsilon\|^2$", kind="loss", size=(1.3, 0.55))
    drawing.box("step", (7.1, 0.5), "sampler: DDPM, DDIM, …", size=(1.9, 0.55))
    return drawing.arrow("b", "net").arrow("net", "loss", "training").arrow("net", "step", "sampling")


def noising(images: Tensor, schedule: process.Schedule, times: Sequence[int], seed: int) -> PngFigure:
    """Each image at each time, under one and the same noise."""
    eps = KeyedNoise(seed, range(len(images)), "lesson/noising").normal(images.shape[1:])
    rows = torch.stack([process.q_sample(images, t, eps, schedule) for t in times], dim=1)  # (N, times, 1, H, W)
    labels = [f"t = {t}\n$\\sqrt{{\\bar\\alpha}}$ = {schedule.alpha_bar[t] ** 0.5:.2f}" for t in times]
    return sheet(unpack(*rows), len(times), col_labels=labels)


def by_class(samples: Tensor, labels: Tensor, names: Sequence[str], rows: int) -> PngFigure:
    """A column per class, in the order the samples came; a place stays empty where a class has fewer than `rows`."""
    columns = [unpack(samples[labels == c][:rows]) + [None] * rows for c in range(len(names))]
    short = [name.split("/")[0].replace("Ankle ", "Ankle\n") for name in names]
    return sheet([column[r] for r in range(rows) for column in columns], len(names), col_labels=short)


def trajectory(runs: Mapping[str, Sequence[Step]], looks: int = 8) -> PngFigure:
    """For each run of one sample: the state, and below it the clean image that the network predicts of it."""
    steps = next(iter(runs.values()))
    at = sorted({round(i * (len(steps) - 1) / (looks - 1)) for i in range(looks)})
    rows = [torch.cat([getattr(run[i], part) for i in at]) for run in runs.values() for part in ("x_t", "x0")]
    labels = [f"{name}: {part}" for name in runs for part in ("$x_t$", "$\\hat x_0$")]
    times = [f"t = {steps[i].t}" for i in at]
    return sheet(unpack(*rows), len(at), labels, times)


def fid_curve(fid: Table, quality: Table) -> PngFigure:
    """FID against network calls for every sampler measured, with what needs no learning as levels; of the tables."""
    steps = [int(column.name.split()[0]) for column in fid.columns]
    value = lambda cell: math.nan if cell.value is None else cell.value  # noqa: E731
    series = {name: [value(cell) for cell in cells.values()] for name, cells in fid.rows.items()}
    series = {name: values for name, values in series.items() if sum(map(math.isfinite, values)) > 1}
    if not series:
        return nothing("no records of this profile: `repro evaluate ddpm --full`")
    levels = {row: value(quality.rows[row]["FID"]) for row in list(quality.rows)[:2]}
    levels = {row: level for row, level in levels.items() if math.isfinite(level)}
    axes = {"xlabel": "network calls", "ylabel": f"FID ({NET})", "log_x": True, "log_y": True}
    return curve(steps, series, **axes, reference=levels, size=(6.4, 3.8))


def orders(table: Table, records: Sequence[Record]) -> list[str]:
    """Per column with three numbers or more on both sides: the rows from best to worst, ours and the paper's; `≈`
    between neighbours of ours whose paired difference over replicates (same start noise) may be zero."""
    measured, lines = {record.id: record for record in records}, []
    for column in table.columns:
        cells = {row.split(" (")[0]: cells[column.name] for row, cells in table.rows.items()}
        both = {row: cell for row, cell in cells.items() if cell.value is not None and cell.paper is not None}
        if len(both) < 3:
            continue
        mine = sorted(both, key=lambda row: both[row].value)
        theirs = sorted(both, key=lambda row: both[row].paper.value)
        text = mine[0]
        for pair in pairwise(mine):
            a, b = (list(measured[both[row].records[0]].values(FID)) for row in pair)
            alike = len(a) == len(b) >= stats.MIN_UNITS
            apart = alike and stats.paired_difference(a, b, same_networks=True).excludes_zero
            text += (" < " if apart else " ≈ ") + pair[1]
        agree = "the same order" if mine == theirs else "another order"
        lines.append(f"{column.name:<11} ours:  {text}\n{'':<11} paper: {' < '.join(theirs)}   ({agree})")
    return lines


def schedules(known: Mapping[str, process.Schedule]) -> PngFigure:
    """How much signal is left, and log10 of the signal-to-noise ratio, against t / T."""
    with panels((7.6, 2.9), 1, 2) as (figure, (left, right)):
        for colour, dashes, (name, schedule) in zip(PALETTE, DASHES, known.items(), strict=False):
            u, look = torch.arange(schedule.T) / schedule.T, {"color": colour, "linestyle": dashes, "label": name}
            left.plot(u, schedule.alpha_bar, **look)
            snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
            right.plot(u, torch.where(snr > 0, snr.clamp(min=1e-12).log10(), math.nan), **look)
        left.set(xlabel="t / T", ylabel=r"$\bar\alpha_t$")
        right.set(xlabel="t / T", ylabel=r"$\log_{10}$ SNR", ylim=(-8, 5))
        left.legend()
    return figure


def as_fashion(content: Any, name: str = "the image") -> Tensor:
    """(1, 28, 28) in [-1, 1] of any image: grey, its middle square, inverted where its border is bright, since
    Fashion-MNIST has clothes in light grey on black. Raises `ReproError` for what is no image."""
    image = read_image(content, min_side=2, name=name).mean(dim=0)  # (H, W)
    small = F.interpolate(center_crop(image, min(image.shape))[None, None], size=(28, 28), mode="area")[0]
    border = torch.cat([small[0, 0], small[0, -1], small[0, :, 0], small[0, :, -1]]).mean()
    return (1 - small if border > 0.5 else small) * 2 - 1


def untrained(width: int, seed: int) -> UNet:
    """A small noise predictor for one channel, initialised from the seed."""
    return seeded(lambda: UNet(1, 1, base_channels=width, channel_mults=(1, 2), blocks=1), seed)


_HALF, _AB = int((LINEAR.alpha_bar < 0.5).nonzero()[0]), LINEAR.alpha_bar.tolist()
_X_T, _EPS = tensors(2)
_STEP = next(ddim(lambda x, t: _EPS, _X_T, LINEAR, [700, 300], clip=False)).x
_estimate = partial(like, lambda x_t, eps, a, s: (x_t - s * eps) / a, (_X_T, _EPS, 0.6, 0.8), (_X_T, _EPS, 0.8, 0.6))
_ddim = partial(like, lambda *_: _STEP, (_X_T, _EPS, _AB[700], _AB[300]))
_best = lambda x_t, a, s, sigma: s / (a * a * sigma * sigma + s * s) * x_t  # noqa: E731
_gaussian = partial(like, _best, (_X_T, 0.6, 0.8, 0.5), (_X_T, 0.8, 0.6, 2.0))
EXERCISES: dict[str, Exercise] = {
    "half": ("the first t with more noise than signal", near(_HALF), "compare alpha_bar with 1 - alpha_bar: no roots"),
    "estimate": ("x0 from x_t and the noise", _estimate, "solve x_t = a x0 + s eps for x0"),
    "ddim": ("one DDIM step", _ddim, "go to x0 first, then noise it again with the same eps, to the other level"),
    "gaussian": ("the best noise predictor for N(0, sigma²)", _gaussian, "eps and x_t are jointly Gaussian: Cov / Var"),
    "calls": ("network calls of a refined inversion", near(50 * (1 + 3) + 50), "count those of one step each way"),
}
check = partial(check_answer, among=EXERCISES)
