"""Writing images, and what can be known before the work that makes them."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import torch
from PIL import Image

from repro.data.images import ImageSource, read_image
from repro.engine.atomic import write_bytes
from repro.errors import ReproError

_JPEG = ("JPEG", {"quality": 95, "subsampling": 0}, 65_535)
_WRITERS = {  # suffix -> Pillow's format, its options, how many pixels a side it holds
    ".png": ("PNG", {"compress_level": 6}, 2**31 - 1),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": ("WEBP", {"lossless": True}, 16_383),
}


def write_image(path: str | os.PathLike, image: ImageSource) -> Path:
    """Write an image as PNG, WebP (both lossless) or JPEG (quality 95, 4:4:4), atomically; floats are rounded.

    Raises `ReproError` for values outside [0, 1], which a caller clamps where that is meant, for other suffixes, and
    where the file cannot be written.
    """
    path, stream, image = Path(path), io.BytesIO(), read_image(image, name="image")
    kind, options = _writer(path, (image.shape[2], image.shape[1]))
    pixels = (image * 255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    write_bytes(path, stream.getvalue())
    return path


def check_writable(path: str | os.PathLike, size: tuple[int, int]) -> None:
    """Refuse, before any work, a place where an image of (width, height) cannot be written. Raises `ReproError`."""
    path = Path(path)
    _writer(path, size)
    folder = path.parent
    try:
        if path.is_dir():  # fails where the name is too long
            raise ReproError(f"{path}: is a folder; the name of an image was expected")
        while not folder.exists():  # it will be made
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ReproError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


def _writer(path: Path, size: tuple[int, int]) -> tuple[str, dict]:
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise ReproError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {', '.join(_WRITERS)}")
    kind, options, most = _WRITERS[suffix]
    if max(size) > most:
        raise ReproError(f"{path}: {size[0]}x{size[1]} is more than the {most:,} pixels a side of {suffix}; use .png")
    return kind, options
