"""Controls and `explore`: the live image is the headless image, whichever way the sliders were moved."""

import base64
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient
from PIL import Image
from tiny import refused

from repro.errors import ReproError
from repro.ui.controls import Choice, Command, Explorer, Seed, Slider, Toggle, Upload, UploadedFile, parse_all
from repro.ui.explore import explore
from repro.ui.live import LiveExplorer
from repro.ui.pictures import split_view


def test_a_value_that_is_not_accepted_is_one_sentence_with_the_parameters_name():
    cases = {
        "^parameter beta: 11 found, 0 to 10 in steps of 1 accepted": (Slider(0, 10, 1, 3), 11),
        "0.3 found, 0 to 1 in steps of 0.25 accepted": (Slider(0, 1, 0.25, 0.5), 0.3),
        "True found": (Slider(0, 1, 1, 0), True),
        "'1' found": (Slider(0, 1, 1, 0), "1"),
        "nan found": (Slider(0, 1, 0.5, 0), float("nan")),
        "'c' found, 'a', 'b' accepted": (Choice(("a", "b")), "c"),
        "1 found, True or False accepted": (Toggle(), 1),
        "-1 found, 0 to 2147483647 in steps of 1": (Seed(), -1),
        "2147483648 found, 0 to 2147483647": (Seed(), 2**31),
        "'photo.jpg' found, an UploadedFile or None accepted": (Upload(), "photo.jpg"),
    }
    refused(cases, lambda control, value: parse_all({"beta": control}, {"beta": value}))


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


def draw(step, eta, sampler, clip, seed, photo):
    """An image in which every parameter leaves its mark."""
    if sampler == "broken":
        raise ReproError("sampler <broken> does not work, ddim is accepted")
    if sampler == "bug":
        raise ZeroDivisionError("division by zero\nsecond line")
    y, x = np.mgrid[0:12, 0:16]
    value = np.sin(x * (step + 1) / 7 + eta * 5 + seed * 0.1) * 0.5 + 0.5
    base = np.stack([value, y / 11, np.full_like(value, 1.0 if clip else 0.25)])
    if photo is not None:
        base[1] = len(photo.content) / 100
    return base.astype(np.float32)


CONTROLS = {
    "step": Slider(0, 10, 1, 3, "step"),
    "eta": Slider(0, 1, 0.1, 0.0, "η"),
    "sampler": Choice(("ddim", "ddpm", "broken", "bug")),
    "clip": Toggle(True),
    "seed": Seed(7),
    "photo": Upload(),
}
COMMAND = Command(
    "notebooks/01_ddpm_basics.ipynb",
    {"step": "t", "eta": "eta", "sampler": "sampler_name", "clip": "clip", "seed": "seed", "photo": "photo"},
)
PRESETS = {"all noise": {"step": 10}, "no clip": {"clip": False, "eta": 0.3}}


def pixels(data) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


@pytest.fixture
def headless() -> Explorer:
    return Explorer(draw, CONTROLS, PRESETS, COMMAND)


@pytest.fixture
def live() -> LiveExplorer:
    return LiveExplorer(draw, CONTROLS, PRESETS, COMMAND)


@pytest.mark.parametrize(
    ("name", "sent", "meant"), [("step", 8, 8), ("eta", 0.1 + 0.2, 0.3), ("clip", False, False), ("seed", 11, 11)]
)
def test_the_live_picture_is_the_headless_one_by_default_and_after_a_move(headless, live, name, sent, meant):
    before = bytes(live.image.value)
    assert before == headless.png() and headless.picture().shape == (12, 16, 3)
    live.widgets[name].set_state({"value": sent})
    assert live.params[name] == meant and bytes(live.image.value) != before
    assert bytes(live.image.value) == headless.png(**{name: meant})


