"""What notebook 03 learns, measures, draws and lets a reader turn."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from clones import MISSING, photo, smoke_networks
from test_rddm_samplers import Knowing
from tiny import clone, refused, shaken

from repro import paths
from repro.data import pack
from repro.data.degradations import TASKS, plain_surfaces, raindrops
from repro.data.images import to_model, to_unit
from repro.engine import evaluation, grid
from repro.engine.checkpoint import experiments, find, load_checkpoint, save_checkpoint
from repro.engine.evaluation import check_room
from repro.engine.records import load, upsert
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.metrics.features import CLASSIFIER
from repro.rddm import process
from repro.rddm.model import RDDMNet, restoration_loss
from repro.rddm.pipeline import RAINDROPS, RDDMPipeline, RDDMScheduler
from repro.rddm.process import RDDMTraining, by_config
from repro.rddm.samplers import Net, start_noise
from repro.rddm.study import experiments as rddm
from repro.rddm.study import figures, lesson, measure
from repro.rddm.study.lesson import LESSONS, psnr
from repro.ui.controls import Explorer, UploadedFile
from repro.ui.pictures import own_view, photograph, resized

PLACES = torch.tensor([3, 40, 7, 21])
LISTED = [(t, v) for t, v, _ in rddm.TRAINED]


def noise_at(places=PLACES, seed: int = 0):
    return lambda purpose: KeyedNoise(seed, places, f"train/{purpose}")


@pytest.fixture
def coded(monkeypatch):
    """Five training images whose every pixel tells image, row and column."""
    rows = torch.linspace(0, 1, 40)[:, None].expand(40, 40)
    images = [torch.stack([torch.full_like(rows, i / 5), rows, rows.T]) for i in range(5)]
    monkeypatch.setattr(rddm, "photographs", lambda *_: ([f"p{i}" for i in range(5)], images))


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variant"), LISTED)
def test_a_perfect_predictor_has_no_loss_and_another_has(coded, name, variant):
    config, indices = replace(rddm.SMOKE[name], crop=24), torch.tensor([4, 0, 1, 1])
    learning, learned = rddm.learning_of(config, variant), rddm.training_task(config, variant)
    x0, y = learned.pair(indices, noise_at())
    knowing = Knowing(learning, x0)
    found = learned.loss(knowing, indices, noise_at())
    assert found.shape == (4,) and found.dtype == torch.float32
    assert found.max() < 2e-4, "the noise is found again from a state in float32"
    off = learned.loss(Knowing(learning, x0, wrong=0.5), indices, noise_at())
    torch.testing.assert_close(off, torch.full((4,), process.heads(learning.objective) * 0.25), atol=1e-3, rtol=0)

    ((x, t, cond),) = knowing.calls
    assert cond is None if name == "fashion" else torch.equal(cond, y), "the condition"
    if learning.start == "none":
        assert torch.equal(x, y) and (t == learning.schedule.T - 1).all()
        return
    origin = y if learning.start == "degraded" else torch.zeros_like(x0)
    drawn, eps = noise_at()("time").integers(0, 1000), noise_at()("noise").normal(tuple(x0.shape[1:]))
    assert torch.equal(t, drawn)
    torch.testing.assert_close(x, process.q_sample(x0, origin - x0, drawn, eps, learning.schedule), atol=1e-6, rtol=0)


def test_timesteps_are_uniform_but_for_a_share_at_the_last():
    places, x0 = torch.arange(4000), torch.zeros(4000, 1, 1, 1)
    for last, share_of_last in ((0.0, 0.1), (0.25, 0.25 + 0.75 * 0.1)):
        knowing = Knowing(RDDMTraining("res", by_config(10), "l1", last=last), x0)
        restoration_loss(knowing, x0, x0, noise_at(places), knowing.learning)
        share = knowing.calls[0][1].bincount(minlength=10) / 4000
        assert share[-1].item() == pytest.approx(share_of_last, abs=0.02)
        assert share[:-1].std() < 0.01 and ("last" in knowing.learning.settings) == (last > 0)


def test_a_pair_is_of_the_right_image_and_its_own_degradation(coded, monkeypatch):
    monkeypatch.setitem(rddm.DEGRADATIONS, "lowlight", lambda x, noise: 1 - x)
    learned = rddm.training_task(replace(rddm.SMOKE["lowlight"], crop=24), "smres")
    indices = torch.tensor([4, 0, 2, 2])
    x0, y = learned.pair(indices, noise_at())
    assert x0.shape == (4, 3, 24, 24) and torch.allclose(y, -x0, atol=1e-6)
    assert [round(code) for code in (5 * (x0[:, 0, 0, 0] + 1) / 2).tolist()] == indices.tolist()
    assert not torch.equal(x0[2], x0[3]), "two visits of an image cut it alike"
    assert [learned.ids[i] for i in indices] == ["p4", "p0", "p2", "p2"] and len(learned.ids) == 5


def test_the_network_for_use_learns_the_wide_degradation(coded):
    config, at = replace(rddm.USE["raindrop"], crop=24), noise_at(PLACES[:2])
    learned, first = (rddm.training_task(replace(config, wider=wider), "use") for wider in (config.wider, None))
    (x0, y), (cut, wet) = (task.pair(torch.tensor([4, 0]), at) for task in (learned, first))
    torch.testing.assert_close(wet, to_model(TASKS["raindrops"].degrade((cut + 1) / 2, at)[0]), rtol=0, atol=1e-4)
    scene = plain_surfaces((cut + 1) / 2, at, config.wider["plain"])
    torch.testing.assert_close(x0, to_model(scene), rtol=0, atol=1e-6)
    shares = {name: config.wider[name] for name in ("sky", "film")}
    torch.testing.assert_close(y, to_model(raindrops(scene, at, None, **shares)[0]), rtol=0, atol=1e-4)
    more = {"degradation": TASKS["raindrops"].law, "wider": config.wider}
    assert more.items() <= learned.settings.items(), "a run is not continued under another law"


def test_measured_in_tiles_it_restores_as_its_pipeline_does(monkeypatch):
    net, x_T = shaken(RDDMNet("res", base_channels=8, channel_mults=(1, 2))), start_noise(["a"], (3, 140, 180), 0)
    monkeypatch.setattr("repro.rddm.pipeline.randn_tensor", lambda *_, **__: x_T)
    pipe, y = RDDMPipeline(net, RDDMScheduler(), None, 2, 128, True), KeyedNoise(0, [0], "y").uniform((3, 140, 180))
    tiles, _ = measure.switched(Net(net, RDDMTraining("res", by_config(), "l2"), 2), {"tile": 128, "mirrored": True})
    found, cells = tiles.restore(to_model(y), ["a"]), [cell for _, cell in grid.cells(grid.load("rddm"))]
    assert [cell["tile"] for cell in cells if cell.get("mirrored")] == [RAINDROPS["tile"]] * 2, "as users get it"
    torch.testing.assert_close(to_unit(found), pipe(y, output_type="pt").images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["rddm-raindrop-{}-s0", "ucdir-lowlight-{}-s0"])
def test_the_network_for_use_goes_on_from_the_first(name, home):
    first, use = (find(name.format(variant)) for variant in ("first", "use"))
    assert (first.command, use.command) == (f"repro train {first.name}", f"repro train {first.name} {use.name}")
    with pytest.raises(ReproError, match=f"no checkpoint {first.name}"):
        use.network()
    begun = first.network()
    assert 1_000_000 <= sum(p.numel() for p in begun.parameters()) <= 1_500_000
    save_checkpoint(first.weights, begun, {})
    for found, wanted in zip(use.network().parameters(), begun.parameters(), strict=True):
        assert found.requires_grad and torch.equal(found, wanted.half().float())


def test_training_uses_training_images_alone():
    for name, config in rddm.SMOKE.items():
        learned = rddm.training_task(config, "smres")
        if name == "fashion":
            allowed = set(pack.fashion("train")[2])
        else:
            allowed = {p.id for p in pack.photos("train")}
            assert len(learned.ids) == 2
        x0, _ = learned.pair(torch.tensor([0, 1]), noise_at(PLACES[:2]))
        assert x0.min() >= -1 and x0.max() <= 1 and x0.shape[1] == (1 if name == "fashion" else 3)
        assert set(learned.ids) <= allowed


# -- baselines ---------------------------------------------------------------------------------------------------------


def test_the_fitted_numbers_are_the_best_on_training_photographs():
    ids, images = rddm.photographs("train", 256)
    some = torch.cat([x.flatten()[::1009] for x in images]).double()
    dark = torch.cat(
        [rddm.degraded("lowlight", x, i).flatten()[::1009] for i, x in zip(ids, images, strict=True)]
    ).double()
    error = lambda g, p: ((g * dark).clamp(0, 1) ** p - some).square().mean().item()  # noqa: E731
    best, (gain, gamma) = error(measure.GAIN, measure.GAMMA), (measure.GAIN, measure.GAMMA)
    for g, p in ((gain + 0.1, gamma), (gain - 0.1, gamma), (gain, gamma + 0.02), (gain, gamma - 0.02), (1.0, 1.0)):
        assert best < error(g, p)
    means = torch.stack([x.mean(dim=(1, 2)) for x in images]).mean(dim=0)
    torch.testing.assert_close(means, torch.tensor(measure.MEAN), rtol=0, atol=1e-6)
    smooth = (0.3 + 0.3 * torch.linspace(0, 1, 48)).expand(3, 48, 48) * torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(measure.mean_gain(smooth).mean(dim=(1, 2)), means, rtol=0, atol=1e-4)
    assert measure.mean_gain(torch.zeros(3, 4, 4)).isfinite().all()


# -- rows --------------------------------------------------------------------------------------------------------------

PIXELS = ("psnr/rgb", "ssim/rgb-wang", "psnr/y")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Untrained networks with every weight away from zero: their images differ from the input."""
    home = clone(tmp_path_factory.mktemp("smoke"))
    (home / "checkpoints").mkdir()
    (home / "checkpoints" / CLASSIFIER).symlink_to(paths.checkpoints() / CLASSIFIER)
    for e in experiments("rddm"):
        if e.profile == "smoke" and e.variant != "use":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = shaken(rddm.build_network(rddm.SMOKE[e.task_name], e.variant))
            folder = home / "checkpoints" / e.name if e.ships else home / "runs" / e.name / "checkpoint"
            save_checkpoint(folder, network, {})
    return home


