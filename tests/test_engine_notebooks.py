"""The papermill runner, on tiny real notebooks in a real kernel."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest

from repro.engine import notebooks
from repro.engine.commands import Reproduce
from repro.engine.notebooks import chosen, reproduce
from repro.errors import ReproError

PARAMETERS = """\
profile: str = "small"  # which data and budget
steps: int = 50  # sampler steps
eta: float = 0.0
title: str = "a b"
seed: int = 0
"""


def write(home: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    nb = nbformat.v4.new_notebook()
    nb.metadata.kernelspec = {"name": "someone-elses", "display_name": "x", "language": "python"}
    nb.cells = [nbformat.v4.new_markdown_cell("# A title")]
    nb.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nb.cells += [nbformat.v4.new_code_cell(source) for source in cells]
    for index, cell in enumerate(nb.cells):
        cell.id = f"c{index}"
    path = home / "notebooks" / f"{name}.ipynb"
    nbformat.write(nb, path)
    return path


def outputs(path: Path) -> str:
    return "".join(
        o.get("text", "") + o.get("data", {}).get("text/plain", "")
        for cell in nbformat.read(path, 4).cells
        for o in cell.get("outputs", [])
    )


@pytest.mark.parametrize(("name", "value"), [("profil", "small"), ("steps", "5x"), ("steps", True), ("seed", 1.0)])
def test_bad_parameter_is_refused_before_anything_runs(home, name, value):
    path = write(home, "00_first", f"open({str(home / 'ran')!r}, 'w')")
    write(home, "01_second", "1", parameters=PARAMETERS.replace("seed", "start"))
    before = path.read_bytes()
    with pytest.raises(ReproError, match=f"parameter '?{name}") as caught:
        reproduce(parameters={name: value})
    assert "\n" not in str(caught.value)
    for others in ({"parameters": {"steps": 7}}, {"profile": "smoke"}):
        with pytest.raises(ReproError, match="committed outputs are those of the default parameters"):
            reproduce(**others, update=True)
    assert path.read_bytes() == before and not (home / "ran").exists() and not (home / "build").exists()


RANGES = """\
seed: int = 0  # of everything random
eta: float = 0.0  # randomness, 0 to 1
steps: int = 20  # network calls, 2 to 50
sampler: str = "ddim"  # what is drawn with: ddim, ddpm or ddpm-large
start: int = 999  # where it begins: 999, 900 or 800
class_name: str = "none"  # of a menu: none, shirt, … bag
garment: str = "none"  # one of repro.data.pack.class_names
quick: bool = False
profile: str = "small"  # smoke: seconds; small: a laptop; paper: GPUs
"""


@pytest.mark.parametrize(
    ("name", "bad", "accepted", "good"),
    [
        ("eta", 1.5, "0 to 1", 1),
        ("eta", float("nan"), "0 to 1", 0.5),
        ("steps", 1, "2 to 50", 50),
        ("seed", -1, "0 to 2^64 - 1", 2**64 - 1),
        ("seed", 2**64, "0 to 2^64 - 1", 7),
        ("sampler", "euler", "ddim, ddpm, ddpm-large", "ddpm-large"),
        ("start", 998, "999, 900, 800", 900),
        ("profile", "huge", "smoke, small, paper", "paper"),
        ("class_name", 3, "str", "boot"),
        ("garment", "bag", "Bag, Ankle boot", "Bag"),
        ("start", True, "int", 800),
        ("eta", "x", "float", 0),
        ("quick", 1, "bool", True),
    ],
)
def test_ranges_and_choices_are_what_the_comment_says(home, name, bad, accepted, good):
    nb = nbformat.read(write(home, "00_first", parameters=RANGES), as_version=4)
    assert notebooks.check(nb, "00_first", {name: good}) == {name: good}
    with pytest.raises(ReproError) as caught:
        notebooks.check(nb, "00_first", {name: bad})
    assert f"parameter {name} is" in str(caught.value) and f"{accepted} is accepted" in str(caught.value)


def test_runs_in_order_here_with_the_parameters_given(home, monkeypatch):
    """A user's own kernel `python3`, backend and widget setting do not reach the notebooks."""
    broken = home / "user/kernels/python3/kernel.json"
    broken.parent.mkdir(parents=True)
    broken.write_text(json.dumps({"argv": ["/nonexistent"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(home / "user"))
    monkeypatch.setenv("MPLBACKEND", "svg")
    monkeypatch.delenv("REPRO_HEADLESS", raising=False)
    settings = "*map(os.environ.get, ('REPRO_HEADLESS', 'MPLBACKEND'))"
    code = f"import os, sys; print(sys.executable == {sys.executable!r}, {settings})"
    write(home, "01_second", "print(profile, steps, seed)")
    write(home, "00_first", code)
    runs = reproduce(profile="smoke", parameters={"steps": 7})
    assert [run.name for run in runs] == ["00_first", "01_second"]
    assert all(run.error is None for run in runs)
    assert outputs(runs[0].path) == "True 1 module://matplotlib_inline.backend_inline\n"
    assert outputs(runs[1].path) == "smoke 7 0\n"
    assert os.environ["MPLBACKEND"] == "svg" and "REPRO_HEADLESS" not in os.environ


def test_failure_is_told_and_kept_and_the_others_run(home, capsys):
    write(home, "00_raises", "print('before')", "1 / 0", "print('after')")
    write(home, "01_dies", "import os; os._exit(1)", "print('after')")
    write(home, "02_fine", "print('fine')")
    write(home, "03_stops", "raise SystemExit", "print('after')")
    runs = reproduce()
    assert [run.error is None for run in runs] == [False, False, True, False]
    err = capsys.readouterr().err
    for words in ("ZeroDivisionError", "00_raises", "01_dies: the kernel died",
                  "03_stops: the cell that begins \"print('after')\" never ran"):  # fmt: skip
        assert words in err
    assert "before" in outputs(runs[0].path) and "after" not in outputs(runs[0].path)
    assert outputs(runs[2].path) == "fine\n"


def test_second_run_is_byte_identical_and_update_leaves_no_trace(home):
    noisy = (
        "import sys, time, warnings\nfrom tqdm import tqdm\n"
        "for i in tqdm(range(3)): print(i, flush=True); time.sleep(0.02)\n"
        "print(object(), __import__('tqdm').__file__); warnings.warn('careful')\nobject()"
    )
    drawn = (
        "import ipywidgets\nfrom IPython.display import display\ndisplay(ipywidgets.IntSlider())\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()"
    )
    path = write(home, "00_first", noisy, drawn)
    before = nbformat.read(path, 4)
    reproduce(update=True, profile="small")
    once, built = path.read_bytes(), (home / "build" / path.name).read_bytes()
    reproduce(update=True, profile="small")
    assert path.read_bytes() == once and (home / "build" / path.name).read_bytes() == built
    text = once.decode()
    noise = ["papermill", "widget-view", "it/s", "0x7", "ipykernel_", "injected", "iopub"]
    assert [word for word in (*noise, str(Path.home()), sys.prefix) if word in text] == []
    after = nbformat.read(path, 4)
    assert [(cell.id, cell.source) for cell in after.cells] == [(cell.id, cell.source) for cell in before.cells]
    assert [cell.execution_count for cell in after.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert "careful" in text and "0\n1\n2\n" in outputs(path) and "image/png" in text
    assert notebooks.INJECTED in built.decode()


def test_names(home):
    write(home, "00_first"), write(home, "01_second")
    assert [p.stem for p in chosen(["01", "00_first.ipynb"])] == ["00_first", "01_second"]
    with pytest.raises(ReproError, match="notebook '02' is unknown: choose one of 00_first, 00, 01_second, 01"):
        chosen(["02"])


def test_command_with_other_parameters(home, capsys):
    """They write elsewhere and stand in the provenance."""
    code = """\
from repro.engine.study import Lesson
lesson = Lesson("rddm", "03_rddm_sampling", "small", 1.0)
print(lesson.command, lesson.figures.parts[-1], [steps, title])
assert eta < 1"""
    write(home, "00_first", code)
    (plain,) = reproduce(profile="small")
    assert outputs(plain.path) == "repro reproduce 03 figures [50, 'a b']\n"
    assert Reproduce(parameters=("steps=7", "title=8 9")).run() == 0
    assert outputs(plain.path) == "repro reproduce 03 --parameters steps=7 'title=8 9' small [7, '8 9']\n"
    assert Reproduce(parameters=("eta=2",)).run() == 1
    assert "AssertionError" in capsys.readouterr().err
    for wrong in ("steps", "=7", "steps=x", "steps=7.5", "stepz=7"):
        with pytest.raises(ReproError):
            Reproduce(parameters=(wrong,)).run()
