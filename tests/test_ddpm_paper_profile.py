"""The CIFAR-10 model of Ho et al.: pinned numbers at full size, the whole path with a tiny network of its class."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from repro.data.published import CIFAR, load_cifar10
from repro.ddpm.study import measure
from repro.ddpm.study.experiments import PAPER, PAPER_MODEL, PROFILES, build_network, experiment, schedule_of
from repro.engine import evaluation, grid, records
from repro.engine.registry import find
from repro.engine.run import run
from repro.errors import ReproError
from repro.metrics.features import FeatureNet

A_FILE = 6  # pictures; the real files have 10,000 of them


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """The real layout in small: REPRO_DATA/cifar-10-batches-bin/data_batch_{1..5}.bin and test_batch.bin."""
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in [*CIFAR["train"], *CIFAR["test"]]:
        label = generator.integers(0, 10, (A_FILE, 1), dtype=np.uint8)
        pixels = generator.integers(0, 256, (A_FILE, 3072), dtype=np.uint8)
        (folder / name).write_bytes(np.concatenate([label, pixels], axis=1).tobytes())
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))
    return tmp_path


def test_network_of_ho_et_al():
    """35.7 M in the paper (Appendix B); 35,746,307 in google/ddpm-cifar10-32, whose config this is."""
    with torch.device("meta"):
        net = build_network(PAPER)
    assert sum(p.numel() for p in net.parameters()) == 35_746_307
    assert net(torch.zeros(2, 3, 32, 32, device="meta"), 5).sample.shape == (2, 3, 32, 32)
    heads = {m.heads for m in net.modules() if type(m).__name__ == "Attention"}
    assert heads == {1}
    assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} >= {0.1}


def test_schedule_and_recipe_of_ho_et_al():
    schedule, recipe = schedule_of(PAPER), PAPER.recipe
    assert schedule.T == 1000 and schedule.betas[0] == 1e-4 and schedule.betas[-1] == pytest.approx(0.02, abs=1e-15)
    assert schedule.alpha_bar[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
    assert recipe.images == 800_000 * 128 and recipe.batch == 128 and recipe.lr == 2e-4 and recipe.clip == 1.0
    assert recipe.lr_at(recipe.warmup) == recipe.lr == recipe.lr_at(recipe.images)
    assert 0.5 ** (recipe.batch / recipe.ema) == pytest.approx(0.9999, abs=1e-7)
    assert recipe.weight_decay == 0 and PAPER.n == 50_000


def test_pixels_lie_where_the_format_puts_them(cifar):
    raw = (cifar / "data_batch_2.bin").read_bytes()
    pictures, labels, ids = load_cifar10("train")
    assert pictures.shape == (30, 3, 32, 32) and labels.shape == (30,) and len(set(ids)) == 30
    i = A_FILE + 4  # the fifth picture of the second file
    record = raw[4 * 3073 : 5 * 3073]
    assert labels[i] == record[0] and ids[i] == "cifar10 data_batch_2 4"
    for channel, row, column in ((0, 0, 0), (1, 3, 17), (2, 31, 31)):
        value = record[1 + 1024 * channel + 32 * row + column]
        assert pictures[i, channel, row, column].item() == pytest.approx(value / 127.5 - 1, abs=1e-6)
    assert pictures.min() == -1 and pictures.max() == 1
    assert load_cifar10("test")[0].shape == (A_FILE, 3, 32, 32)


def test_faults_of_the_data_set(cifar):
    with pytest.raises(ReproError, match="no split 'valid'; accepted: train, test"):
        load_cifar10("valid")
    file = cifar / "data_batch_3.bin"
    data = file.read_bytes()
    file.write_bytes(data[:-5])
    with pytest.raises(ReproError, match=r"data_batch_3\.bin: 18,433 bytes.*cut short"):
        load_cifar10("train")
    file.write_bytes(b"\x63" + data[1:])
    with pytest.raises(ReproError, match="label from 0 to 9"):
        load_cifar10("train")
    file.unlink()
    with pytest.raises(ReproError, match=r"cifar-10-binary\.tar\.gz .*https://www\.cs\.toronto\.edu"):
        load_cifar10("train")


def few_numbers() -> FeatureNet:
    """Means over quarters of the picture: a stand-in under a name of its own."""

    def pooled(x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)  # (B, 12)

    return FeatureNet("inception", 3, pooled, lambda x: 9 * pooled(x))


TINY = dataclasses.replace(
    PAPER,
    network={**PAPER.network, "block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2},
    recipe=dataclasses.replace(PAPER.recipe, images=16, batch=8, threads=1),
    n=6,
    k=3,
    batch=4,
)


def test_from_data_to_table(cifar, home, monkeypatch):
    monkeypatch.setitem(PROFILES, "paper", TINY)
    assert evaluation.rows("ddpm", "paper") == []  # nothing trained yet
    tiny = {"name": PAPER_MODEL, "variant": "linear", "summary": "tiny"}
    *_, last = run(experiment(tiny, TINY))
    assert last.images == 16 and type(last.model) is type(build_network(TINY))

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(home / "hub"))
    rows = evaluation.rows("ddpm", "paper")
    assert len(rows) == 1 + 2 * 6 + 4 and {r.experiment for r in rows} == {PAPER_MODEL, "baseline-real"}
    with pytest.raises(ReproError, match=r"Inception weights .* are missing: download"):
        rows[0].record()
    measure._paper_metrics.cache_clear()
    monkeypatch.setattr(measure.features, "inception", lambda device: few_numbers())
    some = [row for row in rows if row.cell.get("steps", 0) in (0, 10)]
    for record in (row.record() for row in some):
        assert set(record.metrics) == {"fid/inception", "kid/inception", "is/inception"}
        assert record.profile == "paper" and record.n == 6 and record.check["k"] == 3
        assert record.source == ("evaluated" if record.experiment == "baseline-real" else "recorded")
        records.upsert("ddpm", [record])
    table = next(t for t in grid.tables("ddpm", evaluation.looked_up("ddpm", "paper")) if t.name == "ddpm_fid")
    cells = {name: cells["10 steps"] for name, cells in table.rows.items()}
    assert [name for name, cell in cells.items() if cell.value is not None] == [
        "DDIM, η = 0", "DDPM, small variance (DDIM, η = 1)", "DDPM, large variance",
    ]  # fmt: skip
    measure._paper_metrics.cache_clear()


def test_training_without_the_data_set_says_what_to_download(home, monkeypatch):
    monkeypatch.delenv("REPRO_DATA", raising=False)
    with pytest.raises(ReproError, match=r"cifar-10-binary\.tar\.gz"):
        find("ddpm-cifar10-paper-s0").task()
