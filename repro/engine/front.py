"""Generated pages: the README's figure, its two tables between their markers, the index of figures/.

    <!-- notebooks:begin --> … <!-- notebooks:end -->   a row for every notebook: what it teaches, minutes, Colab
    <!-- results:begin --> … <!-- results:end -->       a row for every method: its ledger's headline, and counts

`make reproduce` brings them up to date. A method takes part in the figure, a row for each, with `TITLE`, `NEEDS` (names
of its checkpoints) and `tiles()`, caption -> image, four of one size and at most 256 pixels wide, in
`repro/<room>/study/figures.py`.
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
from repro.engine.checkpoint import rooms, study_module, trained
from repro.engine.tables import paper_numbers, table_line
from repro.errors import ReproError
from repro.ui.pictures import line, to_uint8

WIDTH, GAP = 256, 6
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def picture() -> np.ndarray:
    """uint8 (H, W, 3): a row for every method whose checkpoints are here."""
    rows = []
    for module in (study_module(room, "figures") for room in rooms()):
        if all(map(trained, module.NEEDS)):
            panels = []
            for caption, tile in ((caption, to_uint8(tile)) for caption, tile in module.tiles().items()):
                margin = (0, GAP), (0, WIDTH + GAP - tile.shape[1]), (0, 0)
                panel = np.concatenate([line(caption, tile.shape[1]), tile])
                panels.append(np.pad(panel, margin, constant_values=255))
            rows += [line(module.TITLE, 4 * (WIDTH + GAP), bold=True), np.concatenate(panels, axis=1)]
    return np.concatenate(rows)[:-GAP, :-GAP]


def notebooks(root: Path) -> str:
    """The table of notebooks, from their files and `[tool.repro]` of `root`/pyproject.toml; how long reading and a run
    take, from the notebook's first lines and its own first output."""
    settings = paths.read_toml(root / "pyproject.toml")["tool"]["repro"]
    address = settings["repository"].removeprefix("https://github.com/")
    lines = ["| notebook | what you learn | read | run | |", "|---|---|---|---|---|"]
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        colab = f"https://colab.research.google.com/github/{address}/blob/{settings['tag']}/notebooks/{path.name}"
        name, _, text = settings["notebooks"].get(path.stem, path.stem).partition(": ")
        link, badge = f"[{path.stem[:2]} {name}](notebooks/{path.name})", f"[![open in Colab]({BADGE})]({colab})"
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        printed = "".join("".join(o.get("text", "")) for cell in cells for o in cell.get("outputs", ()))
        read = re.search(r"Reading: ([\d.]+ min)", "".join(cells[0]["source"]))
        run = re.search(rf"{path.stem} · profile small .* · about (.+)", printed)
        lines.append(table_line([link, text, *(found[1] if found else "—" for found in (read, run)), badge]))
    return "\n".join(lines)


def results(figures: Path) -> str:
    """A line a method with records: the headline comparison, the paper's difference and ours, its verdict and that of
    its claim, all verdicts counted."""
    file = figures / "claims.csv"
    rows = list(csv.DictReader(file.open(encoding="utf-8", newline=""))) if file.exists() else []
    lines = ["| paper | claim | paper's | ours ± 95 % | verdict | all its comparisons |", "|---|---|--:|--:|---|---|"]
    measured = [room for room in rooms() if any(row["estimate"] for row in rows if row["room"] == room)]
    return "\n".join(lines + [_headline(room, [row for row in rows if row["room"] == room]) for room in measured])


def _headline(room: str, rows: Sequence[Mapping[str, str]]) -> str:
    """`[headline]` of the room's ledger: name, text, claim, part, unit, and paper = the paper's two cells."""
    chosen, numbers = paths.read_toml(paths.room_file(room, claims.LEDGER))["headline"], paper_numbers(room)
    row = {(r["id"], r["part"]): r for r in rows}[chosen["claim"], chosen["part"]]
    unit, theirs, ours, verdict = chosen.get("unit", ""), "—", "—", row["verdict"]
    if "paper" in chosen:
        left, right = (numbers[tuple(cell)].value for cell in chosen["paper"])
        theirs = _number(left - right, unit)
    if row["estimate"]:
        half = (float(row["high"]) - float(row["low"])) / 2 if row["low"] else None
        ours = _number(float(row["estimate"]), unit, half)
    parts = [r["verdict"] for r in rows if r["id"] == row["id"]]
    if len(parts) > 1:
        verdict += f"; {row['id']}: {parts.count(claims.REPRODUCED)} of {len(parts)}"
    counts = Counter(r["verdict"] for r in rows)
    order = (claims.REPRODUCED, claims.WEAKER, claims.NOT_REPRODUCED, claims.NOT_MEASURED)
    every = ", ".join(f"{counts[v]} {v}" for v in order if v in counts)
    return table_line([chosen["name"], f"{chosen['text']} ({row['id']})", theirs, ours, verdict, every])


def _number(value: float, unit: str, half: float | None = None) -> str:
    """As many decimals as two significant digits of the interval need."""
    size = abs(value) if half is None else half
    decimals = 3 if size < 0.1 else 2 if size < 1 else 1
    text = f"{value:+.{decimals}f}" + ("" if half is None else f" ± {half:.{decimals}f}")
    return f"{text} {unit}".rstrip().replace("-", "−")


def index(figures: Path) -> str:
    """figures/README.md: everything that is generated, by method."""
    parts = [
        "# Generated results",
        "Everything here is made by `make reproduce`; `repro provenance FILE` prints the records and the command "
        "behind a file. Records: [records/](records). What was measured again from the shipped weights: "
        "[checks/](checks). Speed: [bench/](bench).",
        "**[The ledger](claims.md)**: every claim of the papers with its verdict and interval.",
    ]
    for room in rooms():
        tables, pictures = sorted(figures.glob(f"tables/{room}_*.md")), sorted(figures.glob(f"pictures/{room}_*.*"))
        captions = {path.name: path.read_text(encoding="utf-8").split("\n\n")[1] for path in tables}
        lines = [f"- [{text.strip('*')}](tables/{name})" for name, text in captions.items()]
        links = [f"[{p.stem.removeprefix(room + '_').replace('_', ' ')}](pictures/{p.name})" for p in pictures]
        parts.append(f"## {room}\n\n" + "\n".join([*lines, f"- Images: {' · '.join(links)}"]))
    return "\n\n".join(parts) + "\n"


def rendered(text: str, root: Path) -> str:
    """The README `text` with its two generated parts replaced."""
    for name, new in (("notebooks", notebooks(root)), ("results", results(root / "figures"))):
        begin, end = (f"<!-- {name}:{mark} -->" for mark in ("begin", "end"))
        text, found = re.subn(f"{begin}.*?{end}", lambda _, to=f"{begin}\n{new}\n{end}": to, text, flags=re.DOTALL)
        if found != 1:
            raise ReproError(f"README.md: one {begin} and one {end} after it are needed")
    return text


def update() -> None:
    """Bring README.md and figures/README.md up to date."""
    readme = paths.root() / "README.md"
    paths.write_text(readme, rendered(readme.read_text(encoding="utf-8"), paths.root()))
    paths.write_text(paths.figures() / "README.md", index(paths.figures()))
    print("written: README.md, figures/README.md", flush=True)
