"""What is asked of every numbered notebook as it is committed: short cells, typed parameters, no typed results."""

from __future__ import annotations

import re

import nbformat
import pytest
from notebook_kit import NOTEBOOKS, ROOT

from repro.engine import ledger, notebook_files
from repro.ui.setup import first_cell

METHODS = [number for number in NOTEBOOKS if number != "00"]  # 00 has no parameters of its own and plays nothing
ROOMS = {"01": "ddpm", "02": "editing", "03": "rddm", "04": "ucdir", "05": "adir"}
SCORES = "l1|FID|KID|IS|PSNR|SSIM|LPIPS|dB|accuracy|strength|span|silhouette|error"


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


def test_cells_are_few_and_short(code):
    assert len(code) <= 40
    long = {cell.source.splitlines()[0]: len(cell.source.splitlines()) for cell in code}
    assert {head: lines for head, lines in long.items() if lines > 15} == {}


def test_it_begins_like_every_notebook(code):
    assert code[0].source.strip() == first_cell(ROOT).strip()


def test_its_parameters_are_typed_and_documented(number, node, code):
    known = notebook_files.declared(node, NOTEBOOKS[number].stem)
    assert known["profile"].default == "small" and known["seed"].default == 0
    (cell,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert all("  # " in line for line in cell.source.splitlines())
    assert all(name in cell.source for name in ("smoke", "small", "paper"))
    played = [cell.source for cell in code if "Command(" in cell.source]
    assert played and all(f'"{name}"' in played[0] for name in known if name != "profile")


def test_no_measured_number_is_typed_into_the_text(prose):
    """Scores in prose would outlive the weights they were measured on; they are printed from records."""
    assert re.findall(rf"(?:{SCORES})\s*(?:of|is|=|:)?\s*\d*\.\d", prose) == []
    assert re.findall(r"\d+\.\d+\s*dB", prose) == []


def test_every_claim_of_its_room_is_named(number, prose):
    claims = [claim.id for claim in ledger.load_ledger(ROOMS[number])]
    assert claims and [name for name in claims if f"**{name}**" not in prose] == []


def test_what_is_committed_is_small_and_clean(number, node):
    assert NOTEBOOKS[number].stat().st_size <= 1_000_000
    assert "widgets" not in node.metadata
    kinds = {kind for cell in node.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert not any("widget" in kind for kind in kinds)
