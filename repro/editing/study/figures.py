"""The figures of notebook 02, and this method's row of the README's figure (`TITLE`, `NEEDS`, `tiles`).

Images are (B, 3, H, W) in [0, 1]. A figure of records names them (`behind`), and is one sentence where there are none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, product
from statistics import median
from typing import Any

import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.ddpm.process import q_sample
from repro.editing.pipeline import EditingPipeline
from repro.editing.sampling import Editor
from repro.editing.study.benchmark import Split
from repro.editing.study.experiments import LONGER, name_of
from repro.editing.study.lesson import MULT, PALETTE
from repro.editing.study.measure import L1, LPIPS, SLIDERS, STRENGTH, Method
from repro.editing.vector import NAMES, TASKS
from repro.engine import stats
from repro.engine.records import Record, select
from repro.engine.rng import KeyedNoise
from repro.ui.pictures import Photos, captioned
from repro.ui.plots import INK, MARKERS, PngFigure, Schematic, dots, nothing, panels, sheet, whiskers
from repro.ui.plots import PALETTE as COLOURS

TITLE = "02 Multi-task editing: one network, its effects chosen by a vector of nine numbers"
NEEDS = (name_of(LONGER),)
PHOTO, REFERENCE = "photos/monuments_brandenburgGate", "photos/monuments_petra"  # held out from every training
QUALITY, FINE = 24, 36  # of JPEG: many small images; a few, with words
NO_RECORDS = "— no records of this profile yet: `repro evaluate editing --full` makes them"
WAYS = {
    "by the formulas": "baseline-target",
    MULT: name_of("mult"),
    PALETTE: name_of("palette"),
    "trained on composites, longer": name_of(LONGER),
}
AXES = {
    "blur": ("β", "coarse sharpness that is gone"),
    "grain": ("σ", "deviation in grain's band, levels"),
    "sharpen": ("λ", "ln of the gain in gradient energy"),
}


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], the input first."""
    images = (pack.load(pack.image(name)) for name in (PHOTO, REFERENCE))
    photo, reference = (center_crop(resize(image, 192), (192, 256)) for image in images)
    pipe = EditingPipeline.shipped()
    pipe.set_progress_bar_config(disable=True)
    edits = {
        "motion blur 0.6": {"blur": 0.6},
        "another photograph's colours": {"reference": reference},
        "blur, grain and colours in one pass": {"blur": 0.4, "grain": 0.1, "reference": reference, "exact": False},
    }
    made = {words: pipe(photo, **effects, seed=0, output_type="pt").images[0] for words, effects in edits.items()}
    return {"input": photo, **made}


def photographs(rows: Sequence[Sequence[Any]], row_labels: Sequence[str], col_labels: Sequence[str]) -> Photos:
    """Rows of images (1, 3, H, W) of one size, pixel for pixel, with labels; what is no image leaves a gap."""
    images = [x[0] if torch.is_tensor(x) else None for row in rows for x in row]
    return Photos(sheet(images, len(rows[0]), row_labels, col_labels, zoom=1), QUALITY)


def named(images: Mapping[str, Tensor]) -> Photos:
    """Images (1, 3, H, W), four a row, each under its name."""
    return Photos(captioned({words: x[0] for words, x in images.items()}, 4), FINE)


