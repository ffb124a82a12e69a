"""Offline LPIPS against the lpips package, the shipped weights, and the reader that takes arrays out of pickles."""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_pictures import noisy, pictures
from safetensors.torch import save_file
from torch.nn import functional as F

from repro.errors import ReproError
from repro.metrics.array_pickle import read_arrays
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
    """Distances of the fp32 weights, made once by convert_lpips.convert() on these very pictures."""
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


# ---- the reader of arrays in pickles


def _same(read: dict, expected: dict) -> None:
    assert set(read) == set(expected)
    for name, value in expected.items():
        assert torch.equal(read[name], torch.as_tensor(value)), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_pickles_are_read_as_the_unpickler_reads_them(tmp_path, protocol):
    rng = np.random.default_rng(0)
    tree = {
        "a": {"kernel": rng.random((3, 2, 4), dtype=np.float32), "bias": np.asfortranarray(rng.random((2, 3)))},
        "b": np.arange(5),
    }
    file = tmp_path / "w.ckpt"
    file.write_bytes(pickle.dumps(tree, protocol=protocol))
    if protocol in (2, 4, 5):  # bytes as text, STACK_GLOBAL, out-of-band buffers: forms that no file needed here has
        with pytest.raises(ReproError, match="not a plain file of arrays"):
            read_arrays(file)
    else:
        _same(read_arrays(file), {"a/kernel": tree["a"]["kernel"], "a/bias": tree["a"]["bias"], "b": tree["b"]})


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_both_formats_are_read_as_torch_reads_them(tmp_path, zipped):
    base = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        w=torch.randn(3, 4), view=base.view(4, 6)[1:, ::2], half=torch.randn(5).half(), n=torch.tensor(7), whole=base
    )
    file = tmp_path / "w.pth"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    _same(read_arrays(file), state)


class _Evil:
    def __reduce__(self):
        return (Path.touch, (Path("EVIL"),))


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, payload in enumerate(
        (
            pickle.dumps({"a": _Evil()}, protocol=3),
            pickle.dumps({"a": _Evil()}, protocol=4),
            b"cos\nsystem\n(S'touch EVIL'\ntR.",
            b"(S'touch EVIL'\nios\nsystem\n.",
            b"\x80\x03cnumpy\nndarray\nK\x01\x85R.",
        )
    ):
        file = tmp_path / f"{number}.pkl"
        file.write_bytes(payload)
        with pytest.raises(ReproError, match=f"{number}.pkl"):
            read_arrays(file)
    assert not (tmp_path / "EVIL").exists()


def test_damaged_files_are_refused_by_name(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.randn(64)}, buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    file = tmp_path / "w.pth"
    for cut in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(ReproError, match=r"w\.pth"):
            read_arrays(file)
    with pytest.raises(ReproError, match=r"gone\.pth"):
        read_arrays(tmp_path / "gone.pth")
