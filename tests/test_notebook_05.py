"""Notebook 05: its smoke profile executed in a scratch clone with a small untrained network."""

import pytest
from notebook_kit import execute

from repro.adir.study.experiments import SMOKE, TINY
from repro.engine.checkpoint import save_checkpoint
from repro.nn.unet import UNet

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    def fill(home):
        save_checkpoint(home / "checkpoints" / SMOKE, UNet(**TINY), {"images": 0})

    return execute("05", tmp_path_factory.mktemp("clone"), fill)


def test_the_smoke_profile_runs_top_to_bottom(run):
    run.ran(pictures=12, exercises=6)
    assert run.number(r"in the open against the package: largest difference (\S+)") < 1e-4
    assert "552,814,086 parameters" in run.text


def test_a_profile_that_is_not_the_default_leaves_the_shipped_figures_alone(run):
    command = "repro reproduce 05 --profile smoke"
    assert len(run.leaves_the_shipped_figures_alone(command, pictures=8, tables="adir_*.md")) == 8
