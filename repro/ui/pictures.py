"""One way from anything a notebook draws to pixels, and from pixels to PNG bytes that never change by themselves."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from repro.errors import ReproError

DPI = 110


def to_uint8(picture: Any) -> np.ndarray:
    """`picture` as a uint8 array (H, W, 3).

    Accepted: uint8 array (H, W, 3) or (H, W); PIL image; float tensor or array (3, H, W) or (1, H, W) in [0, 1];
    matplotlib Figure, drawn at 110 dpi. Raises `ReproError` for anything else, out-of-range and non-finite values
    included.
    """
    if hasattr(picture, "savefig"):
        from repro.ui.plots import style

        drawn = BytesIO()
        with style():  # some settings act when a figure is saved, not when it is made
            picture.savefig(drawn, format="png", dpi=DPI, facecolor="white")
        picture = Image.open(drawn)
    if hasattr(picture, "convert"):  # PIL
        return np.asarray(picture.convert("RGB"))
    if hasattr(picture, "detach"):  # torch, without importing it
        picture = picture.detach().cpu()
        picture = (picture.float() if picture.is_floating_point() else picture).numpy()
    shape, kind = getattr(picture, "shape", ()), str(getattr(picture, "dtype", type(picture).__name__))
    if kind == "uint8" and 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
        return np.ascontiguousarray(picture if len(shape) == 3 else np.repeat(picture[..., None], 3, axis=2))
    if not kind.startswith("float") or len(shape) != 3 or shape[0] not in (1, 3) or 0 in shape:
        accepted = "uint8 (H, W, 3) or (H, W), float (3, H, W) or (1, H, W) in [0, 1], a PIL image or a Figure"
        raise ReproError(f"an image of {kind} and shape {shape} found, {accepted} needed")
    low, high = float(picture.min()), float(picture.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        unit = "repro.data.images.to_unit brings a network's [-1, 1] there"
        raise ReproError(f"a float image with values from {low:.3g} to {high:.3g} found, [0, 1] needed: {unit}")
    pixels = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (3, *shape[1:])).transpose(1, 2, 0))


def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """(H, W, 3) -> (scale H, scale W, 3) by repeating pixels, so that a 28x28 image is large without blur."""
    return pixels if scale == 1 else np.ascontiguousarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))


def split_view(before: Any, after: Any, at: float = 0.5) -> np.ndarray:
    """`before` left of a thin white line, `after` right of it: uint8 (H, W, 3). `at` in [0, 1]: where it stands.

    At 0 all is `after`, at 1 all is `before`, without a line.
    """
    left, right = to_uint8(before), to_uint8(after)
    if left.shape != right.shape:
        raise ReproError(f"split_view: images of {left.shape} and {right.shape} found, the same size needed")
    width = left.shape[1]
    column = round(at * width)
    out = np.concatenate([left[:, :column], right[:, column:]], axis=1)
    if 0 < column < width:
        out[:, max(0, column - 1) : column + max(1, width // 256)] = 255
    return out


def png(picture: Any) -> bytes:
    """`picture` as PNG bytes without date or software text: equal pixels give equal bytes."""
    buffer = BytesIO()
    effort = {"optimize": True} if hasattr(picture, "savefig") else {"compress_level": 6}
    _slim(to_uint8(picture)).save(buffer, format="PNG", **effort)
    return buffer.getvalue()


def few_colours(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) with 255 colours at most: a third of the bytes of a plot, and no difference to the eye."""
    image = Image.fromarray(pixels)
    return image.quantize(255, Image.Quantize.FASTOCTREE) if image.getcolors(255) is None else image


def show_png(data: bytes) -> None:
    """Send PNG bytes to the notebook as plain display data."""
    from IPython.display import Image, display

    display(Image(data=data, format="png"))


def _slim(pixels: np.ndarray) -> Image.Image:
    """A PIL image of one channel where three say the same, or with a palette where few colours are enough: notebooks
    keep their outputs, and size adds up."""
    if (pixels[..., :1] == pixels).all():
        return Image.fromarray(pixels[..., 0])
    packed = pixels.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)  # (H, W)
    colours = np.unique(packed)
    if len(colours) > 256:
        return Image.fromarray(pixels)
    slim = Image.fromarray(np.searchsorted(colours, packed).astype(np.uint8), mode="P")
    slim.putpalette(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8).tobytes())
    return slim
