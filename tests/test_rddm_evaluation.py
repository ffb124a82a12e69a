"""Notebook 03's rows: unique, measured from saved networks, first k equal to the full; and RDDM against DDIM."""

from __future__ import annotations

import json

import pytest
import torch

from repro import paths
from repro.data import lowlight, pack
from repro.ddpm import samplers as ddpm_samplers
from repro.ddpm import schedules as ddpm
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import start_noise
from repro.ddpm.study.config import SMALL as DDPM
from repro.ddpm.study.experiments import CLASSIFIER, MAIN, schedule_of
from repro.engine import evaluation
from repro.engine.checkpoint import load_checkpoint, save_checkpoint
from repro.engine.evaluation import check_room
from repro.engine.records import Record, load, upsert
from repro.engine.registry import experiments
from repro.rddm.sampling import restore
from repro.rddm.study import baselines, measure, transfer
from repro.rddm.study.config import SMALL, SMOKE
from repro.rddm.study.experiments import LONG, build_network, learning_of, name_of

PIXELS = ("psnr/rgb", "ssim/rgb-wang", "psnr/y")


def untrained(config, task, variant):
    """Every weight away from zero, a little: its pictures differ from the input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(config.tasks[task], variant)
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return network


def save(home, config, profile: str) -> None:
    for e in experiments("rddm"):
        if e.profile == profile and e.task_name in config.tasks:
            folder = home / "checkpoints" / e.name if e.ships else home / "runs" / e.name / "checkpoint"
            save_checkpoint(folder, untrained(config, e.task_name, e.variant), {})


def a_home(folder, *borrowed: str):
    (folder / "notebooks").mkdir()
    (folder / "pyproject.toml").touch()
    (folder / "checkpoints").mkdir()
    for name in borrowed:
        (folder / "checkpoints" / name).symlink_to(paths.checkpoints() / name)
    return folder


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    home = a_home(tmp_path_factory.mktemp("smoke"), CLASSIFIER)
    save(home, SMOKE, "smoke")
    return home


@pytest.fixture
def home(smoke, monkeypatch):
    """A clone with tiny untrained networks; classical baselines fitted on two pictures; no LPIPS, which is slow."""
    monkeypatch.setenv("REPRO_HOME", str(smoke))
    monkeypatch.setattr(measure, "PROTOCOLS", PIXELS)
    two = tuple((measure.degraded("lowlight", x, "two"), x) for x in torch.rand(2, 3, 32, 32).unbind())
    monkeypatch.setattr(baselines, "training_pairs", lambda *_, **__: two)
    yield smoke
    baselines.fitted_gain_gamma.cache_clear()
    baselines.training_mean.cache_clear()


def key(row):
    return row.experiment, tuple(sorted(row.cell.items())), row.profile, row.seed


# -- rows --------------------------------------------------------------------------------------------------------------


def test_nothing_trained_leaves_the_baselines(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_HOME", str(a_home(tmp_path)))
    assert {row.experiment for row in evaluation.rows("rddm", "smoke")} >= {"baseline-input", "baseline-median"}
    assert not [row for row in evaluation.rows("rddm", "smoke") if row.weights]


def test_keys_of_the_small_profile_are_unique(tmp_path, monkeypatch):
    home = a_home(tmp_path, CLASSIFIER, MAIN)
    monkeypatch.setenv("REPRO_HOME", str(home))
    save(home, SMALL, "small")
    rows = evaluation.rows("rddm", "small")
    assert len({key(row) for row in rows}) == len(rows) > 165
    measured = {row.experiment for row in rows}
    assert measured >= {e.name for e in experiments("rddm") if e.profile == "small"} | {MAIN, "baseline-input"}
    ships = {e.name: e.ships for e in experiments()}
    assert all(row.ships == ships.get(row.experiment, True) for row in rows)
    assert all(len({row.weights for row in rows if row.experiment == name}) == 1 for name in measured)
    full_size = [row for row in rows if "full-size" in row.cell.get("task", "")]
    assert len(full_size) == 4 and {(row.n, row.k) for row in full_size} == {(measure.FULL_SIZE, 0)}
    assert all(row.n == len(pack.photos("test")) for row in rows if row.cell.get("task") in ("lowlight", "raindrop"))


def test_rows_run_from_checkpoints_to_records_and_are_checked(home):
    rows = evaluation.rows("rddm", "smoke")
    assert len({key(row) for row in rows}) == len(rows)
    assert {row.experiment for row in rows if row.weights} == {
        e.name for e in experiments("rddm") if e.profile == "smoke"
    }
    records = [row.record() for row in rows]
    upsert("rddm", records)
    stored = load("rddm")
    assert len(stored) == len(records) and {r.id for r in stored} == {r.id for r in records}
    for row, record in zip(rows, records, strict=True):
        line = json.loads(record.to_line())
        fields = {name: value for name, value in line.items() if name not in ("schema", "id")}
        assert Record(**fields).id == record.id == line["id"]
        assert record.source == ("recorded" if row.weights else "evaluated"), "networks of tests never ship"
        assert record.check["k"] == row.k and set(record.check["metrics"]) == set(record.metrics)
        if record.cell.get("task") in (None, "generation", "fashion-switch"):
            continue
        for name, values in record.metrics.items():
            assert len(values) == record.n == 2, record.label
            assert record.check["metrics"][name] == values[: row.k], "the check measures other pictures"
    # "quiet" has the weights of "smres" here, and samples like it from quieter noise: see test_rddm_sampling. Those
    # that are trained longer have the weights of their twins.
    twins = tuple(name_of("lowlight", variant, 0, "smoke") for variant in ("quiet", *LONG))
    networks = [record for record in records if record.checkpoint and record.experiment not in twins]
    learned = [json.dumps(dict(record.metrics)) for record in networks]
    assert len(set(learned)) == len(learned), "cells that should differ measure the same"
    report = check_room("rddm", "smoke", progress=False)
    assert not report.failed
    assert {r.record.id for r in report.rows} == {r.id for r in records if r.source == "evaluated"}


def test_a_row_scores_what_restore_makes(home):
    """Picture by picture: degraded by its name, restored with its name's noise, compared with the clean one."""
    name = "rddm-raindrop-smoke-smresn-s0"
    row = next(r for r in evaluation.rows("rddm", "smoke") if r.experiment == name and r.cell["steps"] == 2)
    config = SMOKE.tasks["raindrop"]
    network = load_checkpoint(home / "runs" / name / "checkpoint")
    wanted = []
    for id, given, clean in measure.test_pairs("raindrop", 64, 2):
        found = restore(network, 2 * given[None] - 1, [id], learning_of(config, "smresn"), 2)
        error = ((found + 1) / 2 - clean).clamp(-1, 1).square().mean()
        wanted.append(-10 * error.log10().item())
    assert row.measure(None)["psnr/rgb"] == pytest.approx(wanted, abs=1e-3)


