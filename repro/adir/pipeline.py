"""From a measurement to an image: retrieve, adapt, guide. What `repro restore --method adir` runs."""

from __future__ import annotations

import copy
import resource
import time
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from repro.adir import lora, prior
from repro.adir.adapt import Adaptation
from repro.adir.adapt import adapt as adapt_to
from repro.adir.guidance import Guidance, reconstruct
from repro.adir.operators import TASKS, Separable, operator
from repro.adir.retrieval import Index, as_image, gallery
from repro.data.images import to_model, to_unit
from repro.ddpm.process import model_fn
from repro.ddpm.steps import sample
from repro.engine.checkpoint import load_checkpoint
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of

PRIOR = prior.NAME
Adapt = Literal["neighbours", "itself", "none"]
ADAPT = get_args(Adapt)
LARGEST = 1024 * 1024  # pixels of the output: the network runs on the whole image at every step
# Half a minute on one core; the paper has 400 iterations and an LPIPS term. Chosen on validation photographs at x4,
# where adaptation raised LPIPS least with these settings. Notebook 05 adapts further, which helps on textures.
QUICK = Adaptation(iterations=60, perceptual=0.0)

# Colorization has no noise, so s, which weighs the measurement as 1 / (2 sigma^2), is as large as its limit lets it be;
# and all pixels of grey are seen, so the limit is what s = 10 reaches with the paper's 1000 steps: 10 x 0.02.
GUIDANCE = dict.fromkeys(TASKS, Guidance()) | {"colour": Guidance(scale=1000.0, limit=0.2)}


class ADIR:
    """A prior with what it takes to reconstruct images from measurements.

    Args:
        network: predicts noise and variance, 6 channels from 3; a private copy is kept, since adaptation writes on it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @classmethod
    def shipped(cls) -> ADIR:
        """The prior that this repository trains and ships."""
        return cls(load_checkpoint(PRIOR))

    def __call__(
        self,
        measurement: Tensor,
        task: str,
        adapt: Adapt = "neighbours",
        *,
        steps: int = 100,
        guidance: Guidance | None = None,
        adaptation: Adaptation | None = None,
        neighbours: Index | None = None,
        k: int = 20,
        seed: int = 0,
        progress: bool = False,
        state: Path | None = None,
    ) -> Tensor:
        """The reconstruction (3, H, W) in [0, 1] of one image.

        Args:
            measurement: (3, h, w) in [0, 1]: the small image, the blurred one, or, for "colour", a grey one.
            task: one of `repro.adir.operators.TASKS`.
            adapt: to K `neighbours` (the pack's gallery by default), to the measurement itself, or not at all.
            state: a folder; an adaptation that was interrupted goes on by the same call.
        """
        op, settings = task_operator(task, measurement), adaptation or QUICK
        one_of("adapt", adapt, ADAPT)
        y = to_model(measurement[None])
        y = y.mean(dim=1, keepdim=True) if task == "colour" else y
        factors: dict[str, Tensor] = {}
        if adapt != "none":
            images = (as_image(y, op)[0],)
            if adapt == "neighbours":
                images = (neighbours or gallery()).nearest(images[0], k).images
                if len(images) < k:
                    print(f"{len(images)} neighbours are used, {k} were asked for: the set holds no more")
            begun = time.perf_counter()
            *_, last = adapt_to(self.network, images, settings, seed, state=state, progress=progress)
            factors = last.factors
            if progress:
                seconds, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                print(f"adapted to {len(images)} images: {seconds:.0f} s, at most {peak:.1f} GiB in all")
        with lora.adapted(self.network, factors, settings.alpha):
            noise = KeyedNoise(seed, [task], "adir/sample")
            run = reconstruct(model_fn(self.network), y, op, prior.SCHEDULE, noise, guidance or GUIDANCE[task], steps)
            x = sample(tqdm(run, total=steps, desc="sampling", leave=False, disable=not progress))
        return to_unit(x)[0]


def task_operator(task: str, measurement: Tensor) -> Separable:
    """The operator whose measurement has that size. Refuses what cannot be worked on."""
    one_of("task", task, TASKS)
    if measurement.ndim != 3 or measurement.shape[0] != 3:
        raise ReproError(f"a measurement is one image (3, h, w) in [0, 1]: got {tuple(measurement.shape)}")
    factor = int(task.removeprefix("sr")) if task.startswith("sr") else 1
    height, width = (n * factor for n in measurement.shape[1:])
    if height * width > LARGEST or min(height, width) < 32:
        found = f"{TASKS[task]} would make an image of {width} x {height} pixels"
        raise ReproError(f"{found}; accepted: at least 32 a side and at most {LARGEST:,} in all")
    return operator(task, height, width)


@torch.no_grad()
def degrade(image: Tensor, task: str, seed: int = 0) -> Tensor:
    """The measurement of a clean image (3, H, W) in [0, 1] as `ADIR` takes it: (3, h, w) in [0, 1], noise clipped."""
    op = operator(task, *image.shape[1:])
    y = op.measure(to_model(image[None]), KeyedNoise(seed, ["image"], "adir/measure"))
    return to_unit(y)[0].expand(3, -1, -1)
