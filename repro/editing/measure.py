"""How notebook 02 measures: crops of held-out photographs, ways of editing them, scores per photograph.

The unit is the photograph: several crops of one are averaged, so that intervals count pictures that are independent of
each other. Everything runs in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from repro.editing import pix2pix, strength
from repro.editing.autoencoder import Autoencoder
from repro.editing.benchmark import Bench, Split, split
from repro.editing.config import EditingConfig
from repro.editing.experiments import folder_of, learning_of, load_autoencoder, name_of, schedule_of
from repro.editing.sampling import Editor, in_sequence
from repro.engine.checkpoint import load_checkpoint
from repro.engine.records import Values
from repro.metrics import distribution, protocols
from repro.metrics.features import FeatureNet, efficientnet_lite0, extract

Metrics = Mapping[str, Values]
L1, SSIM, LPIPS = "l1/rgb01", "ssim/rgb-wang", "lpips/alex-v0.1"
PROTOCOLS = (L1, SSIM, LPIPS)
KID = "kid/efficientnet-lite0"
HOLE = "l1/rgb01-hole"  # inside the hole alone
HUE = "lab-distance/mean"  # between the mean colours of result and target
STRENGTH = {task: f"strength/{task}" for task in strength.MEASURES}
GROUPS = 3  # of photographs, each with a KID of its own
_BATCH = 18  # crops edited at once


@lru_cache(maxsize=4)
def crops(bench: Bench, each: int) -> Split:
    """The first `each` crops of every held-out photograph, photograph by photograph."""
    whole = split("test", bench)
    step = bench.each[2]
    keep = [i for i in range(len(whole)) if i % step < each]
    return whole.at(keep)


def label(tasks: Sequence[str]) -> str:
    """A cell's name of an edit, "blur+grain"."""
    return "+".join(tasks)


def by_photo(values: Tensor, each: int) -> list[float]:
    """(N,) values of crops -> one per photograph."""
    return values.double().view(-1, each).mean(dim=1).tolist()


# --- methods: (crops, tasks) -> edited pictures ---------------------------------------------------------------------

Method = Callable[[Split, Sequence[str]], Tensor]
_BATCH = 18


def in_batches(data: Split, run: Callable[[Split], Tensor]) -> Tensor:
    """Pictures of a split made a few at a time."""
    return torch.cat([run(data.at(range(i, min(i + _BATCH, len(data))))) for i in range(0, len(data), _BATCH)])


def request(data: Split, tasks: Sequence[str]) -> dict[str, Any]:
    """Arguments of `Editor.edit` for a split's own parameters."""
    return {
        "vectors": [vector.only(*tasks) for vector in data.vectors],
        "ids": data.ids,
        "reference": data.reference if "colour" in tasks else None,
        "hole": data.hole if "inpaint" in tasks else None,
    }


def edited(editor: Editor, data: Split, tasks: Sequence[str], **settings: Any) -> Tensor:
    """One joint pass."""
    return in_batches(data, lambda part: editor.edit(part.sharp, **request(part, tasks), **settings))


def sequenced(editors: Mapping[str, Editor], data: Split, tasks: Sequence[str], steps: int) -> Tensor:
    """Single-task networks one after another."""
    recipe = data.bench.recipe
    return in_batches(
        data, lambda part: in_sequence(editors, part.sharp, recipe=recipe, steps=steps, **request(part, tasks))
    )


def untouched(data: Split, tasks: Sequence[str]) -> Tensor:
    """The source as it is, hole and all: what doing nothing scores."""
    return data.edit(*tasks).source


def floored(autoencoder: Autoencoder, quantize: bool, data: Split, tasks: Sequence[str]) -> Tensor:
    """The target itself through the autoencoder: what no editing network can be better than, but by chance."""

    def run(part: Split) -> Tensor:
        latent = autoencoder.encode(part.edit(*tasks).target * 2 - 1)
        return (autoencoder.decode(latent, quantize) + 1) / 2

    return in_batches(data, run)


def by_pix2pix(generator: pix2pix.Pix2PixGenerator, data: Split, tasks: Sequence[str]) -> Tensor:
    """The GAN baseline, holes cut as for the others."""

    def run(part: Split) -> Tensor:
        asked = request(part, tasks)
        return pix2pix.generate(generator, part.edit(*tasks).source, asked["vectors"], asked["reference"])

    return in_batches(data, run)


def editor_of(config: EditingConfig, variant: str, seed: int = 0, **settings: Any) -> Editor:
    """A trained variant, ready to edit. Raises `ReproError` where its weights are not here."""
    return Editor(
        network=load_checkpoint(folder_of(name_of(variant, seed, config.name))),  # type: ignore[arg-type]
        autoencoder=load_autoencoder(config.name),
        schedule=schedule_of(config, variant),
        prediction=learning_of(variant).prediction,
        fill=config.bench.recipe.fill,
        **settings,
    )


# --- scores ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _net() -> FeatureNet:
    return efficientnet_lite0()


@lru_cache(maxsize=64)
def _wanted(bench: Bench, each: int, tasks: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Targets of an edit and their features."""
    target = crops(bench, each).edit(*tasks).target
    return target, extract(_net(), target)


def scored(data: Split, each: int, tasks: Sequence[str], method: Method, kid: bool = True) -> Metrics:
    """Every protocol, per photograph, and KID per group of photographs; strengths where they are defined."""
    output = method(data, tasks).clamp(0, 1)
    target = data.edit(*tasks).target
    found: dict[str, Values] = {p: by_photo(protocols.score(p, output, target), each) for p in PROTOCOLS}
    for task, measure in strength.MEASURES.items():
        if task in tasks:
            found[STRENGTH[task]] = by_photo(measure(output, data.sharp), each)
    if "colour" in tasks:
        found[HUE] = by_photo(strength.colour(output, target), each)
    if "inpaint" in tasks:
        share = data.hole.mean(dim=(1, 2, 3)).clamp(min=1e-6)
        inside = ((output - target).abs() * data.hole).mean(dim=(1, 2, 3)) / share
        found[HOLE] = by_photo(inside, each)
    if kid and len(data) // each >= 2 * GROUPS:
        real = _wanted(data.bench, each, tuple(tasks))[1]
        made = extract(_net(), output)
        size = len(data) // GROUPS
        parts = [slice(g * size, (g + 1) * size) for g in range(GROUPS)]
        found[KID] = [distribution.kid(made[p], real[p], size, 1, 0)[0] for p in parts]
    return found
