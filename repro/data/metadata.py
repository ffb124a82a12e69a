"""What stands beside the pixels of a file: read where it can be, and never a reason to refuse a picture."""

from __future__ import annotations

import struct
import warnings
import zlib

from PIL import ExifTags, Image

_TURN = Image.Transpose
_TURNS = {
    2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90,
}  # fmt: skip


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, none that can be read, or where Pillow turns by itself."""
    if image.format == "TIFF":  # turned while it is loaded, and `size` is the turned one
        return 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged blocks
        try:
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # a damaged block makes the reader raise nearly anything
            return 1
    return found if found in _TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """The picture as its camera was held."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def pixels_alone(data: bytes) -> bytes | None:
    """A JPEG, PNG or WebP file without all that its pixels do not need but the orientation; None of other files."""
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg(data: bytes) -> bytes:
    out, at = data[:2], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:  # up to the start of the scan
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        marker, body = data[at + 1], data[at + 4 : end]
        application = 0xE0 <= marker <= 0xEF or marker == 0xFE
        adobe = marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12  # says how colours are coded
        if not application or adobe or (marker == 0xE1 and body[:4] == b"Exif"):
            out += data[at:end]
        at = end
    return out + data[at:]


def _png(data: bytes) -> bytes:
    out, at = data[:8], 8
    while at < len(data):
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        kind, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        sound = zlib.crc32(kind + body) == int.from_bytes(data[end - 4 : end], "big")
        if not kind[0] & 0x20 or (kind in (b"tRNS", b"eXIf") and sound):  # a small first letter: not needed
            out += data[at:end]
        at = end
    return out


def _webp(data: bytes) -> bytes:
    out, at = b"WEBP", 12
    while at < len(data):
        size = struct.unpack_from("<I", data, at + 4)[0]
        end = at + 8 + size + size % 2
        kind, chunk = data[at : at + 4], data[at:end]
        if kind == b"VP8X":  # its flags announce what follows
            chunk = chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:]
        if kind not in (b"ICCP", b"XMP ", b"EXIF"):
            out += chunk
        at = end
    return data[:4] + struct.pack("<I", len(out)) + out
