"""l1, PSNR and SSIM against scikit-image and by hand, and what `score` refuses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from metrics_pictures import noisy, pictures

from repro.errors import ReproError
from repro.metrics import pixel
from repro.metrics.protocols import names, protocol, score

PIXEL = [n for n in names() if n.split("/")[0] in ("l1", "psnr", "ssim")]
REFERENCED = [n for n in names() if protocol(n).kind == "reference"]


def _pair(name: str, size: int = 48, level: float = 0.1):
    x = pictures(size)[:, : protocol(name).channels]
    return noisy(x, level), x


@pytest.mark.parametrize("shape", [(48, 48), (31, 57), (11, 11)])
def test_ssim_equals_scikit_image_with_wangs_settings(shape):
    from skimage.metrics import structural_similarity

    reference = pictures(64)[:, :, : shape[0], : shape[1]]
    image = noisy(reference, 0.15)
    ours = score("ssim/rgb-wang", image, reference)
    for a, b, got in zip(image.double().numpy(), reference.double().numpy(), ours, strict=True):
        theirs = structural_similarity(
            a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
        assert abs(theirs - got.item()) < 1e-9
        grey = score("ssim/grey-wang", torch.tensor(a[:1]), torch.tensor(b[:1])).item()
        theirs = structural_similarity(
            a[0], b[0], gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
        assert abs(theirs - grey) < 1e-9


def test_the_default_of_scikit_image_is_its_own_protocol():
    from skimage.metrics import structural_similarity

    image, reference = _pair("ssim/rgb-uniform7")
    ours = score("ssim/rgb-uniform7", image, reference)
    theirs = [
        structural_similarity(a, b, channel_axis=0, data_range=1.0)
        for a, b in zip(image.double().numpy(), reference.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-9)
    assert (ours - score("ssim/rgb-wang", image, reference)).abs().max() > 1e-3


def test_ssim_3d_equals_scipys_three_dimensional_gaussian():
    from scipy.ndimage import gaussian_filter

    image, reference = (x.double().numpy() for x in _pair("ssim/rgb-matlab3d", 24))

    def blur(v):
        return gaussian_filter(v, 1.5, mode="nearest", radius=5)

    for a, b, got in zip(image, reference, pixel.ssim_3d(torch.tensor(image), torch.tensor(reference)), strict=True):
        mu_a, mu_b = blur(a), blur(b)
        var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
        top = (2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
        value = (top / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean()
        assert abs(value - got.item()) < 1e-9


def test_psnr_equals_scikit_image_and_luma_equals_its_matlab_matrix():
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio

    image, reference = _pair("psnr/rgb")
    rgb, y = score("psnr/rgb", image, reference), score("psnr/y", image, reference)
    for i, (a, b) in enumerate(zip(image.double().numpy(), reference.double().numpy(), strict=True)):
        assert abs(peak_signal_noise_ratio(b, a, data_range=1.0) - rgb[i].item()) < 1e-9
        y_a, y_b = (rgb2ycbcr(v, channel_axis=0)[0] / 255 for v in (a, b))
        assert abs(peak_signal_noise_ratio(y_b, y_a, data_range=1.0) - y[i].item()) < 1e-9


def test_luma_of_known_colours():
    white, black, red = torch.ones(3), torch.zeros(3), torch.tensor([1.0, 0, 0])
    y = pixel.luma(torch.stack([white, black, red]).double().view(3, 3, 1, 1)).flatten() * 255
    torch.testing.assert_close(y, torch.tensor([235.0, 16.0, 81.481], dtype=torch.float64))


def test_uint8_protocols_see_eight_bits():
    x = pictures(32)
    eight = (x * 255).round() / 255
    for step in (0.4, -0.4):  # rounds back to the same bytes
        shifted = (eight + step / 255).clamp(0, 1)
        assert torch.isinf(score("psnr/rgb-uint8", shifted, eight)).all()
        assert torch.isinf(score("psnr/y-uint8", shifted, eight)).all()
        assert torch.isfinite(score("psnr/rgb", shifted, eight)).all()
    y = pixel.luma_uint8(x.double()) * 255
    assert torch.equal(y.round(), y.round(decimals=6)) and (y - y.round()).abs().max() < 1e-9


@pytest.mark.parametrize("name", PIXEL)
def test_perfect_score_symmetry_and_order_under_growing_noise(name):
    _, x = _pair(name)
    perfect = {"l1": 0.0, "psnr": float("inf"), "ssim": 1.0}[name.split("/")[0]]
    assert torch.allclose(score(name, x, x), torch.full((4,), perfect, dtype=torch.float64), atol=1e-12)
    levels = [score(name, noisy(x, level), x) for level in (0.02, 0.05, 0.1, 0.2, 0.4)]
    sign = 1 if protocol(name).higher_is_better else -1
    assert all((sign * (a - b) > 0).all() for a, b in pairwise(levels))
    y = noisy(x, 0.1)
    torch.testing.assert_close(score(name, x, y), score(name, y, x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", PIXEL)
def test_a_picture_scores_the_same_in_any_batch(name):
    y, x = _pair(name)
    together = score(name, y, x)
    assert together.dtype == torch.float64 and together.shape == (4,)
    alone = torch.cat([score(name, y[i], x[i]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float64, (1, 3, 12, 12), elements=st.floats(0, 1)),
    arrays(np.float64, (1, 3, 12, 12), elements=st.floats(0, 1)),
)
def test_bounds_hold_for_any_pictures(a, b):
    a, b = torch.from_numpy(a), torch.from_numpy(b)
    assert 0 <= score("l1/rgb01", a, b).item() <= 1
    assert score("psnr/rgb", a, b).item() >= 0
    for name in ("ssim/rgb-wang", "ssim/y-wang", "ssim/rgb-matlab3d"):
        assert -1 - 1e-9 <= score(name, a, b).item() <= 1 + 1e-9


def test_a_known_error_gives_the_known_decibels():
    x = torch.full((2, 3, 16, 16), 0.5)
    torch.testing.assert_close(
        score("psnr/rgb", x + 0.1, x), torch.full((2,), 20.0, dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert score("l1/rgb01", x + 0.1, x)[0].item() == pytest.approx(0.1, abs=1e-6)


def test_descriptions_and_directions_are_all_there():
    for name in names():
        p = protocol(name)
        assert p.name == name and len(p.description) > 30
        assert p.higher_is_better == (name.split("/")[0] in ("psnr", "ssim", "is"))


@pytest.mark.parametrize(
    ("name", "image", "reference", "words"),
    [
        ("psnr/yuv", torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), "psnr/y-uint8"),
        ("fid/vgg", torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), "unknown metric protocol 'fid/vgg'"),
        ("fid/inception", torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), "two sets"),
        ("psnr/rgb", torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9), "one shape"),
        ("psnr/rgb", torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8), r"accepted: \(B, 3, H, W\)"),
        ("psnr/rgb", torch.rand(0, 3, 8, 8), torch.rand(0, 3, 8, 8), r"accepted: \(B, 3, H, W\)"),
        ("psnr/rgb", 2 * torch.rand(1, 3, 8, 8) - 1, torch.rand(1, 3, 8, 8), r"accepted: \[0, 1\]"),
        ("psnr/rgb", torch.full((1, 3, 8, 8), float("nan")), torch.rand(1, 3, 8, 8), "nan"),
        ("psnr/rgb", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.rand(1, 3, 8, 8), "divide 8-bit values by 255"),
        ("psnr/rgb", np.zeros((1, 3, 8, 8)), torch.rand(1, 3, 8, 8), "ndarray"),
        ("ssim/rgb-wang", torch.rand(1, 3, 10, 30), torch.rand(1, 3, 10, 30), "11 px a side"),
        ("psnr/rgb", torch.rand(1, 3, 8, 8), None, "needs a reference"),
        ("niqe/y-skvideo", torch.rand(1, 3, 200, 200), torch.rand(1, 3, 200, 200), "takes no reference"),
    ],
)
def test_input_that_cannot_work_is_refused_in_one_sentence(name, image, reference, words):
    with pytest.raises(ReproError, match=words) as caught:
        score(name, image, reference)
    assert "\n" not in str(caught.value)
