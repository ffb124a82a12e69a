"""LPIPS v0.1 with AlexNet ("The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"), offline.

The network is written out here (five convolutions, five linear heads) and its weights ship with the repository, so
neither the `lpips` package nor a download is needed; a test proves it equal to the package. The weights are stored in
fp16, low and high bytes apart (the high ones can be compressed), and used in fp32: that moves the distance by less than
1e-3 (see the card in weights/lpips-alexnet).
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.paths import reading

FOLDER = Path(__file__).parent / "weights" / "lpips-alexnet"
SMALLEST = 31  # pixels a side: below it AlexNet's second pooling has nothing to pool
# Each convolution by its index in torchvision's `features`: channels in and out, kernel, stride, padding.
_CONVOLUTIONS = {
    "0": (3, 64, 11, 4, 2), "3": (64, 192, 5, 1, 2), "6": (192, 384, 3, 1, 1), "8": (384, 256, 3, 1, 1),
    "10": (256, 256, 3, 1, 1),
}  # fmt: skip


class LpipsAlex(nn.Module):
    """Distance of two image batches (B, 3, H, W) in [-1, 1] -> (B,), as `lpips.LPIPS(net="alex")` gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict({name: nn.Conv2d(*shape) for name, shape in _CONVOLUTIONS.items()})
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(shape[1])) for shape in _CONVOLUTIONS.values()])
        # The ImageNet mean and deviation, for inputs in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def activations(self, x: Tensor) -> list[Tensor]:
        """The five ReLU outputs, each scaled to unit length over channels."""
        x = (x - self.shift) / self.scale
        outputs = []
        for layer, conv in enumerate(self.features.values()):
            if layer in (1, 2):
                x = F.max_pool2d(x, kernel_size=3, stride=2)
            x = F.relu(conv(x))
            outputs.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return outputs

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        total = 0.0
        for head, a, b in zip(self.heads, self.activations(image), self.activations(reference), strict=True):
            total = total + ((a - b).square() * head.view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))
        return total


@lru_cache(maxsize=2)
def shared(device: str = "cpu") -> LpipsAlex:
    """The network with the shipped weights, fp32, frozen. Raises `ReproError` where their file is damaged."""
    model = LpipsAlex()
    with (
        reading(FOLDER / "model.npz") as file,
        np.load(file, allow_pickle=False) as stored,
    ):  # (2, ...): low, high bytes
        halves = {name: np.stack(tuple(stored[name]), axis=-1).view("<f2")[..., 0] for name in stored.files}
        model.load_state_dict({name: torch.from_numpy(value.astype(np.float32)) for name, value in halves.items()})
    return model.requires_grad_(False).eval().to(device)


@torch.no_grad()
def lpips(image: Tensor, reference: Tensor, batch: int = 16) -> Tensor:
    """LPIPS of (B, 3, H, W) images in [0, 1] (mapped to [-1, 1] here) -> (B,) float64. Lower is better."""
    model, batches = shared(str(image.device)), zip(image.split(batch), reference.split(batch), strict=True)
    return torch.cat([model(2 * a.float() - 1, 2 * b.float() - 1) for a, b in batches]).double()
