"""Notebook 00 runs from top to bottom."""

from pathlib import Path

import pytest

from repro.engine import notebooks
from repro.engine.notebooks import reproduce

NAME = "00_start_here"


@pytest.mark.notebook
@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.paths.build", lambda: tmp_path)
    (run,) = reproduce([NAME], profile="smoke")
    assert run.error is None, run.error
    executed = notebooks.read(run.path)
    kinds = [kind for c in executed.cells for o in c.get("outputs", []) for kind in o.get("data", {})]
    assert kinds.count("image/jpeg") == 4
