"""Every generated file says what made it: record ids and the command.

They stand in the text chunks of a PNG, the comment of a JPEG (sheets of photographs: a quarter of the bytes), or a
comment in Markdown.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import paths
from repro.engine import records as ledger
from repro.engine.atomic import write_bytes
from repro.engine.records import Record
from repro.errors import ReproError

VERSION = "1"  # of these fields; no time, host or package version, so that a second run writes the same bytes
_COMMENT = re.compile(r"<!-- repro (\{.*\}) -->")
_DPI = 100
QUALITY = 75  # of a JPEG of photographs
ROUNDING = 8  # grey levels that a pixel may differ by where the same was drawn on another processor


@dataclass(frozen=True)
class Provenance:
    """What made a file: sorted record ids (none for a drawing that shows no measurement) and the command."""

    records: tuple[str, ...]
    command: str

    def comment(self) -> str:
        """One line that `whence` reads in Markdown and in JPEG files."""
        body = json.dumps(
            {"command": self.command, "records": list(self.records), "version": VERSION}, ensure_ascii=False
        )
        # A comment may not contain "--"; JSON may spell the hyphen.
        body = body.replace("--", "-\\u002d")
        return f"<!-- repro {body} -->"


def shell(words: Iterable[str]) -> str:
    """A command line of these words, in UTF-8 whatever bytes a file name has: `$'...'` spells them."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    raw = os.fsencode(word)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        signs = (chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in raw)
        return f"$'{''.join(signs)}'"
    return shlex.quote(word)


def provenance(records: Iterable[Record | str], command: str) -> Provenance:
    """Provenance of committed records. Raises `ReproError` for an id that no record has, or an empty command."""
    ids = tuple(sorted({record if isinstance(record, str) else record.id for record in records}))
    if not command.strip():
        raise ReproError("provenance without a command: say what regenerates the file")
    known = ledger.by_id() if ids else {}
    missing = [identity for identity in ids if identity not in known]
    if missing:
        raise ReproError(
            f"provenance names records that are not in {paths.figures() / 'records'}: {', '.join(missing)}"
        )
    return Provenance(ids, command)


def save_figure(
    figure: Any,
    name: str,
    records: Iterable[Record | str],
    command: str,
    *,
    photograph: bool = False,
    folder: Path | None = None,
) -> Path:
    """Write `figures/pictures/<name>.png` with its provenance; equal input gives equal bytes.

    `figure`: a matplotlib figure, a Pillow image, a uint8 array (H, W) or (H, W, 3), or a float tensor or array
    (1 or 3, H, W) in [0, 1]. `photograph` makes it a JPEG of QUALITY, `<name>.jpg`. `folder` replaces
    `figures/pictures`. Raises `ReproError` for anything else.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ReproError(f"picture name {name!r}: letters, digits, hyphen and underscore are accepted")
    path = (folder or paths.figures() / "pictures") / f"{name}.{'jpg' if photograph else 'png'}"
    return (save_jpeg if photograph else save_png)(figure, path, provenance(records, command), keep=True)


def save_png(figure: Any, path: Path, made: Provenance, *, keep: bool = False) -> Path:
    """Write a picture, as `save_figure` accepts it, to any place, with what made it; `keep`: see `_agrees`."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("Repro-Records", " ".join(made.records))
    info.add_itxt("Repro-Command", made.command)
    info.add_itxt("Repro-Version", VERSION)
    return _save(figure, path, keep, format="PNG", pnginfo=info)


def save_jpeg(figure: Any, path: Path, made: Provenance, *, keep: bool = False) -> Path:
    """The same with a loss, for photographs."""
    comment = made.comment().encode("utf-8")
    return _save(figure, path, keep, format="JPEG", quality=QUALITY, progressive=True, comment=comment)


def _save(figure: Any, path: Path, keep: bool, **settings: Any) -> Path:
    stream = io.BytesIO()
    _image(figure, path.stem).save(stream, optimize=True, **settings)
    if not (keep and path.is_file() and _agrees(path, stream.getvalue())):
        write_bytes(path, stream.getvalue())
    return path


