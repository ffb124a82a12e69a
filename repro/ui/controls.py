"""What a reader may turn: plain, validated descriptions of controls, without any widget library.

A control knows its default, which values it accepts and how to bring a value that a browser sent (0.30000000000000004)
back to the value a programmer would write (0.3), so that live and headless pictures see the very same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from io import BytesIO
from typing import Any

from repro.errors import ReproError

Number = int | float
SEED_MAX = 2**31 - 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


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
        for field in ("min", "max", "step", "default"):
            if not _is_number(getattr(self, field)):
                raise ReproError(f"Slider {self.label!r}: {field} is {getattr(self, field)!r}, a number is accepted")
        if not (self.min < self.max and self.step > 0):
            raise ReproError(
                f"Slider {self.label!r}: min {self.min}, max {self.max}, step {self.step}: needs min < max and step > 0"
            )
        # A range that step does not divide would let the browser rest on a value off the grid.
        if (_decimal(self.max) - _decimal(self.min)) % _decimal(self.step) != 0:
            raise ReproError(
                f"Slider {self.label!r}: step {self.step} does not divide the range {self.min} to {self.max}, "
                "the maximum must lie on the grid"
            )
        self.parse(self.default)

    @property
    def integer(self) -> bool:
        """True when the slider hands out integers."""
        return all(isinstance(v, int) for v in (self.min, self.max, self.step, self.default))

    def parse(self, value: Any) -> Number:
        """`value` as the grid's own number; raises `ReproError` outside the range or off the grid."""
        slack = 1e-6 * self.step  # 41 * 0.01 is a little more than 0.41
        if not _is_number(value) or not self.min - slack <= value <= self.max + slack:
            raise ReproError(f"Slider {self.label!r}: {value!r} found, {self.min} to {self.max} is accepted")
        nearest = self.snap(value)
        if abs(nearest - value) > slack:
            raise ReproError(
                f"Slider {self.label!r}: {value} lies off the grid, {self.min} to {self.max} in steps of {self.step} "
                "is accepted"
            )
        return nearest

    def snap(self, value: Number) -> Number:
        """The grid's number nearest to `value`, which a front end may send off the grid by rounding or typing."""
        low, step = _decimal(self.min), _decimal(self.step)
        index = round((_decimal(min(max(value, self.min), self.max)) - low) / step)
        exact = low + index * step
        return int(exact) if self.integer else float(exact)


def _decimal(value: Number) -> Decimal:
    return Decimal(repr(value))


@dataclass(frozen=True)
class Choice:
    """One of a few values (text or numbers), in the order given; the first is the default unless one is named."""

    options: tuple[str | Number, ...]
    default: str | Number | None = None
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options or len(set(self.options)) < len(self.options):
            raise ReproError(f"Choice {self.label!r}: options {self.options} found, one or more different ones needed")
        if self.default is None:
            object.__setattr__(self, "default", self.options[0])
        self.parse(self.default)

    def parse(self, value: Any) -> str | Number:
        """`value` when it is an option; raises `ReproError` naming the options otherwise."""
        if value not in self.options:
            raise ReproError(
                f"Choice {self.label!r}: {value!r} found, accepted are {', '.join(repr(o) for o in self.options)}"
            )
        return value

    snap = parse


@dataclass(frozen=True)
class Toggle:
    """Yes or no."""

    default: bool = False
    label: str = ""

    def __post_init__(self) -> None:
        self.parse(self.default)

    def parse(self, value: Any) -> bool:
        """`value` when it is a bool; raises `ReproError` otherwise."""
        if not isinstance(value, bool):
            raise ReproError(f"Toggle {self.label!r}: {value!r} found, True or False is accepted")
        return value

    snap = parse


@dataclass(frozen=True)
class Seed:
    """A whole number in [0, 2^31) that keys all randomness, with a button for the next one."""

    default: int = 0
    label: str = "seed"

    def __post_init__(self) -> None:
        self.parse(self.default)

    def parse(self, value: Any) -> int:
        """`value` when it is a seed; raises `ReproError` otherwise."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= SEED_MAX:
            raise ReproError(f"Seed {self.label!r}: {value!r} found, a whole number from 0 to {SEED_MAX} is accepted")
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
            raise ReproError(
                f"Upload {self.label!r}: {type(value).__name__} found, an UploadedFile or None is accepted"
            )
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


def parse_all(controls: Mapping[str, Control], params: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults overridden by `params`, each checked by its control; an unknown name is an error that names them all."""
    unknown = [name for name in params if name not in controls]
    if unknown:
        raise ReproError(f"unknown parameter {unknown[0]!r}, accepted are {', '.join(controls) or 'none'}")
    return {name: control.parse(params.get(name, control.default)) for name, control in controls.items()}
