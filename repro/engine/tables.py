"""Tables: our number with its 95% interval, the paper's beside it, both protocols; `figures/tables/<name>.{csv,md}`.

A table is a pure function of records, of the papers' own numbers (`repro/<room>/paper_numbers.csv`) and of the ids that
were re-evaluated in this run. The CSV is long, one line per cell, with six significant digits and the tolerance within
which a regenerated value may differ; the Markdown is for reading.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from repro import paths
from repro.engine import stats
from repro.engine.atomic import locked, write_text
from repro.engine.provenance import provenance
from repro.engine.records import Record, every_seed, rounded
from repro.errors import ReproError

RE_EVALUATED, RECORDED = "re-evaluated", "recorded"
IMAGES, REPLICATES = "images", "replicates"
SIGNS = {RE_EVALUATED: "", RECORDED: "†", "": ""}
PAPER_COLUMNS = ("table", "row", "column", "value", "protocol", "source")
CSV_COLUMNS = (
    *("row", "column", "ours", "low", "high", "over", "n", "seeds", "protocol", "paper"),
    *("paper_protocol", "paper_source", "mark", "dash", "records", "atol", "rtol"),
)
Better = Literal["higher", "lower", ""]
Verified = Collection[tuple[str, str]]  # (record id, metric) re-evaluated in this run: check.CheckReport.verified


@dataclass(frozen=True)
class PaperNumber:
    """A number printed in a paper: its protocol as far as the paper gives it, and where it stands."""

    value: float
    protocol: str
    source: str


@dataclass(frozen=True)
class Cell:
    """One cell: our value (or a dash with its reason), what the paper prints, and which records stand behind it."""

    value: float | None = None
    interval: tuple[float, float] | None = None
    over: str = ""  # what the interval resamples, IMAGES or REPLICATES, beside the training seeds
    n: int = 0  # images measured
    seeds: int = 0
    dash: str = ""
    paper: PaperNumber | None = None
    mark: str = ""
    records: tuple[str, ...] = ()


def ours(records: Record | Sequence[Record], metric: str, *, verified: Verified = ()) -> Cell:
    """The cell of one metric: mean with interval over images and over the training seeds given.

    A cell counts as re-evaluated when this metric of all its records is in `verified`. A metric with fewer values than
    an interval needs (one FID, say) stands without one. Raises `ReproError` for records that differ in more than seed.
    """
    group = sorted([records] if isinstance(records, Record) else records, key=lambda record: (record.seed, record.id))
    if len({(record.room, every_seed(record), str(record.cell), record.profile) for record in group}) > 1:
        raise ReproError(f"one cell of {metric} from different measurements: {'; '.join(r.label for r in group)}")
    rows = [record.values(metric) for record in group]
    ids = tuple(sorted(record.id for record in group))
    if min(map(len, rows)) >= stats.MIN_UNITS:
        found = stats.mean_interval(rows)
        value, bounds = found.estimate, (rounded(found.low), rounded(found.high))
        over = IMAGES if found.n == group[0].n else REPLICATES
    else:
        value, bounds, over = sum(sum(row) / len(row) for row in rows) / len(rows), None, ""
    mark = mark_of(ids, metric, verified)
    return Cell(rounded(value), bounds, over, group[0].n, len(group), mark=mark, records=ids)


def mark_of(ids: Iterable[str], metric: str, verified: Verified) -> str:
    """Whether this metric of all those records was re-evaluated."""
    return RE_EVALUATED if all((identity, metric) in verified for identity in ids) else RECORDED


@dataclass(frozen=True)
class Column:
    """A column: its heading, the protocol our numbers follow, which way is better, decimals shown, and how far a
    regenerated value may be from the committed one (|new - old| <= atol + rtol |old|)."""

    name: str
    protocol: str
    better: Better = ""
    decimals: int = 3
    atol: float = 1e-6
    rtol: float = 1e-4

    @property
    def heading(self) -> str:
        return self.name + {"higher": " ↑", "lower": " ↓", "": ""}[self.better]


@dataclass(frozen=True)
class Table:
    """`rows` maps a row's name to one cell per column, by the column's name; rows stand in the order given."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    notes: tuple[str, ...] = ()
    corner: str = field(default="", kw_only=True)  # heading of the first column

    def __post_init__(self) -> None:
        names = sorted(column.name for column in self.columns)
        for row, cells in self.rows.items():
            if sorted(cells) != names:
                raise ReproError(f"table {self.name}, row {row!r}: cells {sorted(cells)}, the columns are {names}")

    def __iter__(self) -> Iterator[tuple[str, Column, Cell]]:
        for row, cells in self.rows.items():
            for column in self.columns:
                yield row, column, cells[column.name]

    def to_csv(self) -> str:
        """The table as CSV text, one line per cell."""
        return csv_text(CSV_COLUMNS, [_csv_row(*entry) for entry in self])

    def to_markdown(self) -> str:
        """The table for readers: protocols, marks and reasons below it."""
        reasons: list[str] = []
        lines = self._lines(self.columns, list(self.rows), partial(_show, reasons=reasons))
        return "\n".join([*lines, "", *self._legend(reasons)]) + "\n"

    def brief(self, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> str:
        """The table as a notebook shows it: at most five columns and eight rows, ± half the interval, one line of
        protocols; all of it stands in the generated page. `columns`, `rows`: names in order (none: the first ones)."""
        names = [column.name for column in self.columns]
        for kind, given, known in (("column", columns, names), ("row", rows, list(self.rows))):
            if unknown := [name for name in given if name not in known]:
                raise ReproError(f"table {self.name}: no {kind} {unknown[0]!r}, there are {', '.join(known)}")
        chosen = [c for name in (columns or names[:5]) for c in self.columns if c.name == name]
        kept = list(rows or list(self.rows)[:8])
        cells = [self.rows[row][c.name] for row in kept for c in chosen]
        notes = ["; ".join(dict.fromkeys(f"{c.name}: {c.protocol}" for c in chosen))]
        notes += ["± 95% interval"] * any(cell.interval for cell in cells)
        notes += ["*the paper's*"] * any(cell.paper for cell in cells)
        notes += ["† recorded, not re-evaluated in this run"] * any(cell.mark == RECORDED for cell in cells)
        notes.append(f"everything: `figures/tables/{self.name}.md`")
        small = f"<small>{_escape(' · '.join(notes))}</small>"
        return "\n".join([*self._lines(chosen, kept, _brief), "", small])

    def _lines(self, columns: Sequence[Column], rows: Sequence[str], show: Callable[[Cell, Column], str]) -> list[str]:
        """Caption, head and rows."""
        head = [self.corner, *(column.heading for column in columns)]
        lines = [f"**{_escape(self.caption)}**", "", table_line(head), table_line(["---", *["---:"] * len(columns)])]
        return lines + [table_line([row, *(show(self.rows[row][c.name], c) for c in columns)]) for row in rows]

    def points(self, column: str, groups: Sequence[str] = ()) -> dict[str, Any]:
        """One column for `plots.dots`: row -> (value, low, high); or edit -> {group: …} of rows "edit, group"."""
        found: dict[str, Any] = {}
        for row, cells in self.rows.items():
            edit, _, group = row.partition(", ")
            if (cell := cells[column]).value is not None and (not groups or group in groups):
                point = (cell.value, *(cell.interval or (cell.value, cell.value)))
                found |= {edit: {**found.get(edit, {}), group: point}} if groups else {row: point}
        return found

    def _legend(self, reasons: list[str]) -> list[str]:
        cells = [cell for _, _, cell in self]
        papers = [cell.paper for cell in cells if cell.paper]
        out = []
        for column in self.columns:
            theirs = {row[column.name].paper.protocol for row in self.rows.values() if row[column.name].paper}
            out.append(f"{column.name}: ours {column.protocol}" + "".join(f"; paper {t}" for t in sorted(theirs)))
        if papers:
            out.append(f"Paper numbers: {'; '.join(sorted({paper.source for paper in papers}))}")
        marks = {cell.mark for cell in cells}
        if RE_EVALUATED in marks:
            out.append(
                "Unmarked: the first k samples were re-evaluated from the shipped weights in this run, and agreed."
            )
        if RECORDED in marks:
            out.append(f"{SIGNS[RECORDED]} recorded: taken from the committed record, not re-evaluated in this run.")
        seeds = " and training seeds" if any(cell.seeds > 1 for cell in cells) else ""
        if any(cell.over == IMAGES for cell in cells):
            out.append(f"Intervals: bootstrap over images{seeds}.")
        if sets := sorted({column.name for _, column, cell in self if cell.over == REPLICATES}):
            out.append(f"{', '.join(sets)}: interval over replicates with disjoint sampling seeds{seeds}.")
        if any(cell.value is not None and cell.interval is None for cell in cells):
            out.append("Without brackets: one number for the whole set, no interval.")
        out += [f"— ({i}): {reason}" for i, reason in enumerate(reasons, start=1)]
        first = f"Ours [95% interval]{' · *paper*' if papers else ''}. Protocols:"
        return [first, *(f"- {_escape(line)}" for line in (*out, *self.notes))]

    def write(self, command: str, *, folder: Path | None = None) -> tuple[Path, Path]:
        """Write `<name>.csv` and `<name>.md` (with its provenance) to `figures/tables`; returns both paths."""
        folder = folder or paths.figures() / "tables"
        made = provenance([identity for _, _, cell in self for identity in cell.records], command)
        csv_path, md_path = folder / f"{self.name}.csv", folder / f"{self.name}.md"
        with locked(folder):
            write_text(csv_path, self.to_csv())
            write_text(md_path, made.comment() + "\n\n" + self.to_markdown())
        return csv_path, md_path


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with `\\n` line ends: numbers to six significant digits, None as an empty field."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows])
    return stream.getvalue()


def paper_numbers(room: str, path: Path | None = None) -> dict[tuple[str, str, str], PaperNumber]:
    """The papers' own numbers of a room by (table, row, column); an absent file is none.

    Raises `ReproError` naming file and line for anything else.
    """
    path = path or paths.room_file(room, "paper_numbers.csv")
    if not path.exists():
        return {}
    numbers: dict[tuple[str, str, str], PaperNumber] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        if tuple(next(reader, ())) != PAPER_COLUMNS:
            raise ReproError(f"{path}, line 1: the header must read {','.join(PAPER_COLUMNS)}")
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            try:
                table, row, column, value, protocol, source = filter(None, map(str.strip, fields))
                number = PaperNumber(rounded(float(value)), protocol, source)
            except (ValueError, ReproError):
                raise ReproError(f"{where}: six fields, none empty and the value a number, found {fields}") from None
            if (table, row, column) in numbers:
                raise ReproError(f"{where}: {table}, {row}, {column} stands twice")
            numbers[table, row, column] = number
    return numbers


def shown(value: float, decimals: int) -> str:
    """`value` with that many decimals; one that they would show as zero appears as 1.2e-05."""
    text = f"{value:.{decimals}f}"
    return f"{value:.1e}" if value and float(text) == 0 else text


def _csv_row(row: str, column: Column, cell: Cell) -> list[object]:
    low, high = cell.interval or (None, None)
    paper = cell.paper
    theirs = (paper.value, paper.protocol, paper.source) if paper else (None, "", "")
    measured = (cell.over, *((cell.n, cell.seeds) if cell.value is not None else (None, None)))
    ids = " ".join(cell.records)
    tail = (cell.mark, cell.dash, ids, column.atol, column.rtol)
    return [row, column.name, cell.value, low, high, *measured, column.protocol, *theirs, *tail]


def _show(cell: Cell, column: Column, reasons: list[str]) -> str:
    if cell.value is None and cell.dash not in reasons:
        reasons.append(cell.dash)
    text = _value(cell, column) if cell.value is not None else f"— ({reasons.index(cell.dash) + 1})"
    if cell.interval:
        text += " [{}, {}]".format(*(shown(bound, column.decimals) for bound in cell.interval))
    return text + _theirs(cell)


def _brief(cell: Cell, column: Column) -> str:
    text = "—" if cell.value is None else _value(cell, column)
    if cell.interval:
        text += f" ± {shown((cell.interval[1] - cell.interval[0]) / 2, column.decimals)}"
    return text + _theirs(cell)


def _value(cell: Cell, column: Column) -> str:
    return shown(cell.value, column.decimals) + SIGNS[cell.mark]


def _theirs(cell: Cell) -> str:
    return f" · *{cell.paper.value:g}*" if cell.paper else ""


def table_line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(_escape, cells)) + " |"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
