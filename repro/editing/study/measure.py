"""What notebook 02 measures, as `grid.toml` lists it: crops of held-out photographs, edits of them, scores of those.

Several crops of a photograph (at paper scale, frames of a sequence) are averaged, so that intervals count images that
are independent of each other.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from repro.data.images import to_model, to_unit
from repro.editing.autoencoder import Autoencoder
from repro.editing.pipeline import EditingPipeline
from repro.editing.sampling import Editor, in_sequence
from repro.editing.study import experiments, probes
from repro.editing.study.benchmark import UNSEEN, Split, unseen
from repro.editing.study.experiments import LONGER, TAUGHT, EditingConfig, editor_of, name_of
from repro.editing.study.pix2pix import Pix2PixGenerator
from repro.editing.study.probes import STRENGTHS, mean_lab, rank_correlation, sharpen_strength
from repro.editing.vector import NAMES, TASKS, EditingVector, batch
from repro.engine.checkpoint import find, load_checkpoint, trained, weights_hash
from repro.engine.evaluation import Sample, Tolerance
from repro.engine.records import Values
from repro.metrics import features, protocols
from repro.metrics.features import FeatureNet, efficientnet_lite0, extract, inception

Metrics = Mapping[str, Values]
Method = Callable[[Split, Sequence[str]], Tensor]  # (crops, tasks) -> edited images
L1, SSIM, LPIPS = PROTOCOLS = ("l1/rgb01", "ssim/rgb-wang", "lpips/alex-v0.1")
KID = "kid/efficientnet-lite0-paired"  # `repro.metrics.features.paired_kid`
HOLE = "l1/rgb01-hole"  # inside the hole alone
EXCESS = "l1/rgb01-hole-excess"  # l1 inside the hole less l1 outside
HUE = "lab-distance/mean"  # between the mean colours of result and target
MEANS = "channel-mean-error/rgb01"  # |mean of a channel less the target's|, mean of the three
CONTRAST = "channel-deviation-ratio/target"  # deviation of a channel over the target's, mean of the three
CRISP = "gradient-log-ratio/target"  # ln of the gradient energy over the target's; 0 is as crisp as it should be
SPREAD = "std/rgb01"  # of a pixel over noise seeds, mean over the image
STRENGTH = {task: f"strength/{task}" for task in STRENGTHS}
GAP = {task: f"strength-gap/{task}" for task in STRENGTHS}  # to the target's, absolute
DRIFT = {task: f"drift/{task}" for task in (*STRENGTHS, "colour")}  # see `kept`
RANK = {task: f"spearman/{task}" for task in STRENGTHS}
SPAN = {task: f"strength-span/{task}" for task in STRENGTHS}  # of a slider's last place over its first
SILHOUETTE = {where: f"silhouette/{where}" for where in ("bottleneck", "label")}
_STRENGTHS = [name for group in (STRENGTH, GAP, DRIFT, RANK, SPAN, SILHOUETTE) for name in group.values()]
TOLERANCE = {  # of the check that measures the first k again
    **dict.fromkeys((*PROTOCOLS, HOLE, EXCESS, KID, MEANS), Tolerance(absolute=2e-3, relative=5e-3)),
    SPREAD: Tolerance(absolute=2e-4, relative=1e-2),
    **dict.fromkeys((HUE, CRISP, CONTRAST, *_STRENGTHS), Tolerance(absolute=2e-2, relative=1e-2)),
}
ALIASES = {"paired-kid/inception": KID}  # metrics of the paper's profile -> what tables look for
LEAST = 8  # photographs for a KID
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
SWITCHES = {"quantised": {"quantize": True}, "hole filled with grey": {"fill": 0.5}, "even steps": {"late": ()}}
_BATCH = 18  # crops edited at once


def sample(experiment: str, cell: Mapping[str, Any], profile: str) -> Sample | None:
    """How many photographs a cell is measured on; None where it is not measured in this profile."""
    config, task, weights = experiments.PROFILES[profile], cell["task"], None
    if config.pretrained:  # without a codebook; `EditingPipeline` is for our own networks
        if "quantised" in experiment or task == "corrected" or "slider, " in task:
            return None
        here = any(trained(name_of(v, 0, profile)) for v in config.variants)
    else:
        here = trained(experiments.autoencoder_name(profile))
    if not here:
        return None
    if experiment.startswith("baseline-floor"):
        weights = experiments.autoencoder_hash(config)
    elif experiment == SEQUENCE:
        names = [name_of(f"single-{each}", 0, profile) for each in TASKS]
        if not all(map(trained, names)):
            return None
        weights = hashlib.sha256("".join(weights_hash(each) for each in names).encode()).hexdigest()
    # Measured again of these networks: the main tables and the sliders.
    long = experiment in (name_of(TAUGHT), name_of(LONGER)) and task in ("one crop", "combination")
    count = len(UNSEEN) if task == "unseen" else len(crops(config.source, 1))
    data = hashlib.sha256(config.source.digest().encode()).hexdigest()
    k = 0 if task in ("clusters", "attention") else 1  # photographs of the check
    return Sample(count, k, data, weights, ships=not (long or config.pretrained))


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, profile: str = "small") -> Metrics:
    """One cell of the grid on the first `k` photographs (None: all)."""
    config, task, tasks = experiments.PROFILES[profile], cell["task"], tuple(cell.get("edit", "").split("+"))
    variant = find(experiment).variant if experiment.startswith("editing-") and experiment != SEQUENCE else ""
    two = task == "edit" and variant not in (*experiments.ABLATIONS, experiments.MASKED, experiments.LOW)
    each = min(2, config.bench.each[2]) if two else 1
    data = unseen(config.bench) if task == "unseen" else crops(config.source, each)
    data = data if k is None else data.first(k * each)
    if task in ("clusters", "attention", "spread"):
        inner = {"clusters": _clusters, "attention": _attention, "spread": partial(_spread, steps=config.steps)}[task]
        return inner(editor_of(config, variant, find(experiment).seed), data, tasks)
    method = _method(experiment, cell, config)
    if task == "kept":
        return kept(data, tasks, method)
    if task in ("statistics", "corrected"):
        return _statistics(method(data, tasks).clamp(0, 1), target_of(data, tasks))
    if task.startswith("slider"):
        return _slider(data, tasks[0], cell["inside"], method)
    return scored(data, each, tasks, method, kid=task != "unseen", real=bool(config.pretrained))


def _method(experiment: str, cell: Mapping[str, Any], config: EditingConfig) -> Method:
    task, switch, steps = cell["task"], cell.get("switch"), cell.get("steps", config.steps)
    if experiment == "baseline-input":
        return Split.source
    if experiment == "baseline-target":  # the targets themselves, of parameters that no main table shares
        return Split.target
    if experiment.startswith("baseline-floor"):
        return partial(floored, experiments.load_autoencoder(config), experiment.endswith("quantised"))
    if experiment == SEQUENCE:
        return partial(sequenced, {each: editor_of(config, f"single-{each}") for each in TASKS}, steps=steps)
    network = find(experiment)
    if network.variant == "pix2pix":
        return partial(by_pix2pix, load_checkpoint(experiment))
    editor = editor_of(config, network.variant, network.seed)
    if task == "corrected":
        pipe = EditingPipeline.shipped(config.name, network.variant)
        pipe.set_progress_bar_config(disable=True)
        return lambda data, _: pipe(data.sharp, reference=data.reference, seed=0, output_type="pt").images.cpu()
    if task in ("steps", "slider, even steps"):
        switch = "even steps"
    editor = replace(editor, **SWITCHES.get(switch, {}))
    return partial(edited, editor, steps=steps, eta=float(switch == "eta 1"), inversion=task == "inversion")


@lru_cache(maxsize=4)
def crops(source: Any, each: int) -> Split:
    """The first `each` crops of every held-out photograph, photograph by photograph; of REDS, frames of a sequence."""
    return source.first("test", each)


def request(data: Split, tasks: Sequence[str]) -> dict[str, Any]:
    """Arguments of `Editor.edit` for a split's own parameters."""
    vectors = [vector.only(*tasks) for vector in data.vectors]
    return {"vectors": vectors, "ids": data.ids, "reference": data.reference, "hole": data.hole}


