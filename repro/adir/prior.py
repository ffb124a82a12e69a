"""The prior: a pixel-space DDPM with a learned variance, trained on crops of photographs at several scales.

Ho et al., "Denoising Diffusion Probabilistic Models", algorithm 1, with the hybrid loss of Nichol and Dhariwal,
"Improved Denoising Diffusion Probabilistic Models", eq. 16: the small sister of guided-diffusion's unconditional model.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from repro.data import crops, pack
from repro.data.images import resize, to_model
from repro.ddpm import losses, process
from repro.ddpm.schedules import by_name
from repro.engine.rng import KeyedNoise

NAME = "adir-prior-main-s0"  # of the network that ships
SCHEDULE = by_name("linear", T=1000, beta_1=1e-4, beta_T=0.02)  # of DDPM and of guided-diffusion
SIZE = 64  # side of the crops, in pixels
SCALES = (64, 80, 96, 128, 160, 192)  # a photograph's shorter side before it is cut
NETWORK = {  # of `repro.nn.unet.UNet`; it predicts noise and variance
    "in_channels": 3, "out_channels": 6, "base_channels": 32, "channel_mults": (1, 2, 2), "blocks": 1,
    "attention_levels": (2,), "heads": 4, "patch": 2, "input_skip": True, "sample_size": SIZE,
}  # fmt: skip


def sizes(image: Tensor) -> list[Tensor]:
    """The sizes of an image (3, H, W) in [0, 1] that crops are cut from; none is larger than the image."""
    side = min(image.shape[-2:])
    return [*(resize(image, s) for s in SCALES if s < side), *([image] if side <= max(SCALES) else [])]


def cut_at_a_size(pictures: Sequence[Sequence[Tensor]], side: int, noise: Callable[[str], KeyedNoise]) -> Tensor:
    """(B, 3, side, side) in [-1, 1]: a random crop of one of the sizes of each image, (3, H, W) in [0, 1]."""
    chosen = [some[int(u * len(some))] for some, u in zip(pictures, noise("scale").uniform().tolist(), strict=True)]
    return to_model(crops.cut(chosen, side, noise("crop").uniform((3,)).cpu()))


class PriorTask:
    """Noise and variance of crops of the training split (photographs and thumbnails), each at a size of its own."""

    def __init__(self) -> None:
        chosen = pack.photos("train", kind=None)
        self.ids, self.size = [p.id for p in chosen], len(chosen)
        self.pictures = [sizes(pack.load(p)) for p in chosen]
        self.settings = {"schedule": SCHEDULE.name, "crop": SIZE, "scales": list(SCALES), "learned variance": True}

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        drawn = noise("noise")
        x0 = cut_at_a_size([self.pictures[i] for i in indices.tolist()], SIZE, noise).to(drawn.device)  # (B, 3, H, W)
        t = noise("time").integers(0, SCHEDULE.T)  # (B,) 0 .. T-1
        return losses.hybrid_loss(process.model_fn(model), x0, t, drawn.normal(x0.shape[1:]), SCHEDULE).total
