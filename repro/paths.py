"""Where the clone keeps things: found upward from the package, or named by `REPRO_HOME`."""

import os
from pathlib import Path

from repro.errors import ReproError

_MARKS = ("pyproject.toml", "notebooks")


def root() -> Path:
    """The clone's top folder. Raises `ReproError` where the package runs outside a clone."""
    home = os.environ.get("REPRO_HOME")
    candidates = [Path(home)] if home else list(Path(__file__).resolve().parents)
    for folder in candidates:
        if all((folder / mark).exists() for mark in _MARKS):
            return folder
    where = f"REPRO_HOME={home}" if home else f"any folder above {Path(__file__).parent}"
    raise ReproError(f"no clone of the repository at {where}: set REPRO_HOME to the folder that holds {_MARKS[0]}")


def room_file(room: str, name: str) -> Path:
    """A data file of a method's study."""
    return Path(__file__).parent / room / "study" / name


def checkpoints() -> Path:
    """Trained weights that ship."""
    return root() / "checkpoints"


def figures() -> Path:
    """Everything generated: records, tables, images, claims."""
    return root() / "figures"


def runs() -> Path:
    """Training state and logs (git-ignored)."""
    return root() / "runs"


def data() -> Path:
    """Downloaded data sets, one folder each: `REPRO_DATA`, else runs/data."""
    return Path(os.environ.get("REPRO_DATA") or runs() / "data")


def build() -> Path:
    """Executed notebooks (git-ignored)."""
    return root() / "build"
