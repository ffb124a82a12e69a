"""The README's results, between its markers, from figures/: tables with their legends folded, verdicts counted.

The opening marker names the tables to show, `<!-- results:begin ddpm_fid rddm_report -->`; the others are linked.
Without names all are shown.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from repro import paths
from repro.engine.atomic import write_text
from repro.errors import ReproError

BEGIN, END = re.compile(r"<!-- results:begin((?: \w+)*) -->"), "<!-- results:end -->"
NONE_YET = "No table has been generated yet: `make reproduce` writes them."


def results(figures: Path, shown: Sequence[str] = ()) -> str:
    """Markdown of the tables in `figures`/tables named in `shown` (none: of all, by name), links to the others, and how
    many comparisons got which verdict."""
    found = {path.stem: path for path in sorted((figures / "tables").glob("*.md"))}
    missing = [name for name in shown if name not in found]
    if missing and found:
        raise ReproError(f"README.md names the table {missing[0]!r}: figures/tables has {', '.join(found)}")
    chosen = [found[name] for name in shown] if found and shown else list(found.values())
    parts = [_table(path) for path in chosen] or [NONE_YET]
    rest = [path for path in found.values() if path not in chosen]
    if rest:
        links = [f"- [{_caption(path)}](figures/tables/{path.name})" for path in rest]
        parts.append("More tables:\n\n" + "\n".join(links))
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


def _text(path: Path) -> str:
    return re.sub(r"\A<!--.*?-->\s*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL).strip()


def _caption(path: Path) -> str:
    return _text(path).split("\n", 1)[0].strip("*")


def _table(path: Path) -> str:
    """A table's caption and rows as they are; protocols, marks and reasons folded below."""
    caption, rows, *legend = _text(path).split("\n\n", 2)
    notes = f"\n\n<details><summary>protocols and marks</summary>\n\n{legend[0]}\n\n</details>" if legend else ""
    return f"{caption}\n\n{rows}{notes}"


def rendered(text: str, figures: Path) -> str:
    """The README `text` with its results replaced. Each marker must stand there once, in order."""
    begins = list(BEGIN.finditer(text))
    if len(begins) != 1 or text.count(END) != 1 or begins[0].start() > text.index(END):
        raise ReproError(f"README.md: one <!-- results:begin --> and one {END} after it are needed")
    begin = begins[0]
    after = text.split(END)[1]
    return f"{text[: begin.end()]}\n{results(figures, begin[1].split())}\n{END}{after}"


def update(readme: Path | None = None, figures: Path | None = None) -> bool:
    """Bring the README's results in line with figures/; True where that changed the file."""
    readme = readme or paths.root() / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = rendered(old, figures or paths.figures())
    if new != old:
        write_text(readme, new)
    return new != old
