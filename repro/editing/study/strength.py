"""How strong an effect is in an image, measured without its request (claims E13, E14).

Every measure but that of colour compares an edited image with the one it was made from, per image, and grows with the
effect. Each is made to measure one effect through the others: blur below the frequencies of grain, grain in flat places
only.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.editing.effects.colour import rgb_to_lab
from repro.editing.effects.grain import SIGMA_FILTER

GRAIN_COARSE = 2.0  # pixels: a Gaussian that grain's filter passes and the image's shapes do not
COARSE = 1.5  # pixels: the Gaussian under which grain's energy is a hundredth of an edge's
FLAT_SHARE = 0.25  # of the pixels, those where the source varies least
LEAST = 0.01  # of every measure below: smaller differences are none (targets' sliders alone span 0.6 and more)


def blur(edited: Tensor, source: Tensor) -> Tensor:
    """(B,) share of the gradient energy per contrast that is gone, both at coarse scale; 0 as sharp as the source.

    Per contrast, the variance over the image, since a colour transfer stretches it and every gradient with it.
    """
    coarse = [_gaussian(image, COARSE) for image in (edited, source)]
    own, whole = (_gradient(x) / x.var(dim=(2, 3), unbiased=False).mean(dim=1).clamp(min=1e-12) for x in coarse)
    return 1 - own / whole.clamp(min=1e-12)


def grain(edited: Tensor, source: Tensor) -> Tensor:
    """(B,) standard deviation, in grey levels of 255, of grain's own band in the flattest quarter of the source.

    The band: what passes the filter that grain itself went through (the matched filter of noise of that spectrum), less
    what is coarser than GRAIN_COARSE: below the grain's full deviation, and noise of single pixels hardly counts. The
    median over the flat places keeps edges out.
    """
    detail = _gaussian(edited, SIGMA_FILTER) - _gaussian(edited, GRAIN_COARSE)
    smooth = F.pad(_gaussian(source, COARSE).mean(dim=1, keepdim=True), (1,) * 4, mode="reflect")
    across = (smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]).square()
    change = across + (smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]).square()  # (B, 1, H, W)
    flat = change <= change.flatten(1).quantile(FLAT_SHARE, dim=1)[:, None, None, None]
    return 255 * torch.where(flat, detail.abs(), torch.nan).flatten(1).nanmedian(dim=1).values / 0.6745


def sharpen(edited: Tensor, source: Tensor) -> Tensor:
    """(B,) natural logarithm of the gradient energy at full resolution over the source's."""
    return (_gradient(edited) / _gradient(source).clamp(min=1e-12)).clamp(min=1e-12).log()


def colour(edited: Tensor, target: Tensor) -> Tensor:
    """(B,) distance of mean colours in CIE Lab between an image and its target; 0 is the same cast."""
    return (mean_lab(edited) - mean_lab(target)).square().sum(dim=1).sqrt()


def mean_lab(image: Tensor) -> Tensor:
    """(B, 3) mean colour in CIE Lab."""
    return rgb_to_lab(image).mean(dim=(2, 3))


def rank_correlation(strengths: Tensor, least: float = LEAST) -> Tensor:
    """(N,) Spearman's correlation of strengths (P, N), P >= 2 places of a slider in rising order, with those places.

    Two strengths that differ by no more than `least` are tied, and share the rank between theirs: a slider that moves
    nothing scores 0, whatever rounding errors do.
    """
    x = strengths.double()
    apart = x[:, None] - x[None]  # (P, P, N)
    ranks = (apart > least).double().sum(dim=1) + 0.5 * (apart.abs() <= least).double().sum(dim=1)  # (P, N)
    ranks = ranks - ranks.mean(dim=0)
    places = torch.arange(len(x), dtype=torch.float64, device=x.device)[:, None]
    places = places - places.mean()
    scale = (ranks.square().sum(dim=0) * places.square().sum()).sqrt()
    return torch.where(scale > 0, (ranks * places).sum(dim=0) / scale.clamp(min=1e-12), 0.0)


MEASURES = {"blur": blur, "grain": grain, "sharpen": sharpen}  # of an edit, beside its source


def _gradient(image: Tensor) -> Tensor:
    """(B,) mean squared difference of neighbours, both directions, all channels."""
    down = (image[..., 1:, :] - image[..., :-1, :]).square().mean(dim=(1, 2, 3))
    return down + (image[..., :, 1:] - image[..., :, :-1]).square().mean(dim=(1, 2, 3))


def _gaussian(image: Tensor, sigma: float) -> Tensor:
    rim = round(3 * sigma)
    d = torch.arange(-rim, rim + 1, device=image.device, dtype=image.dtype)
    line = torch.exp(-(d**2) / (2 * sigma**2))
    line = (line / line.sum()).expand(3, 1, -1)
    padded = F.pad(image, (rim,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, line[:, :, :, None], groups=3), line[:, :, None, :], groups=3)
