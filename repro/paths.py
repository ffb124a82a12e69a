"""Where the clone keeps things, and how they are written: a file is either the old one or the new one, whatever breaks
off the writing. The clone is found upward from the package, or named by `REPRO_HOME`."""

import os
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from repro.errors import ReproError

_MARKS = ("pyproject.toml", "notebooks")


def root() -> Path:
    """The clone's top folder. Raises `ReproError` where the package runs outside a clone."""
    home = os.environ.get("REPRO_HOME")
    candidates = [Path(home)] if home else list(Path(__file__).resolve().parents)
    for folder in candidates:
        if all((folder / mark).exists() for mark in _MARKS):
            return folder
    where = f"REPRO_HOME={home}" if home else f"any folder above {Path(__file__).parent}"
    raise ReproError(f"no clone of the repository at {where}: set REPRO_HOME to the folder that holds {_MARKS[0]}")


def room_file(room: str, name: str) -> Path:
    """A data file of a method's study."""
    return Path(__file__).parent / room / "study" / name


def checkpoints() -> Path:
    """Trained weights that ship."""
    return root() / "checkpoints"


def figures() -> Path:
    """Everything generated: records, tables, images, claims."""
    return root() / "figures"


def runs() -> Path:
    """Training state and logs (git-ignored)."""
    return root() / "runs"


def data() -> Path:
    """Downloaded data sets, one folder each: `REPRO_DATA`, else runs/data."""
    return Path(os.environ.get("REPRO_DATA") or runs() / "data")


def build() -> Path:
    """Executed notebooks (git-ignored)."""
    return root() / "build"


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step, creating its folder; where that fails (`ReproError`) the old file stays."""
    partial = path.with_name(f".repro-{os.getpid()}-{threading.get_ident()}.tmp")  # short, whatever the name's length
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        why = f"({error.strerror}): what was there before is unchanged"
        raise ReproError(f"{path} could not be written {why}") from error


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 with `\\n` line ends on every platform."""
    write_bytes(path, text.encode("utf-8"))


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file of this repository."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """One sentence for whatever a missing or damaged file of this repository raises."""
    try:
        yield path
    except Exception as error:  # of the file system, csv, numpy, torch, zipfile, lzma
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ReproError(f"{path}: damaged ({reason}); `git checkout` restores it") from error
