"""What notebook 01 measures: samplers against steps, baselines that learn nothing, inversion, guidance, claim D1.

Samples are keyed by (seed, id): replicate r of a row holds ids r n … (r + 1) n - 1, the check of `make reproduce` the
first k of them. Everything is computed in fp32. At paper scale (CIFAR-10) the metrics are those of Ho et al. (2020),
Table 1: FID against the training set and Inception Score, on `config.n` samples.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import pack, published
from repro.ddpm import oracles, samplers
from repro.ddpm.process import Model, model_fn
from repro.ddpm.samplers import classifier_guide, draw, start_noise
from repro.ddpm.schedules import Schedule, by_name
from repro.ddpm.steps import Guide
from repro.ddpm.study import probes
from repro.ddpm.study.config import DDPMConfig
from repro.ddpm.study.config import profile as config_of
from repro.ddpm.study.experiments import CLASSIFIER, PAPER_MODEL, SCHEDULES, schedule_of
from repro.ddpm.study.scores import FID, Metrics, SetMetrics, feature_net, replicated, set_metrics, unit
from repro.ddpm.tasks import fashion_tensor
from repro.engine.check import Tolerance
from repro.engine.checkpoint import load_checkpoint
from repro.engine.evaluation import folders, trained
from repro.engine.rng import KeyedNoise
from repro.engine.study import Sample
from repro.metrics import features, protocols

NOISE_ERROR = "mse/eps"
TOLERANCE = Tolerance(absolute=2e-3, relative=5e-3)  # another CPU adds up in another order; 16 samples magnify it
ALIASES = {f"{m}/inception": f"{m}/fashion-classifier" for m in ("fid", "kid", "is")}
QUICK = 20  # most steps of what the smoke profile measures


def sample(experiment: str, cell: Mapping[str, Any], profile: str) -> Sample | None:
    """How many pictures a cell is measured on; None where it is not measured in this profile."""
    config, task, steps = config_of(profile), cell.get("task"), cell.get("steps", 0)
    if profile == "paper":
        return _paper_sample(experiment, cell, config)
    if task is None:  # claim D1: no data and no network involved
        return Sample(1, 1, hashlib.sha256(b"").hexdigest())
    if profile == "smoke" and steps > QUICK:
        return None
    n, data, cosine = config.n, _data_hash(), "cosine" in experiment
    if task == "noise-prediction":
        return Sample(5 * n, min(64, 5 * n), data)
    if task == "classification":
        return Sample(3000, 256, data)
    if not trained(CLASSIFIER):
        return None
    if task == "inversion":
        return Sample(min(64, 8 * n), 8, data)
    if task == "guidance":
        return Sample(2 * n, min(20, 2 * n), data)
    return Sample(n, 0 if steps > 100 or cosine else config.k, data)


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, profile: str = "small") -> Metrics:
    """One cell of the grid on the first `k` pictures (None: all)."""
    config, task = config_of(profile), cell.get("task")
    if profile == "paper":
        return _paper(experiment, cell, k, config)
    if task is None:
        worst = max(max(oracles.chain_vs_closed_form(by_name(**s)).values()) for s in SCHEDULES.values())
        return {"max_abs_difference": worst}
    if task == "classification":
        pictures, labels, _ = fashion_tensor("test")
        k = k or len(pictures)
        with torch.inference_mode():
            named = torch.cat([load_checkpoint(CLASSIFIER)(part).argmax(dim=1) for part in pictures[:k].split(250)])
        return {"accuracy": (named == labels[:k]).float().mean().item()}
    if task == "noise-prediction":
        pictures = fashion_tensor("test")[0][: k or 5 * config.n]
        found = probes.noise_errors(_predictor(experiment, config), pictures, schedule_of(config))
        return {NOISE_ERROR: found.tolist()}
    if experiment.startswith("baseline-"):
        return replicated(_BASELINES[experiment.removeprefix("baseline-")], config.n, config.replicates, k)
    model, steps = load_checkpoint(_folder(experiment)), cell["steps"]
    schedule = by_name(**SCHEDULES["cosine"]) if "cosine" in experiment else schedule_of(config)
    if task == "inversion":
        return _inversion(model, schedule, steps, k, min(64, 8 * config.n))
    if task == "guidance":
        more = {"guide_at": cell["at"]} if "at" in cell else {}
        return _guidance(model, schedule, cell["sampler"], steps, cell["scale"], range(k or 2 * config.n), more)
    if task == "switches":
        some: Callable[[range], Tensor] = partial(_switched, model, schedule, steps, cell["switch"], config.batch)
    else:
        eta = float(cell["eta"]) if cell["sampler"] == "ddim" else 0.0
        settings = {"sampler": cell["sampler"], "steps": steps, "eta": eta, "batch": config.batch}
        some = partial(draw, model, schedule, **settings)
    return replicated(some, config.n, config.replicates, k)


def _folder(experiment: str) -> Any:
    return next(f for f in folders(experiment) if (f / "config.json").exists())


@lru_cache(maxsize=1)
def _data_hash() -> str:
    return pack.file_hash(pack.PACK / "fashion_mnist_subset.npz")


# --- what no learning reaches: real pictures (the floor), a Gaussian fitted to them, noise, a memorising denoiser ---


def _real(ids: range) -> Tensor:
    """Validation pictures: their distance to the training set is that of something new."""
    unseen = fashion_tensor("validation")[0]
    order = KeyedNoise(0, [0], "baseline/order").integers(0, 2**62, (len(unseen),))[0].argsort()
    return unseen[order[ids.start : ids.stop]]


def _gaussian(ids: range) -> Tensor:
    flat = fashion_tensor("train")[0].flatten(1).double()
    mean, cov = flat.mean(dim=0), torch.cov(flat.T)
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt()  # (784, 784)
    z = KeyedNoise(0, list(ids), "baseline/gaussian").normal((784,)).double()
    return (mean + z @ root.T).float().clamp(-1, 1).view(-1, 1, 28, 28)


def _noise(ids: range) -> Tensor:
    return start_noise(ids, (1, 28, 28)).clamp(-1, 1)


def _memorising(ids: range) -> Tensor:
    schedule = by_name(**SCHEDULES["linear"])
    ideal = oracles.FiniteData(fashion_tensor("train")[0], schedule).model()
    return samplers.sample(samplers.ddim(ideal, start_noise(ids, (1, 28, 28)), schedule, 20))


_BASELINES = {"real": _real, "gaussian": _gaussian, "noise": _noise, "ideal-denoiser": _memorising}


# --- the network ----------------------------------------------------------------------------------------------------


def _predictor(experiment: str, config: DDPMConfig) -> Model:
    """What predicts the noise: nothing, the best affine predictor, memory, the network.

    The second half of claim D1: a network that beats the best affine predictor on unseen pictures predicts the noise.
    """
    pictures, schedule = fashion_tensor("train")[0], schedule_of(config)
    if experiment == "baseline-zero":
        return probes.blind
    if experiment == "baseline-gaussian":
        return probes.fitted_gaussian(pictures, schedule).model()
    if experiment == "baseline-ideal-denoiser":
        return oracles.FiniteData(pictures, schedule).model()
    return model_fn(load_checkpoint(_folder(experiment)))


def _switched(model: nn.Module, schedule: Schedule, steps: int, switch: str, batch: int, ids: range) -> Tensor:
    """A choice that papers leave to the code, changed (`probes.SWITCHES`)."""
    parts = start_noise(ids, (1, 28, 28)).split(batch)
    chosen = probes.SWITCHES[switch]
    return torch.cat([probes.switched(model_fn(model), x_T, schedule, steps, chosen) for x_T in parts])


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
    ids: range,
    settings: Mapping[str, Any],
) -> Metrics:
    """Share of samples that the classifier names as asked (it judges what it guided), and their FID."""
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


# --- paper scale ----------------------------------------------------------------------------------------------------


def _paper_sample(experiment: str, cell: Mapping[str, Any], config: DDPMConfig) -> Sample | None:
    """The paper's network predicts no variance; real pictures are the floor."""
    if cell.get("task") != "generation" or not trained(PAPER_MODEL):
        return None
    if experiment == "baseline-real":
        return Sample(min(config.n, len(published.load_cifar10("test")[0])), config.k, published.cifar10_hash("train"))
    eta = {"ddpm": 1, "ddpm-large": 1, "ddim": 0}
    if experiment != PAPER_MODEL or eta.get(cell["sampler"]) != cell["eta"]:
        return None
    return Sample(config.n, 0 if cell["steps"] > 100 else config.k, published.cifar10_hash("train"))


@lru_cache(maxsize=1)
def _paper_metrics(config_name: str) -> SetMetrics:
    config = config_of(config_name)
    return SetMetrics(lambda: features.inception(device=_device()), published.load_cifar10("train")[0], config.batch)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _paper(experiment: str, cell: Mapping[str, Any], k: int | None, config: DDPMConfig) -> Metrics:
    score = _paper_metrics(config.name)
    if experiment == "baseline-real":
        return score(published.load_cifar10("test")[0][: k or config.n])
    model, schedule = copy.deepcopy(load_checkpoint(_folder(experiment))).to(_device()), schedule_of(config)
    ids, shape = range(k or config.n), (config.channels, config.size, config.size)
    settings = {"batch": config.batch, "shape": shape, "device": _device()}
    return score(draw(model, schedule, ids, cell["sampler"], cell["steps"], **settings).cpu())