@pytest.fixture
def home(smoke, monkeypatch):
    """A clone with tiny untrained networks; no LPIPS, which is slow."""
    monkeypatch.setenv("REPRO_HOME", str(smoke))
    monkeypatch.setattr(measure, "PROTOCOLS", PIXELS)
    return smoke


def test_rows_run_from_checkpoints_to_records_and_are_checked(home):
    rows = evaluation.rows("rddm", "smoke")
    assert {r.experiment for r in rows if r.sample.weights} == {
        e.name for e in experiments("rddm") if e.profile == "smoke"
    }
    records = [row.record() for row in rows]
    upsert("rddm", records)
    assert {r.id for r in load("rddm")} == {r.id for r in records} and len(load("rddm")) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert record.source == ("recorded" if row.sample.weights else "evaluated"), "networks of tests never ship"
        if record.cell.get("task") in (None, "generation", "fashion-switch"):
            continue
        for name, values in record.metrics.items():
            assert len(values) == record.n == 2, record.label
            assert record.check["metrics"][name] == values[: row.sample.k], "the check measures other images"
    # "quiet" and those that are trained longer have the weights of their twins here
    twins = tuple(rddm.name_of("lowlight", variant, 0, "smoke") for variant in ("quiet", "long", "regression-long"))
    networks = [record for record in records if record.checkpoint and record.experiment not in twins]
    learned = [json.dumps(dict(record.metrics)) for record in networks]
    assert len(set(learned)) == len(learned), "cells that should differ measure the same"
    report = check_room("rddm", "smoke")
    assert not report.failed
    assert {line["record"] for line in report.lines} == {r.id for r in records if r.source == "evaluated"}


