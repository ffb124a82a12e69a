"""What the networks of notebook 01 learn: noise with a learned variance, and a noise-aware classification."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data import pack
from repro.ddpm import process
from repro.ddpm.schedules import Schedule
from repro.engine.rng import KeyedNoise


def fashion_tensor(split: str) -> tuple[Tensor, Tensor, list[str]]:
    """Fashion-MNIST of one split: images (N, 1, 28, 28) float32 in [-1, 1], labels (N,) int64, ids."""
    data = pack.fashion(split)
    images = data.images.float().div_(127.5).sub_(1.0)[:, None]
    return images, data.labels, [f"fashion {i}" for i in data.ids.tolist()]


class _Images:
    """Clean images (N, C, H, W) in [-1, 1] with their ids, as the engine's training reads them."""

    def __init__(self, images: Tensor, ids: list[str], schedule: Schedule) -> None:
        self.images, self.ids, self.schedule, self.size = images, ids, schedule, len(images)

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]


class DenoisingTask(_Images):
    """Learn noise from clean images (Ho et al. 2020, algorithm 1).

    With `learned_variance` the network has 2 C output channels and gets the hybrid loss (Nichol and Dhariwal 2021, eq.
    16); else C and the simple one. `mirror`: half of the images, drawn anew each time, are mirrored left to right.
    """

    def __init__(
        self, images: Tensor, ids: list[str], schedule: Schedule, learned_variance: bool = True, mirror: bool = False
    ) -> None:
        super().__init__(images, ids, schedule)
        self.learned_variance, self.mirror = learned_variance, mirror
        self.settings = {"schedule": schedule.name, "learned variance": learned_variance}
        self.settings |= {"mirrored": True} if mirror else {}

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        drawn = noise("noise")
        x0 = self.images[indices].to(drawn.device)  # (B, C, H, W)
        if self.mirror:
            x0 = torch.where((noise("mirror").uniform() < 0.5)[:, None, None, None], x0.flip(-1), x0)
        eps = drawn.normal(x0.shape[1:])
        t = noise("time").integers(0, self.schedule.T)  # (B,) 0 .. T-1
        loss = process.hybrid_loss if self.learned_variance else process.simple_loss
        return loss(process.model_fn(model), x0, t, eps, self.schedule)


class ClassifierTask(_Images):
    """Learn the ten classes from clean images (half of each batch) and from noisy ones (the other half).

    The clean half makes the features of FID and Inception Score, the noisy half makes the gradients of guidance.
    """

    def __init__(self, images: Tensor, labels: Tensor, ids: list[str], schedule: Schedule) -> None:
        super().__init__(images, ids, schedule)
        self.labels = labels

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        drawn = noise("noise")
        x0, y = self.images[indices].to(drawn.device), self.labels[indices].to(drawn.device)
        # jitter of up to two pixels over the background, -1; clothes are not mirrored
        padded, (h, w) = F.pad(x0, (2, 2, 2, 2), value=-1.0), x0.shape[2:]
        places = (noise("shift").integers(-2, 3, (2,)) + 2).tolist()
        x0 = torch.stack([x[:, i : i + h, j : j + w] for x, (i, j) in zip(padded, places, strict=True)])
        t = noise("time").integers(0, self.schedule.T)
        noisy = process.q_sample(x0, t, drawn.normal(x0.shape[1:]), self.schedule)
        clean = noise("clean").uniform() < 0.5  # (B,)
        x = torch.where(clean[:, None, None, None], x0, noisy)
        logits = model(x, torch.where(clean, 0, t + 1))
        return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=0.05)
