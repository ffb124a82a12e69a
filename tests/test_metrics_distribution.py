"""FID, KID and IS against numpy and scipy, against torchmetrics' own classes, and on cases known exactly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import nn

from repro.errors import ReproError
from repro.metrics.distribution import fid, inception_score, kid, paired_kid, patches


def _sets(n: int = 200, m: int = 150, d: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d))
    return (
        torch.from_numpy(rng.standard_normal((n, d)) @ mix).float(),
        torch.from_numpy(rng.standard_normal((m, d)) @ mix * 1.3 + 0.4).float(),
    )


class _Identity(nn.Module):
    """Features taken for pictures, as torchmetrics' classes want a network."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _torchmetrics_fid(a: torch.Tensor, b: torch.Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Identity(a.shape[1]))
    metric.update(a.double(), real=True)
    metric.update(b.double(), real=False)
    return float(metric.compute())


def test_fid_equals_scipys_matrix_root_and_torchmetrics():
    a, b = _sets()
    x, y = a.double().numpy(), b.double().numpy()
    root = sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    formula = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert fid(a, b) == pytest.approx(formula, rel=1e-9)
    assert fid(a, b) == pytest.approx(_torchmetrics_fid(a, b), rel=1e-6)


def test_fid_of_fewer_pictures_than_features_is_exact_where_eigenvalues_are_not():
    """The same points turned: FID of a set with its rotation is known through the small (N, N) problem."""
    a, _ = _sets(n=20, d=256)
    assert abs(fid(a, a)) < 1e-9
    exact = fid(a, a + 3.0)
    assert exact == pytest.approx(256 * 9.0, rel=1e-6)
    loose = abs(_torchmetrics_fid(a, a))
    assert loose > 1e-6, "torchmetrics became exact here: the private formula in fid() may go"


