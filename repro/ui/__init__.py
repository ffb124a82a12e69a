"""Plots and widgets for the notebooks: `from repro.ui import Slider, explore, plots`.

In reading order: `pictures` (anything drawn becomes pixels; drawings made of photographs), `plots` (figures),
`controls` (a function and its sliders), `live` (its widgets), `explore` (shows them), `setup` (how a notebook begins).
ipywidgets and matplotlib load when something is shown or plotted.
"""

from repro.ui.controls import Choice, Command, Seed, Slider, Toggle, Upload
from repro.ui.explore import explore
from repro.ui.pictures import UploadedFile, png, to_uint8

__all__ = ["Choice", "Command", "Seed", "Slider", "Toggle", "Upload", "UploadedFile", "explore", "png", "to_uint8"]
