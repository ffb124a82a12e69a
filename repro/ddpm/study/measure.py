"""What notebook 01 measures: samplers against steps, baselines that learn nothing, inversion, guidance, claim D1.

Samples are keyed by (seed, id): replicate r of a row holds ids r n … (r + 1) n - 1, the check of `make reproduce` the
first k of them. Everything is computed in fp32. At paper scale (CIFAR-10) the metrics are those of Ho et al. (2020),
Table 1: FID against the training set and Inception Score, on `config.n` samples.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import datasets, pack
from repro.data.images import to_unit as unit
from repro.ddpm import oracles, samplers
from repro.ddpm.process import Model, model_fn
from repro.ddpm.samplers import Guide, classifier_guide, draw, start_noise
from repro.ddpm.study import play
from repro.ddpm.study.experiments import CLASSIFIER, LINEAR, PAPER_MODEL, SCHEDULES, DDPMConfig, accuracy, profile
from repro.ddpm.tasks import fashion_tensor
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.evaluation import Sample, Tolerance
from repro.engine.records import Values
from repro.engine.registry import DEVICE
from repro.engine.rng import KeyedNoise
from repro.metrics import features, protocols
from repro.metrics.features import SetMetrics

Metrics = Mapping[str, Values]

NET = "fashion-classifier"
FID, KID, IS = f"fid/{NET}", f"kid/{NET}", f"is/{NET}"
NEAREST = "nearest/l2-train"  # root mean square distance to the nearest training image, pixels in [0, 1]
NOISE_ERROR = "mse/eps"
TOLERANCE = Tolerance(absolute=2e-3, relative=5e-3)  # another CPU adds up in another order; 16 samples magnify it
ALIASES = {f"{m}/inception": f"{m}/{NET}" for m in ("fid", "kid", "is")}
QUICK = 20  # most steps of what the smoke profile measures
NOTHING = Sample(1, 1, hashlib.sha256(b"").hexdigest())


def sample(experiment: str, cell: Mapping[str, Any], chosen: str) -> Sample | None:
    """How many images a cell is measured on; None where it is not measured in the chosen profile."""
    config, task, steps = profile(chosen), cell.get("task"), cell.get("steps", 0)
    if chosen == "paper":
        return _paper_sample(experiment, cell, config)
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
    return None if needed and not trained(CLASSIFIER) else Sample(n, k, data_hash())


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, chosen: str = "small") -> Metrics:
    """One cell of the grid on the first `k` images (None: all)."""
    config, task = profile(chosen), cell.get("task")
    if chosen == "paper":
        return _paper(experiment, cell, k, config)
    if task is None:
        worst = max(max(oracles.chain_vs_closed_form(s).values()) for s in SCHEDULES.values())
        return {"max_abs_difference": worst}
    if task == "classification":
        return {"accuracy": accuracy(load_checkpoint(CLASSIFIER), k=k)}
    if task == "noise-prediction":
        images = fashion_tensor("test")[0][: k or 5 * config.n]
        return {NOISE_ERROR: play.noise_errors(_predictor(experiment), images, LINEAR).tolist()}
    if experiment.startswith("baseline-"):
        return replicated(_BASELINES[experiment.removeprefix("baseline-")], config.n, config.replicates, k)
    model, steps = load_checkpoint(experiment), cell["steps"]
    schedule = SCHEDULES["cosine" if "cosine" in experiment else "linear"]
    fn = model_fn(model)
    if task == "inversion":  # test images inverted to noise and sampled again with the same steps
        images = fashion_tensor("test")[0][: k or min(64, 8 * config.n)]
        noise = samplers.sample(samplers.ddim_invert(fn, images, schedule, steps))
        back = unit(samplers.sample(samplers.ddim(fn, noise, schedule, steps, clip=False)))
        return {name: protocols.score(name, back, unit(images)).tolist() for name in ("l1/grey01", "psnr/grey")}
    if task == "guidance":  # share of samples that the classifier names as asked (it judges what it guided), their FID
        ids, scale = range(k or 2 * config.n), cell["scale"]
        guide = (lambda some: class_guide([i % 10 for i in some], scale)) if scale else None
        more = {"guide_at": cell["at"]} if "at" in cell else {}
        images = draw(model, schedule, ids, cell["sampler"], steps, guide=guide, **more)
        named = features.extract(feature_net(), unit(images), "logits", batch=250).argmax(dim=1)
        right = (named == torch.tensor([i % 10 for i in ids])).float().mean().item()
        return {"accuracy/asked": right, FID: set_metrics(images)[FID]}

    def some(ids: range) -> Tensor:
        if task != "switches":
            eta = float(cell["eta"]) if cell["sampler"] == "ddim" else 0.0
            return draw(model, schedule, ids, cell["sampler"], steps, eta, batch=config.batch)
        parts, switch = start_noise(ids, (1, 28, 28)).split(config.batch), play.SWITCHES[cell["switch"]]
        return torch.cat([play.switched(fn, x_T, schedule, steps, switch) for x_T in parts])

    return replicated(some, config.n, config.replicates, k)


@lru_cache(maxsize=1)
def data_hash() -> str:
    """Of the embedded Fashion-MNIST images."""
    return pack.file_hash(pack.PACK / "fashion_mnist_subset.npz")


@lru_cache(maxsize=1)
def feature_net() -> features.FeatureNet:
    """The shipped classifier as the feature network of FID, KID and IS."""
    return features.classifier(load_checkpoint(CLASSIFIER))


@lru_cache(maxsize=1)
def _references() -> tuple[SetMetrics, Tensor]:
    return SetMetrics(feature_net, fashion_tensor("test")[0], 250), unit(fashion_tensor("train")[0]).flatten(1)


def set_metrics(images: Tensor) -> dict[str, float]:
    """FID, KID and IS of images (N, 1, 28, 28) in [-1, 1] against the test split, and their mean `NEAREST`."""
    score, training = _references()
    distance = torch.cdist(unit(images).flatten(1), training).min(dim=1).values / images[0].numel() ** 0.5
    return {**score(images), NEAREST: distance.mean().item()}


def replicated(make: Callable[[range], Tensor], n: int, replicates: int, k: int | None) -> Metrics:
    """Set metrics per replicate of n images each; of the first k images alone where `k` is given."""
    blocks = [range(k)] if k else [range(r * n, (r + 1) * n) for r in range(replicates)]
    measured = [set_metrics(make(ids)) for ids in blocks]
    return {name: [m[name] for m in measured] for name in measured[0]}


def class_guide(labels: Sequence[int], scale: float) -> Guide:
    """Guidance of one sample per label by the shipped classifier, which counts noising steps: index t is its t + 1."""
    classifier = load_checkpoint(CLASSIFIER)
    return classifier_guide(lambda x, t: classifier(x, t + 1), torch.tensor(labels), scale)


def _predictor(experiment: str) -> Model:
    """What predicts the noise: nothing (its error is 1 in expectation), the best affine predictor, memory, the network.

    The second half of claim D1: a network that beats the best affine predictor on unseen images predicts the noise.
    """
    if experiment == "baseline-zero":
        return lambda x, t: torch.zeros_like(x)
    makes = {"baseline-gaussian": play.fitted_gaussian, "baseline-ideal-denoiser": oracles.FiniteData}
    if experiment in makes:
        return makes[experiment](fashion_tensor("train")[0], LINEAR).model()
    return model_fn(load_checkpoint(experiment))


# --- what no learning reaches: real images (the floor), a Gaussian fitted to them, noise, a memorising denoiser ---


def _real(ids: range) -> Tensor:
    """Validation images: their distance to the training set is that of something new."""
    unseen = fashion_tensor("validation")[0]
    return unseen[KeyedNoise(0, [0], "baseline/order").integers(0, 2**62, (len(unseen),))[0].argsort()[ids]]


def _gaussian(ids: range) -> Tensor:
    fitted = play.fitted_gaussian(fashion_tensor("train")[0], LINEAR)
    z = KeyedNoise(0, list(ids), "baseline/gaussian").normal((784,)).double()
    samples = fitted.mean + z @ (fitted.axes * fitted.values.sqrt()).T
    return samples.float().clamp(-1, 1).view(-1, 1, 28, 28)


def _memorising(ids: range) -> Tensor:
    ideal = oracles.FiniteData(fashion_tensor("train")[0], LINEAR).model()
    return samplers.sample(samplers.ddim(ideal, start_noise(ids, (1, 28, 28)), LINEAR, 20))


_BASELINES = {
    "real": _real,
    "gaussian": _gaussian,
    "noise": lambda ids: start_noise(ids, (1, 28, 28)).clamp(-1, 1),
    "ideal-denoiser": _memorising,
}


# --- paper scale: the network predicts no variance; real images are the floor ---------------------------------------


def _paper_sample(experiment: str, cell: Mapping[str, Any], config: DDPMConfig) -> Sample | None:
    if cell.get("task") != "generation" or not trained(PAPER_MODEL):
        return None
    data = datasets.cifar10_hash("train")
    if experiment == "baseline-real":
        return Sample(min(config.n, len(datasets.load_cifar10("test")[0])), config.k, data)
    if experiment != PAPER_MODEL or (cell["sampler"], cell["eta"]) not in (("ddpm", 1), ("ddpm-large", 1), ("ddim", 0)):
        return None
    return Sample(config.n, 0 if cell["steps"] > 100 else config.k, data)


@lru_cache(maxsize=1)
def _paper_metrics(batch: int) -> SetMetrics:
    return SetMetrics(lambda: features.inception(device=DEVICE), datasets.load_cifar10("train")[0], batch)


def _paper(experiment: str, cell: Mapping[str, Any], k: int | None, config: DDPMConfig) -> Metrics:
    score = _paper_metrics(config.batch)
    if experiment == "baseline-real":
        return score(datasets.load_cifar10("test")[0][: k or config.n])
    model: nn.Module = copy.deepcopy(load_checkpoint(experiment)).to(DEVICE)
    settings = {"batch": config.batch, "shape": (config.channels, config.size, config.size), "device": DEVICE}
    return score(draw(model, LINEAR, range(k or config.n), cell["sampler"], cell["steps"], **settings).cpu())
