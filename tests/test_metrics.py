"""Scores of images and of sets against scikit-image, scikit-video, LPIPS' package, scipy and torchmetrics."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from tiny import refused
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import ReproError
from repro.metrics import pixel
from repro.metrics.features import (
    classifier,
    efficientnet_lite0,
    extract,
    fid,
    inception,
    inception_score,
    kid,
    paired_kid,
)
from repro.metrics.pixel import lpips, lpips_network, niqe
from repro.metrics.protocols import PROTOCOLS, degraded, pixel_traps, score


def picture(name: str, size: int | None = None) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1]; `size` shrinks it to a square."""
    from skimage import data

    image = torch.from_numpy(np.array(getattr(data, name)())).permute(2, 0, 1)[None].float() / 255
    return image if size is None else F.interpolate(image, size=(size, size), mode="area")


def pictures(size: int) -> Tensor:
    """(4, 3, size, size) float32 in [0, 1]."""
    return torch.cat([picture(name, size) for name in ("astronaut", "chelsea", "coffee", "rocket")])


def noisy(images: Tensor, level: float, seed: int = 0) -> Tensor:
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(images.shape))).to(images.dtype)
    return (images + level * noise).clamp(0, 1)


REFERENCED = [name for name, each in PROTOCOLS.items() if each.reference]


def _pair(name: str, size: int = 48, level: float = 0.1):
    x = pictures(size)[:, : PROTOCOLS[name].channels]
    return noisy(x, level), x


def _each(*batches):
    return zip(*(batch.double().numpy() for batch in batches), strict=True)


