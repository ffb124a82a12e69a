"""Downloads verified by SHA-256, and archives unpacked without leaving their folder."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from repro.errors import ReproError

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    NotImplementedError,
)


def fetch(url: str, sha256: str, folder: str | os.PathLike, *, name: str = "", progress: bool = True) -> Path:
    """A file of the web, kept in `folder` and downloaded once.

    Args:
        url: http or https.
        sha256: what the file must hash to; a file that is there and hashes to it is not downloaded again.
        name: file name to keep; default: the last part of the address.

    Raises:
        ReproError: no connection, an error of the server, another hash (nothing is kept then), a full disk.
    """
    import pooch
    import requests

    parts = urlsplit(url)
    name = name or PurePosixPath(parts.path).name
    if parts.scheme not in ("http", "https") or not parts.netloc or not name:
        raise ReproError(f"download: {url!r} is not an http(s) address of a file")
    if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256.lower()):
        raise ReproError(f"download: {url}: a SHA-256 of 64 hexadecimal digits is needed, got {sha256!r}")
    if Path(name).name != name or name in (".", ".."):
        raise ReproError(f"download: {name!r} is not a plain file name")
    folder = Path(folder)
    by_hand = f"download it by hand to {folder / name}"
    kept = folder / name
    if kept.exists() and pooch.file_hash(str(kept)) != sha256.lower():
        raise ReproError(f"{kept}: is there with another SHA-256 than {sha256[:12]}…; remove it to download it again")
    try:
        path = pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256.lower()}",
            fname=name,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=progress, timeout=30),
        )
    except requests.exceptions.HTTPError as error:
        code = error.response.status_code if error.response is not None else "an error"
        raise ReproError(f"download: {url} answered {code}; {by_hand} from its project page") from error
    except requests.exceptions.RequestException as error:
        raise ReproError(f"download: no connection to {parts.netloc} for {url}; connect, or {by_hand}") from error
    except ValueError as error:
        raise ReproError(f"download: {url} has another SHA-256 than {sha256[:12]}…; nothing was kept") from error
    except OSError as error:
        raise ReproError(f"{folder / name}: cannot be written ({error.strerror or error})") from error
    return Path(path)


@dataclass(frozen=True)
class _Member:
    name: str
    folder: bool
    size: int
    kind: str  # "" or why it is not unpacked
    handle: zipfile.ZipInfo | tarfile.TarInfo


def extract(archive: str | os.PathLike, folder: str | os.PathLike) -> list[Path]:
    """Unpack a zip or tar (gz, bz2, xz) archive into `folder`; returns the files written.

    Every entry is judged before anything is written: absolute paths, "..", drive letters, links, devices and encrypted
    entries are refused, and so is an archive larger than the free space. Files are first written beside their place;
    a damaged archive leaves `folder` as it was.

    Raises:
        ReproError: naming the archive and the entry.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise ReproError(f"{archive}: no such archive")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                return _unpack(archive, folder, file, list(_zip_members(file)))
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                return _unpack(archive, folder, file, list(_tar_members(file)))
    except _BROKEN as error:
        raise ReproError(f"{archive}: the archive is damaged ({error})") from error
    except OSError as error:
        raise ReproError(f"{archive}: cannot be unpacked to {folder} ({error.strerror or error})") from error
    raise ReproError(f"{archive}: not an archive that can be read; accepted: zip, tar, tar.gz, tar.bz2, tar.xz")


def _zip_members(file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        mode = info.external_attr >> 16
        kind = "a link" if stat.S_ISLNK(mode) else "encrypted" if info.flag_bits & 1 else ""
        yield _Member(info.filename, info.is_dir(), info.file_size, kind, info)


def _tar_members(file: tarfile.TarFile) -> Iterator[_Member]:
    for info in file:
        kind = "a link" if info.issym() or info.islnk() else "" if info.isfile() or info.isdir() else "a special file"
        yield _Member(info.name, info.isdir(), info.size, kind, info)
    while file.fileobj.read(1 << 20):  # tarfile stops before the checksum that ends a compressed stream: read it
        pass


def _safe(archive: Path, name: str) -> PurePosixPath:
    # A backslash separates folders on Windows: both kinds count, so that one archive is judged alike everywhere.
    path = PurePosixPath(name.replace("\\", "/"))
    drive = bool(path.parts) and ":" in path.parts[0]
    if path.is_absolute() or ".." in path.parts or drive or "\0" in name:
        raise ReproError(f"{archive}: the entry {name!r} points outside the folder; nothing was unpacked")
    return path


def _unpack(archive: Path, folder: Path, file: zipfile.ZipFile | tarfile.TarFile, members: list[_Member]) -> list[Path]:
    wanted: dict[PurePosixPath, _Member] = {}
    for member in members:
        path = _safe(archive, member.name)
        if member.kind:
            raise ReproError(f"{archive}: the entry {member.name!r} is {member.kind}; nothing was unpacked")
        if not member.folder:
            wanted[path] = member
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(m.size for m in wanted.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise ReproError(f"{archive}: needs {needed / 1e9:.1f} GB unpacked, {folder} has {free / 1e9:.1f} GB free")
    base = folder.resolve()
    for path in wanted:  # a link that already lies in the folder must not lead out either
        if not (base / path).resolve().is_relative_to(base):
            raise ReproError(f"{archive}: the entry {str(path)!r} would follow a link out of {folder}")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as staging:
        for path, member in wanted.items():
            target = Path(staging) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with _open(file, member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            if target.stat().st_size != member.size:
                raise ReproError(f"{archive}: the entry {member.name!r} is shorter than the archive says; damaged")
        written = []
        for path in wanted:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(staging) / path, target)
            written.append(target)
    return written


def _open(file: zipfile.ZipFile | tarfile.TarFile, member: _Member) -> IO[bytes]:
    if isinstance(file, zipfile.ZipFile):
        return file.open(member.handle)
    source = file.extractfile(member.handle)
    if source is None:
        raise tarfile.ReadError(f"{member.name} cannot be read")
    return source
