"""RDDM's published experiments: the settings, the real layouts in small, MATLAB's way of measuring, the whole path."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from deepinv.physics import DownsamplingMatlab
from PIL import Image
from tiny import noises

from repro.data import datasets
from repro.data.datasets import LAYOUTS, read_split
from repro.data.files import equalised
from repro.data.images import read_image, resize
from repro.engine import evaluation
from repro.engine.checkpoint import experiments, run
from repro.engine.records import upsert
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.metrics import features
from repro.metrics.pixel import imresize
from repro.metrics.protocols import score
from repro.rddm.study import experiments as rddm
from repro.rddm.study import measure


def tiny(name: str, images: int = 6, batch: int = 2, **changes) -> rddm.TaskConfig:
    """A published task with a tiny network of the same class and a training of a few steps on one thread."""
    found = rddm.PAPER[name]
    recipe = dataclasses.replace(found.recipe, images=images, batch=batch, threads=1)
    network = {**found.network, "dim": 8, "mults": (1, 2)}
    return dataclasses.replace(found, **{"network": network, "side": 16, "recipe": recipe, **changes})


def png(colour: float, width: int = 24, height: int = 20, seed: int = 0) -> bytes:
    """An image of its own, around a grey."""
    noise = np.random.default_rng(seed).normal(0, 0.05, (height, width, 3))
    out = io.BytesIO()
    Image.fromarray(((colour + noise).clip(0, 1) * 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def fill(folder, names, colour, **size) -> None:
    """Files of a folder; every name has its own image, repeated after the seventh to save time."""
    folder.mkdir(parents=True)
    some = [png(colour, seed=i, **size) for i in range(7)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(some[i % 7])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The real layouts of LOL, RainDrop and ISTD with fewer and tiny images: thousands take long to write."""
    root = tmp_path_factory.mktemp("data")
    for part, count in (("our485", 20), ("eval15", 15)):
        fill(root / "lol" / part / "low", [f"{i}.png" for i in range(count)], 0.1)
        fill(root / "lol" / part / "high", [f"{i}.png" for i in range(count)], 0.6)
    for part, count in (("train", 20), ("test_a", 9)):
        fill(root / "raindrop" / part / "data", [f"{i}_rain.png" for i in range(count)], 0.6)
        fill(root / "raindrop" / part / "gt", [f"{i}_clean.png" for i in range(count)], 0.5)
    for letter, colour in (("A", 0.3), ("B", 0.9), ("C", 0.6)):
        fill(root / "istd" / "train" / f"train_{letter}", [f"{i}-1.png" for i in range(20)], colour)
    with pytest.MonkeyPatch.context() as patch:
        trained = ("train/data", "train/gt", "our485/low", "our485/high", *(f"train/train_{x}" for x in "ABC"))
        counts = dict.fromkeys(trained, 20) | dict.fromkeys(("test_a/data", "test_a/gt"), 9)
        for name in ("lol", "raindrop", "istd"):
            layout = LAYOUTS[name]
            parts = tuple(dataclasses.replace(p, count=counts.get(p.label, p.count)) for p in layout.parts)
            patch.setitem(LAYOUTS, name, dataclasses.replace(layout, parts=parts))
        patch.setenv("REPRO_DATA", str(root))
        yield root


EXACT = {  # parameters, images of the training, sum_scale
    "raindrop": (72_522_374, 240_000, 1.0),
    "lol": (36_261_187, 160_000, 1.0),
    "istd": (72_541_190, 160_000, 0.01),
    "gopro": (72_522_374, 160_000, 1.0),
    "sid-rgb": (36_261_187, 160_000, 1.0),
    "celeba64": (72_503_558, 25_600_000, 1.0),
    "celeba64-two-stage": (72_503_558, 25_600_000, 0.99996),
    "inpainting": (72_503_558, 12_800_000, 1.0),
    "dog-to-cat": (72_503_558, 12_800_000, 0.99996),
}


