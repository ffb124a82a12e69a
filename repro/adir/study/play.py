"""What notebook 05 does live: its profiles, its widgets, its exercises."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from repro.adir import lora, operators, prior
from repro.adir.adapt import Adaptation, AdaptStep, adapt
from repro.adir.guidance import reconstruct
from repro.adir.pipeline import ADIR, GUIDANCE, PRIOR, degrade
from repro.adir.study import figures
from repro.adir.study import measure as m
from repro.adir.study.experiments import SMOKE
from repro.data import pack
from repro.data.images import center_crop, read_image, resize, to_model
from repro.ddpm.process import model_fn
from repro.engine import exercises
from repro.engine.exercises import near
from repro.engine.rng import KeyedNoise
from repro.engine.study import Lesson
from repro.errors import ReproError
from repro.ui.controls import UploadedFile
from repro.ui.photos import captioned

LIVE = {"live": "small", "network": PRIOR, "steps": 50, "iterations": 50}  # of the paper profile, too
LESSONS = {
    "smoke": Lesson("adir", "05_adir", "smoke", 0.4, {"live": "smoke", "network": SMOKE, "steps": 3, "iterations": 2}),
    "small": Lesson("adir", "05_adir", "small", 2.0, LIVE),
    "paper": Lesson("adir", "05_adir", "paper", 2.0, LIVE),
}
TASKS = {text: name for name, text in operators.TASKS.items()}
OWN = ("the measurement itself", *(f"clean: {text}" for text in TASKS))
SHORT = {"sr4": "x4", "sr8": "x8", "box": "box blur", "gauss": "Gaussian", "colour": "colour"}
PHOTO = "photos/monuments_brandenburgGate"


def network(now: Lesson) -> nn.Module:
    """The prior that the live cells run."""
    return m.private(now["network"])


def scene(live: str, which: str, name: str, task: str) -> tuple[Tensor, Tensor]:
    """(x, y), (1, …) each, of a held-out photograph or an unseen texture, as measured."""
    names, x, y = m.measured(which, task, live)
    if name not in names:
        raise ReproError(f"no image {name!r} in the set {which!r}: there are {', '.join(names)}")
    i = names.index(name)
    return x[i : i + 1], y[i : i + 1]


def names(now: Lesson, which: str) -> tuple[str, ...]:
    """The images of a set."""
    return m.images(which, now["live"])[0]


def shipped_factors(now: Lesson, which: str, task: str) -> dict[str, Tensor]:
    """Of the first image of a set, adapted to its neighbours; they ship for x4, box and the textures' x4."""
    cell = {"set": which, "task": task, "method": "gd", "adapt": "neighbours", "setting": "default"}
    return m.factors_of(network(now), now["network"], cell, 0, now["live"])


def guided(now: Lesson, y: Tensor, task: str, name: str, seed: int = 0, method: str = "gd") -> Tensor:
    """(1, 3, H, W) of Algorithm 1, or of DDRM, with the live network as it is."""
    cell = {"set": "photos", "task": task, "method": method, "setting": "default"}
    return m.reconstruction(network(now), cell, [name], y, now["live"], seed=seed, steps=now["steps"])


