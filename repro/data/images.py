"""Reading and writing images. Everywhere outside a network an image is float32 (3, H, W), RGB, in [0, 1].

- EXIF orientation is applied; of an animation the first frame is read (`read_srgb` says so);
- grey becomes three equal channels; transparency is composited on white; a palette, CMYK and YCbCr become RGB;
- grey of 12 or 16 bits is divided by its largest value (not clipped at 255), and inverted where a TIFF's tag makes
  white zero; Pillow gives 16-bit colour PNGs at their upper 8 bits;
- colour profiles are not applied, but by `read_srgb`: values are taken as sRGB;
- damaged metadata is passed over; what cannot be read is refused in one sentence that names the file.
"""

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms
from torch import Tensor
from torch.nn import functional as F

from repro.data.decoding import check_size, decoded, left_out, opened, refusing, to_channels
from repro.errors import ReproError
from repro.paths import write_bytes

ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor


def read_image(source: ImageSource, *, min_side: int = 1, name: str = "") -> Tensor:
    """float32 (3, H, W) in [0, 1] of a file path, encoded bytes, a Pillow image, an array or a tensor.

    Arrays are (H, W) or (H, W, C), tensors (H, W) or (C, H, W), of 1 (grey), 3, or 4 channels (the last is opacity):
    uint8, uint16, bool, or floating point in [0, 1]. `name`: of a source that has no path, in errors. Raises
    `ReproError`: missing, not an image, truncated, corrupt, too large, a side shorter than `min_side` pixels.
    """
    name = name or (str(source) if isinstance(source, str | os.PathLike) else "the given image")
    image = _on_white(_read(source, name))
    height, width = image.shape[1:]
    if min(height, width) < min_side:
        raise ReproError(f"{name}: {width}x{height} is too small; both sides must be at least {min_side} pixels")
    return image


