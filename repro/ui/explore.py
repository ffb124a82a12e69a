"""`explore`: a pure function to a picture, plus controls, shown live with sliders or headless as plain PNG.

Both faces call the same `Explorer.png`: the picture under a slider is the headless one at that value, byte for byte.
"""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from repro.errors import ReproError
from repro.ui.controls import Control, UploadedFile, parse_all
from repro.ui.pictures import enlarge, few_colours, png, to_uint8

HEADLESS = "REPRO_HEADLESS"  # set to 1 by our papermill runner
STRIP = 10.0  # inches: the widest strip of presets


@dataclass(frozen=True)
class Command:
    """How papermill would draw this picture: the notebook and which of its parameters each control sets.

    `parameters` maps control name -> notebook parameter name; controls left out are not in the command.
    """

    notebook: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def text(self, params: Mapping[str, Any]) -> str:
        """The command line at `params`, quoted for a POSIX shell."""
        output = "build/" + os.path.basename(self.notebook)
        words = ["papermill", self.notebook, output]
        for control, parameter in self.parameters.items():
            value = params[control]
            if value is None:  # nothing uploaded: the notebook's own default stands
                continue
            if isinstance(value, UploadedFile):
                value = value.name
            # papermill reads -p values as numbers or booleans where it can; -r keeps text that looks like one as text
            words += ["-r" if isinstance(value, str) and _looks_typed(value) else "-p", parameter, str(value)]
        return shlex.join(words)


def _looks_typed(text: str) -> bool:
    if text in ("True", "False", "None"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


class Explorer:
    """The pure part: parameters in, picture out. Shown headless when displayed by `explore`."""

    live = False

    def __init__(
        self,
        fn: Callable[..., Any],
        controls: Mapping[str, Control],
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        command: Command | None = None,
        scale: int = 1,
        python: Callable[..., str] | None = None,
    ) -> None:
        self.fn, self.controls, self.command, self.scale = fn, dict(controls), command, scale
        self.python = python
        self._check()
        self.defaults = parse_all(self.controls, {})
        self.presets = {title: parse_all(self.controls, preset) for title, preset in (presets or {}).items()}

    def _check(self) -> None:
        """The controls, the function's parameters and the command's must fit together."""
        if not isinstance(self.scale, int) or self.scale < 1:
            raise ReproError(f"explore: scale is {self.scale!r}, a whole number from 1 up is accepted")
        name = getattr(self.fn, "__name__", "the function")
        try:
            inspect.signature(self.fn).bind(**self.controls)
        except TypeError as error:
            expected = ", ".join(inspect.signature(self.fn).parameters)
            raise ReproError(
                f"explore: {error}: {name} takes ({expected}), controls are {sorted(self.controls)}"
            ) from None
        unknown = set(self.command.parameters) - set(self.controls) if self.command else set()
        if unknown:
            raise ReproError(f"explore: command names {sorted(unknown)}, controls are {sorted(self.controls)}")

    def picture(self, **params: Any) -> Any:
        """uint8 (H, W, 3) of `fn` at `params` over the defaults."""
        return enlarge(to_uint8(self.fn(**parse_all(self.controls, params))), self.scale)

    def png(self, **params: Any) -> bytes:
        """PNG bytes of `picture(**params)`."""
        return png(self.picture(**params))

    def command_text(self, **params: Any) -> str:
        """The papermill command at `params`; empty without a command."""
        return self.command.text(parse_all(self.controls, params)) if self.command else ""

    def python_text(self, **params: Any) -> str:
        """The Python that draws the picture at `params`; empty without `python`."""
        return self.python(**parse_all(self.controls, params)) if self.python else ""

    def strip_png(self) -> bytes | None:
        """All presets side by side as PNG of few colours, since notebooks keep it; None without presets."""
        if not self.presets:
            return None
        from repro.ui.plots import strip

        pictures = [self.picture(**preset) for preset in self.presets.values()]
        wide = sum(picture.shape[1] / picture.shape[0] for picture in pictures)
        drawn = strip(pictures, list(self.presets), size=min(1.4, STRIP / wide))
        return png(few_colours(to_uint8(drawn)))

    def show(self) -> None:
        """Display the default picture, the strip of presets, the command and the Python as PNG and text."""
        show_png(self.png())
        strip = self.strip_png()
        if strip is not None:
            show_png(strip)
        for text in (self.command_text(), self.python_text()):
            if text:
                print(text)

    def _ipython_display_(self) -> None:
        """`explore` has shown everything; as a cell's last line it must not be shown again."""


def show_png(data: bytes) -> None:
    """Send PNG bytes to the notebook as plain display data."""
    from IPython.display import Image, display

    display(Image(data=data, format="png"))


def is_live() -> bool:
    """True in a kernel that a front end may be listening to, unless `REPRO_HEADLESS=1` says that none is."""
    setting = os.environ.get(HEADLESS, "")
    if setting not in ("", "0", "1"):
        raise ReproError(f"{HEADLESS} is {setting!r}, 0 or 1 is accepted")
    if setting == "1":
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def explore(
    fn: Callable[..., Any],
    controls: Mapping[str, Control],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    command: Command | None = None,
    *,
    scale: int = 1,
    live: bool | None = None,
    python: Callable[..., str] | None = None,
) -> Explorer:
    """Show `fn(**params)` with one control per parameter.

    fn: pure; returns uint8 (H, W, 3), a PIL image, a float tensor (3, H, W) in [0, 1], or a Figure.
    controls: parameter name -> Slider, Choice, Toggle, Seed, Upload.
    presets: title -> some parameters, buttons when live, a strip of pictures when headless.
    command: what "copy as papermill command" says. scale: whole-number enlargement of small pictures.
    python: the controls' values -> what "copy as Python" says, a text.
    live: forced one way or the other; by default, see `is_live`. A live explorer also leaves the default picture as
    plain PNG below the widget, which is what the saved notebook shows.
    Raises `ReproError` where controls, function, presets or command do not fit; errors of `fn` at the defaults are
    raised, later ones are shown as one sentence under the picture.
    """
    if live if live is not None else is_live():
        from repro.ui.live import LiveExplorer

        explorer: Explorer = LiveExplorer(fn, controls, presets, command, scale, python)
    else:
        explorer = Explorer(fn, controls, presets, command, scale, python)
    explorer.show()
    return explorer
