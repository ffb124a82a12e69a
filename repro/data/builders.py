"""Data sets that this repository makes itself, by name.

The room that defines one has a module with `build(profile, root, out, png, film) -> str`, what to print of the folder
made, and `check(folder) -> repro.data.known.Report`. It is imported only when asked for, so that data sets never depend
on a method.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from repro.errors import ReproError

BUILDERS = {"editing-bench": "repro.editing.build"}


def builder(name: str) -> ModuleType:
    """The module that makes the data set of that name."""
    if name not in BUILDERS:
        raise ReproError(f"no data set {name!r} is made here; accepted: {', '.join(BUILDERS)}")
    return importlib.import_module(BUILDERS[name])
