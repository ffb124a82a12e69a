"""What `explore` shows: a pure function to an image, and its controls, plain descriptions without any widget library.

Live or headless, the same `Explorer.picture` draws. A control's `parse` accepts a value or refuses it, and makes 0.3 of
a browser's 0.30000000000000004.
"""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repro.errors import ReproError
from repro.ui.pictures import Photos, UploadedFile, captioned, png, resized, show_png, to_uint8

Number = int | float
SEED_MAX = 2**31 - 1


def _accepted(value: Any, good: bool, accepted: str) -> Any:
    if not good:
        raise ReproError(f"{value!r} found, {accepted} accepted")
    return value


@dataclass(frozen=True)
class Slider:
    """A number on the grid min, min + step, ..., max; an integer when all four are. `label`: else its name."""

    min: Number
    max: Number
    step: Number
    default: Number
    label: str = ""

    @property
    def integer(self) -> bool:
        """Whether its values are integers."""
        return all(isinstance(v, int) for v in (self.min, self.max, self.step, self.default))

    def parse(self, value: Any) -> Number:
        """`value` as the grid's own number; raises `ReproError` outside the range or between two steps."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and self.min - 1e-6 <= value <= self.max + 1e-6:
            nearest = round(self.min + round((value - self.min) / self.step) * self.step, 9)
            if abs(nearest - value) <= 1e-6:
                return int(nearest) if self.integer else float(nearest)
        return _accepted(value, False, f"{self.min} to {self.max} in steps of {self.step}")


class Seed(Slider):
    """A whole number in [0, 2^31) that keys all randomness, with a field and a button for the next one."""

    def __init__(self, default: int = 0, label: str = "seed") -> None:
        super().__init__(0, SEED_MAX, 1, default, label)


@dataclass(frozen=True)
class Choice:
    """One of a few values (text or numbers), in the order given; the first is the default unless one is named."""

    options: Sequence[str | Number]
    default: str | Number | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if self.default is None:
            object.__setattr__(self, "default", self.options[0])

    def parse(self, value: Any) -> str | Number:
        """`value` when it is an option; raises `ReproError` naming the options otherwise."""
        return _accepted(value, value in self.options, ", ".join(map(repr, self.options)))


@dataclass(frozen=True)
class Toggle:
    """Yes or no."""

    default: bool = False
    label: str = ""

    def parse(self, value: Any) -> bool:
        """`value` when it is a bool; raises `ReproError` otherwise."""
        return _accepted(value, isinstance(value, bool), "True or False")


@dataclass(frozen=True)
class Upload:
    """An image file of the reader's: an `UploadedFile`, or None (the default) while there is none."""

    label: str = "your photo"
    default = None

    def parse(self, value: Any) -> UploadedFile | None:
        """The file, or the newest of `ipywidgets.FileUpload.value` (None where that is empty): in version 7 a dict of
        name -> {"metadata", "content"}, in 8 a tuple of {"name", ..., "content"}."""
        if not value or isinstance(value, UploadedFile):
            return value or None
        _accepted(value, isinstance(value, Mapping | tuple), "an UploadedFile or None")
        entries = [{"name": n, **e} for n, e in value.items()] if isinstance(value, Mapping) else value
        return UploadedFile(name=str(entries[-1]["name"]), content=bytes(entries[-1]["content"]))


Control = Slider | Choice | Toggle | Upload


def parse_all(controls: Mapping[str, Control], params: Mapping[str, Any]) -> dict[str, Any]:
    """Every control's default, overridden by `params`. Raises `ReproError` with the parameter's name."""
    for name in params.keys() - controls.keys():
        raise ReproError(f"unknown parameter {name!r}, accepted are {', '.join(controls) or 'none'}")
    values = {}
    for name, control in controls.items():
        try:
            values[name] = control.parse(params.get(name, control.default))
        except ReproError as error:
            raise ReproError(f"parameter {name}: {error}") from None
    return values


