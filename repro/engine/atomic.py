"""Files that are either the old state or the new one: temporary file, fsync, rename; and one writer at a time."""

import fcntl
import os
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from repro.errors import ReproError


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step, creating its folder.

    A full disk, a kill or a crash leaves what was there before. Raises `ReproError` with the system's reason.
    """
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


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold the folder for this process: read-change-write cycles inside do not lose each other's lines.

    The lock sits on the folder itself (flock), so it leaves no file behind and dies with its process. Without `wait` a
    folder that another process holds is refused by `ReproError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ReproError(f"{folder} is held by another process that runs: wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)
