"""Film grain against theory, against a plain loop, and against itself at another zoom, crop, batch and block size."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import integrate, stats

import repro.editing.effects.grain as grain
from repro.editing.effects.grain import HEADROOM, RADII, film_grain, sample_offsets
from repro.editing.effects.grain_law import (
    GAUSSIAN_LIMIT,
    coverage_covariance,
    gaussian_error,
    gaussian_grain,
    grain_variance,
    rendered_covariance,
)
from repro.editing.effects.lattice import axis_keys, cell_bits, further_bits, plane_keys
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


# The model against theory


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


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_half_a_million_points_are_covered_as_often_as_the_picture_says(level):
    covered = film_grain(flat(level, 1, 700, 750), 0.1, seed=11, sigma_filter=0) / (1 + HEADROOM)
    u = level / (1 + HEADROOM)
    assert abs(covered.double().mean().item() - u) < 3.5 * math.sqrt(u * (1 - u) / covered.numel())


def test_variance_ratio_is_tight_over_grey_levels():
    """All 21 levels together: the Monte-Carlo noise and the grain's own variance to 2%."""
    levels = torch.linspace(0.02, 0.98, 21)
    found = film_grain(levels.view(-1, 1, 1, 1).expand(-1, 1, 64, 64).contiguous(), 0.4, seed=1, n_samples=6)
    expected = [rendered_covariance(v / (1 + HEADROOM), 0.4, 0.8, 6) for v in levels.tolist()]
    ratio = (found - levels.view(-1, 1, 1, 1)).square().mean((1, 2, 3)) / torch.tensor(expected)
    assert abs(ratio.mean().item() - 1) < 0.02
    assert (ratio - 1).abs().max() < 0.16


def test_variance_formula_matches_quadrature_and_the_known_table():
    for radius, sigma, u in ((0.1, 0.8, 0.5), (1.0, 0.8, 0.01), (0.5, 0.3, 0.9996)):

        def integrand(h, radius=radius, sigma=sigma, u=u):
            return coverage_covariance(u, radius, h).item() * h / (2 * sigma**2) * math.exp(-((h / 2 / sigma) ** 2))

        exact = integrate.quad(integrand, 0, 2 * radius, epsabs=1e-14, epsrel=1e-9)[0]
        assert grain_variance(u, radius, sigma).item() == pytest.approx(exact, rel=1e-5)
    assert [round(255 * grain_variance(0.5, r).sqrt().item(), 1) for r in RADII] == [0.7, 1.8, 3.6, 5.4, 7.2]
    # Ever more samples leave the grain alone.
    assert rendered_covariance(0.5, 0.5, 0.8, 3000) == pytest.approx(grain_variance(0.5, 0.5, 0.8).item(), rel=0.02)


def test_under_the_microscope_two_points_have_the_covariance_of_discs():
    """Without a filter, at 10 output pixels a radius: the 0/1 film itself."""
    film = film_grain(flat(0.6, 1, 40, 40), 1.0, seed=5, sigma_filter=0, n_samples=1, zoom=10)
    assert set((film / (1 + HEADROOM)).mul(2).round().unique().tolist()) == {0.0, 2.0}
    u = 0.6 / (1 + HEADROOM)
    for lag in (0, 3, 8, 15, 19, 25):
        measured, error = covariance((film > 0).float(), u, (0, lag))
        assert abs(measured - coverage_covariance(u, 1.0, torch.tensor(lag / 10)).item()) < 4 * error


def test_log_normal_radii_keep_the_mean():
    for deviation in (0.1, 0.3):
        film = film_grain(flat(0.5, 1, 240, 240), 0.3, seed=0, sigma_r=deviation, sigma_filter=0)
        measured, error = covariance(film, 0.0, (0, 0))
        assert abs(measured - 0.5 * (1 + HEADROOM)) < 4 * error + 1e-6
        # Unequal radii are felt: a point's neighbour at twice the mean radius still shares large grains.
        far, error = covariance((film > 0).float(), 0.5, (0, 1))
        assert (far > 3 * error) == (deviation == 0.3)


