"""Reading and writing pictures. Everywhere outside a network a picture is float32 (3, H, W), RGB, in [0, 1].

What a reader does with what it finds:
- EXIF orientation is applied; of an animation the first frame is read;
- grey becomes three equal channels; transparency is composited on white; a palette, CMYK and YCbCr become RGB;
- 16-bit grey is divided by 65535 (not clipped at 255); Pillow gives 16-bit colour PNGs at their upper 8 bits;
- colour profiles are not applied: values are taken as sRGB.
Everything else is refused in one sentence that names the file.
"""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from repro.errors import ReproError

ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor

MAX_PIXELS = 40_000_000  # 480 MB as float32: above it a laptop swaps
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
_SIXTEEN = {"I;16", "I;16L", "I;16B", "I;16N"}
_WRITERS = {
    ".png": {"compress_level": 6},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True},
}
WRITABLE = tuple(_WRITERS)  # suffixes that `write_image` takes


def read_image(source: ImageSource, *, min_side: int = 1, max_pixels: int = MAX_PIXELS, name: str = "") -> Tensor:
    """float32 (3, H, W) in [0, 1] of a file path, encoded bytes, a Pillow image, an array or a tensor.

    Args:
        source: arrays are uint8 or uint16 (H, W), (H, W, 1), (H, W, 3) or uint8 (H, W, 4); tensors are (1, H, W) or
            (3, H, W), uint8 or floating point in [0, 1].
        min_side: the shortest side that is accepted, in pixels.
        max_pixels: height times width that is accepted; checked before anything is decoded.
        name: what to call a source that has no path, in errors.

    Raises:
        ReproError: missing, empty, not an image, truncated, corrupt, too small, too large, or of an unknown kind.
    """
    if isinstance(source, Tensor):
        image = _from_tensor(source, name or "the given tensor")
        _check_size(image.shape[2], image.shape[1], min_side, max_pixels, name or "the given tensor")
        return image
    if isinstance(source, np.ndarray):
        name = name or "the given array"
        return _decode(_from_array(source, name), name, min_side, max_pixels)
    if isinstance(source, Image.Image):
        return _decode(source, name or "the given picture", min_side, max_pixels)
    if isinstance(source, bytes | bytearray):
        data, name = bytes(source), name or "the given bytes"
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        name = name or str(path)
        data = _file_bytes(path, name)
    else:
        raise ReproError(
            f"{name or 'image'}: got {type(source).__name__}; "
            "accepted: a path, bytes, a Pillow image, a numpy array or a torch tensor"
        )
    if not data:
        raise ReproError(f"{name}: the file is empty (0 bytes); an image was expected")
    return _decode(_open(io.BytesIO(data), name, max_pixels), name, min_side, max_pixels)


def image_size(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, name: str = "") -> tuple[int, int]:
    """(width, height) after EXIF rotation, from the header alone: nothing is decoded."""
    path, name = Path(path), name or str(path)
    if not path.is_file():
        raise ReproError(f"{name}: no such file")
    try:
        with path.open("rb") as file:
            image = _open(file, name, max_pixels)
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except OSError as error:
        raise ReproError(f"{name}: cannot be read ({error.strerror or error})") from error
    _check_size(width, height, 1, max_pixels, name)
    return (height, width) if turned else (width, height)