def read_srgb(path: str | os.PathLike) -> tuple[Tensor, str]:
    """The image (3, H, W) in [0, 1] in sRGB, and what was left out, or done about its colour profile and transparency
    ("": nothing); a profile that cannot be applied is reported. Raises `ReproError` as `read_image` does."""
    notes, image = opened(path, str(path), lambda image: (left_out(image), decoded(image, str(path))))
    if profile := image.info.get("icc_profile"):
        name, clear = "its colour profile", image.mode == "RGBA" or "transparency" in image.info
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            name = ImageCms.getProfileDescription(given).strip() or name
            if "srgb" not in name.lower() or "linear" in name.lower():
                image, mode = (image.convert("RGBA"), "RGBA") if clear else (image, "RGB")
                image = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode=mode)
                notes.append(f"converted from {name} to sRGB")
        except Exception:  # a damaged profile, or one of another kind of pixels: Pillow raises several kinds
            notes.append(f"{name} cannot be applied, values are taken as sRGB")
    channels = to_channels(image, str(path))
    if len(channels) == 4 and channels[3].min() < 1:
        notes.append("transparent parts are put on white")
    return _on_white(channels), f"{Path(path).name}: {'; '.join(notes)}" if notes else ""


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(width, height) after EXIF rotation, from the header alone: nothing is decoded."""

    def turned(image: Image.Image) -> tuple[int, int]:
        check_size(image, str(path))
        with suppress(ReproError), refusing("", ""):
            # Pillow turns TIFF by itself, and `size` is the turned one.
            sideways = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return image.size[::-1] if sideways else image.size
        return image.size

    return opened(path, str(path), turned)


def _read(source: ImageSource, name: str) -> Tensor:
    """float32 (C, H, W): 1 channel is grey, 3 are RGB, 4 are RGB and opacity."""
    numbers = isinstance(source, Tensor | np.ndarray)
    return _of_numbers(source, name) if numbers else to_channels(_open(source, name), name)


def _on_white(image: Tensor) -> Tensor:
    """(3, H, W) of 1, 3, or 4 channels."""
    if len(image) == 4:
        image = image[:3] * image[3:] + (1 - image[3:])
    return image.expand(3, -1, -1).contiguous()


def _open(source: Any, name: str) -> Image.Image:
    """The decoded image, turned as its camera was held."""
    if isinstance(source, Image.Image):
        return decoded(source, name)
    if not isinstance(source, str | os.PathLike | bytes | bytearray):
        accepted = "a path, bytes, a Pillow image, a numpy array or a torch tensor"
        raise ReproError(f"{name}: got {type(source).__name__}; accepted: {accepted}")
    return opened(source, name, lambda image: decoded(image, name))


def _of_numbers(source: np.ndarray | Tensor, name: str) -> Tensor:
    """float32 (C, H, W) of an array (H, W[, C]) or a tensor ([C, ]H, W)."""
    array, shape = isinstance(source, np.ndarray), tuple(source.shape)
    axes = "(H, W) or (H, W, C)" if array else "(H, W) or (C, H, W)"
    accepted = f"{axes} of 1, 3 or 4 channels, uint8, uint16, bool, or floating point in [0, 1]"
    kind = source.dtype.name if array else str(source.dtype).removeprefix("torch.")
    most = 1 if "float" in kind else {"uint8": 255, "uint16": 65535, "bool": 1}.get(kind)
    planes = 1 if len(shape) == 2 else shape[-1 if array else 0] if len(shape) == 3 else 0
    if planes not in (1, 3, 4) or 0 in shape or most is None:
        raise ReproError(f"{name}: got {source.dtype} {shape}; accepted: {accepted}")
    image = torch.from_numpy(source.astype(np.float32)) if array else source.detach().cpu().float()
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1) if array else image
    image = image / most
    low, high = image.min().item(), image.max().item()
    if not (low >= 0.0 and high <= 1.0):  # also true of NaN
        raise ReproError(f"{name}: values range from {low:.4g} to {high:.4g}; accepted: {accepted}")
    return image.contiguous()


BLACK, WHITE = 0.1, 0.9  # what counts as black and white in a drawn mask
GREY_SHARE = 0.1  # of the pixels may be neither, as soft edges and JPEG make them; they are cut at one half
LUMINANCE = (0.299, 0.587, 0.114)  # of RGB, ITU-R BT.601: what Pillow takes


def _batch(read: Callable[..., Tensor], source: Any, name: str, *options: Any) -> Tensor | None:
    """What `read` makes of several images, as one batch; None where `source` is one image."""
    if not (isinstance(source, list | tuple) or (isinstance(source, Tensor | np.ndarray) and source.ndim == 4)):
        return None
    parts = [read(one, f"{name} {i}" if len(source) > 1 else name, *options) for i, one in enumerate(source)]
    sizes = sorted({tuple(part.shape[2:]) for part in parts})
    if len(sizes) != 1:
        found = ", ".join(f"{w}x{h}" for h, w in sizes) or "none"
        raise ReproError(f"{name}: got {found} in one batch; accepted: at least one, all of one size")
    return torch.cat(parts)


def image_batch(source: ImageSource | Sequence[ImageSource], name: str = "image", channels: int = 3) -> Tensor:
    """float32 (B, channels, H, W) in [0, 1] of what `read_image` accepts, a batch (B, C, H, W) or (B, H, W, C), or a
    list. `channels` are 3 or, for a network of grey images, 1: the luminance. Raises `ReproError` for an empty list and
    for several sizes."""
    if (batch := _batch(image_batch, source, name, channels)) is not None:
        return batch
    image = read_image(source, name="" if isinstance(source, str | os.PathLike) else name)[None]
    if channels == 3:
        return image
    if torch.equal(image[:, :1].expand_as(image), image):
        return image[:, :1].contiguous()
    return (image * torch.tensor(LUMINANCE).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def masks(source: ImageSource | Sequence[ImageSource], name: str = "mask") -> Tensor:
    """float32 (B, 1, H, W): 1 in the hole, 0 elsewhere.

    - Arrays and tensors of one channel, (H, W), (1, H, W), (B, 1, H, W), arrays also (H, W, 1), (B, H, W, 1), hold 0
      and 1, or bytes 0 and 255, or 16 bits, 0 and 65535.
    - Images (a file, a Pillow image, an array with colours): white or bright paint is the hole on black; paint of one
      brightness on transparent is the hole, black paint too. Soft edges are cut at one half.

    Raises `ReproError` for a mask that is not black and white, or in which nothing, or all, is a hole.
    """
    if (batch := _batch(masks, source, name)) is not None:
        return batch
    if isinstance(source, np.ndarray) and (source.ndim == 2 or source.shape[-1] == 1):
        source = torch.from_numpy(source.reshape(source.shape[:2]).copy())
    elif isinstance(source, np.ndarray) and source.ndim == 3 and len(source) == 1 and source.shape[-1] not in (3, 4):
        source = torch.from_numpy(source[0].copy())
    if isinstance(source, Tensor):
        hole = source[0] if source.ndim == 3 and len(source) == 1 else source
        if hole.ndim != 2 or 0 in hole.shape:
            raise ReproError(f"{name}: got shape {tuple(source.shape)}; accepted: (H, W), (1, H, W), (B, 1, H, W)")
        hole, most = hole.float(), {torch.uint8: 255, torch.uint16: 65535}.get(hole.dtype, 1)
        hole = hole / most if hole.max() > 1 else hole
        if not ((hole == 0) | (hole == 1)).all():
            found = f"values between {hole.min():g} and {hole.max():g}"
            raise ReproError(f"{name}: holds {found}; accepted: 0 (kept) and 1 (hole) only")
    else:
        name = str(source) if isinstance(source, str | os.PathLike) else name
        hole = _drawn(_read(source, name), name)
    if hole.min() == hole.max():
        found = "all of it" if hole.any() else "nothing in it"
        raise ReproError(f"{name}: {found} is a hole; accepted: in a part 1, white, or paint on transparent, the hole")
    return hole[None, None]


def _drawn(image: Tensor, name: str) -> Tensor:
    """The hole (H, W) of a painted mask (C, H, W)."""
    value = image[:3].amax(dim=0)  # brightest channel, (H, W)
    if len(image) == 4:
        alpha = image[3]
        opaque = value[alpha >= 0.5]
        one_paint = len(opaque) == 0 or bool(opaque.max() - opaque.min() < 1 - WHITE)
        value = alpha if one_paint and (alpha < 0.5).any() else value * alpha
    grey = ((value > BLACK) & (value < WHITE)).float().mean().item()
    if grey > GREY_SHARE:
        raise ReproError(f"{name}: {grey:.0%} of its pixels are grey; accepted: black (kept) and white (hole)")
    return (value >= 0.5).float()


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
        raise ReproError(f"center_crop: {height}x{width} does not fit into an image of {full_height}x{full_width}")
    top, left = (full_height - height) // 2, (full_width - width) // 2
    return image[..., top : top + height, left : left + width]


def resize(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Antialiased bicubic resize of (3, H, W) or (B, 3, H, W) in [0, 1] to (height, width), clamped to [0, 1]. One
    number is the shorter side; the longer one keeps the proportions, rounded to nearest."""
    if isinstance(size, int):
        scale = size / min(image.shape[-2:])
        size = tuple(max(1, round(side * scale)) for side in image.shape[-2:])
    batch = image.reshape(-1, *image.shape[-3:])
    out = F.interpolate(batch, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 1.0)
    return out.reshape(*image.shape[:-2], *size)


