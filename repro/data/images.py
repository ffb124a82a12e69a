"""Reading pictures. Everywhere outside a network a picture is float32 (3, H, W), RGB, in [0, 1].

What a reader does with what it finds:
- EXIF orientation is applied; of an animation the first frame is read;
- grey becomes three equal channels; transparency is composited on white; a palette, CMYK and YCbCr become RGB;
- grey of 12 or 16 bits is divided by its largest value (not clipped at 255), and inverted where a TIFF's tag makes
  white zero; Pillow gives 16-bit colour PNGs at their upper 8 bits;
- colour profiles are not applied: values are taken as sRGB;
- damaged metadata (EXIF, profiles, comments) is passed over.
Everything else is refused in one sentence that names the file.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from repro.data.metadata import orientation, pixels_alone, upright
from repro.errors import ReproError

ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor

T = TypeVar("T")
MAX_PIXELS = 40_000_000  # 480 MB as float32: above it a laptop swaps
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
_SIXTEEN = {"I;16", "I;16L", "I;16B", "I;16N"}
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF


def read_image(source: ImageSource, *, min_side: int = 1, name: str = "") -> Tensor:
    """float32 (3, H, W) in [0, 1] of a file path, encoded bytes, a Pillow image, an array or a tensor.

    Args:
        source: arrays are (H, W) or (H, W, C), tensors (H, W) or (C, H, W), of 1 (grey), 3, or 4 channels (the last is
            opacity): uint8, uint16, bool, or floating point in [0, 1].
        min_side: the shortest side that is accepted, in pixels.
        name: what to call a source that has no path, in errors.

    Raises:
        ReproError: missing, empty, not an image, truncated, corrupt, too small, too large, or of an unknown kind.
    """
    name = name or (str(source) if isinstance(source, str | os.PathLike) else "the given image")
    image = read_channels(source, name=name)
    height, width = image.shape[1:]
    if min(height, width) < min_side:
        raise ReproError(f"{name}: {width}x{height} is too small; both sides must be at least {min_side} pixels")
    if len(image) == 4:
        opacity = image[3:]
        image = image[:3] * opacity + (1 - opacity)
    return image.expand(3, -1, -1).contiguous()


def read_channels(source: ImageSource, *, name: str) -> Tensor:
    """The same, float32 (C, H, W), with the channels it has: 1 is grey, 3 are RGB, 4 are RGB and opacity."""
    if isinstance(source, Tensor | np.ndarray):
        return _of_numbers(source, name)
    if isinstance(source, Image.Image):
        return _decode(source, name)
    if isinstance(source, str | os.PathLike):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise _no_file(error, name) from error
    if not isinstance(source, bytes | bytearray):
        raise ReproError(
            f"{name}: got {type(source).__name__}; "
            "accepted: a path, bytes, a Pillow image, a numpy array or a torch tensor"
        )
    if not source:
        raise ReproError(f"{name}: the file is empty (0 bytes); an image was expected")
    return _opened(io.BytesIO(source), name, _decode)


def image_size(path: str | os.PathLike, *, name: str = "") -> tuple[int, int]:
    """(width, height) after EXIF rotation, from the header alone: nothing is decoded."""
    name = name or str(path)
    try:
        with Path(path).open("rb") as file:
            return _opened(file, name, _turned_size)
    except OSError as error:
        raise _no_file(error, name) from error


class _Unreadable(ReproError):
    """A file whose header or pixels Pillow cannot read."""


def _no_file(error: OSError, name: str) -> ReproError:
    reason = "is a folder" if isinstance(error, IsADirectoryError) else (error.strerror or str(error)).lower()
    return ReproError(f"{name}: {reason}; an image file was expected")


def _opened(file: BinaryIO, name: str, use: Callable[[Image.Image, str], T]) -> T:
    """What `use` makes of the image in a file; where that fails, of the file without its perhaps damaged metadata."""
    try:
        return use(_open(file, name), name)
    except _Unreadable:
        file.seek(0)
        data = file.read()
        if (bare := pixels_alone(data)) is None or bare == data:
            raise
        with suppress(_Unreadable):
            return use(_open(io.BytesIO(bare), name), name)
        raise


def _open(file: BinaryIO, name: str) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns of large pictures, which our own limit refuses, and of damaged metadata, which does not matter.
        warnings.simplefilter("ignore")
        try:
            return Image.open(file)
        except Image.DecompressionBombError as error:
            raise ReproError(f"{name}: has more than the accepted {MAX_PIXELS:,} pixels") from error
        except Exception as error:  # a damaged header makes decoders raise nearly anything
            raise _Unreadable(f"{name}: not an image that can be read; accepted: {', '.join(SUFFIXES)}") from error


def _size(image: Image.Image, name: str) -> tuple[int, int]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ReproError(f"{name}: {width}x{height} is more than the accepted {MAX_PIXELS:,} pixels")
    return width, height


def _turned_size(image: Image.Image, name: str) -> tuple[int, int]:
    width, height = _size(image, name)
    return (height, width) if orientation(image) in (5, 6, 7, 8) else (width, height)


def _decode(image: Image.Image, name: str) -> Tensor:
    _size(image, name)  # not the turned one: to find the orientation, Pillow may decode, and hide what is damaged
    container = image.format  # a transposed copy no longer knows it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `_open`
            image.load()
        if image.mode in _SIXTEEN or (image.mode == "I" and container in ("PNG", "PPM")):  # what Pillow opens them as
            return _deep_grey(image, name)
        if image.mode in ("I", "F", "LAB", "HSV") or (container == "TIFF" and 2 in _tag(image, _SAMPLE_FORMAT)):
            signed = " with signed values" if image.mode == "L" else ""
            raise ReproError(
                f"{name}: pixel mode {image.mode}{signed} is not accepted; save it as 8- or 16-bit grey or RGB"
            )
        image = upright(image)
        opaque = "transparency" not in image.info and image.mode not in ("LA", "La", "PA", "RGBA", "RGBa")
        if image.mode == "La":  # the one kind that Pillow does not convert in one step
            image = image.convert("LA")
        array = np.array(image.convert("RGB" if opaque else "RGBA"), dtype=np.float32)  # (H, W, C)
    except (ReproError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged data
        raise _Unreadable(f"{name}: the image is truncated or corrupt ({error})") from error
    return torch.from_numpy(array / 255.0).permute(2, 0, 1).contiguous()


def _deep_grey(image: Image.Image, name: str) -> Tensor:
    """(1, H, W) of grey with more than 8 bits, or (4, H, W) where one of its values is transparent."""
    bits, clear = 16, image.info.get("transparency")
    if image.format == "TIFF":
        (bits,) = _tag(image, _BITS) or (16,)
    elif image.format not in (None, "PNG", "PPM"):
        raise ReproError(f"{name}: 16-bit grey in {image.format} is not accepted; save it as PNG or TIFF")
    white_is_zero = image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == (0,)
    most = 2**bits - 1
    values = np.asarray(upright(image)).astype(np.float32)
    grey = torch.from_numpy((most - values if white_is_zero else values) / most)[None]
    if clear is None:
        return grey
    return torch.cat([grey.expand(3, -1, -1), torch.from_numpy(values != clear).float()[None]])


def _tag(image: Image.Image, number: int) -> tuple[int, ...]:
    """Values of a TIFF's tag; none where it is not there."""
    found = image.tag_v2.get(number, ())
    return found if isinstance(found, tuple) else (found,)


