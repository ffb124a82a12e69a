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

    def __str__(self) -> str:
        why = self.reason
        if not why:
            within = self.tolerance.allowed(self.recorded)
            why = f"recorded {self.recorded:g}, recomputed {self.recomputed:g}, {within:.2g} apart is allowed"
        return f"{self.record.label}, {self.metric}: {why}"


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
        lines = [f"  failed    {row}" for row in self.failed]
        lines += [f"  recorded  {record.label}: {why}" for record, why in self.skipped]
        records, good = {row.record.id for row in self.rows}, {identity for identity, _ in self.verified}
        agree = f"{len(self.rows) - len(self.failed)} of {len(self.rows)} values"
        return "\n".join([*lines, f"{len(good)} of {len(records)} records re-evaluated agree ({agree}); "
                          f"{len(self.skipped)} taken from committed records"])  # fmt: skip

    def write(self, room: str) -> Path:
        """Write `figures/checks/<room>.csv`, sorted as the records are; no times, six digits: two runs are equal.

        A file that says the same of the same records is left as it is: on another processor the recomputed values
        differ by less than is allowed.
        """
        path = _path(room)
        text = csv_text(COLUMNS, [row.cells() for row in self.rows])
        if not path.exists() or _verdicts(path.read_text(encoding="utf-8")) != _verdicts(text):
            write_text(path, text)
        return path


def _path(room: str) -> Path:
    return paths.figures() / "checks" / f"{room}.csv"


def _verdicts(text: str) -> list[dict[str, Any]]:
    """A report without the recomputed values."""
    return [{k: v for k, v in row.items() if k != "recomputed"} for row in csv.DictReader(text.splitlines())]


def check(
    records: Iterable[Record],
    recompute: Callable[[Record, int], Mapping[str, Values]],
    tolerance: Tolerance | Mapping[str, Tolerance] | None = None,
    *,
    progress: bool = False,
) -> CheckReport:
    """Call `recompute(record, k)` for every record that can be re-evaluated and compare with its `check` values.

    `tolerance`: one, or one per protocol name (`Tolerance()` for those not named). A `ReproError` of `recompute` (a
    missing checkpoint, say) fails that record and the others are still checked. Raises nothing itself.
    """
    from tqdm.auto import tqdm

    rows: list[CheckRow] = []
    skipped: list[tuple[Record, str]] = []
    for record in tqdm(list(records), desc="re-evaluating", unit="record", disable=not progress):
        if record.source == "recorded" or not record.check:
            ships = record.source != "recorded"
            skipped.append((record, "no first-k values were recorded" if ships else "its weights do not ship"))
            continue
        try:
            found, why = recompute(record, record.check["k"]), ""
        except ReproError as error:
            found, why = {}, str(error)
        for metric, recorded in sorted(record.check["metrics"].items()):
            within = tolerance.get(metric) if isinstance(tolerance, Mapping) else tolerance
            values = _pair(recorded, found.get(metric), within or Tolerance()) if not why else {"reason": why}
            rows.append(CheckRow(record, metric, within or Tolerance(), **values))
    return CheckReport(tuple(rows), tuple(skipped))


def _pair(recorded: Values, found: Values | None, tolerance: Tolerance) -> dict[str, Any]:
    """The two values furthest apart for what is allowed, or the reason why there are none."""
    if found is None:
        return {"reason": "not recomputed"}
    old, new = ([*map(float, v)] if isinstance(v, list | tuple) else [float(v)] for v in (recorded, found))
    if len(old) != len(new):
        return {"reason": f"{len(old)} values recorded, {len(new)} recomputed"}
    if not all(map(math.isfinite, new)):
        return {"reason": "recomputed as a number that is not finite"}
    pairs = [(a, rounded(b)) for a, b in zip(old, new, strict=True)]
    worst = max(pairs, key=lambda pair: abs(pair[1] - pair[0]) - tolerance.allowed(pair[0]))
    return {"recorded": worst[0], "recomputed": worst[1]}


def verified(room: str, records: Iterable[Record]) -> frozenset[tuple[str, str]]:
    """(record id, metric) that the room's last written check found in agreement, of records that still are the same.

    An absent report verifies nothing. Raises `ReproError` for a report that is not one of ours.
    """
    path = _path(room)
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