def test_black_is_empty_white_is_full_and_the_range_holds():
    assert film_grain(flat(0.0, 3, 32, 32), 0.05, seed=0, n_samples=20).max() == 0
    white = film_grain(flat(1.0, 3, 32, 32), 0.05, seed=0, n_samples=30)
    assert white.max() == 1
    assert white.mean() > 0.999
    assert film_grain(picture(3, 8, 8).half(), 0.1, seed=0, n_samples=5).dtype == torch.float16


def test_the_picture_is_seen_through_the_filter_and_not_shifted():
    edge = flat(0.2, 1, 64, 96)
    edge[..., 48:] = 0.8
    found = film_grain(edge, 0.03, seed=2, sigma_filter=1.5, n_samples=64).mean((0, 1))
    x = torch.arange(96) + 0.5
    expected = 0.2 + 0.6 * torch.special.ndtr((x - 48) / 1.5)
    error = math.sqrt(0.25 / 64 / 64)
    assert (found - expected).abs().max() < 5 * error
    assert abs((found - expected)[44:52].mean()) < 4 * error / math.sqrt(8)


# The model against a plain loop


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


def test_the_samples_have_the_filters_profile():
    assert sample_offsets(1).tolist() == [[0, 0]]
    for n in (2, 7, 100, 800):
        points = sample_offsets(n)
        assert points.mean(0).abs().max() < 1e-12
        assert points.square().sum(1).mean().item() == pytest.approx(2)
    assert (points.T.cov(correction=0) - torch.eye(2)).abs().max() < 0.01
    assert stats.kstest(points[:, 0].numpy(), "norm").statistic < 0.01


# The same grain, however it is looked at


@pytest.mark.parametrize("radius", [0.1, 0.37, 1.4])
def test_zoom_window_and_crop_show_the_same_grain(radius):
    image = picture(2, 20, 24)
    points = film_grain(image, radius, seed=1, sigma_filter=0)
    near = film_grain(image, radius, seed=1, sigma_filter=0, zoom=3)
    assert near.shape == (2, 60, 72)
    assert torch.equal(near[:, 1::3, 1::3], points)  # every third point is a pixel's centre
    options = {"seed": 1, "n_samples": 12}
    whole = film_grain(image, radius, **options)
    assert torch.equal(film_grain(image, radius, window=(3, 5, 8, 9), **options), whole[:, 3:11, 5:14])
    part = film_grain(image[:, 4:, 6:], radius, origin=(4, 6), **options)
    rim = math.ceil(3 * 0.8 + radius)
    assert torch.equal(part[:, rim:, rim:], whole[:, 4 + rim :, 6 + rim :])
    assert not torch.equal(film_grain(image[:, 4:, 6:], radius, **options)[:, rim:, rim:], part[:, rim:, rim:])
    double = film_grain(image, radius, zoom=2.0, window=(2, 2, 4, 4), **options)
    assert torch.equal(double, film_grain(image, radius, zoom=2.0, **options)[:, 4:12, 4:12])


def test_a_finer_rendering_averages_to_the_coarse_one():
    """The filter of a zoomed pixel is narrower on the film: blurred to the same width, both are one picture."""
    image = flat(0.5, 1, 24, 24)
    coarse = film_grain(image, 0.8, seed=6, sigma_filter=1.0, n_samples=400)[0]
    fine = film_grain(image, 0.8, seed=6, sigma_filter=0, zoom=9)[0]
    d = torch.arange(-36, 37) / 9
    kernel = torch.exp(-d.square() / 2)
    kernel /= kernel.sum()
    blurred = torch.nn.functional.conv2d(fine[None, None], kernel.view(1, 1, -1, 1))
    blurred = torch.nn.functional.conv2d(blurred, kernel.view(1, 1, 1, -1))[0, 0, 4::9, 4::9]  # pixel centres 4 .. 19
    assert (blurred - coarse[4:20, 4:20]).std() < 0.12 * coarse.std()


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


def test_channels_and_pictures_have_independent_grain():
    film = film_grain(flat(0.5, 2, 3, 80, 80), 1.0, seed=0, sigma_filter=0).flatten(0, 1).flatten(1)
    correlation = torch.corrcoef(film) - torch.eye(6)
    assert correlation.abs().max() < 4.5 * math.sqrt(4 / 6400)  # about 4 neighbouring points share a grain


