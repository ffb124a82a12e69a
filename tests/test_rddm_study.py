"""What notebook 03 learns and measures: losses, degradations, the list, baselines, rows; RDDM against DDIM."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from repro import paths
from repro.data import lowlight, pack
from repro.data.degradations import TASKS
from repro.data.images import to_model
from repro.ddpm.study.experiments import CLASSIFIER, MAIN
from repro.engine import evaluation
from repro.engine.checkpoint import load_checkpoint, save_checkpoint
from repro.engine.evaluation import check_room
from repro.engine.recipe import Recipe
from repro.engine.records import Record, load, upsert
from repro.engine.registry import experiments, find
from repro.engine.rng import KeyedNoise
from repro.engine.train import train
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.model import RDDMNet
from repro.rddm.process import target
from repro.rddm.sampling import Net
from repro.rddm.schedules import by_config
from repro.rddm.study import baselines, measure, probes
from repro.rddm.study.baselines import inpainted, mean_gain, median
from repro.rddm.study.experiments import (
    LONG,
    SEEDS,
    SMALL,
    SMOKE,
    TRAINED,
    USE,
    VARIANTS,
    build_network,
    degraded,
    learning_of,
    name_of,
    profile,
    training_task,
)
from repro.rddm.tasks import DEGRADATIONS, LAWS, Learning, PairTask, generation_task, restoration_loss, restoration_task

PLACES = torch.tensor([3, 40, 7, 21])
LISTED = [(t, v) for t, found in TRAINED.items() for v, _ in found]


def noise_at(places=PLACES, seed: int = 0):
    return lambda purpose: KeyedNoise(seed, places, f"train/{purpose}")


def coded(count: int = 5, side: int = 40) -> list[torch.Tensor]:
    """Images whose every pixel tells image, row and column."""
    rows = torch.linspace(0, 1, side)[:, None].expand(side, side)
    return [torch.stack([torch.full_like(rows, i / count), rows, rows.T]) for i in range(count)]


def task(degradation="lowlight", crop: int = 24, learning: Learning | None = None) -> PairTask:
    learning = learning or Learning("res", by_config(), "l1")
    return restoration_task(coded(), [f"p{i}" for i in range(5)], degradation, crop, learning)


class Knowing(nn.Module):
    """The network that knows the clean images of its batch, and so everything else."""

    def __init__(self, x0, y, learning: Learning, wrong: float = 0.0) -> None:
        super().__init__()
        self.x0, self.y, self.learning, self.wrong, self.calls = x0, y, learning, wrong, []

    def forward(self, x, t, cond=None):
        self.calls.append((x, t, cond))
        if self.learning.start == "none":
            return SimpleNamespace(sample=self.y - self.x0 + self.wrong)
        origin = self.y if self.learning.start == "degraded" else torch.zeros_like(self.x0)
        u, s = self.learning.schedule.at(t, x)
        eps = (x - self.x0 - u * (origin - self.x0)) / s
        return SimpleNamespace(sample=target(origin - self.x0, eps, self.learning.objective) + self.wrong)


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variant"), LISTED)
def test_a_perfect_predictor_has_no_loss_and_another_has(name, variant):
    config, indices = SMOKE[name], torch.tensor([4, 0, 1, 1])
    learning = learning_of(config, variant)
    if config.degradation == "none":
        images = to_model(KeyedNoise(0, range(6), "test").uniform((1, 12, 12)))
        learned = generation_task(images, list("abcdef"), learning)
    else:
        learned = task(config.degradation, learning=learning)
    x0, y = learned.pair(indices, noise_at())
    knowing = Knowing(x0, y, learning)
    found = learned.loss(knowing, indices, noise_at())
    assert found.shape == (4,) and found.dtype == torch.float32
    assert found.max() < 2e-4, "the noise is found again from a state in float32"
    off = learned.loss(Knowing(x0, y, learning, wrong=0.5), indices, noise_at())
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
        knowing = Knowing(x0, x0, Learning("res", by_config(10), "l1", last=last))
        restoration_loss(knowing, x0, x0, noise_at(places), knowing.learning)
        share = knowing.calls[0][1].bincount(minlength=10) / 4000
        assert share[-1].item() == pytest.approx(share_of_last, abs=0.02)
        assert share[:-1].std() < 0.01 and ("last" in knowing.learning.settings) == (last > 0)
    x = torch.zeros(4, 3, 8, 8)
    with pytest.raises(ReproError, match="regression predicts the residual: got objective 'noise'"):
        restoration_loss(nn.Identity(), x, x, noise_at(), Learning("noise", by_config(), "l1", "none"))


def test_the_crop_is_of_the_right_image_and_its_own_degradation(monkeypatch):
    monkeypatch.setitem(DEGRADATIONS, "lowlight", lambda x, noise: 1 - x)
    learned, indices = task(crop=24), torch.tensor([4, 0, 2, 2])
    x0, y = learned.pair(indices, noise_at())
    assert x0.shape == (4, 3, 24, 24) and torch.allclose(y, -x0, atol=1e-6)
    found = set()
    for crop in (x0 + 1) / 2:
        top, left, right = (round(v.item() * 39) for v in (crop[1, 0, 0], crop[2, 0, 0], crop[2, 0, -1]))
        whole = coded()[round(crop[0, 0, 0].item() * 5)]
        window = whole[:, top : top + 24, min(left, right) : min(left, right) + 24]
        torch.testing.assert_close(crop, window if left < right else window.flip(-1))
        found.add((top, left))
    assert len(found) == 4, "two visits of an image cut it alike"
    assert learned.names(indices) == ["p4", "p0", "p2", "p2"] and learned.size == 5


@pytest.mark.parametrize("degradation", ["lowlight", "raindrop"])
def test_a_pair_depends_on_its_place_and_not_on_its_batch(degradation):
    learned, indices, degrade = task(degradation), torch.tensor([4, 0, 2, 2]), DEGRADATIONS[degradation]
    whole = learned.pair(indices, noise_at())
    assert (whole[0] - whole[1]).abs().mean() > 0.01 and whole[1].abs().max() <= 1
    for i in range(4):
        alone = learned.pair(indices[i : i + 1], noise_at(PLACES[i : i + 1]))
        for one, all_ in zip(alone, whole, strict=True):
            torch.testing.assert_close(one[0], all_[i], rtol=0, atol=1e-6)
    same = torch.full((2, 3, 32, 32), 0.5) + torch.linspace(0, 0.4, 32)
    one, other = degrade(same, noise_at(torch.tensor([1, 2])))
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, degrade(same[:1], noise_at(torch.tensor([1]), seed=1))[0])


def test_a_killed_training_ends_like_one_that_was_not(tmp_path):
    recipe = Recipe(images=32, batch=8, lr=1e-3, ema=20, threads=1, save_every=8)

    def end(state, until=None):
        torch.manual_seed(0)
        network = RDDMNet("res", base_channels=8, channel_mults=(1,), blocks=1)
        *_, last = train(network, task("raindrop", crop=16), recipe, 0, state, until)
        return last.ema.state_dict()

    straight = end(tmp_path / "a")
    end(tmp_path / "b", until=16)
    resumed = end(tmp_path / "b")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


@pytest.mark.parametrize(("name", "shared"), [("lowlight", "lowlight"), ("raindrop", "raindrops")])
def test_networks_for_use_learn_the_wide_degradations(name, shared):
    config = USE[name]
    learned = task(config.degradation, learning=learning_of(config, "use"))
    x0, y = learned.pair(torch.tensor([4, 0]), noise_at(PLACES[:2]))
    wanted = TASKS[shared].degrade((x0 + 1) / 2, noise_at(PLACES[:2]))[0]
    torch.testing.assert_close(y, to_model(wanted), rtol=0, atol=1e-4)
    assert learned.settings["degradation"] == TASKS[shared].law, "a run is not continued under another law"
    network = find(name_of(name, "use")).build()
    assert 1_000_000 <= sum(p.numel() for p in network.parameters()) <= 1_500_000


def test_the_list_of_experiments():
    assert name_of("lowlight", "smres", 1, "smoke") == "rddm-lowlight-smoke-smres-s1"
    for chosen, tasks in (("small", SMALL), ("smoke", SMOKE)):
        for name, variant in LISTED:
            experiment, recipe = find(name_of(name, variant, 0, chosen)), tasks[name].recipe
            assert experiment.ships == (chosen == "small" and (variant, True) in TRAINED[name])
            assert experiment.recipe.images == recipe.images * (3 if variant in LONG else 1)
            with torch.device("meta"):
                network, usual = (build_network(tasks[name], v) for v in (variant, "smres"))
            assert network.config.objective == VARIANTS[variant].objective
            assert network.config.condition == (name != "fashion")
            count, wanted = (sum(p.numel() for p in net.parameters()) for net in (network, usual))
            assert chosen == "smoke" or count == pytest.approx(wanted, rel=0.15)  # two networks are 14 % larger
    with torch.device("meta"):  # the numbers that the table of layouts prints
        nets = [build_network(SMALL["raindrop"], v) for v in ("smresn", "one", "shared")]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [357_168, 316_656, 294_900]
    schedules = {v: learning_of(SMALL["lowlight"], v).schedule for v in ("quiet", "smres", "sr3")}
    assert [s.sum_scale for s in schedules.values()] == pytest.approx([0.01, 1, 1 - 4.0358e-5])
    with pytest.raises(ReproError, match="unknown profile 'big': there are small, smoke"):
        profile("big")


def test_training_uses_training_images_alone():
    for name, config in SMOKE.items():
        learned = training_task(config, "smres")
        if name == "fashion":
            allowed = {f"fashion {i}" for i in pack.fashion("train").ids.tolist()}
        else:
            allowed = {p.id for p in pack.photos("train")}
            assert learned.size == 2
        x0, _ = learned.pair(torch.tensor([0, 1]), noise_at(PLACES[:2]))
        assert x0.min() >= -1 and x0.max() <= 1 and x0.shape[1] == (1 if name == "fashion" else 3)
        assert set(learned.ids) <= allowed and learned.size == len(learned.ids)
    assert not {p.id for p in pack.photos("test")} & {p.id for p in pack.photos("train")}


# -- baselines ---------------------------------------------------------------------------------------------------------

SIDE = 48
SMOOTH = torch.stack([torch.linspace(0.3, 0.6, SIDE).expand(SIDE, SIDE)] * 3) + torch.linspace(0, 0.1, SIDE)[:, None]


@pytest.fixture
def pairs(monkeypatch):
    clean = KeyedNoise(0, range(3), "test/clean").uniform((3, 40, 40))
    found = tuple((degraded("lowlight", x, f"x{i}"), x) for i, x in enumerate(clean))
    monkeypatch.setattr(baselines, "training_pairs", lambda: found)
    yield found
    baselines.fitted_gain_gamma.cache_clear()
    baselines.training_mean.cache_clear()


def test_the_fitted_numbers_are_the_best_on_their_images(pairs):
    x, y = (torch.cat([p[i].flatten()[::1009] for p in pairs]).double() for i in (0, 1))
    gain, gamma = baselines.fitted_gain_gamma()
    error = lambda g, p: ((g * x).clamp(0, 1) ** p - y).square().mean().item()  # noqa: E731
    assert error(gain, gamma) < error(1.0, 1.0)
    for g, p in ((gain + 0.1, gamma), (gain - 0.1, gamma), (gain, gamma + 0.02), (gain, gamma - 0.02)):
        assert p < 0.4 or error(gain, gamma) <= error(g, p)  # 0.4 ends the grid
    dark, clean = pairs[0]
    assert (baselines.gain_gamma(dark) - clean).square().mean() < (dark - clean).square().mean()
    wanted = torch.stack([clean for _, clean in pairs]).mean(dim=(0, 2, 3))
    found = mean_gain(SMOOTH * torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    torch.testing.assert_close(found.mean(dim=(1, 2)), wanted, rtol=0, atol=1e-4)
    assert mean_gain(torch.zeros(3, 4, 4)).isfinite().all()


def test_filters_take_specks_and_drops_and_leave_the_rest():
    for channel in baselines.equalised(0.1 * KeyedNoise(0, [0], "x").uniform((3, 32, 32))[0] ** 2):
        quantiles = channel.flatten().quantile(torch.tensor([0.25, 0.5, 0.75]))
        assert quantiles.tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.02)  # uniform, whatever it was
    edge = (torch.arange(SIDE) >= 20).float().expand(3, SIDE, SIDE).clone()
    speck = edge.clone()
    speck[1, 10, 10] = 1.0
    assert torch.equal(median(speck), edge) and torch.equal(median(edge, 5), edge)
    rows, cols = torch.arange(SIDE)[:, None], torch.arange(SIDE)[None]
    drops = torch.stack([(rows - y) ** 2 + (cols - x) ** 2 <= r * r for y, x, r in ((12, 14, 3), (30, 36, 4))]).any(0)
    found = inpainted(torch.where(drops, 0.95, SMOOTH), (15, 0.10, 0))
    torch.testing.assert_close(found[:, ~drops], SMOOTH[:, ~drops], rtol=0, atol=1e-6)
    torch.testing.assert_close(found, SMOOTH, rtol=0, atol=5e-3)  # a plane is what a biharmonic surface continues


# -- rows --------------------------------------------------------------------------------------------------------------

PIXELS = ("psnr/rgb", "ssim/rgb-wang", "psnr/y")


def save(home, tasks, chosen: str) -> None:
    """Untrained networks with every weight away from zero, a little: their images differ from the input."""
    for e in experiments("rddm"):
        if e.profile == chosen and e.variant != "use":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = build_network(tasks[e.task_name], e.variant)
            generator = torch.Generator().manual_seed(1)
            for p in network.parameters():
                p.data += 0.1 * torch.randn(p.shape, generator=generator)
            folder = home / "checkpoints" / e.name if e.ships else home / "runs" / e.name / "checkpoint"
            save_checkpoint(folder, network, {})


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
def home(smoke, monkeypatch, pairs):
    """A clone with tiny untrained networks; classical baselines fitted on few images; no LPIPS, which is slow."""
    monkeypatch.setenv("REPRO_HOME", str(smoke))
    monkeypatch.setattr(measure, "PROTOCOLS", PIXELS)
    return smoke


def key(row):
    return row.experiment, tuple(sorted(row.cell.items())), row.profile, row.seed


def test_keys_of_the_small_profile_are_unique(tmp_path, monkeypatch):
    home = a_home(tmp_path, CLASSIFIER, MAIN)
    monkeypatch.setenv("REPRO_HOME", str(home))
    assert not [row for row in evaluation.rows("rddm", "smoke") if row.weights]  # nothing trained: the baselines alone
    save(home, SMALL, "small")
    rows = evaluation.rows("rddm", "small")
    assert len({key(row) for row in rows}) == len(rows) > 165
    measured = {row.experiment for row in rows}
    small = {e.name for e in experiments("rddm") if e.profile == "small" and e.variant != "use"}
    assert measured >= small | {MAIN, "baseline-input"}
    ships = {e.name: e.ships for e in experiments()}
    assert all(row.ships == ships.get(row.experiment, True) for row in rows)
    full_size = [row for row in rows if "full-size" in row.cell.get("task", "")]
    assert len(full_size) == 4 and {(row.n, row.k) for row in full_size} == {(measure.FULL_SIZE, 0)}
    assert all(row.n == len(pack.photos("test")) for row in rows if row.cell.get("task") in ("lowlight", "raindrop"))


def test_rows_run_from_checkpoints_to_records_and_are_checked(home):
    rows = evaluation.rows("rddm", "smoke")
    assert len({key(row) for row in rows}) == len(rows)
    assert {r.experiment for r in rows if r.weights} == {e.name for e in experiments("rddm") if e.profile == "smoke"}
    records = [row.record() for row in rows]
    upsert("rddm", records)
    assert {r.id for r in load("rddm")} == {r.id for r in records} and len(load("rddm")) == len(records)
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
            assert record.check["metrics"][name] == values[: row.k], "the check measures other images"
    # "quiet" has the weights of "smres" here, and samples like it from quieter noise (test_rddm_samplers). Those that
    # are trained longer have the weights of their twins.
    twins = tuple(name_of("lowlight", variant, 0, "smoke") for variant in ("quiet", *LONG))
    networks = [record for record in records if record.checkpoint and record.experiment not in twins]
    learned = [json.dumps(dict(record.metrics)) for record in networks]
    assert len(set(learned)) == len(learned), "cells that should differ measure the same"
    report = check_room("rddm", "smoke", progress=False)
    assert not report.failed
    assert {r.record.id for r in report.rows} == {r.id for r in records if r.source == "evaluated"}


def test_a_row_scores_what_restore_makes(home):
    """Image by image: degraded by its name, restored with its name's noise, compared with the clean one; and claim
    R6's spread over seeds."""
    name = "rddm-raindrop-smoke-smresn-s0"
    rows = evaluation.rows("rddm", "smoke")
    row = next(r for r in rows if r.experiment == name and r.cell["steps"] == 2)
    network, wanted = load_checkpoint(home / "runs" / name / "checkpoint"), []
    for id, given, clean in measure.test_pairs("raindrop", 64, 2):
        found = Net(network, learning_of(SMOKE["raindrop"], "smresn"), 2).restore(2 * given[None] - 1, [id])
        wanted.append(-10 * ((found + 1) / 2 - clean).clamp(-1, 1).square().mean().log10().item())
    assert row.measure(None)["psnr/rgb"] == pytest.approx(wanted, abs=1e-3)
    name, learning = "rddm-lowlight-smoke-smres-s0", learning_of(SMOKE["lowlight"], "smres")
    net = Net(load_checkpoint(home / "runs" / name / "checkpoint"), learning, 2)
    diverse = [r for r in rows if r.experiment == name and r.cell["task"] == "lowlight-diversity"]
    id, given, _ = measure.test_pairs("lowlight", 64, 2)[1]
    for row in diverse:
        eta = row.cell["eta"]
        runs = [net.restore(2 * given[None] - 1, [id], seed=s, eta=eta) for s in SEEDS["smoke"]]
        found = row.measure(None)[measure.SPREAD]
        assert found[1] == pytest.approx((torch.cat(runs) / 2).std(dim=0).mean().item(), rel=1e-3) and found[1] > 0
        assert row.measure(1)[measure.SPREAD] == pytest.approx(found[:1], rel=1e-6)
    assert {r.cell["eta"] for r in diverse} == {0.0, 1.0}


