"""The prior: a pixel-space DDPM with a learned variance, trained on crops of photographs at several scales.

Ho et al., "Denoising Diffusion Probabilistic Models", algorithm 1, with the hybrid loss of Nichol and Dhariwal,
"Improved Denoising Diffusion Probabilistic Models", eq. 16: the small sister of guided-diffusion's unconditional model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from repro.data import crops, pack
from repro.data.images import resize, to_model
from repro.ddpm import losses, process
from repro.ddpm.schedules import Schedule, by_name
from repro.engine.rng import KeyedNoise
from repro.nn.unet import UNet

NAME = "adir-prior-main-s0"  # of the network that ships
SIZE = 64  # side of the crops, in pixels
SCALES = (64, 80, 96, 128, 160, 192)  # a photograph's shorter side before it is cut
NETWORK = {
    "in_channels": 3,
    "out_channels": 6,  # noise and variance
    "base_channels": 32,
    "channel_mults": (1, 2, 2),
    "blocks": 1,
    "attention_levels": (2,),
    "heads": 4,
    "patch": 2,
    "input_skip": True,
    "sample_size": SIZE,
}


def schedule() -> Schedule:
    """The linear schedule of DDPM and of guided-diffusion: T = 1000, beta from 1e-4 to 0.02."""
    return by_name("linear", T=1000, beta_1=1e-4, beta_T=0.02)


def build(network: Mapping[str, Any] = NETWORK) -> UNet:
    """The untrained network."""
    return UNet(**network)


def training_pictures() -> tuple[list[str], list[list[Tensor]]]:
    """Ids, and for each picture of the training split (photographs and thumbnails) its sizes, (3, H, W) in [0, 1].

    No picture is enlarged: a thumbnail of 128 pixels has the sizes up to 128.
    """
    chosen = pack.photos("train", kind=None)
    pictures = [pack.load(p) for p in chosen]
    sizes = [[resize(p, side) for side in SCALES if side <= min(p.shape[-2:])] for p in pictures]
    return [p.id for p in chosen], sizes


def cut_at_a_size(pictures: Sequence[Sequence[Tensor]], side: int, noise: Callable[[str], KeyedNoise]) -> Tensor:
    """(B, 3, side, side) in [-1, 1]: a random crop of one of the sizes of each picture, (3, H, W) in [0, 1]."""
    chosen = [sizes[int(u * len(sizes))] for sizes, u in zip(pictures, noise("scale").uniform().tolist(), strict=True)]
    return to_model(crops.cut(chosen, side, noise("crop").uniform((3,)).cpu()))


class PriorTask:
    """Noise and variance of crops of clean photographs, cut afresh from a size of each sample's own.

    Args:
        ids: names of the pictures.
        pictures: for each picture its sizes, float (3, H, W) in [0, 1], each at least `size` high and wide.
        size: side of the crops.
    """

    def __init__(self, ids: Sequence[str], pictures: Sequence[Sequence[Tensor]], size: int, schedule: Schedule) -> None:
        self.ids, self.pictures, self.crop, self.schedule = list(ids), pictures, size, schedule
        self.size = len(self.ids)
        self.settings = {"schedule": schedule.name, "crop": size, "scales": list(SCALES), "learned variance": True}

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def batch(self, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        """(B, 3, size, size) crops in [-1, 1]."""
        return cut_at_a_size([self.pictures[i] for i in indices.tolist()], self.crop, noise)

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        drawn = noise("noise")
        x0 = self.batch(indices, noise).to(drawn.device)  # (B, 3, H, W)
        t = noise("time").integers(0, self.schedule.T)  # (B,) 0 .. T-1
        return losses.hybrid_loss(process.model_fn(model), x0, t, drawn.normal(x0.shape[1:]), self.schedule).total


def task() -> PriorTask:
    """The training task of the prior."""
    ids, pictures = training_pictures()
    return PriorTask(ids, pictures, SIZE, schedule())