@pytest.mark.parametrize("shape", [(48, 48), (31, 57), (11, 11)])
def test_ssim_psnr_and_luma_equal_scikit_image(shape):
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    wang = dict(channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    reference = pictures(64)[:, :, : shape[0], : shape[1]]
    image = noisy(reference, 0.15)
    for i, (a, b) in enumerate(_each(image, reference)):
        y_a, y_b = (rgb2ycbcr(v, channel_axis=0)[:1] / 255 for v in (a, b))
        theirs = {
            "ssim/rgb-wang": structural_similarity(a, b, **wang),
            "ssim/y-wang": structural_similarity(y_a, y_b, **wang),
            "ssim/rgb-uniform7": structural_similarity(a, b, channel_axis=0, data_range=1.0),
            "psnr/rgb": peak_signal_noise_ratio(b, a, data_range=1.0),
            "l1/rgb01": abs(a - b).mean(),
            "psnr/y": peak_signal_noise_ratio(y_b, y_a, data_range=1.0),
        }
        for name, value in theirs.items():
            assert score(name, image, reference)[i].item() == pytest.approx(value, abs=1e-9), name


def test_ssim_3d_equals_scipys_three_dimensional_gaussian():
    image, reference = _pair("ssim/rgb-matlab3d", 24)

    def blur(v):
        return gaussian_filter(v, 1.5, mode="nearest", radius=5)

    for (a, b), got in zip(_each(image, reference), score("ssim/rgb-matlab3d", image, reference), strict=True):
        mu_a, mu_b = blur(a), blur(b)
        var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
        top = (2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
        value = (top / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean()
        assert abs(value - got.item()) < 1e-9


def test_uint8_protocols_round_to_eight_bits():
    x = pictures(32)
    eight = (x * 255).round() / 255
    for step in (0.4, -0.4):  # rounds back to the same bytes
        shifted = (eight + step / 255).clamp(0, 1)
        assert torch.isinf(score("psnr/rgb-uint8", shifted, eight)).all()
        assert torch.isinf(score("psnr/y-uint8", shifted, eight)).all()
        assert torch.isfinite(score("psnr/rgb", shifted, eight)).all()
    y = pixel.luma_uint8(x.double()) * 255
    assert (y - y.round()).abs().max() < 1e-9


@pytest.mark.parametrize("name", REFERENCED)
def test_perfect_score_symmetry_order_and_batches(name):
    _, x = _pair(name)
    perfect = {"psnr": float("inf"), "ssim": 1.0}.get(name.split("/")[0], 0.0)
    assert torch.allclose(score(name, x, x), torch.full((4,), perfect, dtype=torch.float64), atol=1e-12)
    levels = [score(name, noisy(x, level), x) for level in (0.02, 0.1, 0.4)]
    sign = 1 if name.startswith(("psnr", "ssim")) else -1
    assert all((sign * (a - b) > 0).all() for a, b in pairwise(levels))
    y, tolerance = noisy(x, 0.1), {"rtol": 1e-5, "atol": 1e-7} if "lpips" in name else {"rtol": 1e-12, "atol": 0}
    together = score(name, y, x)
    assert together.dtype == torch.float64 and together.shape == (4,)
    torch.testing.assert_close(score(name, x, y), together, **tolerance)
    torch.testing.assert_close(torch.cat([score(name, y[i], x[i]) for i in range(4)]), together, **tolerance)


UNIT = torch.full((1, 3, 8, 8), 0.5)


def test_input_that_cannot_work_is_refused_in_one_sentence():
    cases = {
        "metric protocol 'psnr' is unknown: choose one of l1/rgb01": ("psnr", UNIT, UNIT),
        "one shape": ("psnr/rgb", UNIT, torch.rand(1, 3, 8, 9)),
        r"accepted: \(B, 3, H, W\)": ("psnr/rgb", UNIT[:, :1], UNIT),
        r"accepted: \[0, 1\]": ("psnr/rgb", UNIT - 1, UNIT),
        "nan": ("psnr/rgb", UNIT * torch.nan, UNIT),
        "divide 8-bit values by 255": ("psnr/rgb", UNIT.byte(), UNIT),
        "11 px a side": ("ssim/rgb-wang", torch.rand(1, 3, 10, 30), torch.rand(1, 3, 10, 30)),
        "192 px a side": ("niqe/y-skvideo", torch.rand(1, 3, 191, 300), None),
        "needs a reference": ("psnr/rgb", UNIT, None),
        "takes no reference": ("niqe/y-skvideo", torch.rand(1, 3, 200, 200), torch.rand(1, 3, 200, 200)),
    }
    refused(cases, score)


def test_every_trap_costs_something_and_in_the_direction_the_table_says():
    x = pictures(96)
    assert torch.equal(degraded(x)[:2], degraded(x[:2])) and not torch.equal(degraded(x), degraded(x, seed=1))
    rows = pixel_traps(degraded(x), x)
    cost = {(row.protocol.split("/")[0], row.name): row.cost for row in rows}
    assert all(abs(value) > 1e-4 for value in cost.values()), cost
    assert cost["psnr", "luma instead of RGB"] > 1.0 and cost["psnr", "both through JPEG quality 100"] > 0.5
    assert cost["psnr", "one MSE for the whole set"] < 0  # Jensen
    assert cost["ssim", "MATLAB's ssim on an HxWx3 array"] > 0.02
    assert cost["lpips", "fed [0, 1] instead of [-1, 1]"] < -0.01
    assert rows[0].right == score("psnr/rgb", degraded(x), x).mean().item()


# --- LPIPS ------------------------------------------------------------------------------------------------------------


def test_lpips_equals_the_package():
    """With the shipped trunk: within 1e-3 as stored (heads in fp16), to rounding once the heads agree."""
    import lpips as package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    ours = lpips_network.__wrapped__()  # not remembered
    own = {name.split(".", 1)[1]: name for name in theirs.net.state_dict()}
    trunk = {n.split(".", 1)[1]: p for n, p in ours.state_dict().items() if n.startswith("features.")}
    theirs.net.load_state_dict({own[name]: value for name, value in trunk.items()})
    for size in (31, 64):
        x = pictures(size)
        for y in (noisy(x, 0.02), noisy(x, 0.3), F.interpolate(F.avg_pool2d(x, 4), size=(size, size)), x.flip(0)):
            with torch.no_grad():
                wanted = theirs(2 * y - 1, 2 * x - 1).flatten()
            torch.testing.assert_close(score("lpips/alex-v0.1", y, x), wanted.double(), atol=1e-3, rtol=0)
    for i, head in enumerate(ours.heads):
        head.data = theirs.lins[i].model[1].weight.flatten()
    with torch.no_grad():
        torch.testing.assert_close(ours(2 * y - 1, 2 * x - 1), wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(lpips(y, x, batch=1), lpips(y, x, batch=3), rtol=1e-5, atol=1e-7)


def test_damaged_lpips_weights_are_one_sentence(tmp_path, monkeypatch):
    whole = (pixel.WEIGHTS / "lpips-alexnet/model.npz").read_bytes()
    monkeypatch.setattr(pixel, "WEIGHTS", tmp_path)
    file = tmp_path / "lpips-alexnet/model.npz"
    file.parent.mkdir()
    for damage in (None, b"", whole[:9000]):
        if damage is not None:
            file.write_bytes(damage)
        with pytest.raises(ReproError, match=r"model\.npz: damaged .*git checkout"):
            lpips_network.__wrapped__()


# --- NIQE -------------------------------------------------------------------------------------------------------------

# scikit-video 1.1.11's own skvideo.measure.niqe, run once by hand on the rounded Y of scikit-image's images. The
# wheel does not run on current numpy, so np.int was set to int and scipy.misc.imresize replaced by the Pillow call it
# was. First number: its code with float32 read as float64 throughout; second: as it is, in float32, where rounding
# noise in flat regions moves the result.
SKVIDEO = {
    ("astronaut", "clean"): (8.719317271, 8.664867401),
    ("astronaut", "blur"): (14.197710102, 14.193351746),
    ("chelsea", "clean"): (11.496311027, 11.496762276),
    ("chelsea", "blur"): (21.356048308, 21.358932495),
    ("coffee", "clean"): (8.508208662, 8.506728172),
    ("coffee", "blur"): (14.733379269, 14.743754387),
}


def _blur(image: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(image, 5, 1, 2)


@pytest.mark.parametrize("key", SKVIDEO, ids="-".join)
def test_niqe_equals_scikit_video(key):
    name, kind = key
    image = picture(name).double()
    ours = niqe(image if kind == "clean" else _blur(image)).item()
    double, single = SKVIDEO[key]
    # The clean astronaut has saturated regions, where scikit-video counts rounding noise and this project counts zeros.
    assert ours == pytest.approx(double, rel=1e-2 if key == ("astronaut", "clean") else 1e-3)
    assert ours == pytest.approx(single, rel=1e-2)


def test_niqe_of_batches_and_flat_pictures():
    x = torch.cat([picture(name)[:, :, :288, :288] for name in ("astronaut", "chelsea", "coffee")])
    clean = niqe(x)
    assert clean.shape == (3,) and clean.dtype == torch.float64 and (niqe(noisy(x, 0.2)) > clean).all()
    torch.testing.assert_close(torch.cat([niqe(x[i : i + 1]) for i in range(3)]), clean, rtol=1e-9, atol=0)
    x[:, :, :, :140] = 0.5
    assert torch.isfinite(niqe(x)).all()


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
    mean = kid(a, b, subset_size=60, subsets=1, seed=0)
    assert mean == pytest.approx(_torchmetrics("kid", a, b, subsets=3, subset_size=60), rel=1e-9)
    rng = np.random.default_rng(7)
    values = [kid(a[rng.permutation(60)[:20]], b[rng.permutation(60)[:20]], 20, 1, 0) for _ in range(5)]
    assert kid(a, b, 20, 5, 7) == pytest.approx(np.mean(values))


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
    assert paired_kid(a, a).abs().max() < 1e-12 and kid(a, a, 7, 1, 0) < 0  # nothing between equal sets


def test_inception_score_equals_torchmetrics_and_known_cases():
    logits = torch.from_numpy(3 * np.random.default_rng(0).standard_normal((90, 10)))
    assert inception_score(logits) == pytest.approx(_torchmetrics("is", logits, splits=1), rel=1e-9)
    assert inception_score(1000 * torch.eye(10).repeat(6, 1)) == pytest.approx(10.0)


FIVE = torch.zeros(5, 4)


def test_sets_that_cannot_be_measured_are_refused():
    refused({"N of 2 or more": lambda: fid(FIVE[:1], FIVE), "NaN": lambda: fid(FIVE * torch.nan, FIVE)})
    refused({r"fashion-classifier: .*accepted: \(B, 1, H, W\)": UNIT}, lambda x: extract(classifier(_Tiny()), x))


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
    assert real.shape == (4, 1280)
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
