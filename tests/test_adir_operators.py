"""ADIR's operators: adjoints, singular values, equality with torch, Pillow and deepinv, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from deepinv import physics
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from repro.adir import operators as ops
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


def drawn(shape, step=0):
    return KeyedNoise(0, range(shape[0]), "test").normal(tuple(shape[1:]), step)


def adjoint_error(op):
    x, y = drawn((2, *op.image)), drawn((2, *op.measurement), 1)
    return float(((op.A(x) * y).sum() - (x * op.transpose(y)).sum()).abs() / (1 + (op.A(x) * y).sum().abs()))


@given(task=st.sampled_from(list(ops.TASKS)), h=st.integers(2, 6), w=st.integers(2, 6))
def test_the_adjoint_is_the_adjoint(task, h, w):
    assert adjoint_error(ops.operator(task, 8 * h, 8 * w)) < 1e-4


@pytest.mark.parametrize("task", ops.TASKS)
def test_singular_values_and_eigenvalues_are_those_of_the_written_out_matrix(task):
    op = ops.operator(task, 16, 8)
    n, m = int(np.prod(op.image)), int(np.prod(op.measurement))
    A = op.A(torch.eye(n).reshape(n, *op.image)).reshape(n, -1).T.double()  # (m, n)
    expected = torch.linalg.svdvals(A)
    found = op.singular_values.flatten().sort(descending=True).values[: len(expected)].double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for kind in ("adjoint", "upsampling"):
        back = op.transpose(torch.eye(m).reshape(m, *op.measurement), kind).reshape(m, -1).double().T
        largest = torch.linalg.eigvals(back @ A).abs().max()
        assert op.eigenvalue(kind) == pytest.approx(float(largest), rel=1e-4)
    x = drawn((2, *op.image))
    y = op.A(x)
    torch.testing.assert_close(op.V(op.Vt(x)), x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(op.Vt(x) * op.singular_values, op.Ut(y), atol=1e-5, rtol=1e-4)
    again = op.pseudo_inverse(y, 1e-6)
    torch.testing.assert_close(op.A(again), y, atol=1e-4, rtol=1e-3)
    assert float((op.Vt(again) * (op.singular_values == 0)).abs().max()) < 1e-4


@pytest.mark.parametrize("factor", [4, 8])
def test_downsampling_is_torchs_and_pillows_antialiased_bicubic(factor):
    op, x = ops.operator(f"sr{factor}", 64, 48), drawn((1, 3, 64, 48))
    expected = F.interpolate(x, size=(64 // factor, 48 // factor), mode="bicubic", antialias=True)
    torch.testing.assert_close(op.A(x), expected, atol=1e-6, rtol=1e-5)
    pillow = Image.fromarray(x[0, 0].numpy(), "F").resize((48 // factor, 64 // factor), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(op.A(x)[0, 0].numpy(), np.asarray(pillow), atol=1e-5)
    up = F.interpolate(expected, size=(64, 48), mode="bicubic", antialias=True)
    torch.testing.assert_close(op.transpose(expected, "upsampling"), up, atol=1e-6, rtol=1e-5)


def test_operators_and_adjoints_are_deepinvs():
    """Its bicubic downsampling is MATLAB's, which mirrors the border where ours cuts the kernel and normalises it."""
    x = drawn((2, 3, 64, 48)).clamp(-1, 1)
    for factor in (4, 8):
        found, theirs = ops.operator(f"sr{factor}", 64, 48).A(x), physics.DownsamplingMatlab(factor=factor).A(x)
        torch.testing.assert_close(found[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], atol=1e-6, rtol=0)
        assert 0.01 < float((found - theirs).abs().max()) < 0.2
    bell = torch.exp(-(torch.arange(-6.0, 7) ** 2) / 8)
    pairs = {"colour": physics.Decolorize(srf="average")}
    for task, taps in (("box", torch.full((5,), 0.2)), ("gauss", bell / bell.sum())):
        pairs[task] = physics.Blur(torch.outer(taps, taps)[None, None], padding="reflect")
    for task, theirs in pairs.items():
        ours = ops.operator(task, 64, 48)
        torch.testing.assert_close(ours.A(x), theirs.A(x), atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.transpose(ours.A(x)), theirs.A_adjoint(ours.A(x)), atol=1e-6, rtol=0)
    grey, mean = drawn((1, 1, 64, 48)), ops.operator("colour", 64, 48)
    torch.testing.assert_close(mean.transpose(grey, "upsampling"), grey.expand(1, 3, 64, 48))
    torch.testing.assert_close(3 * mean.transpose(grey), grey.expand(1, 3, 64, 48))


def test_masks_and_compositions_are_operators_too():
    blur, mask = ops.operator("box", 16), (drawn((16, 16)) > 0).float()
    both = ops.compose(replace(ops.operator("sr4", 16), mask=mask[:4, :4]), blur)
    x = drawn((2, 3, 16, 16))
    torch.testing.assert_close(both.A(x), mask[:4, :4] * ops.operator("sr4", 16).A(blur.A(x)), atol=1e-6, rtol=1e-5)
    for op in (both, replace(blur, mask=mask)):
        assert adjoint_error(op) < 1e-4
        with pytest.raises(ReproError, match="masked"):
            op.pseudo_inverse(op.A(x))


def test_noise_is_keyed_and_of_its_size():
    op, x = ops.operator("box", 64), torch.zeros(4, 3, 64, 64)
    y = op.measure(x, KeyedNoise(1, range(4), "m"))
    assert float(y.std()) == pytest.approx(10 / 127.5, rel=0.02)
    assert torch.equal(y[2:3], op.measure(x[:1], KeyedNoise(1, [2], "m")))
    with pytest.raises(ReproError, match="pass a KeyedNoise"):
        op.measure(x)


def test_what_does_not_fit_is_refused():
    op = ops.operator("sr4", 64)
    for call, words in (
        (lambda: ops.operator("sr4", 62, 64), "multiples of it"),
        (lambda: ops.operator("blur", 64), "unknown task"),
        (lambda: op.A(torch.zeros(1, 3, 32, 64)), r"takes \(B, 3, 64, 64\)"),
        (lambda: op.transpose(torch.zeros(1, 3, 64, 64)), r"takes \(B, 3, 16, 16\)"),
    ):
        with pytest.raises(ReproError, match=words):
            call()
