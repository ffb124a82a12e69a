"""The layouts of the data sets that `repro data check` knows, read from `layouts.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.data.images import SUFFIXES


@dataclass(frozen=True)
class Part:
    """Files of one kind.

    Attributes:
        label: what to call them.
        pattern: glob, relative to the root.
        count: how many there are; None: any number but none.
        suffixes: accepted suffixes, lower case.
        optional: not an error where there is none; where all parts are, one of them is needed.
        folders: how many folders they lie in, where that is known.
        partner: label of the part whose files pair with these.
        key: regular expression on the relative path; its groups name the pair. Empty: the stem.
        magic: for IDX files, the big-endian integers at the start.
    """

    label: str
    pattern: str
    count: int | None = None
    suffixes: tuple[str, ...] = SUFFIXES
    optional: bool = False
    folders: int | None = None
    partner: str = ""
    key: str = ""
    magic: tuple[int, ...] = ()

    @property
    def images(self) -> bool:
        return self.suffixes == SUFFIXES

    @property
    def expected(self) -> str:
        return "at least one file" if self.count is None else f"{self.count:,} {'file' if self.count == 1 else 'files'}"

    @property
    def naming(self) -> str:
        return f"names are expected to match {self.key}"

    def key_of(self, relative: str) -> str | None:
        """What names the pair of a file; None where the file's name is not of the expected form."""
        if not self.key:
            return relative.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        match = re.fullmatch(self.key, relative)
        return "/".join(match.groups()) if match else None


@dataclass(frozen=True)
class Layout:
    """A data set: title, its project page, what to get there, its parts; `folder` is its own in `repro.paths.data()`,
    where that is not called by the data set's name."""

    title: str
    page: str
    get: str
    parts: tuple[Part, ...]
    folder: str = ""

    @property
    def any_of(self) -> bool:
        """Whether one of the parts is enough, whichever."""
        return all(part.optional for part in self.parts)

    @property
    def needed(self) -> tuple[Part, ...]:
        """The parts that it cannot do without; all, where one of them is enough."""
        return tuple(part for part in self.parts if self.any_of or not part.optional)

    def part(self, label: str) -> Part:
        """The part of that label."""
        return next(part for part in self.parts if part.label == label)


def _read() -> dict[str, Layout]:
    spec = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {
        name: Layout(**{**each, "parts": tuple(_part(**part) for part in each["parts"])}) for name, each in spec.items()
    }


def _part(**fields: Any) -> Part:
    return Part(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


LAYOUTS: dict[str, Layout] = _read()
