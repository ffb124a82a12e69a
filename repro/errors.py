"""The one exception a user can cause."""

from collections.abc import Collection
from typing import Any


class ReproError(Exception):
    """Input that cannot work, as one sentence: the thing, what was found, what is accepted.

    The command line prints the sentence without a traceback and exits with status 2.
    """


def one_of(what: str, found: Any, choices: Collection[Any]) -> Any:
    """`found`, where it is one of the choices; `ReproError` with their names otherwise. `what` names the setting."""
    if found not in choices:
        raise ReproError(f"{what} {found!r} is unknown: choose one of {', '.join(map(str, choices))}")
    return found
