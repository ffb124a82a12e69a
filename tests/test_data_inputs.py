"""Masks as people draw them: white on black, paint on transparent, arrays; anything else is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from repro.data.inputs import masks, pictures
from repro.errors import ReproError

HOLE = np.zeros((20, 30), dtype=bool)
HOLE[4:12, 5:22] = True
WANTED = torch.from_numpy(HOLE).float()[None, None]
GREY = Image.fromarray(HOLE.astype(np.uint8) * 255)


def painted(colour, alpha=None, background=(0, 0, 0)):
    """RGBA with `colour` in the hole; alpha inside and outside."""
    array = np.zeros((*HOLE.shape, 4), dtype=np.uint8)
    array[..., :3] = background
    array[HOLE, :3] = colour
    array[..., 3] = 255 if alpha is None else np.where(HOLE, *alpha)
    return Image.fromarray(array, "RGBA")


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


KINDS = {
    "grey": GREY,
    "one bit": GREY.convert("1"),
    "RGB": GREY.convert("RGB"),
    "red paint on black": painted((255, 0, 0)).convert("RGB"),
    "palette": GREY.convert("P"),
    "opaque RGBA": painted((255, 255, 255)),
    "white on transparent": painted((255, 255, 255), (255, 0)),
    "white on transparent white": painted((255, 255, 255), (255, 0), (255, 255, 255)),
    "black on transparent": painted((0, 0, 0), (255, 0)),
    "green on transparent": painted((40, 160, 30), (255, 0), (255, 255, 255)),
    "grey and alpha": painted((0, 0, 0), (255, 0)).convert("LA"),
    "JPEG": encoded(GREY, "JPEG", quality=60),
    "PNG with transparency": encoded(painted((0, 0, 0), (255, 0)), "PNG"),
    "array of colours": np.asarray(painted((255, 255, 255)).convert("RGB")),
    "array with alpha": np.asarray(painted((0, 0, 0), (255, 0))),
    "bool array": HOLE,
    "float array": HOLE.astype(np.float64)[..., None],
    "bytes 0 and 255": HOLE.astype(np.uint8) * 255,
    "bytes 0 and 1": HOLE.astype(np.uint8),
    "tensor": WANTED,
    "plane": WANTED[0, 0].bool(),
    "list": [WANTED[0]],
    "batch of arrays": HOLE[None, ..., None],
    "batch of coloured arrays": np.asarray(GREY.convert("RGB"))[None],
    "sixteen bits": HOLE.astype(np.uint16),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_same_hole(kind):
    found = masks(KINDS[kind])
    assert found.dtype == torch.float32 and torch.equal(found, WANTED)


def test_a_file_and_a_batch(tmp_path):
    painted((0, 0, 0), (255, 0)).save(tmp_path / "mask.png")
    assert torch.equal(masks([tmp_path / "mask.png", GREY]), torch.cat([WANTED] * 2))
    assert torch.equal(masks(torch.cat([WANTED] * 3)), torch.cat([WANTED] * 3))


def test_black_and_white_on_transparent_is_the_white():
    image = painted((255, 255, 255), (255, 0))
    image.paste((0, 0, 0, 255), (0, 14, 30, 20))  # black, opaque: kept
    assert torch.equal(masks(image), WANTED)


def test_soft_edges_are_cut_at_one_half():
    large = GREY.resize((300, 200), Image.Resampling.NEAREST)
    soft = large.filter(ImageFilter.GaussianBlur(2))
    found = masks(soft)
    assert ((found == 0) | (found == 1)).all()
    assert (found - masks(large)).abs().mean() < 0.001  # rounded corners


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.linear_gradient("L"), r"mask: 80% of its pixels are grey; accepted: black \(kept\) and white \(hole\)"),
        (painted((90, 90, 90)), "grey"),
        (HOLE * 0.5, "holds values between 0 and 0.5"),
        (HOLE.astype(np.uint8) * 100, "holds values between 0 and 0.39"),
        (WANTED * torch.nan, "holds values"),
        (~HOLE & HOLE, "nothing in it is a hole"),
        (painted((0, 0, 0)), "nothing in it is a hole"),
        (painted((255, 255, 255), (0, 0)), "nothing in it is a hole"),
        (WANTED.expand(1, 3, -1, -1), r"shape \(1, 3, 20, 30\); accepted: \(H, W\)"),
        ([], "got none"),
        ([WANTED, WANTED[..., 1:]], "several sizes"),
        (b"", "0 bytes"),
        ("nowhere.png", "nowhere.png: no such file"),
        (7, "got int"),
    ],
)
def test_what_is_no_mask_is_refused(source, message):
    with pytest.raises(ReproError, match=message):
        masks(source)


def test_grey_networks_get_the_luminance_of_any_kind():
    array = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    wanted = torch.stack([torch.from_numpy(np.array(Image.fromarray(a).convert("L"))) for a in array])[:, None] / 255
    for kind in (array, torch.from_numpy(array).movedim(3, 1), [Image.fromarray(a) for a in array]):
        torch.testing.assert_close(pictures(kind, channels=1), wanted, rtol=0, atol=0.51 / 255)  # Pillow rounds
    assert torch.equal(pictures(WANTED, channels=1), WANTED)
    with pytest.raises(ReproError, match="a network of 4 channels takes no picture"):
        pictures(WANTED, channels=4)


def test_pictures_turn_as_their_camera_says(tmp_path):
    """A file's orientation is applied to picture and mask alike."""
    exif = Image.Exif()
    exif[0x0112] = 6
    GREY.convert("RGB").save(tmp_path / "turned.png", exif=exif)
    picture, hole = pictures(tmp_path / "turned.png"), masks(tmp_path / "turned.png")
    assert picture.shape == (1, 3, 30, 20) and torch.equal(picture[:, :1], hole)
    painted((0, 0, 0), (255, 0)).save(tmp_path / "alpha.png", exif=exif)
    assert torch.equal(masks(tmp_path / "alpha.png"), hole)