# The lattice of random numbers


def test_lattice_numbers_never_change_and_are_random():
    keys = plane_keys(0, [0, "x"], 1, "film grain")
    index = torch.arange(-150, 250).expand(2, -1)
    rows, columns = axis_keys(keys, index, "rows"), axis_keys(keys, index, "columns")
    bits = cell_bits(tuple(r[:, :, None] for r in rows), tuple(c[:, None, :] for c in columns))
    assert bits[:, 150, 150].tolist() == KNOWN_BITS
    uniform = [(b.double() + 2.0**31) * 2.0**-32 for b in (bits, further_bits(bits, 1), further_bits(bits, 2))]
    for u in uniform:
        assert stats.kstest(u.flatten()[::7].numpy(), "uniform").pvalue > 1e-3
        for bit in range(20, 32):  # the high bits, each of them fair
            share = ((u * 2**32).long() >> bit & 1).double().mean().item()
            assert abs(share - 0.5) < 4.5 * 0.5 / math.sqrt(u.numel())
        # Neither along the axes, nor between planes, nor in the four corners of rectangles (keys add per cell).
        c = (u - 0.5) * math.sqrt(12)
        for product in (
            c[:, 1:] * c[:, :-1],
            c[:, :, 1:] * c[:, :, :-1],
            c[0] * c[1],
            c[:, 1:, 1:] * c[:, 1:, :-1] * c[:, :-1, 1:] * c[:, :-1, :-1],
            c.mean(1).square() * 400 - 1,
        ):
            assert abs(product.mean().item()) < 4.5 * product.std().item() / math.sqrt(product.numel())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(torch.corrcoef(torch.stack([uniform[i].flatten(), uniform[j].flatten()]))[0, 1]) < 0.008


KNOWN_BITS = [-1069326398, -1410958951]


# The Gaussian field


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


def test_gaussian_field_follows_an_edge_as_theory_says():
    """The mean is the two sides' through the filter, the variance that of their strengths through its square."""
    edge = flat(0.02, 24, 1, 64, 40)  # of quiet against loud grain
    edge[..., 20:] = 0.6
    found = gaussian_grain(edge, 0.08, seed=1, sigma_filter=1.2).double()
    at = (torch.arange(40) + 0.5 - 20).double()
    low, high = (grain_variance(v / (1 + HEADROOM), 0.08, 1.2).item() for v in (0.02, 0.6))
    share, strength = torch.special.ndtr(at / 1.2), torch.special.ndtr(at / 1.2 * math.sqrt(2))
    rows = found.movedim(3, 0).flatten(1)  # (40, 24 * 64)
    assert (rows.mean(1) - (0.02 + 0.58 * share)).abs().max() < 5 * math.sqrt(high * 4 / rows.shape[1])
    ratio = rows.var(1) / (low + (high - low) * strength)
    assert (ratio - 1).abs().max() < 0.25
    assert abs(ratio.mean() - 1) < 0.04


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