def _agrees(path: Path, data: bytes) -> bool:
    """Whether a file says that the same made it, and no pixel differs by more than another processor's rounding."""
    import numpy as np
    from PIL import Image

    try:
        (old, told), (new, tells) = (
            (np.asarray(i.convert("RGB"), np.int16), (getattr(i, "text", {}), i.info.get("comment")))
            for i in (Image.open(path), Image.open(io.BytesIO(data)))
        )
    except (OSError, SyntaxError, ValueError):
        return False  # what lies there is damaged
    return told == tells and old.shape == new.shape and bool(np.abs(old - new).max() <= ROUNDING)


def whence(path: Path | str) -> Provenance:
    """What made `path`: a picture, a Markdown table, or a CSV whose Markdown twin lies beside it.

    Raises `ReproError` where the file does not say, or is absent.
    """
    path = Path(path)
    if not path.is_file():
        raise ReproError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in (".png", ".jpg"):
        return _whence_picture(path)
    if suffix == ".csv":
        twin = path.with_suffix(".md")
        if not twin.is_file():
            raise ReproError(f"{path}: a table's provenance stands in {twin.name} beside it, which is missing")
        return _whence_markdown(twin)
    if suffix == ".md":
        return _whence_markdown(path)
    raise ReproError(
        f"{path}: provenance is kept in .png, .jpg, .md and .csv files, this is {suffix or 'a file without suffix'}"
    )


def _whence_picture(path: Path) -> Provenance:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            text, comment = dict(getattr(image, "text", {})), image.info.get("comment")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ReproError(f"{path}: not a readable picture ({error})") from None
    if "Repro-Command" in text:
        return Provenance(tuple(text.get("Repro-Records", "").split()), text["Repro-Command"])
    if isinstance(comment, bytes) and (made := _commented(comment.decode("utf-8", "replace"), path)):
        return made
    raise ReproError(f"{path}: carries no provenance, it was not made by this repository or was re-saved since")


def _whence_markdown(path: Path) -> Provenance:
    try:
        made = _commented(path.read_text(encoding="utf-8"), path)
    except ValueError:
        raise ReproError(f"{path}: its provenance comment is damaged") from None
    if made is None:
        raise ReproError(
            f"{path}: carries no provenance, it was not made by this repository or the comment was removed"
        )
    return made


def _commented(text: str, path: Path) -> Provenance | None:
    """What a comment in a text says. Raises `ReproError` where it cannot be read."""
    try:
        found = _COMMENT.search(text)
        fields = json.loads(found[1]) if found else None
        return Provenance(tuple(fields["records"]), fields["command"]) if fields else None
    except (ValueError, KeyError, TypeError):
        raise ReproError(f"{path}: its provenance comment is damaged") from None


def _image(figure: Any, name: str) -> Any:
    import numpy as np
    from PIL import Image

    if hasattr(figure, "savefig"):
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DPI, facecolor="white")
        stream.seek(0)
        return Image.open(stream).convert("RGB")
    if isinstance(figure, Image.Image):
        return (
            Image.frombytes(figure.mode, figure.size, figure.tobytes())
            if figure.mode in "L RGB"
            else figure.convert("RGB")
        )
    array = np.asarray(figure.detach().cpu() if hasattr(figure, "detach") else figure)
    if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        return Image.fromarray(array)
    if array.dtype.kind == "f" and array.ndim == 3 and array.shape[0] in (1, 3):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ReproError(f"picture {name}: values from {array.min():.3g} to {array.max():.3g}, [0, 1] is accepted")
        pixels = np.rint(array * 255).astype(np.uint8)
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    raise ReproError(
        f"picture {name}: {type(figure).__name__} {array.dtype} {array.shape}; accepted are a matplotlib figure, "
        "a Pillow image, uint8 (H, W[, 3]) and float (1 or 3, H, W)"
    )
