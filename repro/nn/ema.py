"""Exponential moving average of a network's weights, its memory stated in images instead of steps."""

import copy

import torch
from torch import nn


class EMA:
    """Averaged copy of `model`; after n images its half-life is min(half_life, n * ramp) (Karras et al., EDM, 2022).

    The ramp keeps the first averages from remembering the untrained weights, which a fixed decay such as 0.9999 does.
    """

    def __init__(self, model: nn.Module, half_life: float, ramp: float = 0.05) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp

    @torch.no_grad()
    def update(self, model: nn.Module, images: int, batch: int) -> None:
        """Take in the weights of `model` after a step of `batch` images, `images` in all."""
        half_life = min(self.half_life, images * self.ramp)
        decay = 0.5 ** (batch / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
        for ours, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)