def test_an_uploaded_file_reaches_the_function(headless, live):
    content = b"x" * 40
    upload, about = live.widgets["photo"], {"name": "my cat.png", "type": "image/png", "size": 40, "last_modified": 0}
    if isinstance(upload.value, dict):  # ipywidgets 7
        upload.set_state({"data": [memoryview(content)], "metadata": [about], "_counter": 1})
    else:
        upload.set_state({"value": [about | {"content": memoryview(content)}]})
    assert live.params["photo"].content == content
    np.testing.assert_array_equal(pixels(live.image.value), headless.picture(photo=live.params["photo"]))
    assert live.command_box.value.endswith("-p photo 'my cat.png'")
    live.widgets["step"].set_state({"value": 4})  # the file stays while sliders move
    np.testing.assert_array_equal(pixels(live.image.value), headless.picture(step=4, photo=live.params["photo"]))


def test_a_preset_button_moves_several_controls_and_draws_once():
    calls = []
    live = LiveExplorer(lambda **params: calls.append(params) or draw(**params), CONTROLS, PRESETS)
    live.widgets["step"].set_state({"value": 5})  # what the preset does not name stays
    calls.clear()
    assert [button.description for button in live.preset_buttons] == list(PRESETS)
    live.preset_buttons[1].click()
    assert calls == [{"step": 5, "eta": 0.3, "sampler": "ddim", "clip": False, "seed": 7, "photo": None}]
    assert (live.widgets["eta"].value, live.widgets["clip"].value) == (0.3, False)


def test_an_error_is_one_sentence_in_the_pictures_place_and_the_next_picture_takes_it_away(live):
    live.widgets["sampler"].set_state({"index": 2})
    assert "sampler &lt;broken&gt; does not work, ddim is accepted" in live.message.value
    assert live.image.layout.display == "none"  # no outdated image above or below it
    live.widgets["sampler"].set_state({"index": 3})
    assert "ZeroDivisionError: division by zero" in live.message.value and "second" not in live.message.value
    assert isinstance(live.error, ZeroDivisionError)
    live.widgets["sampler"].set_state({"index": 0})
    live.widgets["eta"].set_state({"value": 0.34})  # typed into the readout
    assert "0.34 found, 0 to 1 in steps of 0.1 accepted" in live.message.value
    live.widgets["eta"].set_state({"value": 0.3})
    assert live.message.value == "" and live.error is None and live.image.layout.display == ""


def test_a_display_control_computes_nothing_anew_and_draws_what_the_headless_function_draws():
    calls: list[int] = []

    def compute(level):
        calls.append(level)
        return np.full((4, 8, 3), level, np.uint8)

    more = {"view": lambda image, split: split_view(image, 255 - image, split), "display": ["split"]}
    controls = {"level": Slider(0, 255, 5, 60), "split": Slider(0.0, 1.0, 0.25, 0.5)}
    live = LiveExplorer(compute, controls, **more)
    live.widgets["split"].set_state({"value": 0.25})
    assert calls == [60]
    assert bytes(live.image.value) == Explorer(compute, controls, **more).png(split=0.25)
    live.widgets["level"].set_state({"value": 80})
    assert calls[-1] == 80


def test_the_save_button_writes_what_is_shown_or_the_full_picture(home):
    live = LiveExplorer(draw, CONTROLS, PRESETS, COMMAND)
    live.widgets["step"].set_state({"value": 8})
    live.save_button.click()
    live.save_button.click()  # another file
    first, second = sorted((home / "build/saved").iterdir())
    assert first.read_bytes() == second.read_bytes() == bytes(live.image.value)
    assert str(second) in live.message.value
    full = LiveExplorer(draw, CONTROLS, save=lambda **params: np.zeros((40, 50, 3), np.uint8))
    full.save_button.click()
    assert pixels((home / "build/saved/picture-1.png").read_bytes()).shape == (40, 50, 3)


