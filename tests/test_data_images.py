"""What the image reader does with what people have on their disks."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data.images import (
    center_crop,
    image_size,
    read_channels,
    read_image,
    resize,
    to_model,
    to_unit,
)
from repro.data.metadata import pixels_alone
from repro.data.writing import check_writable, write_image
from repro.errors import ReproError


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _gradient(height: int = 6, width: int = 10) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_header(width: int, height: int) -> bytes:
    """A PNG that says it is huge and holds nearly nothing: a decompression bomb's front."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(b"\0" * 10)) + _chunk(b"IEND", b"")
    )


def test_every_source_gives_the_same_picture(tmp_path):
    array = _gradient()
    expected = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    for source in (
        path,
        str(path),
        path.read_bytes(),
        Image.fromarray(array),
        array,
        torch.from_numpy(array).movedim(2, 0),
    ):
        found = read_image(source)
        assert found.dtype == torch.float32 and found.is_contiguous()
        assert torch.equal(found, expected)
    assert torch.equal(read_image(expected), expected)


def test_every_kind_of_numbers_gives_the_same_picture():
    levels = np.arange(0, 240, 2, dtype=np.uint8).reshape(5, 6, 4)
    for channels in (1, 3, 4):
        eight = levels[..., :channels]
        wanted = read_image(eight)
        kinds = [eight / 255.0, (eight / 255).astype(np.float32), eight.astype(np.uint16) * 257]
        kinds += [eight.astype(">u2") * 257, np.asfortranarray(eight)]
        kinds += [torch.from_numpy(eight / 255.0).movedim(2, 0), torch.from_numpy(eight).movedim(2, 0)]
        if channels == 1:
            kinds += [eight[..., 0], torch.from_numpy(eight[..., 0])]
        for kind in kinds:
            torch.testing.assert_close(read_image(kind), wanted, rtol=0, atol=1e-6)
        assert read_channels(eight).shape == (channels, 5, 6) and wanted.shape == (3, 5, 6)
    assert torch.equal(read_image(levels[..., 0] > 9), torch.from_numpy(levels[..., 0] > 9).float().expand(3, -1, -1))


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _broken_crc(kind: bytes, body: bytes) -> bytes:
    return _chunk(kind, body)[:-4] + bytes(4)


DAMAGED = {
    "JPEG": [
        _segment(0xE1, b"Exif\0\0" + bytes(16)),
        _segment(0xE1, bytes(16)),
        _segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(99))),
        _segment(0xE2, b"ICC_PROFILE\0"),
        _segment(0xE2, b"MPF\0" + bytes(30)),
        _segment(0xEE, b"Adobe\0"),
        _segment(0xE0, b"JFIF"),
        _segment(0xED, b"Photoshop 3.0\x008BIM" + bytes(3)),
    ],
    "PNG": [
        _chunk(b"eXIf", bytes(16)),
        _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))),
        _chunk(b"pHYs", b"12"),
        _chunk(b"gAMA", b"1"),
        _chunk(b"iCCP", b""),
        _chunk(b"acTL", b"12"),
        _broken_crc(b"tEXt", b"a\0b"),
        _broken_crc(b"eXIf", bytes(16)),
    ],
}


