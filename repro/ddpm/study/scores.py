"""FID, KID and IS of Fashion-MNIST samples, on the features of the classifier that ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import to_unit as unit
from repro.ddpm.study.experiments import CLASSIFIER
from repro.ddpm.tasks import fashion_tensor
from repro.engine.checkpoint import load_checkpoint
from repro.engine.records import Values
from repro.metrics import distribution, features

NET = "fashion-classifier"
FID, KID, IS = f"fid/{NET}", f"kid/{NET}", f"is/{NET}"
NEAREST = "nearest/l2-train"

Metrics = Mapping[str, Values]


@lru_cache(maxsize=1)
def data_hash() -> str:
    """Of the embedded Fashion-MNIST images."""
    return pack.file_hash(pack.PACK / "fashion_mnist_subset.npz")


@lru_cache(maxsize=1)
def feature_net() -> features.FeatureNet:
    """The shipped classifier as the feature network of FID, KID and IS."""
    module = load_checkpoint(CLASSIFIER)
    return features.classifier(module)


@lru_cache(maxsize=4)
def reference(split: str) -> Tensor:
    """(N, d) features of a split's images."""
    return features.extract(feature_net(), unit(fashion_tensor(split)[0]), batch=250)


@lru_cache(maxsize=1)
def _training_pixels() -> Tensor:
    return unit(fashion_tensor("train")[0]).flatten(1)


def set_metrics(images: Tensor) -> dict[str, float]:
    """FID, KID and IS of images (N, 1, 28, 28) in [-1, 1] against the test split, and the mean distance of each image
    to the training image nearest to it (root mean square over pixels, values in [0, 1])."""
    x = unit(images)
    found = features.extract(feature_net(), x, batch=250)
    logits = features.extract(feature_net(), x, "logits", batch=250)
    kid, _ = distribution.kid(found, reference("test"), subset_size=min(len(x), 100), subsets=50, seed=0)
    distance = torch.cdist(x.flatten(1), _training_pixels()).min(dim=1).values / x[0].numel() ** 0.5
    return {
        FID: distribution.fid(found, reference("test")),
        KID: kid,
        IS: distribution.inception_score(logits, splits=1, seed=0)[0],
        NEAREST: distance.mean().item(),
    }


def replicated(make: Callable[[range], Tensor], n: int, replicates: int, k: int | None) -> Metrics:
    """Set metrics per replicate of n images each; of the first k images alone where `k` is given."""
    blocks = [range(k)] if k else [range(r * n, (r + 1) * n) for r in range(replicates)]
    measured = [set_metrics(make(ids)) for ids in blocks]
    return {name: [m[name] for m in measured] for name in measured[0]}
