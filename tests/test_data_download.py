"""Verified downloads from a real local server, and archives that try to leave their folder."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from repro.data.download import extract, fetch
from repro.errors import ReproError

DATA = b"weights " * 1000
SHA = hashlib.sha256(DATA).hexdigest()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "file.bin").write_bytes(DATA)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(served))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_good_file_is_kept_and_not_fetched_twice(server, tmp_path):
    path = fetch(f"{server}/file.bin", SHA.upper(), tmp_path / "kept", progress=False)
    assert path == tmp_path / "kept" / "file.bin" and path.read_bytes() == DATA
    (tmp_path / "served" / "file.bin").unlink()
    assert fetch(f"{server}/file.bin", SHA, tmp_path / "kept", progress=False) == path


def test_another_hash_keeps_nothing(server, tmp_path):
    with pytest.raises(ReproError, match="another SHA-256"):
        fetch(f"{server}/file.bin", "0" * 64, tmp_path / "kept", progress=False)
    assert not list((tmp_path / "kept").iterdir())


def test_a_users_own_file_is_not_overwritten(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(ReproError, match="remove it"):
        fetch(f"{server}/file.bin", SHA, tmp_path, progress=False)
    assert (tmp_path / "file.bin").read_bytes() == b"mine"


def test_offline_and_missing_are_told(server, tmp_path):
    with pytest.raises(ReproError, match=r"answered 404; download it by hand to .*no\.bin"):
        fetch(f"{server}/no.bin", SHA, tmp_path, progress=False)
    with pytest.raises(ReproError, match=r"no connection to 127.0.0.1:9 .* by hand to"):
        fetch("http://127.0.0.1:9/file.bin", SHA, tmp_path, progress=False)


@pytest.mark.parametrize(
    ("url", "sha", "name"),
    [
        ("file:///etc/passwd", SHA, ""),
        ("http://127.0.0.1/", SHA, ""),
        ("http://127.0.0.1/a", "12ab", ""),
        ("http://127.0.0.1/a", SHA, "../a"),
        ("http://127.0.0.1/a", SHA, ".."),
    ],
)
def test_bad_requests_are_refused(url, sha, name, tmp_path):
    with pytest.raises(ReproError, match="download:"):
        fetch(url, sha, tmp_path, name=name, progress=False)


def _zip(path: Path, entries: dict[str, bytes], link: tuple[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # as written, without the constructor's cleaning
            file.writestr(info, data)
        if link:
            info = zipfile.ZipInfo(link[0])
            info.external_attr = 0o120777 << 16
            file.writestr(info, link[1])
    return path


def _tar(
    path: Path, entries: dict[str, bytes], link: tuple[str, str] | None = None, kind: bytes = tarfile.SYMTYPE
) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        if link:  # before the files: the classic way out is a link first and a file through it afterwards
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = kind, link[1]
            file.addfile(info)
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


MAKERS = {"a.zip": _zip, "a.tar": _tar, "a.tar.gz": _tar}


@pytest.mark.parametrize("name", MAKERS)
def test_an_honest_archive_is_unpacked_beside_what_is_there(name, tmp_path):
    archive = MAKERS[name](tmp_path / name, {"set/a.txt": b"new", "set/sub/b.txt": b"b", "odd..name/..c": b"c"})
    out = tmp_path / "out"
    (out / "set").mkdir(parents=True)
    (out / "set" / "a.txt").write_bytes(b"old")
    (out / "set" / "mine.txt").write_bytes(b"mine")
    written = extract(archive, out)
    assert sorted(p.relative_to(out).as_posix() for p in written) == ["odd..name/..c", "set/a.txt", "set/sub/b.txt"]
    assert (out / "set/a.txt").read_bytes() == b"new" and (out / "set/mine.txt").read_bytes() == b"mine"
    assert not list(out.glob(".unpack-*"))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "escape", ["../out.txt", "a/../../out.txt", "/tmp/repro-planted.txt", "..\\out.txt", "C:\\out.txt", "C:/out.txt"]
)
def test_path_escapes_are_refused_before_anything_is_written(name, escape, tmp_path):
    archive = MAKERS[name](tmp_path / name, {"good.txt": b"good", escape: b"bad"})
    with pytest.raises(ReproError, match="points outside the folder"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.txt").exists()
    assert not Path("/tmp/repro-planted.txt").exists()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("target", ["..", "/etc", "inside.txt"])
def test_links_are_refused(name, target, tmp_path):
    archive = MAKERS[name](tmp_path / name, {"way/out.txt": b"bad"}, link=("way", target))
    with pytest.raises(ReproError, match="'way' is a link"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [(tarfile.LNKTYPE, "a link"), (tarfile.FIFOTYPE, "a special file"), (tarfile.CHRTYPE, "a special file")],
)
def test_hard_links_and_devices_are_refused(kind, words, tmp_path):
    archive = _tar(tmp_path / "a.tar", {}, link=("way", "/etc/passwd"), kind=kind)
    with pytest.raises(ReproError, match=words):
        extract(archive, tmp_path / "out")


def test_a_link_that_lies_in_the_folder_already_leads_nowhere(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "out" / "way").symlink_to(tmp_path / "secret")
    archive = _zip(tmp_path / "a.zip", {"way/planted.txt": b"bad"})
    with pytest.raises(ReproError, match="follow a link out"):
        extract(archive, tmp_path / "out")
    assert not list((tmp_path / "secret").iterdir())


@pytest.mark.parametrize("name", MAKERS)
def test_damaged_archives_leave_the_folder_as_it_was(name, tmp_path):
    import random

    noise = random.Random(0).randbytes(40_000)
    archive = MAKERS[name](tmp_path / name, {"a.bin": noise, "b.bin": noise[::-1]})
    data = archive.read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "out").mkdir()
    with pytest.raises(ReproError, match=r"damaged|not an archive"):
        extract(cut, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    if name != "a.tar":  # a plain tar carries no checksum of its contents: fetch() verifies the whole file
        changed = bytearray(data)
        changed[20_000] ^= 0xFF
        cut.write_bytes(changed)
        with pytest.raises(ReproError, match=r"damaged|cannot be unpacked"):
            extract(cut, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


def test_other_files_are_no_archives(tmp_path):
    (tmp_path / "a.zip").write_text("<html>not found</html>")
    with pytest.raises(ReproError, match=r"a\.zip: not an archive"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    with pytest.raises(ReproError, match="no such archive"):
        extract(tmp_path / "b.zip", tmp_path / "out")


def test_more_than_the_free_space_is_refused_first(tmp_path, monkeypatch):
    archive = _zip(tmp_path / "a.zip", {"a.bin": b"x" * 1001})
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2000, 1000, 1000))
    with pytest.raises(ReproError, match="GB free"):
        extract(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
