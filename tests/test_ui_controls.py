"""Controls: what they accept, how they teach, and that a browser's numbers come back as a programmer's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.ui.controls import Choice, Seed, Slider, Toggle, Upload, UploadedFile, parse_all


@pytest.mark.parametrize(
    ("control", "value", "message"),
    [
        (Slider(0, 10, 1, 3), 11, "11 found, 0 to 10 in steps of 1 accepted"),
        (Slider(0, 1, 0.25, 0.5), 0.3, "0.3 found, 0 to 1 in steps of 0.25 accepted"),
        (Slider(0, 1, 1, 0), True, "True found"),
        (Slider(0, 1, 1, 0), "1", "'1' found"),
        (Slider(0, 1, 0.5, 0), float("nan"), "nan found"),
        (Choice(("a", "b")), "c", "'c' found, 'a', 'b' accepted"),
        (Toggle(), 1, "1 found, True or False accepted"),
        (Seed(), -1, "0 to 2147483647 in steps of 1"),
        (Seed(), 2**31, "0 to 2147483647 in steps of 1"),
        (Upload(), "photo.jpg", "'photo.jpg' found, an UploadedFile or None accepted"),
    ],
)
def test_a_value_that_is_not_accepted_is_one_sentence_with_the_parameters_name(control, value, message):
    with pytest.raises(ReproError, match=r"^parameter beta: [^\n]+$") as caught:
        parse_all({"beta": control}, {"beta": value})
    assert message in str(caught.value)


def test_a_control_that_cannot_be_drawn_is_refused():
    for kind, settings, message in (
        (Slider, (0, 10, 3, 0), "a step that divides the range"),
        (Slider, (5, 5, 1, 5), "min < max"),
        (Slider, (0, 1, 0, 0), "needed"),
        (Choice, ((),), "one or more different"),
        (Choice, (("a", "a"),), "one or more different"),
    ):
        with pytest.raises(ReproError, match=message):
            kind(*settings)


@given(st.integers(-50, 50), st.integers(1, 400), st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5]), st.data())
def test_slider_returns_the_number_a_programmer_writes(low, count, step, data):
    index = data.draw(st.integers(0, count))
    slider = Slider(low, round(low + count * step, 6), step, low)
    browser = low + index * step  # accumulates binary rounding as JavaScript does
    assert slider.parse(browser) == float(f"{browser:.6f}")
    with pytest.raises(ReproError, match="in steps of"):
        slider.parse(browser + 0.3 * step)


def test_types_and_defaults_are_those_of_the_description():
    assert isinstance(Slider(0, 10, 1, 3).parse(3.0), int) and isinstance(Slider(0, 10, 1, 3.0).parse(3), float)
    assert Choice(["ddpm", "ddim"]).default == "ddpm" and Choice([10, 20], 20).default == 20
    controls = {"t": Slider(0, 9, 1, 4), "eta": Slider(0, 1, 0.5, 1.0), "seed": Seed(3)}
    assert parse_all(controls, {"eta": 0.5}) == {"t": 4, "eta": 0.5, "seed": 3}
    with pytest.raises(ReproError, match="unknown parameter 'steps', accepted are t, eta, seed"):
        parse_all(controls, {"steps": 3})


# The two shapes as the two versions really hand them out (taken from their sources and from a run of each).
SEVEN = {"cat.png": {"metadata": {"name": "cat.png", "type": "image/png", "size": 3}, "content": b"\x89PN"}}
EIGHT = ({"name": "cat.png", "type": "image/png", "size": 3, "last_modified": 0, "content": memoryview(b"\x89PN")},)


@pytest.mark.parametrize(("value", "empty"), [(SEVEN, {}), (EIGHT, ())], ids=["ipywidgets 7", "ipywidgets 8"])
def test_both_shapes_of_an_upload(value, empty):
    assert Upload().parse(value) == UploadedFile("cat.png", b"\x89PN")
    assert Upload().parse(empty) is None
