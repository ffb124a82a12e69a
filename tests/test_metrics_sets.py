"""FID, KID and IS against numpy, scipy and torchmetrics, and on cases known exactly; the feature networks."""

import warnings

import numpy as np
import pytest
import torch
from metrics_pictures import noisy, picture, pictures
from scipy.linalg import sqrtm
from torch import nn

from repro.errors import ReproError
from repro.metrics.distribution import fid, inception_score, kid, paired_kid
from repro.metrics.features import classifier, efficientnet_lite0, extract, inception
from repro.metrics.protocols import protocol


def _sets(n: int = 200, m: int = 150, d: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((d, d))
    return (
        torch.from_numpy(rng.standard_normal((n, d)) @ mix),
        torch.from_numpy(rng.standard_normal((m, d)) @ mix * 1.3 + 0.4),
    )


class _Identity(nn.Module):
    """Features in place of images, as torchmetrics' classes take a network."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _torchmetrics(metric: str, *sets: torch.Tensor, **options) -> float:
    from torchmetrics.image import fid, inception, kid

    classes = {"fid": fid.FrechetInceptionDistance, "kid": kid.KernelInceptionDistance, "is": inception.InceptionScore}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure = classes[metric](feature=_Identity(sets[0].shape[1]), **options)
        for features, real in zip(sets, (True, False), strict=False):
            measure.update(features, **({} if metric == "is" else {"real": real}))
        value = measure.compute()
    return float(value if metric == "fid" else value[0])


def test_fid_equals_scipys_matrix_root_and_torchmetrics():
    a, b = _sets()
    x, y = a.numpy(), b.numpy()
    root = sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    formula = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert fid(a, b) == pytest.approx(formula, rel=1e-9)
    assert fid(a, b) == pytest.approx(_torchmetrics("fid", a, b), rel=1e-6)


def test_fid_of_fewer_pictures_than_features_is_exact_where_eigenvalues_are_not():
    a, _ = _sets(n=20, d=256)
    assert abs(fid(a, a)) < 1e-9 and fid(a, a + 3.0) == pytest.approx(256 * 9.0, rel=1e-6)
    assert abs(_torchmetrics("fid", a, a)) > 1e-6, "torchmetrics became exact here: the private formula in fid() may go"


def test_kid_equals_torchmetrics_and_is_the_mean_over_seeded_subsets():
    a, b = _sets(60, 60)
    mean, deviation = kid(a, b, subset_size=60, subsets=1, seed=0)
    assert mean == pytest.approx(_torchmetrics("kid", a, b, subsets=3, subset_size=60), rel=1e-9) and deviation == 0
    rng = np.random.default_rng(7)
    values = [kid(a[rng.permutation(60)[:20]], b[rng.permutation(60)[:20]], 20, 1, 0)[0] for _ in range(5)]
    assert kid(a, b, 20, 5, 7) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))


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
    assert paired_kid(a, a).abs().max() < 1e-12 and kid(a, a, 7, 1, 0)[0] < 0  # nothing between equal sets


def test_inception_score_equals_torchmetrics_and_known_cases():
    logits = torch.from_numpy(3 * np.random.default_rng(0).standard_normal((90, 10)))
    assert inception_score(logits, 1, 0)[0] == pytest.approx(_torchmetrics("is", logits, splits=1), rel=1e-9)
    sure = 1000 * torch.eye(10).repeat(6, 1)
    assert inception_score(sure, 1, 0) == (pytest.approx(10.0), 0.0)
    parts = logits[torch.from_numpy(np.random.default_rng(3).permutation(90))].tensor_split(4)
    values = [inception_score(part, 1, 0)[0] for part in parts]
    assert inception_score(logits, 4, 3) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))
    by_class = torch.cat([sure[i::10] for i in range(10)])  # sorted by class: splitting unshuffled would give 1
    assert inception_score(by_class, 6, 0)[0] > 4


FIVE, TAKES = torch.zeros(5, 4), r"accepted: floats \(N, 1, H, W\) in \[0, 1\]"


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (fid, (FIVE[:1], FIVE), "N of 2 or more"),
        (fid, (FIVE * torch.nan, FIVE), "NaN"),
        (kid, (FIVE, torch.zeros(9, 4), 6, 1, 0), "sets of 5 and 9"),
        (inception_score, (FIVE, 6, 0), "1 to 5"),
        (lambda x: extract(classifier(_Tiny()), x), (torch.rand(2, 3, 2, 4),), TAKES),
        (lambda x: extract(classifier(_Tiny()), x), (torch.rand(2, 1, 2, 4) - 1,), TAKES),
        (lambda x: extract(classifier(_Tiny()), x), (torch.zeros(2, 1, 2, 4, dtype=torch.uint8),), TAKES),
    ],
)
def test_sets_that_cannot_be_measured_are_refused(function, arguments, words):
    with pytest.raises(ReproError, match=words):
        function(*arguments)


# --- feature networks -------------------------------------------------------------------------------------------------

EGYPTIAN_CAT, TABBY, ESPRESSO = 285, 281, 967


def test_efficientnet_recognises_a_cat_and_a_coffee_and_orders_degradations():
    net = efficientnet_lite0()
    logits = torch.cat([extract(net, picture(name), "logits") for name in ("chelsea", "coffee")])
    cat, coffee = logits.softmax(dim=1)
    assert cat.argmax() == EGYPTIAN_CAT and cat.topk(3).indices[-1] == TABBY and coffee.argmax() == ESPRESSO
    # Measured here with the network's own preprocessing; another offset or scale moves them by several hundredths.
    assert cat[EGYPTIAN_CAT].item() == pytest.approx(0.771, abs=0.01)
    assert coffee[ESPRESSO].item() == pytest.approx(0.886, abs=0.01)

    x = pictures(64)  # (4, 3, 64, 64)
    real = extract(net, x)
    assert real.shape == (4, 1280) and protocol(f"fid/{net.name}").kind == "distribution"
    torch.testing.assert_close(extract(net, x[:3], batch=2), real[:3], rtol=1e-4, atol=1e-5)
    weak, strong = (extract(net, noisy(x, level)) for level in (0.05, 0.3))
    assert 0 < fid(real, weak) < fid(real, strong) and kid(real, weak, 4, 1, 0) < kid(real, strong, 4, 1, 0)


class _Tiny(nn.Module):
    """The interface of this repository's classifier: its features are two pixels."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * self.features(x)


def test_a_classifier_gets_minus_one_to_one():
    net, x = classifier(_Tiny()), torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 4)
    assert extract(net, x)[:, 0].tolist() == [-1, 0, 1] and extract(net, x, "logits")[:, 1].tolist() == [-3, 0, 3]


def test_missing_and_changed_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ReproError, match=r"download https://.*6726825d.pth"):
        inception()
    (tmp_path / "w.pth").write_bytes(b"something else")
    with pytest.raises(ReproError, match=r"6726825d\.\.\. of published weights"):
        inception(tmp_path / "w.pth")
