"""What is learned (Eq. 1), from pairs of crops; photographs without a degraded partner are degraded at every visit."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data.images import to_model
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.metrics import lpips
from repro.ucdir.noise import TRAINING

Noises = Callable[[str], KeyedNoise]
# (indices (B,), crop, draw (B, 3) in [0, 1)) -> clean crops (B, 3, crop, crop) in [0, 1], their degraded ones or None
Cut = Callable[[Tensor, int, Tensor], Sequence[Tensor | None]]
# (B, 3, H, W) in [0, 1] -> (degraded, of the same shape; strength (B,) in [0, 1])
Degrade = Callable[[Tensor, Noises], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Learning:
    """The switches of the loss; distances are L1, as in the public code.

    `objective`  "noise" (Eq. 1) or "regression" (the baseline: the clean image itself, no diffusion).
    `detach`     whether the predictor is cut off from the diffusion loss; it needs a `pixel` loss then.
    `pixel`      weight of an L1 loss between initial estimate and clean image (published: 0).
    `perceptual` weight of LPIPS (AlexNet) between initial estimate and clean image, of a quarter of each batch, at
                 a quarter of the cost (published: 0).
    `hidden`     share of the samples whose strength the network is not given (nan).
    `shared`     one t a batch (published) instead of one a sample.
    """

    objective: Literal["noise", "regression"] = "noise"
    detach: bool = False
    pixel: float = 0.0
    perceptual: float = 0.0
    hidden: float = 0.0
    shared: bool = False

    def __post_init__(self) -> None:
        if self.detach and not self.pixel:
            raise ReproError("a detached predictor learns nothing without a pixel loss: got pixel 0")


def training_loss(
    model: nn.Module, degraded: Tensor, clean: Tensor, noise: Noises, learning: Learning, **scalars: Tensor
) -> Tensor:
    """(B,) loss of pairs in [-1, 1]; `scalars`: task and strength for a network that takes them."""
    if learning.objective == "regression":
        output, initial = model(degraded, **scalars)
        target = clean
    else:
        target = noise("noise").normal(tuple(clean.shape[1:])).to(clean)
        level = TRAINING.draw(noise("level"), learning.shared).to(clean)
        output, initial = model(degraded, clean, level, target, learning.detach, **scalars)
    loss = F.l1_loss(output.float(), target, reduction="none").mean(dim=(1, 2, 3))
    if learning.pixel:
        loss = loss + learning.pixel * F.l1_loss(initial.float(), clean, reduction="none").mean(dim=(1, 2, 3))
    if learning.perceptual:
        few = -(-len(clean) // 4)
        # AlexNet's first layer takes steps of 4 pixels: the corner moves, or a grid of that period would be learned.
        down, right = noise("corner").integers(0, 4, (2,))[0].tolist()
        pair = (F.pad(x[:few], (right, 0, down, 0), mode="reflect") for x in (initial.float().clamp(-1, 1), clean))
        similar = lpips.shared(str(clean.device))(*pair).float()
        loss = loss + learning.perceptual * len(clean) / few * F.pad(similar, (0, len(clean) - few))
    return loss


class RestorationTask:
    """The engine's training task: crops of pairs, or of photographs that are degraded afresh at every visit.

    Args:
        ids: names of the images.
        cut: gives a batch's crops of `crop` x `crop` pixels, as `repro.data.filesets.PictureSet.crops` does.
        degrade: makes the degraded crops where `cut` gives none.
        scalars: whether the network was built for a task: it is given its number, 0, and the strength.
    """

    def __init__(
        self,
        ids: Sequence[str],
        cut: Cut,
        crop: int,
        learning: Learning,
        degrade: Degrade | None = None,
        scalars: bool = False,
    ) -> None:
        self.ids, self.size, self.cut, self.crop = list(ids), len(ids), cut, crop
        self.learning, self.degrade, self.scalars = learning, degrade, scalars
        self.settings: dict[str, Any] = dataclasses.asdict(learning) | {"crop": crop}

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor, Tensor | None]:
        """(clean, degraded) in [-1, 1], each (B, 3, crop, crop); the strength (B,) of what was degraded here."""
        clean, degraded, *_ = self.cut(indices, self.crop, noise("crop").uniform((3,)))
        strength = None
        if degraded is None:
            degraded, strength = self.degrade(clean, noise)
        return to_model(clean), to_model(degraded), strength

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        clean, degraded, strength = self.pair(indices, noise)
        given = {}
        if self.scalars:
            hide = noise("strength").uniform(()).to(strength) < self.learning.hidden
            given["task"] = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
            given["strength"] = strength.masked_fill(hide, torch.nan)
        return training_loss(model, degraded, clean, noise, self.learning, **given)
