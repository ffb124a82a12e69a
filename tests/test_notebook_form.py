"""What is asked of every numbered notebook as it is committed: short cells, typed parameters, no typed results."""

import nbformat
import pytest
from notebook_kit import NOTEBOOKS, ROOT

from repro.engine import claims, notebooks
from repro.ui.setup import first_cell

METHODS = [number for number in NOTEBOOKS if number != "00"]  # 00 has no parameters of its own and plays nothing
ROOMS = {"01": "ddpm", "02": "editing", "03": "rddm", "04": "ucdir", "05": "adir"}


@pytest.fixture(scope="module", params=METHODS)
def number(request):
    return request.param


@pytest.fixture(scope="module")
def node(number):
    return nbformat.read(NOTEBOOKS[number], as_version=4)


@pytest.fixture(scope="module")
def code(node):
    return [cell for cell in node.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def prose(node):
    return "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")


def test_its_parameters_are_typed_and_documented(number, node, code):
    known = notebooks.declared(node, NOTEBOOKS[number].stem)
    assert known["profile"].default == "small" and known["seed"].default == 0
    (cell,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert all("  # " in line for line in cell.source.splitlines())
    assert all(name in cell.source for name in ("smoke", "small", "paper"))
    first = next(i for i, cell in enumerate(code) if "explore(" in cell.source)
    assert first <= 3 and "Command(" in code[first].source  # playable after the first three cells
    start = "\n".join(cell.source for cell in code[: first + 1])
    played = set(known) - {"profile", "check"}  # `check` switches the measuring of records off
    assert [name for name in played if f"{name}={name}" not in start and f'"{name}"' not in start] == []


def test_every_claim_of_its_room_is_named(number, prose):
    known = [claim.id for claim in claims.load_ledger(ROOMS[number])]
    assert known and [name for name in known if f"**{name}**" not in prose] == []


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=lambda path: path.stem)
def test_shape(path):
    """The bootstrap first, documented parameters, cells that fit a glance, at most 1 MB, no widgets kept."""
    notebook = notebooks.read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source.strip() == first_cell(ROOT).strip()
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
