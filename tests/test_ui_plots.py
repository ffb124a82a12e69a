"""Plots: the right pixels at the right place, the same bytes every time, nothing left behind in matplotlib."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image
from tiny import refused

from repro.ui.pictures import png, split_view, to_uint8
from repro.ui.plots import Schematic, curve, dots, tile, verdict_bars


def colour(r, g, b, size=10) -> np.ndarray:
    return np.full((size, size, 3), (r, g, b), np.uint8)


RED, GREEN, BLUE = colour(255, 0, 0), colour(0, 255, 0), colour(0, 0, 255)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def schematic() -> Schematic:
    drawing = Schematic(6, 2).image("x0", (1, 1), RED, text="$x_0$").box("net", (3, 1), "U-Net", kind="network")
    return drawing.box("sum", (5, 1), "+", kind="operation").arrow("x0", "net", "noise").arrow("net", "sum", bend=0.3)


PLATES = {
    "curve": lambda: curve(
        [10, 20, 50], {"ddim": ([3, 2, 1], [2, 1, 0.5], [4, 3, 2]), "ddpm": [9, 5, 1]}, xlabel="n", ylabel="FID"
    ),
    "schematic": schematic,
    "dots": lambda: dots(
        {"a": (1, 0, 2), "b": None, "c": 3.0}, xlabel="LPIPS", zero=0, groups=["ours", "ours", "theirs"]
    ),
    "verdicts": lambda: verdict_bars({"U1 · perceptual": ["reproduced", "weaker"], "U3 · cost": ["not reproduced"]}),
}


@pytest.mark.parametrize("name", PLATES)
def test_the_same_bytes_whatever_the_users_matplotlib_says(name):
    first = png(PLATES[name]())
    settings = {"font.size": 30, "savefig.bbox": "tight", "savefig.dpi": 50, "axes.facecolor": "black"}
    with matplotlib.rc_context(settings):
        before = dict(matplotlib.rcParams)
        assert png(PLATES[name]()) == first
        assert dict(matplotlib.rcParams) == before, "no setting is left changed"
    assert b"Software" not in first and b"tIME" not in first and pyplot.get_fignums() == []


def test_tile_keeps_every_pixel():
    out = tile([RED, GREEN, BLUE], 2, gap=3, scale=2)
    assert out.shape == (43, 43, 3)
    np.testing.assert_array_equal(out[:20, :20], colour(255, 0, 0, 20))
    np.testing.assert_array_equal(out[:20, 23:], colour(0, 255, 0, 20))
    np.testing.assert_array_equal(out[23:, :20], colour(0, 0, 255, 20))
    assert (out[20:23] == 255).all() and (out[23:, 23:] == 255).all()


def test_split_view_shows_before_at_the_left():
    assert (split_view(RED, BLUE, 1.0) == RED).all() and (split_view(RED, BLUE, 0.0) == BLUE).all()
    assert [tuple(split_view(RED, BLUE)[0, x]) for x in (0, 5, -1)] == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]


def test_curve_draws_the_given_numbers_and_interval():
    axis = curve([1, 2], {"a": ([3, 4], [2, 3], [5, 6])}, xlabel="n", ylabel="y", reference={"paper": 3.5}).axes[0]
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [3, 4])
    band = axis.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (2, 6)
    assert list(axis.lines[1].get_ydata()) == [3.5, 3.5]


def test_dots_stand_at_their_values_and_verdicts_fill_their_share():
    axis = dots({"a": (1, 0.5, 2), "b": 3.0}, xlabel="d", zero=0).axes[0]
    assert [list(line.get_xdata()) for line in axis.lines[:3]] == [[0.5, 2], [1], [3]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    bars = verdict_bars({"U1": ["weaker", "reproduced", "reproduced", "reproduced"]}).axes[0]
    assert [patch.get_width() for patch in bars.patches[:2]] == [0.75, 0.25], "reproduced first"
    assert [text.get_text() for text in bars.texts] == ["3", "1"]


@pytest.mark.parametrize(
    "picture",
    [
        colour(255, 0, 51),
        Image.fromarray(colour(255, 0, 51)),
        torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(3, 10, 10),
        torch.tensor([1.0, 0.0, 0.2], dtype=torch.bfloat16)[:, None, None].expand(3, 10, 10).requires_grad_(),
        np.broadcast_to(np.array([1.0, 0.0, 0.2], np.float32)[:, None, None], (3, 10, 10)),
        torch.from_numpy(colour(255, 0, 51)),
    ],
    ids=["array", "PIL", "tensor", "bfloat16", "float array", "uint8 tensor"],
)
def test_every_accepted_picture_gives_the_same_pixels(picture):
    np.testing.assert_array_equal(to_uint8(picture), colour(255, 0, 51))
    np.testing.assert_array_equal(pixels(png(picture)), colour(255, 0, 51))


def test_grey_becomes_three_equal_channels_and_rounding_is_to_the_nearest():
    grey = to_uint8(torch.full((1, 2, 2), 0.5))
    assert grey.shape == (2, 2, 3) and (grey == 128).all()
    levels = torch.arange(256).float().div(255).reshape(1, 16, 16)
    np.testing.assert_array_equal(to_uint8(levels)[..., 0], np.arange(256).reshape(16, 16))


def test_what_cannot_be_drawn_is_refused_in_a_sentence():
    cases = {
        r"values from -0.5 to -0.5 found, \[0, 1\] needed": torch.full((3, 4, 4), -0.5),
        "nan": torch.full((3, 4, 4), float("nan")),
        r"shape \(4, 4, 3\) found": torch.zeros(4, 4, 3),
        "int64": np.zeros((3, 4, 4), np.int64),
        "an image of str": "cat.png",
    }
    refused(cases, to_uint8)
