"""Motion blur: exact lines and means, a degree that is monotone, paths that depend on (seed, id) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.editing.effects.blur import (
    KNOTS,
    line_kernels,
    motion_blur,
    shake_trajectories,
)
from repro.errors import ReproError

SEEDS = st.integers(0, 2**32)


def picture(batch: int, height: int = 40, width: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def straight(dx: float, dy: float) -> torch.Tensor:
    """(1, KNOTS, 2) the evenly travelled path from -(dx, dy)/2 to (dx, dy)/2."""
    return torch.linspace(-0.5, 0.5, KNOTS, dtype=torch.float64)[None, :, None] * torch.tensor([dx, dy])


# -- kernels ----------------------------------------------------------------------------------------------------------


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
@given(seed=SEEDS, scale=st.floats(0.01, 60))
def test_kernels_keep_light_and_place(seed, scale):
    kernels = line_kernels(shake_trajectories(seed, [0, "a"]) * scale).double()
    half = kernels.shape[-1] // 2
    at = torch.arange(-half, half + 1, dtype=torch.float64)
    assert (kernels >= 0).all()
    assert torch.allclose(kernels.sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64), atol=1e-6)
    for axis in (1, 2):
        assert torch.allclose(kernels.sum(dim=axis) @ at, torch.zeros(2, dtype=torch.float64), atol=1e-4)


def test_length_is_that_of_the_straight_path_of_equal_spread():
    kernel = line_kernels(straight(24, 18))[0].double()  # 30 pixels long
    paths = shake_trajectories(0, range(20)) * 30
    kernels = line_kernels(paths).double()

    def second_moment(kernel):
        at = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
        return ((at[:, None] ** 2 + at[None, :] ** 2) * kernel).sum().item()

    assert second_moment(kernel) == pytest.approx(30**2 / 12, rel=0.01)
    for shaken in kernels:
        assert second_moment(shaken) == pytest.approx(30**2 / 12, rel=0.01)


@settings(max_examples=25)
@given(seed=SEEDS, degrees=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_spread_grows_with_the_degree(seed, degrees):
    low, high = sorted(degrees)
    path = shake_trajectories(seed, [7])
    kernels = line_kernels(torch.cat([path * low * 20, path * high * 20])).double()
    at = torch.arange(kernels.shape[-1], dtype=torch.float64) - kernels.shape[-1] // 2
    moments = ((at[:, None] ** 2 + at[None, :] ** 2) * kernels).sum(dim=(1, 2))
    assert moments[1] >= moments[0] - 1e-5


# -- stills -----------------------------------------------------------------------------------------------------------


def test_degree_zero_is_the_picture_bit_for_bit():
    image = picture(2)
    assert torch.equal(motion_blur(image, 0, 0, [0, 1]), image)
    mixed = motion_blur(image, [0, 0.8], 0, [0, 1])
    assert torch.equal(mixed[0], image[0]) and not torch.equal(mixed[1], image[1])


def test_a_point_of_light_draws_the_path():
    image = torch.zeros(1, 3, 41, 41)
    image[..., 20, 20] = 1
    out = motion_blur(image, 1.0, 3, ["x"], longest=10)
    kernel = line_kernels(shake_trajectories(3, ["x"]) * 10)[0]  # flipping it twice is a fault this shows
    half = len(kernel) // 2
    assert not torch.allclose(kernel, kernel.flip(0, 1), atol=1e-3)
    assert torch.allclose(out[0, 1, 20 - half : 21 + half, 20 - half : 21 + half], kernel, atol=1e-6)


def test_equals_scipys_convolution():
    from scipy.ndimage import convolve

    image = picture(2)
    out = motion_blur(image, [0.4, 1.0], 5, [1, 2], longest=12)
    paths = shake_trajectories(5, [1, 2]) * torch.tensor([4.8, 12.0])[:, None, None]
    for i in range(2):
        kernel = line_kernels(paths[i : i + 1])[0].numpy()
        for c in range(3):
            reference = convolve(image[i, c].numpy(), kernel, mode="mirror")
            assert np.abs(out[i, c].numpy() - reference).max() < 1e-5


@settings(max_examples=15)
@given(seed=SEEDS, ids=st.lists(st.integers(0, 2**40) | st.text(max_size=5), min_size=2, max_size=4, unique=True))
def test_a_picture_does_not_depend_on_its_batch(seed, ids):
    image, beta = picture(len(ids)), torch.linspace(0.2, 1, len(ids))
    together = motion_blur(image, beta, seed, ids)
    assert torch.equal(motion_blur(image.flip(0), beta.flip(0), seed, ids[::-1]), together.flip(0))
    for i, id in enumerate(ids):
        alone = motion_blur(image[i : i + 1], beta[i].item(), seed, [id])
        assert torch.allclose(alone[0], together[i], atol=1e-6)


def test_seeds_and_ids_make_different_paths():
    paths = torch.cat([shake_trajectories(seed, [0, 1, "0"]) for seed in (0, 1)])
    assert len({tuple(path.flatten().tolist()) for path in paths}) == 6
    assert torch.equal(shake_trajectories(0, [0]), shake_trajectories(0, [1, 0])[1:])


def test_photographs_lose_sharpness_step_by_step():
    photos = pack.photos("train")[:6]
    image = torch.stack([center_crop(resize(pack.load(p), 96), 96) for p in photos])
    away, sharpness = [], []
    for beta in torch.linspace(0, 1, 9):
        out = motion_blur(image, beta.item(), 0, [p.id for p in photos])
        away.append((out - image).abs().mean(dim=(1, 2, 3)))
        sharpness.append(out.diff(dim=3).abs().mean() + out.diff(dim=2).abs().mean())
    assert (torch.stack(away).diff(dim=0) > 0).all()  # every photograph, every step
    assert (torch.stack(sharpness).diff() < 0).all()
    assert away[-1].mean() > 0.03  # visible: eight grey levels


def test_a_planted_fault_is_seen(monkeypatch):
    """Paths that are not centred shift the picture: the test of place notices."""
    centred = shake_trajectories
    monkeypatch.setitem(globals(), "shake_trajectories", lambda seed, ids: centred(seed, ids) + 0.1)
    with pytest.raises(AssertionError):
        test_kernels_keep_light_and_place.hypothesis.inner_test(0, 20.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((picture(1), 1.2, 0, [0]), "degree beta of 1.2; accepted: 0 to 1"),
        ((picture(1), float("nan"), 0, [0]), "degree beta of nan"),
        ((picture(2), [0.1, -0.5], 0, [0, 1]), "degree beta of -0.5"),
        ((picture(2), [0.1, 0.2, 0.3], 0, [0, 1]), "3 degrees for 2 pictures"),
        ((picture(2), 0.1, 0, [0]), "1 ids for 2 pictures"),
        ((picture(1)[0], 0.1, 0, [0]), r"\(3, 40, 48\)"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ReproError, match=message):
        motion_blur(*arguments)


@pytest.mark.parametrize("longest", [0, -1, 20.5])
def test_a_path_that_does_not_fit_is_refused(longest):
    with pytest.raises(ReproError, match="half the shorter side"):
        motion_blur(picture(1), 0.5, 0, [0], longest=longest)
