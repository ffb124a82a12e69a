"""What the networks of notebook 03 learn: from noisy, half degraded images to residual, noise, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro.data import crops
from repro.data.degradations import TASKS
from repro.data.images import to_model
from repro.data.lowlight import low_light
from repro.data.raindrops import rain
from repro.ddpm.process import model_fn
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.process import Objective
from repro.rddm.schedules import RDDMSchedule

Noises = Callable[[str], KeyedNoise]
# (B, 3, H, W) in [0, 1] -> the degraded images, of the same shape and range
Degradation = Callable[[Tensor, Noises], Tensor]
# "degraded": the diffusion runs from the degraded image (RDDM). "noise": from pure noise, the degraded image being a
# condition of the network (SR3). "none": no diffusion, one pass from the degraded image (regression).
Start = Literal["degraded", "noise", "none"]


def darken(images: Tensor, noise: Noises) -> Tensor:
    """Low light with settings and sensor noise of each sample's own."""
    return low_light(images, noise("degrade/settings"), noise("degrade/sensor"))


def wet(images: Tensor, noise: Noises) -> Tensor:
    """Raindrops of each sample's own."""
    return rain(images, noise("degrade/drops"))


@dataclass(frozen=True)
class Wide:
    """One of `repro.data.degradations`, made like real ones, without its strength."""

    name: str

    @property
    def law(self) -> str:
        return TASKS[self.name].law

    def __call__(self, images: Tensor, noise: Noises) -> Tensor:
        return TASKS[self.name].degrade(images, noise)[0]


DEGRADATIONS: dict[str, Degradation] = {
    "lowlight": darken,
    "raindrop": wet,
    "lowlight-wide": Wide("lowlight"),
    "raindrop-wide": Wide("raindrops"),
}


@dataclass(frozen=True)
class Learning:
    """What a variant learns, and from where its diffusion starts.

    `last` is the share of samples that are trained at the last timestep, where sampling begins; the other times are
    uniform. In one or two steps hardly any other is visited.
    """

    objective: Objective
    schedule: RDDMSchedule
    norm: Literal["l1", "l2"]
    start: Start = "degraded"
    last: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved training must not be continued without."""
        schedule = f"{self.schedule.name}, sum_scale {self.schedule.sum_scale:g}"
        found = {"objective": self.objective, "norm": self.norm, "start": self.start, "schedule": schedule}
        return {**found, "last": self.last} if self.last else found


class GenerationTask:
    """Clean images out of noise: restoration with I_in = 0.

    `images` (N, C, H, W) in [-1, 1].
    """

    def __init__(self, images: Tensor, ids: Sequence[str], learning: Learning) -> None:
        self.images, self.ids, self.learning, self.size = images, list(ids), learning, len(images)
        self.settings = learning.settings

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        I_0 = self.images[indices].to(noise("noise").device)  # (B, C, H, W)
        return diffusion_loss(model, I_0, torch.zeros_like(I_0), None, noise, self.learning)


class RestorationTask:
    """Crops of photographs, degraded afresh at every visit.

    Args:
        images: float (3, H, W) in [0, 1], each at least `crop` high and wide.
        ids: their names.
        degrade: what happens to a crop.
    """

    def __init__(
        self, images: Sequence[Tensor], ids: Sequence[str], degrade: Degradation, crop: int, learning: Learning
    ) -> None:
        self.images, self.ids, self.size = list(images), list(ids), len(images)
        self.degrade, self.crop, self.learning = degrade, crop, learning
        law = getattr(degrade, "law", getattr(degrade, "__name__", type(degrade).__name__))
        self.settings = {**learning.settings, "crop": crop, "degradation": law}

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor]:
        """(I_0, I_in) of a batch, each (B, 3, crop, crop) in [-1, 1]."""
        clean = crops.cut([self.images[i] for i in indices.tolist()], self.crop, noise("crop").uniform((3,)).cpu())
        clean = clean.to(noise("crop").device)
        return to_model(clean), to_model(self.degrade(clean, noise))

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        return restoration_loss(model, *self.pair(indices, noise), noise, self.learning)


def restoration_loss(model: nn.Module, I_0: Tensor, I_in: Tensor, noise: Noises, learning: Learning) -> Tensor:
    """(B,) loss of pairs in [-1, 1], whatever the diffusion starts from; I_in is the network's condition."""
    if learning.start == "none":
        if learning.objective != "res":
            raise ReproError(f"regression predicts the residual: got objective {learning.objective!r}")
        last = torch.full((len(I_0),), learning.schedule.T - 1, device=I_0.device)
        return process.output_loss(model(I_in, last, I_in).sample.float(), I_in - I_0, I_in, "res", learning.norm)
    origin = torch.zeros_like(I_in) if learning.start == "noise" else I_in
    return diffusion_loss(model, I_0, origin, I_in, noise, learning)


def diffusion_loss(
    model: nn.Module, I_0: Tensor, I_in: Tensor, cond: Tensor | None, noise: Noises, learning: Learning
) -> Tensor:
    """(B,) loss at a uniform timestep of each sample's own (report Eq. 14 and 15), or at the last one."""
    schedule, times = learning.schedule, noise("time")
    t = times.integers(0, schedule.T)  # (B,) 0 .. T-1
    if learning.last:
        t = torch.where(times.uniform((), step=1) < learning.last, schedule.T - 1, t)
    eps = noise("noise").normal(tuple(I_0.shape[1:])).to(I_0)
    predict = model_fn(model) if cond is None else model_fn(model, cond=cond)
    return process.loss(predict, I_0, I_in, t, eps, schedule, learning.objective, learning.norm)