def test_the_criterion_bounds_the_third_cumulant_at_every_grey_level():
    """kappa_3 / variance of the small-grain limit, by integrating the Boolean model's third cumulant numerically."""
    generator = torch.Generator().manual_seed(0)

    def disc(n: int, radius: float) -> torch.Tensor:
        angle, square = torch.rand(2, n, generator=generator, dtype=torch.float64)
        return (
            radius * square.sqrt()[:, None] * torch.stack([(2 * math.pi * angle).cos(), (2 * math.pi * angle).sin()], 1)
        )

    def shared(distance: torch.Tensor) -> torch.Tensor:
        s = (distance / 2).clamp(max=1)
        return 2 * (torch.arccos(s) - s * (1 - s * s).sqrt())

    a, b, inside = disc(20_000, 4), disc(20_000, 4), disc(300, 1)  # grain radius 1
    pairs = [shared(d) for d in (a.norm(dim=1), b.norm(dim=1), (a - b).norm(dim=1))]
    triple = ((torch.cdist(a, inside) < 1) & (torch.cdist(b, inside) < 1)).double().mean(1) * math.pi
    union = 3 * math.pi - sum(pairs) + triple
    worst = 0.0
    for u in (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        dense, q = -math.log1p(-u) / math.pi, 1 - u
        third = 2 * q**3 + torch.exp(-dense * union) - sum(q * torch.exp(-dense * (2 * math.pi - p)) for p in pairs)
        third = -third.mean().item() * (16 * math.pi) ** 2
        second = grain_variance(u, 1e-3, 1.0).item() * 4 * math.pi * 1e6  # int C(h) dh
        ratio = third / (12 * math.pi**2) / (second / (4 * math.pi))  # (radius / sigma)^2 times this
        worst = max(worst, abs(ratio))
        assert abs(ratio) < 1 / 3 + 0.05
    assert worst == pytest.approx(1 / 3, abs=0.05)  # reached in the shadows
    assert gaussian_error(0.8 * GAUSSIAN_LIMIT) < 0.51 / 255
    assert gaussian_error(1.0, 1.0) == pytest.approx((9 - 1) / 6 / 3)


def test_shadow_pixels_have_the_skewness_that_the_criterion_counts_on():
    """Shot noise rendered: large grains, few of them, the third moment over the second."""
    u, radius, sigma = 0.02, 0.6, 2.4
    found = film_grain(flat(u, 6, 1, 96, 96), radius, seed=0, sigma_filter=sigma, n_samples=48).double() - u
    by_picture = found.flatten(1)
    ratio = by_picture.pow(3).mean(1) / by_picture.square().mean(1)
    noise = u / 48**2 / (u / 48 + grain_variance(u, radius, sigma).item())  # of the samples themselves: about nothing
    expected = (radius / sigma) ** 2 / 3
    assert abs(ratio.mean().item() - expected) < 0.35 * expected + 10 * noise


def test_gaussian_field_crops_and_batches():
    images = picture(2, 3, 20, 22)
    radii = torch.tensor([0.01, 0.05])
    together = gaussian_grain(images, radii, seed=3, ids=["p", "q"])
    one = gaussian_grain(images[1], 0.05, seed=3, ids=["q"])
    assert torch.allclose(together[1], one, atol=1e-6)
    part = gaussian_grain(images[1][:, 3:, 2:], 0.05, seed=3, ids=["q"], origin=(3, 2))
    assert torch.allclose(part[:, 5:, 5:], one[:, 8:, 7:], atol=1e-6)


# What cannot work


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: film_grain(picture(4, 4), 0.1, seed=0), "float picture"),
        (lambda: film_grain(torch.zeros(3, 4, 4, dtype=torch.uint8), 0.1, seed=0), "uint8"),
        (lambda: film_grain(picture(3, 4, 4) * 2 - 1, 0.1, seed=0), r"\[0, 1\]"),
        (lambda: film_grain(flat(math.nan, 3, 4, 4), 0.1, seed=0), "nan"),
        (lambda: film_grain(picture(3, 4, 4), 0.0, seed=0), "radius must be"),
        (lambda: film_grain(picture(3, 4, 4), math.inf, seed=0), "radius must be"),
        (lambda: film_grain(picture(2, 3, 4, 4), torch.ones(3), seed=0), "one per picture"),
        (lambda: film_grain(picture(2, 3, 4, 4), 0.1, seed=0, ids=[1]), "1 ids for 2"),
        (lambda: film_grain(picture(3, 4, 4), 0.1, seed=0, n_samples=0), "n_samples"),
        (lambda: film_grain(picture(3, 4, 4), 0.1, seed=0, sigma_filter=-1), "sigma_filter"),
        (lambda: film_grain(picture(3, 4, 4), 0.1, seed=0, zoom=0), "zoom"),
        (lambda: film_grain(picture(3, 4, 4), 0.1, seed=0, window=(0, 0, 0, 4)), "no pixels"),
        (lambda: gaussian_grain(picture(3, 4, 4), 0.075, seed=0), "up to sigma_filter / 15 = 0.053"),
    ],
)
def test_refused(call, words):
    with pytest.raises(ReproError, match=words):
        call()