@pytest.mark.parametrize("name", rddm.PAPER)
def test_settings_are_built_with_pinned_numbers(name):
    task = rddm.PAPER[name]
    with torch.device("meta"):
        net, x = rddm.build_network(task, task.variants[0]), torch.zeros(1, 3, 64, 64)
        cond = torch.zeros(1, 3 + net.config.mask_channels, 64, 64) if net.config.condition else None
        assert net(x, torch.zeros(1), cond).sample.shape[1] == (3 if task.variants[0] == "smres" else 6)
    assert (sum(p.numel() for p in net.parameters()), task.recipe.images) == EXACT[name][:2]
    table, recipe = rddm.learning_of(task, task.variants[0]).schedule, task.recipe
    assert table.sum_scale == pytest.approx(EXACT[name][2], abs=5e-6)
    assert table.T == 1000 and recipe.clip == 1.0 and recipe.betas == (0.9, 0.99) and recipe.precision == "fp32"
    assert recipe.batch == {"celeba64": 256, "celeba64-two-stage": 256}.get(name, 2 if task.side == 256 else 128)
    assert 0.5 ** (10 * recipe.batch / recipe.ema) == pytest.approx(0.995, abs=1e-12)
    assert recipe.lr_at(recipe.images) == recipe.lr == (8e-5 if task.side == 256 else 2e-4)
    assert task.norm == ("l1" if task.side == 256 else "l2") and recipe.warmup == 200 * recipe.batch * (task.side == 64)


def test_every_published_task_is_an_experiment_under_the_strategies_that_the_report_compares():
    names = {e.name for e in experiments("rddm") if e.profile == "paper"}
    strategies = ("smres", "smn", "smresn")
    wanted = {rddm.name_of(t, s, 0, "paper") for t in ("celeba64", "lol", "raindrop") for s in strategies}
    assert wanted < names and len(names) == len(rddm.PAPER) + 6
    with pytest.raises(ReproError, match="'sid-rgb' cannot be read: how the raw files"):
        rddm.read(rddm.PAPER["sid-rgb"], "train")


def test_lol_is_squeezed_and_equalised(data):
    lol = rddm.PAPER["lol"]
    found = rddm.read(lol, "train")
    assert found.size == 20 and rddm.read(lol, "test").size == 15 and len(set(found.ids)) == 20
    y, x0 = found.inputs[3], found.targets[3]
    assert y.shape == x0.shape == (3, 256, 256)
    name = found.inputs.files[3]
    assert name.stem == found.targets.files[3].stem == found.ids[3]
    eight = (resize(equalised(read_image(name)), (256, 256)) * 255).round() / 255
    torch.testing.assert_close(y, eight, rtol=0, atol=1e-6)
    assert y.mean() > 0.4  # from around 0.1
    plain = rddm.read(dataclasses.replace(lol, equalise=False), "train")
    assert plain.inputs[3].mean() < 0.15 and torch.equal(plain.targets[3], x0)
    assert rddm.read(lol, "test", full=True).inputs[0].shape == (3, 20, 24)


def test_histogram_equalisation_by_opencvs_rule():
    """Worked by hand: values 10, 10, 20, 30 of which two are the darkest."""
    grey = torch.tensor([[10, 10], [20, 30]]) / 255
    out = (equalised(torch.stack([grey, grey.flip(0), torch.full((2, 2), 77 / 255)])) * 255).round()
    assert out[0].tolist() == [[0, 0], [128, 255]]  # 1/2 of 255 is 127.5, rounded to even
    assert torch.equal(out[1], out[0].flip(0)) and out[2].unique().tolist() == [77]
    dark = KeyedNoise(0, [0], "dark").uniform((3, 64, 64))[0].square() * 0.6
    for channel, flat in zip(dark, equalised(dark), strict=True):
        assert (torch.histc(flat, 8, 0, 1) / flat.numel() - 1 / 8).abs().max() < 0.04
        assert (flat.flatten()[channel.flatten().argsort(stable=True)].diff() >= 0).all()  # no two pixels change places