def test_lpips_and_luma_are_measured_too(smoke, monkeypatch):
    monkeypatch.setenv("REPRO_HOME", str(smoke))
    found = next(r for r in evaluation.rows("rddm", "smoke") if r.experiment == "baseline-input").measure(1)
    assert set(found) == set(measure.PROTOCOLS) and found["psnr/y"] != found["psnr/rgb"]
    assert 0 < found["lpips/alex-v0.1"][0] < 1.5


def test_test_images_are_held_out_and_degraded_by_name(monkeypatch):
    for kind in ("lowlight", "raindrop"):
        pairs = measure.test_pairs(kind, 64, 3)
        assert [i for i, _, _ in pairs] == [p.id for p in pack.photos("test")[:3]]
        assert measure.test_pairs(kind, 64, 2)[1][1].equal(pairs[1][1]), "how many are measured changes an image"
        for name, given, clean in pairs:
            assert given.shape == clean.shape and min(clean.shape[1:]) == 64
            assert given.equal(degraded(kind, clean, name)) and not given.equal(degraded(kind, clean, name + "x"))
    hashes = {measure._photo_hash(k, s, n) for k in ("lowlight", "raindrop") for s in (64, 256) for n in (0, 2)}
    assert len(hashes) == 8 and set(LAWS) == set(DEGRADATIONS) and str(lowlight.STOPS) in LAWS["lowlight"]
    before = measure._photo_hash("lowlight", 64, 2)
    monkeypatch.setitem(LAWS, "lowlight", "another")
    measure._photo_hash.cache_clear()
    assert measure._photo_hash("lowlight", 64, 2) != before
    measure._photo_hash.cache_clear()


