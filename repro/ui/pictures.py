"""From anything that a notebook draws to pixels, and from pixels to bytes that never change by themselves; several
photographs as one drawing, with captions that change no pixel of them.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from repro.data.images import center_crop, read_image, resize
from repro.errors import ReproError

DPI, INK = 110, "#222222"
BAR = 15  # pixels for words above an image
WIDE = 480  # pixels that a reader's own photograph is shown at
QUALITY = 64  # of the JPEG that a notebook keeps of photographs; those in figures/ are finer
STYLE = Path(__file__).with_name("figures.mplstyle")  # with the INK of what is drawn here


@dataclass(frozen=True)
class UploadedFile:
    """A file from the reader's own computer; image readers take its `content`."""

    name: str
    content: bytes


def style() -> Any:
    """Context manager: this style over matplotlib's defaults, whatever the user's matplotlibrc says."""
    import matplotlib.style

    return matplotlib.style.context(["default", STYLE])


def to_uint8(picture: Any) -> np.ndarray:
    """uint8 (H, W, 3) of an array or tensor, uint8 (H, W, 3) or (H, W) or float (3, H, W) or (1, H, W) in [0, 1], of a
    PIL image or a matplotlib Figure, drawn at 110 dpi. Raises `ReproError` for anything else, NaN included."""
    if hasattr(picture, "savefig"):
        drawn = BytesIO()
        with style():  # some settings act when a figure is saved, not when it is made
            picture.savefig(drawn, format="png", dpi=DPI, facecolor="white")
        picture = Image.open(drawn)
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    if isinstance(picture, Tensor):
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


def png(picture: Any) -> bytes:
    """`picture` as PNG bytes without date or software text: equal pixels give equal bytes."""
    pixels, buffer = to_uint8(picture), BytesIO()
    image = Image.fromarray(pixels)
    # Notebooks keep their outputs, and size adds up: one channel where three are equal, a palette where it is enough.
    if (pixels[..., :1] == pixels).all():
        image = Image.fromarray(pixels[..., 0])
    elif image.getcolors(256):
        packed = pixels.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)  # (H, W)
        colours, indices = np.unique(packed, return_inverse=True)
        image = Image.fromarray(indices.reshape(packed.shape).astype(np.uint8), mode="P")
        image.putpalette((colours[:, None] >> np.array([16, 8, 0])).astype(np.uint8).tobytes())
    effort = {"optimize": True} if hasattr(picture, "savefig") else {"compress_level": 6}
    image.save(buffer, format="PNG", **effort)
    return buffer.getvalue()


