"""What a reader may turn: plain descriptions of controls, without any widget library.

A control accepts values or refuses them (`parse`), and brings what a browser sent (0.30000000000000004) back to what a
programmer would write (`snap`, 0.3), so that live and headless pictures are made from the very same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from repro.errors import ReproError

Number = int | float
SEED_MAX = 2**31 - 1


@dataclass(frozen=True)
class Slider:
    """A number on the grid min, min + step, ..., max; an integer when all four numbers are integers.

    `label` is shown beside the slider (the parameter's name when empty), `unit` after the label.
    """

    min: Number
    max: Number
    step: Number
    default: Number
    label: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        steps = (self.max - self.min) / self.step if self.step > 0 else 0.0
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
            raise ReproError(
                f"Slider from {self.min} to {self.max} in steps of {self.step}: needs min < max and a step that "
                "divides the range"
            )

    @property
    def integer(self) -> bool:
        """True when the slider hands out integers."""
        return all(isinstance(v, int) for v in (self.min, self.max, self.step, self.default))

    def parse(self, value: Any) -> Number:
        """`value` as the grid's own number; raises `ReproError` outside the range or between two steps."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(self.snap(value) - value) <= 1e-6:
            raise ReproError(f"{value!r} found, {self.min} to {self.max} in steps of {self.step} accepted")
        return self.snap(value)

    def snap(self, value: Number) -> Number:
        """The grid's number nearest to `value`, which a front end may send off the grid by rounding or typing."""
        if value != value:
            return self.min
        index = round((min(max(value, self.min), self.max) - self.min) / self.step)
        exact = round(self.min + index * self.step, 9)
        return int(exact) if self.integer else float(exact)


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
        if value not in self.options:
            raise ReproError(f"{value!r} found, accepted are {', '.join(repr(o) for o in self.options)}")
        return value

    snap = parse


@dataclass(frozen=True)
class Toggle:
    """Yes or no."""

    default: bool = False
    label: str = ""

    def parse(self, value: Any) -> bool:
        """`value` when it is a bool; raises `ReproError` otherwise."""
        if not isinstance(value, bool):
            raise ReproError(f"{value!r} found, True or False accepted")
        return value

    snap = parse


@dataclass(frozen=True)
class Seed:
    """A whole number in [0, 2^31) that keys all randomness, with a button for the next one."""

    default: int = 0
    label: str = "seed"

    def parse(self, value: Any) -> int:
        """`value` when it is a seed; raises `ReproError` otherwise."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= SEED_MAX:
            raise ReproError(f"{value!r} found, a whole number from 0 to {SEED_MAX} accepted")
        return value

    snap = parse


@dataclass(frozen=True)
class UploadedFile:
    """A file from the reader's own computer; `open()` gives what image readers take."""

    name: str
    content: bytes

    def open(self) -> BytesIO:
        """The content as a binary file."""
        return BytesIO(self.content)


@dataclass(frozen=True)
class Upload:
    """A file of the reader's; the function gets `UploadedFile`, or None (always the default) while there is none."""

    accept: str = "image/*"
    label: str = "your photo"

    @property
    def default(self) -> None:
        """Nothing uploaded: the function shows a picture of its own."""
        return None

    def parse(self, value: Any) -> UploadedFile | None:
        """`value` when it is an `UploadedFile` or None; raises `ReproError` otherwise."""
        if value is not None and not isinstance(value, UploadedFile):
            raise ReproError(f"{type(value).__name__} found, an UploadedFile or None accepted")
        return value

    snap = parse


Control = Slider | Choice | Toggle | Seed | Upload


def uploaded(value: Any) -> UploadedFile | None:
    """The newest file in `ipywidgets.FileUpload.value`, whose shape differs between the two supported versions.

    ipywidgets 7: dict, name -> {"metadata": {...}, "content": bytes}; ipywidgets 8: tuple of
    {"name", "type", "size", "last_modified", "content": memoryview}. Empty: None.
    """
    if not value:
        return None
    if isinstance(value, Mapping):
        name, entry = list(value.items())[-1]
    else:
        entry = value[-1]
        name = entry["name"]
    return UploadedFile(name=str(name), content=bytes(entry["content"]))


def parse_some(controls: Mapping[str, Control], params: Mapping[str, Any]) -> dict[str, Any]:
    """`params`, each checked by its control; raises `ReproError` with the parameter's name."""
    found = {}
    for name, value in params.items():
        if name not in controls:
            raise ReproError(f"unknown parameter {name!r}, accepted are {', '.join(controls) or 'none'}")
        try:
            found[name] = controls[name].parse(value)
        except ReproError as error:
            raise ReproError(f"parameter {name}: {error}") from None
    return found


def parse_all(controls: Mapping[str, Control], params: Mapping[str, Any]) -> dict[str, Any]:
    """Every control's default, overridden by `params`, each checked by its control."""
    found = parse_some(controls, {**{name: control.default for name, control in controls.items()}, **params})
    return {name: found[name] for name in controls}