def test_raindrop_is_tested_on_a_and_paired_by_number(data):
    found = rddm.read(rddm.PAPER["raindrop"], "test", full=True)
    assert found.size == 9
    for given, clean in zip(found.inputs.files, found.targets.files, strict=True):
        assert given.stem.removesuffix("_rain") == clean.stem.removesuffix("_clean")
        assert given.parent.parent.name == "test_a"
    assert rddm.read(rddm.PAPER["raindrop"], "train").size == 20
    with pytest.raises(ReproError, match=r"test_b.*0 images found"):
        read_split("raindrop", "test_b")  # has to be asked for by its name
    with pytest.raises(ReproError, match="split 'test-b' is unknown: choose one of train, test, test_b"):
        read_split("raindrop", "test-b")


def test_istd_brings_its_mask(data):
    shadow = tiny("istd")
    found = rddm.read(shadow, "train")
    assert found.size == len(found.masks.files) == 20 and found.masks[0].mean() > 0.85
    assert all(m.stem == i.stem for m, i in zip(found.masks.files, found.inputs.files, strict=True))
    assert rddm.read(dataclasses.replace(shadow, network={}), "train").masks is None
    learns, seen, net = rddm.training_task(shadow, "smresn"), [], rddm.build_network(shadow, "smresn")
    net.res_net.conv_in.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    loss = learns.loss(net, torch.tensor([0, 1]), noises(range(2)))
    x0, y, mask = learns.pair(torch.tensor([0, 1]), noises(range(2)))
    assert loss.shape == (2,) and seen[0].shape == (2, 9, 16, 16) and mask.shape == x0.shape
    assert torch.equal(seen[0][:, 3:6], y) and torch.equal(seen[0][:, 6:], mask)


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """Eight aligned faces, four of them for training, two for testing."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    names = [f"{i:06d}.jpg" for i in range(1, 9)]
    fill(folder, names, 0.4, width=178, height=218)
    listed = "".join(f"{name} {part}\n" for name, part in zip(names, (0, 0, 0, 0, 1, 1, 2, 2), strict=True))
    (folder.parent / "list_eval_partition.txt").write_text(listed)
    monkeypatch.setattr(datasets, "CELEBA", {"train": 4, "validation": 2, "test": 2})
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    return folder.parent


def test_celeba_is_cropped_around_the_face():
    rows, columns = torch.meshgrid(torch.arange(218.0), torch.arange(178.0), indexing="ij")
    place = torch.stack([rows / 217, columns / 177, torch.zeros_like(rows)])
    crop = datasets.face(place)
    assert crop.shape == (3, 64, 64)
    middle = crop[:2, 31:33, 31:33].mean(dim=(1, 2))
    assert (middle * torch.tensor([217, 177])).tolist() == pytest.approx([120.5, 88.5], abs=0.01)
    assert ((crop[0, 33, 0] - crop[0, 32, 0]) * 217).item() == pytest.approx(2, rel=1e-3)
    with pytest.raises(ReproError, match="178x218 px: got 178x178"):
        datasets.face(place[:, 20:198])


def test_celebas_own_split(faces):
    entries = datasets.read_celeba("test")
    assert [file.name for file in entries] == ["000007.jpg", "000008.jpg"]
    found = rddm.read(rddm.PAPER["celeba64"], "train")
    assert found.size == 4 and found.targets[0].shape == (3, 64, 64) and found.inputs is None
    (faces / "list_eval_partition.txt").write_text("000001.jpg 0\n000009.jpg 0\n000002.jpg\n")
    with pytest.raises(ReproError, match=r"lists 1 images of train that are in .*img_align_celeba: CelebA has 4"):
        datasets.read_celeba("train")


def test_inpainting_hides_the_middle(tmp_path, monkeypatch):
    fill(tmp_path / "celeba-hq", [f"{i}.png" for i in range(10)], 0.8, width=32, height=32)
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    chosen = tiny("inpainting")
    found = rddm.read(chosen, "train")
    assert found.size == 9 and rddm.read(chosen, "test").ids == ["9"]
    y, x0 = found.inputs[0], found.targets[0]
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[4:12, 4:12] = True
    assert torch.equal(y[:, ~hole], x0[:, ~hole])
    assert y[:, hole].sub(0.5).abs().max() < 1 / 255 and torch.equal(rddm.holed(x0)[:, hole], torch.full((3, 64), 0.5))
    net, seen = rddm.build_network(chosen, "smresn"), []
    net.noise_net.conv_in.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    rddm.training_task(chosen, "smresn").loss(net, torch.tensor([0]), noises(range(1)))
    assert seen == [3]  # neither y nor the hole is given


def test_imresize_is_matlabs():
    """deepinv's, of images that vary along one side alone: ours rounds to 8 bits between the two."""
    rows = (KeyedNoise(0, [0], "rows").uniform((1, 24, 1)) * 255).round().div(255).expand(1, 1, 24, 24)
    for image in (rows, rows.mT):
        theirs = DownsamplingMatlab(factor=2).A(image)
        assert (imresize(image, (12, 12)) - theirs).abs().max() < 0.501 / 255
    constant = torch.full((3, 9, 11), 37 / 255)
    assert torch.equal((imresize(constant, (4, 30)) * 255).round(), torch.full((3, 4, 30), 37.0).double())