def _open(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns of large pictures; ours is refused by our own limit, in a sentence.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(file)
        except Image.DecompressionBombError as error:
            raise ReproError(f"{name}: has more than the accepted {max_pixels:,} pixels") from error
        except Exception as error:  # a damaged header makes decoders raise nearly anything
            raise ReproError(f"{name}: not an image that can be read; accepted: {', '.join(SUFFIXES)}") from error


def _file_bytes(path: Path, name: str) -> bytes:
    if path.is_dir():
        raise ReproError(f"{name}: is a folder; an image file was expected")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ReproError(f"{name}: no such file") from error
    except OSError as error:
        raise ReproError(f"{name}: cannot be read ({error.strerror or error})") from error


def _check_size(width: int, height: int, min_side: int, max_pixels: int, name: str) -> None:
    if width * height > max_pixels:
        raise ReproError(f"{name}: {width}x{height} is more than the accepted {max_pixels:,} pixels")
    if min(width, height) < max(1, min_side):
        raise ReproError(
            f"{name}: {width}x{height} is too small; both sides must be at least {max(1, min_side)} pixels"
        )


def _decode(image: Image.Image, name: str, min_side: int, max_pixels: int) -> Tensor:
    _check_size(*image.size, min_side, max_pixels, name)
    container = image.format  # a transposed copy no longer knows it
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        mode = image.mode
        if mode in _SIXTEEN or (mode == "I" and container in ("PNG", "PPM")):  # Pillow opens these as I or I;16
            grey = np.asarray(image).astype(np.float32) / 65535.0
            return torch.from_numpy(np.repeat(grey[None], 3, axis=0))
        if mode in ("I", "F", "LAB", "HSV"):
            raise ReproError(f"{name}: pixel mode {mode} is not accepted; save it as 8- or 16-bit grey or RGB")
        if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        array = np.array(image.convert("RGB"), dtype=np.float32)  # (H, W, 3)
    except ReproError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged data
        raise ReproError(f"{name}: the image is truncated or corrupt ({error})") from error
    return torch.from_numpy(array / 255.0).permute(2, 0, 1).contiguous()


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    shape = array.shape
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    accepted = "uint8 (H, W), (H, W, 3) or (H, W, 4), uint16 (H, W)"
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not (colour or grey) or 0 in array.shape:
        raise ReproError(f"{name}: got {array.dtype} {shape}; accepted: {accepted}")
    return Image.fromarray(np.ascontiguousarray(array))


def _from_tensor(image: Tensor, name: str) -> Tensor:
    accepted = "uint8 or floating point in [0, 1], (3, H, W) or (1, H, W)"
    floating = image.is_floating_point()
    if image.dim() != 3 or image.shape[0] not in (1, 3) or not (floating or image.dtype == torch.uint8):
        raise ReproError(f"{name}: got {image.dtype} {tuple(image.shape)}; accepted: {accepted}")
    if 0 in image.shape:
        raise ReproError(f"{name}: got the empty shape {tuple(image.shape)}; accepted: {accepted}")
    image = image.detach().cpu()
    out = image.float() if floating else image.float() / 255.0
    low, high = out.min().item(), out.max().item()
    if not (low >= 0.0 and high <= 1.0):  # also true of NaN
        raise ReproError(f"{name}: values range from {low:.4g} to {high:.4g}; accepted: {accepted}")
    return out.expand(3, -1, -1).contiguous()


def to_uint8(image: Tensor) -> np.ndarray:
    """uint8 (H, W, 3) of float (3, H, W) in [0, 1], rounded to nearest. Raises `ReproError` outside the range."""
    image = _from_tensor(image, "image")
    return (image * 255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def write_image(path: str | os.PathLike, image: Tensor) -> Path:
    """Write float (3, H, W) in [0, 1] as PNG, WebP (both lossless) or JPEG (quality 95, 4:4:4), atomically.

    Raises `ReproError` for values outside [0, 1], which a caller clamps where that is meant, and for other suffixes.
    """
    path = Path(path)
    options = _WRITERS.get(path.suffix.lower())
    if options is None:
        raise ReproError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {', '.join(_WRITERS)}")
    picture = Image.fromarray(to_uint8(image))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise ReproError(f"{path}: cannot be written ({error.strerror or error})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            picture.save(file, format=Image.registered_extensions()[path.suffix.lower()], **options)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise ReproError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


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
    if min(size) < 1:
        raise ReproError(f"resize: got {size[0]}x{size[1]}; both sides must be at least 1 pixel")
    batch = image if image.dim() == 4 else image[None]
    out = F.interpolate(batch, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 1.0)
    return out if image.dim() == 4 else out[0]
