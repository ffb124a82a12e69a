"""What the networks of notebook 03 learn: from noisy, half degraded images to residual, noise, or both."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import wetglass
from repro.data.degradations import LOW_LIGHT_LAW, TASKS, Noises, low_light
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.process import Learning

# (B, 3, H, W) in [0, 1] -> the degraded images, of the same shape and range; the wide one is made like real ones
DEGRADATIONS: dict[str, Callable[[Tensor, Noises], Tensor]] = {
    "lowlight": low_light,
    "raindrop": lambda images, noise: wetglass.rain(images, noise("degrade/drops")),
    "raindrop-wide": lambda images, noise: TASKS["raindrops"].degrade(images, noise)[0],
}
# What they are drawn from: other laws make other data, and other records.
LAWS = {
    "lowlight": LOW_LIGHT_LAW,
    "raindrop": str((wetglass.LENS_RADIUS, wetglass.LENS_COVERAGE)),
    "raindrop-wide": TASKS["raindrops"].law,
}


class PairTask:
    """Learn from pairs of clean and degraded images; generation has zeros as the degraded ones.

    Args:
        ids: names of the training images.
        pair: (indices (B,), noises) -> x0 and y, (B, C, H, W) in [-1, 1], and where there is one a mask of that size.
        condition: whether the network is given y.
        settings: what `pair` depends on.
    """

    def __init__(
        self,
        ids: Sequence[str],
        pair: Callable[[Tensor, Noises], Sequence[Tensor | None]],
        learning: Learning,
        condition: bool = True,
        **settings: Any,
    ) -> None:
        self.ids, self.pair, self.learning, self.condition = list(ids), pair, learning, condition
        self.size, self.settings = len(self.ids), {**learning.settings, **settings}

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        x0, y, *mask = self.pair(indices, noise)
        return restoration_loss(model, x0, y, noise, self.learning, self.condition, *mask)


def restoration_loss(
    model: nn.Module,
    x0: Tensor,
    y: Tensor,
    noise: Noises,
    learning: Learning,
    condition: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """(B,) loss of pairs in [-1, 1] at a uniform timestep of each sample's own (report Eq. 14 and 15), or at the last.

    The network is given (x_t, t, cond), cond being y where `condition`, and a mask (B, C, H, W) behind it.
    """
    schedule, objective = learning.schedule, learning.objective
    given = [part for part in (y if condition else None, mask) if part is not None]
    cond = torch.cat(given, dim=1) if given else None
    if learning.start == "none":
        if objective != "res":
            raise ReproError(f"regression predicts the residual: got objective {objective!r}")
        t, eps, x_t, r = torch.full((len(x0),), schedule.T - 1, device=x0.device), y, y, y - x0
    else:
        times = noise("time")
        t = times.integers(0, schedule.T)  # (B,) 0 .. T-1
        if learning.last:
            t = torch.where(times.uniform((), step=1) < learning.last, schedule.T - 1, t)
        eps = noise("noise").normal(tuple(x0.shape[1:])).to(x0)
        r = (torch.zeros_like(y) if learning.start == "noise" else y) - x0
        x_t = process.q_sample(x0, r, t, eps, schedule)
    output = model(x_t, t) if cond is None else model(x_t, t, cond)
    return process.output_loss(output.sample.float(), r, eps, objective, learning.norm)