@dataclass(frozen=True)
class Command:
    """How papermill would draw this image: the notebook and which of its parameters each control sets."""

    notebook: str
    parameters: Mapping[str, str] = field(default_factory=dict)  # control -> parameter; others are not in the command
    profile: str = "small"  # the notebook's, in the command where it is another one

    def text(self, params: Mapping[str, Any]) -> str:
        """The command line at `params`, quoted for a POSIX shell; it makes the folder that it writes to."""
        words = ["papermill", self.notebook, "build/" + os.path.basename(self.notebook)]
        values = {parameter: params[control] for control, parameter in self.parameters.items()}
        values["profile"] = None if self.profile == "small" else self.profile
        for parameter, value in values.items():
            if value is None:  # the notebook's own default stands
                continue
            value = getattr(value, "name", value)  # of an uploaded file
            # papermill reads -p values as numbers or booleans where it can; -r keeps text that looks like one as text
            words += ["-r" if isinstance(value, str) and _looks_typed(value) else "-p", parameter, str(value)]
        return f"mkdir -p build && {shlex.join(words)}"


def _looks_typed(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False", "None")
    return True


@dataclass(eq=False)
class Explorer:
    """The part of `explore` without widgets: parameters in, image out.

    fn: pure; returns uint8 (H, W, 3), a PIL image, a float tensor (3, H, W) in [0, 1], or a Figure.
    controls: parameter name -> Slider, Choice, Toggle, Seed, Upload.
    presets: title -> some parameters: a button each when live, a strip of images when headless.
    command: the text of "copy as papermill command". python: the controls' values -> the text of "copy as Python".
    view, display: `view(fn(**others), **display)` draws the image; the controls named in `display` go to it alone,
    so that moving one computes nothing anew. save: the controls' values -> what the save button keeps, where that is
    not the image shown.

    Raises `ReproError` with the parameter's name for a default or a preset that its control does not accept.
    """

    fn: Callable[..., Any]
    controls: Mapping[str, Control]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    command: Command | None = None
    view: Callable[..., Any] | None = None
    display: Sequence[str] = ()
    save: Callable[..., Any] | None = None
    python: Callable[..., str] | None = None

    def __post_init__(self) -> None:
        self.defaults = parse_all(self.controls, {})
        for preset in self.presets.values():
            parse_all(self.controls, preset)
        self._last: tuple[Any, Any] = (None, None)  # what `fn` gave last, and for which parameters

    def picture(self, **params: Any) -> Any:
        """uint8 (H, W, 3) at `params` over the defaults; where only `display` differs, `fn` is not called again."""
        values = parse_all(self.controls, params)
        display = {name: values.pop(name) for name in self.display}
        if self._last[0] != values:
            self._last = (values, self.fn(**values))
        result = self._last[1]
        return to_uint8(self.view(result, **display) if self.view else result)

    def png(self, **params: Any) -> bytes:
        """PNG bytes of `picture(**params)`, in full colour."""
        return png(self.picture(**params))

    def saved(self, **params: Any) -> Any:
        """The image that the save button keeps."""
        return to_uint8(self.save(**parse_all(self.controls, params))) if self.save else self.picture(**params)

    def texts(self, **params: Any) -> tuple[str, str]:
        """The papermill command and the Python that draw the image at `params`, each "" where there is none."""
        values = parse_all(self.controls, params)
        return self.command.text(values) if self.command else "", self.python(**values) if self.python else ""

    def show(self) -> None:
        """Display the default image, the presets side by side and the texts."""
        show_small(self.picture())
        if self.presets:
            wide = min(264, 1100 // len(self.presets))  # pixels
            images = {name: resized(self.picture(**preset), wide) for name, preset in self.presets.items()}
            show_small(captioned(images, len(images)))
        for text in filter(None, self.texts()):
            print(text)

    def _ipython_display_(self) -> None:
        """Nothing: `explore` has shown everything."""


def show_small(pixels: Any) -> None:
    """Show an image in few bytes, which a saved notebook keeps: PNG, or JPEG where it has many colours."""
    data = png(pixels)
    show_png(data) if len(data) < 30_000 else Photos(pixels, quality=60)._ipython_display_()
