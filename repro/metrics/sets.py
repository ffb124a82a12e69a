"""FID, KID and Inception Score of one set against another, through one feature network."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from repro.data.images import to_unit as unit
from repro.metrics import distribution, features


class SetMetrics:
    """FID, KID (x 1000) and IS of images (N, C, H, W) in [-1, 1]; the reference is embedded once, at first use."""

    def __init__(self, make_net: Callable[[], features.FeatureNet], reference: Tensor, batch: int) -> None:
        self.make_net, self.reference, self.batch = make_net, reference, batch
        self._embedded: tuple[features.FeatureNet, Tensor] | None = None

    def __call__(self, images: Tensor) -> dict[str, float]:
        if self._embedded is None:
            net = self.make_net()
            self._embedded = net, features.extract(net, unit(self.reference), batch=self.batch)
        net, wanted = self._embedded
        found = features.extract(net, unit(images), batch=self.batch)
        logits = features.extract(net, unit(images), "logits", batch=self.batch)
        size = min(len(found), len(wanted), 1000)
        return {
            f"fid/{net.name}": distribution.fid(found, wanted),
            f"kid/{net.name}": distribution.kid(found, wanted, subset_size=size, subsets=50, seed=0)[0],
            f"is/{net.name}": distribution.inception_score(logits, splits=1, seed=0)[0],
        }
