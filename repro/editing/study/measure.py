"""What notebook 02 measures: crops of held-out photographs, ways of editing them, scores per photograph.

The unit is the photograph: several crops of one are averaged, so that intervals count images that are independent of
each other; at paper scale it is a sequence of REDS. What is measured stands in `grid.toml`. Everything runs in fp32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from repro.editing.autoencoder import Autoencoder
from repro.editing.sampling import Editor, in_sequence
from repro.editing.study import experiments, probes, scores, strength
from repro.editing.study.benchmark import UNSEEN, Split, unseen
from repro.editing.study.experiments import LONGER, TAUGHT, EditingConfig, editor_of, name_of
from repro.editing.study.pix2pix import Pix2PixGenerator, generate
from repro.editing.vector import NAMES, TASKS, EditingVector
from repro.engine.checkpoint import load_checkpoint, trained, weights_hash
from repro.engine.registry import find
from repro.engine.study import Sample

ALIASES, TOLERANCE = scores.ALIASES, scores.TOLERANCE
LONG = 50  # steps with which the sliders of single-task networks are measured once more
SEQUENCE = "editing-edits-singles-s0"  # each task's own network, one after another
SLIDERS: dict[str, tuple[dict[str, Any], ...]] = {
    "blur": tuple({"blur": b} for b in (0.0, 0.25, 0.5, 0.75, 1.0)),
    "grain": tuple({"grain": s} for s in (0.01, 0.025, 0.05, 0.075, 0.1)),
    "sharpen": tuple({"sharpen": (a, 0.0)} for a in (1.0, 1.5, 2.0, 2.5, 3.0)),
}
BESIDE: dict[str, dict[str, Any]] = {  # what else is on while a slider moves inside a composite (supplement, Fig. 2)
    "blur": {"grain": 0.05, "colour": True},
    "grain": {"blur": 0.5, "colour": True},
    "sharpen": {"grain": 0.05, "colour": True},
}
ATTENDED = {"blur": {"blur": 1.0}, "grain": {"grain": 0.1}, "blur+grain+colour": {"blur": 1.0, "grain": 0.1}}
_BATCH = 18  # crops edited at once


def sample(experiment: str, cell: Mapping[str, Any], profile: str) -> Sample | None:
    """How many photographs a cell is measured on; None where it is not measured in this profile."""
    config, task, weights = experiments.profile(profile), cell["task"], None
    if config.pretrained:
        here = any(trained(name_of(v, 0, profile)) for v in config.variants)
    else:
        here = trained(experiments.autoencoder_name(profile))
    if not here or (config.steps >= LONG and "slider, " in task):
        return None
    if experiment.startswith("baseline-floor"):
        if config.pretrained and "quantised" in experiment:
            return None  # its autoencoder has no codebook
        weights = experiments.autoencoder_hash(config)
    elif experiment == SEQUENCE:
        names = [name_of(f"single-{each}", 0, profile) for each in TASKS]
        if not all(map(trained, names)):
            return None
        weights = hashlib.sha256("".join(weights_hash(each) for each in names).encode()).hexdigest()
    # Measured again of these networks: the main tables and the sliders.
    long = experiment in (name_of(TAUGHT), name_of(LONGER)) and task in ("one crop", "combination")
    count = len(UNSEEN) if task == "unseen" else len(scores.crops(config.source, 1))
    data = hashlib.sha256(config.source.digest().encode()).hexdigest()
    k = 0 if task in ("clusters", "attention") else 1  # photographs of the check
    return Sample(count, k, data, weights, ships=not (long or config.pretrained))


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, profile: str = "small") -> scores.Metrics:
    """One cell of the grid on the first `k` photographs (None: all)."""
    config, task = experiments.profile(profile), cell["task"]
    tasks = tuple(cell.get("edit", "").split("+"))
    probe = {"clusters": _clusters, "attention": partial(_attention, tasks), "spread": partial(_spread, config.steps)}
    variant, each = "", 1
    if experiment.startswith("editing-") and experiment != SEQUENCE:
        variant = find(experiment).variant
    if task == "edit" and variant not in (*experiments.ABLATIONS, experiments.MASKED, experiments.LOW):
        each = min(2, config.bench.each[2])
    data = unseen(config.bench) if task == "unseen" else scores.crops(config.source, each)
    data = data if k is None else data.first(k * each)
    if task in probe:
        return probe[task](editor_of(config, variant, find(experiment).seed), data)
    method = _method(experiment, cell, config)
    if task == "kept":
        return scores.kept(data, tasks, method)
    if task.startswith("slider"):
        return _slid(data, tasks[0], cell["inside"], method)
    return scores.scored(data, each, tasks, method, kid=task != "unseen", real=config.pretrained)


def _method(experiment: str, cell: Mapping[str, Any], config: EditingConfig) -> scores.Method:
    task, switch, steps = cell["task"], cell.get("switch"), cell.get("steps", config.steps)
    if experiment == "baseline-input":
        return source_of
    if experiment == "baseline-target":  # the targets themselves, of parameters that no main table shares
        return lambda data, tasks: data.edit(*tasks).target
    if experiment.startswith("baseline-floor"):
        return partial(floored, experiments.load_autoencoder(config.name), experiment.endswith("quantised"))
    if experiment == SEQUENCE:
        return partial(sequenced, {each: editor_of(config, f"single-{each}") for each in TASKS}, steps=steps)
    found = find(experiment)
    if found.variant == "pix2pix":
        return partial(by_pix2pix, load_checkpoint(experiment))
    editor = editor_of(config, found.variant, found.seed)
    if switch == "quantised":
        editor = replace(editor, quantize=True)
    elif switch == "hole filled with grey":
        editor = replace(editor, fill=0.5)
    elif switch == "even steps" or task in ("steps", "slider, even steps"):
        editor = replace(editor, late=())
    return partial(edited, editor, steps=steps, eta=float(switch == "eta 1"), inversion=task == "inversion")


# --- ways of editing ------------------------------------------------------------------------------------------------


def in_batches(data: Split, run: Callable[[Split], Tensor]) -> Tensor:
    """Images of a split made a few at a time."""
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
    settings = {"recipe": data.bench.recipe, "steps": steps}
    return in_batches(data, lambda part: in_sequence(editors, part.sharp, **settings, **request(part, tasks)))


def source_of(data: Split, tasks: Sequence[str]) -> Tensor:
    """What an edit starts from, hole and all: what doing nothing scores."""
    return data.edit(*(task for task in tasks if task == "inpaint")).source


def floored(autoencoder: Autoencoder, quantize: bool, data: Split, tasks: Sequence[str]) -> Tensor:
    """The target itself through the autoencoder: what no editing network can be better than, but by chance."""
    parts = (part.to(autoencoder.device) * 2 - 1 for part in scores.target_of(data, tuple(tasks)).split(_BATCH))
    return torch.cat([(autoencoder.decode(autoencoder.encode(part), quantize).cpu() + 1) / 2 for part in parts])


def by_pix2pix(generator: Pix2PixGenerator, data: Split, tasks: Sequence[str]) -> Tensor:
    """The GAN baseline, holes cut as for the others."""

    def run(part: Split) -> Tensor:
        inputs = request(part, tasks)
        return generate(generator, source_of(part, tasks), inputs["vectors"], inputs["reference"])

    return in_batches(data, run)


# --- scores ---------------------------------------------------------------------------------------------------------


def _slid(data: Split, task: str, inside: bool, method: scores.Method) -> scores.Metrics:
    """Measured effect at five places of a slider, alone or inside a composite (claim E13)."""
    rows = []
    for place in SLIDERS[task]:
        vector = EditingVector(**place, **(BESIDE[task] if inside else {}))
        moved = replace(data, vectors=(vector,) * len(data))
        rows.append(strength.MEASURES[task](method(moved, vector.active), data.sharp).double())
    table = torch.stack(rows)  # (5, N)
    found = {
        scores.RANK[task]: strength.rank_correlation(table).tolist(),
        scores.SPAN[task]: (table[-1] - table[0]).tolist(),
    }
    return found | {f"{scores.STRENGTH[task]}@{i}": row.tolist() for i, row in enumerate(table)}


def _clusters(editor: Editor, data: Split) -> scores.Metrics:
    """How well features tell the tasks apart (claim E7): per photograph, its five edits' silhouettes averaged."""
    *points, task = probes.task_features(editor, data)
    return {
        name: probes.silhouette(found, task).view(len(TASKS), -1).mean(dim=0).tolist()
        for name, found in zip(scores.SILHOUETTE.values(), points, strict=True)
    }


def _spread(steps: int, editor: Editor, data: Split) -> scores.Metrics:
    """How far edits of one image under different noise lie apart (claim E8)."""
    inputs = request(data, ("inpaint",))
    runs = torch.stack([editor.edit(data.sharp, **inputs, seed=seed, steps=steps) for seed in range(4)])
    return {scores.SPREAD: scores.by_photo(runs.std(dim=0).mean(dim=(1, 2, 3)), 1)}


def _attention(tasks: Sequence[str], editor: Editor, data: Split) -> scores.Metrics:
    """Mean weight of each token in each cross-attention, "attention/down_blocks.0.0/beta", at the largest amounts."""
    vector = EditingVector(**ATTENDED["+".join(tasks)], colour="colour" in tasks)
    return {
        f"attention/{layer}/{entry}": weight
        for layer, row in probes.attention(editor, data, vector).items()
        for entry, weight in zip(NAMES, row.tolist(), strict=True)
    }
