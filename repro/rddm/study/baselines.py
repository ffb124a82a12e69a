"""What no learning reaches: classical brightening for low light, filters and inpainting for drops.

Their few numbers are fitted on training photographs, degraded like the test set but with other random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from repro.rddm.study.experiments import degraded, photographs

# Window of the median, threshold on the grey difference, dilation: of 24 such triples (windows 9, 15, 25; thresholds
# 0.06 to 0.20; dilations 0, 2) the one that inpaints six training photographs with the smallest squared error.
DETECTION = (9, 0.10, 0)


@lru_cache(maxsize=1)
def training_pairs() -> tuple[tuple[Tensor, Tensor], ...]:
    """(darkened, clean) training photographs, each (3, H, W) in [0, 1]."""
    return tuple((degraded("lowlight", x, name), x) for name, x in zip(*photographs("train", 256), strict=True))


@lru_cache(maxsize=1)
def fitted_gain_gamma() -> tuple[float, float]:
    """(gain, gamma) of the smallest squared error of (gain x)^gamma on training images (every 1009th value)."""
    x, y = (torch.cat([pair[i].flatten()[::1009] for pair in training_pairs()]).double() for i in (0, 1))
    gains, gammas = torch.linspace(1.5, 8.0, 66).tolist(), torch.linspace(0.4, 1.6, 61).tolist()
    errors = {(g, p): ((g * x).clamp(0, 1) ** p - y).square().mean().item() for g in gains for p in gammas}
    return min(errors, key=errors.__getitem__)


@lru_cache(maxsize=1)
def training_mean() -> tuple[float, ...]:
    """Mean red, green and blue of the clean training images."""
    return tuple(torch.stack([clean.mean(dim=(1, 2)) for _, clean in training_pairs()]).mean(dim=0).tolist())


def gain_gamma(image: Tensor) -> Tensor:
    """One gain and one gamma for all images."""
    gain, gamma = fitted_gain_gamma()
    return (gain * image).clamp(0, 1) ** gamma


def mean_gain(image: Tensor) -> Tensor:
    """Each channel's mean brought to that of the training images by a gain: exposure and colour cast at once."""
    wanted = torch.tensor(training_mean())
    return (image * (wanted / image.mean(dim=(1, 2)).clamp(min=1e-3))[:, None, None]).clamp(0, 1)


def equalised(image: Tensor) -> Tensor:
    """Histogram equalisation of each channel, as the released LOL configuration applies it to its input."""
    from skimage.exposure import equalize_hist

    return torch.from_numpy(np.stack([equalize_hist(c, nbins=256) for c in image.numpy()])).float().clamp(0, 1)


def median(image: Tensor, size: int = 3) -> Tensor:
    """Median filter of each channel; 3 pixels are better than 5 on training images."""
    from scipy.ndimage import median_filter

    return torch.from_numpy(median_filter(image.numpy(), size=(1, size, size), mode="reflect"))


def inpainted(image: Tensor, detection: tuple[int, float, int] = DETECTION) -> Tensor:
    """Biharmonic inpainting (Damelin and Hoang 2018, scikit-image) of what thresholding takes for drops.

    A pixel is a drop's where grey differs from its median over a window wider than a drop, grown by some pixels.
    """
    from scipy.ndimage import binary_dilation, median_filter
    from skimage.restoration import inpaint_biharmonic

    (window, threshold, grow), grey = detection, image.numpy().mean(axis=0)
    mask = np.abs(grey - median_filter(grey, size=window, mode="reflect")) > threshold
    mask = binary_dilation(mask, iterations=grow) if grow else mask
    filled = inpaint_biharmonic(image.permute(1, 2, 0).numpy(), mask, split_into_regions=True, channel_axis=-1)
    return torch.from_numpy(filled).permute(2, 0, 1).float().clamp(0, 1)


BASELINES: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "lowlight": {"input": lambda x: x, "gain-gamma": gain_gamma, "mean-gain": mean_gain, "equalised": equalised},
    "raindrop": {"input": lambda x: x, "median": median, "inpainted": inpainted},
}
