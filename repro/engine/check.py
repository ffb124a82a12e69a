"""Recompute a committed record's first-k subset from the shipped weights and say where the two disagree.

`make reproduce` renders tables from the full records only after this has passed, so that nothing is shown which the
shipped weights contradict. The report goes to `figures/checks/<room>.csv`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import paths
from repro.engine.atomic import write_text
from repro.engine.records import Record, Values, rounded
from repro.engine.tables import csv_text
from repro.errors import ReproError

COLUMNS = ("record", "experiment", "cell", "metric", "k", "recorded", "recomputed", "ok", "reason", "atol", "rtol")


@dataclass(frozen=True)
class Tolerance:
    """|recomputed - recorded| <= absolute + relative |recorded|, for every single value of a list."""

    absolute: float = 1e-3
    relative: float = 1e-3

    def allowed(self, recorded: float) -> float:
        return self.absolute + self.relative * abs(recorded)


DEFAULT = Tolerance()


@dataclass(frozen=True)
class CheckRow:
    """One metric of one record. Of a list the worst value stands here: the one furthest beyond what is allowed."""

    record: Record
    metric: str
    tolerance: Tolerance
    recorded: float | None = None
    recomputed: float | None = None
    reason: str = ""  # why it failed where no two numbers could be compared

    @property
    def ok(self) -> bool:
        return not self.reason and abs(self.recomputed - self.recorded) <= self.tolerance.allowed(self.recorded)

    def cells(self) -> list[Any]:
        inside = " ".join(f"{key}={value}" for key, value in self.record.cell.items())
        head = [self.record.id, self.record.experiment, inside, self.metric, self.record.check["k"]]
        verdict = ["yes" if self.ok else "no", self.reason]
        return [*head, self.recorded, self.recomputed, *verdict, self.tolerance.absolute, self.tolerance.relative]


@dataclass(frozen=True)
class CheckReport:
    """Rows in the order of the records; `skipped` holds (record, why it cannot be re-evaluated)."""

    rows: tuple[CheckRow, ...]
    skipped: tuple[tuple[Record, str], ...] = ()

    @property
    def failed(self) -> tuple[CheckRow, ...]:
        return tuple(row for row in self.rows if not row.ok)

    @property
    def verified(self) -> frozenset[tuple[str, str]]:
        """(record id, metric) re-evaluated now, of records all of whose rows agree: what tables leave unmarked."""
        failed = {row.record.id for row in self.failed}
        return frozenset((row.record.id, row.metric) for row in self.rows if row.record.id not in failed)

    def text(self) -> str:
        """The report for a terminal: a line per failure, then the counts."""
        lines = [f"  failed    {row.record.label}, {row.metric}: {_told(row)}" for row in self.failed]
        lines += [f"  recorded  {record.label}: {why}" for record, why in self.skipped]
        records, good = {row.record.id for row in self.rows}, {identity for identity, _ in self.verified}
        agree = f"{len(self.rows) - len(self.failed)} of {len(self.rows)} values"
        return "\n".join([*lines, f"{len(good)} of {len(records)} records re-evaluated agree ({agree}); "
                          f"{len(self.skipped)} taken from committed records"])  # fmt: skip

    def write(self, room: str, *, folder: Path | None = None) -> Path:
        """Write `figures/checks/<room>.csv`, sorted as the records are; no times, six digits: two runs are equal.

        A file that says the same of the same records is left as it is: on another processor the recomputed values
        differ by less than is allowed.
        """
        path = (folder or paths.figures() / "checks") / f"{room}.csv"
        text = csv_text(COLUMNS, [row.cells() for row in self.rows])
        if not path.exists() or _said(path.read_text(encoding="utf-8")) != _said(text):
            write_text(path, text)
        return path


def _said(text: str) -> list[dict[str, Any]]:
    """A report without the recomputed values."""
    return [{k: v for k, v in row.items() if k != "recomputed"} for row in csv.DictReader(text.splitlines())]


def check(
    records: Iterable[Record],
    recompute: Callable[[Record, int], Mapping[str, Values]],
    tolerance: Tolerance | Mapping[str, Tolerance] = DEFAULT,
    *,
    progress: bool = False,
) -> CheckReport:
    """Call `recompute(record, k)` for every record that can be re-evaluated and compare with its `check` values.

    `tolerance`: one, or one per protocol name (protocols not named get `DEFAULT`). A `ReproError` of `recompute` (a
    missing checkpoint, say) fails that record and the others are still checked. Raises nothing itself.
    """
    todo = list(records)
    rows: list[CheckRow] = []
    skipped: list[tuple[Record, str]] = []
    for record in _shown(todo) if progress else todo:
        if record.source == "recorded":
            skipped.append((record, "its weights do not ship"))
        elif not record.check:
            skipped.append((record, "no first-k values were recorded"))
        else:
            rows += _check_one(record, recompute, tolerance)
    return CheckReport(tuple(rows), tuple(skipped))


def verified(room: str, records: Iterable[Record]) -> frozenset[tuple[str, str]]:
    """(record id, metric) that the room's last written check found in agreement, of records that still are the same.

    An absent report verifies nothing. Raises `ReproError` for a report that is not one of ours.
    """
    path = paths.figures() / "checks" / f"{room}.csv"
    if not path.exists():
        return frozenset()
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ReproError(f"{path}, line 1: the header must read {','.join(COLUMNS)}")
        lines = list(reader)
    failed = {line["record"] for line in lines if line["ok"] != "yes"}
    good = {record.id for record in records} - failed
    return frozenset((line["record"], line["metric"]) for line in lines if line["record"] in good)


def _check_one(record: Record, recompute: Callable, tolerance: Tolerance | Mapping[str, Tolerance]) -> list[CheckRow]:
    wanted = record.check["metrics"]
    one = isinstance(tolerance, Tolerance)
    allowed = {metric: tolerance if one else tolerance.get(metric, DEFAULT) for metric in sorted(wanted)}
    try:
        found: Mapping[str, Any] = recompute(record, record.check["k"])
    except ReproError as error:
        return [CheckRow(record, metric, allowed[metric], reason=str(error)) for metric in allowed]
    return [_compare(record, metric, wanted[metric], found.get(metric), allowed[metric]) for metric in allowed]


def _compare(record: Record, metric: str, wanted: Values, found: Values | None, tolerance: Tolerance) -> CheckRow:
    if found is None:
        return CheckRow(record, metric, tolerance, reason="not recomputed")
    old, new = (
        [*map(float, value)] if isinstance(value, list | tuple) else [float(value)] for value in (wanted, found)
    )
    if len(old) != len(new):
        return CheckRow(record, metric, tolerance, reason=f"{len(old)} values recorded, {len(new)} recomputed")
    if not all(map(math.isfinite, new)):
        return CheckRow(record, metric, tolerance, reason="recomputed as a number that is not finite")
    pairs = [(a, rounded(b)) for a, b in zip(old, new, strict=True)]
    worst = max(pairs, key=lambda pair: abs(pair[1] - pair[0]) - tolerance.allowed(pair[0]))
    return CheckRow(record, metric, tolerance, *worst)


def _told(row: CheckRow) -> str:
    if row.reason:
        return row.reason
    within = row.tolerance.allowed(row.recorded)
    return f"recorded {row.recorded:g}, recomputed {row.recomputed:g}, {within:.2g} apart is allowed"


def _shown(records: list[Record]) -> Iterable[Record]:
    from tqdm.auto import tqdm

    return tqdm(records, desc="re-evaluating", unit="record")
