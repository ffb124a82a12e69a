"""What the image reader does with what people have on their disks, masks as people draw them, and what is written."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from tiny import refused

from repro.data.images import check_writable, image_batch, image_size, masks, read_image, read_srgb, resize, write_image
from repro.errors import ReproError


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _gradient(height: int = 6, width: int = 10) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, rows: bytes, bits: int = 8) -> bytes:
    """A colour PNG; with too few rows for its size, a decompression bomb's front."""
    head = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_source_and_kind_of_numbers_gives_the_same_picture(channels, tmp_path):
    eight = np.arange(0, 240, 2, dtype=np.uint8).reshape(5, 6, 4)[..., :channels]
    planes = torch.from_numpy(eight).movedim(2, 0)
    wanted = planes.float() / 255
    wanted = wanted[:3] * wanted[3:] + 1 - wanted[3:] if channels == 4 else wanted.expand(3, -1, -1)
    kinds = [eight, planes, planes / 255, eight / 255.0, (eight / 255).astype(np.float32)]
    kinds += [eight.astype(np.uint16) * 257, eight.astype(">u2") * 257, np.asfortranarray(eight)]
    path = tmp_path / "a.png"
    image = Image.fromarray(eight[..., 0] if channels == 1 else eight)
    image.save(path)
    kinds += [image, path, str(path), path.read_bytes()]
    if channels == 1:
        kinds += [eight[..., 0], planes[0]]
        assert torch.equal(read_image(eight[..., 0] > 9), (planes > 9).float().expand(3, -1, -1))
    for kind in kinds:
        found = read_image(kind)
        assert found.dtype == torch.float32 and found.is_contiguous()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


# --- metadata ---------------------------------------------------------------------------------------------------------


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


DAMAGED = {
    "JPEG": [
        _segment(0xE1, b"Exif\0\0" + bytes(16)),
        _segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(99))),
        _segment(0xE2, b"MPF\0" + bytes(30)),
        _segment(0xE2, b"ICC_PROFILE\0"),
        _segment(0xED, b"Photoshop 3.0\x008BIM" + bytes(3)),
        _segment(0xEE, b"Adobe\0"),
    ],
    "PNG": [
        _chunk(b"eXIf", bytes(16)),
        _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))),
        _chunk(b"pHYs", b"12"),
        _chunk(b"iCCP", b""),
        _chunk(b"tEXt", b"a\0b")[:-4] + bytes(4),  # a wrong check sum
    ],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_metadata_never_decides_whether_pixels_are_accepted(kind, tmp_path):
    image, path = Image.fromarray(_gradient(8, 16)), tmp_path / "photo"
    clean, start = _encode(image, kind), {"JPEG": 2, "PNG": 33, "WEBP": 0}[kind]
    for block in DAMAGED.get(kind, [bytes(16)]):
        data = clean[:start] + block + clean[start:] if start else _encode(image, kind, exif=block)
        path.write_bytes(data)
        for found in (read_image(data), read_image(path), read_srgb(path)[0]):
            assert torch.equal(found, read_image(clean))
        assert image_size(path) == (16, 8)


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_rotation_is_applied(kind, tmp_path):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # top left is white
    turn = Image.Transpose
    stored = [
        turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM, turn.TRANSPOSE, turn.ROTATE_90, turn.TRANSVERSE,
        turn.ROTATE_270,
    ]  # fmt: skip
    for orientation, method in enumerate(stored, start=2):
        Image.fromarray(upright).transpose(method).save(tmp_path / "turned", kind, exif=_turned(orientation))
        assert torch.equal(read_image(tmp_path / "turned"), read_image(upright))
        assert image_size(tmp_path / "turned") == (32, 16)


