"""What notebook 05 shows: live images, figures, widgets as pure functions, exercises; and the README's row of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from repro.adir.adapt import PRIOR, SCHEDULE, USE, with_factors
from repro.adir.guidance import TASKS as NAMED
from repro.adir.guidance import operator, reconstruct
from repro.adir.pipeline import ADIR, GUIDANCE, Neighbours, degrade
from repro.adir.study import measure as m
from repro.adir.study.experiments import SMOKE
from repro.data import pack
from repro.data.images import center_crop, read_image, resize, to_model, to_unit
from repro.ddpm.process import model_fn
from repro.engine import stats
from repro.engine.records import Record, select
from repro.engine.rng import KeyedNoise
from repro.engine.study import Exercise, Lesson, check_answer, like, near, tensors
from repro.errors import ReproError
from repro.metrics import protocols
from repro.ui import plots
from repro.ui.controls import UploadedFile
from repro.ui.pictures import Photos, captioned

Cell = Mapping[str, Any]  # a part of a record's cell, or all of it
LIVE = {"live": "small", "network": PRIOR, "steps": 50, "iterations": 50}
LESSONS = {
    "smoke": Lesson("adir", "05_adir", "smoke", 0.4, {"live": "smoke", "network": SMOKE, "steps": 3, "iterations": 2}),
    **{name: Lesson("adir", "05_adir", name, 2.0, LIVE) for name in ("small", "paper")},
}
TASKS = {text: name for name, text in NAMED.items()}
OWN = ("the measurement itself", *(f"clean: {text}" for text in TASKS))
SHORT = {"sr4": "x4", "sr8": "x8", "box": "box blur", "gauss": "Gaussian", "colour": "colour"}
PHOTO = "photos/monuments_brandenburgGate"
QUALITY = 74  # of the JPEG that the notebook keeps


def schematic() -> plots.Schematic:
    """The method in one drawing (the paper's Fig. 2)."""
    drawing = plots.Schematic(7.6, 3.0)
    drawing.box("y", (0.8, 1.5), "$y$", size=(0.8, 0.6)).box("set", (2.5, 2.5), "external\nimages", size=(1.1, 0.7))
    drawing.box("near", (4.2, 2.5), "$K$ neighbours", size=(1.3, 0.6))
    drawing.box("prior", (4.2, 1.5), "network", kind="network", size=(1.2, 0.6))
    drawing.box("A", (2.5, 0.5), "$g = -2A^T(A\\mu - y_t)$", kind="loss", size=(2.0, 0.6))
    drawing.box("step", (5.8, 0.9), "reverse\nstep", kind="operation", size=(1.0, 1.0))
    drawing.box("x", (7.0, 1.5), "$x$", size=(0.7, 0.6))
    drawing.arrow("y", "set", "embed").arrow("set", "near", "").arrow("near", "prior", "LoRA")
    drawing.arrow("y", "A", "").arrow("A", "step", "").arrow("prior", "step", "").arrow("step", "x", "")
    return drawing


def sheet(rows: Mapping[str, Mapping[str, Tensor]], scores: bool = False, zoom: int = 3) -> Photos:
    """Rows of images (3, H, W) in [-1, 1], each under its name; `scores` adds LPIPS to the estimates."""
    cells = []
    for name, row in rows.items():
        for i, (what, image) in enumerate(row.items()):
            words = what if i else f"{name}: {what}"
            if scores and what not in ("clean", "measurement"):
                pair = to_unit(image)[None], to_unit(row["clean"])[None]
                words += f" {protocols.score(m.LPIPS, *pair).item():.2f}"
            cells.append((words, enlarged(image, row["clean"].shape[-1] * zoom)))
    return Photos(captioned(cells, max(map(len, rows.values()))), QUALITY)


def enlarged(image: Tensor, side: int) -> Tensor:
    """(3, h, w) or (1, h, w) in [-1, 1], small or not, as a square of `side` pixels with hard pixels."""
    return F.interpolate(to_unit(image)[None], size=(side, side), mode="nearest")[0]


def neighbours(rows: Mapping[str, tuple[Tensor, Neighbours]], count: int = 6, side: int = 112) -> Photos:
    """What was embedded, (3, H, W) in [0, 1], and its nearest images with their cosine."""
    cells = []
    for name, (query, found) in rows.items():
        near = [(f"{c:.2f}", x) for c, x in zip(found.similarity[:count], found.images, strict=False)]
        cells += [(words, center_crop(resize(x, side), side)) for words, x in ((name, query), *near)]
    return Photos(captioned(cells, count + 1), QUALITY)


def gains(records: Sequence[Record], rows: Mapping[str, tuple[Cell, Cell]], **axes: Any) -> plots.PngFigure:
    """LPIPS of two cells of the network, their difference over images: name -> (cell, what it is compared with)."""
    drawn = {}
    for name, cells in rows.items():
        found = [select(records, experiment=PRIOR, cell=cell) for cell in cells]
        if all(found) and found[0][0].n >= stats.MIN_UNITS:
            gain = stats.paired_difference(*([side[0].values(m.LPIPS)] for side in found))
            drawn[name] = (gain.estimate, gain.low, gain.high)
    return plots.dots(drawn, zero=0.0, **axes)


def scene(live: str, which: str, name: str, task: str) -> tuple[Tensor, Tensor]:
    """(x, y), (1, …) each, of a held-out photograph or an unseen texture, as measured."""
    names, *both = m.measured(which, task, live)
    return tuple(part[[names.index(name)]] for part in both)


def names(now: Lesson, which: str) -> tuple[str, ...]:
    """The images of a set."""
    return m.images(which, now["live"])[0]


def shipped_factors(now: Lesson, which: str, task: str) -> dict[str, Tensor]:
    """Of the first image of a set, adapted to its neighbours; they ship for x4, box and the textures' x4."""
    cell = {"set": which, "task": task, "method": "gd", "adapt": "neighbours", "setting": "default"}
    return m.factors_of(now["network"], cell, 0, now["live"])


def guided(
    now: Lesson, y: Tensor, task: str, name: str, seed: int = 0, method: str = "gd", by: nn.Module | None = None
) -> Tensor:
    """(1, 3, H, W) of Algorithm 1, or of DDRM, with the live network as it is, or another one."""
    cell = {"set": "photos", "task": task, "method": method, "setting": "default"}
    by = by or m.private(now["network"])
    return m.reconstruction(by, cell, [name], y, now["live"], seed=seed, steps=now["steps"])


def gallery(now: Lesson, name: str, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Task -> clean, measurement, DDRM, GD of one photograph."""
    rows = {}
    for task, text in SHORT.items():
        x, y = scene(now["live"], "photos", name, task)
        found = {words: guided(now, y, task, name, seed, words.lower())[0] for words in ("DDRM", "GD")}
        rows[text] = {"clean": x[0], "measurement": y[0], **found}
    return rows


def play(now: Lesson, image: str, task: str, steps: int, scale: float, adapted: str, seed: int) -> np.ndarray:
    """Clean, measurement, the clean estimate halfway, and the reconstruction of one image."""
    which, name = "unseen" if image in names(now, "unseen") else "adapted", TASKS[task]
    x, y = scene(now["live"], "photos" if which == "adapted" else which, image, name)
    first = names(now, which)[0]
    if adapted == "neighbours" and (image != first or (which, name) not in m.SHIPPED):
        raise ReproError(f"factors ship for {first} at x4 (photographs: and box blur); section 5 makes others")
    factors = shipped_factors(now, which, name) if adapted == "neighbours" else {}
    given = (model_fn(with_factors(m.private(now["network"]), factors)), y, operator(name, x.shape[-1]), SCHEDULE)
    settings = replace(GUIDANCE[name], scale=scale)
    run = list(reconstruct(*given, KeyedNoise(seed, [image], "adir/sample"), settings, steps))
    panels = {"clean": x, "measurement": y, "estimate halfway": run[steps // 2].x0, "reconstruction": run[-1].x}
    return captioned({k: enlarged(v[0], 4 * x.shape[-1]) for k, v in panels.items()}, 2)


def own(now: Lesson, photo: UploadedFile | None, what: str, steps: int, seed: int) -> np.ndarray:
    """An uploaded image reconstructed: taken as the measurement of x4, or cleaned up and measured first."""
    size = m.PROFILES[now["live"]]["size"]
    image = read_image(photo.content, name=photo.name) if photo else pack.load(pack.image(PHOTO))
    task, small = TASKS.get(what.removeprefix("clean: "), "sr4"), center_crop(resize(image, size // 2), size // 2)
    if what != OWN[0]:
        small = degrade(center_crop(resize(image, size * 3 // 2), size), task, seed)
    pipe = ADIR.shipped() if now["network"] == PRIOR else ADIR(m.private(now["network"]))
    found = pipe(small, task, "none", steps=steps, seed=seed)
    panels = {f"given, {small.shape[2]} px": small, f"reconstruction, {found.shape[2]} px": found}
    return captioned({k: enlarged(to_model(v), 320) for k, v in panels.items()}, 2)


_OP, (_X, _EPS) = operator("sr4", 8, 8), tensors(2, (3, 8, 8))
_guided = lambda op, mu, y, eps, a, s: -2 * op.transpose(op.A(mu) - (a * y + s * op.A(eps)))  # noqa: E731
_gradient = partial(like, _guided, (_OP, _X, _OP.A(_X), _EPS, 0.6, 0.8))
_factor = partial(like, lambda s, v, e: 1 - 2 * s * v * e, tensors(3))
_low_rank = partial(like, lambda c, o, k, r: r * (c * k * k + o), tensors(4))
EXERCISES: dict[str, Exercise] = {
    "gradient": ("g of eq. 17", _gradient, "y_t needs A of the noise: op.A and op.transpose are all it takes"),
    "factor": ("what a step does to the residual", _factor, "put mu + s Sigma g into A mu - y_t, along an eigenvector"),
    "limit": ("the largest s", near(2.5), "the factor of the exercise before must not be negative"),
    "adjoint": ("replication against the adjoint", near(3.0), "the adjoint of the mean gives each colour a third"),
    "low rank": ("numbers of a factor", _low_rank, "A is a k x k convolution to r channels, B is 1 x 1"),
    "spherical": ("the paper's distance", near(90.0), "the arcsine needs an argument of at most 1: 1 - cos"),
}
check = partial(check_answer, among=EXERCISES)  # (name, answer): says whether it holds; None is no answer yet


# -- the README's figure: a small image enlarged four times, and a blurred, noisy one

TITLE = "05 ADIR: one network, trained on no task, guided by the measurement and adapted to images like it"
NEEDS = (PRIOR, USE)
TILE = (96, 128)
SHOWN = (
    ("sr4", "photos/farm_animals_cat", "a quarter of its size", "four times as large"),
    ("box", "photos/erase_crab", "5 x 5 box blur and noise", "deblurred"),
)


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], measurements before their reconstructions."""
    pipe, images = ADIR.shipped(), {}
    for task, photo, given, made in SHOWN:
        clean = to_model(center_crop(resize(pack.load(pack.image(photo)), TILE[0]), TILE))[None]
        noise = KeyedNoise(0, [photo], "overview/measurement")
        measured = to_unit(operator(task, *TILE).measure(clean, noise))[0]
        images |= {f"input: {given}": measured, made: pipe(measured, task)}
    return {words: F.interpolate(image[None], size=(192, 256))[0] for words, image in images.items()}
