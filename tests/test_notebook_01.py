"""Notebook 01: its smoke profile executed in a scratch clone with small untrained networks."""

import pytest
from notebook_kit import execute

from repro.ddpm.study.experiments import CLASSIFIER, MAIN, SMOKE, build_network
from repro.engine.checkpoint import save_checkpoint
from repro.nn.classifier import Classifier

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    def fill(home):
        (home / "checkpoints").mkdir()
        save_checkpoint(home / "checkpoints" / MAIN, build_network(SMOKE), {})
        save_checkpoint(home / "checkpoints" / CLASSIFIER, Classifier(base_channels=8, channel_mults=(1, 1)), {})

    return execute("01", tmp_path_factory.mktemp("clone"), fill)


def test_the_smoke_profile_runs_top_to_bottom(run):
    run.ran(pictures=18, exercises=5)
    # ours against diffusers, the same network and noise
    assert run.number(r"largest difference of a pixel in \[-1, 1\] (\S+)") < 1e-4


def test_a_profile_that_is_not_the_default_leaves_the_shipped_figures_alone(run):
    tables = run.leaves_the_shipped_figures_alone("repro reproduce 01 --profile smoke", pictures=6, tables="*.md")
    assert len(tables) == 6
