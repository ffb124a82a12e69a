"""What notebook 01 measures, row by row: samplers against steps, baselines that learn nothing, inversion, guidance, D1.

Samples are keyed by (seed, id): replicate r of a row holds ids r n … (r + 1) n - 1, the check of `make reproduce` the
first k of them. Everything is computed in fp32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import pack
from repro.ddpm import oracles, probes, samplers
from repro.ddpm.config import SMALL, DDPMConfig, profile
from repro.ddpm.experiments import CLASSIFIER, COSINE, MAIN, SCHEDULES, schedule_of
from repro.ddpm.guidance import classifier_guide
from repro.ddpm.process import Model, model_fn
from repro.ddpm.sampling import SAMPLERS, draw, start_noise
from repro.ddpm.schedules import Schedule, by_name
from repro.ddpm.scores import FID, Metrics, feature_net, replicated, set_metrics, unit
from repro.ddpm.steps import Guide
from repro.ddpm.tasks import fashion_tensor
from repro.engine.check import Tolerance
from repro.engine.checkpoint import load_checkpoint, weights_hash
from repro.engine.evaluation import Row, folders, trained
from repro.engine.rng import KeyedNoise
from repro.metrics import features, protocols

NOISE_ERROR = "mse/eps"
TOLERANCE = Tolerance(absolute=2e-3, relative=5e-3)  # another CPU adds up in another order; 16 samples magnify it

# --- rows -----------------------------------------------------------------------------------------------------------


def rows(profile_name: str = "small") -> list[Row]:
    """Every row of notebook 01 whose networks are here (recorded ones are measured where they were trained)."""
    config = profile(profile_name)
    return ROWS[config.data](config)


def _fashion_rows(config: DDPMConfig) -> list[Row]:
    return [
        _oracle_row(config),
        *_baselines(config),
        *_noise(config),
        *_classifier(config),
        *_samplers(config),
        *_switches(config),
        *_cosine(config),
    ]


def _downloaded_rows(config: DDPMConfig) -> list[Row]:
    from repro.ddpm import paper  # it samples with `draw`

    return paper.rows(config)


ROWS: dict[str, Callable[[DDPMConfig], list[Row]]] = {"fashion": _fashion_rows, "cifar10": _downloaded_rows}


def _row(config: DDPMConfig, experiment: str, cell: Mapping[str, Any], n: int, measure: Callable, **more: Any) -> Row:
    return Row("ddpm", experiment, cell, measure, n=n, data=_data_hash(), profile=config.name, **more)


@lru_cache(maxsize=1)
def _data_hash() -> str:
    return pack.file_hash(pack.PACK / "fashion_mnist_subset.npz")


def _oracle_row(config: DDPMConfig) -> Row:
    """Claim D1: repeating the single step gives the closed form; no data and no network involved."""

    def measure(_: int | None) -> Metrics:
        worst = max(max(oracles.chain_vs_closed_form(by_name(**s)).values()) for s in SCHEDULES.values())
        return {"max_abs_difference": worst}

    none = hashlib.sha256(b"").hexdigest()
    return Row("ddpm", "oracle-chain-vs-closed-form", {}, measure, n=1, data=none, k=1, profile=config.name)


def _baselines(config: DDPMConfig) -> list[Row]:
    """What no learning reaches: real pictures (the floor), a Gaussian fitted to them, noise, a memorising denoiser."""
    pictures = fashion_tensor("train")[0]

    def real(ids: range) -> Tensor:  # validation pictures: their distance to the training set is that of something new
        unseen = fashion_tensor("validation")[0]
        order = KeyedNoise(0, [0], "baseline/order").integers(0, 2**62, (len(unseen),))[0].argsort()
        return unseen[order[ids.start : ids.stop]]

    def gaussian(ids: range) -> Tensor:
        flat = pictures.flatten(1).double()
        mean, cov = flat.mean(dim=0), torch.cov(flat.T)
        values, vectors = torch.linalg.eigh(cov)
        root = vectors * values.clamp(min=0).sqrt()  # (784, 784)
        z = KeyedNoise(0, list(ids), "baseline/gaussian").normal((784,)).double()
        return (mean + z @ root.T).float().clamp(-1, 1).view(-1, 1, 28, 28)

    def noise(ids: range) -> Tensor:
        return start_noise(ids, (1, 28, 28)).clamp(-1, 1)

    def memorising(ids: range) -> Tensor:
        schedule = schedule_of(config)
        ideal = oracles.FiniteData(pictures, schedule).model()
        run = samplers.ddim(ideal, start_noise(ids, (1, 28, 28)), schedule, 20)
        return samplers.sample(run)

    table = {"real": real, "gaussian": gaussian, "noise": noise, "ideal-denoiser": memorising}
    return [
        _row(
            config,
            f"baseline-{name}",
            {"task": "generation"},
            config.n,
            partial(replicated, make, config.n, config.replicates),
            k=config.k,
        )
        for name, make in table.items()
    ]


def _classifier(config: DDPMConfig) -> list[Row]:
    if not trained(CLASSIFIER):
        return []

    def measure(k: int | None) -> Metrics:
        pictures, labels, _ = fashion_tensor("test")
        k = k or len(pictures)
        with torch.inference_mode():
            found = torch.cat([load_checkpoint(CLASSIFIER)(part).argmax(dim=1) for part in pictures[:k].split(250)])
        return {"accuracy": (found == labels[:k]).float().mean().item()}

    cell = {"task": "classification"}
    return [_row(config, CLASSIFIER, cell, 3000, measure, k=256, weights=weights_hash(CLASSIFIER))]


def _samplers(config: DDPMConfig) -> list[Row]:
    if not (trained(MAIN) and trained(CLASSIFIER)):
        return []
    model, schedule = load_checkpoint(MAIN), schedule_of(config)
    make = partial(_row, config, MAIN, weights=weights_hash(MAIN))

    def generation(sampler: str, steps: int, eta: float) -> Callable:
        some = partial(draw, model, schedule, sampler=sampler, steps=steps, eta=eta, batch=config.batch)
        return partial(replicated, some, config.n, config.replicates)

    found = []
    for sampler in SAMPLERS:
        long = config.full_steps if sampler in ("ddpm", "ddim") else ()
        for steps in (*config.steps, *long):
            short = steps in config.steps
            cell = {"task": "generation", "sampler": sampler, "steps": steps, "eta": 0.0 if sampler == "ddim" else 1.0}
            measure = generation(sampler, steps, 0.0)
            found.append(make(cell, config.n, measure, k=config.k if short else 0))
    for eta in (0.5, 1.0):
        cell = {"task": "generation", "sampler": "ddim", "steps": config.steps[1], "eta": eta}
        found.append(make(cell, config.n, generation("ddim", config.steps[1], eta), k=config.k))
    for steps in config.steps:
        cell = {"task": "inversion", "steps": steps}
        measure = partial(_inversion, model, schedule, steps, n=min(64, config.n * 8))
        found.append(make(cell, min(64, config.n * 8), measure, k=8))
    n, steps = 2 * config.n, config.steps[1]
    for scale in (0.0, 1.0, 3.0, 10.0):
        cell = {"task": "guidance", "sampler": "ddim", "steps": steps, "scale": scale}
        found.append(make(cell, n, partial(_guidance, model, schedule, "ddim", steps, scale, n, {}), k=min(20, n)))
    for at in ("mean", "x_t"):  # the derivation's choice and the authors' code
        cell = {"task": "guidance", "sampler": "ddpm", "steps": steps, "scale": 3.0, "at": at}
        some = partial(_guidance, model, schedule, "ddpm", steps, 3.0, n, {"guide_at": at})
        found.append(make(cell, n, some, k=min(20, n)))
    return found


def _noise(config: DDPMConfig) -> list[Row]:
    """How well the noise in test pictures is told: by nobody, by the best affine predictor, by memory, by the network.

    The second half of claim D1: a network that beats the best affine predictor on unseen pictures predicts the noise.
    """
    schedule, n = schedule_of(config), 5 * config.n

    def row(name: str, predictor: Callable[[], Model], **more: Any) -> Row:
        def measure(k: int | None) -> Metrics:
            pictures = fashion_tensor("test")[0][: k or n]
            return {NOISE_ERROR: probes.noise_errors(predictor(), pictures, schedule).tolist()}

        return _row(config, name, {"task": "noise-prediction"}, n, measure, k=min(64, n), **more)

    found = [
        row("baseline-zero", lambda: probes.blind),
        row("baseline-gaussian", lambda: probes.fitted_gaussian(fashion_tensor("train")[0], schedule).model()),
        row("baseline-ideal-denoiser", lambda: oracles.FiniteData(fashion_tensor("train")[0], schedule).model()),
    ]
    if trained(MAIN):
        found.append(row(MAIN, lambda: model_fn(load_checkpoint(MAIN)), weights=weights_hash(MAIN)))
    return found


def _switches(config: DDPMConfig) -> list[Row]:
    """What choices that papers leave to the code cost, one changed at a time (`probes.SWITCHES`)."""
    if not (trained(MAIN) and trained(CLASSIFIER)):
        return []
    model, schedule, steps = load_checkpoint(MAIN), schedule_of(config), config.steps[1]

    def make(switch: Mapping[str, Any]) -> Callable[[range], Tensor]:
        def some(ids: range) -> Tensor:
            parts = start_noise(ids, (1, 28, 28)).split(config.batch)
            return torch.cat([probes.switched(model_fn(model), x_T, schedule, steps, switch) for x_T in parts])

        return some

    return [
        _row(
            config,
            MAIN,
            {"task": "switches", "switch": name, "steps": steps},
            config.n,
            partial(replicated, make(switch), config.n, config.replicates),
            k=config.k,
            weights=weights_hash(MAIN),
        )
        for name, switch in probes.SWITCHES.items()
        if switch  # without one it is the samplers' own row
    ]


def _inversion(model: nn.Module, schedule: Schedule, steps: int, k: int | None, n: int) -> Metrics:
    """Test pictures inverted to noise and sampled again with the same steps: error per picture."""
    pictures = fashion_tensor("test")[0][: k or n]
    fn = model_fn(model)
    noise = samplers.sample(samplers.ddim_invert(fn, pictures, schedule, steps))
    back = samplers.sample(samplers.ddim(fn, noise, schedule, steps, clip=False))
    return {
        "l1/grey01": protocols.score("l1/grey01", unit(back), unit(pictures)).tolist(),
        "psnr/grey": protocols.score("psnr/grey", unit(back), unit(pictures)).tolist(),
    }


def _guidance(
    model: nn.Module,
    schedule: Schedule,
    sampler: str,
    steps: int,
    scale: float,
    n: int,
    settings: Mapping[str, Any],
    k: int | None,
) -> Metrics:
    """Share of samples that the classifier names as asked (it judges what it guided), and their FID."""
    ids = range(k or n)
    labels = [i % 10 for i in ids]
    guide = (lambda some: class_guide([labels[i] for i in some], scale)) if scale else None
    pictures = draw(model, schedule, ids, sampler, steps, guide=guide, **settings)
    found = features.extract(feature_net(), unit(pictures), "logits", batch=250).argmax(dim=1)
    asked = (found == torch.tensor(labels)).float().mean().item()
    return {"accuracy/asked": asked, FID: set_metrics(pictures)[FID]}


def class_guide(labels: Sequence[int], scale: float) -> Guide:
    """Guidance of one sample per label by the shipped classifier, which counts noising steps: index t is its t + 1."""
    classifier = load_checkpoint(CLASSIFIER)
    return classifier_guide(lambda x, t: classifier(x, t + 1), torch.tensor(labels), scale)


def _cosine(config: DDPMConfig) -> list[Row]:
    """The cosine twin does not ship: its rows are made where it was trained and are recorded from then on."""
    if config is not SMALL or not trained(COSINE) or not trained(CLASSIFIER):
        return []
    folder = next(f for f in folders(COSINE) if (Path(f) / "config.json").exists())
    model, schedule = load_checkpoint(folder), by_name(**SCHEDULES["cosine"])
    found = []
    for steps in config.steps:
        cell = {"task": "generation", "sampler": "ddim", "steps": steps, "eta": 0.0}
        some = partial(draw, model, schedule, sampler="ddim", steps=steps, batch=config.batch)
        measure = partial(replicated, some, config.n, config.replicates)
        found.append(_row(config, COSINE, cell, config.n, measure, weights=weights_hash(folder), ships=False))
    return found