def _of_numbers(source: np.ndarray | Tensor, name: str) -> Tensor:
    """float32 (C, H, W) of an array (H, W[, C]) or a tensor ([C, ]H, W)."""
    array, shape = isinstance(source, np.ndarray), tuple(source.shape)
    axes = "(H, W) or (H, W, C)" if array else "(H, W) or (C, H, W)"
    accepted = f"{axes} of 1, 3 or 4 channels, uint8, uint16, bool, or floating point in [0, 1]"
    kind = source.dtype.name if array else str(source.dtype).removeprefix("torch.")
    most = 1 if "float" in kind else {"uint8": 255, "uint16": 65535, "bool": 1}.get(kind)
    channels = 1 if len(shape) == 2 else shape[-1 if array else 0] if len(shape) == 3 else 0
    if channels not in (1, 3, 4) or 0 in shape or most is None:
        raise ReproError(f"{name}: got {source.dtype} {shape}; accepted: {accepted}")
    image = torch.from_numpy(source.astype(np.float32)) if array else source.detach().cpu().float()
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1) if array else image
    image = image / most
    low, high = image.min().item(), image.max().item()
    if not (low >= 0.0 and high <= 1.0):  # also true of NaN
        raise ReproError(f"{name}: values range from {low:.4g} to {high:.4g}; accepted: {accepted}")
    return image.contiguous()


def to_model(image: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], any shape."""
    return image * 2.0 - 1.0


def to_unit(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped, any shape."""
    return ((image + 1.0) * 0.5).clamp(0.0, 1.0)


def center_crop(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The middle (height, width) of (..., H, W); an odd remainder leaves the extra pixel right and below."""
    height, width = (size, size) if isinstance(size, int) else size
    full_height, full_width = image.shape[-2:]
    if height > full_height or width > full_width or min(height, width) < 1:
        raise ReproError(f"center_crop: {height}x{width} does not fit into a picture of {full_height}x{full_width}")
    top, left = (full_height - height) // 2, (full_width - width) // 2
    return image[..., top : top + height, left : left + width]


def resize(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Antialiased bicubic resize of (3, H, W) or (B, 3, H, W) in [0, 1] to (height, width), clamped to [0, 1].

    One number is the shorter side; the longer one keeps the proportions, rounded to nearest.
    """
    height, width = image.shape[-2:]
    if isinstance(size, int):
        scale = size / min(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
    batch = image if image.dim() == 4 else image[None]
    out = F.interpolate(batch, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 1.0)
    return out if image.dim() == 4 else out[0]