def few_colours(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) with 255 colours at most: a third of the bytes of a plot, and no difference to the eye."""
    image = Image.fromarray(pixels)
    return image.quantize(255, Image.Quantize.FASTOCTREE) if image.getcolors(255) is None else image


def show_png(data: bytes, kind: str = "png") -> None:
    """Send PNG (or other) bytes to the notebook as plain display data."""
    from IPython.display import Image, display

    display(Image(data=data, format=kind))


class Drawn:
    """A drawing as pixels: saved as it is, shown in 255 colours, which take a quarter of the bytes in a notebook."""

    def __init__(self, drawing: Any) -> None:
        self.pixels = to_uint8(drawing)  # (H, W, 3)

    def _ipython_display_(self) -> None:
        show_png(png(few_colours(self.pixels)))


class Photos(Drawn):
    """A drawing made of photographs: shown as JPEG of that quality."""

    def __init__(self, drawing: Any, quality: int = QUALITY) -> None:
        super().__init__(drawing)
        self.quality = quality

    def _ipython_display_(self) -> None:
        buffer = BytesIO()
        Image.fromarray(self.pixels).save(buffer, format="JPEG", quality=self.quality, optimize=True, progressive=True)
        show_png(buffer.getvalue(), "jpeg")


def tile(images: Sequence[Any], cols: int, *, gap: int = 2, scale: int = 1) -> np.ndarray:
    """`images` of one size in reading order as one uint8 image (H, W, 3) with white gaps; `scale` repeats pixels, so
    that a 28x28 image is large without blur."""
    from skimage.util import montage

    pixels = [to_uint8(image).repeat(scale, axis=0).repeat(scale, axis=1) for image in images]
    layout = {"padding_width": gap, "grid_shape": (-(-len(pixels) // cols), cols), "channel_axis": 3}
    framed = montage(pixels, fill=[255] * 3, **layout)
    return np.ascontiguousarray(framed[gap : len(framed) - gap, gap : framed.shape[1] - gap])


def split_view(before: Any, after: Any, at: float = 0.5) -> np.ndarray:
    """`before` left of a thin white line, `after` right of it: uint8 (H, W, 3). `at` in [0, 1]: where it stands; at 0
    all is `after`, at 1 all is `before`, without a line."""
    left, right = to_uint8(before), to_uint8(after)
    width = left.shape[1]
    column = round(at * width)
    out = np.concatenate([left[:, :column], right[:, column:]], axis=1)
    if 0 < column < width:
        out[:, max(0, column - 1) : column + max(1, width // 256)] = 255
    return out


def captioned(pictures: Mapping[str, Any] | Sequence[tuple[str, Any]], cols: int) -> np.ndarray:
    """Images of one width, anything `to_uint8` accepts, in columns, each under its name; uint8 (H, W, 3)."""
    named = pictures.items() if isinstance(pictures, Mapping) else pictures
    images = [(caption, to_uint8(picture)) for caption, picture in named]
    framed = [np.concatenate([line(w, x.shape[1]), x]) for w, x in images]
    tall = max(map(len, framed))
    return tile([np.pad(x, ((0, tall - len(x)), (0, 0), (0, 0)), constant_values=255) for x in framed], cols, gap=4)


def line(text: str, width: int, *, bold: bool = False) -> np.ndarray:
    """Words on white, uint8 (BAR, width, 3), cut off where they are too long; `bold` for a title."""
    from matplotlib import get_data_path  # its font, as in plots, so that every machine draws the same letters

    font = Path(get_data_path(), "fonts/ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    image = Image.new("RGB", (width, BAR), "white")
    ImageDraw.Draw(image).text((1, 1), text, fill=INK, font=ImageFont.truetype(str(font), 11), anchor="la")
    return np.asarray(image)


def plaque(text: str) -> np.ndarray:
    """A sentence in an image's place, uint8 (H, W, 3)."""
    lines = [line(part, 480) for part in textwrap.wrap(text, 72)]
    return np.concatenate([*lines, np.full((300, 480, 3), 255, np.uint8)])


def resized(picture: Any, width: int) -> np.ndarray:
    """`picture` brought to that width by cubic interpolation, uint8 (H, W, 3)."""
    image = Image.fromarray(to_uint8(picture))
    return np.asarray(image.resize((width, round(image.height * width / image.width)), Image.Resampling.BICUBIC))


def stage(large: Any, small: Mapping[str, Any], caption: str = "") -> np.ndarray:
    """uint8 (H, W, 3): a caption over a large image, and right of it square ones in a column, each under its name."""
    rows = [large := to_uint8(large)]
    if small:
        side = (large.shape[0] - 4 * (len(small) - 1)) // len(small) - BAR
        column = captioned({name: resized(picture, side) for name, picture in small.items()}, 1)
        column = np.pad(column, ((0, large.shape[0] - column.shape[0]), (4, 0), (0, 0)), constant_values=255)
        rows = [np.concatenate([large, column], axis=1)]
    return np.concatenate([line(caption, rows[0].shape[1]), *rows]) if caption else rows[0]


def photograph(photo: UploadedFile | None, side: int, ours: Tensor, name: str) -> tuple[Tensor, str]:
    """A reader's photograph (3, H, W) in [0, 1] with `side` as its shorter side, and a line about it; where there is
    none, `ours` (3, H, W) and its `name`. Of one more than twice as long as wide the middle. Raises `ReproError` for
    what is no image, or one smaller than 16 pixels."""
    if photo is None:
        return resize(ours, side), name
    image = read_image(photo.content, min_side=16, name=photo.name)
    height, width = image.shape[-2:]
    about, most = f"{photo.name}, {width} × {height}", 2 * min(height, width)
    if max(height, width) > most:
        image, about = center_crop(image, (min(height, most), min(width, most))), about + ", its middle"
    return resize(image, side), about


def own_view(result: tuple[Any, Any, str] | str, split: float) -> np.ndarray:
    """uint8 (H, W, 3): a reader's photograph before and after, large, under its caption; or a sentence."""
    if isinstance(result, str):
        return plaque(result)
    before, after, caption = result
    height, width = to_uint8(before).shape[:2]
    wide = WIDE if width >= height else WIDE * width // height
    return stage(split_view(resized(before, wide), resized(after, wide), split), {}, caption)
