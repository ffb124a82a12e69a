"""Notebook 01: its form, and its smoke profile executed in a scratch clone with small untrained networks."""

from __future__ import annotations

import re
import shutil

import nbformat
import pytest
import torch

from repro import paths
from repro.ddpm.config import PROFILES, SMOKE
from repro.ddpm.experiments import CLASSIFIER, MAIN, build_network
from repro.engine import notebook_files
from repro.engine.checkpoint import save_checkpoint
from repro.engine.notebooks import reproduce
from repro.engine.provenance import whence
from repro.nn.classifier import Classifier
from repro.ui.setup import first_cell

ROOT = paths.root()
NOTEBOOK = ROOT / "notebooks" / "01_ddpm_basics.ipynb"


@pytest.fixture(scope="module")
def node():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def code(node):
    return [cell for cell in node.cells if cell.cell_type == "code"]


def test_cells_are_few_and_short(code):
    assert len(code) <= 40
    long = {cell.source.splitlines()[0]: len(cell.source.splitlines()) for cell in code}
    assert {head: lines for head, lines in long.items() if lines > 15} == {}


def test_it_begins_like_every_notebook(code):
    assert code[0].source.strip() == first_cell(ROOT).strip()


def test_its_parameters_are_typed_and_documented(node, code):
    known = notebook_files.declared(node, NOTEBOOK.stem)
    assert known["profile"].default == "small" and known["seed"].default == 0
    (cell,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert all("  # " in line for line in cell.source.splitlines())
    assert all(name in cell.source for name in PROFILES)
    played = [cell.source for cell in code if "Command(" in cell.source]
    assert played and all(f'"{name}"' in played[0] for name in known if name != "profile")


def test_no_measured_number_is_typed_into_the_text(node):
    """Scores in prose would outlive the weights they were measured on; they are printed from records."""
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    assert re.findall(r"(?:FID|KID|IS|PSNR|accuracy|error)\s*(?:of|is|=|:)?\s*\d+\.\d", text) == []


def test_what_is_committed_is_small_and_clean(node):
    assert NOTEBOOK.stat().st_size <= 1_000_000
    assert "widgets" not in node.metadata
    kinds = {kind for cell in node.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert not any("widget" in kind for kind in kinds)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The smoke profile, executed where nothing but the notebook and two small networks lies."""
    home = tmp_path_factory.mktemp("clone")
    (home / "notebooks").mkdir()
    shutil.copy(NOTEBOOK, home / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", home)
    (home / "checkpoints").mkdir()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("REPRO_HOME", str(home))
        torch.manual_seed(0)
        save_checkpoint(home / "checkpoints" / MAIN, build_network(SMOKE), {})
        save_checkpoint(home / "checkpoints" / CLASSIFIER, Classifier(base_channels=8, channel_mults=(1, 1)), {})
        (found,) = reproduce(["01"], profile="smoke")
    return home, found


@pytest.mark.notebook
def test_the_smoke_profile_runs_top_to_bottom(run):
    _, found = run
    assert found.error is None, found.error
    executed = nbformat.read(found.path, as_version=4)
    shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
    text = "\n".join(output.get("text", "") for output in shown)
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 18
    assert text.count(": right") == 5 and text.count("waiting for your answer") == 5
    differs = float(re.search(r"largest difference of a pixel in \[-1, 1\] (\S+)", text)[1])
    assert differs < 1e-4  # ours against diffusers, the same network and noise


@pytest.mark.notebook
def test_a_profile_that_is_not_the_default_leaves_the_shipped_figures_alone(run):
    home, _ = run
    assert not (home / "figures").exists()
    pictures = sorted((home / "build/smoke/pictures").glob("*.png"))
    assert len(pictures) >= 6 and all(whence(path).command == "repro reproduce 01" for path in pictures)
    assert len(list((home / "build/smoke/tables").glob("*.md"))) == 6
