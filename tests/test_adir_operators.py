"""ADIR's operators: adjoints, singular values, equality with torch and Pillow, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deepinv import physics
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from repro.adir import operators as ops
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


def drawn(shape, step=0):
    return KeyedNoise(0, range(shape[0]), "test").normal(tuple(shape[1:]), step)


@given(task=st.sampled_from(list(ops.TASKS)), h=st.integers(2, 6), w=st.integers(2, 6))
def test_the_adjoint_is_the_adjoint(task, h, w):
    op = ops.operator(task, 8 * h, 8 * w)
    x = drawn((2, *op.image))
    y = drawn((2, *op.measurement), 1)
    left, right = (op.A(x) * y).sum(), (x * op.transpose(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", ops.TASKS)
def test_singular_values_and_eigenvalues_are_those_of_the_written_out_matrix(task):
    op = ops.operator(task, 16, 8)
    n = int(np.prod(op.image))
    A = op.A(torch.eye(n).reshape(n, *op.image)).reshape(n, -1).T.double()  # (m, n)
    expected = torch.linalg.svdvals(A)
    found = op.singular_values.flatten().sort(descending=True).values[: len(expected)].double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    m = A.shape[0]
    for kind in ops.TRANSPOSES:
        back = op.transpose(torch.eye(m).reshape(m, *op.measurement), kind).reshape(m, -1).double().T
        largest = torch.linalg.eigvals(back @ A).abs().max()
        assert op.eigenvalue(kind) == pytest.approx(float(largest), rel=1e-4)
    x = drawn((2, *op.image))
    torch.testing.assert_close(op.V(op.Vt(x)), x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(op.Vt(x) * op.singular_values, op.Ut(op.A(x)), atol=1e-5, rtol=1e-4)
    y = op.A(x)
    again = op.pseudo_inverse(y, 1e-6)
    torch.testing.assert_close(op.A(again), y, atol=1e-4, rtol=1e-3)
    assert float((op.Vt(again) * (op.singular_values == 0)).abs().max()) < 1e-4


@pytest.mark.parametrize("factor", [4, 8])
def test_downsampling_is_torchs_and_pillows_antialiased_bicubic(factor):
    op = ops.super_resolution(64, 48, factor)
    x = drawn((1, 3, 64, 48))
    expected = F.interpolate(x, size=(64 // factor, 48 // factor), mode="bicubic", antialias=True)
    torch.testing.assert_close(op.A(x), expected, atol=1e-6, rtol=1e-5)
    pillow = Image.fromarray(x[0, 0].numpy(), "F").resize((48 // factor, 64 // factor), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(op.A(x)[0, 0].numpy(), np.asarray(pillow), atol=1e-5)
    up = F.interpolate(expected, size=(64, 48), mode="bicubic", antialias=True)
    torch.testing.assert_close(op.transpose(expected, "upsampling"), up, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [3, 5, 7, 9, 11])
def test_blurs_are_scipys_with_mirrored_borders(size):
    x = drawn((1, 3, 24, 20))
    found = ops.deblurring(24, 20, ops.box_taps(size)).A(x)[0].numpy()
    np.testing.assert_allclose(found, ndimage.uniform_filter(x[0].numpy(), (0, size, size), mode="mirror"), atol=1e-5)
    found = ops.deblurring(24, 20, ops.gaussian_taps(2.0)).A(x)[0].numpy()
    expected = ndimage.gaussian_filter(x[0].numpy(), (0, 2, 2), mode="mirror", truncate=3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_operators_and_adjoints_are_deepinvs():
    """Its bicubic downsampling is MATLAB's, which mirrors the border where ours cuts the kernel and normalises it."""
    x = drawn((2, 3, 64, 48)).clamp(-1, 1)
    for factor in (4, 8):
        found, theirs = ops.super_resolution(64, 48, factor).A(x), physics.DownsamplingMatlab(factor=factor).A(x)
        torch.testing.assert_close(found[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], atol=1e-6, rtol=0)
        assert 0.01 < float((found - theirs).abs().max()) < 0.2
    pairs = {
        ops.deblurring(64, 48, taps): physics.Blur(torch.outer(taps, taps)[None, None], padding="reflect")
        for taps in (ops.box_taps(5), ops.gaussian_taps(2.0))
    }
    for ours, theirs in {**pairs, ops.colorization(64, 48): physics.Decolorize(srf="average")}.items():
        y = ours.A(x)
        torch.testing.assert_close(y, theirs.A(x), atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.transpose(y), theirs.A_adjoint(y), atol=1e-6, rtol=0)


def test_the_adjoint_of_the_mean_is_a_third_of_the_replication():
    op = ops.colorization(8, 8)
    y = drawn((1, 1, 8, 8))
    torch.testing.assert_close(op.transpose(y, "upsampling"), y.expand(1, 3, 8, 8))
    torch.testing.assert_close(3 * op.transpose(y), y.expand(1, 3, 8, 8))


def test_masks_and_compositions_keep_the_adjoint():
    mask = (drawn((1, 16, 16)) > 0).float()
    op = ops.Compose(ops.Mask(mask), ops.deblurring(16, 16, ops.box_taps(5)))
    x, y = drawn((2, 3, 16, 16)), drawn((2, 3, 16, 16), 1)
    torch.testing.assert_close((op.A(x) * y).sum(), (x * op.transpose(y)).sum(), rtol=1e-4, atol=1e-4)
    assert op.eigenvalue() >= 1


def test_noise_is_keyed_and_of_its_size():
    op = ops.operator("box", 64, 64)
    x = torch.zeros(4, 3, 64, 64)
    y = op.measure(x, KeyedNoise(1, range(4), "m"))
    assert float(y.std()) == pytest.approx(10 / 127.5, rel=0.02)
    assert torch.equal(y[2:3], op.measure(x[:1], KeyedNoise(1, [2], "m")))
    with pytest.raises(ReproError, match="pass a KeyedNoise"):
        op.measure(x)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ReproError, match="multiple of it: got 62"):
        ops.operator("sr4", 62, 64)
    with pytest.raises(ReproError, match="unknown task"):
        ops.operator("blur", 64, 64)
    with pytest.raises(ReproError, match="takes an image of"):
        ops.operator("sr4", 64, 64).A(torch.zeros(1, 3, 32, 64))
    with pytest.raises(ReproError, match="takes a measurement of"):
        ops.operator("sr4", 64, 64).transpose(torch.zeros(1, 3, 64, 64))