def test_a_row_scores_what_restore_makes(home):
    """Image by image: degraded by its name, restored with its name's noise, compared with the clean one; and claim
    R6's spread over seeds."""
    rows = evaluation.rows("rddm", "smoke")

    def trained(task: str, variant: str) -> tuple[str, Net]:
        name = f"rddm-{task}-smoke-{variant}-s0"
        network = load_checkpoint(home / "runs" / name / "checkpoint")
        return name, Net(network, rddm.learning_of(rddm.SMOKE[task], variant), 2)

    name, net = trained("raindrop", "smresn")
    row = next(r for r in rows if r.experiment == name and r.cell["steps"] == 2)
    wanted = []
    for id, given, clean in measure.test_pairs("raindrop", 64, 2):
        output = net.restore(2 * given[None] - 1, [id])
        wanted.append(-10 * ((output + 1) / 2 - clean).clamp(-1, 1).square().mean().log10().item())
    assert row.measure(None)["psnr/rgb"] == pytest.approx(wanted, abs=1e-3)
    name, net = trained("lowlight", "smres")
    diverse = [r for r in rows if r.experiment == name and r.cell["task"] == "lowlight-diversity"]
    id, given, _ = measure.test_pairs("lowlight", 64, 2)[1]
    for row in diverse:
        runs = [net.restore(2 * given[None] - 1, [id], seed=s, eta=row.cell["eta"]) for s in rddm.SEEDS["smoke"]]
        found = row.measure(None)[measure.SPREAD]
        assert found[1] == pytest.approx((torch.cat(runs) / 2).std(dim=0).mean().item(), rel=1e-3) and found[1] > 0
    assert {r.cell["eta"] for r in diverse} == {0.0, 1.0}