# -- the transformation, on notebook 01's network ----------------------------------------------------------------------


def gap(rule, clip, other, dtype="float64", k=2):
    found = probes.gap(5, rule, clip, other, dtype, k)
    assert all(m <= d for m, d in zip(found[probes.MEAN_DIFFERENCE], found[probes.DIFFERENCE], strict=True))
    return max(found[probes.DIFFERENCE])


def test_unclipped_rules_are_DDIM_and_clipped_ones_two_DDIMs():
    for rule in ("eq12", "compose", "rederive"):
        assert gap(rule, False, "ddim") < 1e-10
    assert gap("compose", True, "ddim") < 1e-10 and gap("rederive", True, "ddim-rederived") < 1e-10
    for rule, other in (("eq12", "ddim"), ("eq12", "ddim-rederived"), ("compose", "ddim-rederived")):
        assert gap(rule, True, other) > 1e-3, (rule, other)
    assert 1e-9 < gap("eq12", False, "ddim", "float32", None) < 1e-3  # float32 rounds, and no more


def test_samples_by_number_do_not_depend_on_their_set():
    found, alone = (probes.drawn(2, "eq12", True, ids) for ids in (range(3, 6), range(4, 5)))
    torch.testing.assert_close(found[1:2], alone, rtol=0, atol=1e-4)
