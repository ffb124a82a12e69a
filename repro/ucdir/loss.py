"""What is learned (Eq. 1), from crops of photographs degraded afresh at every visit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data import crops
from repro.data.images import to_model
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.ucdir.noise import TRAINING, NoiseSchedule

Noises = Callable[[str], KeyedNoise]
# (B, 3, H, W) in [0, 1] -> (degraded, of the same shape; strength (B,) in [0, 1])
Degrade = Callable[[Tensor, Noises], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Learning:
    """The switches of the loss.

    `objective`  "noise" (Eq. 1) or "regression" (the baseline: the clean image itself, no diffusion).
    `norm`       "l1" (the public code) or "l2".
    `detach`     whether the predictor is cut off from the diffusion loss; it needs a `pixel` loss then.
    `pixel`      weight of an L1 loss between initial estimate and clean image (published: 0).
    `hidden`     share of the samples whose strength the network is not given (nan).
    `shared`     one t a batch (published) instead of one a sample.
    """

    objective: str = "noise"
    norm: str = "l1"
    detach: bool = False
    pixel: float = 0.0
    hidden: float = 0.0
    shared: bool = False
    schedule: NoiseSchedule = TRAINING

    def __post_init__(self) -> None:
        if self.objective not in ("noise", "regression") or self.norm not in ("l1", "l2"):
            raise ReproError(f"a loss is noise or regression, l1 or l2: got {self.objective!r}, {self.norm!r}")
        if self.detach and not self.pixel:
            raise ReproError("a detached predictor learns nothing without a pixel loss: got pixel 0")


def training_loss(
    model: nn.Module,
    degraded: Tensor,
    clean: Tensor,
    noise: Noises,
    learning: Learning,
    task: Tensor | None = None,
    strength: Tensor | None = None,
) -> Tensor:
    """(B,) loss of pairs in [-1, 1]."""
    distance = F.l1_loss if learning.norm == "l1" else F.mse_loss
    if learning.objective == "regression":
        output, initial = model(degraded, task=task, strength=strength)
        target = clean
    else:
        target = noise("noise").normal(tuple(clean.shape[1:])).to(clean)
        level = learning.schedule.draw(noise("level"), learning.shared).to(clean)
        output, initial = model(degraded, clean, level, target, task, strength, learning.detach)
    loss = distance(output.float(), target, reduction="none").mean(dim=(1, 2, 3))
    if learning.pixel:
        loss = loss + learning.pixel * F.l1_loss(initial.float(), clean, reduction="none").mean(dim=(1, 2, 3))
    return loss


class RestorationTask:
    """The engine's training task.

    Args:
        pictures: float (3, H, W) in [0, 1], each at least `crop` high and wide; `ids` their names.
        degradations: by task name; a batch holds all of them, sample by sample.
        tasks: names that the network was built for (empty: it takes no task and no strength).
    """

    def __init__(
        self,
        pictures: Sequence[Tensor],
        ids: Sequence[str],
        degradations: dict[str, Degrade],
        crop: int,
        learning: Learning,
        tasks: Sequence[str] = (),
    ) -> None:
        self.pictures, self.ids, self.size = list(pictures), list(ids), len(pictures)
        self.degradations, self.crop, self.learning, self.tasks = degradations, crop, learning, list(tasks)
        self.settings: dict[str, Any] = dataclasses.asdict(learning) | {
            "crop": crop,
            "degradations": list(degradations),
        }

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(clean, degraded) in [-1, 1], each (B, 3, crop, crop); task index and strength (B,)."""
        draw = noise("crop")
        clean = crops.cut([self.pictures[i] for i in indices.tolist()], self.crop, draw.uniform((3,)).cpu())
        clean = clean.to(draw.device)
        which = draw.integers(0, len(self.degradations), step=1)
        degraded, strength = torch.empty_like(clean), clean.new_empty(len(clean))
        for k, degrade in enumerate(self.degradations.values()):
            rows = (which == k).nonzero()[:, 0]
            if len(rows):
                degraded[rows], strength[rows] = degrade(clean[rows], _of(noise, rows))
        return to_model(clean), to_model(degraded), which, strength

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        clean, degraded, task, strength = self.pair(indices, noise)
        if self.learning.hidden:
            hide = noise("strength").uniform(()).to(strength) < self.learning.hidden
            strength = strength.masked_fill(hide, torch.nan)
        scalars = (task, strength) if self.tasks else (None, None)
        return training_loss(model, degraded, clean, noise, self.learning, *scalars)


def _of(noise: Noises, rows: Tensor) -> Noises:
    """The noise of some rows of a batch: a sample's numbers do not depend on which others are beside it."""

    def chosen(purpose: str) -> KeyedNoise:
        stream = noise(purpose)
        part = object.__new__(KeyedNoise)
        part.device, part.keys = stream.device, stream.keys[rows]
        return part

    return chosen
