"""Every generated file holds what made it: record ids and the command, in the text chunks of a PNG, the comment of a
JPEG (for photographs: a quarter of the bytes), or a comment in Markdown."""

import io
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from repro import paths
from repro.data.images import write_image
from repro.engine.records import Record
from repro.errors import ReproError
from repro.ui.pictures import few_colours, to_uint8

VERSION = "1"  # of these fields; no time, host or package version, so that a second run writes the same bytes
_COMMENT = re.compile(r"<!-- repro (\{.*\}) -->")
QUALITY = 75  # of a JPEG of photographs
# Grey levels by which pixels may differ where the same was drawn on another processor or by other threads: all of them,
# and one in a thousand, where sampling and JPEG make rounding larger.
ROUNDING, SPECKS = 8, 32


@dataclass(frozen=True)
class Provenance:
    """What made a file: sorted record ids (none for a drawing that shows no measurement) and the command."""

    records: tuple[str, ...]
    command: str

    def comment(self) -> str:
        """One line that `provenance_of` reads in Markdown and in JPEG files."""
        fields = {"command": self.command, "records": list(self.records), "version": VERSION}
        body = json.dumps(fields, ensure_ascii=False).replace("--", "-\\u002d")  # a comment may not contain "--"
        return f"<!-- repro {body} -->"


def shell(kind: str, photo: Path, options: Mapping[str, Any], out: Path) -> str:
    """The `repro edit` or `repro restore` that makes `out` of a photo again, with all `options` that are not None, as
    bash reads it: a name with bytes that are not UTF-8 stands as $'caf\\xe9.jpg'."""
    words: list[Any] = ["repro", kind, photo]
    for name, value in options.items():
        if value is not None and name not in ("photo", "out"):
            words += [f"--{name}", *(value if isinstance(value, tuple) else (value,))]
    return " ".join(map(_quoted, [*words, "-o", out]))


def _quoted(value: Any) -> str:
    word = f"./{value}" if isinstance(value, Path) and str(value).startswith("-") else str(value)
    if os.fsencode(word).decode("utf-8", "replace") == word:
        return shlex.quote(word)
    escaped = os.fsencode(word.replace("\\", r"\\").replace("'", r"\'"))
    return f"$'{escaped.decode('utf-8', 'backslashreplace')}'"


def save_figure(
    figure: Any, name: str, records: Iterable[Record], command: str, *, photograph: bool = False,
    folder: Path | None = None,
) -> Path:  # fmt: skip
    """Write `figures/pictures/<name>.png` (or to `folder`) with its provenance, in 255 colours; `photograph`: a JPEG of
    QUALITY. `figure`: anything that `repro.ui.to_uint8` accepts. A file that agrees already is left as it is."""
    path = (folder or paths.figures() / "pictures") / f"{name}.{'jpg' if photograph else 'png'}"
    made = Provenance(tuple(sorted({record.id for record in records})), command)
    pixels = to_uint8(figure)
    data = _encoded(Image.fromarray(pixels) if photograph else few_colours(pixels), made, photograph)
    with suppress(ReproError):  # nothing lies there, or something damaged
        (old, before), (new, now) = _decoded(path), _decoded(io.BytesIO(data))
        if before == now and old.shape == new.shape:
            apart = abs(old - new)
            if apart.max() <= SPECKS and (apart > ROUNDING).mean() <= 1e-3:
                return path
    paths.write_bytes(path, data)
    return path


def save_result(image: Any, path: Path, command: str) -> None:
    """Write a command's result (3, H, W) in [0, 1] to any place; a .png holds the command, see `provenance_of`. Raises
    `ReproError` where that fails, with the name of the temporary PNG in which the result is kept instead."""
    png = partial(_encoded, Image.fromarray(to_uint8(image)), Provenance((), command))
    try:
        if path.suffix.lower() == ".png":
            paths.write_bytes(path, png())
        else:
            write_image(path, image)
    except ReproError as error:
        try:
            with tempfile.NamedTemporaryFile(prefix="repro-", suffix=".png", delete=False) as other:
                other.write(png())
        except OSError as full:
            raise ReproError(f"{error}; nor could the result be kept elsewhere ({full})") from error
        raise ReproError(f"{error}; the result was written to {other.name} instead") from error


def _encoded(image: Image.Image, made: Provenance, photograph: bool = False) -> bytes:
    info = PngInfo()
    for key, text in (("Records", " ".join(made.records)), ("Command", made.command), ("Version", VERSION)):
        info.add_itxt(f"Repro-{key}", text)
    jpeg = {"format": "JPEG", "quality": QUALITY, "progressive": True, "comment": made.comment().encode("utf-8")}
    settings: dict[str, Any] = jpeg if photograph else {"format": "PNG", "pnginfo": info}
    image.save(stream := io.BytesIO(), optimize=True, **settings)
    return stream.getvalue()


def _decoded(source: Any) -> tuple[np.ndarray, str]:
    """Pixels of an image file, int16 (H, W, 3), and its comment, also where a PNG's text chunks hold the fields."""
    try:
        with Image.open(source) as image:
            pixels = np.asarray(image.convert("RGB"), np.int16)
            text, comment = getattr(image, "text", {}), image.info.get("comment", b"")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ReproError(f"{source}: not a readable image ({error})") from None
    if "Repro-Command" in text:
        return pixels, Provenance(tuple(text.get("Repro-Records", "").split()), text["Repro-Command"]).comment()
    return pixels, comment.decode("utf-8", "replace") if isinstance(comment, bytes) else ""


def provenance_of(path: Path | str) -> Provenance:
    """What made `path`: an image, a Markdown table, or a CSV with a Markdown twin. Raises `ReproError` for one that is
    absent or has no provenance."""
    suffix = (path := Path(path)).suffix.lower()
    source = path.with_suffix(".md") if suffix == ".csv" else path
    if missing := [file for file in (path, source) if not file.is_file()]:
        raise ReproError(f"{missing[0]}: {'is a folder' if missing[0].is_dir() else 'no such file'}")
    text = _decoded(path)[1] if suffix in (".png", ".jpg") else source.read_text("utf-8", "replace")
    try:
        fields = json.loads(_COMMENT.search(text)[1])
        return Provenance(tuple(fields["records"]), fields["command"])
    except (ValueError, KeyError, TypeError):
        why = "not made by this repository, or changed since, or a photograph that is no .png"
        raise ReproError(f"{source}: carries no provenance: {why}") from None