def edited(editor: Editor, data: Split, tasks: Sequence[str], **settings: Any) -> Tensor:
    """One joint pass."""
    parts = data.parts(_BATCH)
    return torch.cat([editor.edit(part.sharp, **request(part, tasks), **settings) for part in parts])


def sequenced(editors: Mapping[str, Editor], data: Split, tasks: Sequence[str], **settings: Any) -> Tensor:
    """Single-task networks one after another."""
    settings |= {"rules": data.bench.rules}
    parts = data.parts(_BATCH)
    return torch.cat([in_sequence(editors, part.sharp, **settings, **request(part, tasks)) for part in parts])


def floored(autoencoder: Autoencoder, quantize: bool, data: Split, tasks: Sequence[str]) -> Tensor:
    """The target itself through the autoencoder: what no editing network can be better than, but by chance."""
    parts = (part.to(autoencoder.device) * 2 - 1 for part in target_of(data, tuple(tasks)).split(_BATCH))
    return torch.cat([(autoencoder.decode(autoencoder.encode(part), quantize).cpu() + 1) / 2 for part in parts])


@torch.no_grad()
def by_pix2pix(generator: Pix2PixGenerator, data: Split, tasks: Sequence[str]) -> Tensor:
    """The GAN baseline, of sides that are multiples of the generator's `factor`."""
    made = []
    for part in data.parts(_BATCH):
        vectors = batch([vector.only(*tasks) for vector in part.vectors])
        colours = to_model(part.reference) if "colour" in tasks else torch.zeros_like(part.sharp)
        made.append(to_unit(generator(to_model(part.source(tasks)), colours, vectors)))
    return torch.cat(made)


