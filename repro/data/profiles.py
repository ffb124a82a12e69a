"""Colour profiles: a photograph's values brought to sRGB, where the reader takes values as they stand."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image, ImageCms
from torch import Tensor

from repro.data.images import read_image
from repro.data.metadata import upright


def read_srgb(path: str | os.PathLike) -> tuple[Tensor, str]:
    """The picture (3, H, W) in [0, 1] in sRGB, and what was done about its colour profile ("" where nothing was).

    A profile that cannot be read or applied is passed over, and said. Raises `ReproError` as `read_image` does.
    """
    image = read_image(path)  # refuses what is no picture, in a sentence
    with Image.open(path) as file:
        profile = file.info.get("icc_profile")
        if not profile:
            return image, ""
        name = "its colour profile"
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            name = ImageCms.getProfileDescription(given).strip() or name
            if "srgb" in name.lower():
                return image, ""
            turned = upright(file)
            mode = "RGBA" if turned.mode == "RGBA" else "RGB"
            done = ImageCms.profileToProfile(turned, given, ImageCms.createProfile("sRGB"), outputMode=mode)
        except Exception:  # a damaged profile, or one of another kind of pixels: Pillow raises several kinds
            return image, f"{Path(path).name}: {name} cannot be applied, values are taken as sRGB"
    done.info.pop("icc_profile", None)
    done.info.pop("exif", None)  # turned already
    return read_image(done, name=str(path)), f"{Path(path).name}: converted from {name} to sRGB"
