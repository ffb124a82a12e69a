"""`explore`: an `Explorer` shown live, with sliders, or headless, as plain images."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from repro.ui.controls import Command, Control, Explorer


def explore(
    fn: Callable[..., Any],
    controls: Mapping[str, Control],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    command: Command | None = None,
    **more: Any,
) -> Explorer:
    """Show `fn(**params)` with one control per parameter; `more`: the other fields of `Explorer`, which explains all.

    Live in a notebook's kernel unless `REPRO_HEADLESS=1`; the default image below the widget is what the saved notebook
    shows. Errors at the defaults are raised, later ones are one sentence in the image's place.
    """
    from IPython import get_ipython

    kind = Explorer
    if os.environ.get("REPRO_HEADLESS") != "1" and getattr(get_ipython(), "kernel", None) is not None:
        from repro.ui.live import LiveExplorer as kind
    explorer = kind(fn, controls, presets or {}, command, **more)
    explorer.show()
    return explorer