def by_photo(values: Tensor, each: int) -> list[float]:
    """(N,) values of crops -> one per photograph."""
    return values.double().view(-1, each).mean(dim=1).tolist()


@lru_cache(maxsize=2)
def _net(real: bool = False) -> FeatureNet:
    return inception(device="cuda" if torch.cuda.is_available() else "cpu") if real else efficientnet_lite0()


@lru_cache(maxsize=64)
def target_of(data: Split, tasks: tuple[str, ...]) -> Tensor:
    """The target of an edit, kept: grain costs more than the edits themselves."""
    return data.target(tasks)


@lru_cache(maxsize=64)
def _target_features(data: Split, tasks: tuple[str, ...], real: bool) -> Tensor:
    return extract(_net(real), target_of(data, tasks))


def scored(
    data: Split, each: int, tasks: Sequence[str], method: Method, kid: bool = True, real: bool = False
) -> Metrics:
    """Every protocol, per photograph, KID's shares too (`real`: of Inception); strengths where they are defined."""
    tasks = tuple(tasks)
    output, target = method(data, tasks).clamp(0, 1), target_of(data, tasks)
    raw = {p: protocols.score(p, output, target) for p in PROTOCOLS}
    for task in (task for task in STRENGTHS if task in tasks):
        raw[STRENGTH[task]], own = (STRENGTHS[task](x, data.sharp) for x in (output, target))
        raw[GAP[task]] = (raw[STRENGTH[task]] - own).abs()
    raw[CRISP] = sharpen_strength(output, target)
    if "colour" in tasks:
        raw[HUE] = (mean_lab(output) - mean_lab(target)).norm(dim=1)
    if "inpaint" in tasks:
        share = data.hole.mean(dim=(1, 2, 3)).clamp(min=1e-6)
        error = (output - target).abs()
        raw[HOLE] = (error * data.hole).mean(dim=(1, 2, 3)) / share
        raw[EXCESS] = raw[HOLE] - (error * (1 - data.hole)).mean(dim=(1, 2, 3)) / (1 - share).clamp(min=1e-6)
    metrics: dict[str, Values] = {name: by_photo(values, each) for name, values in raw.items()}
    whole = len(data) > 1 if real else data is crops(data.bench, each) and len(data) // each >= LEAST
    if kid and whole:
        a, b = extract(_net(real), output), _target_features(data, tasks, real)
        metrics["paired-kid/inception" if real else KID] = by_photo(features.paired_kid(a, b), each)
        if real:
            metrics["kid/inception"] = features.kid(a, b, subset_size=min(len(a), 1000), subsets=50, seed=0)
    return metrics


