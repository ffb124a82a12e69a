"""NIQE against the paper's formulas written out in numpy and scipy, and against scikit-video itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metrics_pictures import noisy, picture
from scipy.ndimage import gaussian_filter
from scipy.special import gamma
from torch.nn import functional as F

from repro.errors import ReproError
from repro.metrics.noreference import _PARAMETERS, niqe
from repro.metrics.protocols import score

# scikit-video 1.1.11's own skvideo.measure.niqe, run once by hand on the rounded Y of scikit-image's pictures. The
# wheel does not run on current numpy, so np.int was set to int and scipy.misc.imresize replaced by the Pillow call it
# was. First number: its code with float32 read as float64 throughout; second: as it is, in float32, where rounding
# noise in flat regions moves the result.
SKVIDEO = {
    ("astronaut", "clean"): (8.719317271, 8.664867401),
    ("astronaut", "blur"): (14.197710102, 14.193351746),
    ("chelsea", "clean"): (11.496311027, 11.496762276),
    ("chelsea", "blur"): (21.356048308, 21.358932495),
    ("coffee", "clean"): (8.508208662, 8.506728172),
    ("coffee", "blur"): (14.733379269, 14.743754387),
}


def _from_the_paper(rgb: np.ndarray) -> float:
    """(H, W, 3) in [0, 1]; loops and scipy instead of batches and torch."""
    grey = np.round(rgb @ [65.481, 128.553, 24.966] + 16)
    grey = grey[: grey.shape[0] // 96 * 96, : grey.shape[1] // 96 * 96]
    half = _halving(grey.shape[0]) @ grey @ _halving(grey.shape[1]).T
    columns = []
    for scale, size in ((grey, 96), (half, 48)):
        mu = gaussian_filter(scale, 7 / 6, radius=3, mode="constant")
        sigma = np.sqrt(np.abs(gaussian_filter(scale**2, 7 / 6, radius=3, mode="constant") - mu**2))
        mscn = (scale - mu) / (sigma + 1)
        mscn[np.abs(mscn) <= 1e-6] = 0
        rows = []
        for top in range(0, scale.shape[0], size):
            for left in range(0, scale.shape[1], size):
                p = mscn[top : top + size, left : left + size]
                alpha, _, low, high = _asymmetric(p)
                row = [alpha, (low + high) / 2]
                for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    alpha, eta, low, high = _asymmetric(p * np.roll(p, (dy, dx), (0, 1)))
                    row += [alpha, eta, low, low if dy and dx else high]
                rows.append(row)
        columns.append(np.array(rows))
    features = np.hstack(columns)  # (patches, 36), the four repeated scales included
    from safetensors.numpy import load_file

    population = load_file(_PARAMETERS)
    difference = features.mean(0) - population["pop_mu"]
    pooled = (population["pop_cov"] + np.cov(features.T)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(pooled, hermitian=True) @ difference))


def _halving(n: int) -> np.ndarray:
    """Keys' bicubic kernel (a = -0.5) stretched by two, renormalised at the borders: (n / 2, n)."""
    x = np.abs(np.arange(n)[None, :] + 0.5 - 2 * (np.arange(n // 2)[:, None] + 0.5)) / 2
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, inner, np.where(x < 2, outer, 0))
    return weights / weights.sum(1, keepdims=True)


def _asymmetric(x: np.ndarray) -> tuple[float, float, float, float]:
    grid = np.arange(0.2, 10, 0.001)
    rho = gamma(2 / grid) ** 2 / (gamma(1 / grid) * gamma(3 / grid))
    low, high = np.sqrt(np.mean(x[x < 0] ** 2)), np.sqrt(np.mean(x[x >= 0] ** 2))
    g = low / high
    target = np.mean(np.abs(x)) ** 2 / np.mean(x**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha = grid[np.argmin((rho - target) ** 2)]
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, (high - low) * scale * gamma(2 / alpha) / gamma(1 / alpha), low * scale, high * scale


def _blur(image: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(image, 5, 1, 2)


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_equals_the_papers_formulas(name):
    x = picture(name)[:, :, :300, :400]
    for image in (x, noisy(x, 0.1)):
        theirs = _from_the_paper(image[0].permute(1, 2, 0).double().numpy())
        assert score("niqe/y-skvideo", image).item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("key", SKVIDEO, ids="-".join)
def test_equals_scikit_video(key):
    name, kind = key
    image = picture(name).double()
    ours = niqe(image if kind == "clean" else _blur(image)).item()
    double, single = SKVIDEO[key]
    # The clean astronaut has saturated regions, where scikit-video counts rounding noise and this project counts zeros.
    assert ours == pytest.approx(double, rel=1e-2 if key == ("astronaut", "clean") else 1e-3)
    assert ours == pytest.approx(single, rel=1e-2)


def test_noise_and_blur_make_it_worse_and_batches_change_nothing():
    x = torch.cat([picture(name)[:, :, :288, :288] for name in ("astronaut", "chelsea", "coffee")])
    clean = niqe(x)
    assert clean.shape == (3,) and clean.dtype == torch.float64
    assert (niqe(noisy(x, 0.2)) > clean).all()
    assert (niqe(_blur(x)) > clean).all()
    torch.testing.assert_close(torch.cat([niqe(x[i : i + 1]) for i in range(3)]), clean, rtol=1e-9, atol=0)


def test_remainder_is_dropped_flat_pictures_are_finite_and_small_ones_refused():
    x = picture("coffee")[:, :, :250, :280]
    torch.testing.assert_close(niqe(x), niqe(x[:, :, :192, :192]))
    half_flat = x.clone()
    half_flat[:, :, :, :140] = 0.5
    assert torch.isfinite(niqe(half_flat)).all()
    with pytest.raises(ReproError, match="192 px a side"):
        score("niqe/y-skvideo", torch.rand(1, 3, 191, 300))