def test_lpips_and_luma_are_measured_too(smoke, monkeypatch):
    monkeypatch.setenv("REPRO_HOME", str(smoke))
    row = next(r for r in evaluation.rows("rddm", "smoke") if r.experiment == "baseline-input")
    found = row.measure(1)
    assert set(found) == set(measure.PROTOCOLS) and found["psnr/y"] != found["psnr/rgb"]
    assert 0 < found["lpips/alex-v0.1"][0] < 1.5


def test_diversity_is_the_spread_over_seeds(home):
    name = "rddm-lowlight-smoke-smres-s0"
    rows = {
        r.cell["eta"]: r
        for r in evaluation.rows("rddm", "smoke")
        if r.experiment == name and r.cell["task"] == "lowlight-diversity"
    }
    assert set(rows) == {0.0, 1.0}
    config, network = SMOKE.tasks["lowlight"], load_checkpoint(home / "runs" / name / "checkpoint")
    learning = learning_of(config, "smres")
    id, given, _ = measure.test_pairs("lowlight", 64, 2)[1]
    for eta, row in rows.items():
        runs = [restore(network, 2 * given[None] - 1, [id], learning, 2, seed, eta=eta) for seed in SMOKE.seeds]
        wanted = (torch.cat(runs) / 2).std(dim=0).mean().item()
        found = row.measure(None)[measure.SPREAD]
        assert len(found) == 2 and found[1] == pytest.approx(wanted, rel=1e-3) and wanted > 0
        assert row.measure(1)[measure.SPREAD] == pytest.approx(found[:1], rel=1e-6)
    regression = [r for r in evaluation.rows("rddm", "smoke") if "regression" in r.experiment]
    assert regression and not [r for r in regression if "diversity" in r.cell["task"]]


# -- data --------------------------------------------------------------------------------------------------------------


