"""Notebook 04: its smoke profile executed in a scratch clone with small untrained networks, none for JPEG."""

import pytest
from notebook_kit import execute

from repro.engine.checkpoint import save_checkpoint
from repro.ucdir.model import UCDIR
from repro.ucdir.study.experiments import EXPERIMENTS, network_of

pytestmark = pytest.mark.notebook
NAMES = {f"ucdir-{task}-smoke-{variant}-s0": (task, variant) for task, variant in
         (("lowlight", "use"), ("lowlight", "regression"), ("deblur", "use"))}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    def fill(home):
        for name, (task, variant) in NAMES.items():
            save_checkpoint(home / "checkpoints" / name, UCDIR(**network_of(task, variant, "smoke")), {"images": 0})

    assert NAMES.keys() <= {e.name for e in EXPERIMENTS}
    return execute("04", tmp_path_factory.mktemp("clone"), fill)


def test_the_smoke_profile_runs_top_to_bottom(run):
    run.ran(pictures=14, exercises=6)
    assert run.number(r"against the layer: (\S+)") < 1e-4
    assert run.number(r"largest difference (\S+)") < 1e-5


def test_a_profile_that_is_not_the_default_leaves_the_shipped_figures_alone(run):
    command = "repro reproduce 04 --profile smoke"
    assert len(run.leaves_the_shipped_figures_alone(command, pictures=6, tables="ucdir_*.md")) == 8