def test_test_images_are_held_out_and_degraded_by_name(monkeypatch):
    for kind in ("lowlight", "raindrop"):
        pairs = measure.test_pairs(kind, 64, 3)
        assert [i for i, _, _ in pairs] == [p.id for p in pack.photos("test")[:3]]
        assert measure.test_pairs(kind, 64, 2)[1][1].equal(pairs[1][1]), "how many are measured changes an image"
        for name, given, clean in pairs:
            assert given.shape == clean.shape and min(clean.shape[1:]) == 64
            assert given.equal(rddm.degraded(kind, clean, name)) and not given.equal(
                rddm.degraded(kind, clean, name + "x")
            )
    before = measure._photo_hash.__wrapped__("lowlight", 64, 2)
    monkeypatch.setitem(measure.LAWS, "lowlight", "another")
    assert measure._photo_hash.__wrapped__("lowlight", 64, 2) != before


# -- drawings ---------------------------------------------------------------------------------------------------------


def test_without_records_a_sentence_stands_in_the_place():
    made = {table.name: table for table in grid.tables("rddm", [])}
    steps = figures.steps_curves(made["rddm_lowlight_steps"], made["rddm_lowlight"])
    for drawing in (steps, figures.transfer_curve(made["rddm_transfer"])):
        assert any("repro evaluate" in text.get_text() for text in drawing.axes[0].texts)


# -- explorers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    """The smoke lesson over untrained networks; raindrop's SR3 is missing."""
    with smoke_networks("03", tmp_path_factory.mktemp("home")):
        yield LESSONS["smoke"]


WALK = {"photo": "kitten", "steps": 2, "eta": 0.0, "start": 999, "schedule": "as trained", "seed": 0}


