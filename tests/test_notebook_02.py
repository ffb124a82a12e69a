"""Notebook 02: its smoke profile executed in a scratch clone with small untrained networks."""

import re
from functools import partial

import pytest
from notebook_kit import NOTEBOOKS, execute
from tiny_editing import fill

from repro.editing.study.experiments import PROFILES, name_of
from repro.editing.study.lesson import LESSONS

MISSING = "single-sharpen"  # left out of the scratch clone: the notebook has to say so and go on


def test_every_profile_of_the_lesson_is_one_and_is_offered():
    assert set(LESSONS) <= set(PROFILES)
    text = NOTEBOOKS["02"].read_text(encoding="utf-8")
    assert all(f"{name}: " in text for name in LESSONS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return execute("02", tmp_path_factory.mktemp("clone"), partial(fill, missing=[MISSING]))


@pytest.mark.notebook
def test_the_smoke_profile_runs_top_to_bottom(run):
    run.ran(pictures=22, exercises=8)
    # what is true of any network, trained or not
    gradients = {
        words: float(v) for words, v in re.findall(r"(one token|each entry of C)\s+largest.*?to_q: (\S+)", run.text)
    }
    assert gradients["one token"] == 0 < gradients["each entry of C"]
    assert run.number(r"\nlargest difference (\S+)\n") < 1e-5  # the pipeline and the editor
    assert "lambda (amount of sharpening) is 4; accepted: 1 to 3" in run.text
    assert 'EditingPipeline.shipped("smoke")' in run.text and "-p beta 0.5 " in run.text
    assert (
        re.search(r"ᾱ_T = 0\.0047, signal a_T = 0\.068", run.text) and "the grain itself 0.72 grey levels" in run.text
    )


@pytest.mark.notebook
def test_a_network_that_is_not_there_is_said_with_its_command(run):
    assert f"repro train {name_of(MISSING, 0, 'smoke')}" in run.text


@pytest.mark.notebook
def test_a_profile_that_is_not_the_default_leaves_the_shipped_figures_alone(run):
    command = "repro reproduce 02 --profile smoke"
    assert len(run.leaves_the_shipped_figures_alone(command, pictures=18, tables="editing_*.md")) >= 14
