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

from repro.editing import paper, pix2pix, strength
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
KID = "kid/efficientnet-lite0-paired"  # `repro.metrics.distribution.paired_kid`
HOLE = "l1/rgb01-hole"  # inside the hole alone
HUE = "lab-distance/mean"  # between the mean colours of result and target
STRENGTH = {task: f"strength/{task}" for task in strength.MEASURES}
GAP = {task: f"strength-gap/{task}" for task in strength.MEASURES}  # to the target's, absolute
DRIFT = {task: f"drift/{task}" for task in (*strength.MEASURES, "colour")}  # see `kept`
CRISP = "gradient-log-ratio/target"  # ln of the gradient energy over the target's; 0 is as crisp as it should be
EXCESS = "l1/rgb01-hole-excess"  # l1 inside the hole less l1 outside
LEAST = 8  # photographs for a KID


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
_BATCH = 18  # crops edited at once


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
    return source_of(data, tasks)


def floored(autoencoder: Autoencoder, quantize: bool, data: Split, tasks: Sequence[str]) -> Tensor:
    """The target itself through the autoencoder: what no editing network can be better than, but by chance."""

    latents = (autoencoder.encode(part * 2 - 1) for part in target_of(data, tasks).split(_BATCH))
    return torch.cat([(autoencoder.decode(latent, quantize) + 1) / 2 for latent in latents])


def by_pix2pix(generator: pix2pix.Pix2PixGenerator, data: Split, tasks: Sequence[str]) -> Tensor:
    """The GAN baseline, holes cut as for the others."""

    def run(part: Split) -> Tensor:
        asked = request(part, tasks)
        return pix2pix.generate(generator, source_of(part, tasks), asked["vectors"], asked["reference"])

    return in_batches(data, run)


def editor_of(config: EditingConfig, variant: str, seed: int = 0, **settings: Any) -> Editor:
    """A trained variant, ready to edit. Raises `ReproError` where its weights are not here."""
    found = folder_of(name_of(variant, seed, config.name))
    parts: dict[str, Any] = {
        "schedule": schedule_of(config, variant),
        "prediction": learning_of(variant, config).prediction,
        "fill": config.bench.recipe.fill,
        **settings,
    }
    if config.pretrained:
        return paper.editor(found, config.pretrained, **parts)
    return Editor(load_checkpoint(found), load_autoencoder(config.name), **parts)  # type: ignore[arg-type]


# --- scores ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _net() -> FeatureNet:
    return efficientnet_lite0()


@lru_cache(maxsize=64)
def _wanted(bench: Bench, each: int, tasks: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Targets of an edit and their features."""
    target = crops(bench, each).edit(*tasks).target
    return target, extract(_net(), target)


def source_of(data: Split, tasks: Sequence[str]) -> Tensor:
    """What an edit starts from: only inpainting changes it."""
    return data.edit(*(task for task in tasks if task == "inpaint")).source


def target_of(data: Split, tasks: Sequence[str]) -> Tensor:
    """What an edit should make. Those of all crops are kept: grain costs more than the edits themselves."""
    for each in range(1, data.bench.each[2] + 1):
        if data is crops(data.bench, each):
            return _wanted(data.bench, each, tuple(tasks))[0]
    return data.edit(*tasks).target


def scored(data: Split, each: int, tasks: Sequence[str], method: Method, kid: bool = True) -> Metrics:
    """Every protocol, per photograph, KID's shares too; strengths where they are defined."""
    output = method(data, tasks).clamp(0, 1)
    whole = isinstance(data.bench, Bench) and data is crops(
        data.bench, each
    )  # then its targets are kept: grain costs more than the edits
    target = _wanted(data.bench, each, tuple(tasks))[0] if whole else data.edit(*tasks).target
    found: dict[str, Values] = {p: by_photo(protocols.score(p, output, target), each) for p in PROTOCOLS}
    for task, measure in strength.MEASURES.items():
        if task in tasks:
            own, wanted = measure(output, data.sharp), measure(target, data.sharp)
            found[STRENGTH[task]] = by_photo(own, each)
            found[GAP[task]] = by_photo((own - wanted).abs(), each)
    found[CRISP] = by_photo(strength.sharpen(output, target), each)
    if "colour" in tasks:
        found[HUE] = by_photo(strength.colour(output, target), each)
    if "inpaint" in tasks:
        share = data.hole.mean(dim=(1, 2, 3)).clamp(min=1e-6)
        error = (output - target).abs()
        inside = (error * data.hole).mean(dim=(1, 2, 3)) / share
        outside = (error * (1 - data.hole)).mean(dim=(1, 2, 3)) / (1 - share).clamp(min=1e-6)
        found[HOLE] = by_photo(inside, each)
        found[EXCESS] = by_photo(inside - outside, each)
    if kid and whole and len(data) // each >= LEAST:
        real = _wanted(data.bench, each, tuple(tasks))[1]
        found[KID] = by_photo(distribution.paired_kid(extract(_net(), output), real), each)
    return found


def kept(data: Split, tasks: Sequence[str], method: Method) -> Metrics:
    """How far a composite leaves the strength that each of its edits has alone, per crop (claim E14).

    |(s(composite) - s(single)) - (the same of the targets)|, s the strength of `repro.editing.strength`; of colour the
    distance in CIE Lab of the two changes of the mean colour.
    """
    made, wanted = method(data, tasks).clamp(0, 1), data.edit(*tasks).target
    found: dict[str, Values] = {}
    for task in tasks:
        alone, target = method(data, [task]).clamp(0, 1), data.edit(task).target
        if task == "colour":
            change = strength.mean_lab(made) - strength.mean_lab(alone)
            found[DRIFT[task]] = (change - strength.mean_lab(wanted) + strength.mean_lab(target)).norm(dim=1).tolist()
        elif task in strength.MEASURES:
            own, theirs = (
                strength.MEASURES[task](together, data.sharp) - strength.MEASURES[task](single, data.sharp)
                for together, single in ((made, alone), (wanted, target))
            )
            found[DRIFT[task]] = (own - theirs).abs().double().tolist()
    return found
