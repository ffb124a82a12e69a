"""Plots and widgets for the notebooks: `from repro.ui import explore, Slider, grid`.

ipywidgets and matplotlib load when something is shown or plotted, not here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from repro.ui.controls import Choice, Seed, Slider, Toggle, Upload, UploadedFile
from repro.ui.explore import Command, explore  # eager: otherwise `repro.ui.explore` would be the module
from repro.ui.pictures import png, to_uint8

_LAZY = {
    "curve": "plots",
    "dots": "plots",
    "grid": "plots",
    "split_view": "plots",
    "strip": "plots",
    "tile": "plots",
    "verdict_bars": "plots",
    "Schematic": "schematic",
    "start": "setup",
}

__all__ = [
    "Choice",
    "Command",
    "Schematic",
    "Seed",
    "Slider",
    "Toggle",
    "Upload",
    "UploadedFile",
    "curve",
    "dots",
    "explore",
    "grid",
    "png",
    "split_view",
    "start",
    "strip",
    "tile",
    "to_uint8",
    "verdict_bars",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'repro.ui' has no attribute {name!r}")
    return getattr(import_module(f"repro.ui.{_LAZY[name]}"), name)
