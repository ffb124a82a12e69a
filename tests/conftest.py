"""One thread, the network never asked for weights, and skipped browser tests said aloud."""

import os
from pathlib import Path

# Before torch is imported: results must not depend on the machine's cores, and xdist fills them with processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings
from tiny import clone

import repro.methods  # noqa: F401 (registers them)

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# The same examples in every run, on machines of any speed.
settings.register_profile("repro", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repro")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty clone, which the package takes for its own."""
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))
    return clone(tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no accelerator."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no accelerator on this machine"))


def pytest_terminal_summary(terminalreporter) -> None:
    """A skipped browser test is no detail: without it nobody has moved a slider."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "browser" in report.keywords]
    if skipped:
        terminalreporter.section("NOT TESTED: the widgets in a real browser", sep="!", yellow=True)
        terminalreporter.line(f"{len(skipped)} browser test(s) skipped: {skipped[0].longrepr[2]}")
        terminalreporter.line("Install Chromium (on Debian: apt-get install chromium) and run again.")
