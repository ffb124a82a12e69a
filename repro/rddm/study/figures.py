"""The drawings of notebook 03, and this method's row of the README's figure (`TITLE`, `NEEDS`, `tiles`).

Images come in as (B, 3, H, W) or (B, 1, H, W) in [-1, 1]; where nothing is measured a sentence takes a curve's place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize, to_unit
from repro.ddpm.samplers import start_noise
from repro.engine.tables import Table
from repro.rddm import process
from repro.rddm.pipeline import RDDMPipeline
from repro.rddm.process import RDDMSchedule
from repro.rddm.samplers import Step
from repro.rddm.study.experiments import SMALL, USE, degraded, name_of
from repro.rddm.study.lesson import psnr
from repro.ui.pictures import Photos, captioned
from repro.ui.plots import DASHES, INK, MARKERS, PALETTE, PngFigure, Schematic, dots, nothing, panels, sheet, whiskers

TITLE = "03 RDDM: restored in a few steps, on photographs degraded by formula"
_SHOWN = (
    ("lowlight", "smres", "photos/erase_kitten", "dark"),
    ("raindrop", "use", "photos/monuments_brandenburgGate", "behind raindrops"),
)
NEEDS = tuple(name_of(task, variant) for task, variant, *_ in _SHOWN)
QUALITY = 36  # of the JPEG that the notebook keeps: noise takes many bytes
NO_RECORDS = "— no records of this profile yet: `repro evaluate rddm --full` makes them"


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], inputs before their results."""
    images = {}
    for task, variant, photo, words in _SHOWN:
        config = (USE if variant == "use" else SMALL)[task]
        given = degraded(config.degradation, resize(pack.load(pack.image(photo)), 256), photo)
        pipe = RDDMPipeline.shipped(task, variant)
        pipe.set_progress_bar_config(disable=True)
        result = pipe(given, num_inference_steps=config.steps, seed=0, output_type="pt").images[0]
        steps = f"{config.steps} step{'s' * (config.steps > 1)}"
        images |= {f"input: {words}": given, f"restored, {steps}" + " " * len(images): result}
    return {name: center_crop(resize(image, 192), (192, 256)) for name, image in images.items()}


def gallery(images: Mapping[str, Tensor], x0: Tensor, side: int = 160, cols: int = 4) -> Photos:
    """Results (1, 3, H, W) beside each other, whole, the shorter side of `side` pixels, and their PSNR at full size."""
    names = [name if x is x0 else f"{name}: {psnr(x, x0):.1f} dB" for name, x in images.items()]
    small = [resize(to_unit(x), side).clamp(0, 1)[0] for x in images.values()]
    return Photos(captioned(dict(zip(names, small, strict=True)), cols), QUALITY)


def photographs(rows: Sequence[Sequence[Tensor]], row_labels: Sequence[str], col_labels: Sequence[str]) -> Photos:
    """Rows of images (1, C, H, W) of one size, pixel for pixel, with labels."""
    images = [to_unit(x)[0] for row in rows for x in row]
    return Photos(sheet(images, len(rows[0]), row_labels, col_labels, zoom=1), QUALITY)


