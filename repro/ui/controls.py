"""What a reader may turn: plain descriptions of controls, without any widget library.

`parse` accepts a value or refuses it, and brings what a browser sent (0.30000000000000004) back to what a programmer
would write (0.3), so that live and headless images are made from the very same number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro.errors import ReproError

Number = int | float
SEED_MAX = 2**31 - 1


def _accepted(value: Any, good: bool, accepted: str) -> Any:
    if not good:
        raise ReproError(f"{value!r} found, {accepted} accepted")
    return value


@dataclass(frozen=True)
class Slider:
    """A number on the grid min, min + step, ..., max; an integer when all four numbers are integers.

    `label` is written beside the slider (the parameter's name when empty).
    """

    min: Number
    max: Number
    step: Number
    default: Number
    label: str = ""

    def __post_init__(self) -> None:
        steps = (self.max - self.min) / self.step if self.step > 0 else 0.0
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
            raise ReproError(f"Slider: min < max and a step that divides the range are needed, found {self}")

    @property
    def integer(self) -> bool:
        """True when the slider hands out integers."""
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

    options: tuple[str | Number, ...]
    default: str | Number | None = None
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options or len(set(self.options)) < len(self.options):
            raise ReproError(f"Choice among {self.options}: one or more different options needed")
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
class UploadedFile:
    """A file from the reader's own computer; image readers take its `content`."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Upload:
    """An image file of the reader's; the function gets `UploadedFile`, or None (the default) while there is none."""

    label: str = "your photo"
    default = None

    def parse(self, value: Any) -> UploadedFile | None:
        """The file, or the newest one of `ipywidgets.FileUpload.value`, whose shape differs between its versions:

        7: dict, name -> {"metadata": {...}, "content": bytes}; 8: tuple of {"name", "type", "size", "last_modified",
        "content": memoryview}. Empty: None.
        """
        if not value or isinstance(value, UploadedFile):
            return value or None
        _accepted(value, isinstance(value, Mapping | tuple), "an UploadedFile or None")
        entries = [{"name": n, **e} for n, e in value.items()] if isinstance(value, Mapping) else value
        return UploadedFile(name=str(entries[-1]["name"]), content=bytes(entries[-1]["content"]))


Control = Slider | Choice | Toggle | Upload


def parse_all(controls: Mapping[str, Control], params: Mapping[str, Any]) -> dict[str, Any]:
    """Every control's default, overridden by `params`, each checked by its control.

    Raises `ReproError` with the parameter's name.
    """
    for name in params:
        if name not in controls:
            raise ReproError(f"unknown parameter {name!r}, accepted are {', '.join(controls) or 'none'}")
    values = {}
    for name, control in controls.items():
        try:
            values[name] = control.parse(params.get(name, control.default))
        except ReproError as error:
            raise ReproError(f"parameter {name}: {error}") from None
    return values
