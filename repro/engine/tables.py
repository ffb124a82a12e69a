"""Tables: our number with its 95% interval, the paper's beside it, both protocols; `figures/tables/<name>.{csv,md}`.

The CSV is long, one line per cell, with six significant digits and the tolerance of a regenerated value; the Markdown
is for reading. `repro.engine.grid` makes tables from records.
"""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from repro import paths
from repro.engine.provenance import Provenance

RE_EVALUATED, RECORDED = "re-evaluated", "recorded"
IMAGES, REPLICATES = "images", "replicates"
CSV_COLUMNS = (
    *("row", "column", "ours", "low", "high", "over", "n", "seeds", "protocol", "paper"),
    *("paper_protocol", "paper_source", "mark", "dash", "records", "atol", "rtol"),
)
Verified = Collection[tuple[str, str]]  # (record id, metric) re-evaluated in this run: evaluation.CheckReport.verified


class PaperNumber(NamedTuple):
    """A number printed in a paper: its protocol as far as the paper gives it, and its place."""

    value: float | None = None
    protocol: str = ""
    source: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell: our value (or a dash with its reason), what the paper prints, and the records behind it."""

    value: float | None = None
    interval: tuple[float, float] | None = None
    over: str = ""  # what the interval resamples, IMAGES or REPLICATES, beside the training seeds
    n: int = 0  # images measured
    seeds: int = 0
    dash: str = ""
    paper: PaperNumber | None = None
    mark: str = ""
    records: tuple[str, ...] = ()


def mark_of(ids: Iterable[str], metric: str, verified: Verified) -> str:
    """Whether this metric of all those records was re-evaluated."""
    return RE_EVALUATED if all((identity, metric) in verified for identity in ids) else RECORDED


@dataclass(frozen=True)
class Column:
    """A column: its heading, the protocol our numbers follow, which way is better, decimals shown, and how far a
    regenerated value may be from the committed one (|new - old| <= atol + rtol |old|)."""

    name: str
    protocol: str
    better: Literal["higher", "lower", ""] = ""
    decimals: int = 3
    atol: float = 1e-6
    rtol: float = 1e-4


@dataclass(frozen=True)
class Table:
    """`rows` maps a row's name to one cell per column, by the column's name."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    notes: tuple[str, ...] = ()
    corner: str = ""  # heading of the first column

    def __iter__(self) -> Iterator[tuple[str, Column, Cell]]:
        for row, cells in self.rows.items():
            for column in self.columns:
                yield row, column, cells[column.name]

    def to_csv(self) -> str:
        """The table as CSV text, one line per cell."""
        lines = []
        for row, column, cell in self:
            counts = (None, None) if cell.value is None else (cell.n, cell.seeds)
            ours = (cell.value, *(cell.interval or (None, None)), cell.over, *counts, column.protocol)
            tail = (cell.mark, cell.dash, " ".join(cell.records), column.atol, column.rtol)
            lines.append((row, column.name, *ours, *(cell.paper or PaperNumber()), *tail))
        return csv_text(CSV_COLUMNS, lines)

    def to_markdown(self) -> str:
        """The table for readers: protocols, marks and reasons below it."""
        reasons = list(dict.fromkeys(cell.dash for _, _, cell in self if cell.value is None))
        return "\n".join([*self._lines(self.columns, list(self.rows), reasons), "", *self._legend(reasons)]) + "\n"

    def brief(self, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> str:
        """The table as a notebook shows it: at most five columns and eight rows, ± half the interval, one line of
        protocols; all of it stands in the generated page. `columns`, `rows`: names in order (none: the first ones)."""
        known = {column.name: column for column in self.columns}
        chosen = [known[name] for name in columns or list(known)[:5]]
        kept = list(rows or list(self.rows)[:8])
        cells = [self.rows[row][c.name] for row in kept for c in chosen]
        sharing = {c.protocol: ", ".join(d.name for d in chosen if d.protocol == c.protocol) for c in chosen}
        notes = ["; ".join(f"{names}: {protocol}" for protocol, names in sharing.items())]
        notes += ["± 95% interval"] * any(cell.interval for cell in cells)
        notes += ["*the paper's*"] * any(cell.paper for cell in cells)
        notes += ["† recorded, not re-evaluated in this run"] * any(cell.mark == RECORDED for cell in cells)
        notes.append(f"everything: `figures/tables/{self.name}.md`")
        return "\n".join([*self._lines(chosen, kept), "", f"<small>{_escape(' · '.join(notes))}</small>"])

    def _lines(self, columns: Sequence[Column], rows: Sequence[str], reasons: Sequence[str] | None = None) -> list[str]:
        """Caption, head and rows; with `reasons`, whole intervals and numbered dashes in place of the brief ones."""

        def text(cell: Cell, column: Column) -> str:
            paper = f" · *{cell.paper.value:g}*" if cell.paper else ""
            if cell.value is None:
                return "—" + (f" ({reasons.index(cell.dash) + 1})" if reasons else "") + paper
            low, high = cell.interval or (0.0, 0.0)
            value, *bounds = (decimal(v, column.decimals) for v in (cell.value, low, high, (high - low) / 2))
            interval = f" [{bounds[0]}, {bounds[1]}]" if reasons is not None else f" ± {bounds[2]}"
            return value + "†" * (cell.mark == RECORDED) + interval * bool(cell.interval) + paper

        arrows = {"higher": " ↑", "lower": " ↓", "": ""}
        head = [self.corner, *(column.name + arrows[column.better] for column in columns)]
        lines = [f"**{_escape(self.caption)}**", "", table_line(head), table_line(["---", *["---:"] * len(columns)])]
        return lines + [table_line([row, *(text(self.rows[row][c.name], c) for c in columns)]) for row in rows]

    def points(self, column: str, groups: Sequence[str] = ()) -> dict[str, Any]:
        """One column for `plots.dots`: row -> (value, low, high); or edit -> {group: …} of rows "edit, group"."""
        found: dict[str, Any] = {}
        for row, cells in self.rows.items():
            edit, _, group = row.partition(", ")
            if (cell := cells[column]).value is not None and (not groups or group in groups):
                point = (cell.value, *(cell.interval or (cell.value, cell.value)))
                found |= {edit: {**found.get(edit, {}), group: point}} if groups else {row: point}
        return found

    def _legend(self, reasons: Sequence[str]) -> list[str]:
        cells = [cell for _, _, cell in self]
        papers, marks = [cell.paper for cell in cells if cell.paper], {cell.mark for cell in cells}
        seeds = " and training seeds" if any(cell.seeds > 1 for cell in cells) else ""
        sets = sorted({column.name for _, column, cell in self if cell.over == REPLICATES})
        out = []
        for column in self.columns:
            theirs = {row[column.name].paper.protocol for row in self.rows.values() if row[column.name].paper}
            out.append(f"{column.name}: ours {column.protocol}" + "".join(f"; paper {t}" for t in sorted(theirs)))
        lines = {
            f"Paper numbers: {'; '.join(sorted({paper.source for paper in papers}))}": papers,
            "Unmarked: the first k samples were re-evaluated from the shipped weights in this run, and agreed.":
                RE_EVALUATED in marks,
            "† recorded: taken from the committed record, not re-evaluated in this run.": RECORDED in marks,
            f"Intervals: bootstrap over images{seeds}.": any(cell.over == IMAGES for cell in cells),
            f"{', '.join(sets)}: interval over replicates with disjoint sampling seeds{seeds}.": sets,
            "Without brackets: one number for the whole set, no interval.":
                any(cell.value is not None and cell.interval is None for cell in cells),
        }  # fmt: skip
        out += [line for line, needed in lines.items() if needed]
        out += [f"— ({i}): {reason}" for i, reason in enumerate(reasons, start=1)]
        first = f"Ours [95% interval]{' · *paper*' if papers else ''}. Protocols:"
        return [first, *(f"- {_escape(line)}" for line in (*out, *self.notes))]

    def write(self, command: str, folder: Path) -> tuple[Path, Path]:
        """Write `<name>.csv` and `<name>.md` (with its provenance) into a folder; returns both paths."""
        ids = [identity for _, _, cell in self for identity in cell.records]
        return write_pair(folder / self.name, self.to_csv(), self.to_markdown(), ids, command)


def write_pair(path: Path, table: str, page: str, ids: Iterable[str], command: str) -> tuple[Path, Path]:
    """Write `path`.csv and, with the provenance of both, `path`.md."""
    made, files = Provenance(tuple(sorted(set(ids))), command), (path.with_suffix(".csv"), path.with_suffix(".md"))
    paths.write_text(files[0], table)
    paths.write_text(files[1], f"{made.comment()}\n\n{page}")
    return files


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with `\\n` line ends: numbers to six significant digits, None as an empty field."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows])
    return stream.getvalue()


def paper_numbers(room: str) -> dict[tuple[str, str, str], PaperNumber]:
    """The papers' own numbers of a room by (table, row, column), from the columns table, row, column, value, protocol
    and source of its file; an absent file is none."""
    path = paths.room_file(room, "paper_numbers.csv")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {
        (n["table"], n["row"], n["column"]): PaperNumber(float(n["value"]), n["protocol"], n["source"])
        for n in csv.DictReader(lines)
    }


def decimal(value: float, decimals: int) -> str:
    """`value` with that many decimals; one that they would show as zero appears as 1.2e-05."""
    text = f"{value:.{decimals}f}"
    return f"{value:.1e}" if value and float(text) == 0 else text


def table_line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(_escape, cells)) + " |"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