def schematic(data: Split, editor: Editor) -> Photos:
    """Fig. 1 of the paper with images of one crop: what is concatenated, what is attended to."""
    target = data.target(["blur", "colour"])
    z = editor.autoencoder.encode(target * 2 - 1)
    noisy = q_sample(z, 400, KeyedNoise(0, ["schematic"], "schematic").normal(tuple(z.shape[1:])), editor.schedule)
    drawing = Schematic(10.4, 4.5)
    drawing.image("A", (0.75, 3.7), data.sharp[0], height=1.0, text="source $I_A$")
    drawing.image("ref", (0.75, 2.15), data.reference[0], height=1.0, text="reference $I_{ref}$")
    drawing.image("B", (9.6, 2.75), target[0], height=1.0, text="target $I_B$")
    drawing.box("encoder", (2.25, 3.7), "VQ\nencoder", kind="frozen", size=(0.95, 0.65))
    drawing.box("small", (2.25, 2.15), "1/4 of\nthe size", size=(0.95, 0.65))
    drawing.box("zA", (3.6, 3.7), "$z_0^A$", size=(0.75, 0.55))
    drawing.image("zt", (3.6, 2.9), (noisy[0, :3] / 6 + 0.5).clamp(0, 1), height=0.6)
    drawing.note((3.0, 2.9), "$z_t^B$", size=10)
    drawing.box("cat", (4.9, 2.75), "concat", kind="operation", size=(0.8, 0.8))
    drawing.box("net", (6.3, 2.75), "U-Net\n$v_\\theta$ or $\\epsilon_\\theta$", kind="network", size=(1.15, 1.1))
    drawing.box("z", (7.5, 2.75), "$z_{s}^B$", size=(0.75, 0.55))
    drawing.box("decoder", (8.5, 2.75), "VQ\ndecoder", kind="frozen", size=(0.85, 0.65))
    c = "$C = [\\,\\beta,\\ \\sigma,\\ \\lambda,\\ \\mu\\ |\\ e_1,\\ e_2,\\ e_3,\\ e_4,\\ e_5\\,]$"
    drawing.box("C", (2.0, 0.75), c, size=(3.0, 0.6))
    drawing.box("map", (4.9, 0.75), "$f_\\theta$", kind="network", size=(0.9, 0.6))
    tokens = "9 tokens" if editor.network.config.tokens == "entry" else "1 token"
    drawing.box("tokens", (6.3, 0.75), tokens, size=(1.0, 0.5))
    for path in ("A encoder zA cat", "ref small cat", "zt cat net z decoder B", "C map tokens net"):
        for start, end in pairwise(path.split()):
            drawing.arrow(start, end)
    drawing.arrow("z", "zt", "next step", bend=0.62, dashed=True)
    drawing.note((7.15, 1.5), "keys and values of\ncross-attention")
    drawing.note((2.0, 0.25), "amounts of the effects, and which of the five are on")
    palette = "Palette++ has no such way in:\nit spreads $C$ over all positions\nand concatenates it as well"
    drawing.note((8.5, 0.75), palette)
    return Photos(drawing, FINE)


def comparison(data: Split, edits: Sequence[Sequence[str]], methods: Mapping[str, Method]) -> Photos:
    """Figs 2, 3 and 5 of the paper: a row per edit, columns input, target and the methods; the images of `data` take
    turns. A method whose weights are not here leaves a gap."""
    columns = {"input": Split.source, "target": Split.target, **methods}
    rows = [[draw(data.at([i % len(data)]), tasks) for draw in columns.values()] for i, tasks in enumerate(edits)]
    return photographs(rows, ["\n+ ".join(tasks) for tasks in edits], [*columns])


def clusters(maps: Mapping[str, Tensor], task: Tensor) -> PngFigure:
    """t-SNE maps (N, 2) by title, points marked by their task (N,)."""
    with panels((4.1 * len(maps) + 1.1, 3.3), 1, len(maps)) as (figure, axes):
        for axis, (title, points) in zip(axes, maps.items(), strict=True):
            for i, name in enumerate(TASKS):
                at = points[task == i]
                axis.scatter(at[:, 0], at[:, 1], s=16, color=COLOURS[i], marker=MARKERS[i], label=name, linewidths=0)
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, loc="left", color=INK)
            axis.spines[:].set_visible(False)
            axis.grid(False)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return figure


def attention(found: Mapping[str, Mapping[str, Tensor]], names: Sequence[str]) -> PngFigure:
    """Mean attention weights: for each request (its words), a row per layer and a column per token."""
    with panels((9.4, 2.5), 1, len(found)) as (figure, axes):
        for axis, (title, layers) in zip(axes, found.items(), strict=True):
            table = torch.stack(list(layers.values()))
            axis.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axis.grid(False)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
            axis.set_xticks(range(len(names)), names, rotation=90)
            axis.set_yticks(range(len(table)), _layers(layers) if axis is figure.axes[0] else [""] * len(table))
            axis.set_title(title, loc="left")
    return figure


def _layers(names: Iterable[str]) -> list[str]:
    """ "up_blocks.0.1" -> "up, level 3 b": where a layer of cross-attention is; level 1 is the largest."""
    parts, words = [name.split(".") for name in names], []
    levels = sum(part[0] == "down_blocks" for part in parts)
    for kind, block, *place in parts:
        way, level = kind.split("_")[0], levels - int(block) if kind == "up_blocks" else int(block) + 1
        words.append(f"{way}, level {level} {'ab'[int(place[0])]}" if place else "middle")
    return words


def behind(figure: str, records: Sequence[Record]) -> list[Record]:
    """The records that a figure is drawn of: "edits" (tables of edits, ablations), "sliders", "steps", "attention" or
    "combinations" (Ours-mult, one crop a photograph)."""
    tasks = {"edits": ("edit", "one crop"), "sliders": ("slider",), "combinations": ("one crop", "combination")}
    chosen = [r for r in records if r.cell.get("task") in tasks.get(figure, (figure,))]
    if figure == "sliders":
        return [r for r in chosen if r.experiment in WAYS.values()]
    if figure == "combinations":
        chosen = select(chosen, experiment=name_of("mult"))
        return [r for r in chosen if r.cell["task"] == "combination" or r.cell["edit"] in TASKS]
    return chosen