def test_restoration_from_files_to_numbers(home, data, monkeypatch):
    metrics = ("psnr/y-uint8", "ssim/y-uint8-wang", "psnr/rgb")
    monkeypatch.setattr(measure, "PUBLISHED", metrics)
    monkeypatch.setitem(rddm.PAPER, "lol", chosen := tiny("lol"))
    trains = rddm.experiment("paper", chosen, "smres")
    assert evaluation.rows("rddm", "paper") == []  # nothing trained yet
    *_, last = run(trains)
    assert last.images == 6 and type(last.model) is type(rddm.build_network(chosen, "smres"))

    found = {(r.experiment, r.cell["task"]): r for r in evaluation.rows("rddm", "paper")}
    ours = {(trains.name, "lowlight"), (trains.name, "lowlight-full-size")}
    assert set(found) == {("baseline-input", "lowlight"), *ours}
    for row in found.values():
        record = row.record()
        assert record.n == 15 and record.profile == "paper" and set(record.metrics) == set(metrics)
        assert all(len(v) == 15 for v in record.metrics.values()) and len(record.data) == 64
        assert record.check["metrics"]["psnr/rgb"] == record.metrics["psnr/rgb"][:4]
        assert record.source == ("evaluated" if row.experiment == "baseline-input" else "recorded")
        upsert("rddm", [record])
    # The report's table shows them where the small profile's stand.
    assert {"psnr/y", "psnr/rgb"} <= set(evaluation.records_of_profile("rddm", "paper")[0].metrics)
    baseline = found["baseline-input", "lowlight"].measure(1)["psnr/y-uint8"]
    given, clean = read_split("lol", "test").pairs[0].load()
    small = (resize(equalised(given), (16, 16)) * 255).round() / 255
    by_hand = score("psnr/y-uint8", small, imresize(clean, tuple(small.shape[-2:])).float())
    assert baseline == pytest.approx(by_hand.tolist(), abs=1e-6)


def test_generation_from_files_to_numbers(home, faces, monkeypatch):
    chosen = tiny("celeba64", images=4, batch=4, side=64, n=3, steps=2)
    monkeypatch.setitem(rddm.PAPER, "celeba64", chosen)
    assert list(run(rddm.experiment("paper", chosen, "smresn")))[-1].images == 4

    def pooled(x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)

    monkeypatch.setattr(features, "inception", lambda device: features.FeatureNet("quarters", 3, pooled, pooled))
    name, cell = rddm.name_of("celeba64", "smresn", 0, "paper"), {"task": "generation", "steps": 2, "eta": 0.0}
    assert measure.sample(name, cell, "paper").n == 3
    found = measure.measure(name, cell, None, "paper")
    assert set(found) == {"fid/quarters", "kid/quarters", "is/quarters"}
    assert all(math.isfinite(v) for v in found.values())


def test_training_without_the_data_set_says_what_to_download(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "nothing"))
    for name, needed in (("lol", r"LOLdataset\.zip"), ("celeba64", r"img_align_celeba\.zip")):
        with pytest.raises(ReproError, match=needed):
            rddm.experiment("paper", rddm.PAPER[name], "smresn").task()