def schematic(x0: Tensor, y: Tensor, schedule: RDDMSchedule) -> Photos:
    """The dual diffusion in one drawing: right means more of the residual, down means more noise. Real images."""
    eps = start_noise(["schematic"], tuple(x0.shape[1:]))
    images = {
        "x_0": (x0, (0.9, 3.3)),
        "y": (y, (4.5, 3.3)),
        "x_t": (process.q_sample(x0, y - x0, schedule.T * 2 // 5, eps, schedule), (2.7, 2.05)),
        "x_T": (process.q_sample(x0, y - x0, schedule.T - 1, eps, schedule), (4.5, 0.8)),
    }
    drawing = Schematic(9.4, 4.1)
    for name, (image, at) in images.items():
        drawing.image(name, at, to_unit(image)[0], height=0.95)
    drawing.note((0.9, 3.92), "$x_0$ clean", size=10).note((4.5, 3.92), "$y$ degraded", size=10)
    drawing.note((3.35, 2.3), "$x_t$", size=10).note((4.5, 0.16), r"$x_T = y + s_T\,\epsilon$", size=10)
    drawing.arrow("x_0", "y", r"residual diffusion: adds $u_t\,r$,  $r = y - x_0$").arrow("y", "x_T")
    drawing.note((5.55, 2.05), "noise diffusion:\n" + r"adds $s_t\,\epsilon$")
    drawing.arrow("x_0", "x_t").arrow("x_t", "x_T").arrow("x_T", "x_0", bend=-0.42, dashed=True)
    drawing.note((2.35, 2.95), "both")
    drawing.note((1.35, 1.0), "sampling: take away\nwhat is predicted of both")
    drawing.box("net", (7.75, 2.3), "network\n$(x_t,\\ t,\\ y)$", kind="network", size=(1.5, 0.8))
    drawing.box("res", (7.0, 0.95), r"$r_\theta$", size=(0.9, 0.55))
    drawing.box("eps", (8.5, 0.95), r"$\epsilon_\theta$", size=(0.9, 0.55))
    drawing.arrow("net", "res").arrow("net", "eps")
    drawing.note((7.0, 0.5), "SM-Res").note((8.5, 0.5), "SM-N").note((7.75, 0.2), "both: SM-Res-N")
    drawing.note((7.75, 3.4), "generation is the case $y = 0$:\n$x_T$ is pure noise, $r = -x_0$", size=9)
    return Photos(drawing)


def forward(x0: Tensor, y: Tensor, schedule: RDDMSchedule, times: Sequence[int], seed: int) -> Photos:
    """The two diffusions apart and together, under one and the same noise."""
    eps, r = start_noise(["forward"], tuple(x0.shape[1:]), seed), y - x0
    levels = [schedule.levels(t) for t in times]
    rows = [[x0 + on * u * r + noisy * s * eps for u, s in levels] for on, noisy in ((1, 0), (0, 1), (1, 1))]
    heads = [f"t = {t}\nu = {u:.2f}\ns = {s:.2f}" for t, (u, s) in zip(times, levels, strict=True)]
    return photographs(rows, ["residual alone", "noise alone", "both: $x_t$"], heads)


def plane(known: Mapping[str, RDDMSchedule]) -> PngFigure:
    """The two coefficients over time, and the way that they describe together, a dot at every fifth of it."""
    with panels((9.2, 3.1), 1, 3) as (figure, (first, second, third)):
        for colour, dashes, (name, schedule) in zip(PALETTE, DASHES, known.items(), strict=False):
            look = {"color": colour, "linestyle": dashes}
            time = (torch.arange(schedule.T) + 1) / schedule.T
            first.plot(time, schedule.u, **look, label=name)
            second.plot(time, schedule.s, **look)
            third.plot(schedule.u, schedule.s, **look)
            fifths = [schedule.T * k // 5 - 1 for k in (1, 2, 3, 4, 5)]
            third.plot(schedule.u[fifths], schedule.s[fifths], ".", color=colour)
        first.set(xlabel="t / T", ylabel=r"$u_t$, share of the residual")
        second.set(xlabel="t / T", ylabel=r"$s_t$, noise")
        third.set(xlabel="u: residual in the image", ylabel="s: noise in the image")
        third.set(xlim=(-0.06, 1.1), ylim=(-0.06, 1.16))
        third.text(0.0, -0.02, " $x_0$", va="top", color=INK)
        third.text(1.0, -0.02, "$y$", ha="center", va="top", color=INK)
        third.text(1.0, 1.03, "$x_T$", ha="center", color=INK)
        first.legend(loc="lower right")
    return figure


def paths(found: Mapping[str, Sequence[tuple[float, float, float]]], schedule: RDDMSchedule) -> PngFigure:
    """Where sampled states lie in that plane, measured against the truth (`measure.path`), and their rest."""
    with panels((8.6, 3.4), 1, 2, width_ratios=(1.25, 1)) as (figure, (left, right)):
        left.plot(schedule.u, schedule.s, color="#999999", linewidth=1, label="forward process")
        for i, (name, steps) in enumerate(found.items()):
            a, b, rest = (list(column) for column in zip(*steps, strict=True))
            look = {"color": PALETTE[i], "marker": MARKERS[i], "label": name}
            left.plot(a, b, **look)
            right.plot(range(len(rest)), rest, **look)
        left.set(xlabel="residual left in the state", ylabel="start noise left in the state")
        right.set(xlabel="steps taken", ylabel="rest: neither of the two (RMS)")
        right.set_xticks(range(max(map(len, found.values()))))
        left.legend()
    return figure


def gaps(found: Mapping[str, Sequence[float]]) -> PngFigure:
    """How far two samplers are apart after each step, per setting; a difference of exactly nothing is left out."""
    with panels((7.2, 3)) as (figure, axis):
        for i, (name, values) in enumerate(found.items()):
            apart = [(step, gap) for step, gap in enumerate(values, start=1) if gap > 0]
            if apart:  # some lie upon each other: every second one is dashed
                look = {"color": PALETTE[i], "linestyle": (0, (4, 3)) if i % 2 else "-", "linewidth": 1.6 + i % 2}
                axis.plot(*zip(*apart, strict=True), **look, label=name)
        axis.set(xlabel="steps taken", ylabel="largest difference", yscale="log")
        figure.legend(loc="outside right center")
    return figure


def trajectory(runs: Mapping[str, Sequence[Step]], parts: Mapping[str, str]) -> Photos:
    """For each run, one row per part of its steps ("x_t", "x0", …): `parts` maps the field to its label."""
    rows = [[getattr(step, part) for step in run] for run in runs.values() for part in parts]
    row_names = [f"{name}: {label}" for name in runs for label in parts.values()]
    return photographs(rows, row_names, [f"t = {step.t}" for step in next(iter(runs.values()))])


def spread(seeds: Mapping[str, Tensor], gain: float) -> Photos:
    """A column per method: two of its restorations (N, 3, H, W) of one image under different noise, and where all N
    differ: the standard deviation of a pixel in [0, 1], `gain` times as bright."""
    rows = [[found[i : i + 1] for found in seeds.values()] for i in (0, 1)]
    deviations = [to_unit(found).std(dim=0).mean(dim=0).expand(1, 3, -1, -1) for found in seeds.values()]
    rows.append([2 * gain * deviation - 1 for deviation in deviations])
    return photographs(rows, ["one noise", "another", f"spread × {gain:g}"], list(seeds))


def compared(rows: Mapping[str, Any], xlabel: str, groups: Sequence[str] | None = None, size: Any = None) -> PngFigure:
    """`repro.ui.plots.dots` of a table's points."""
    return dots(rows, xlabel=f"{xlabel}, mean with 95 % interval", groups=groups, size=size)


def _calls(axis: Any, ylabel: str, columns: Mapping[int, Mapping[str, Any]], ways: Mapping[str, Any]) -> None:
    """`columns`: calls -> row -> (value, low, high), as lines; `ways`: row -> (name here, number of colour, look)."""
    for row, (name, i, look) in ways.items():
        points = {n: points[row] for n, points in columns.items() if row in points}
        if points:
            whiskers(axis, *zip(*points.items(), strict=True), color=PALETTE[i], marker=MARKERS[i], label=name, **look)
    axis.set_xscale("log")
    axis.set_xticks(list(columns), [str(n) for n in columns])
    axis.minorticks_off()
    axis.set(xlabel="network calls", ylabel=ylabel)


def steps_curves(steps: Table, main: Table) -> PngFigure:
    """PSNR and LPIPS of a task's tables; the degraded input and regression, which take none and one call, as levels."""
    counts = list(dict.fromkeys(int(column.name.split()[1]) for column in steps.columns))
    if not any(cell.value is not None for *_, cell in steps):
        return nothing(NO_RECORDS)
    rows = {name: name for name in process.STRATEGIES} | {"conditional DDPM from pure noise": "pure noise"}
    with panels((9.2, 3), 1, 2) as (figure, axes):
        for axis, metric in zip(axes, ("PSNR", "LPIPS"), strict=True):
            columns = {n: steps.points(f"{metric}, {n}") for n in counts}
            words = "PSNR in dB (higher is better)" if metric == "PSNR" else "LPIPS (lower is better)"
            _calls(axis, words, columns, {row: (name, i, {}) for i, (row, name) in enumerate(rows.items())})
            one_pass, given = columns[1].get("regression, same network"), main.points(metric).get("degraded input")
            for i, label, point in ((4, "regression, one pass", one_pass), (5, "degraded input", given)):
                if point:
                    axis.axhline(point[0], color=PALETTE[i], linestyle=(0, (4, 3)), linewidth=1.2, label=label)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return figure


def transfer_curve(table: Table) -> PngFigure:
    """FID against steps of one DDPM sampled by DDIM and by RDDM's Eq. 12, as the report's Fig. 4."""
    columns = {int(column.name.split()[0]): table.points(column.name) for column in table.columns}
    if not any(columns.values()):
        return nothing(NO_RECORDS)
    with panels((8.6, 3.2), 1, 2, sharey=True) as (figure, axes):
        for axis, end in zip(axes, (", clipped", ", not clipped"), strict=True):
            # those that should agree lie upon each other: a broad pale line under a thin one
            looks = {"DDIM": (0, {"linewidth": 4, "alpha": 0.35}), "RDDM, Eq. 12": (2, {"linewidth": 1.3})}
            rows = {name: row for row in table.rows for name in looks if row.partition(" (")[0] == name + end}
            _calls(axis, "FID", columns, {row: (name, *looks[name]) for name, row in rows.items()})
            axis.set_title(end.removeprefix(", "), loc="left")
            axis.legend()
    return figure