def slider_curves(records: Sequence[Record]) -> PngFigure:
    """Measured strength of an effect against its slider, alone (full lines) and inside a composite (dashed).

    Medians over photographs: strength is a ratio of energies, which one flat crop can blow up.
    """
    if not (chosen := behind("sliders", records)):
        return nothing(NO_RECORDS)
    with panels((9.6, 2.9), 1, len(SLIDERS)) as (figure, axes):
        for axis, (task, places) in zip(axes, SLIDERS.items(), strict=True):
            at = [value[0] if isinstance(value, tuple) else value for place in places for value in place.values()]
            for (i, (words, experiment)), inside in product(enumerate(WAYS.items()), (False, True)):
                cell = {"edit": task, "inside": inside}
                for record in select(chosen, experiment=experiment, cell=cell):
                    values = [_median(record.values(f"{STRENGTH[task]}@{n}")) for n in range(len(at))]
                    look = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "--" if inside else "-"}
                    whiskers(axis, at, values, **look, label="_inside" if inside else words)
            axis.set(xlabel=f"{task}: {AXES[task][0]}", ylabel=AXES[task][1])
        axis.plot([], [], "--", color="#777777", label="dashed: inside a composite")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return figure


def _median(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and its 95 % interval by order statistics."""
    values, n = sorted(values), len(values)
    low, high = math.floor((n - 1.96 * n**0.5) / 2), math.ceil((n + 1.96 * n**0.5) / 2)
    return median(values), values[max(0, low)], values[min(n, high) - 1]


def _mean(record: Record, metric: str) -> tuple[float, float, float]:
    """Mean over photographs with its 95 % interval."""
    values = record.values(metric)
    if len(values) < stats.MIN_UNITS:
        return (sum(values) / len(values),) * 3
    mean = stats.mean_interval([values])
    return mean.estimate, mean.low, mean.high


def step_curves(records: Sequence[Record]) -> PngFigure:
    """l1 and LPIPS of Ours-mult against sampling steps, evenly spaced."""
    if not (chosen := sorted(behind("steps", records), key=lambda r: r.cell["steps"])):
        return nothing(NO_RECORDS)
    with panels((8.4, 2.8), 1, 2) as (figure, axes):
        for axis, (metric, words) in zip(axes, ((L1, "l1"), (LPIPS, "LPIPS")), strict=True):
            for i, edit in enumerate(sorted({r.cell["edit"] for r in chosen})):
                swept = select(chosen, cell={"edit": edit})
                means, look = [_mean(r, metric) for r in swept], {"color": COLOURS[i], "marker": MARKERS[i]}
                whiskers(axis, [r.cell["steps"] for r in swept], means, **look, label=edit)
            counts = sorted({r.cell["steps"] for r in chosen})
            axis.set_xscale("log")
            axis.set_xticks(counts, [str(n) for n in counts])
            axis.minorticks_off()
            axis.set(xlabel="sampling steps", ylabel=f"{words} (lower is better)")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return figure


def attended(records: Sequence[Record]) -> dict[str, dict[str, Tensor]]:
    """edit -> layer -> (entries,) mean weights of the tokens of the network with one an entry; {} without records."""
    return {
        str(record.cell["edit"]): {
            layer: torch.tensor([record.metrics[f"attention/{layer}/{entry}"] for entry in NAMES])
            for layer in dict.fromkeys(key.split("/")[1] for key in record.metrics)
        }
        for record in behind("attention", records)
    }


def compared(rows: Mapping[str, Any], xlabel: str, size: tuple[float, float] | None = None, **more: Any) -> PngFigure:
    """`repro.ui.plots.dots` of means with their intervals, a row each."""
    return dots(rows, xlabel=f"{xlabel} (lower is better), mean with 95 % interval", size=size, **more)


def combinations(records: Sequence[Record]) -> PngFigure:
    """Error of Ours-mult for every request, from one effect to all five (claims E11, E15)."""
    chosen = sorted(behind("combinations", records), key=lambda r: r.cell["edit"].count("+"))
    rows = {r.cell["edit"].replace("+", " + "): _mean(r, L1) for r in chosen}
    groups = ["with inpainting" if "inpaint" in words else "without inpainting" for words in rows]
    return compared(rows, "l1", (7.6, 6.6), groups=groups)
