"""Generated pages: the README's figure, its two tables between their markers, the index of figures/.

    <!-- notebooks:begin --> … <!-- notebooks:end -->   a row for every notebook: what it teaches, minutes, Colab
    <!-- results:begin --> … <!-- results:end -->       a row for every method: its ledger's headline, and counts

All are functions of files: notebooks/, pyproject.toml `[tool.repro]`, figures/claims.csv, the ledgers and the weights
that ship. `make reproduce` brings them up to date, the text alone `python -m repro.engine.front`. A method takes part
in the image, every method at work on one row, with a module `overview`, or in `figures` (in `repro/<room>/study`):
`TITLE`, `NEEDS` (names of its checkpoints) and `tiles()`, caption -> image, four of one size.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from repro import paths
from repro.engine import claims
from repro.engine.atomic import read_toml, write_text
from repro.engine.checkpoint import trained
from repro.engine.records import ROOMS
from repro.engine.registry import study_module
from repro.engine.tables import paper_numbers, table_line
from repro.errors import ReproError

COLUMNS, WIDTH, GAP = 4, 256, 6
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def picture() -> np.ndarray:
    """uint8 (H, W, 3): a row for every method whose checkpoints are here."""
    from repro.ui.pictures import line, to_uint8

    def padded(pixels: np.ndarray, width: int) -> np.ndarray:
        return np.pad(pixels, ((0, 0), (0, max(0, width - pixels.shape[1])), (0, 0)), constant_values=255)

    width = COLUMNS * (WIDTH + GAP) - GAP
    rows = []
    modules = [study_module(room, name) for room in ROOMS for name in ("overview", "figures")]
    for module in (m for m in modules if hasattr(m, "NEEDS") and all(map(trained, m.NEEDS))):
        tiles = {caption: to_uint8(tile) for caption, tile in module.tiles().items()}
        panels = [padded(np.concatenate([line(t, p.shape[1]), p]), WIDTH + GAP) for t, p in tiles.items()]
        row = padded(np.concatenate(panels, axis=1)[:, :width], width)
        rows += [line(module.TITLE, width, bold=True), row, np.full((GAP, width, 3), 255, np.uint8)]
    return np.concatenate(rows[:-1])


def notebooks(root: Path) -> str:
    """The table of notebooks, from their files and `[tool.repro]` of `root`/pyproject.toml.

    How long reading and running take is what the notebook says: its line at the top, and its own first output.
    """
    settings = read_toml(root / "pyproject.toml")["tool"]["repro"]
    address = settings["repository"].removesuffix(".git").rstrip("/").removeprefix("https://github.com/")
    lines = ["| notebook | what you learn | read | run | |", "|---|---|---|---|---|"]
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        colab = f"https://colab.research.google.com/github/{address}/blob/{settings['tag']}/notebooks/{path.name}"
        name, _, text = settings.get("notebooks", {}).get(path.stem, path.stem).partition(": ")
        link, badge = f"[{path.stem[:2]} {name}](notebooks/{path.name})", f"[![open in Colab]({BADGE})]({colab})"
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        printed = "".join("".join(o.get("text", "")) for cell in cells for o in cell.get("outputs", ()))
        read = re.search(r"Reading: ([\d.]+ min)", "".join(cells[0]["source"]))
        run = re.search(rf"{path.stem} · profile small .* · about (.+)", printed)
        lines.append(table_line([link, text, *(found[1] if found else "—" for found in (read, run)), badge]))
    return "\n".join(lines)


def results(figures: Path) -> str:
    """A line a method: the headline comparison, the paper's difference and ours, its verdict and that of its claim,
    all verdicts counted."""
    file = figures / "claims.csv"
    rows = list(csv.DictReader(file.open(encoding="utf-8", newline=""))) if file.exists() else []
    if not rows:
        return "No verdict has been generated yet: `make reproduce` writes them."
    lines = ["| paper | claim | paper's | ours ± 95 % | verdict | all its comparisons |", "|---|---|--:|--:|---|---|"]
    for room in ROOMS:
        here = [row for row in rows if row["room"] == room]
        if any(row["estimate"] for row in here):  # a method whose records are not made yet has no line
            lines.append(_headline(room, here))
    return "\n".join(lines)


def _headline(room: str, rows: Sequence[Mapping[str, str]]) -> str:
    """`[headline]` of the room's ledger: name, text, claim, part, unit, and paper = the paper's two cells."""
    chosen, numbers = read_toml(paths.room_file(room, claims.LEDGER)).get("headline", {}), paper_numbers(room)
    row = next((r for r in rows if (r["id"], r["part"]) == (chosen.get("claim"), chosen.get("part"))), None)
    cells = [tuple(cell) for cell in chosen.get("paper", ())]
    if row is None or not set(cells) <= set(numbers):
        raise ReproError(f"the headline of {room} names a part that figures/claims.csv, or a cell that the paper's "
                         "numbers do not have: `repro claims` writes the one anew")  # fmt: skip
    unit, theirs, ours, verdict = chosen.get("unit", ""), "—", "—", row["verdict"]
    if cells:
        theirs = _number(numbers[cells[0]].value - numbers[cells[1]].value, unit)
    if row["estimate"]:
        half = (float(row["high"]) - float(row["low"])) / 2 if row["low"] else None
        ours = _number(float(row["estimate"]), unit, half)
    parts = [r["verdict"] for r in rows if r["id"] == row["id"]]
    if len(parts) > 1:
        verdict += f"; {row['id']}: {parts.count(claims.REPRODUCED)} of {len(parts)}"
    counts = Counter(r["verdict"] for r in rows)
    order = (claims.REPRODUCED, claims.WEAKER, claims.NOT_REPRODUCED, claims.NOT_MEASURED)
    every = ", ".join(f"{counts[v]} {v}" for v in order if counts[v])
    return table_line([chosen["name"], f"{chosen['text']} ({row['id']})", theirs, ours, verdict, every])


def _number(value: float, unit: str, half: float | None = None) -> str:
    """Two significant digits of the interval decide how many are shown."""
    size = abs(value) if half is None else half
    decimals = 3 if size < 0.1 else 2 if size < 1 else 1
    text = f"{value:+.{decimals}f}" + ("" if half is None else f" ± {half:.{decimals}f}")
    return f"{text} {unit}".rstrip().replace("-", "−")


def index(figures: Path) -> str:
    """figures/README.md: everything that is generated, by method."""
    parts = [
        "# Generated results",
        "Everything here is made by `make reproduce`; `repro whence FILE` prints the records and the command behind a "
        "file. Records: [records/](records). What was measured again from the shipped weights: [checks/](checks). "
        "Speed: [bench/](bench).",
        "**[The ledger](claims.md)**: every claim of the papers with its verdict, interval and rule.",
    ]
    for room in ROOMS:
        tables, pictures = sorted(figures.glob(f"tables/{room}_*.md")), sorted(figures.glob(f"pictures/{room}_*.*"))
        captions = [path.read_text(encoding="utf-8").split("\n\n")[1] for path in tables]
        mine = [f"- [{text.strip('*')}](tables/{path.name})" for text, path in zip(captions, tables, strict=True)]
        links = [f"[{p.stem.removeprefix(room + '_').replace('_', ' ')}](pictures/{p.name})" for p in pictures]
        mine += [f"- Images: {' · '.join(links)}"] if links else []
        if mine:
            parts.append(f"## {room}\n\n" + "\n".join(mine))
    return "\n\n".join(parts) + "\n"


def rendered(text: str, root: Path) -> str:
    """The README `text` with its two generated parts replaced. Each pair of markers must stand there once, in order."""
    for name, new in (("notebooks", notebooks(root)), ("results", results(root / "figures"))):
        found = re.findall(rf"<!-- {name}:begin -->.*?<!-- {name}:end -->", text, flags=re.DOTALL)
        if len(found) != 1 or text.count(f"<!-- {name}:") != 2:
            raise ReproError(f"README.md: one <!-- {name}:begin --> and one <!-- {name}:end --> after it are needed")
        text = text.replace(found[0], f"<!-- {name}:begin -->\n{new}\n<!-- {name}:end -->")
    return text


def update() -> None:
    """Bring README.md and figures/README.md up to date, and say whether that changed one."""
    root, stale = paths.root(), False
    new = {root / "README.md": rendered((root / "README.md").read_text(encoding="utf-8"), root)}
    new[root / "figures/README.md"] = index(root / "figures")
    for path, text in new.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            stale = True
    print("README.md and figures/README.md:", "updated" if stale else "unchanged", flush=True)


if __name__ == "__main__":
    update()
