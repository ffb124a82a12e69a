"""Drawings made of photographs, in the few bytes that a notebook can keep, and captions that touch no pixel of them."""

import textwrap
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from repro.data.images import center_crop, read_image, resize
from repro.ui.explore import UploadedFile
from repro.ui.pictures import few_colours, png, show_png, split_view, to_uint8
from repro.ui.plots import INK, Plate, Schematic, tile

BAR = 15  # pixels for words above an image
WIDE = 480  # pixels that a reader's own photograph is shown at
QUALITY = 64  # of the JPEG that a notebook keeps of photographs; those in figures/ are finer


class Drawn:
    """A drawing as pixels: saved as it is, shown in few colours, since a notebook keeps what it shows and a photograph
    of 255 colours takes a quarter of the bytes."""

    def __init__(self, drawing: Any) -> None:
        self.pixels = to_uint8(drawing)  # (H, W, 3)

    def _ipython_display_(self) -> None:
        show_png(png(few_colours(self.pixels)))


class Photos(Drawn):
    """The same for a drawing made of photographs: shown as JPEG of that quality."""

    def __init__(self, drawing: Any, quality: int = QUALITY) -> None:
        super().__init__(drawing)
        self.quality = quality

    def _ipython_display_(self) -> None:
        from IPython import display

        buffer = BytesIO()
        Image.fromarray(self.pixels).save(buffer, format="JPEG", quality=self.quality, optimize=True, progressive=True)
        display.display(display.Image(data=buffer.getvalue(), format="jpeg"))


def nothing(text: str) -> Plate:
    """What stands in a figure's place that has no records, or no weights."""
    return Schematic(6.4, 0.6).note((3.2, 0.3), text, size=9).plate()


def captioned(pictures: Mapping[str, Any], cols: int) -> np.ndarray:
    """Images of one size, anything `to_uint8` accepts, in columns, each under its name; uint8 (H, W, 3).

    Words are drawn by Pillow: fast enough for a slider, and no pixel of an image is touched.
    """
    images = {caption: to_uint8(picture) for caption, picture in pictures.items()}
    return tile([np.concatenate([line(w, x.shape[1]), x]) for w, x in images.items()], cols, gap=4)


def line(text: str, width: int, *, bold: bool = False) -> np.ndarray:
    """Words on white, uint8 (BAR, width, 3), cut off where they are too long; `bold` for a title."""
    image = Image.fromarray(np.full((BAR, width, 3), 255, np.uint8))
    ImageDraw.Draw(image).text((1, 1), text, fill=INK, font=_font(bold), anchor="la")
    return np.asarray(image)


def resized(picture: Any, width: int) -> np.ndarray:
    """`picture` brought to that width by cubic interpolation, uint8 (H, W, 3): large enough for a live widget."""
    image = Image.fromarray(to_uint8(picture))
    return np.asarray(image.resize((width, round(image.height * width / image.width)), Image.Resampling.BICUBIC))


def stage(large: Any, small: Mapping[str, Any], caption: str = "") -> np.ndarray:
    """What a widget shows: a line of words over a large image, and right of it square ones in a column as high,
    each under its name. uint8 (H, W, 3)."""
    rows = [large := to_uint8(large)]
    if small:
        side = (large.shape[0] - 4 * (len(small) - 1)) // len(small) - BAR
        column = captioned({name: resized(picture, side) for name, picture in small.items()}, 1)
        column = np.pad(column, ((0, large.shape[0] - column.shape[0]), (4, 0), (0, 0)), constant_values=255)
        rows = [np.concatenate([large, column], axis=1)]
    return np.concatenate([line(caption, rows[0].shape[1]), *rows]) if caption else rows[0]


def own_view(result: tuple[Any, Any, str] | str, split: float) -> np.ndarray:
    """A reader's own photograph before and after, large, under a line of words; or a sentence. uint8 (H, W, 3)."""
    if isinstance(result, str):
        return plaque(result)
    before, after, caption = result
    height, width = to_uint8(before).shape[:2]
    wide = WIDE if width >= height else WIDE * width // height
    return stage(split_view(resized(before, wide), resized(after, wide), split), {}, caption)


def photograph(photo: UploadedFile | None, side: int, ours: Tensor, name: str) -> tuple[Tensor, str]:
    """A reader's photograph (3, H, W) in [0, 1] with `side` as its shorter side, and a line about it; where there is
    none, `ours` (3, H, W) and its `name`.

    Of one more than twice as long as wide the middle. Raises `ReproError` for what is no image, or one smaller than 16
    pixels.
    """
    if photo is None:
        return resize(ours, side), name
    image = read_image(photo.content, min_side=16, name=photo.name)
    height, width = image.shape[-2:]
    about, most = f"{photo.name}, {width} × {height}", 2 * min(height, width)
    if max(height, width) > most:
        image, about = center_crop(image, (min(height, most), min(width, most))), about + ", its middle"
    return resize(image, side), about


def plaque(text: str) -> np.ndarray:
    """A sentence in an image's place, uint8 (H, W, 3)."""
    lines = [line(part, 480) for part in textwrap.wrap(text, 72)]
    return np.concatenate([*lines, np.full((300, 480, 3), 255, np.uint8)])


@lru_cache(maxsize=2)
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    import matplotlib

    # The letters that every plot has: they come with matplotlib, so that every machine draws the same ones.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), 11)
