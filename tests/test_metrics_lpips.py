"""Offline LPIPS against the lpips package, and the shipped weights."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from metrics_pictures import noisy, pictures
from safetensors.torch import save_file
from torch.nn import functional as F

from repro.errors import ReproError
from repro.metrics.lpips import load, lpips
from repro.metrics.protocols import score


@pytest.fixture(scope="module")
def package():
    """lpips.LPIPS(net="alex") with the shipped trunk; its heads are the package's own."""
    import lpips as theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = theirs.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = {f"{n.split('.', 1)[1]}": p for n, p in load().state_dict().items() if n.startswith("features.")}
    own = {name.split(".", 1)[1]: name for name in model.net.state_dict()}
    model.net.load_state_dict({own[name]: value for name, value in trunk.items()})
    return model


def test_equals_the_package(package):
    for size in (31, 64, 97):
        x = pictures(size)
        blurred = F.interpolate(F.avg_pool2d(x, 4), size=(size, size))
        for y in (noisy(x, 0.02), noisy(x, 0.3), blurred, x.flip(0)):
            with torch.no_grad():
                theirs = package(2 * y - 1, 2 * x - 1).flatten()
            # 1e-3 pays for the heads, stored here in fp16 and there in fp32.
            torch.testing.assert_close(score("lpips/alex-v0.1", y, x), theirs.double(), atol=1e-3, rtol=0)


def test_equals_the_package_exactly_once_the_heads_agree(package):
    model = load()
    for i, head in enumerate(model.heads):
        head.data = package.lins[i].model[1].weight.flatten()
    x = pictures(64)
    y = noisy(x, 0.2)
    with torch.no_grad():
        torch.testing.assert_close(model(2 * y - 1, 2 * x - 1), package(2 * y - 1, 2 * x - 1).flatten())


def test_half_precision_storage_costs_less_than_a_thousandth():
    """Distances of the fp32 weights, made once on these very pictures."""
    x = pictures(64)
    recorded = {0.02: [0.000702, 0.007434, 0.000937, 0.027583], 0.3: [0.416024, 0.835817, 0.496793, 0.968216]}
    for level, values in recorded.items():
        np.testing.assert_allclose(lpips(noisy(x, level), x).numpy(), values, atol=1e-3)


def test_identity_symmetry_growth_and_batches():
    x = pictures(64)
    assert lpips(x, x).abs().max() == 0
    levels = [lpips(noisy(x, level), x) for level in (0.02, 0.05, 0.1, 0.2, 0.4)]
    assert all((b > a).all() for a, b in pairwise(levels))
    y = noisy(x, 0.1)
    torch.testing.assert_close(lpips(x, y), lpips(y, x), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(lpips(y, x, batch=1), lpips(y, x, batch=3), rtol=1e-5, atol=1e-7)


def test_small_pictures_and_bad_weights_are_refused(tmp_path):
    with pytest.raises(ReproError, match="31 px a side"):
        score("lpips/alex-v0.1", torch.rand(1, 3, 30, 64), torch.rand(1, 3, 30, 64))
    with pytest.raises(ReproError, match="missing"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ReproError, match="does not hold the LPIPS weights"):
        load(tmp_path)
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ReproError, match="does not hold the LPIPS weights"):
        load(tmp_path)
