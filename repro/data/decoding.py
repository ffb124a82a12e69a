"""From the bytes of a file to pixels, by Pillow: what cannot be read is refused in one sentence, damaged metadata
(EXIF, profiles, comments) is passed over."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from repro.errors import ReproError

MAX_PIXELS = 40_000_000  # 480 MB as float32: above it a laptop swaps
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
# Of large images and damaged metadata. Not for the time of a call: threads would restore each other's filters.
warnings.filterwarnings("ignore", module=r"PIL\.")
_CORRUPT = "the image is truncated or corrupt ({error})"


class _Unreadable(ReproError):
    """A file whose header or pixels Pillow cannot read."""


def opened(source: str | PathLike | bytes, name: str, use: Callable[[Image.Image], Any]) -> Any:
    """`use(image)` of the image in a file; where that fails, of the file without its perhaps damaged metadata."""

    def read(file: BinaryIO) -> Any:
        with refusing(name, f"not an image that can be read; accepted: {', '.join(SUFFIXES)}"):
            image = Image.open(file)
        return use(image)

    try:
        with io.BytesIO(source) if isinstance(source, bytes | bytearray) else Path(source).open("rb") as file:
            try:
                return read(file)
            except _Unreadable:
                file.seek(0)
                with suppress(_Unreadable):
                    return read(io.BytesIO(_pixels_alone(file.read())))
                raise
    except OSError as error:
        reason = "is a folder" if isinstance(error, IsADirectoryError) else (error.strerror or str(error)).lower()
        raise ReproError(f"{name}: {reason}; an image file was expected") from error


@contextmanager
def refusing(name: str, problem: str) -> Iterator[None]:
    """One sentence for whatever Pillow raises."""
    try:
        yield
    except (ReproError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ReproError(f"{name}: has more than the accepted {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ... on damaged data
        raise _Unreadable(f"{name}: {problem.format(error=error)}") from error


_TIFF_TAGS = {*range(254, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326),
              338, 339, 347, *range(530, 533)}  # what the pixels need, and the orientation  # fmt: skip


def _pixels_alone(data: bytes) -> bytes:
    """A JPEG, PNG or TIFF file without all that its pixels do not need but the orientation; nothing of other files."""
    jpeg, png = data[:2] == b"\xff\xd8", data[:8] == b"\x89PNG\r\n\x1a\n"
    at = 2 if jpeg else 8
    out = data[:at]
    try:
        if order := {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4]):
            (at,) = struct.unpack_from(f"{order}I", data, 4)  # the first directory: a count, so many entries, the next
            (count,) = struct.unpack_from(f"{order}H", data, at)
            entries = (data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count))
            kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _TIFF_TAGS]
            directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept)
            end = at + 2 + 12 * count + 4
            return data[:at] + directory + bytes(end - at - len(directory)) + data[end:]
        while jpeg and data[at] == 0xFF and data[at + 1] != 0xDA:  # up to the start of the scan
            end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
            marker, body = data[at + 1], data[at + 4 : end]
            adobe = marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12  # says how colours are coded
            if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or adobe or body[:4] == b"Exif":
                out += data[at:end]
            at = end
        while png and at < len(data):
            end = at + 12 + struct.unpack_from(">I", data, at)[0]
            kind, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
            sound = zlib.crc32(kind + body) == int.from_bytes(data[end - 4 : end], "big")
            if not kind[0] & 0x20 or (kind in (b"tRNS", b"eXIf") and sound):  # a small first letter: not needed
                out += data[at:end]
            at = end
    except (struct.error, IndexError):
        return b""
    return out + data[at:] if jpeg or png else b""


def check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ReproError(f"{name}: {width}x{height} is more than the accepted {MAX_PIXELS:,} pixels")


def decoded(image: Image.Image, name: str) -> Image.Image:
    check_size(image, name)
    with refusing(name, _CORRUPT):
        image.load()  # before its orientation: to find that, Pillow may hide what is damaged
        if image.format != "TIFF":  # that Pillow turns by itself
            with suppress(Exception):  # EXIF that cannot be read turns nothing
                kind, image = image.format, ImageOps.exif_transpose(image)
                image.format = kind
        return image


def left_out(image: Image.Image) -> list[str]:
    """A sentence for each thing of an opened, not yet decoded image that is not read."""
    notes = ["only 8 of its 16 bits are read"] * (image.mode in ("RGB", "RGBA") and ";16" in str(image.tile))
    with suppress(Exception):  # damage behind the first frame; an MPO's second one is a telephone's own copy
        notes += ["only its first frame is read"] * (image.format != "MPO" and image.is_animated)
    return notes


def to_channels(image: Image.Image, name: str) -> Tensor:
    """float32 (C, H, W) in [0, 1] of a decoded image: grey of more than 8 bits has 1 channel, others 3 or 4."""
    # What Pillow opens grey of more than 8 bits as.
    deep = image.mode.startswith("I;16") and image.format in (None, "TIFF")
    if deep or (image.mode[0] == "I" and image.format in ("PNG", "PPM")):
        return _deep_grey(image)
    if image.mode[0] in "IF" or image.mode in ("LAB", "HSV") or 2 in _tag(image, _SAMPLE_FORMAT):
        kind = image.mode + (" with signed values" if image.mode == "L" else "")
        raise ReproError(f"{name}: pixel mode {kind} is not accepted; save it as 8- or 16-bit grey or RGB")
    opaque = "transparency" not in image.info and image.mode not in ("LA", "La", "PA", "RGBA", "RGBa")
    with refusing(name, _CORRUPT):
        if image.mode == "La":  # the one kind that Pillow does not convert in one step
            image = image.convert("LA")
        array = np.array(image.convert("RGB" if opaque else "RGBA"), dtype=np.float32)  # (H, W, C)
    return torch.from_numpy(array / 255.0).permute(2, 0, 1).contiguous()


def _deep_grey(image: Image.Image) -> Tensor:
    """(1, H, W) of grey with more than 8 bits, or (4, H, W) where one of its values is transparent."""
    most = 2 ** (*_tag(image, _BITS), 16)[0] - 1
    values = np.asarray(image).astype(np.float32)
    grey = torch.from_numpy((most - values if _tag(image, _PHOTOMETRIC) == (0,) else values) / most)[None]
    if (clear := image.info.get("transparency")) is None:
        return grey
    return torch.cat([grey.expand(3, -1, -1), torch.from_numpy(values != clear).float()[None]])


def _tag(image: Image.Image, number: int) -> tuple[int, ...]:
    """Values of a TIFF's tag; none where it is not there, or in another format."""
    found = image.tag_v2.get(number, ()) if image.format == "TIFF" else ()
    return found if isinstance(found, tuple) else (found,)
