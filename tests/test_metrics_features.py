"""The feature networks: real ones know what they see, all are held to one interface, and the traps table."""

from __future__ import annotations

import pytest
import torch
from metrics_pictures import noisy, picture, pictures
from torch import nn

from repro.errors import ReproError
from repro.metrics import features
from repro.metrics.distribution import fid, kid, patches
from repro.metrics.features import as_module, classifier, efficientnet_lite0, extract, inception
from repro.metrics.protocols import protocol, score
from repro.metrics.traps import degraded, jpeg, pixel_traps

EGYPTIAN_CAT, TABBY, ESPRESSO = 285, 281, 967


class _Tiny(nn.Module):
    """The interface of this repository's classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.seen: list[tuple[float, float]] = []

    def features(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((x.min().item(), x.max().item()))
        return x.unflatten(3, (2, -1)).mean(dim=(1, 4)).flatten(1)[:, :4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def test_efficientnet_recognises_a_cat_and_a_coffee():
    net = efficientnet_lite0()
    logits = torch.cat([extract(net, picture(name), "logits") for name in ("chelsea", "coffee")])
    cat, coffee = logits.softmax(dim=1)
    assert cat.argmax() == EGYPTIAN_CAT and cat.topk(3).indices[-1] == TABBY
    assert coffee.argmax() == ESPRESSO
    # Seen here with the network's own preprocessing; another offset or scale moves them by several hundredths.
    assert cat[EGYPTIAN_CAT].item() == pytest.approx(0.771, abs=0.01)
    assert coffee[ESPRESSO].item() == pytest.approx(0.886, abs=0.01)


def test_efficientnet_features_do_not_depend_on_the_batch_and_order_degradations():
    net, x = efficientnet_lite0(), patches(pictures(128)[:2], 64)[0]  # (8, 3, 64, 64)
    real = extract(net, x)
    assert real.shape == (8, net.dim) and protocol(f"fid/{net.name}").kind == "distribution"
    torch.testing.assert_close(extract(net, x[:3], batch=2), real[:3], rtol=1e-4, atol=1e-5)
    sets = [extract(net, noisy(x, level)) for level in (0.05, 0.3)]
    distances = [fid(real, s) for s in sets]
    assert distances == sorted(distances) and distances[0] > 0
    kernels = [kid(real, s, 8, 1, 0)[0] for s in sets]
    assert kernels == sorted(kernels)


def test_torchmetrics_takes_the_same_network():
    from torchmetrics.image.fid import FrechetInceptionDistance

    torch.manual_seed(0)
    net = classifier(_Tiny(), dim=4)
    a, b = torch.rand(40, 1, 2, 4), torch.rand(50, 1, 2, 4).sqrt()
    metric = FrechetInceptionDistance(feature=as_module(net), normalize=True)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert fid(extract(net, a), extract(net, b)) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_a_classifier_is_shown_minus_one_to_one():
    module = _Tiny()
    net = classifier(module, dim=4)
    x = torch.stack([torch.zeros(1, 2, 4), torch.ones(1, 2, 4)])
    assert extract(net, x).shape == (2, 4) and extract(net, x, "logits").shape == (2, 3)
    assert set(module.seen) == {(-1.0, 1.0)}


def test_inception_without_weights_says_what_to_download(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ReproError, match=r"download https://.*6726825d.pth"):
        inception()
    (tmp_path / "w.pth").write_bytes(b"something else")
    with pytest.raises(ReproError, match="6726825d"):
        inception(tmp_path / "w.pth")


def test_a_changed_weight_file_is_refused(tmp_path):
    (tmp_path / "efficientnet.pth").write_bytes(b"something else")
    with pytest.raises(ReproError, match="as the package ships it"):
        features._verify(tmp_path / "efficientnet.pth", "0" * 64)


@pytest.mark.parametrize(
    ("images", "what", "words"),
    [
        (torch.rand(2, 3, 2, 4), "features", r"\(N, 1, H, W\)"),
        (torch.rand(2, 1, 2, 4) * 2 - 1, "features", r"accepted: \[0, 1\]"),
        (torch.zeros(2, 1, 2, 4, dtype=torch.uint8), "features", "uint8"),
        (torch.rand(2, 1, 2, 4), "colours", "gives no 'colours'"),
    ],
)
def test_pictures_a_network_cannot_take_are_refused(images, what, words):
    with pytest.raises(ReproError, match=words):
        extract(classifier(_Tiny(), dim=4), images, what)


# ---- traps


def test_every_trap_costs_something_and_in_the_direction_the_table_says():
    x = pictures(96)
    rows = {(row.protocol, row.name): row for row in pixel_traps(degraded(x), x)}
    cost = {key: row.cost for key, row in rows.items()}
    assert all(abs(value) > 1e-4 for value in cost.values()), cost
    assert all(protocol(name).kind == "reference" for name, _ in rows)
    assert cost["psnr/rgb", "luma instead of RGB"] > 1.0
    assert cost["psnr/rgb", "both through JPEG quality 100"] > 0.5
    assert cost["psnr/rgb", "one MSE for the whole set"] < 0  # Jensen
    assert cost["ssim/rgb-wang", "MATLAB's ssim on an HxWx3 array"] > 0.02
    assert cost["lpips/alex-v0.1", "fed [0, 1] instead of [-1, 1]"] < -0.01
    assert rows["psnr/rgb", "luma instead of RGB"].right == score("psnr/rgb", degraded(x), x).mean().item()


def test_the_stand_in_outputs_are_the_same_alone_and_in_a_batch():
    x = pictures(64)
    assert torch.equal(degraded(x)[:2], degraded(x[:2])) and not torch.equal(degraded(x), degraded(x, seed=1))
    assert (jpeg(x, 100) - x).abs().mean() < 0.02
