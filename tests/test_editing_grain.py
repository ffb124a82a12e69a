"""Film grain against theory, against a plain loop, and against itself at another zoom, crop, batch and block size."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import integrate, stats

import repro.editing.effects.grain as grain
from repro.editing.effects.grain import (
    HEADROOM,
    RADII,
    axis_keys,
    cell_bits,
    film_grain,
    further_bits,
    plane_keys,
    sample_offsets,
)
from repro.editing.effects.grain_law import gaussian_grain, grain_variance
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


@pytest.mark.parametrize(
    ("radius", "sigma", "samples"), [(0.025, 0.8, 8), (0.075, 0.2, 8), (0.1, 0.8, 24), (0.5, 0.8, 8), (1.6, 1.2, 6)]
)
@pytest.mark.parametrize("level", [0.05, 0.5, 0.93])
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


def test_black_is_empty_white_is_full_and_the_range_holds():
    assert film_grain(flat(0.0, 3, 32, 32), 0.05, seed=0, n_samples=20).max() == 0
    white = film_grain(flat(1.0, 3, 32, 32), 0.05, seed=0, n_samples=30)
    assert white.max() == 1
    assert white.mean() > 0.999
    assert film_grain(picture(3, 8, 8).half(), 0.1, seed=0, n_samples=5).dtype == torch.float16


def plain_film(u: torch.Tensor, radius: float, key: torch.Tensor, samples: int) -> torch.Tensor:
    """One channel by the definition: every grain of the cells around a point, counts by scipy's inverse Poisson."""
    cells, (height, width) = max(1, math.floor(1 / radius + 1e-6)), u.shape
    reach = math.ceil(radius * cells) + 1
    low = -4 * cells - reach  # the farthest cell any point looks at
    index = torch.arange(low, (max(u.shape) + 4) * cells + reach)[None]
    rows, columns = axis_keys(key, index, "rows"), axis_keys(key, index, "columns")
    bits = cell_bits(tuple(r[0][:, None] for r in rows), tuple(c[0][None, :] for c in columns))
    inside = index[0].div(cells, rounding_mode="floor")
    level = u[inside.clamp(0, height - 1)][:, inside.clamp(0, width - 1)].double() / (1 + HEADROOM)
    mean = -torch.log1p(-level) / (math.pi * (radius * cells) ** 2)
    count = stats.poisson.ppf((bits.double().numpy() + 2**31 + 0.5) / 2**32, mean.numpy())
    places = [further_bits(bits, 2 * number - 1).tolist() for number in range(1, int(count.max()) + 1)]
    hits = torch.zeros(height, width)
    for i, j, (dy, dx) in itertools.product(range(height), range(width), (sample_offsets(samples) * 0.8).tolist()):
        y, x = (i + 0.5 + dy) * cells, (j + 0.5 + dx) * cells
        around = [range(math.floor(c) - reach, math.floor(c) + reach + 1) for c in (y, x)]
        hits[i, j] += any(
            math.hypot(
                row + ((place[row - low][column - low] >> 16) + 2**15 + 0.5) / 2**16 - y,
                column + ((place[row - low][column - low] & 0xFFFF) + 0.5) / 2**16 - x,
            )
            < radius * cells
            for row, column in itertools.product(*around)
            for place in places[: int(count[row - low, column - low])]
        )
    return (hits / samples * (1 + HEADROOM)).clamp(max=1)


@pytest.mark.parametrize("radius", [0.075, 0.3, 0.7, 2.3])
def test_equals_the_plain_loop(radius):
    image = picture(2, 3, 5)
    image[0, 0] = 1.0  # many grains a cell
    found = film_grain(image, radius, seed=4, ids=["a"], n_samples=4)
    keys = plane_keys(4, ["a"], 2, "film grain")
    for channel in range(2):
        expected = plain_film(image[channel], radius, keys[channel : channel + 1], 4)
        assert torch.allclose(found[channel], expected, atol=1e-6)


@pytest.mark.parametrize("radius", [0.1, 0.37, 1.4])
def test_zoom_and_crop_show_the_same_grain(radius):
    image = picture(2, 20, 24)
    points = film_grain(image, radius, seed=1, sigma_filter=0)
    near = film_grain(image, radius, seed=1, sigma_filter=0, zoom=3)
    assert near.shape == (2, 60, 72)
    assert torch.equal(near[:, 1::3, 1::3], points)  # every third point is a pixel's centre
    options = {"seed": 1, "n_samples": 12}
    whole = film_grain(image, radius, **options)
    part = film_grain(image[:, 4:, 6:], radius, origin=(4, 6), **options)
    rim = math.ceil(3 * 0.8 + radius)
    assert torch.equal(part[:, rim:, rim:], whole[:, 4 + rim :, 6 + rim :])
    assert not torch.equal(film_grain(image[:, 4:, 6:], radius, **options)[:, rim:, rim:], part[:, rim:, rim:])


