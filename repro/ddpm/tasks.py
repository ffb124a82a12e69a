"""What the networks of notebook 01 learn: noise with a learned variance, and a noise-aware classification."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data import pack
from repro.ddpm import losses, process
from repro.ddpm.schedules import Schedule
from repro.engine.rng import KeyedNoise


def fashion_tensor(split: str) -> tuple[Tensor, Tensor, list[str]]:
    """Fashion-MNIST of one split: images (N, 1, 28, 28) float32 in [-1, 1], labels (N,) int64, ids."""
    data = pack.fashion(split)
    images = data.images.float().div_(127.5).sub_(1.0)[:, None]
    return images, data.labels, [f"fashion {i}" for i in data.ids.tolist()]


class DenoisingTask:
    """Learn noise and variance from clean images (Ho et al. 2020, algorithm 1; Nichol and Dhariwal 2021, eq. 16).

    `images` (N, C, H, W) in [-1, 1]. With `learned_variance` the network has 2 C output channels and gets the hybrid
    loss; else C and the simple one.
    """

    def __init__(self, images: Tensor, ids: list[str], schedule: Schedule, learned_variance: bool = True) -> None:
        self.images = images
        self.ids, self.schedule, self.size = ids, schedule, len(images)
        self.learned_variance = learned_variance
        self.settings = {"schedule": schedule.name, "learned variance": learned_variance}

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        drawn = noise("noise")
        x0 = self.images[indices].to(drawn.device)  # (B, C, H, W)
        eps = drawn.normal(x0.shape[1:])
        t = noise("time").integers(0, self.schedule.T)  # (B,) 0 .. T-1
        if self.learned_variance:
            return losses.hybrid_loss(process.model_fn(model), x0, t, eps, self.schedule).total
        return losses.simple_loss(process.model_fn(model), x0, t, eps, self.schedule)


class ClassifierTask:
    """Learn the ten classes from clean images (half of each batch) and from noisy ones (the other half).

    The clean half makes the features of FID and Inception Score, the noisy half makes the gradients of guidance.
    """

    def __init__(self, images: Tensor, labels: Tensor, ids: list[str], schedule: Schedule) -> None:
        self.images, self.labels, self.ids, self.schedule = images, labels, ids, schedule
        self.size = len(images)

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        drawn = noise("noise")
        x0, y = self.images[indices].to(drawn.device), self.labels[indices].to(drawn.device)
        shifts = noise("shift").integers(-2, 3, (2,))  # jitter of up to two pixels; clothes are not mirrored
        x0 = _shifted(x0, shifts)
        t = noise("time").integers(0, self.schedule.T)
        noisy = process.q_sample(x0, t, drawn.normal(x0.shape[1:]), self.schedule)
        clean = noise("clean").uniform() < 0.5  # (B,)
        x = torch.where(clean[:, None, None, None], x0, noisy)
        logits = model(x, torch.where(clean, 0, t + 1))
        return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=0.05)


def _shifted(x: Tensor, shifts: Tensor, pad: int = 2) -> Tensor:
    """Each image of (B, C, H, W) moved by its own (dy, dx) in [-pad, pad], edges filled with the background -1."""
    b, c, h, w = x.shape
    padded = F.pad(x, (pad, pad, pad, pad), value=-1.0)
    rows = (torch.arange(h, device=x.device) + pad)[None] + shifts[:, :1]  # (B, H)
    cols = (torch.arange(w, device=x.device) + pad)[None] + shifts[:, 1:]  # (B, W)
    batch = torch.arange(b, device=x.device)[:, None, None, None]
    channel = torch.arange(c, device=x.device)[None, :, None, None]
    return padded[batch, channel, rows[:, None, :, None], cols[:, None, None, :]]
