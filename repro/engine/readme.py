"""The README's results, between its markers, from figures/: tables with their legends folded, verdicts counted."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from repro import paths
from repro.engine.atomic import write_text
from repro.errors import ReproError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
NONE_YET = "No table has been generated yet: `make reproduce` writes them."


def results(figures: Path) -> str:
    """Markdown of every table in `figures`/tables, by name, and of how many comparisons got which verdict."""
    parts = [_table(path) for path in sorted((figures / "tables").glob("*.md"))] or [NONE_YET]
    ledger = figures / "claims.csv"
    if ledger.exists():
        with open(ledger, encoding="utf-8", newline="") as stream:
            counts = Counter(row["verdict"] for row in csv.DictReader(stream))
        told = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
        parts.append(
            f"The papers' claims, judged by rule on these numbers: {sum(counts.values())} comparisons, {told}. "
            "Each with its interval: [figures/claims.md](figures/claims.md)."
        )
    return "\n\n".join(parts)


def _table(path: Path) -> str:
    """A table's caption and rows as they are; protocols, marks and reasons folded below."""
    text = re.sub(r"\A<!--.*?-->\s*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL).strip()
    caption, rows, *legend = text.split("\n\n", 2)
    notes = f"\n\n<details><summary>protocols and marks</summary>\n\n{legend[0]}\n\n</details>" if legend else ""
    return f"{caption}\n\n{rows}{notes}"


def rendered(text: str, figures: Path) -> str:
    """The README `text` with its results replaced. Each marker must stand there once, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ReproError(f"README.md: one {BEGIN} and one {END} after it are needed")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{results(figures)}\n{END}{rest.split(END)[1]}"


def update(readme: Path | None = None, figures: Path | None = None) -> bool:
    """Bring the README's results in line with figures/; True where that changed the file."""
    readme = readme or paths.root() / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = rendered(old, figures or paths.figures())
    if new != old:
        write_text(readme, new)
    return new != old
