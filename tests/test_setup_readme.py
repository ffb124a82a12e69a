"""README.md: its results are those of figures/, its links lead somewhere, and it never names a stranger's package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.engine import readme
from repro.errors import ReproError

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BEGIN = "<!-- results:begin -->"


def test_results_are_those_of_figures():
    text = README.read_text(encoding="utf-8")
    assert readme.rendered(text, ROOT / "figures") == text, "run `make reproduce`: README.md is behind figures/"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README.read_text(encoding="utf-8")):
        target = "".join(target)
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/b.md").write_text(
        "<!-- made by\nx -->\n\n**B**\n\n| a |\n|---|\n| 1 |\n\n- ours: psnr\n- a note\n"
    )
    (tmp_path / "tables/a.md").write_text("**A**\n\n| a |\n|---|\n| 2 |\n")
    (tmp_path / "claims.csv").write_text("id,verdict\nx,reproduced\ny,weaker\nz,reproduced\n")
    return tmp_path


def test_update_writes_tables_and_counts_once(figures):
    path = figures / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{readme.END}\nafter\n")
    assert readme.update(path, figures) and not readme.update(path, figures)
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text and "made by" not in text
    assert text.index("**A**") < text.index("**B**") < text.index("- ours: psnr\n- a note\n\n</details>")
    assert "3 comparisons, 2 reproduced, 1 weaker" in text


def test_the_marker_names_the_tables_to_show_and_the_rest_is_linked(figures):
    text = readme.rendered(f"<!-- results:begin b -->{readme.END}", figures)
    assert "| 1 |" in text and "| 2 |" not in text and "- [A](figures/tables/a.md)" in text
    assert readme.rendered(text, figures) == text
    with pytest.raises(ReproError, match="names the table 'c': figures/tables has a, b"):
        readme.rendered(f"<!-- results:begin c -->{readme.END}", figures)


@pytest.mark.parametrize("text", ["", BEGIN, readme.END + BEGIN, 2 * (BEGIN + readme.END)])
def test_damaged_markers_are_refused(text, figures):
    with pytest.raises(ReproError, match="README"):
        readme.rendered(text, figures)


def test_before_the_first_table(tmp_path):
    assert readme.results(tmp_path) == readme.NONE_YET