def test_command_and_python_follow_the_controls(live):
    start = "mkdir -p build && papermill notebooks/01_ddpm_basics.ipynb build/01_ddpm_basics.ipynb"
    assert live.command_box.value == f"{start} -p t 3 -p eta 0.0 -p sampler_name ddim -p clip True -p seed 7"
    live.widgets["eta"].set_state({"value": 0.7000000000000001})
    live.widgets["sampler"].set_state({"index": 1})
    assert live.params["sampler"] == "ddpm" and "-p eta 0.7 -p sampler_name ddpm " in live.command_box.value
    assert Command("a.ipynb", {}, "smoke").text({}).endswith("a.ipynb build/a.ipynb -p profile smoke")
    assert len(LiveExplorer(draw, CONTROLS).box.children) == 2  # nothing to copy
    both = LiveExplorer(draw, CONTROLS, PRESETS, COMMAND, python=lambda **params: f"draw({params!r})")
    both.widgets["eta"].set_state({"value": 0.7000000000000001})
    assert both.box.children[1].children == (both.command_box, both.python_box)
    assert both.python_box.value.startswith("draw({") and "'eta': 0.7," in both.python_box.value


def test_the_command_is_what_papermill_reads_back():
    from papermill.cli import _resolve_type

    values = {"text": "007", "word": "ddim v2", "flag": False, "rate": 1e-05, "n": 12, "yes": "True"}
    words = shlex.split(Command("a.ipynb", {k: k for k in values}).text(values))[7:]
    triples = zip(words[::3], words[1::3], words[2::3], strict=True)
    assert {name: _resolve_type(value) if option == "-p" else value for option, name, value in triples} == values


def test_what_does_not_fit_is_refused_before_anything_is_drawn():
    for more, message in (
        ({"controls": {**CONTROLS, "step": Slider(0, 10, 1, 11)}}, "parameter step: 11 found, 0 to 10"),
        ({"presets": {"x": {"step": 99}}}, "parameter step: 99 found, 0 to 10"),
        ({"presets": {"x": {"stepp": 9}}}, "unknown parameter 'stepp'"),
        ({"controls": {**CONTROLS, "sampler": Choice(("broken",))}}, "does not work"),  # headless errors are raised
    ):
        with pytest.raises(ReproError, match=message):
            explore(**{"fn": draw, "controls": CONTROLS, **more})


CELL = """
import numpy as np
from repro.ui import Command, Slider, explore
def ramp(level): return np.full((8, 8, 3), level, np.uint8)
explore(ramp, {"level": Slider(0, 255, 5, 60)}, presets={"dark": {"level": 0}, "light": {"level": 255}},
        command=Command("n.ipynb", {"level": "level"}))
"""


def test_the_printed_command_draws_the_picture_in_a_fresh_clone(tmp_path, monkeypatch):
    """As it is printed, in a folder that holds the notebook and nothing else."""
    new, kernel = nbformat.v4.new_code_cell, {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new("level: int = 60", metadata={"tags": ["parameters"]}), new(CELL.replace("5, 60", "5, level"))]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "n.ipynb")
    command = Command("n.ipynb", {"level": "level"}).text({"level": 85})
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("REPRO_HEADLESS", "1")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    outputs = nbformat.read(tmp_path / "build/n.ipynb", as_version=4).cells[-1].outputs
    default, presets, text = outputs  # headless: two plain images and the command
    assert set(default.data) | set(presets.data) <= {"image/png", "text/plain"}
    assert (pixels(base64.b64decode(default.data["image/png"])) == 85).all()
    assert text.text.strip() == "mkdir -p build && papermill n.ipynb build/n.ipynb -p level 85"


def test_in_a_live_kernel_the_widget_and_the_same_default_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_HEADLESS", "0")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = notebook.cells[0].outputs
    widget, default = (output.data for output in outputs)
    assert "application/vnd.jupyter.widget-view+json" in widget and "image/png" not in widget
    assert (pixels(base64.b64decode(default["image/png"])) == 60).all()
