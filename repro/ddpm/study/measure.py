"""What notebook 01 measures: samplers against steps, baselines that learn nothing, inversion, guidance, claim D1.

Samples are keyed by (seed, id): replicate r of a row holds ids r n … (r + 1) n - 1, the check of `make reproduce` the
first k of them. Everything is computed in fp32. At paper scale (CIFAR-10) the metrics are those of Ho et al. (2020),
Table 1: FID against the training set and Inception Score, on `config.n` samples; the network predicts no variance.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from repro.data import datasets, pack
from repro.data.images import to_unit as unit
from repro.ddpm import oracles, process, samplers
from repro.ddpm.process import Model, Schedule, model_fn
from repro.ddpm.study.experiments import LINEAR, PAPER_MODEL, PROFILES, SCHEDULES, DDPMConfig
from repro.engine.checkpoint import DEVICE, load_checkpoint, trained
from repro.engine.evaluation import Sample, Tolerance
from repro.engine.records import Values
from repro.engine.rng import KeyedNoise
from repro.metrics import features, protocols
from repro.metrics.features import ALIASES_FASHION, CLASSIFIER, FID, SetMetrics, feature_net, replicated, set_metrics

Metrics = Mapping[str, Values]

NOISE_ERROR = "mse/eps"
TOLERANCE = Tolerance(absolute=2e-3, relative=5e-3)  # another CPU adds up in another order; 16 samples magnify it
ALIASES = ALIASES_FASHION
QUICK = 20  # most steps of what the smoke profile measures
NOTHING = Sample(1, 1, hashlib.sha256(b"").hexdigest())
# What papers leave out and code has to decide: arguments of `samplers.ddim`, and by how much the timestep that the
# network is given lies ahead. The names are those of records.
SWITCHES: dict[str, dict[str, Any]] = {
    "as elsewhere here": {},
    "x0 not clipped": {"clip": False},
    "x0 clipped, the network's noise kept": {"eps_from_clipped": False},
    "trailing timesteps": {"spacing": "trailing"},
    "linspace timesteps": {"spacing": "linspace"},
    "network told t + 1": {"ahead": 1},
    "ends at the schedule's first level": {"final": "first"},
}


def sample(experiment: str, cell: Mapping[str, Any], chosen: str) -> Sample | None:
    """How many images a cell is measured on; None where it is not measured in the chosen profile."""
    config, task, steps = PROFILES[chosen], cell.get("task"), cell.get("steps", 0)
    if chosen == "paper":
        if task != "generation" or not trained(PAPER_MODEL):
            return None
        data = datasets.cifar10_hash("train")
        if experiment == "baseline-real":
            return Sample(min(config.n, len(datasets.load_cifar10("test")[0])), config.k, data)
        known = (cell.get("sampler"), cell.get("eta")) in (("ddpm", 1), ("ddpm-large", 1), ("ddim", 0))
        return Sample(config.n, 0 if steps > 100 else config.k, data) if experiment == PAPER_MODEL and known else None
    if task is None:  # claim D1: no data and no network involved
        return NOTHING
    if chosen == "smoke" and steps > QUICK:
        return None
    n, k = {
        "noise-prediction": (5 * config.n, min(64, 5 * config.n)),
        "classification": (3000, 256),
        "inversion": (min(64, 8 * config.n), 8),
        "guidance": (2 * config.n, min(20, 2 * config.n)),
    }.get(task, (config.n, 0 if steps > 100 or "cosine" in experiment else config.k))
    needed = task not in ("noise-prediction", "classification")
    return None if needed and not trained(CLASSIFIER) else Sample(n, k, pack.file_hash(pack.PACK / pack.FASHION))


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, chosen: str = "small") -> Metrics:
    """One cell of the grid on the first `k` images (None: all)."""
    config, task = PROFILES[chosen], cell.get("task")
    if chosen == "paper":
        return _at_paper_scale(experiment, cell, k, config)
    if task is None:
        worst = max(max(oracles.chain_vs_closed_form(s).values()) for s in SCHEDULES.values())
        return {"max_abs_difference": worst}
    if task == "classification":
        images, labels = (part[:k] for part in pack.fashion("test")[:2])
        with torch.inference_mode():
            named = torch.cat([load_checkpoint(CLASSIFIER)(part).argmax(dim=1) for part in images.split(250)])
        return {"accuracy": (named == labels).float().mean().item()}
    if task == "noise-prediction":
        images = pack.fashion("test")[0][: k or 5 * config.n]
        return {NOISE_ERROR: noise_errors(_predictor(experiment), images, LINEAR).tolist()}
    if experiment.startswith("baseline-"):
        return replicated(partial(_baseline, experiment), config.n, config.replicates, k)
    model, steps = load_checkpoint(experiment), cell["steps"]
    schedule = SCHEDULES["cosine" if "cosine" in experiment else "linear"]
    fn = model_fn(model)
    if task == "inversion":  # test images inverted to noise and sampled again with the same steps
        images = pack.fashion("test")[0][: k or min(64, 8 * config.n)]
        noise = samplers.sample(samplers.ddim_invert(fn, images, schedule, steps))
        back = unit(samplers.sample(samplers.ddim(fn, noise, schedule, steps, clip=False)))
        return {name: protocols.score(name, back, unit(images)).tolist() for name in ("l1/grey01", "psnr/grey")}
    if task == "guidance":  # share of samples that the classifier gives the guided class (it judges itself), their FID
        ids, scale = range(k or 2 * config.n), cell["scale"]
        guide = (lambda some: class_guide([i % 10 for i in some], scale)) if scale else None
        more = {"guide_at": cell["at"]} if "at" in cell else {}
        images = samplers.draw(model, schedule, ids, cell["sampler"], steps, guide=guide, **more)
        named = features.extract(feature_net(), unit(images), "logits", batch=250).argmax(dim=1)
        right = (named == torch.tensor([i % 10 for i in ids])).float().mean().item()
        return {"accuracy/asked": right, FID: set_metrics(images)[FID]}

    def some(ids: range) -> Tensor:
        if task != "switches":
            eta = float(cell["eta"]) if cell["sampler"] == "ddim" else 0.0
            return samplers.draw(model, schedule, ids, cell["sampler"], steps, eta, batch=config.batch)
        parts, switch = samplers.start_noise(ids, (1, 28, 28)).split(config.batch), SWITCHES[cell["switch"]]
        return torch.cat([switched(fn, x_T, schedule, steps, switch) for x_T in parts])

    return replicated(some, config.n, config.replicates, k)


@lru_cache(maxsize=1)
def _inception(batch: int) -> SetMetrics:
    return SetMetrics(lambda: features.inception(device=DEVICE), datasets.load_cifar10("train")[0], batch)


def _at_paper_scale(experiment: str, cell: Mapping[str, Any], k: int | None, config: DDPMConfig) -> Metrics:
    if experiment == "baseline-real":
        return _inception(config.batch)(datasets.load_cifar10("test")[0][: k or config.n])
    model, shape = copy.deepcopy(load_checkpoint(experiment)).to(DEVICE), (config.channels, config.size, config.size)
    settings = {"batch": config.batch, "shape": shape, "device": DEVICE}
    made = samplers.draw(model, LINEAR, range(k or config.n), cell["sampler"], cell["steps"], **settings)
    return _inception(config.batch)(made.cpu())


def class_guide(labels: Sequence[int], scale: float) -> samplers.Guide:
    """Guidance of one sample per label by the shipped classifier, which counts noising steps: index t is its t + 1."""
    classifier = load_checkpoint(CLASSIFIER)
    return samplers.classifier_guide(lambda x, t: classifier(x, t + 1), torch.tensor(labels), scale)


def switched(model: Model, x_T: Tensor, schedule: Schedule, steps: int, switch: Mapping[str, Any]) -> Tensor:
    """DDIM samples (eta 0) under one entry of `SWITCHES`."""
    settings = dict(switch)
    off, times = settings.pop("ahead", 0), samplers.spaced(schedule.T, steps, settings.pop("spacing", "leading"))
    return samplers.sample(samplers.ddim(lambda x, t: model(x, t + off), x_T, schedule, times, **settings))


# -- what no learning reaches: real images (the floor), a Gaussian fitted to them, noise, a memorising denoiser --------


def _baseline(name: str, ids: range) -> Tensor:
    if name == "baseline-real":  # validation images: their distance to the training set is that of something new
        unseen = pack.fashion("validation")[0]
        return unseen[KeyedNoise(0, [0], "baseline/order").integers(0, 2**62, (len(unseen),))[0].argsort()[ids]]
    if name == "baseline-gaussian":
        fitted = fitted_gaussian(pack.fashion("train")[0], LINEAR)
        z = KeyedNoise(0, list(ids), "baseline/gaussian").normal((784,)).double()
        samples = fitted.mean + z @ (fitted.axes * fitted.values.sqrt()).T
        return samples.float().clamp(-1, 1).view(-1, 1, 28, 28)
    x_T = samplers.start_noise(ids, (1, 28, 28))
    if name == "baseline-noise":
        return x_T.clamp(-1, 1)
    return samplers.sample(samplers.ddim(_predictor(name), x_T, LINEAR, 20))


def _predictor(experiment: str) -> Model:
    """What predicts the noise: nothing (its error is 1 in expectation), the best affine predictor, memory, the network.
    By claim D1 a network that beats the best affine predictor on unseen images predicts the noise."""
    if experiment == "baseline-zero":
        return lambda x, t: torch.zeros_like(x)
    makes = {"baseline-gaussian": fitted_gaussian, "baseline-ideal-denoiser": oracles.FiniteData}
    if experiment in makes:
        return makes[experiment](pack.fashion("train")[0], LINEAR).model()
    return model_fn(load_checkpoint(experiment))


def fitted_gaussian(images: Tensor, schedule: Schedule) -> oracles.GaussianData:
    """The ideal denoiser of the Gaussian with the images' mean and covariance: the best affine predictor there is."""
    flat = images.flatten(1).double()
    return oracles.GaussianData(flat.mean(dim=0), torch.cov(flat.T), schedule)


def noise_errors(model: Model, images: Tensor, schedule: Schedule, seed: int = 0, t: int | None = None) -> Tensor:
    """(N,) mean squared error of the predicted noise for images (N, C, H, W) in [-1, 1], one draw each. `t`: one
    timestep for all; None draws each image's own uniformly from 0..T-1, which makes the mean the simple loss (DDPM Eq.
    14). Time and noise of image i are keyed by (seed, i), the same for every model."""
    ids = range(len(images))
    eps = KeyedNoise(seed, ids, "probe/noise").normal(images.shape[1:])
    times = KeyedNoise(seed, ids, "probe/time").integers(0, schedule.T) if t is None else torch.full((len(ids),), t)
    parts = zip(*(part.split(64) for part in (images, times, eps)), strict=True)
    fn = lambda x, t: process.prediction_part(model(x, t), x)  # noqa: E731
    with torch.inference_mode():
        return torch.cat([process.simple_loss(fn, x0, when, z, schedule) for x0, when, z in parts])
