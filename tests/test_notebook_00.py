"""Notebook 00: runs from top to bottom, and keeps to the notebooks' shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import paths
from repro.engine import notebook_files
from repro.engine.notebooks import reproduce
from repro.ui.setup import first_cell

NAME = "00_start_here"


@pytest.mark.notebook
@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    (run,) = reproduce([NAME], profile="smoke", build=tmp_path)
    assert run.error is None, run.error
    executed = notebook_files.read(run.path)
    pictures = [o for c in executed.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 2


@pytest.mark.parametrize("path", sorted((paths.root() / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_shape(path: Path) -> None:
    """Every notebook: the bootstrap first, documented parameters, cells that fit a glance, at most 1 MB."""
    notebook = notebook_files.read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == first_cell(paths.root()).strip()
    assert "parameters" in code[1].metadata.tags
    assert all("#" in line for line in code[1].source.strip().splitlines())
    assert len(code) <= 40
    assert all(len(cell.source.strip().splitlines()) <= 15 for cell in code)
    assert path.stat().st_size <= 1_000_000
    assert "widgets" not in notebook.metadata
    assert not any(o.output_type == "error" for cell in code for o in cell.outputs)
