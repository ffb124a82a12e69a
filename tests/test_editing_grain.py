"""Film grain against theory, against a plain loop, and its Gaussian field against both."""

import math

import pytest
import torch
from scipy import integrate, stats

from repro.editing.effects.grain import (
    HEADROOM,
    RADII,
    film_grain,
    gaussian_grain,
    grain_variance,
    sample_offsets,
)
from repro.errors import ReproError


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def flat(level: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, level)


def covariance(x: torch.Tensor, mean: float, lag: tuple[int, int]) -> tuple[float, float]:
    """Of the pixels of (P, H, W) at distance `lag`, about the known mean, with its standard error from 64 tiles."""
    y = x.double() - mean
    height, width = y.shape[-2] - lag[0], y.shape[-1] - lag[1]
    product = y[..., lag[0] :, lag[1] :] * y[..., :height, :width]
    tiles = torch.nn.functional.adaptive_avg_pool2d(product, 8).flatten()
    return product.mean().item(), tiles.std().item() / math.sqrt(len(tiles))


def coverage_covariance(u: float, radius: float, distance: torch.Tensor) -> torch.Tensor:
    """Of two points of film at `distance` (pixels), both in or out of grains: (1-u)^2 (exp(lambda gamma(h)) - 1)."""
    s = (torch.as_tensor(distance, dtype=torch.float64) / (2 * radius)).clamp(max=1)
    common = 2 / math.pi * (torch.arccos(s) - s * (1 - s * s).sqrt())  # gamma(h) / (pi r^2)
    return (1 - u) ** 2 * torch.expm1(-math.log1p(-u) * common)


def rendered_covariance(u: float, radius: float, sigma: float, samples: int, lag: tuple = (0.0, 0.0)) -> float:
    """Of two pixels of `film_grain`: the sample points are fixed, so the mean of the above over all pairs of them."""
    points = sample_offsets(samples) * sigma
    parts = (points + torch.tensor(lag, dtype=torch.float64)).split(512)
    return sum(coverage_covariance(u, radius, torch.cdist(p, points)).sum().item() for p in parts) / samples**2


@pytest.mark.parametrize(("radius", "sigma", "samples"), [(0.075, 0.2, 8), (0.5, 0.8, 8), (1.6, 1.2, 6)])
@pytest.mark.parametrize("level", [0.05, 0.93])
def test_mean_variance_and_covariance_are_those_of_theory(radius, sigma, samples, level):
    u = level / (1 + HEADROOM)
    found = film_grain(flat(level, 1, 128, 160), radius, seed=3, sigma_filter=sigma, n_samples=samples) / (1 + HEADROOM)
    variance = rendered_covariance(u, radius, sigma, samples)
    spread = math.pi * 4 * sigma**2 * grain_variance(u, radius, sigma).item() + variance  # int of the covariance
    assert abs(found.mean().item() - u) < 4 * math.sqrt(spread / found.numel())
    for lag in ((0, 0), (0, 1), (1, 0), (1, 2), (4, 0)):
        measured, error = covariance(found, u, lag)
        assert abs(measured - rendered_covariance(u, radius, sigma, samples, lag)) < 4.5 * error, lag


def test_variance_formula_matches_quadrature_and_the_known_table():
    for radius, sigma, u in ((0.1, 0.8, 0.5), (1.0, 0.8, 0.01), (0.5, 0.3, 0.9996)):

        def integrand(h, radius=radius, sigma=sigma, u=u):
            return coverage_covariance(u, radius, h).item() * h / (2 * sigma**2) * math.exp(-((h / 2 / sigma) ** 2))

        exact = integrate.quad(integrand, 0, 2 * radius, epsabs=1e-14, epsrel=1e-9)[0]
        assert grain_variance(u, radius, sigma).item() == pytest.approx(exact, rel=1e-5)
    assert [round(255 * grain_variance(0.5, r).sqrt().item(), 1) for r in RADII] == [0.7, 1.8, 3.6, 5.4, 7.2]
    # Ever more samples leave the grain alone.
    assert rendered_covariance(0.5, 0.5, 0.8, 3000) == pytest.approx(grain_variance(0.5, 0.5, 0.8).item(), rel=0.02)


def test_black_is_empty_white_is_full_and_a_picture_is_its_own():
    black, white = (film_grain(flat(x, 3, 32, 32), 0.05, seed=0, n_samples=20) for x in (0.0, 1.0))
    assert black.max() == 0 and white.max() == 1 and white.mean() > 0.999
    # The same lattice for good.
    assert film_grain(flat(0.5, 1, 16, 16), 0.5, seed=0, n_samples=4).sum().item() == pytest.approx(117.54256)
    assert film_grain(picture(3, 8, 8).half(), 0.1, seed=0, n_samples=5).dtype == torch.float16
    images, radii, ids = picture(3, 3, 17, 21), torch.tensor([0.05, 0.3, 1.2]), [10, "b", 12]
    for grain in (lambda *a, **k: film_grain(*a, n_samples=3, **k), gaussian_grain):
        together = grain(images, radii, seed=7, ids=ids)
        alone = [grain(images[i], radii[i].item(), seed=7, ids=[n]) for i, n in enumerate(ids)]
        assert torch.allclose(together, torch.stack(alone), atol=1e-6)
        for other in (grain(images, radii, seed=8, ids=ids), grain(images, radii, seed=7)):
            assert not torch.equal(other, together)


def test_gaussian_field_has_the_mean_variance_and_covariance():
    radius, levels = 0.05, torch.tensor([0.1, 0.5, 0.93])
    found = gaussian_grain(levels.view(-1, 1, 1, 1).expand(-1, 3, 160, 160).contiguous(), radius, seed=0)
    for field, level in zip(found, levels.tolist(), strict=True):
        variance = grain_variance(level / (1 + HEADROOM), radius).item() * (1 + HEADROOM) ** 2
        assert abs(field.mean().item() - level) < 4 * math.sqrt(variance * 8 / field.numel())
        for lag in ((0, 0), (0, 1), (1, 1), (2, 0), (5, 0)):
            measured, error = covariance(field, level, lag)
            assert abs(measured - variance * math.exp(-(lag[0] ** 2 + lag[1] ** 2) / 4 / 0.8**2)) < 4.5 * error
        standard = ((field - level) / math.sqrt(variance)).flatten()[::37].numpy()
        assert stats.kstest(standard, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("image", "radius"), [(picture(3, 4, 4) * 2 - 1, 0.1), (flat(math.nan, 3, 4, 4), 0.1), (picture(3, 4, 4), 0.0)]
)
def test_what_cannot_be_rendered_is_refused(image, radius):
    with pytest.raises(ReproError, match=r"film grain: got values from .*; accepted: values in \[0, 1\]"):
        film_grain(image, radius, seed=0)
