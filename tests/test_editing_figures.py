"""What notebook 02 draws and lets a reader change: comparisons, probes, curves, explorers, exercises."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from clones import MISSING, photo, smoke_networks
from tiny_editing import tiny_editor, tiny_network

from repro.editing.sampling import in_sequence
from repro.editing.study import figures, probes
from repro.editing.study import lesson as play
from repro.editing.study.benchmark import COMPOSITES
from repro.editing.study.experiments import SMOKE, name_of, network_of
from repro.editing.study.lesson import LESSONS, METHODS, MULT, PALETTE, PIX2PIX, SINGLE
from repro.editing.study.measure import L1, LPIPS, SLIDERS, STRENGTH, edited
from repro.editing.vector import NAMES, EditingVector
from repro.engine.records import Record
from repro.errors import ReproError
from repro.ui.controls import Explorer


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    """The smoke lesson over untrained networks; the one for sharpening is missing."""
    with smoke_networks("02", tmp_path_factory.mktemp("home")):
        yield LESSONS["smoke"]


def test_methods_edit_by_their_networks_and_say_what_is_missing(now):
    with pytest.raises(ReproError, match=f"no checkpoint {MISSING['02']}"):
        now.editor("single-sharpen")
    data, methods = now.data(1), now.methods()
    assert tuple(methods) == METHODS == (PIX2PIX, PALETTE, SINGLE, MULT)
    steps = now.live.steps
    assert torch.equal(methods[MULT](data, ("blur",)), edited(now.editor(), data, ("blur",), steps=steps))
    assert not torch.equal(methods[MULT](data, ("blur",)), methods[PALETTE](data, ("blur",)))
    assert "no weights of editing-smoke-single-sharpen" in methods[SINGLE](data, ("grain", "colour", "sharpen"))
    found = methods[SINGLE](data, ("blur", "grain"))
    singles = {task: now.editor(f"single-{task}") for task in ("blur", "grain")}
    given = {"vectors": [v.only(*singles) for v in data.vectors], "ids": data.ids, "steps": steps}
    assert torch.equal(found, in_sequence(singles, data.sharp, rules=data.bench.rules, **given))


def test_attention_is_what_the_layers_weigh(now):
    data = now.data(1)
    entry = tiny_editor(tiny_network(**network_of(SMOKE, "entry")))
    found = probes.attention(entry, data, EditingVector(blur=1.0, colour=True, inpaint=True))
    assert found and all(
        w.shape == (len(NAMES),) and w.sum().item() == pytest.approx(1, abs=1e-5) for w in found.values()
    )
    assert all(torch.allclose(w, torch.ones(1)) for w in probes.attention(now.editor(), data, EditingVector()).values())
    assert probes.attention(now.editor("palette"), data, EditingVector()) == {}
    blind = dataclasses.replace(entry, network=copy.deepcopy(entry.network))
    for name, module in blind.network.unet.named_modules():
        if name.endswith("attn2"):
            module.to_k.weight.zero_()  # nothing to tell the tokens by
    even = probes.attention(blind, data, EditingVector(grain=0.1))
    assert all(torch.allclose(w, torch.full((9,), 1 / 9)) for w in even.values())


def record(experiment: str, cell: dict, **metrics) -> Record:
    about = dict(n=2, seed=0, profile="small", checkpoint=None, data="0" * 64, command="test")
    return Record(room="editing", experiment=experiment, cell=cell, metrics=metrics, **about)


def test_curves_are_of_the_records_they_name():
    for drawing in (figures.slider_curves([]), figures.step_curves([]), figures.combinations([])):
        assert any("repro evaluate" in text.get_text() for text in drawing.axes[0].texts)
    values = {f"{STRENGTH['grain']}@{i}": [-90.0, i, i + 2.0] for i in range(5)}  # one photograph far off: medians
    cell = {"task": "slider", "edit": "grain"}
    made = [record(name_of("mult"), {**cell, "inside": inside}, **values) for inside in (False, True)]
    middle = figures.slider_curves(made).axes[1]
    full, dashed = ([line for line in middle.get_lines() if line.get_linestyle() == dash] for dash in ("-", "--"))
    assert len(full) == len(dashed) == 1 and middle.get_legend_handles_labels()[1] == [MULT]
    for line in (*full, *dashed):
        assert list(line.get_xdata()) == [place["grain"] for place in SLIDERS["grain"]]
        assert list(line.get_ydata()) == [0, 1, 2, 3, 4]
    edit, scores = "+".join(COMPOSITES[1]), {L1: [0.1, 0.3], LPIPS: [0.5, 0.7]}
    made = [record(name_of("mult"), {"task": "steps", "edit": edit, "steps": n}, **scores) for n in (50, 1, 5)]
    made.append(record(name_of("mult"), {"task": "one crop", "edit": edit}, **{L1: [0.0, 0.2], LPIPS: [0.4, 0.4]}))
    (line,) = [line for line in figures.step_curves(made).axes[0].get_lines() if line.get_linestyle() == "-"]
    assert list(line.get_xdata()) == [1, 5, 50] and list(line.get_ydata()) == pytest.approx([0.2, 0.2, 0.2])


GIVEN = {
    "photo": "kingfisher", "method": MULT, "blur": True, "beta": 0.5, "grain": True, "sigma": 0.1, "sharpen": False,
    "amount": 2.0, "mu": 0.02, "reference": "none", "mask": "none", "steps": 2, "seed": 0, "split": 0.5,
}  # fmt: skip
PLAY = {name: value for name, value in GIVEN.items() if name != "split"}


@pytest.fixture(scope="module")
def player(now):
    python = partial(play.python, now)
    return Explorer(
        partial(play.edit, now), play.controls(GIVEN), play.PRESETS, view=play.view, display=["split"], python=python
    )


@pytest.mark.parametrize(
    "changes",
    [
        *({"photo": "Colosseum"}, {"beta": 1.0}, {"sharpen": True}, {"reference": "hedgehog"}, {"mask": "40 %"}),
        *({"steps": 3}, {"seed": 1}, {"split": 0.7}, {"method": PIX2PIX}, {"method": SINGLE}),
    ],
)
def test_every_control_leaves_its_mark_and_the_picture_is_the_same_twice(now, player, changes):
    found, plain = player.picture(**changes), player.picture()
    assert np.array_equal(found, player.picture(**changes)) and not np.array_equal(found, plain)


@pytest.mark.parametrize("changes", [{"reference": "red panda", "mask": "20 %"}, {"method": PALETTE, "sharpen": True}])
def test_the_python_to_copy_draws_the_same_picture(now, player, changes):
    scope: dict = {}
    exec(player.texts(**changes)[1].replace("\npipe(", "\nout = pipe("), scope)
    wanted = play.edit(now, **{**PLAY, **changes})[2][0].mul(255).round().permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(scope["out"]).astype(float) - wanted).max() <= 1  # the pipeline rounds once more


def test_what_a_method_cannot_do_is_said_in_words(now, player):
    assert "repro train" in play.edit(now, **{**PLAY, "method": SINGLE, "sharpen": True})
    assert (player.picture(method=SINGLE, sharpen=True)[-1] == 255).all()  # drawn as a sentence
    assert np.array_equal(player.picture(blur=False), player.picture(blur=False, beta=1.0))
    assert all(player.picture(**preset).ndim == 3 for preset in play.PRESETS.values())


def test_a_photo_of_ones_own_is_edited_shown_large_and_saved_at_its_own_size(now):
    own = Explorer(
        partial(play.own_photo, now), play.own_controls(0), play.OWN_PRESETS,
        view=play.own_view, display=["split"], save=partial(play.own_full, now),
    )  # fmt: skip
    assert own.picture().shape[1] == 480
    assert not np.array_equal(own.picture(beta=0.0, sigma=0.1), own.picture())
    assert own.picture(photo=photo(60, 90)).shape == (480 + 15, 320, 3)
    assert own.saved(photo=photo(90, 60)).shape == (60, 90, 3)