@pytest.mark.parametrize("task", lesson.TASKS)
@pytest.mark.parametrize("strategy", ["SM-N", "SM-Res-N"])  # of SM-Res the untrained network's residual is 0
def test_every_strategy_walks_on_every_task_the_same_way_twice(now, task, strategy):
    walks = [lesson.walk(now, task, strategy=strategy, **{**WALK, "seed": seed}) for seed in (0, 0, 1)]
    first, again, other = (lesson.view(each, 0.5) for each in walks)
    assert np.array_equal(first, again) and first.dtype == np.uint8 and not np.array_equal(first, other)


def test_the_explorer_draws_what_the_sampler_draws(now):
    y, x0 = now.pair("lowlight", lesson.PHOTOS["Colosseum"], crop=now["play"])
    restored = now.net("lowlight", "smres").restore(y, ["Colosseum"], 3)
    found = lesson.walk(now, "low light", strategy="SM-Res", **{**WALK, "photo": "Colosseum", "steps": 3})
    result, given, between, caption = found
    assert torch.equal(result, restored) and torch.equal(given, y) and torch.equal(between["truth"], x0)
    assert caption.endswith(f"{psnr(restored, x0):.1f} dB")
    shown = lesson.view(found, 0.0)[15:, :376]
    assert np.array_equal(shown, resized(to_unit(restored)[0], 376))


def test_what_makes_no_sense_is_refused_in_a_sentence(now):
    cases = {
        "for Fashion-MNIST choose SM-Res": ("Fashion-MNIST", "regression", {}),
        "goes its own way": ("low light", "pure noise", {"schedule": "InDI"}),
        "its own way": ("low light", "regression", {"eta": 0.5}),
    }
    refused(cases, lambda task, strategy, changed: lesson.walk(now, task, strategy=strategy, **{**WALK, **changed}))


def test_missing_weights_are_a_sentence_and_a_line(now, capsys):
    for call in (
        lambda: lesson.walk(now, "raindrops", strategy="pure noise", **WALK),
        lambda: lesson.own_photo(now, None, "kitten", "rain on it", "pure noise", 2, 0),
    ):
        with pytest.raises(ReproError, match=f"no weights of {MISSING['03']} here"):
            call()
    assert "pure noise" not in now.nets("raindrop")
    assert f"repro train {MISSING['03']}" in capsys.readouterr().out


def test_an_uploaded_photo_is_brought_to_size_and_described():
    ours = torch.zeros(3, 40, 20)
    image, about = photograph(photo(400, 50), 64, ours, "ours")
    assert image.shape == (3, 64, 128) and about.endswith("400 × 50, its middle")
    assert image.mean().item() == pytest.approx(0.5, abs=0.01)  # the middle of a ramp
    image, about = photograph(None, 10, ours, "ours")
    assert image.shape == (3, 20, 10) and about == "ours"
    for other in (photo(8, 8), UploadedFile("cat.txt", b"meow")):
        with pytest.raises(ReproError, match=rf"{other.name}"):
            photograph(other, 64, ours, "ours")


def test_the_presets_fit_the_controls(now):
    given = {**WALK, "task": "low light", "strategy": "SM-Res", "split": 0.5}
    explorer = Explorer(partial(lesson.walk, now), lesson.controls(given), lesson.PRESETS,
                        view=lesson.view, display=["split"])  # fmt: skip
    own = Explorer(partial(lesson.own_photo, now), lesson.own_controls(now, 0), lesson.OWN_PRESETS,
                   view=own_view, display=["split"], save=partial(lesson.own_full, now))  # fmt: skip
    for each in (explorer, own):
        assert all(each.picture(**preset).ndim == 3 for preset in each.presets.values())
    mine, chosen = photo(90, 60), {"strategy": "SM-Res", "weather": "it is dark already"}
    assert own.picture(photo=mine).shape[1] == 480
    full = own.saved(photo=mine, **chosen)
    assert full.shape == (60, 90, 3) and np.array_equal(full, own.saved(photo=mine, **chosen, split=0.0))
    assert own.saved(photo=mine, **chosen | {"weather": "darken it"}).shape == (64, 96, 3)  # darkened as it is shown
    with pytest.raises(ReproError, match="regression is not there for an image at its own size"):
        own.saved(photo=mine, strategy="regression")