def gallery(now: Lesson, name: str, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Task -> clean, measurement, DDRM, GD of one photograph."""
    rows = {}
    for task, text in SHORT.items():
        x, y = scene(now["live"], "photos", name, task)
        found = {words: guided(now, y, task, name, seed, words.lower()) for words in ("DDRM", "GD")}
        rows[text] = {k: v[0] for k, v in {"clean": x, "measurement": y, **found}.items()}
    return rows


def adapted_gallery(now: Lesson, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Clean, measurement, GD and ADIR where factors ship: the first photograph and the first texture."""
    rows = {}
    for which, task in m.SHIPPED:
        name = names(now, which)[0]
        x, y = scene(now["live"], which, name, task)
        free = guided(now, y, task, name, seed)
        with lora.adapted(network(now), shipped_factors(now, which, task)):
            better = guided(now, y, task, name, seed)
        row = {"clean": x, "measurement": y, "GD": free, "ADIR": better}
        rows[f"{name.rsplit('_', 1)[-1]}, {SHORT[task]}"] = {k: v[0] for k, v in row.items()}
    return rows


def adapting(now: Lesson, images: Sequence[Tensor]) -> list[AdaptStep]:
    """The steps of a short adaptation, with a bar; the network is left as it was."""
    profile = m.PROFILES[now["live"]]
    chosen = Adaptation(iterations=now["iterations"], lr=profile["lr"])
    return list(adapt(network(now), images, chosen, crop=profile["size"], progress=True))


def play(now: Lesson, image: str, task: str, steps: int, scale: float, adapted: str, seed: int) -> np.ndarray:
    """Clean, measurement, the clean estimate halfway, and the reconstruction of one image."""
    which, name = "unseen" if image in names(now, "unseen") else "adapted", TASKS[task]
    x, y = scene(now["live"], "photos" if which == "adapted" else which, image, name)
    first, factors = names(now, which)[0], {}
    if adapted == "neighbours":
        if image != first or (which, name) not in m.SHIPPED:
            raise ReproError(f"factors ship for {first} at x4 (photographs: and box blur); section 5 makes others")
        factors = shipped_factors(now, which, name)
    given = (model_fn(network(now)), y, m.operator(name, x.shape[-1]), prior.SCHEDULE)
    settings = replace(GUIDANCE[name], scale=scale)
    with lora.adapted(network(now), factors):
        run = list(reconstruct(*given, KeyedNoise(seed, [image], "adir/sample"), settings, steps))
    panels = {"clean": x, "measurement": y, "estimate halfway": run[steps // 2].x0, "reconstruction": run[-1].x}
    return captioned({k: figures.enlarged(v[0], 4 * x.shape[-1]) for k, v in panels.items()}, 2)


def own(now: Lesson, photo: UploadedFile | None, what: str, steps: int, seed: int) -> np.ndarray:
    """An uploaded image reconstructed: taken as the measurement of x4, or cleaned up and measured first."""
    size = m.PROFILES[now["live"]]["size"]
    image = read_image(photo.content, name=photo.name) if photo else pack.load(pack.picture(PHOTO))
    task, small = "sr4", center_crop(resize(image, size // 2), size // 2)
    if what != OWN[0]:
        task = TASKS[what.removeprefix("clean: ")]
        small = degrade(center_crop(resize(image, size * 3 // 2), size), task, seed)
    found = ADIR(network(now))(small, task, "none", steps=steps, seed=seed)
    panels = {f"given, {small.shape[2]} px": small, f"reconstruction, {found.shape[2]} px": found}
    return captioned({k: figures.enlarged(to_model(v), 320) for k, v in panels.items()}, 2)


def _gradient() -> exercises.Judge:
    op, (x, eps) = operators.operator("sr4", 8, 8), exercises.tensors(2, (3, 8, 8))
    right = lambda op, mu, y, eps, a, s: -2 * op.transpose(op.A(mu) - (a * y + s * op.A(eps)))  # noqa: E731
    return exercises.like(right, (op, x, op.A(x), eps, 0.6, 0.8))


def _formula(right: Callable[..., float], *cases: tuple) -> Callable[[], exercises.Judge]:
    return lambda: lambda answer: all(abs(answer(*case) - right(*case)) < 1e-9 for case in cases)


_factor = _formula(lambda s, v, e: 1 - 2 * s * v * e, (10, 0.02, 1.0), (3, 0.1, 0.5))
_low_rank = _formula(lambda c, o, k, r: r * (c * k * k + o), (32, 64, 3, 16), (64, 192, 1, 4))
EXERCISES: dict[str, exercises.Exercise] = {
    "gradient": ("g of eq. 17", _gradient, "y_t needs A of the noise: op.A and op.transpose are all it takes"),
    "factor": ("what a step does to the residual", _factor, "put mu + s Sigma g into A mu - y_t, along an eigenvector"),
    "limit": ("the largest s", near(2.5), "the factor of the exercise before must not be negative"),
    "adjoint": ("replication against the adjoint", near(3.0), "the adjoint of the mean gives each colour a third"),
    "low rank": ("numbers of a factor", _low_rank, "A is a k x k convolution to r channels, B is 1 x 1"),
    "spherical": ("the paper's distance", near(90.0), "the arcsine needs an argument of at most 1: 1 - cos"),
}


def check(name: str, answer: Any) -> None:
    """Say whether `answer` holds; None means that it was not answered yet."""
    exercises.check(name, answer, EXERCISES)
