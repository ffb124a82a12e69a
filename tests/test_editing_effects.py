"""The effects: exact formulas, libraries' own numbers, film grain against theory, nothing borrowed from the batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from repro.data.grain import (
    HEADROOM,
    RADII,
    film_grain,
    gaussian_grain,
    grain_variance,
    sample_offsets,
)
from repro.editing.effects import (
    KNOTS,
    TargetRules,
    colour_transfer,
    compose,
    free_form_mask,
    gaussian_3x3,
    lalphabeta_to_rgb,
    line_kernels,
    match_statistics,
    motion_blur,
    rgb_to_lalphabeta,
    shake_trajectories,
    unsharp_mask,
)
from repro.editing.vector import TASKS, EditingVector
from repro.errors import ReproError

EVERYTHING = EditingVector(blur=0.4, grain=0.1, colour=True, inpaint=True, sharpen=(2.0, 0.02))


def picture(batch: int, height: int = 32, width: int = 36, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


# -- blur -------------------------------------------------------------------------------------------------------------


def straight(dx: float, dy: float) -> torch.Tensor:
    """(1, KNOTS, 2) the evenly travelled path from -(dx, dy)/2 to (dx, dy)/2."""
    return torch.linspace(-0.5, 0.5, KNOTS, dtype=torch.float64)[None, :, None] * torch.tensor([dx, dy])


def test_kernel_of_a_straight_line_is_the_integral_of_the_tent():
    length = 7.3
    kernel = line_kernels(straight(length, 0))[0]
    half = len(kernel) // 2
    x = torch.linspace(-length / 2, length / 2, 200_001, dtype=torch.float64)
    exact = torch.stack([(1 - (x - i).abs()).clamp(min=0).mean() for i in range(-half, half + 1)]).float()
    assert torch.allclose(kernel[half], exact, atol=1e-5)
    assert torch.equal(line_kernels(straight(0, length))[0], kernel.T)  # (x, y): x is the column
    diagonal = line_kernels(straight(6, 6))[0]
    assert diagonal[0].argmax() == 0 and torch.allclose(diagonal, diagonal.T, atol=1e-7)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), scale=st.floats(2, 60))
def test_kernels_keep_light_and_place_and_spread_as_the_straight_path(seed, scale):
    kernels = line_kernels(shake_trajectories(seed, [0, "a"]) * scale).double()
    at = torch.arange(kernels.shape[-1], dtype=torch.float64) - kernels.shape[-1] // 2
    assert (kernels >= 0).all() and torch.allclose(kernels.sum(dim=(1, 2)), torch.ones(2).double(), atol=1e-6)
    for axis in (1, 2):
        assert torch.allclose(kernels.sum(dim=axis) @ at, torch.zeros(2).double(), atol=1e-4)
    moments = ((at[:, None] ** 2 + at[None, :] ** 2) * kernels).sum(dim=(1, 2))
    assert (moments - scale**2 / 12).abs().max() < 0.01 * scale**2 + 0.5  # the tent's own spread


def test_equals_scipys_convolution_and_degree_zero_is_the_image():
    from scipy.ndimage import convolve

    image = picture(3)
    out = motion_blur(image, [0.4, 1.0, 0.0], 5, [1, 2, 3], longest=12)
    paths = shake_trajectories(5, [1, 2]) * torch.tensor([4.8, 12.0])[:, None, None]
    for i in range(2):
        kernel = line_kernels(paths[i : i + 1])[0].numpy()
        for c in range(3):
            assert np.abs(out[i, c].numpy() - convolve(image[i, c].numpy(), kernel, mode="mirror")).max() < 1e-5
    assert torch.equal(out[2], image[2]) and torch.equal(motion_blur(image, 0, 0, [0, 1, 2]), image)
    eighth = motion_blur(image, 0.7, 5, [1, 2, 3], longest=min(image.shape[2:]) / 8)
    assert torch.equal(motion_blur(image, 0.7, 5, [1, 2, 3]), eighth)


# -- colour -----------------------------------------------------------------------------------------------------------


def statistics(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values.mean(dim=(2, 3)), values.std(dim=(2, 3), correction=0)


def test_lalphabeta_by_hand_and_back():
    grey = torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64)
    rows = np.array([0.3811 + 0.5783 + 0.0402, 0.1967 + 0.7244 + 0.0782, 0.0241 + 0.1288 + 0.8444])
    log = np.log10(rows / 2 + 1 / 255)
    by_hand = [log.sum() / 3**0.5, (log[0] + log[1] - 2 * log[2]) / 6**0.5, (log[0] - log[1]) / 2**0.5]
    assert rgb_to_lalphabeta(grey).flatten().tolist() == pytest.approx(by_hand, abs=1e-12)
    image = picture(2)
    image[0, :, 0] = 0  # black has a logarithm too
    assert torch.allclose(lalphabeta_to_rgb(rgb_to_lalphabeta(image)), image, atol=1e-5)


def test_statistics_are_taken_over():
    image, reference = 0.3 + 0.3 * picture(2, seed=1), 0.4 + 0.15 * picture(2, 31, 20, seed=2)  # nothing clips
    out = colour_transfer(image, reference)
    for got, goal in zip(statistics(rgb_to_lalphabeta(out)), statistics(rgb_to_lalphabeta(reference)), strict=True):
        assert torch.allclose(got, goal, atol=1e-4)
    assert torch.allclose(colour_transfer(image[1:], reference[1:])[0], out[1], atol=1e-5)  # each its own reference
    assert torch.allclose(colour_transfer(image, image), image, atol=1e-4)
    inverse = match_statistics(image.double(), reference.double(), "inverse")
    assert torch.allclose(statistics(inverse)[0], statistics(reference.double())[0], atol=1e-9)
    wanted = statistics(image.double())[1] ** 2 / statistics(reference.double())[1]
    assert torch.allclose(statistics(inverse)[1], wanted, rtol=1e-9)


def test_flat_images_are_guarded_aloud():
    varied = picture(1, seed=9)
    flat = torch.full_like(varied, 0.4)
    with pytest.warns(UserWarning, match=r"flat image, deviations kept and only means moved: .* of image 0"):
        out = colour_transfer(flat, varied)
    assert out.isfinite().all() and out.std(dim=(2, 3)).max() < 1e-3
    with pytest.warns(UserWarning, match="flat reference"):
        out = colour_transfer(varied, flat, ratio="inverse")
    assert out.isfinite().all() and out.std() > 0.1


# -- sharpening -------------------------------------------------------------------------------------------------------


def test_sharpening_is_the_classic_filter():
    """Low contrast is kept and edges are sharpened; Algorithm 1 as printed does the opposite."""
    from scipy.ndimage import gaussian_filter

    image = picture(2)
    reference = gaussian_filter(image.numpy(), sigma=1, radius=1, axes=(2, 3), mode="mirror")
    assert np.abs(gaussian_3x3(image).numpy() - reference).max() < 1e-6
    image = torch.full((1, 3, 5, 5), 0.5)
    image[..., 2, 2] = 0.6
    out = unsharp_mask(image, 2.0, 0.02)[0, 0]
    assert out[2, 2].item() == pytest.approx(0.6 + 0.2 * (1 - 0.2041799), abs=1e-6)  # OpenCV's kernel, squared
    assert out[2, 1].item() == 0.5  # 0.012 below its blurred value: under the threshold, kept
    assert unsharp_mask(image, 2.0, 0.0)[0, 0, 2, 1].item() < 0.48


# -- masks ------------------------------------------------------------------------------------------------------------


def share(mask: torch.Tensor) -> torch.Tensor:
    return mask.mean((1, 2, 3))


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1500), ((256, 256), 60)])
def test_strokes_have_the_published_statistics(size, count):
    """1500 draws of the published code: mean .150, 5/50/95% .036/.143/.288."""
    strokes, loose = share(free_form_mask(0, range(count), size)), (1500 / count) ** 0.5
    assert strokes.mean().item() == pytest.approx(0.150, abs=0.008 * loose)
    quantiles = strokes.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    for found, wanted, within in zip(quantiles, (0.036, 0.143, 0.288), (0.006, 0.011, 0.015), strict=True):
        assert found == pytest.approx(wanted, abs=within * loose)
    assert strokes.min() > 0 and strokes.max() < 0.5


def test_the_slider_is_exact_and_grows_one_hole():
    """Every fraction to the pixel, each hole inside the next, and the published mask among them."""
    published = free_form_mask(3, range(6), (40, 56))
    assert torch.equal(free_form_mask(3, range(6), (40, 56), fraction=share(published)), published)
    before = torch.zeros_like(published)
    for fraction in (0.0, 0.01, 0.1, 0.3, 0.7, 1.0):
        mask = free_form_mask(3, range(6), (40, 56), fraction=fraction)
        assert (mask.sum((1, 2, 3)) == round(fraction * 40 * 56)).all() and (mask >= before).all()
        before = mask


# -- composites -------------------------------------------------------------------------------------------------------


def test_the_order_is_the_one_stated_and_a_sequence_of_single_tasks_makes_the_same():
    image, reference = picture(1), picture(1, seed=1)
    given = dict(seed=3, ids=["a"], reference=reference)
    target = compose(image, [EVERYTHING], **given)
    by_hand = gaussian_grain(motion_blur(image, 0.4, 3, ["a"]), 0.1, seed=3, ids=["a"])
    assert torch.allclose(target, unsharp_mask(colour_transfer(by_hand, reference), 2.0, 0.02), atol=1e-6)
    steps = TargetRules().sequence(EVERYTHING)
    assert [step.active for step in steps] == [("inpaint",), ("blur",), ("grain",), ("colour",), ("sharpen",)]
    for step in steps:
        image = compose(image, [step], **given)
    assert torch.equal(image, target) and TargetRules().sequence(EditingVector()) == ()


@settings(max_examples=12)
@given(asked=st.lists(st.sets(st.sampled_from(TASKS)), min_size=2, max_size=4), seed=st.integers(0, 2**32))
def test_a_picture_does_not_depend_on_its_batch(asked, seed):
    count = len(asked)
    vectors = [EVERYTHING.only(*tasks) for tasks in asked]
    image, reference, ids = picture(count), picture(count, seed=1), [f"id {i}" for i in range(count)]
    together = compose(image, vectors, seed=seed, ids=ids, reference=reference)
    for i in range(count):
        one = slice(i, i + 1)
        alone = compose(image[one], vectors[one], seed=seed, ids=ids[one], reference=reference[one])
        assert ((alone[0] - together[i]).abs() > 1e-4).float().mean() < 0.01  # a threshold may go the other way


def flat(level: float, *shape: int) -> torch.Tensor:
    return torch.full((1, *shape), level)


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
    found = film_grain(flat(level, 1, 128, 160), radius, seed=3, ids=[0], sigma_filter=sigma, n_samples=samples) / (
        1 + HEADROOM
    )
    variance = rendered_covariance(u, radius, sigma, samples)
    spread = math.pi * 4 * sigma**2 * grain_variance(u, radius, sigma).item() + variance  # int of the covariance
    assert abs(found.mean().item() - u) < 4 * math.sqrt(spread / found.numel())
    for lag in ((0, 0), (0, 1), (1, 0), (1, 2), (4, 0)):
        measured, error = covariance(found[0], u, lag)
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
    black, white = (film_grain(flat(x, 3, 32, 32), 0.05, seed=0, ids=[0], n_samples=20) for x in (0.0, 1.0))
    assert black.max() == 0 and white.max() == 1 and white.mean() > 0.999
    # The same lattice for good.
    assert film_grain(flat(0.5, 1, 16, 16), 0.5, seed=0, ids=[0], n_samples=4).sum().item() == pytest.approx(117.54256)
    assert film_grain(picture(1, 8, 8).half(), 0.1, seed=0, ids=[0], n_samples=5).dtype == torch.float16
    images, radii, ids = picture(3, 17, 21), torch.tensor([0.05, 0.3, 1.2]), [10, "b", 12]
    for grain in (lambda *a, **k: film_grain(*a, n_samples=3, **k), gaussian_grain):
        together = grain(images, radii, seed=7, ids=ids)
        alone = [grain(images[[i]], radii[i].item(), seed=7, ids=[n]) for i, n in enumerate(ids)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-6)
        for other in (grain(images, radii, seed=8, ids=ids), grain(images, radii, seed=7, ids=[0, 1, 2])):
            assert not torch.equal(other, together)


def test_gaussian_field_has_the_mean_variance_and_covariance():
    radius, levels = 0.05, torch.tensor([0.1, 0.5, 0.93])
    found = gaussian_grain(levels.view(-1, 1, 1, 1).expand(-1, 3, 160, 160), radius, seed=0, ids=[0, 1, 2])
    for field, level in zip(found, levels.tolist(), strict=True):
        variance = grain_variance(level / (1 + HEADROOM), radius).item() * (1 + HEADROOM) ** 2
        assert abs(field.mean().item() - level) < 4 * math.sqrt(variance * 8 / field.numel())
        for lag in ((0, 0), (0, 1), (1, 1), (2, 0), (5, 0)):
            measured, error = covariance(field, level, lag)
            assert abs(measured - variance * math.exp(-(lag[0] ** 2 + lag[1] ** 2) / 4 / 0.8**2)) < 4.5 * error
        standard = ((field - level) / math.sqrt(variance)).flatten()[::37].numpy()
        assert stats.kstest(standard, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("image", "radius"),
    [(flat(-0.5, 3, 4, 4), 0.1), (flat(math.nan, 3, 4, 4), 0.1), (flat(0.5, 3, 4, 4), 0.0)],
)
def test_what_cannot_be_rendered_is_refused(image, radius):
    with pytest.raises(ReproError, match=r"film grain: got values from .*; accepted: values in \[0, 1\]"):
        film_grain(image, radius, seed=0, ids=[0])
