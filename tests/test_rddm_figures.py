"""What notebook 03 draws and lets a reader turn: measured ways in the plane, drawings, explorers, exercises."""

import io
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from repro import paths
from repro.data.images import to_unit
from repro.engine import grid
from repro.engine.checkpoint import save_checkpoint
from repro.errors import ReproError
from repro.rddm.schedules import by_config
from repro.rddm.study import explore, figures
from repro.rddm.study.experiments import SMOKE, TRAINED, build_network, name_of
from repro.rddm.study.lesson import EXERCISES, LESSONS, check, psnr
from repro.ui.controls import UploadedFile
from repro.ui.explore import Explorer
from repro.ui.photos import photograph, resized

SCHEDULE = by_config()


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
    home = tmp_path_factory.mktemp("home")
    shutil.copy(paths.root() / "pyproject.toml", home)
    (home / "notebooks").mkdir()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("REPRO_HOME", str(home))
        torch.manual_seed(0)
        for task, variants in TRAINED.items():
            for variant, ships in variants:
                if ships and (task, variant) != ("raindrop", "sr3"):
                    folder = home / "checkpoints" / name_of(task, variant, 0, "smoke")
                    save_checkpoint(folder, build_network(SMOKE[task], variant), {"images": 0})
        yield LESSONS["smoke"]


WALK = {"picture": "kitten", "steps": 2, "eta": 0.0, "start": 999, "schedule": "as trained", "seed": 0}


@pytest.mark.parametrize("task", explore.TASKS)
@pytest.mark.parametrize("strategy", ["SM-N", "SM-Res-N"])  # of SM-Res the untrained network's residual is 0
def test_every_strategy_walks_on_every_task_the_same_way_twice(now, task, strategy):
    walks = [explore.walk(now, task, strategy=strategy, **{**WALK, "seed": seed}) for seed in (0, 0, 1)]
    first, again, other = (explore.view(each, 0.5) for each in walks)
    assert np.array_equal(first, again) and first.dtype == np.uint8 and not np.array_equal(first, other)


def test_the_explorer_draws_what_the_sampler_draws(now):
    y, x0 = now.pair("lowlight", explore.PHOTOS["Colosseum"], crop=now["play"])
    restored = now.net("lowlight", "smres").restore(y, ["Colosseum"], 3)
    found = explore.walk(now, "low light", strategy="SM-Res", **{**WALK, "picture": "Colosseum", "steps": 3})
    assert torch.equal(found.result, restored) and torch.equal(found.between["truth"], x0)
    assert found.words.endswith(f"{psnr(restored, x0):.1f} dB")
    shown = explore.view(found, 0.0)[15:, :376]
    assert np.array_equal(shown, resized(to_unit(restored)[0], 376))


@pytest.mark.parametrize(
    ("task", "strategy", "changed", "message"),
    [
        ("Fashion-MNIST", "regression", {}, "for Fashion-MNIST choose SM-Res"),
        ("low light", "pure noise", {"schedule": "InDI"}, "goes its own way"),
        ("low light", "regression", {"eta": 0.5}, "goes its own way"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(now, task, strategy, changed, message):
    with pytest.raises(ReproError, match=message):
        explore.walk(now, task, strategy=strategy, **{**WALK, **changed})


def test_missing_weights_are_a_sentence_and_a_line(now, capsys):
    for call in (
        lambda: explore.walk(now, "raindrops", strategy="pure noise", **WALK),
        lambda: explore.own_photo(now, None, "kitten", "rain on it", "pure noise", 2, 0),
    ):
        with pytest.raises(ReproError, match=f"no weights of {name_of('raindrop', 'sr3', 0, 'smoke')} here"):
            call()
    assert "pure noise" not in now.nets("raindrop")
    assert f"repro train {name_of('raindrop', 'sr3', 0, 'smoke')}" in capsys.readouterr().out


def photo(width: int, height: int, name: str = "mine.png") -> UploadedFile:
    row = np.linspace(0, 255, width).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(np.repeat(row[None], height, 0)[..., None], 3, 2)).save(buffer, format="PNG")
    return UploadedFile(name, buffer.getvalue())


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
    explorer = Explorer(partial(explore.walk, now), explore.controls(given), explore.PRESETS,
                        view=explore.view, display=["split"])  # fmt: skip
    own = Explorer(partial(explore.own_photo, now), explore.own_controls(now, 0), explore.OWN_PRESETS,
                   view=explore.own_view, display=["split"], save=partial(explore.own_full, now))  # fmt: skip
    for each in (explorer, own):
        assert all(each.picture(**preset).ndim == 3 for preset in each.presets.values())
    mine, chosen = photo(90, 60), {"strategy": "SM-Res", "weather": "it is dark already"}
    assert own.picture(photo=mine).shape[1] == 480
    full = own.saved(photo=mine, **chosen)
    assert full.shape == (60, 90, 3) and np.array_equal(full, own.saved(photo=mine, **chosen, split=0.0))
    assert own.saved(photo=mine, **chosen | {"weather": "darken it"}).shape == (64, 96, 3)  # darkened as it is shown
    with pytest.raises(ReproError, match="regression is not there for an image at its own size"):
        own.saved(photo=mine, strategy="regression")


# -- lesson and exercises ---------------------------------------------------------------------------------------------


WRONG = {
    "half": int((SCHEDULE.u > 0.5).nonzero()[0]) + 1,
    "noise": lambda x_t, y, r, u, s: (x_t - y - (1 - u) * r) / s,
    "step": lambda x_t, r, eps, u_t, s_t, u_s, s_s: x_t - (u_t - u_s) * r - (s_t**2 - s_s**2) * eps,
    "indi": lambda t, s: 1 - s / t,
    "translate": lambda alpha_bar: (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()),
    "ends": 0.0,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_exercises_know_wrong_answers(name, capsys):
    """The right ones stand in the notebook, whose test counts them."""
    check(name, None)
    check(name, WRONG[name])
    waiting, wrong = capsys.readouterr().out.splitlines()
    assert "waiting" in waiting and "not yet" in wrong
