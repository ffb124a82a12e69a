"""The one exception a user can cause."""

import difflib
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import Any


class ReproError(Exception):
    """Input that cannot work, as one sentence: the thing, what was found, what is accepted. The command line prints it
    without a traceback and exits with status 2."""


def one_of(what: str, found: Any, choices: Collection[Any]) -> Any:
    """`found`, where it is one of the choices; `ReproError` with their names otherwise. `what` names the setting."""
    if found not in choices:
        raise ReproError(f"{what} {found!r} is unknown: choose one of {', '.join(map(str, choices))}")
    return found


def whole(what: str, found: Any, least: int, most: int) -> int:
    """`found`, where it is a whole number from `least` to `most`; `ReproError` otherwise. `what` names the setting."""
    if not isinstance(found, Integral) or not least <= found <= most:
        raise ReproError(f"{what}: got {found}; accepted: a whole number, {least} to {most}")
    return int(found)


def within(what: str, found: Any, least: float, most: float) -> Any:
    """`found`, where it is a number from `least` to `most`; `ReproError` otherwise. `what` names the setting."""
    if not isinstance(found, Real) or isinstance(found, bool) or not least <= found <= most:
        raise ReproError(f"{what}: got {found!r}; accepted: {least:g} to {most:g}")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for messages: the names that are like this one ("did you mean …? "), "" where none is."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}? " if near else ""
