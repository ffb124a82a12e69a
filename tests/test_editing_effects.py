"""The effects: exact formulas, libraries' own numbers, nothing borrowed from the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.editing.effects.blur import KNOTS, line_kernels, motion_blur, shake_trajectories
from repro.editing.effects.colour import (
    colour_transfer,
    lalphabeta_to_rgb,
    match_statistics,
    rgb_to_lab,
    rgb_to_lalphabeta,
)
from repro.editing.effects.compose import GREY, ORDER, Recipe, compose
from repro.editing.effects.grain import film_grain
from repro.editing.effects.masks import box_mask, cut_hole, free_form_mask
from repro.editing.effects.sharpen import gaussian_3x3, unsharp_mask
from repro.editing.vector import TASKS, EditingVector
from repro.errors import ReproError

SEEDS = st.integers(0, 2**32)
QUICK = Recipe(samples=8)
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
    assert kernel.sum(dim=1)[half].item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(line_kernels(straight(0, length))[0], kernel.T)  # (x, y): x is the column
    diagonal = line_kernels(straight(6, 6))[0]
    assert diagonal[0].argmax() == 0 and torch.allclose(diagonal, diagonal.T, atol=1e-7)


@settings(max_examples=25)
@given(seed=SEEDS, scale=st.floats(2, 60))
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


# -- colour -----------------------------------------------------------------------------------------------------------


def statistics(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values.mean(dim=(2, 3)), values.std(dim=(2, 3), correction=0)


def test_lab_equals_skimage():
    from skimage.color import rgb2lab

    levels = torch.linspace(0, 1, 18)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).view(1, 3, 18, 18 * 18)
    reference = rgb2lab(cube[0].permute(1, 2, 0).double().numpy())
    assert np.abs(rgb_to_lab(cube.double())[0].permute(1, 2, 0).numpy() - reference).max() < 1e-3


def test_lalphabeta_by_hand_and_back():
    grey = torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64)
    rows = np.array([0.3811 + 0.5783 + 0.0402, 0.1967 + 0.7244 + 0.0782, 0.0241 + 0.1288 + 0.8444])
    log = np.log10(rows / 2 + 1 / 255)
    by_hand = [log.sum() / 3**0.5, (log[0] + log[1] - 2 * log[2]) / 6**0.5, (log[0] - log[1]) / 2**0.5]
    assert rgb_to_lalphabeta(grey).flatten().tolist() == pytest.approx(by_hand, abs=1e-12)
    image = picture(2)
    image[0, :, 0] = 0  # black has a logarithm too
    assert torch.allclose(lalphabeta_to_rgb(rgb_to_lalphabeta(image)), image, atol=1e-5)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    means=st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    stds=st.lists(st.floats(0.05, 4), min_size=6, max_size=6),
)
def test_statistics_are_taken_over(seed, means, stds):
    generator = torch.Generator().manual_seed(seed)
    scale, shift = (torch.tensor(v, dtype=torch.float64).view(2, 3, 1, 1) for v in (stds, means))
    values = torch.randn(2, 3, 9, 7, generator=generator, dtype=torch.float64) + 1
    reference = torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64) * (scale + 0.2) + shift
    out = match_statistics(values, reference)
    for got, wanted in zip(statistics(out), statistics(reference), strict=True):
        assert torch.allclose(got, wanted, atol=1e-9)
    inverse = match_statistics(values, reference, "inverse")
    assert torch.allclose(statistics(inverse)[0], statistics(reference)[0], atol=1e-9)
    wanted = statistics(values)[1] ** 2 / statistics(reference)[1]
    assert torch.allclose(statistics(inverse)[1], wanted, rtol=1e-9)


def test_a_transfer_takes_the_references_statistics_and_its_own_changes_nothing():
    image, reference = 0.3 + 0.3 * picture(2, seed=1), 0.4 + 0.15 * picture(2, 31, 20, seed=2)  # nothing clips
    out = colour_transfer(image, reference)
    for got, goal in zip(statistics(rgb_to_lalphabeta(out)), statistics(rgb_to_lalphabeta(reference)), strict=True):
        assert torch.allclose(got, goal, atol=1e-4)
    assert torch.allclose(colour_transfer(image[1:], reference[1:])[0], out[1], atol=1e-5)  # each its own reference
    assert torch.allclose(colour_transfer(image, image), image, atol=1e-4)
    assert colour_transfer(image, reference, ratio="inverse").std() > image.std() > out.std()


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


def test_gaussian_equals_scipy():
    from scipy.ndimage import gaussian_filter

    image = picture(2)
    reference = gaussian_filter(image.numpy(), sigma=1, radius=1, axes=(2, 3), mode="mirror")
    assert np.abs(gaussian_3x3(image).numpy() - reference).max() < 1e-6
    kernel = gaussian_3x3(torch.nn.functional.pad(torch.ones(1, 1, 1, 1), (2, 2, 2, 2)))[0, 0, 1:4, 1:4]
    assert kernel[1, 1].item() == pytest.approx(0.2041799, abs=1e-6)  # OpenCV's getGaussianKernel(3, 1), squared
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)


def test_by_hand():
    image = torch.full((1, 1, 5, 5), 0.5)
    image[..., 2, 2] = 0.6
    out = unsharp_mask(image.expand(1, 3, 5, 5), 2.0, 0.02)[0, 0]
    detail = 0.1 * (1 - 0.2041799)
    assert out[2, 2].item() == pytest.approx(0.6 + 2 * detail, abs=1e-6)
    assert out[2, 1].item() == 0.5  # 0.012 below its blurred value: under the threshold, kept
    assert unsharp_mask(image.expand(1, 3, 5, 5), 2.0, 0.0)[0, 0, 2, 1].item() < 0.48


def test_the_mask_is_not_the_printed_one():
    """Low contrast is kept and edges are sharpened; Algorithm 1 as printed does the opposite."""
    image = 0.5 + 0.002 * (picture(1) - 0.5)  # noise far below the threshold
    image[..., 12:] += 0.3  # and an edge far above it
    out = unsharp_mask(image, 2.0, 0.05)
    changed = (out != image)[0].any(dim=0)
    assert changed[:, 11:13].all()
    assert not changed[:, :11].any() and not changed[:, 13:].any()


# -- masks ------------------------------------------------------------------------------------------------------------


def share(mask: torch.Tensor) -> torch.Tensor:
    return mask.mean((1, 2, 3))


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1500), ((256, 256), 60)])
def test_strokes_and_boxes_have_the_published_statistics(size, count):
    """1500 draws of the published code: strokes mean .150, 5/50/95% .036/.143/.288; boxes mean .192, .141 to .250."""
    strokes = share(free_form_mask(0, range(count), size))
    loose = (1500 / count) ** 0.5
    assert strokes.mean().item() == pytest.approx(0.150, abs=0.008 * loose)
    quantiles = strokes.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    for found, wanted, within in zip(quantiles, (0.036, 0.143, 0.288), (0.006, 0.011, 0.015), strict=True):
        assert found == pytest.approx(wanted, abs=within * loose)
    assert strokes.min() > 0
    assert strokes.max() < 0.5
    boxes = share(box_mask(0, range(count), size))
    assert boxes.mean().item() == pytest.approx(0.192, abs=0.003 * loose)
    assert boxes.min() >= 0.140
    assert boxes.max() <= 0.2501
    assert boxes.max() - boxes.min() > 0.1


@settings(max_examples=8)
@given(
    ids=st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=4)), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_a_mask_depends_on_seed_id_and_size_alone(ids, seed, data):
    order = data.draw(st.permutations(range(len(ids))))
    size = data.draw(st.sampled_from([(16, 16), (24, 40)]))
    options = data.draw(st.sampled_from([{}, {"fraction": 0.2}]))
    together = free_form_mask(seed, ids, size, **options)
    assert torch.equal(free_form_mask(seed, [ids[i] for i in order], size, **options), together[order])
    assert torch.equal(torch.cat([free_form_mask(seed, [i], size, **options) for i in ids]), together)


def test_the_slider_is_exact_and_grows_one_hole():
    """Every fraction to the pixel, each hole inside the next, and the published mask among them."""
    ids = range(6)
    published = free_form_mask(3, ids, (40, 56))
    same = free_form_mask(3, ids, (40, 56), fraction=share(published))
    assert torch.equal(same, published)
    before = torch.zeros_like(published)
    for fraction in (0.0, 0.01, 0.1, 0.3, 0.7, 1.0):
        mask = free_form_mask(3, ids, (40, 56), fraction=fraction)
        assert (mask.sum((1, 2, 3)) == round(fraction * 40 * 56)).all()
        assert (mask >= before).all()
        before = mask


def test_cut_hole_fills_the_hole_and_keeps_the_rest():
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = free_form_mask(0, [1, 2], (16, 16))
    cut = cut_hole(image, mask, fill=-1.0)
    hole = mask.bool().expand_as(image)
    assert (cut[hole] == -1).all()
    assert torch.equal(cut[~hole], image[~hole])
    assert torch.equal(cut_hole(image[0], mask[0], fill=-1.0), cut[0])
    assert torch.equal(cut_hole(image, mask[:1])[0], cut_hole(image[:1], mask[:1])[0])


# -- composites -------------------------------------------------------------------------------------------------------


def test_the_order_is_the_one_stated():
    image, reference = picture(1), picture(1, seed=1)
    target = compose(image, EVERYTHING, seed=3, ids=["a"], reference=reference, recipe=QUICK).target
    by_hand = motion_blur(image, 0.4, 3, ["a"])
    by_hand = film_grain(by_hand, 0.1, seed=3, ids=["a"], n_samples=8)
    by_hand = colour_transfer(by_hand, reference)
    by_hand = unsharp_mask(by_hand, 2.0, 0.02)
    assert torch.allclose(target, by_hand, atol=1e-6)
    assert ORDER == ("blur", "grain", "colour", "sharpen")


def test_inpainting_is_in_the_source_alone():
    image = picture(2)
    hole = torch.zeros(1, 1, *image.shape[2:])
    hole[..., 4:10, 6:20] = 1
    whole = EditingVector(sharpen=(2.0, 0.0))
    made = compose(image, [EditingVector(inpaint=True, sharpen=(2.0, 0.0)), whole], seed=0, ids=[0, 1], hole=hole)
    assert torch.equal(made.target, compose(image, whole, seed=0, ids=[0, 1]).target)
    assert torch.equal(made.source[0], image[0] * (1 - hole[0])) and torch.equal(made.source[1], image[1])
    assert torch.equal(made.hole, torch.cat([hole, torch.zeros_like(hole)]))
    grey = compose(image, EditingVector.of("inpaint"), seed=0, ids=[0, 1], hole=hole, recipe=Recipe(fill=GREY))
    # The product with the mask in [-1, 1] is this fill in [0, 1].
    assert torch.allclose(2 * grey.source - 1, (2 * image - 1) * (1 - hole), atol=1e-6)
    assert torch.equal(grey.target, image)


@settings(max_examples=12)
@given(
    asked=st.lists(st.sets(st.sampled_from(TASKS)), min_size=2, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_a_picture_does_not_depend_on_its_batch(asked, seed):
    count = len(asked)
    vectors = [EditingVector.of(*tasks) for tasks in asked]
    image, reference, ids = picture(count), picture(count, seed=1), [f"id {i}" for i in range(count)]
    together = compose(image, vectors, seed=seed, ids=ids, reference=reference, recipe=QUICK)
    for i in range(count):
        one = slice(i, i + 1)
        alone = compose(image[one], vectors[i], seed=seed, ids=ids[one], reference=reference[one], recipe=QUICK)
        for got, wanted in zip(alone, together, strict=True):
            # A rounding error may carry one Monte-Carlo point of grain, or one pixel's threshold, across.
            assert ((got[0] - wanted[i]).abs() > 1e-4).float().mean() < 0.01


def test_the_sequence_of_single_tasks_makes_the_target():
    image, reference, hole = picture(1), picture(1, seed=1), torch.zeros(1, 1, 32, 36)
    whole = compose(image, EVERYTHING, seed=0, ids=[0], reference=reference, hole=hole, recipe=QUICK)
    steps = QUICK.sequence(EVERYTHING)
    assert [step.active for step in steps] == [("inpaint",), ("blur",), ("grain",), ("colour",), ("sharpen",)]
    current = image
    for step in steps:
        current = compose(current, step, seed=0, ids=[0], reference=reference, hole=hole, recipe=QUICK).target
    assert torch.equal(current, whole.target)
    assert [s.active for s in QUICK.sequence(EditingVector.of("sharpen", "grain"))] == [("grain",), ("sharpen",)]
    assert QUICK.sequence(EditingVector()) == ()


def test_an_order_names_each_effect_once_and_colour_needs_a_reference():
    with pytest.raises(ReproError, match="each of blur, grain, colour, sharpen once"):
        Recipe(order=("blur", "grain"))
    with pytest.raises(ReproError, match="there is no reference image"):
        compose(picture(1), EditingVector.of("colour"), seed=0, ids=[0])
