"""What a training is: frozen data, so that a recipe can be listed, hashed, compared and printed on a card."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained. Progress is counted in images.

    `images`      images shown in all; `batch` of them a step, over all processes together.
    `lr`          peak learning rate of AdamW: linear warm-up over `warmup` images, then "constant" or "cosine" to zero.
    `ema`         half-life of the weight average, in images.
    `clip`        largest norm of the gradient (0: not clipped).
    `precision`   "bf16": forward pass under autocast where the hardware has it, in fp32 elsewhere; "fp32".
    `threads`     CPU threads; part of the recipe, since another number rounds differently.
    `save_every`  images between two states from which a killed run goes on.
    """

    images: int
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 0
    decay: str = "cosine"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 10_000
    clip: float = 1.0
    precision: str = "bf16"
    threads: int = 1
    save_every: int = 20_000

    def __post_init__(self) -> None:
        for name in ("images", "batch", "threads", "save_every"):
            if getattr(self, name) < 1:
                raise ReproError(f"recipe: {name} must be at least 1: got {getattr(self, name)}")
        one_of("recipe: precision", self.precision, ("bf16", "fp32"))
        one_of("recipe: decay", self.decay, ("constant", "cosine"))
        if not self.lr > 0:
            raise ReproError(f"recipe: lr must be positive: got {self.lr}")

    def lr_at(self, images: int) -> float:
        """Learning rate of the step that begins after `images` images."""
        if images < self.warmup:
            return self.lr * (images + self.batch) / (self.warmup + self.batch)
        if self.decay == "constant":
            return self.lr
        done = (images - self.warmup) / max(1, self.images - self.warmup)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    def digest(self) -> str:
        """Short hash that a saved state carries, so that it is never continued under another recipe."""
        return digest(dataclasses.asdict(self))


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class Task(Protocol):
    """What is learned, from what: a training set and a loss per sample.

    A sample is known by its *place*: its number in the whole training, 0, 1, 2, … Noise, times and crops are keyed by
    the place, so they do not depend on the batch or on the process that happens to hold it.

    A task may have `settings`, a dict of plain values that say what the loss depends on beside the recipe (objective,
    schedule, crop, …): a saved run is never continued with other ones.
    """

    size: int  # training images

    def names(self, indices: Tensor) -> list[str]:
        """Human names of training images, for the message of a stopped run."""
        ...

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        """(B,) loss of each image in `indices` (B,); `noise(purpose)` gives the batch's random numbers."""
        ...
