"""What no learning reaches: classical brightening for low light, filters and inpainting for drops.

Their few numbers are fitted on training pictures, degraded like the test pictures but with other random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Baseline = Callable[[Tensor], Tensor]  # (3, H, W) in [0, 1] -> the same

# Found by `fit_detection` on training pictures: window of the median, threshold on the grey difference, dilation.
DETECTION = (9, 0.10, 0)


@lru_cache(maxsize=2)
def training_pairs(degradation: str, side: int = 256, limit: int = 0) -> tuple[tuple[Tensor, Tensor], ...]:
    """(degraded, clean) training photographs, each (3, H, W) in [0, 1]."""
    from repro.rddm.study.experiments import photographs
    from repro.rddm.study.measure import degraded

    ids, pictures = photographs("train", side, limit)
    return tuple((degraded(degradation, x, name), x) for name, x in zip(ids, pictures, strict=True))


@lru_cache(maxsize=2)
def fitted_gain_gamma(limit: int = 0) -> tuple[float, float]:
    """(gain, gamma) of the smallest squared error of (gain x)^gamma on training pictures (every 1009th value)."""
    pairs = training_pairs("lowlight", limit=limit)
    x = torch.cat([low.flatten()[::1009] for low, _ in pairs]).double()
    y = torch.cat([clean.flatten()[::1009] for _, clean in pairs]).double()
    return _grid(x, y, torch.linspace(1.5, 8.0, 66).tolist(), torch.linspace(0.4, 1.6, 61).tolist())


def _grid(x: Tensor, y: Tensor, gains: list[float], gammas: list[float]) -> tuple[float, float]:
    errors = {(g, p): ((g * x).clamp(0, 1) ** p - y).square().mean().item() for g in gains for p in gammas}
    return min(errors, key=errors.__getitem__)


@lru_cache(maxsize=2)
def training_mean(limit: int = 0) -> tuple[float, ...]:
    """Mean red, green and blue of the clean training pictures."""
    means = torch.stack([clean.mean(dim=(1, 2)) for _, clean in training_pairs("lowlight", limit=limit)])
    return tuple(means.mean(dim=0).tolist())


def gain_gamma(image: Tensor, limit: int = 0) -> Tensor:
    """One gain and one gamma for all pictures."""
    gain, gamma = fitted_gain_gamma(limit)
    return (gain * image).clamp(0, 1) ** gamma


def mean_gain(image: Tensor, limit: int = 0) -> Tensor:
    """Each channel's mean brought to that of the training pictures by a gain: exposure and colour cast at once."""
    wanted = torch.tensor(training_mean(limit))
    return (image * (wanted / image.mean(dim=(1, 2)).clamp(min=1e-3))[:, None, None]).clamp(0, 1)


def equalised(image: Tensor) -> Tensor:
    """Histogram equalisation of each channel, as the released LOL configuration applies it to its input."""
    from skimage.exposure import equalize_hist

    return torch.from_numpy(np.stack([equalize_hist(c, nbins=256) for c in image.numpy()])).float().clamp(0, 1)


def median(image: Tensor, size: int = 3) -> Tensor:
    """Median filter of each channel; 3 pixels are better than 5 on training pictures."""
    from scipy.ndimage import median_filter

    return torch.from_numpy(median_filter(image.numpy(), size=(1, size, size), mode="reflect"))


def find_drops(image: Tensor, window: int, threshold: float, grow: int) -> np.ndarray:
    """(H, W) bool: where grey differs from its median over a window wider than a drop, grown by `grow` pixels."""
    from scipy.ndimage import binary_dilation, median_filter

    grey = image.numpy().mean(axis=0)
    found = np.abs(grey - median_filter(grey, size=window, mode="reflect")) > threshold
    return binary_dilation(found, iterations=grow) if grow else found


def inpainted(image: Tensor, detection: tuple[int, float, int] = DETECTION) -> Tensor:
    """Biharmonic inpainting (Damelin and Hoang 2018, scikit-image) of what thresholding takes for drops."""
    from skimage.restoration import inpaint_biharmonic

    mask = find_drops(image, *detection)
    filled = inpaint_biharmonic(image.permute(1, 2, 0).numpy(), mask, split_into_regions=True, channel_axis=-1)
    return torch.from_numpy(filled).permute(2, 0, 1).float().clamp(0, 1)


def fit_detection(limit: int = 6) -> tuple[tuple[int, float, int], dict[tuple[int, float, int], float]]:
    """The detection that inpaints `limit` training pictures with the smallest squared error, and all the errors."""
    pairs = training_pairs("raindrop", limit=limit)
    errors = {}
    for detection in [(w, t, g) for w in (9, 15, 25) for t in (0.06, 0.10, 0.15, 0.20) for g in (0, 2)]:
        errors[detection] = float(np.mean([(inpainted(x, detection) - y).square().mean() for x, y in pairs]))
    return min(errors, key=errors.__getitem__), errors


BASELINES: dict[str, dict[str, Baseline]] = {
    "lowlight": {
        "input": lambda x: x,
        "gain-gamma": gain_gamma,
        "mean-gain": mean_gain,
        "equalised": equalised,
    },
    "raindrop": {"input": lambda x: x, "median": median, "inpainted": inpainted},
}
