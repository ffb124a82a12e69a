"""The notebooks: short cells, typed parameters, no typed results; each one's smoke profile executed in a scratch clone.

There nothing but the notebook and small untrained networks lies.
"""

import re
import shutil

import nbformat
import pytest
from clones import MISSING, fill
from tiny import first_cell

from repro import paths
from repro.engine import notebooks
from repro.engine.provenance import provenance_of

ROOT = paths.root()
NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
METHODS = {"01": "ddpm", "02": "editing", "03": "rddm", "04": "ucdir", "05": "adir"}


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=lambda path: path.stem)
def test_shape(path):
    """The bootstrap first, documented parameters, cells that fit a glance, at most 1 MB, no widgets kept."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source.strip() == first_cell().strip()
    assert "parameters" in code[1].metadata.tags
    assert all("#" in line for line in code[1].source.strip().splitlines())
    assert len(code) <= 40
    long = {cell.source.splitlines()[0]: len(cell.source.strip().splitlines()) for cell in code}
    assert {head: lines for head, lines in long.items() if lines > 15} == {}
    assert path.stat().st_size <= 1_000_000
    assert "widgets" not in notebook.metadata
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any("widget" in kind for output in outputs for kind in output.get("data", {}))


@pytest.mark.parametrize("number", METHODS)
def test_its_parameters_are_typed_and_it_plays_at_once(number):
    node = nbformat.read(NOTEBOOKS[number], as_version=4)
    known = notebooks.declared(node)
    assert known["profile"].default == "small" and known["seed"].default == 0
    code = [cell.source for cell in node.cells if cell.cell_type == "code"]
    assert all(name in code[1] for name in ("smoke", "small", "paper"))
    first = next(i for i, source in enumerate(code) if "explore(" in source)
    assert first <= 3 and "Command(" in code[first]  # playable after the first three cells
    start = "\n".join(code[: first + 1])
    played = set(known) - {"profile", "check"}  # `check` switches the measuring of records off
    assert [name for name in played if f"{name}={name}" not in start and f'"{name}"' not in start] == []


SHOWN = {"01": 18, "02": 22, "03": 18, "04": 14, "05": 12}  # images, at least
FIGURES = {"01": 6, "02": 18, "03": 12, "04": 6, "05": 8}  # files of images, at least
TABLES = {"01": 5, "02": 12, "03": 10, "04": 8, "05": 8}
EXERCISES = {"01": 5, "02": 8, "03": 6, "04": 6, "05": 6}
# what is true of any network, trained or not: numbers that are printed, and their bounds
BOUNDS = {
    "01": {r"largest difference of a pixel in \[-1, 1\] (\S+)": 1e-4},  # ours against diffusers
    "02": {r"\nlargest difference (\S+)\n": 1e-5},  # the pipeline and the editor
    "03": {
        r"one jump: largest difference (\S+)": 1e-10,
        r"against InDI: largest difference (\S+)": 1e-12,
        r"not clipped, float64\s+(\S+)": 1e-10,
        r"compose\s+against ddim\s+largest difference (\S+),": 1e-4,
        r"\nlargest difference (\S+)\n": 1e-4,  # the scheduler's loop
    },
    "04": {r"against the layer: (\S+)": 1e-4, r"largest difference (\S+)": 1e-5},
    "05": {r"in the open against the package: largest difference (\S+)": 1e-4},
}
WORDS = {
    "02": [
        "lambda (amount of sharpening): got 4.0; accepted: 1 to 3",
        "-p beta 0.5 ",
        "ᾱ_T = 0.0047, signal a_T = 0.068",
        "the grain itself 0.72 grey levels",
    ],
    "05": ["552,814,086 parameters"],
}


@pytest.mark.notebook
@pytest.mark.parametrize("number", METHODS)
def test_the_smoke_profile_runs_top_to_bottom_and_leaves_the_shipped_figures_alone(number, home, monkeypatch):
    shutil.copy(NOTEBOOKS[number], home / "notebooks")
    fill(number, home)
    (run,) = notebooks.reproduce([number], profile="smoke")
    assert run.error is None, run.error
    outputs = [o for cell in nbformat.read(run.path, as_version=4).cells for o in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") + kinds.count("image/jpeg") >= SHOWN[number]
    text = "\n".join(output.get("text", "") for output in outputs)
    # each exercise once open and once answered rightly
    assert text.count(": right") == text.count("waiting for your answer") == EXERCISES[number]
    for pattern, bound in BOUNDS[number].items():
        assert float(re.search(pattern, text)[1]) < bound, pattern
    for words in (*WORDS.get(number, ()), *([f"repro train {MISSING[number]}"] if number in MISSING else ())):
        assert words in text
    if number == "02":
        found = re.findall(r"(one token|each entry of C)\s+largest.*?to_q: (\S+)", text)
        gradients = {words: float(v) for words, v in found}
        assert gradients["one token"] == 0 < gradients["each entry of C"]

    assert not (home / "figures").exists()
    drawn = list((home / "build/smoke/pictures").iterdir())
    assert len(drawn) >= FIGURES[number]
    assert all(provenance_of(path).command == f"repro reproduce {number} --profile smoke" for path in drawn)
    assert len(list((home / "build/smoke/tables").glob(f"{METHODS[number]}_*.md"))) >= TABLES[number]


@pytest.mark.notebook
@pytest.mark.slow
def test_notebook_00_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("repro.paths.build", lambda: tmp_path)
    (run,) = notebooks.reproduce(["00_start_here"], profile="smoke")
    assert run.error is None, run.error
    cells = nbformat.read(run.path, as_version=4).cells
    kinds = [kind for cell in cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert kinds.count("image/jpeg") == 4