def kept(data: Split, tasks: Sequence[str], method: Method) -> Metrics:
    """How far a composite leaves the strength that each of its edits has alone, per crop (claim E14).

    |(s(composite) - s(single)) - (the same of the targets)|, s the strength of `study.probes`; of colour the distance
    in CIE Lab of the two changes of the mean colour.
    """
    output, target = method(data, tasks).clamp(0, 1), data.target(tasks)
    metrics: dict[str, Values] = {}
    for task in (task for task in tasks if task in DRIFT):
        images = (output, method(data, [task]).clamp(0, 1), target, data.target([task]))
        if task == "colour":
            ours, alone, goal, single = map(mean_lab, images)
            drift = (ours - alone - goal + single).norm(dim=1)
        else:
            ours, alone, goal, single = (STRENGTHS[task](x, data.sharp) for x in images)
            drift = ((ours - alone) - (goal - single)).abs().double()
        metrics[DRIFT[task]] = drift.tolist()
    return metrics


def _statistics(output: Tensor, target: Tensor) -> Metrics:
    """How near mean and deviation of each channel come to the target's, all that a colour transfer sets."""
    (own, mean), (deviation, goal) = (torch.std_mean(x, dim=(2, 3), correction=0) for x in (output, target))
    ratio = own / deviation.clamp(min=1 / 255)
    return {MEANS: (mean - goal).abs().mean(dim=1).tolist(), CONTRAST: ratio.mean(dim=1).tolist()}


def _slider(data: Split, task: str, inside: bool, method: Method) -> Metrics:
    """Measured effect at five places of a slider, alone or inside a composite (claim E13)."""
    vectors = [EditingVector(**place, **(BESIDE[task] if inside else {})) for place in SLIDERS[task]]
    moved = [(replace(data, vectors=(vector,) * len(data)), vector.active) for vector in vectors]
    table = torch.stack([STRENGTHS[task](method(*each), data.sharp).double() for each in moved])  # (5, N)
    metrics = {RANK[task]: rank_correlation(table).tolist(), SPAN[task]: (table[-1] - table[0]).tolist()}
    return metrics | {f"{STRENGTH[task]}@{i}": row.tolist() for i, row in enumerate(table)}


def _clusters(editor: Editor, data: Split, tasks: Sequence[str]) -> Metrics:
    """How far features lie apart by task (claim E7): per photograph, its five edits' silhouettes averaged."""
    *points, task = probes.task_features(editor, data)
    found = [probes.silhouette(own, task).view(len(TASKS), -1).mean(dim=0).tolist() for own in points]
    return dict(zip(SILHOUETTE.values(), found, strict=True))


def _spread(editor: Editor, data: Split, tasks: Sequence[str], steps: int) -> Metrics:
    """How far edits of one image under different noise lie apart (claim E8)."""
    inputs = request(data, tasks)
    runs = torch.stack([editor.edit(data.sharp, **inputs, seed=seed, steps=steps) for seed in range(4)])
    return {SPREAD: by_photo(runs.std(dim=0).mean(dim=(1, 2, 3)), 1)}


def _attention(editor: Editor, data: Split, tasks: Sequence[str]) -> Metrics:
    """Mean weight of each token in each cross-attention, "attention/down_blocks.0.0/beta", at the largest amounts."""
    vector = EditingVector(**ATTENDED["+".join(tasks)], colour="colour" in tasks)
    rows = probes.attention(editor, data, vector).items()
    return {f"attention/{layer}/{name}": w for layer, row in rows for name, w in zip(NAMES, row.tolist(), strict=True)}
