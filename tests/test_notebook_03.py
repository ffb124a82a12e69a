"""Notebook 03: its form, and its smoke profile executed in a scratch clone with small untrained networks."""

from __future__ import annotations

import re
import shutil

import nbformat
import pytest
import torch

from repro import paths
from repro.ddpm.config import SMOKE as DDPM_SMOKE
from repro.ddpm.experiments import MAIN as DDPM
from repro.ddpm.experiments import build_network as build_ddpm
from repro.engine import notebook_files
from repro.engine.checkpoint import save_checkpoint
from repro.engine.notebooks import reproduce
from repro.engine.provenance import whence
from repro.rddm.config import PROFILES, SMOKE
from repro.rddm.experiments import TRAINED, build_network, name_of
from repro.ui.setup import first_cell

ROOT = paths.root()
NOTEBOOK = ROOT / "notebooks" / "03_rddm_sampling.ipynb"
MISSING = ("raindrop", "sr3")  # left out of the scratch clone: the notebook has to say so and go on


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
    assert re.findall(r"(?:FID|KID|IS|PSNR|SSIM|LPIPS|dB|error)\s*(?:of|is|=|:)?\s*\d+\.\d", text) == []
    assert re.findall(r"\d+\.\d+\s*dB", text) == []


def test_every_claim_of_the_report_is_named(node):
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    assert all(f"**R{i}**" in text for i in range(1, 7))


def test_what_is_committed_is_small_and_clean(node):
    assert NOTEBOOK.stat().st_size <= 1_000_000
    assert "widgets" not in node.metadata
    kinds = {kind for cell in node.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert not any("widget" in kind for kind in kinds)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The smoke profile, executed where nothing but the notebook and small untrained networks lies."""
    home = tmp_path_factory.mktemp("clone")
    (home / "notebooks").mkdir()
    shutil.copy(NOTEBOOK, home / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", home)
    (home / "checkpoints").mkdir()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("REPRO_HOME", str(home))
        torch.manual_seed(0)
        save_checkpoint(home / "checkpoints" / DDPM, build_ddpm(DDPM_SMOKE), {})
        for task, variants in TRAINED.items():
            for variant, ships in variants:
                if ships and (task, variant) != MISSING:
                    folder = home / "checkpoints" / name_of(task, variant, 0, "smoke")
                    save_checkpoint(folder, build_network(SMOKE.tasks[task], variant), {"images": 0})
        (found,) = reproduce(["03"], profile="smoke")
    return home, found


@pytest.mark.notebook
def test_the_smoke_profile_runs_top_to_bottom(run):
    _, found = run
    assert found.error is None, found.error
    executed = nbformat.read(found.path, as_version=4)
    shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
    text = "\n".join(output.get("text", "") for output in shown)
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("image/png") + kinds.count("image/jpeg") >= 18
    assert text.count(": right") == 6 and text.count("waiting for your answer") == 6
    # what is true of any network, trained or not
    assert float(re.search(r"one jump: largest difference (\S+)", text)[1]) < 1e-10
    assert float(re.search(r"against InDI: largest difference (\S+)", text)[1]) < 1e-12
    assert float(re.search(r"not clipped, float64\s+(\S+)", text)[1]) < 1e-10
    assert float(re.search(r"compose\s+against ddim\s+largest difference (\S+),", text)[1]) < 1e-4
    assert float(re.search(r"\nlargest difference (\S+)\n", text)[1]) < 1e-4  # the scheduler's loop


@pytest.mark.notebook
def test_a_network_that_is_not_there_is_said_with_its_command(run):
    _, found = run
    executed = nbformat.read(found.path, as_version=4)
    text = "\n".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert f"repro train {name_of(*MISSING, 0, 'smoke')}" in text


@pytest.mark.notebook
def test_a_profile_that_is_not_the_default_leaves_the_shipped_figures_alone(run):
    home, _ = run
    assert not (home / "figures").exists()
    pictures = sorted((home / "build/smoke/pictures").glob("*.png"))
    assert len(pictures) >= 12 and all(whence(path).command == "repro reproduce 03" for path in pictures)
    assert len(list((home / "build/smoke/tables").glob("rddm_*.md"))) >= 10