def test_a_picture_is_its_own_whatever_the_batch_order_blocks_and_threads(monkeypatch):
    images, radii = picture(3, 3, 17, 21), torch.tensor([0.05, 0.3, 1.2])
    together = film_grain(images, radii, seed=7, ids=[10, "b", 12], n_samples=3)
    alone = [film_grain(images[i], radii[i].item(), seed=7, ids=[n], n_samples=3) for i, n in enumerate([10, "b", 12])]
    assert torch.equal(together, torch.stack(alone))
    shuffled = film_grain(images[[2, 0, 1]], radii[[2, 0, 1]], seed=7, ids=[12, 10, "b"], n_samples=3)
    assert torch.equal(shuffled, together[[2, 0, 1]])
    for limit in (50, 800):
        monkeypatch.setitem(grain._BLOCK, "cpu", limit)
        assert torch.equal(film_grain(images, radii, seed=7, ids=[10, "b", 12], n_samples=3), together)
    for other in (film_grain(images, radii, seed=8, n_samples=3), film_grain(images, radii, seed=7, n_samples=3)):
        assert not torch.equal(other, together)


def test_lattice_numbers_never_change_and_are_random():
    keys = plane_keys(0, [0, "x"], 1, "film grain")
    index = torch.arange(-150, 250).expand(2, -1)
    rows, columns = axis_keys(keys, index, "rows"), axis_keys(keys, index, "columns")
    bits = cell_bits(tuple(r[:, :, None] for r in rows), tuple(c[:, None, :] for c in columns))
    assert bits[:, 150, 150].tolist() == [-1069326398, -1410958951]
    numbers = [(b.double() + 2.0**31) * 2.0**-32 for b in (bits, further_bits(bits, 1), further_bits(bits, 2))]
    for u in numbers:
        assert stats.kstest(u.flatten()[::7].numpy(), "uniform").pvalue > 1e-3
        c = (u - 0.5) * math.sqrt(12)  # independent along the axes, between planes, at the corners of rectangles
        corners = c[:, 1:, 1:] * c[:, 1:, :-1] * c[:, :-1, 1:] * c[:, :-1, :-1]
        for product in (c[:, 1:] * c[:, :-1], c[:, :, 1:] * c[:, :, :-1], c[0] * c[1], corners):
            assert abs(product.mean().item()) < 4.5 * product.std().item() / math.sqrt(product.numel())
    table = torch.corrcoef(torch.stack([u.flatten() for u in numbers])) - torch.eye(3)
    assert table.abs().max() < 0.008


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


def test_gaussian_field_agrees_with_the_boolean_model_at_the_limit():
    """Same picture, many samples: equal means everywhere and equal variances, Monte-Carlo noise allowed for."""
    image = torch.linspace(0.1, 0.9, 48).expand(4, 1, 48, 48).contiguous()
    boolean = film_grain(image, 0.08, seed=0, sigma_filter=1.2, n_samples=96).double()
    field = gaussian_grain(image, 0.08, seed=0, sigma_filter=1.2).double()
    assert abs((boolean - field).mean()) < 4.5 * 0.0011  # of 9216 pixels
    mean = field.mean((0, 1, 2))
    extra = [rendered_covariance(u, 0.08, 1.2, 96) - grain_variance(u, 0.08, 1.2).item() for u in mean.tolist()]
    ratio = (boolean - mean).square().mean() / ((field - mean).square().mean() + sum(extra) / len(extra))
    assert abs(ratio - 1) < 0.06


def test_gaussian_field_crops_and_batches():
    images = picture(2, 3, 20, 22)
    radii = torch.tensor([0.01, 0.05])
    together = gaussian_grain(images, radii, seed=3, ids=["p", "q"])
    one = gaussian_grain(images[1], 0.05, seed=3, ids=["q"])
    assert torch.allclose(together[1], one, atol=1e-6)
    part = gaussian_grain(images[1][:, 3:, 2:], 0.05, seed=3, ids=["q"], origin=(3, 2))
    assert torch.allclose(part[:, 5:, 5:], one[:, 8:, 7:], atol=1e-6)


@pytest.mark.parametrize(
    ("image", "radius"), [(picture(3, 4, 4) * 2 - 1, 0.1), (flat(math.nan, 3, 4, 4), 0.1), (picture(3, 4, 4), 0.0)]
)
def test_what_cannot_be_rendered_is_refused(image, radius):
    with pytest.raises(ReproError, match=r"film grain: got values from .*; accepted: values in \[0, 1\]"):
        film_grain(image, radius, seed=0)