def test_fid_of_gaussians_known_in_closed_form():
    """Diagonal covariances: sum of squared differences of means and of deviations."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((400, 4))
    base = (base - base.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(base.T)).T)  # exactly white
    scale, shift = np.array([1.0, 2.0, 0.5, 3.0]), np.array([0.0, 1.0, -2.0, 0.5])
    expected = (shift**2).sum() + ((scale - 1) ** 2).sum()
    assert fid(torch.from_numpy(base), torch.from_numpy(base * scale + shift)) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 24), st.integers(0, 1000))
def test_fid_is_a_symmetric_distance_that_ignores_order_and_rotation(n, m, d, seed):
    rng = np.random.default_rng(seed)
    a, b = torch.from_numpy(rng.standard_normal((n, d))), torch.from_numpy(rng.standard_normal((m, d)) + 1)
    turn = torch.from_numpy(np.linalg.qr(rng.standard_normal((d, d)))[0])
    value = fid(a, b)
    tolerance = {"rel": 1e-7, "abs": 1e-7}
    assert value >= -1e-9 and fid(a, a) == pytest.approx(0, abs=1e-9)
    assert fid(b, a) == pytest.approx(value, **tolerance)
    assert fid(a[torch.from_numpy(rng.permutation(n))], b) == pytest.approx(value, **tolerance)
    assert fid(a @ turn, b @ turn) == pytest.approx(value, **tolerance)


def test_small_samples_bias_fid_upward_and_leave_kid_at_zero():
    rng = np.random.default_rng(0)
    cloud = torch.from_numpy(rng.standard_normal((4000, 16)))
    halves = [(cloud[:n], cloud[2000 : 2000 + n]) for n in (50, 200, 2000)]
    values = [fid(a, b) for a, b in halves]
    assert values[0] > 3 * values[1] > 9 * values[2] > 0
    estimates = [kid(cloud[i : i + 50], cloud[2000 + i : 2050 + i], 50, 1, 0)[0] for i in range(0, 2000, 50)]
    spread = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates)) < 4 * spread and min(estimates) < 0


def test_kid_equals_the_formula_and_torchmetrics():
    a, b = _sets(60, 60)

    def unbiased(x: np.ndarray, y: np.ndarray) -> float:
        k = [(u @ v.T / x.shape[1] + 1) ** 3 for u, v in ((x, x), (y, y), (x, y))]
        m = len(x)
        off = [(v.sum() - np.trace(v)) / (m * (m - 1)) for v in k[:2]]
        return off[0] + off[1] - 2 * k[2].mean()

    mean, deviation = kid(a, b, subset_size=60, subsets=1, seed=0)
    assert mean == pytest.approx(unbiased(a.double().numpy(), b.double().numpy()), rel=1e-9) and deviation == 0
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(feature=_Identity(12), subsets=3, subset_size=60)
    metric.update(a.double(), real=True)
    metric.update(b.double(), real=False)
    assert mean == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def test_kid_is_the_mean_over_its_seeded_subsets():
    a, b = _sets(60, 50)
    rng = np.random.default_rng(7)
    values = []
    for _ in range(5):
        i, j = rng.permutation(60)[:20], rng.permutation(50)[:20]
        values.append(kid(a[i], b[j], 20, 1, 0)[0])
    mean, deviation = kid(a, b, subset_size=20, subsets=5, seed=7)
    assert mean == pytest.approx(np.mean(values)) and deviation == pytest.approx(np.std(values))
    assert kid(a, b, 20, 5, 8)[0] != mean


def test_inception_score_equals_torchmetrics_and_known_cases():
    from torchmetrics.image.inception import InceptionScore

    rng = np.random.default_rng(0)
    logits = torch.from_numpy(3 * rng.standard_normal((90, 10)))
    metric = InceptionScore(feature=_Identity(10), splits=1)
    metric.update(logits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = float(metric.compute()[0])
    assert inception_score(logits, 1, 0)[0] == pytest.approx(theirs, rel=1e-9)
    sure = 1000 * torch.eye(10).repeat(6, 1)
    assert inception_score(sure, 1, 0) == (pytest.approx(10.0), 0.0)
    assert inception_score(torch.zeros(40, 10), 4, 0)[0] == pytest.approx(1.0)
    parts = logits[torch.from_numpy(np.random.default_rng(3).permutation(90))].tensor_split(4)
    values = [inception_score(part, 1, 0)[0] for part in parts]
    assert inception_score(logits, 4, 3) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))
    by_class = torch.cat([sure[i::10] for i in range(10)])  # sorted by class: splitting unshuffled would give 1
    assert inception_score(by_class, 6, 0)[0] > 4


def test_nothing_touches_the_global_generators():
    a, b = _sets(40, 40)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = kid(a, b, 20, 4, 1), inception_score(a, 3, 1), fid(a, b)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    assert (kid(a, b, 20, 4, 1), inception_score(a, 3, 1), fid(a, b)) == first


def test_patches_tile_the_picture_and_count_the_remainder():
    x = torch.arange(2 * 3 * 7 * 10, dtype=torch.float32).view(2, 3, 7, 10)
    cut, lost = patches(x, 3)
    assert cut.shape == (2 * 2 * 3, 3, 3, 3) and lost == 2 * (7 * 10 - 6 * 9)
    assert torch.equal(cut[0], x[0, :, :3, :3])
    assert torch.equal(cut[1], x[0, :, :3, 3:6])
    assert torch.equal(cut[3], x[0, :, 3:6, :3])
    assert torch.equal(cut[6], x[1, :, :3, :3])
    assert patches(x, 1)[0].sum() == x.sum() and patches(x, 1)[1] == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fid(torch.zeros(1, 4), torch.zeros(5, 4)), "N of 2 or more"),
        (lambda: fid(torch.zeros(5, 4), torch.zeros(5, 3)), "one network for both"),
        (lambda: fid(torch.zeros(5, 4, 1), torch.zeros(5, 4)), r"accepted: \(N, d\)"),
        (lambda: fid(torch.full((5, 4), float("nan")), torch.zeros(5, 4)), "NaN"),
        (lambda: kid(torch.zeros(5, 4), torch.zeros(9, 4), 6, 1, 0), "sets of 5 and 9"),
        (lambda: kid(torch.zeros(5, 4), torch.zeros(9, 4), 5, 0, 0), "1 subset or more"),
        (lambda: inception_score(torch.zeros(5, 4), 6, 0), "1 to 5"),
        (lambda: patches(torch.zeros(1, 3, 8, 8), 9), "9 px"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(call, words):
    with pytest.raises(ReproError, match=words):
        call()


def test_paired_kid_is_the_u_statistic_of_pairs():
    generator = torch.Generator().manual_seed(0)
    a, noise = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    b = a + 0.3 * noise

    def k(x, y):
        return float((x @ y / 5 + 1) ** 3)

    naive = [
        sum(k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i]) for j in range(7) if j != i) / 6
        for i in range(7)
    ]
    assert paired_kid(a, b).tolist() == pytest.approx(naive, rel=1e-6)
    assert paired_kid(a, a).abs().max() < 1e-12  # nothing between equal sets, where `kid` falls below zero
    assert kid(a, a, 7, 1, 0)[0] < 0
    with pytest.raises(ReproError, match="as many"):
        paired_kid(a, b[:5])
