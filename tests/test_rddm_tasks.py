"""What the networks of notebook 03 learn: exact answers have no loss, each crop meets its own degradation and noise."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from repro.data import pack
from repro.data.degradations import TASKS
from repro.data.images import to_model
from repro.engine.recipe import Recipe
from repro.engine.registry import find
from repro.engine.rng import KeyedNoise
from repro.engine.train import train
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.model import RDDMNet
from repro.rddm.objectives import target
from repro.rddm.schedules import by_config
from repro.rddm.study.config import PROFILES, SMOKE, profile
from repro.rddm.study.experiments import (
    TRAINED,
    VARIANTS,
    build_network,
    learning_of,
    name_of,
    photographs,
    recipe_of,
    schedule_of,
    training_task,
)
from repro.rddm.study.use import USE
from repro.rddm.tasks import DEGRADATIONS, GenerationTask, Learning, RestorationTask, darken, restoration_loss, wet

PLACES = torch.tensor([3, 40, 7, 21])


def noise_at(places=PLACES, seed: int = 0):
    return lambda purpose: KeyedNoise(seed, places, f"train/{purpose}")


def coded(count: int = 5, side: int = 40) -> list[torch.Tensor]:
    """Pictures whose every pixel tells picture, row and column."""
    rows = torch.linspace(0, 1, side)[:, None].expand(side, side)
    return [torch.stack([torch.full_like(rows, i / count), rows, rows.T]) for i in range(count)]


def task(degrade=darken, crop: int = 24, learning: Learning | None = None, count: int = 5) -> RestorationTask:
    learning = learning or Learning("res", by_config(), "l1")
    return RestorationTask(coded(count), [f"p{i}" for i in range(count)], degrade, crop, learning)


class Knowing(nn.Module):
    """The network that knows the clean pictures of its batch, and so everything else."""

    def __init__(self, I_0, I_in, learning: Learning, wrong: float = 0.0) -> None:
        super().__init__()
        self.I_0, self.I_in, self.learning, self.wrong, self.asked = I_0, I_in, learning, wrong, []

    def forward(self, x, t, cond=None):
        self.asked.append((x, t, cond))
        learning = self.learning
        if learning.start == "none":
            return SimpleNamespace(sample=self.I_in - self.I_0 + self.wrong)
        origin = self.I_in if learning.start == "degraded" else torch.zeros_like(self.I_0)
        eps = process.eps_from_I0(x, origin, self.I_0, *learning.schedule.at(t, x))
        return SimpleNamespace(sample=target(origin - self.I_0, eps, learning.objective) + self.wrong)


def variants():
    return [(t, v) for t, found in TRAINED.items() for v, _ in found]


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variant"), variants())
def test_a_perfect_predictor_has_no_loss_and_another_has(name, variant):
    config = SMOKE.tasks[name]
    learning = learning_of(config, variant)
    if config.degradation == "none":
        pictures = to_model(KeyedNoise(0, range(6), "test").uniform((1, 12, 12)))
        learned, I_in = GenerationTask(pictures, list("abcdef"), learning), None
        indices = torch.tensor([4, 0, 1, 2])
        I_0 = pictures[indices]
    else:
        learned, indices = task(DEGRADATIONS[config.degradation], learning=learning), torch.tensor([4, 0, 1, 1])
        I_0, I_in = learned.pair(indices, noise_at())
    nothing = torch.zeros_like(I_0)
    knowing = Knowing(I_0, nothing if I_in is None else I_in, learning)
    found = learned.loss(knowing, indices, noise_at())
    assert found.shape == (4,) and found.dtype == torch.float32
    assert found.max() < 2e-4, "the noise is found again from a state in float32"
    heads = 2 if learning.objective == "res_noise" else 1
    off = learned.loss(Knowing(knowing.I_0, knowing.I_in, learning, wrong=0.5), indices, noise_at())
    torch.testing.assert_close(off, torch.full((4,), heads * {"l1": 0.5, "l2": 0.25}[learning.norm]), atol=1e-3, rtol=0)

    ((x, t, cond),) = knowing.asked
    assert cond is None if I_in is None else torch.equal(cond, I_in), "what the network is shown"
    if learning.start == "none":
        assert torch.equal(x, I_in) and (t == learning.schedule.T - 1).all()
        return
    origin = I_in if learning.start == "degraded" and I_in is not None else nothing
    drawn = noise_at()("time").integers(0, 1000)
    eps = noise_at()("noise").normal(tuple(I_0.shape[1:]))
    assert torch.equal(t, drawn)
    torch.testing.assert_close(x, process.q_sample(I_0, origin - I_0, drawn, eps, learning.schedule), atol=1e-6, rtol=0)


def test_timesteps_are_uniform_over_all():
    learning = Learning("res", by_config(10), "l1")
    places = torch.arange(4000)
    I_0 = torch.zeros(4000, 1, 1, 1)
    knowing = Knowing(I_0, I_0, learning)
    restoration_loss(knowing, I_0, I_0, noise_at(places), learning)
    share = knowing.asked[0][1].bincount(minlength=10) / 4000
    assert len(share) == 10 and (share - 0.1).abs().max() < 0.02


def test_regression_takes_the_residual_alone():
    learning = Learning("noise", by_config(), "l1", "none")
    x = torch.zeros(4, 3, 8, 8)
    with pytest.raises(ReproError, match="regression predicts the residual: got objective 'noise'"):
        restoration_loss(nn.Identity(), x, x, noise_at(), learning)


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_the_crop_is_of_the_right_picture_and_its_own_degradation():
    learned = task(lambda x, noise: 1 - x, crop=24)
    indices = torch.tensor([4, 0, 2, 2])
    I_0, I_in = learned.pair(indices, noise_at())
    assert I_0.shape == (4, 3, 24, 24) and torch.allclose(I_in, -I_0, atol=1e-6)
    unit = (I_0 + 1) / 2
    torch.testing.assert_close(unit[:, 0, 0, 0], indices / 5)
    found = set()
    for crop in unit:
        top, left, right = (round(v.item() * 39) for v in (crop[1, 0, 0], crop[2, 0, 0], crop[2, 0, -1]))
        whole = coded()[round(crop[0, 0, 0].item() * 5)]
        window = whole[:, top : top + 24, min(left, right) : min(left, right) + 24]
        torch.testing.assert_close(crop, window if left < right else window.flip(-1))
        found.add((top, left))
    assert len(found) == 4, "two visits of a picture cut it alike"
    assert learned.names(indices) == ["p4", "p0", "p2", "p2"] and learned.size == 5


@pytest.mark.parametrize("degrade", [darken, wet])
def test_a_pair_does_not_know_its_batch(degrade):
    learned, indices = task(degrade), torch.tensor([4, 0, 2, 2])
    whole = learned.pair(indices, noise_at())
    assert (whole[0] - whole[1]).abs().mean() > 0.01 and whole[1].abs().max() <= 1
    for i in range(4):
        alone = learned.pair(indices[i : i + 1], noise_at(PLACES[i : i + 1]))
        for one, all_ in zip(alone, whole, strict=True):
            torch.testing.assert_close(one[0], all_[i], rtol=0, atol=1e-6)
    order = torch.tensor([2, 3, 1, 0])
    assert torch.equal(learned.pair(indices[order], noise_at(PLACES[order]))[1], whole[1][order])


@pytest.mark.parametrize("degrade", [darken, wet])
def test_every_visit_is_degraded_anew(degrade):
    same = torch.full((2, 3, 32, 32), 0.5) + torch.linspace(0, 0.4, 32)
    one, other = degrade(same, noise_at(torch.tensor([1, 2])))
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, degrade(same[:1], noise_at(torch.tensor([1]), seed=1))[0])


def test_a_killed_training_ends_like_one_that_was_not(tmp_path):
    recipe = Recipe(images=32, batch=8, lr=1e-3, ema=20, threads=1, save_every=8)
    network = {"base_channels": 8, "channel_mults": (1,), "blocks": 1}
    learned = task(wet, crop=16)

    def fresh():
        torch.manual_seed(0)
        return RDDMNet("res", **network)

    def end(state, until=None):
        *_, last = train(fresh(), learned, recipe, 0, state, until, compile=False)
        return last.ema.state_dict()

    straight = end(tmp_path / "a")
    end(tmp_path / "b", until=16)
    resumed = end(tmp_path / "b")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_a_share_of_the_samples_is_trained_at_the_last_time():
    places = torch.arange(4_000)
    I_0, I_in = (KeyedNoise(0, places, name).uniform((3, 2, 2)) for name in ("clean", "degraded"))
    learning = Learning("res", by_config(), "l2", last=0.25)
    knowing = Knowing(I_0, I_in, learning)
    restoration_loss(knowing, I_0, I_in, noise_at(places), learning)
    ((_, t, _),) = knowing.asked
    uniform = noise_at(places)("time").integers(0, 1000)
    assert (t[t != uniform] == 999).all() and (t == 999).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert "last" not in Learning("res", by_config(), "l2").settings and learning.settings["last"] == 0.25


@pytest.mark.parametrize(("name", "shared"), [("lowlight", "lowlight"), ("raindrop", "raindrops")])
def test_networks_for_use_learn_the_wide_degradations(name, shared):
    config = USE[name]
    learned, indices = task(DEGRADATIONS[config.degradation], learning=learning_of(config, "use")), torch.tensor([4, 0])
    I_0, I_in = learned.pair(indices, noise_at(PLACES[:2]))
    wanted = TASKS[shared].degrade((I_0 + 1) / 2, noise_at(PLACES[:2]))[0]
    torch.testing.assert_close(I_in, to_model(wanted), rtol=0, atol=1e-4)
    assert learned.settings["degradation"] == TASKS[shared].law, "a run is not continued under another law"
    network = find(name_of(name, "use")).build()
    assert 1_000_000 <= sum(p.numel() for p in network.parameters()) <= 1_500_000


# -- the list ----------------------------------------------------------------------------------------------------------


def test_names_variants_and_schedules():
    assert name_of("lowlight", "smres") == "rddm-lowlight-smres-s0"
    assert name_of("lowlight", "smres", 1, "smoke") == "rddm-lowlight-smoke-smres-s1"
    for config in PROFILES.values():
        for name, variant in variants():
            experiment = find(name_of(name, variant, 0, config.name))
            assert experiment.room == "rddm" and experiment.recipe == recipe_of(config.tasks[name], variant)
            assert experiment.ships == (config.name == "small" and (variant, True) in TRAINED[name])
    lowlight = PROFILES["small"].tasks["lowlight"]
    assert recipe_of(lowlight, "smres") == lowlight.recipe
    assert recipe_of(lowlight, "long") == dataclasses.replace(lowlight.recipe, images=3 * lowlight.recipe.images)
    assert schedule_of(lowlight, "quiet").sum_scale == pytest.approx(0.01)
    assert schedule_of(lowlight, "smres").sum_scale == pytest.approx(1)
    assert schedule_of(lowlight, "sr3").alpha_bar[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
    with pytest.raises(ReproError, match="unknown profile 'big': there are smoke, small"):
        profile("big")


def test_networks_are_of_equal_size_and_say_what_they_learn():
    def parameters(network):
        return sum(p.numel() for p in network.parameters())

    for name, variant in variants():
        with torch.device("meta"):
            network = build_network(PROFILES["small"].tasks[name], variant)
            usual = build_network(PROFILES["small"].tasks[name], "smres")
        assert network.config.objective == VARIANTS[variant].objective
        assert network.config.condition == (name != "fashion")
        assert parameters(network) == pytest.approx(parameters(usual), rel=0.15)  # two networks are 14 % larger
    with torch.device("meta"):  # the numbers that the table of layouts prints
        found = [parameters(build_network(PROFILES["small"].tasks["raindrop"], v)) for v in ("smresn", "one", "shared")]
    assert found == [357_168, 316_656, 294_900]


def test_training_shows_training_pictures_alone():
    for name in SMOKE.tasks:
        learned = training_task(SMOKE.tasks[name], "smres")
        if name == "fashion":
            allowed = {f"fashion {i}" for i in pack.fashion("train").ids.tolist()}
            assert learned.pictures.min() == -1 and learned.pictures.max() == 1 and learned.pictures.shape[1] == 1
        else:
            allowed = {p.id for p in pack.photos("train")}
            assert min(min(p.shape[1:]) for p in learned.pictures) == 64 and learned.size == 2
        assert set(learned.ids) <= allowed and learned.size == len(learned.ids)
    assert not {p.id for p in pack.photos("test")} & {p.id for p in pack.photos("train")}
    assert photographs("test", 64, 2)[0] == tuple(p.id for p in pack.photos("test")[:2])
