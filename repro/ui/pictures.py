"""One way from anything a notebook draws to pixels, and from pixels to PNG bytes that never change by themselves."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np

from repro.errors import ReproError

DPI = 110


def to_uint8(picture: Any) -> np.ndarray:
    """`picture` as a uint8 array (H, W, 3).

    Accepted: uint8 array (H, W, 3) or (H, W); PIL image; float tensor or array (3, H, W) or (1, H, W) in [0, 1];
    matplotlib Figure. Raises `ReproError` for anything else, out-of-range and non-finite values included.
    """
    if hasattr(picture, "savefig"):
        return _read_png(png(picture))
    if hasattr(picture, "convert"):  # PIL
        return np.asarray(picture.convert("RGB"))
    if hasattr(picture, "detach"):  # torch, without importing it
        picture = picture.detach().float().cpu().numpy() if picture.is_floating_point() else picture.cpu().numpy()
    if not isinstance(picture, np.ndarray):
        raise ReproError(
            f"a picture of type {type(picture).__name__} found, an array, tensor, PIL image or Figure needed"
        )
    if picture.dtype == np.uint8:
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ReproError(f"a uint8 picture of shape {picture.shape} found, (H, W, 3) or (H, W) needed")
        return np.ascontiguousarray(picture)
    if not np.issubdtype(picture.dtype, np.floating):
        raise ReproError(f"a picture of {picture.dtype} found, uint8 (H, W, 3) or float (3, H, W) in [0, 1] needed")
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or 0 in picture.shape:
        raise ReproError(f"a float picture of shape {picture.shape} found, (3, H, W) or (1, H, W) in [0, 1] needed")
    if not np.isfinite(picture).all():
        raise ReproError("a picture with NaN or infinite values found, numbers in [0, 1] needed")
    low, high = float(picture.min()), float(picture.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise ReproError(
            f"a float picture with values from {low:.3g} to {high:.3g} found, [0, 1] needed: "
            "repro.data.images.to_unit brings a network's [-1, 1] there"
        )
    pixels = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0))


def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """(H, W, 3) -> (scale H, scale W, 3) by repeating pixels, so that a 28x28 picture can be seen unblurred."""
    return pixels if scale == 1 else np.ascontiguousarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))


def png(picture: Any, scale: int = 1) -> bytes:
    """`picture` as PNG bytes without date or software text: equal pixels give equal bytes, grey ones a third of them.

    A Figure is drawn at 110 dpi, whatever matplotlib's global settings say; `scale` applies to pixels only.
    """
    from PIL import Image

    buffer = BytesIO()
    if hasattr(picture, "savefig"):
        from repro.ui.plots import style

        drawn = BytesIO()
        with style():  # some settings act when a figure is saved, not when it is made
            picture.savefig(drawn, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        pixels = _read_png(drawn.getvalue())
        _slim(Image.fromarray(pixels)).save(buffer, format="PNG", optimize=True)
    else:
        _slim(Image.fromarray(enlarge(to_uint8(picture), scale))).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def few_colours(pixels: np.ndarray, colours: int = 255) -> np.ndarray:
    """uint8 (H, W, 3) with at most so many colours, chosen for this picture; what has no more is left as it is.

    A photograph of that kind takes a quarter of the bytes, which is what a notebook can afford.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    if image.getcolors(colours) is not None:
        return pixels
    return np.asarray(image.quantize(colours, Image.Quantize.FASTOCTREE).convert("RGB"))


def _slim(image: Any) -> Any:
    """The same pixels with one channel where three say the same, or with a palette where few colours are enough:
    notebooks keep their outputs, and size adds up."""
    from PIL import Image

    pixels = np.asarray(image)
    if (pixels[..., :1] == pixels).all():
        return image.getchannel(0)
    packed = pixels.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)  # (H, W)
    colours = np.unique(packed)
    if len(colours) > 256:
        return image
    slim = Image.fromarray(np.searchsorted(colours, packed).astype(np.uint8), mode="P")
    slim.putpalette(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8).tobytes())
    return slim


def _read_png(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))