_JPEG = {"quality": 95, "subsampling": 0}, 65_500
_WRITTEN = {  # suffix -> Pillow's options, how many pixels a side it holds
    ".png": ({"compress_level": 6}, 2**31 - 1), ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": ({"lossless": True}, 16_383),
}  # fmt: skip


def write_image(path: str | os.PathLike, image: ImageSource) -> Path:
    """Write an image as PNG, WebP (both lossless) or JPEG (quality 95, 4:4:4), atomically; floats are rounded. Raises
    `ReproError` for values outside [0, 1], other suffixes, and where the file cannot be written."""
    path, stream, image = Path(path), io.BytesIO(), read_image(image, name="image")
    options = check_writable(path, (image.shape[2], image.shape[1]))
    pixels = (image * 255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(stream, format=Image.registered_extensions()[path.suffix.lower()], **options)
    write_bytes(path, stream.getvalue())
    return path


def check_writable(path: str | os.PathLike, size: tuple[int, int]) -> dict[str, Any]:
    """Pillow's options for an image of (width, height) at `path`. Raises `ReproError`, before any work, where none can
    be written."""
    path = Path(path)
    suffix, folder = path.suffix.lower(), path.parent
    if suffix not in _WRITTEN:
        raise ReproError(f"{path}: cannot write {suffix or 'a file without suffix'}; use {', '.join(_WRITTEN)}")
    options, most = _WRITTEN[suffix]
    if max(size) > most:
        raise ReproError(f"{path}: {size[0]}x{size[1]} is more than the {most:,} pixels a side of {suffix}; use .png")
    try:
        if path.is_dir():  # fails where the name is too long
            raise ReproError(f"{path}: is a folder; the name of an image was expected")
        while not folder.exists():  # it will be made
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ReproError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    return options