@pytest.mark.parametrize(
    ("kind", "block"), [*((kind, block) for kind, blocks in DAMAGED.items() for block in blocks), ("WEBP", bytes(16))]
)
def test_metadata_never_decides_whether_pixels_are_accepted(kind, block, tmp_path):
    image = Image.fromarray(_gradient(8, 16))
    clean = _encode(image, kind)
    start = {"JPEG": 2, "PNG": 33}.get(kind)
    data = _encode(image, kind, exif=block) if kind == "WEBP" else clean[:start] + block + clean[start:]
    path = tmp_path / "photo"
    path.write_bytes(data)
    for source in (data, path, Image.open(io.BytesIO(data)) if b"Exif" in block else data):
        assert torch.equal(read_image(source), read_image(clean))
    assert image_size(path) == (16, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_block_leaves_the_orientation(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encode(Image.fromarray(_gradient(8, 16)), kind, exif=exif, icc_profile=b"profile")
    bare = pixels_alone(data)
    assert len(bare) < len(data) and b"profile" not in bare
    if kind == "WEBP":  # its demultiplexer passes over what is damaged: all of it goes
        assert read_image(bare).shape == (3, 8, 16)
    else:
        assert torch.equal(read_image(bare), read_image(data)) and read_image(data).shape == (3, 16, 8)


def _tiff(values: list[int], *, bits: int, white_is_zero: bool = False, sample_format: int = 1) -> bytes:
    """One row of grey, uncompressed."""
    if bits == 12:
        pairs = zip(values[::2], values[1::2], strict=True)
        data = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in pairs)
    else:
        data = b"".join(v.to_bytes(bits // 8, "little") for v in values)
    tags = {256: len(values), 257: 1, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8, 277: 1, 278: 1}
    tags |= {279: len(data), 339: sample_format}
    data += bytes(len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_grey_tiffs_of_every_convention(bits, white_is_zero):
    most = 2**bits - 1
    values = [0, 1, most // 3, most]
    if bits == 12 and white_is_zero:
        with pytest.raises(ReproError, match="not an image that can be read"):  # Pillow knows no such file
            read_image(_tiff(values, bits=bits, white_is_zero=True))
        return
    found = read_image(_tiff(values, bits=bits, white_is_zero=white_is_zero))
    wanted = torch.tensor([(most - v if white_is_zero else v) / most for v in values])
    torch.testing.assert_close(found, wanted.expand(3, 1, 4), rtol=0, atol=1e-7)


def test_grey_tiffs_of_signed_or_unknown_range_are_refused():
    for settings in ({"bits": 8, "sample_format": 2}, {"bits": 16, "sample_format": 2}, {"bits": 32}):
        with pytest.raises(ReproError, match="is not accepted; save it as 8- or 16-bit grey or RGB"):
            read_image(_tiff([0, 1, 2, 200], **settings))


def test_a_transparent_value_of_sixteen_bit_grey_is_white():
    image = Image.fromarray(np.array([[0, 1000, 65535]], np.uint16))
    found = read_image(_encode(image, "PNG", transparency=1000))
    torch.testing.assert_close(found[0], torch.tensor([[0.0, 1.0, 1.0]]))


def test_size_of_a_turned_tiff_is_that_of_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_gradient(8, 16)).save(tmp_path / "turned.tif", exif=exif)
    height, width = read_image(tmp_path / "turned.tif").shape[1:]
    assert (width, height) == image_size(tmp_path / "turned.tif") == (8, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation, tmp_path):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # top left is white
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    found = read_image(path)
    assert torch.equal(found, torch.from_numpy(upright).permute(2, 0, 1).float() / 255)
    assert image_size(path) == (32, 16)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for data in (_encode(Image.fromarray(values), "PNG"), _encode(Image.fromarray(values), "TIFF"), values):
        found = read_image(data)
        assert found.shape == (3, 1, 5)
        torch.testing.assert_close(found[0, 0].double(), torch.from_numpy(values[0] / 65535.0), atol=1e-7, rtol=0)


def test_sixteen_bit_colour_png_spans_the_range():
    pixels = np.array([[[0, 0, 0], [65535, 65535, 65535], [32768, 256, 65280]]], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 3, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    expected = torch.from_numpy(pixels.astype(np.float64) / 65535).permute(2, 0, 1)
    assert (read_image(data).double() - expected).abs().max() <= 1 / 255


def test_grey_palette_and_bilevel_become_three_equal_channels():
    grey = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("P")):
        found = read_image(_encode(image, "PNG"))
        assert torch.equal(found, torch.from_numpy(grey / np.float32(255)).expand(3, 5, 5))
    bilevel = read_image(_encode(Image.fromarray(grey).convert("1"), "PNG"))
    assert set(bilevel.unique().tolist()) <= {0.0, 1.0} and bilevel.shape == (3, 5, 5)


def test_transparency_is_composited_on_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)  # opaque red stays
    rgba[0, 1] = (255, 0, 0, 0)  # clear becomes white
    rgba[1, 0] = (0, 0, 0, 128)  # half black becomes grey
    expected = torch.tensor([[1.0, 0, 0], [1, 1, 1], [127 / 255] * 3])
    for source in (
        rgba,
        _encode(Image.fromarray(rgba), "PNG"),
        _encode(Image.fromarray(rgba), "WEBP", lossless=True, exact=True),
    ):
        found = read_image(source)
        got = torch.stack([found[:, 0, 0], found[:, 0, 1], found[:, 1, 0]])
        torch.testing.assert_close(got, expected, atol=1.01 / 255, rtol=0)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0] * 256)
    assert read_image(_encode(palette, "PNG", transparency=0)).min() == 1.0
    grey_alpha = Image.new("LA", (1, 1), (0, 0))
    assert read_image(_encode(grey_alpha, "PNG")).min() == 1.0


def test_cmyk_is_not_inverted():
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    found = read_image(_encode(red, "JPEG", quality=95))
    assert found[0].mean() > 0.95 and found[1:].mean() < 0.05


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    found = read_image(_encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert found[0].min() == 1.0 and found[2].max() == 0.0


def _sentence(error: pytest.ExceptionInfo[ReproError], name: str) -> str:
    text = str(error.value)
    assert name in text and "\n" not in text and len(text) < 300
    return text


def _jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return _encode(Image.fromarray(noise), "JPEG")


BAD = {
    "empty.png": (b"", "empty"),
    "text.png": (b"this is a text, saved under the wrong name", "not an image"),
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "truncated.jpg": (_jpeg()[:1500], "truncated or corrupt"),
    "header.jpg": (_jpeg()[:15], "not an image"),
    "truncated.png": (
        _encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "PNG")[:5000],
        "truncated",
    ),
    "zeros.png": (bytes(4096), "not an image"),
    "bomb.png": (_png_header(60_000, 60_000), "40,000,000 pixels"),
    "large.png": (_png_header(9_000, 9_000), "40,000,000 pixels"),
    "huge_header.png": (_png_header(2**31 - 1, 2**31 - 1), "40,000,000 pixels"),
}


@pytest.mark.parametrize("name", sorted(BAD))
@pytest.mark.filterwarnings("error")
def test_bad_files_are_refused_in_one_sentence_that_names_them(name, tmp_path):
    data, words = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ReproError) as error:
        read_image(path)
    assert words in _sentence(error, name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow speaks of damaged TIFF tags
def test_flipped_bytes_never_give_a_traceback(tmp_path):
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        clean = np.frombuffer(_encode(Image.fromarray(_gradient(24, 24)), kind), np.uint8)
        for _ in range(40):
            data = clean.copy()
            data[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            try:
                found = read_image(data.tobytes(), name="flipped", max_pixels=100_000)
            except ReproError as error:
                assert str(error).startswith("flipped:")
            else:
                assert found.shape[0] == 3 and found.min() >= 0 and found.max() <= 1


def test_missing_folder_and_tiny_are_refused(tmp_path):
    with pytest.raises(ReproError, match="no such file"):
        read_image(tmp_path / "no.png")
    with pytest.raises(ReproError, match="is a folder"):
        read_image(tmp_path)
    path = tmp_path / "tiny.png"
    Image.new("RGB", (40, 7)).save(path)
    with pytest.raises(ReproError, match=r"tiny\.png: 40x7 is too small; both sides must be at least 8 pixels"):
        read_image(path, min_side=8)
    assert read_image(path, min_side=7).shape == (3, 7, 40)
    with pytest.raises(ReproError, match="279 pixels"):
        read_image(path, max_pixels=279)


@pytest.mark.parametrize(
    "source",
    [
        np.full((4, 4, 3), 1.1),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((3, 5, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(5, np.uint8),
        torch.zeros(5, 4, 3),
        torch.zeros(3, 0, 4),
        torch.full((3, 4, 4), 2.0),
        torch.full((3, 4, 4), float("nan")),
        torch.zeros(3, 4, 4, dtype=torch.int64),
        7,
        None,
        Image.new("F", (3, 3)),
        Image.new("LAB", (3, 3)),
    ],
    ids=lambda source: f"{type(source).__name__}",
)
def test_sources_that_are_no_picture_are_refused(source):
    with pytest.raises(ReproError, match="accepted"):
        read_image(source)


def test_write_then_read_is_exact_on_the_8_bit_grid(tmp_path):
    image = torch.from_numpy(_gradient()).permute(2, 0, 1).float() / 255
    for suffix in (".png", ".webp"):
        path = write_image(tmp_path / "new" / f"a{suffix}", image)
        assert torch.equal(read_image(path), image)
    assert [p.name for p in sorted((tmp_path / "new").iterdir())] == ["a.png", "a.webp"]
    assert write_image(tmp_path / "b.png", image).read_bytes() == write_image(tmp_path / "c.png", image).read_bytes()


def test_write_rounds_and_refuses_what_it_cannot_hold(tmp_path):
    path = write_image(tmp_path / "a.png", torch.full((3, 2, 2), 0.6 / 255))
    assert read_image(path).max() == 1 / 255
    for bad in (torch.full((3, 2, 2), 1.1), torch.full((3, 2, 2), -0.1), torch.full((3, 2, 2), float("nan"))):
        with pytest.raises(ReproError, match="range"):
            write_image(tmp_path / "bad.png", bad)
    with pytest.raises(ReproError, match="cannot write"):
        write_image(tmp_path / "bad.xyz", torch.zeros(3, 2, 2))
    (tmp_path / "file").write_text("")
    with pytest.raises(ReproError, match="could not be written"):
        write_image(tmp_path / "file" / "bad.png", torch.zeros(3, 2, 2))
    with pytest.raises(ReproError, match=r"16384x1 is more than the 16,383 pixels a side of \.webp"):
        write_image(tmp_path / "bad.webp", torch.zeros(3, 1, 16384))
    assert not list(tmp_path.glob("*bad*"))


def test_what_can_be_known_is_known_before_the_work(tmp_path):
    name = "n" * 251 + ".png"  # as long as may be
    check_writable(tmp_path / "new" / name, (5, 5))
    write_image(tmp_path / "new" / name, torch.zeros(3, 5, 5))
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]  # looking leaves nothing behind


def test_model_range_round_trip():
    x = torch.linspace(0, 1, 256)
    torch.testing.assert_close(to_unit(to_model(x)), x)
    assert to_model(x).aminmax() == (torch.tensor(-1.0), torch.tensor(1.0))
    assert to_unit(torch.tensor([-3.0, 3.0])).tolist() == [0.0, 1.0]


def test_center_crop_takes_the_middle():
    image = torch.arange(35.0).view(1, 5, 7)
    assert torch.equal(center_crop(image, 3), image[:, 1:4, 2:5])
    assert torch.equal(center_crop(image, (5, 6)), image[:, :, 0:6])
    with pytest.raises(ReproError, match="6x6 does not fit"):
        center_crop(image, 6)


def test_resize_is_antialiased_and_stays_in_range():
    checks = torch.zeros(3, 64, 64)
    checks[:, ::2, ::2] = checks[:, 1::2, 1::2] = 1.0
    small = resize(checks, 16)
    assert (small[:, 2:-2, 2:-2] - 0.5).abs().max() < 0.02  # without antialiasing it would be all 0 or all 1
    assert small.min() >= 0 and small.max() <= 1
    assert resize(torch.rand(3, 30, 60), 10).shape == (3, 10, 20)
    assert resize(torch.rand(2, 3, 30, 60), (8, 9)).shape == (2, 3, 8, 9)
    pillow = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    ours = resize(read_image(pillow), (12, 16))
    theirs = read_image(pillow.resize((16, 12), Image.Resampling.BICUBIC))
    assert (ours - theirs).abs().max() <= 1.01 / 255  # Pillow rounds to 8 bits between its two passes
