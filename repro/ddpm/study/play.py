"""What notebook 01 does live: its sizes in each profile, small measurements around a trained network, its exercises.

`demo`      recipe of the small network trained in the notebook, with `demo_width` channels; `looks` images at which it
            is sampled.
`drawn`     samples of the shipped network, sorted by class.   `few` images of side-by-side comparisons.
`memory`    training images that the ideal denoiser of the live cells has memorised.
`probes`    images per point of the denoising curve.   `photos`, `side`: crops of the metric traps.

The live cells of the paper profile are the small one's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import center_crop, read_image
from repro.ddpm import process, samplers
from repro.ddpm.oracles import GaussianData
from repro.ddpm.process import Model, prediction_part, q_sample
from repro.ddpm.schedules import Schedule, linear
from repro.engine import exercises
from repro.engine.exercises import Exercise, Judge, like, near, same, tensors
from repro.engine.rng import KeyedNoise
from repro.engine.study import Lesson
from repro.engine.train import Recipe
from repro.nn.unet import UNet


def _demo(images: int) -> Recipe:
    return Recipe(images=images, batch=32, lr=4e-3, warmup=images // 20, ema=images / 12, precision="fp32", threads=1)


_SMALL: dict[str, Any] = {
    "demo": _demo(19_200), "demo_width": 16, "looks": (1_600, 4_800, 9_600, 19_200), "drawn": 120, "few": 8,
    "memory": 3_000, "probes": 32, "photos": 6, "side": 96,
}  # fmt: skip
_SMOKE: dict[str, Any] = {
    "demo": _demo(128), "demo_width": 8, "looks": (64, 128), "drawn": 12, "few": 2, "memory": 50, "probes": 2,
    "photos": 2, "side": 64,
}  # fmt: skip
_of = partial(Lesson, "ddpm", "01_ddpm_basics")
LESSONS = {
    "smoke": _of("smoke", 0.3, _SMOKE, check=False),
    "small": _of("small", 1.9, _SMALL),
    "paper": _of("paper", 1.9, _SMALL, check=False),
}


# -- measurements ------------------------------------------------------------------------------------------------------

# What papers leave out and code has to decide: arguments of `samplers.ddim`, and by how much the timestep that the
# network is given lies ahead. The names are those of records.
SWITCHES: dict[str, dict[str, Any]] = {
    "as elsewhere here": {},
    "x0 not clipped": {"clip": False},
    "x0 clipped, the network's noise kept": {"eps_from_clipped": False},
    "trailing timesteps": {"spacing": "trailing"},
    "linspace timesteps": {"spacing": "linspace"},
    "network told t + 1": {"ahead": 1},
    "ends at the schedule's first level": {"final": "first"},
}


def noise_errors(model: Model, images: Tensor, schedule: Schedule, seed: int = 0, t: int | None = None) -> Tensor:
    """(N,) mean squared error of the predicted noise for images (N, C, H, W) in [-1, 1], one draw each.

    `t`: one timestep for all; None draws each image's own uniformly from 0..T-1, which makes the mean the simple
    loss (DDPM Eq. 14). Time and noise of image i are keyed by (seed, i), the same for every model.
    """
    ids = range(len(images))
    eps = KeyedNoise(seed, ids, "probe/noise").normal(images.shape[1:])
    times = KeyedNoise(seed, ids, "probe/time").integers(0, schedule.T) if t is None else torch.full((len(ids),), t)
    parts = zip(*(part.split(64) for part in (images, times, eps)), strict=True)
    fn = lambda x, t: prediction_part(model(x, t), x)  # noqa: E731
    with torch.inference_mode():
        return torch.cat([process.simple_loss(fn, x0, when, z, schedule) for x0, when, z in parts])


def fitted_gaussian(images: Tensor, schedule: Schedule) -> GaussianData:
    """The ideal denoiser of the Gaussian with the images' mean and covariance: the best affine predictor there is."""
    flat = images.flatten(1).double()
    return GaussianData(flat.mean(dim=0), torch.cov(flat.T), schedule)


