"""Thresholded unsharp masking: scipy's Gaussian, amount and threshold in order, the mask the right way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import pack
from repro.editing.effects import sharpen
from repro.editing.effects.sharpen import gaussian_3x3, unsharp_mask
from repro.errors import ReproError


def picture(batch: int = 2, height: int = 20, width: int = 24) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_gaussian_equals_scipy():
    from scipy.ndimage import gaussian_filter

    image = picture()
    reference = gaussian_filter(image.numpy(), sigma=1, radius=1, axes=(2, 3), mode="mirror")
    assert np.abs(gaussian_3x3(image).numpy() - reference).max() < 1e-6
    kernel = gaussian_3x3(torch.nn.functional.pad(torch.ones(1, 1, 1, 1), (2, 2, 2, 2)))[0, 0, 1:4, 1:4]
    assert kernel[1, 1].item() == pytest.approx(0.2041799, abs=1e-6)  # OpenCV's getGaussianKernel(3, 1), squared
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)


def test_without_a_threshold_it_is_the_formula():
    image = picture()
    assert torch.equal(unsharp_mask(image, 1.7), (image + 1.7 * (image - gaussian_3x3(image))).clamp(0, 1))


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


@settings(max_examples=40)
@given(amounts=st.tuples(st.floats(0, 5), st.floats(0, 5)), threshold=st.floats(0, 0.2))
def test_amount_is_monotone_at_every_pixel(amounts, threshold):
    low, high = sorted(amounts)
    image = picture(1)
    away = [(unsharp_mask(image, amount, threshold) - image).abs() for amount in (low, high)]
    assert (away[1] >= away[0]).all()


@settings(max_examples=40)
@given(thresholds=st.tuples(st.floats(0, 0.3), st.floats(0, 0.3)))
def test_threshold_touches_fewer_pixels(thresholds):
    low, high = sorted(thresholds)
    image = picture(1)
    touched = [unsharp_mask(image, 2.0, threshold) != image for threshold in (low, high)]
    assert (touched[0] | ~touched[1]).all()


def test_identities():
    image = picture()
    assert torch.equal(unsharp_mask(image, 0), image)
    assert torch.equal(unsharp_mask(image, 3, 1), image)
    flat = torch.full((1, 3, 6, 6), 0.25)
    assert torch.allclose(unsharp_mask(flat, 3), flat, atol=1e-6)


def test_one_value_a_picture():
    image = picture(2)
    both = unsharp_mask(image, [1.0, 3.0], [0.0, 0.05])
    assert torch.equal(both[:1], unsharp_mask(image[:1], 1.0)) and torch.equal(
        both[1:], unsharp_mask(image[1:], 3, 0.05)
    )


def test_photographs_get_sharper():
    image = pack.load(pack.photos("train")[0])[None]
    sharpness = [unsharp_mask(image, amount, 0.02).diff(dim=3).abs().mean().item() for amount in (0, 1, 2, 3)]
    assert sharpness == sorted(sharpness) and sharpness[1] > 1.1 * sharpness[0]


def test_a_planted_fault_is_seen(monkeypatch):
    """The printed mask, put in: the test of its direction notices."""

    def printed(image, amount, threshold):
        detail = image - gaussian_3x3(image)
        return torch.where(detail.abs() <= threshold, image + amount * detail, image)

    monkeypatch.setitem(globals(), "unsharp_mask", printed)
    with pytest.raises(AssertionError):
        test_the_mask_is_not_the_printed_one()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((picture(), -1.0), "amount lambda of -1; accepted: 0 or more"),
        ((picture(), float("inf")), "amount lambda of inf"),
        ((picture(), 1.0, float("nan")), "threshold mu of nan"),
        ((picture(), [1.0, 2.0, 3.0]), "3 values of amount lambda for 2 pictures"),
        ((picture()[0], 1.0), r"\(3, 20, 24\)"),
        ((torch.zeros(1, 3, 1, 5), 1.0), "5x1 pixels; accepted: at least 2x2"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ReproError, match=message):
        sharpen.unsharp_mask(*arguments)
