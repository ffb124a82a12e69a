"""Plots and widgets for the notebooks: `from repro.ui import explore, Slider, grid`.

In reading order: `pictures` (anything drawn becomes pixels, pixels become PNG), `plots`, `sheet` and `schematic`
(figures), `photos` (drawings made of photographs), `controls` and `explore` (a function with sliders), `live` (its
widgets), `setup` (how a notebook begins). ipywidgets and matplotlib load when something is shown or plotted, not
here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from repro.ui.controls import Choice, Seed, Slider, Toggle, Upload, UploadedFile
from repro.ui.explore import Command, explore  # eager: otherwise `repro.ui.explore` would be the module
from repro.ui.pictures import png, to_uint8

_LAZY = {
    **dict.fromkeys(("curve", "dots", "grid", "split_view", "strip", "tile", "verdict_bars"), "plots"),
    "Schematic": "schematic",
    "start": "setup",
}

_EAGER = (Choice, Command, Seed, Slider, Toggle, Upload, UploadedFile, explore, png, to_uint8)
__all__ = sorted([*_LAZY, *(each.__name__ for each in _EAGER)])


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'repro.ui' has no attribute {name!r}")
    return getattr(import_module(f"repro.ui.{_LAZY[name]}"), name)
