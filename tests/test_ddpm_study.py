"""What notebook 01 draws, measures and claims, on records made here; the CIFAR-10 model of Ho et al. end to end."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from repro.data.datasets import CIFAR, load_cifar10
from repro.ddpm import oracles
from repro.ddpm.process import linear, q_sample
from repro.ddpm.study import experiments as ddpm
from repro.ddpm.study import figures, measure
from repro.ddpm.study.experiments import LINEAR, MAIN, PAPER, PAPER_MODEL, PROFILES, build_network, experiment
from repro.engine import evaluation, grid, records
from repro.engine.checkpoint import find, run
from repro.engine.records import Record
from repro.engine.rng import KeyedNoise
from repro.engine.study import lesson
from repro.errors import ReproError
from repro.metrics.features import FeatureNet


@pytest.fixture(autouse=True)
def no_data(home, monkeypatch):
    monkeypatch.delenv("REPRO_DATA", raising=False)


def made(experiment: str, cell: dict, metrics: dict, **more) -> Record:
    fields = {"n": 500, "seed": 0, "profile": "small", "data": "d", "command": "c", "checkpoint": None} | more
    return Record("ddpm", experiment, cell, metrics, **fields)


def test_orders_are_distinguished_from_ties():
    def rows(*found):
        cells = [({"task": "generation", "sampler": s, "steps": 10, "eta": eta}, fid) for s, eta, fid in found]
        known = [made(MAIN, cell, {measure.FID: fid}, checkpoint="w") for cell, fid in cells]
        return figures.orders(next(t for t in grid.tables("ddpm", known) if t.name == "ddpm_fid"), known)

    clear = [("ddpm", 1.0, [9, 9.1, 9.2, 9, 9]), ("ddim", 0.0, [11, 12, 13, 12, 11])]
    (line,) = rows(*clear, ("ddpm-large", 1.0, [12, 11, 13, 14, 12]))
    assert "ours:  DDPM, small variance < DDIM, η = 0 ≈ DDPM, large variance" in line
    assert "paper: DDIM, η = 0 < DDPM, small variance < DDPM, large variance   (another order)" in line
    assert rows(*clear) == []  # two rows make no order worth printing


def test_a_record_that_the_weights_contradict_stops_the_notebook(monkeypatch):
    cell, check = {"task": "noise-prediction"}, {"k": 4, "metrics": {measure.NOISE_ERROR: [5.0] * 4}}
    data = measure.sample("baseline-zero", cell, "smoke").data
    records.upsert("ddpm", [made("baseline-zero", cell, {measure.NOISE_ERROR: [1.0] * 8}, n=8, data=data, check=check)])
    monkeypatch.setattr("repro.engine.evaluation.trained", lambda name: False)
    with pytest.raises(ReproError, match=r"contradict the records(.|\n)*baseline-zero"):
        lesson(figures.LESSONS, "small").recheck()
    assert lesson(figures.LESSONS, "smoke").recheck().verified == frozenset()


def test_noise_errors_know_nothing_from_a_fit_and_a_fit_from_memory():
    schedule, images = linear(), (KeyedNoise(0, range(120), "p").uniform((1, 4, 4)) > 0.5).float() * 2 - 1
    blind = lambda x, t: torch.zeros_like(x)  # noqa: E731
    models = {
        "memory": oracles.FiniteData(images, schedule).model(),
        "gaussian": measure.fitted_gaussian(images, schedule).model(),
        "blind": blind,
    }
    memory, gaussian, none = (measure.noise_errors(m, images, schedule).mean().item() for m in models.values())
    assert memory < gaussian < none == pytest.approx(1, abs=0.1)  # the variance of the noise
    assert not torch.equal(*(measure.noise_errors(blind, images, schedule, seed=s) for s in (0, 1)))
    early, late = (measure.noise_errors(blind, images, schedule, t=t).mean().item() for t in (10, 900))
    assert early == pytest.approx(late)  # the same noise at every time


def test_what_the_networks_are_trained_on(monkeypatch):
    """Noise at every index of the schedule; a classifier counts noising steps, from 0 at clean images, in use too."""
    schedule, places = linear(4, 0.1, 0.4), torch.zeros(200, dtype=torch.int64)
    noise = lambda purpose: KeyedNoise(0, range(200), purpose)  # noqa: E731
    image, seen = KeyedNoise(0, [0], "x").uniform((1, 6, 6)), []

    def network(x, t, out=torch.zeros_like):
        seen.append((x, t))
        return out(x)

    def logits(x):
        return x.new_zeros(len(x), 10)

    for mirror, pictures in ((False, [image]), (True, [image, image.flip(-1)])):
        loss = ddpm.DenoisingTask(image, ["0"], schedule, False, mirror).loss(network, places, noise)
        eps, (x, t) = noise("noise").normal((1, 6, 6)), seen.pop()
        assert set(t.tolist()) == {0, 1, 2, 3} and torch.allclose(loss, eps.square().mean(dim=(1, 2, 3)))
        of = torch.stack([(x - q_sample(x0, t, eps, schedule)).abs().amax(dim=(1, 2, 3)) < 1e-5 for x0 in pictures])
        assert of.any(dim=0).all() and (of.sum(dim=1) > 60).all()
    task = ddpm.ClassifierTask(torch.ones(1, 1, 6, 6), torch.zeros(1, dtype=torch.int64), ["0"], schedule)
    task.loss(lambda x, t: network(x, t, logits), places, noise)
    x, t = seen.pop()
    clean = ((x == 1) | (x == -1)).flatten(1).all(dim=1)  # moved over a background of -1
    assert torch.equal(clean, t == 0) and 60 < clean.sum() < 140 and set(t.tolist()) == {0, 1, 2, 3, 4}
    monkeypatch.setattr(measure, "load_checkpoint", lambda name: lambda x, t: network(x, t, lambda x: x[:, 0, :, 0]))
    measure.class_guide([0], 1.0)(image, torch.tensor([3]), None)
    assert seen[0][1].tolist() == [4]


def test_switches_change_what_they_name_and_nothing_else():
    schedule, x_T = linear(), KeyedNoise(0, range(3), "x").normal((1, 6, 6))
    given: list[int] = []

    def model(x, t):
        given.append(int(t[0]))
        return 0.9 * x

    drawn = {name: measure.switched(model, x_T, schedule, 10, switch) for name, switch in measure.SWITCHES.items()}
    by_name = dict(zip(drawn, [given[i : i + 10] for i in range(0, len(given), 10)], strict=True))
    assert by_name["as elsewhere here"] == list(range(900, -1, -100))
    assert by_name["network told t + 1"] == [t + 1 for t in by_name["as elsewhere here"]]
    assert by_name["trailing timesteps"][0] == by_name["linspace timesteps"][0] == 999
    reference, other_t = drawn.pop("as elsewhere here"), drawn.pop("network told t + 1")
    assert torch.equal(other_t, reference)  # this model does not depend on t
    assert all(not torch.equal(other, reference) for other in drawn.values())


def test_a_photograph_becomes_a_garment():
    bright = torch.ones(3, 50, 80)
    bright[:, 15:35, 30:50] = 0.2  # a dark thing on white paper becomes a garment on black
    small = figures.as_fashion(bright)
    assert small.shape == (1, 28, 28) and small[0, 0, 0] == -1 and small[0, 14, 14] == pytest.approx(0.6, abs=1e-5)
    assert torch.allclose(figures.as_fashion(1 - bright), small, atol=1e-6)
    with pytest.raises(ReproError, match="the image"):
        figures.as_fashion(b"no image")


A_FILE = 6  # images; the real files have 10,000 of them


@pytest.fixture
def cifar(home, monkeypatch):
    """The real layout in small: REPRO_DATA/cifar-10-batches-bin/data_batch_{1..5}.bin and test_batch.bin."""
    folder = home / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in [*CIFAR["train"], *CIFAR["test"]]:
        label = generator.integers(0, 10, (A_FILE, 1), dtype=np.uint8)
        pixels = generator.integers(0, 256, (A_FILE, 3072), dtype=np.uint8)
        (folder / name).write_bytes(np.concatenate([label, pixels], axis=1).tobytes())
    monkeypatch.setenv("REPRO_DATA", str(home / "data"))
    return folder


def test_network_and_recipe_of_ho_et_al():
    """35.7 M in the paper (Appendix B); 35,746,307 in google/ddpm-cifar10-32, whose config this is."""
    with torch.device("meta"):
        net = build_network(PAPER)
    assert sum(p.numel() for p in net.parameters()) == 35_746_307
    assert net(torch.zeros(2, 3, 32, 32, device="meta"), 5).sample.shape == (2, 3, 32, 32)
    assert {m.heads for m in net.modules() if type(m).__name__ == "Attention"} == {1}
    assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} >= {0.1}
    schedule, recipe = LINEAR, PAPER.recipe
    assert schedule.T == 1000 and schedule.alpha_bar[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
    assert recipe.images == 800_000 * 128 and recipe.batch == 128 and recipe.lr == 2e-4 and recipe.clip == 1.0
    assert recipe.lr_at(recipe.warmup) == recipe.lr == recipe.lr_at(recipe.images)
    assert 0.5 ** (recipe.batch / recipe.ema) == pytest.approx(0.9999, abs=1e-7)
    assert recipe.weight_decay == 0 and PAPER.n == 50_000


def test_cifars_format_and_faults(cifar, monkeypatch):
    raw, (images, labels, ids) = (cifar / "data_batch_2.bin").read_bytes(), load_cifar10("train")
    assert images.shape == (30, 3, 32, 32) and labels.shape == (30,) and len(set(ids)) == 30
    i, record = A_FILE + 4, raw[4 * 3073 : 5 * 3073]  # the fifth image of the second file
    assert labels[i] == record[0] and ids[i] == "cifar10 data_batch_2 4"
    for channel, row, column in ((0, 0, 0), (1, 3, 17), (2, 31, 31)):
        value = record[1 + 1024 * channel + 32 * row + column]
        assert images[i, channel, row, column].item() == pytest.approx(value / 127.5 - 1, abs=1e-6)
    assert images.min() == -1 and images.max() == 1 and load_cifar10("test")[0].shape == (A_FILE, 3, 32, 32)
    file = cifar / "data_batch_3.bin"
    data = file.read_bytes()
    for content, says in ((data[:-5], r"data_batch_3\.bin: 18,433 bytes.*cut short"), (b"\x63" + data[1:], "0 to 9")):
        file.write_bytes(content)
        with pytest.raises(ReproError, match=says):
            load_cifar10("train")
    monkeypatch.delenv("REPRO_DATA")
    with pytest.raises(ReproError, match=r"cifar-10-binary\.tar\.gz .*https://www\.cs\.toronto\.edu"):
        find(PAPER_MODEL).task()


def test_from_data_to_table(cifar, home, monkeypatch):
    network = {**PAPER.network, "block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
    recipe = dataclasses.replace(PAPER.recipe, images=16, batch=8, threads=1)
    tiny = dataclasses.replace(PAPER, network=network, recipe=recipe, n=6, k=3, batch=4)
    monkeypatch.setitem(PROFILES, "paper", tiny)
    assert evaluation.rows("ddpm", "paper") == []  # nothing trained yet
    *_, last = run(experiment({"name": PAPER_MODEL, "variant": "linear", "summary": "tiny"}, tiny))
    assert last.images == 16 and type(last.model) is type(build_network(tiny))

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(home / "hub"))
    rows = evaluation.rows("ddpm", "paper")
    assert len(rows) == 1 + 2 * 6 + 5 and {r.experiment for r in rows} == {PAPER_MODEL, "baseline-real"}
    with pytest.raises(ReproError, match=r"Inception weights .* are missing: download"):
        rows[0].record()

    def pooled(x):  # means over quarters of the image, a stand-in
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)

    net = FeatureNet("inception", 3, pooled, lambda x: 9 * pooled(x))
    measure._inception.cache_clear()
    monkeypatch.setattr(measure.features, "inception", lambda device: net)
    for record in (row.record() for row in rows if row.cell.get("steps", 0) in (0, 10)):
        assert set(record.metrics) == {"fid/inception", "kid/inception", "is/inception"}
        assert all(math.isfinite(record.values(name)[0]) for name in record.metrics)
        assert record.profile == "paper" and record.n == 6 and record.check["k"] == 3
        assert record.source == ("evaluated" if record.experiment == "baseline-real" else "recorded")
        records.upsert("ddpm", [record])
    table = next(t for t in grid.tables("ddpm", evaluation.records_of_profile("ddpm", "paper")) if t.name == "ddpm_fid")
    assert [name for name, cells in table.rows.items() if cells["10 steps"].value is not None] == [
        "DDIM, η = 0", "DDPM, small variance (DDIM, η = 1)", "DDPM, large variance",
    ]  # fmt: skip
    measure._inception.cache_clear()