# --- kinds of pixels --------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("bits", "white_is_zero"), [(8, False), (8, True), (12, False), (16, False), (16, True)])
def test_grey_tiffs_of_every_convention(bits, white_is_zero):
    most = 2**bits - 1
    values = [0, 1, most // 3, most]
    found = read_image(_tiff(values, bits=bits, white_is_zero=white_is_zero))
    wanted = torch.tensor([(most - v if white_is_zero else v) / most for v in values])
    torch.testing.assert_close(found, wanted.expand(3, 1, 4), rtol=0, atol=1e-7)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    grey = torch.from_numpy(values / np.float32(65535)).expand(3, 1, 5)
    for data in (_encode(Image.fromarray(values), "PNG"), _encode(Image.fromarray(values), "TIFF"), values):
        torch.testing.assert_close(read_image(data), grey, atol=1e-7, rtol=0)
    pixels = np.array([[[0, 0, 0], [65535, 65535, 65535], [32768, 256, 65280]]], ">u2")
    found = read_image(_png(3, 1, b"".join(b"\0" + row.tobytes() for row in pixels), bits=16))
    expected = torch.from_numpy(pixels.astype(np.float64) / 65535).permute(2, 0, 1)
    assert (found.double() - expected).abs().max() <= 1 / 255
    for bits, note in ((16, "deep.png: only 8 of its 16 bits are read"), (8, "")):
        rows = (pixels >> (16 - bits)).astype(">u2" if bits == 16 else "u1")
        (path := tmp_path / "deep.png").write_bytes(_png(3, 1, b"".join(b"\0" + row.tobytes() for row in rows), bits))
        assert read_srgb(path)[1] == note
    found = read_image(_encode(Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)), "PNG", transparency=1000))
    torch.testing.assert_close(found[0], torch.tensor([[0.0, 1.0, 1.0]]))  # a transparent value is white


def test_grey_palette_bilevel_cmyk_and_animations_become_rgb(tmp_path):
    grey = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("P")):
        found = read_image(_encode(image, "PNG"))
        assert torch.equal(found, torch.from_numpy(grey / np.float32(255)).expand(3, 5, 5))
    bilevel = read_image(_encode(Image.fromarray(grey).convert("1"), "PNG"))
    assert set(bilevel.unique().tolist()) <= {0.0, 1.0} and bilevel.shape == (3, 5, 5)
    red = read_image(_encode(Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK"), "JPEG", quality=95))
    assert red[0].mean() > 0.95 and red[1:].mean() < 0.05
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind, note in {"GIF": "a: only its first frame is read", "MPO": ""}.items():
        (path := tmp_path / "a").write_bytes(_encode(frames[0], kind, save_all=True, append_images=frames[1:]))
        first, said = read_srgb(path)
        assert first[0].min() > 0.99 and first[2].max() < 0.01 and said == note


def test_transparency_is_composited_on_white():
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)  # opaque red, clear, half black
    expected = torch.tensor([[1.0, 0, 0], [1, 1, 1], [127 / 255] * 3])
    webp = _encode(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)
    for source in (rgba, _encode(Image.fromarray(rgba), "PNG"), webp):
        torch.testing.assert_close(read_image(source)[:, 0].T, expected, atol=1.01 / 255, rtol=0)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0] * 256)
    assert read_image(_encode(palette, "PNG", transparency=0)).min() == 1.0
    assert read_image(_encode(Image.new("LA", (1, 1), (0, 0)), "PNG")).min() == 1.0


# --- refusals ---------------------------------------------------------------------------------------------------------

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
BAD = {
    "empty.png": (b"", "not an image"),
    "text.png": (b"this is a text, saved under the wrong name", "not an image"),
    "truncated {0}.jpg": (_encode(NOISE, "JPEG")[:1500], "truncated or corrupt"),
    "truncated.png": (_encode(NOISE, "PNG")[:5000], "truncated"),
    "bomb.png": (_png(60_000, 60_000, b""), "40,000,000 pixels"),
    "large.png": (_png(9_000, 9_000, b""), "40,000,000 pixels"),
    "signed.tif": (_tiff([0, 1, 2, 200], bits=8, sample_format=2), "save it as 8- or 16-bit grey or RGB"),
    "deep.tif": (_tiff([0, 1, 2, 200], bits=32), "save it as 8- or 16-bit grey or RGB"),
    "white.tif": (_tiff([0, 1, 2, 200], bits=12, white_is_zero=True), "not an image"),  # Pillow knows no such file
    "tiny.png": (_encode(Image.new("RGB", (40, 7)), "PNG"), "40x7 is too small; both sides must be at least 8 pixels"),
    "no.png": (None, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_files_are_refused_in_one_sentence_that_names_them(name, tmp_path):
    data, words = BAD[name]
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ReproError) as error:
        read_image(path, min_side=8 if name == "tiny.png" else 1)
    text = str(error.value)
    assert words in text and name in text and "\n" not in text and len(text) < 300
    with pytest.raises(ReproError, match="is a folder"):
        read_image(tmp_path)


def test_threads_that_read_leave_the_filters_of_warnings_as_they_were(tmp_path):
    NOISE.save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [tmp_path / "a.png"] * 200))
    assert warnings.filters == before


