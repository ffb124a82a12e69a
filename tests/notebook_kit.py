"""Notebooks executed in a scratch clone, and what they showed."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
import pytest
import torch

from repro import paths
from repro.engine.notebooks import reproduce
from repro.engine.provenance import whence

ROOT = paths.root()
NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}


@dataclass(frozen=True)
class Executed:
    """A smoke run of a notebook; `error` is that of the cell that failed."""

    home: Path
    path: Path
    error: str | None

    @cached_property
    def outputs(self) -> list:
        node = nbformat.read(self.path, as_version=4)
        return [output for cell in node.cells for output in cell.get("outputs", [])]

    @cached_property
    def text(self) -> str:
        """What was printed."""
        return "\n".join(output.get("text", "") for output in self.outputs)

    @property
    def pictures(self) -> int:
        """How many were shown."""
        kinds = [kind for output in self.outputs for kind in output.get("data", {})]
        return kinds.count("image/png") + kinds.count("image/jpeg")

    def ran(self, pictures: int, exercises: int) -> None:
        """Checked: to its end, at least that many images, each exercise once open and once answered rightly."""
        assert self.error is None, self.error
        assert self.pictures >= pictures
        assert self.text.count(": right") == self.text.count("waiting for your answer") == exercises

    def number(self, pattern: str) -> float:
        """The first group of a pattern in what was printed."""
        return float(re.search(pattern, self.text)[1])

    def leaves_the_shipped_figures_alone(self, command: str, pictures: int, tables: str) -> list[Path]:
        """Checked: files go to the profile's own place, at least `pictures` of them; returns the tables there."""
        assert not (self.home / "figures").exists()
        drawn = sorted((self.home / "build/smoke/pictures").iterdir())
        assert len(drawn) >= pictures and all(whence(path).command == command for path in drawn)
        return sorted((self.home / "build/smoke/tables").glob(tables))


def execute(number: str, home: Path, fill: Callable[[Path], object]) -> Executed:
    """The smoke profile, where nothing but the notebook and the small networks that `fill(home)` saves lies."""
    (home / "notebooks").mkdir()
    shutil.copy(NOTEBOOKS[number], home / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", home)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("REPRO_HOME", str(home))
        torch.manual_seed(0)
        fill(home)
        (found,) = reproduce([number], profile="smoke")
    return Executed(home, found.path, found.error)
