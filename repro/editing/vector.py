"""The editing vector C = [beta, sigma, lambda, mu, e1, e2, e3, e4, e5]: a request in nine numbers.

"Multi-task image-to-image diffusion models with fine-grained control", Table 1 and section 4.1. The four scaling
factors are the degree of blur, the radius of the grain, the amount and the threshold of the sharpening; the five flags
say which tasks are on: blur, grain, colour, inpaint, sharpen. Whatever belongs to a task that is off is 0.

The colour reference and the inpainting mask are images and travel beside the vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from repro.errors import ReproError, within

TASKS = ("blur", "grain", "colour", "inpaint", "sharpen")  # e1 … e5


class Entry(NamedTuple):
    """One scaling factor: accepted are `low` to `high`, both included."""

    name: str
    task: str
    low: float
    high: float
    meaning: str


SCALARS = (
    Entry("beta", "blur", 0.0, 1.0, "degree of motion blur"),
    Entry("sigma", "grain", 0.0, 0.1, "radius of the film grain, in pixels"),
    Entry("lambda", "sharpen", 1.0, 3.0, "amount of sharpening"),
    Entry("mu", "sharpen", 0.0, 0.1, "threshold of sharpening, in units of [0, 1]"),
)
NAMES = tuple(entry.name for entry in SCALARS) + TASKS  # of the nine entries, in order
LENGTH = len(NAMES)
HIGHS = tuple(entry.high for entry in SCALARS) + (1.0,) * len(TASKS)  # what brings every entry into [0, 1]


@dataclass(frozen=True)
class EditingVector:
    """One request. A task is off at None (or False), and then its entries are 0; its flag follows from it.

    blur: beta in [0, 1]. grain: sigma in [0, 0.1]. colour, inpaint: switches. sharpen: (lambda in [1, 3], mu in
    [0, 0.1]). Raises `ReproError`, naming range and value, for anything else.
    """

    blur: float | None = None
    grain: float | None = None
    colour: bool = False
    inpaint: bool = False
    sharpen: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        pair = (None, None) if self.sharpen is None else self.sharpen
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ReproError(f"editing vector: sharpen is a pair (lambda, mu), e.g. (2.0, 0.02); got {pair!r}")
        for entry, value in zip(SCALARS, (self.blur, self.grain, *pair), strict=True):
            if value is not None:
                within(f"editing vector: {entry.name} ({entry.meaning})", value, entry.low, entry.high)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the tasks that are on, in the order of the flags."""
        return tuple(task for task in TASKS if getattr(self, task) is not None and getattr(self, task) is not False)

    def only(self, *tasks: str) -> Self:
        """The same request with every other task off."""
        return EditingVector(**{task: getattr(self, task) for task in self.active if task in tasks})

    def tensor(self) -> Tensor:
        """float32 (LENGTH,), as the paper writes C: raw magnitudes, zeros for what is off."""
        flags = [float(task in self.active) for task in TASKS]
        return torch.tensor([self.blur or 0.0, self.grain or 0.0, *(self.sharpen or (0.0, 0.0)), *flags])


def batch(vectors: Sequence[EditingVector], device: torch.device | str = "cpu") -> Tensor:
    """float32 (B, LENGTH) of B requests."""
    return torch.stack([vector.tensor() for vector in vectors]).to(device)