def test_text_of_a_tiff_that_lies_nowhere_does_not_keep_its_pixels():
    data = bytearray(whole := _tiff([0, 1, 2, 200], bits=8))
    at = whole.index(struct.pack("<HH", 259, 4))  # in its place a maker's name of 20 letters, far behind the end
    data[at : at + 12] = struct.pack("<HHII", 271, 2, 20, 10**9)
    assert torch.equal(read_image(bytes(data)), read_image(whole))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged TIFF tags
def test_flipped_bytes_never_give_a_traceback():
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        clean = np.frombuffer(_encode(Image.fromarray(_gradient(24, 24)), kind), np.uint8)
        for _ in range(40):
            data = clean.copy()
            data[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            try:
                found = read_image(data.tobytes(), name="flipped")
            except ReproError as error:
                assert str(error).startswith("flipped:")
            else:
                assert found.shape[0] == 3 and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize(
    "source",
    [
        np.full((4, 4, 3), 1.1), np.zeros((4, 4, 3), np.int64), np.zeros((3, 5, 5), np.uint8), np.zeros(5, np.uint8),
        torch.zeros(5, 4, 3), torch.zeros(3, 0, 4), torch.full((3, 4, 4), torch.nan), 7, Image.new("LAB", (3, 3)),
    ],
    ids=lambda source: f"{type(source).__name__}",
)  # fmt: skip
def test_sources_that_are_no_picture_are_refused(source):
    with pytest.raises(ReproError, match="accepted"):
        read_image(source)


# --- writing and sizes ------------------------------------------------------------------------------------------------


def test_write_then_read_is_exact_on_the_8_bit_grid(tmp_path):
    image = torch.from_numpy(_gradient()).permute(2, 0, 1).float() / 255
    for suffix in (".png", ".webp"):
        assert torch.equal(read_image(write_image(tmp_path / "new" / f"a{suffix}", image)), image)
    assert [p.name for p in sorted((tmp_path / "new").iterdir())] == ["a.png", "a.webp"]
    assert write_image(tmp_path / "b.png", image).read_bytes() == write_image(tmp_path / "c.png", image).read_bytes()
    assert read_image(write_image(tmp_path / "d.png", torch.full((3, 2, 2), 0.6 / 255))).max() == 1 / 255


def test_what_cannot_be_written_is_refused_before_the_work_where_it_can_be_known(tmp_path):
    for name, image, words in (
        ("bad.png", torch.full((3, 2, 2), 1.1), "range"),
        ("bad.png", torch.full((3, 2, 2), float("nan")), "range"),
        ("bad.xyz", torch.zeros(3, 2, 2), "cannot write"),
        ("file/bad.png", torch.zeros(3, 2, 2), "cannot be written"),
        ("bad.webp", torch.zeros(3, 1, 16384), r"16384x1 is more than the 16,383 pixels a side of \.webp"),
        ("bad.jpg", torch.zeros(3, 1, 65_501), r"65501x1 is more than the 65,500 pixels a side of \.jpg"),  # libjpeg's
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(ReproError, match=words):
            write_image(tmp_path / name, image)
    name = "n" * 251 + ".png"  # as long as may be
    check_writable(tmp_path / "new" / name, (5, 5))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]  # neither leaves anything behind
    write_image(tmp_path / "new" / name, torch.zeros(3, 5, 5))
    for place in ("a" + name, "new", "x.tga", "x.webp"):
        with pytest.raises(ReproError):
            check_writable(tmp_path / place, (5, 20_000))


def test_resize_is_pillows_antialiased_one():
    assert resize(torch.rand(3, 30, 60), 10).shape == (3, 10, 20)
    assert resize(torch.rand(2, 3, 30, 60), (8, 9)).shape == (2, 3, 8, 9)
    ours, theirs = resize(read_image(NOISE), (12, 16)), read_image(NOISE.resize((16, 12), Image.Resampling.BICUBIC))
    assert (ours - theirs).abs().max() <= 1.01 / 255  # Pillow rounds to 8 bits between its two passes


# --- masks ------------------------------------------------------------------------------------------------------------

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


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
MASKS = {
    "one bit": GREY.convert("1"),
    "RGB": GREY.convert("RGB"),
    "red paint on black": painted((255, 0, 0)).convert("RGB"),
    "palette": GREY.convert("P"),
    "opaque RGBA": painted(WHITE),
    "white on transparent white": painted(WHITE, (255, 0), WHITE),
    "black on transparent": painted(BLACK, (255, 0)),
    "green on transparent": painted((40, 160, 30), (255, 0), WHITE),
    "grey and alpha": painted(BLACK, (255, 0)).convert("LA"),
    "JPEG": _encode(GREY, "JPEG", quality=60),
    "array with alpha": np.asarray(painted(BLACK, (255, 0))),
    "bool array": HOLE,
    "float array": HOLE.astype(np.float64)[..., None],
    "bytes 0 and 255": HOLE.astype(np.uint8) * 255,
    "bytes 0 and 1": HOLE.astype(np.uint8),
    "tensor": WANTED,
    "plane": WANTED[0, 0].bool(),
    "list": [WANTED[0]],
    "batch of arrays": HOLE[None, ..., None],
    "batch of coloured arrays": np.asarray(GREY.convert("RGB"))[None],
    "sixteen bits": HOLE.astype(np.uint16) * 65535,
    "sixteen bits 0 and 1": HOLE.astype(np.uint16),
    "array, channel first": HOLE[None],
    "batch of arrays, channel first": HOLE[None, None],
}


@pytest.mark.parametrize("kind", MASKS)
def test_every_kind_of_mask_is_the_same_hole(kind):
    found = masks(MASKS[kind])
    assert found.dtype == torch.float32 and torch.equal(found, WANTED)


def test_masks_of_a_file_of_two_paints_and_with_soft_edges(tmp_path):
    painted(BLACK, (255, 0)).save(tmp_path / "mask.png")
    assert torch.equal(masks([tmp_path / "mask.png", GREY]), torch.cat([WANTED] * 2))
    turned = _encode(painted(BLACK, (255, 0)), "PNG", exif=_turned(6))  # as images are
    assert torch.equal(masks(turned), WANTED.rot90(-1, (2, 3)))
    assert torch.equal(masks(torch.cat([WANTED] * 3)), torch.cat([WANTED] * 3))
    image = painted(WHITE, (255, 0))
    image.paste((0, 0, 0, 255), (0, 14, 30, 20))  # black, opaque: kept
    assert torch.equal(masks(image), WANTED)
    large = GREY.resize((300, 200), Image.Resampling.NEAREST)
    found = masks(large.filter(ImageFilter.GaussianBlur(2)))
    assert ((found == 0) | (found == 1)).all() and (found - masks(large)).abs().mean() < 0.001  # rounded corners


def test_what_is_no_mask_is_refused():
    cases = {
        r"mask: 80% of its pixels are grey; accepted: black \(kept\) and white \(hole\)": Image.linear_gradient("L"),
        "holds values between 0 and 0.5": HOLE * 0.5,
        "holds values": WANTED * torch.nan,
        "all of it is a hole": Image.new("L", (9, 9), 255),
        "nothing in it is a hole": painted(WHITE, (0, 0)),
        r"shape \(3, 20, 30\); accepted: \(H, W\)": WANTED.expand(1, 3, -1, -1),
        "got none": [],
        "29x20, 30x20 in one batch": [WANTED, WANTED[..., 1:]],
        "nowhere.png: no such file": "nowhere.png",
    }
    refused(cases, masks)


def test_grey_networks_get_the_luminance_of_any_kind():
    array = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    wanted = torch.stack([torch.from_numpy(np.array(Image.fromarray(a).convert("L"))) for a in array])[:, None] / 255
    for kind in (array, torch.from_numpy(array).movedim(3, 1), [Image.fromarray(a) for a in array]):
        torch.testing.assert_close(image_batch(kind, channels=1), wanted, rtol=0, atol=0.51 / 255)  # Pillow rounds
    assert torch.equal(image_batch(WANTED, channels=1), WANTED)
