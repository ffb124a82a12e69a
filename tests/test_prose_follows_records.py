"""What notebooks 02 and 03 say in words about single networks is what the committed records say."""

from __future__ import annotations

import inspect

from repro.editing.pipeline import EditingPipeline
from repro.editing.study.benchmark import COMPOSITES
from repro.editing.study.config import SMALL
from repro.editing.study.experiments import LONGER, LOW, MASKED, TAUGHT, VARIANTS, learning_of, name_of
from repro.engine.records import load, select
from repro.rddm.experiments import name_of as rddm_name

LPIPS = "lpips/alex-v0.1"
EDITS = ("blur", "grain", "colour", "inpaint", "sharpen", "blur+grain+colour")


def mean(room, experiment, metric, **cell):
    (found,) = select(load(room), experiment=experiment, cell=cell, profile="small")
    values = found.values(metric)
    return sum(values) / len(values)


def lpips(variant, edit, task="edit"):
    return mean("editing", name_of(variant), LPIPS, task=task, edit=edit)


def slider(variant, metric, seed=0, task="slider", **cell):
    return mean("editing", name_of(variant, seed), metric, task=task, **cell)


def test_most_of_the_distance_to_regression_was_want_of_training():
    """Notebook 03, section 7."""

    def of(variant, metric, steps):
        return mean("rddm", rddm_name("lowlight", variant), metric, task="lowlight", steps=steps)

    for steps in (2, 5):
        short = of("smres", LPIPS, steps) - of("regression", LPIPS, 1)
        long = of("long", LPIPS, steps) - of("regression-long", LPIPS, 1)
        assert 0 < long < short / 2
        assert abs(of("long", "psnr/rgb", steps) - of("regression-long", "psnr/rgb", 1)) < 0.5


def test_grain_needs_the_later_steps_and_spans_further_where_low_times_were_trained():
    """Notebook 02, sections 9 and 10."""
    span, rank = "strength-span/grain", "spearman/grain"
    alone = {"edit": "grain", "inside": False}
    for metric in (span, rank):
        assert slider("mult", metric, **alone) > slider("mult", metric, task="slider, even steps", **alone)
    assert slider(LOW, span, **alone) > 1.5 * slider("mult", span, **alone)
    assert lpips(LOW, "grain") < lpips("mult", "grain", "one crop")
    assert lpips(LOW, "sharpen") > lpips("mult", "sharpen", "one crop")


def test_a_slider_inside_a_composite_depends_on_the_seed():
    """Notebook 02, section 9."""
    one, other = (slider("mult", "spearman/grain", seed, edit="grain", inside=True) for seed in (0, 1))
    assert min(one, other) < 0.5 < 0.8 < max(one, other)


def test_the_masks_advantage_was_a_head_start():
    """Notebook 02, section 10: briefly trained better at everything, with all images nearly level."""
    assert all(lpips("mask", edit) < lpips("short", edit) for edit in EDITS)
    assert all(abs(lpips(MASKED, edit) - lpips("mult", edit, "one crop")) < 0.01 for edit in EDITS[:-1])
    assert lpips(MASKED, EDITS[-1]) > lpips("mult", EDITS[-1], "one crop")


def composite(variant, edit, seed=0):
    return mean("editing", name_of(variant, seed), LPIPS, task="edit", edit="+".join(edit))


def test_shown_composites_the_same_network_composes():
    """Notebook 02, section 9: the control's sliders inside composites, its seeds, its distance to the targets."""
    for seed in (0, 1):
        for edit in ("blur", "grain", "sharpen"):
            assert slider(TAUGHT, f"spearman/{edit}", seed, edit=edit, inside=True) > 0.85
        for edit in COMPOSITES[1:]:
            assert composite("singles", edit) < composite(TAUGHT, edit, seed) < composite("mult", edit, seed)
    assert all(lpips(v, EDITS[-1]) > lpips("mult", EDITS[-1], "one crop") for v in (MASKED, LOW))
    apart = {v: [abs(composite(v, e) - composite(v, e, 1)) for e in COMPOSITES] for v in ("mult", TAUGHT)}
    assert max(apart[TAUGHT]) < 0.01 < 0.05 < max(apart["mult"])


def test_trained_longer_every_slider_ranks_and_composites_come_nearer():
    """Notebook 02, sections 6 and 9: three times the images, more low times; what users are given, and its seeds."""
    long, control = learning_of(LONGER, SMALL), learning_of(TAUGHT, SMALL)
    assert VARIANTS[LONGER].share == 3 * VARIANTS[TAUGHT].share == 3 * VARIANTS["mult"].share and long.low > control.low
    assert inspect.signature(EditingPipeline.shipped).parameters["variant"].default == LONGER
    for seed in (0, 1):
        for edit in (*COMPOSITES, *(("grain",), ("colour",), ("inpaint",), ("sharpen",))):
            assert composite(LONGER, edit, seed) < composite(TAUGHT, edit, seed), edit
        assert slider(LONGER, "spearman/grain", seed, edit="grain", inside=False) > slider(
            TAUGHT, "spearman/grain", seed, edit="grain", inside=False
        )
    for inside in (False, True):
        for edit in ("blur", "grain", "sharpen"):
            assert slider(LONGER, f"spearman/{edit}", edit=edit, inside=inside) > 0.9, (edit, inside)


def test_two_rough_photographs_are_most_of_what_grains_rank_lacks():
    """Notebook 02, section 9: those whose strength is largest where the least grain is asked for."""
    cell = {"task": "slider", "edit": "grain", "inside": False}
    networks = [name_of(v, seed) for v in ("mult", "palette", TAUGHT, LONGER) for seed in (0, 1)]
    for experiment in (*networks, name_of("single-grain")):
        (found,) = select(load("editing"), experiment=experiment, cell=cell, profile="small")
        lacks = [1 - rank for rank in found.values("spearman/grain")]
        rough = sorted(range(len(lacks)), key=found.values("strength/grain@0").__getitem__)[-2:]
        assert sum(lacks[i] for i in rough) > sum(lacks) / 2
