"""What no learning reaches: classical brightening for low light, filters and inpainting for drops.

Their few numbers are fitted on the training photographs, degraded like the test set but with other random numbers.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Of gains 1.5, 1.6, …, 8 and gammas 0.4, 0.42, …, 1.6 the pair with the smallest squared error of (gain x)^gamma.
GAIN, GAMMA = 2.1, 0.56
MEAN = (0.49238363, 0.49733618, 0.42235443)  # red, green and blue of the clean training photographs
# Window of the median, threshold on the grey difference: of 24 such pairs with dilations (windows 9, 15, 25; thresholds
# 0.06 to 0.20; dilations 0, 2) the one that inpaints six training photographs with the smallest squared error.
WINDOW, THRESHOLD = 9, 0.10


def gain_gamma(image: Tensor) -> Tensor:
    """One gain and one gamma for all images."""
    return (GAIN * image).clamp(0, 1) ** GAMMA


def mean_gain(image: Tensor) -> Tensor:
    """Each channel's mean brought to that of the training images by a gain: exposure and colour cast at once."""
    return (image * (torch.tensor(MEAN) / image.mean(dim=(1, 2)).clamp(min=1e-3))[:, None, None]).clamp(0, 1)


def equalised(image: Tensor) -> Tensor:
    """Histogram equalisation of each channel, as the released LOL configuration applies it to its input."""
    from skimage.exposure import equalize_hist

    return torch.from_numpy(np.stack([equalize_hist(c, nbins=256) for c in image.numpy()])).float().clamp(0, 1)


def median(image: Tensor) -> Tensor:
    """Median filter of each channel; 3 pixels are better than 5 on training images."""
    from scipy.ndimage import median_filter

    return torch.from_numpy(median_filter(image.numpy(), size=(1, 3, 3), mode="reflect"))


def inpainted(image: Tensor) -> Tensor:
    """Biharmonic inpainting (Damelin and Hoang 2018, scikit-image) of what thresholding takes for drops: a pixel is a
    drop's where grey differs from its median over a window wider than a drop."""
    from scipy.ndimage import median_filter
    from skimage.restoration import inpaint_biharmonic

    grey = image.numpy().mean(axis=0)
    mask = np.abs(grey - median_filter(grey, size=WINDOW, mode="reflect")) > THRESHOLD
    filled = inpaint_biharmonic(image.permute(1, 2, 0).numpy(), mask, split_into_regions=True, channel_axis=-1)
    return torch.from_numpy(filled).permute(2, 0, 1).float().clamp(0, 1)


BASELINES: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "lowlight": {"input": lambda x: x, "gain-gamma": gain_gamma, "mean-gain": mean_gain, "equalised": equalised},
    "raindrop": {"input": lambda x: x, "median": median, "inpainted": inpainted},
}