def variance_numbers(model: Model, images: Tensor, schedule: Schedule, times: Sequence[int], seed: int = 0) -> Tensor:
    """(len(times),) mean of v in log Sigma = v log beta + (1 - v) log beta_tilde (Improved DDPM Eq. 15)."""
    eps = KeyedNoise(seed, range(len(images)), "probe/variance").normal(images.shape[1:])
    found = []
    with torch.inference_mode():
        for t in times:
            when = torch.full((len(images),), t)
            _, number = process.split_variance(model(q_sample(images, when, eps, schedule), when), images.shape[1])
            found.append((number + 1).mean() / 2)
    return torch.stack(found)


def switched(model: Model, x_T: Tensor, schedule: Schedule, steps: int, switch: Mapping[str, Any]) -> Tensor:
    """DDIM samples (eta 0) under one entry of `SWITCHES`."""
    settings = dict(switch)
    off, times = settings.pop("ahead", 0), samplers.spaced(schedule.T, steps, settings.pop("spacing", "leading"))
    return samplers.sample(samplers.ddim(lambda x, t: model(x, t + off), x_T, schedule, times, **settings))


def between(a: Tensor, b: Tensor, shares: Sequence[float], spherical: bool = True) -> Tensor:
    """(len(shares), …) from a to b: along the sphere, whose points keep the length of noise, or along the line."""
    u = torch.tensor(shares, dtype=a.dtype).view(-1, *[1] * a.ndim)
    if not spherical:
        return (1 - u) * a + u * b
    angle = torch.acos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle)


def as_fashion(content: Any, name: str = "the image") -> Tensor:
    """(1, 28, 28) in [-1, 1] of any image: grey, its middle square, and inverted where its border is bright.

    Fashion-MNIST shows clothes in light grey on black. Raises `ReproError` for what is no image.
    """
    image = read_image(content, min_side=2, name=name).mean(dim=0)  # (H, W)
    small = F.interpolate(center_crop(image, min(image.shape))[None, None], size=(28, 28), mode="area")[0]
    border = torch.cat([small[0, 0], small[0, -1], small[0, :, 0], small[0, :, -1]]).mean()
    return (1 - small if border > 0.5 else small) * 2 - 1


def untrained(width: int, seed: int) -> UNet:
    """A small noise predictor for one channel, initialised from the seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's initialisers know no other generator
        return UNet(1, 1, base_channels=width, channel_mults=(1, 2), blocks=1)


# -- exercises ---------------------------------------------------------------------------------------------------------


def _estimate() -> Judge:
    right = lambda x_t, eps, a, s: process.to_x0(eps, x_t, a, s, "epsilon")  # noqa: E731
    return like(right, (*tensors(2), 0.6, 0.8), (*tensors(2), 0.8, 0.6))


def _ddim() -> Judge:
    (x_t, eps), ab = tensors(2), linear().alpha_bar
    wanted = next(samplers.ddim(lambda x, t: eps, x_t, linear(), [700, 300], clip=False)).x
    return lambda answer: same(answer(x_t, eps, float(ab[700]), float(ab[300])), wanted)


def _gaussian() -> Judge:
    right = lambda x_t, a, s, sigma: s / (a * a * sigma * sigma + s * s) * x_t  # noqa: E731
    return like(right, (*tensors(1), 0.6, 0.8, 0.5), (*tensors(1), 0.8, 0.6, 2.0))


_HALF = int((linear().alpha_bar < 0.5).nonzero()[0])
EXERCISES: dict[str, Exercise] = {
    "half": ("the first t with more noise than signal", near(_HALF), "compare alpha_bar with 1 - alpha_bar: no roots"),
    "estimate": ("x0 from x_t and the noise", _estimate, "solve x_t = a x0 + s eps for x0"),
    "ddim": ("one DDIM step", _ddim, "go to x0 first, then noise it again with the same eps, to the other level"),
    "gaussian": ("the best noise predictor for N(0, sigma²)", _gaussian, "eps and x_t are jointly Gaussian: Cov / Var"),
    "calls": ("network calls of a refined inversion", near(50 * (1 + 3) + 50), "count those of one step each way"),
}
check = partial(exercises.check, among=EXERCISES)