def test_test_pictures_are_held_out_and_degraded_by_name():
    for kind in ("lowlight", "raindrop"):
        pairs = measure.test_pairs(kind, 64, 3)
        assert [i for i, _, _ in pairs] == [p.id for p in pack.photos("test")[:3]]
        assert measure.test_pairs(kind, 64, 2)[1][1].equal(pairs[1][1]), "how many are measured changes a picture"
        for name, given, clean in pairs:
            assert given.shape == clean.shape and min(clean.shape[1:]) == 64 and not given.equal(clean)
            assert given.equal(measure.degraded(kind, clean, name))
            assert not given.equal(measure.degraded(kind, clean, name + "x"))


def test_data_hash_knows_size_law_and_task(monkeypatch):
    hashes = {measure._photo_hash(k, s, n) for k in ("lowlight", "raindrop") for s in (64, 256) for n in (0, 2)}
    assert len(hashes) == 8 and set(measure.LAWS) == set(measure.DEGRADATIONS)
    assert lowlight.STOPS in measure.LAWS["lowlight"]
    before = measure._photo_hash("lowlight", 64, 2)
    monkeypatch.setitem(measure.LAWS, "lowlight", ((0.0, 1.0),))
    measure._photo_hash.cache_clear()
    assert measure._photo_hash("lowlight", 64, 2) != before
    measure._photo_hash.cache_clear()


# -- the transformation, on notebook 01's network ----------------------------------------------------------------------


def gap(rule, clip, other, dtype="float64", steps=5, k=2):
    found = transfer.gap(steps, rule, clip, other, dtype, k)
    assert len(found[transfer.DIFFERENCE]) == len(found[transfer.MEAN_DIFFERENCE]) == k
    assert all(m <= d for m, d in zip(found[transfer.MEAN_DIFFERENCE], found[transfer.DIFFERENCE], strict=True))
    return max(found[transfer.DIFFERENCE])


@pytest.mark.parametrize("rule", ["eq12", "compose", "rederive"])
def test_unclipped_RDDM_draws_the_pictures_of_DDIM(rule):
    assert gap(rule, False, "ddim") < 1e-10


def test_clipped_rules_are_the_two_DDIMs():
    assert gap("compose", True, "ddim") < 1e-10
    assert gap("rederive", True, "ddim-rederived") < 1e-10
    for rule, other in (("eq12", "ddim"), ("eq12", "ddim-rederived"), ("compose", "ddim-rederived")):
        assert gap(rule, True, other) > 1e-3, (rule, other)


@torch.no_grad()
def test_the_two_DDIMs_are_diffusers():
    model, x_T = load_checkpoint(MAIN), start_noise(range(2), (1, 28, 28))
    for rule, use in {"ddim": False, "ddim-rederived": True}.items():
        scheduler = ddpm.to_diffusers(schedule_of(DDPM), "ddim", clip_sample=True)
        scheduler.set_timesteps(5)
        x = x_T
        for t in scheduler.timesteps:
            output = model(x, t.expand(2)).sample[:, :1]
            x = scheduler.step(output, t, x, use_clipped_model_output=use).prev_sample
        torch.testing.assert_close(transfer.draw(model, x_T, 5, rule, True), x, rtol=0, atol=1e-4)
        ours = ddpm_samplers.ddim(model_fn(model), x_T, schedule_of(DDPM), 5, eps_from_clipped=use)
        assert torch.equal(transfer.draw(model, x_T, 5, rule, True), ddpm_samplers.sample(ours))


def test_float32_rounds_and_no_more():
    found, first = (transfer.gap(5, "eq12", False, "ddim", "float32", k) for k in (None, 2))
    assert len(found[transfer.DIFFERENCE]) == transfer.COMPARED
    assert 1e-9 < max(found[transfer.DIFFERENCE]) < 1e-3
    assert first[transfer.MEAN_DIFFERENCE] == pytest.approx(found[transfer.MEAN_DIFFERENCE][:2], abs=1e-5)


def test_samples_are_drawn_by_number():
    found = transfer.drawn(2, "eq12", True, range(3, 6))
    assert found.shape == (3, 1, 28, 28)
    torch.testing.assert_close(found[1:2], transfer.drawn(2, "eq12", True, range(4, 5)), rtol=0, atol=1e-4)
    one = transfer.drawn(2, "eq12", False, range(3))
    torch.testing.assert_close(one, transfer.drawn(2, "ddim", False, range(3)), rtol=0, atol=1e-4)
