"""From rows to records: the full evaluation that ships, and the first-k check that `make reproduce` repeats.

A room lists what it measures as data (`repro.engine.study`); a row measures itself on all its samples or on the first
k. Full records and checks come from the same function, so they cannot drift apart. `make reproduce` renders tables from
the full records only after the check has passed, so that nothing is shown which the shipped weights contradict; its
report goes to `figures/checks/<room>.csv`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from repro import paths
from repro.engine import grid, records
from repro.engine.atomic import write_text
from repro.engine.checkpoint import trained, weights_hash
from repro.engine.environment import environment, measured
from repro.engine.records import ROOMS, Record, Values, rounded
from repro.engine.registry import experiments, in_profile, study_module
from repro.engine.tables import csv_text
from repro.errors import ReproError

COLUMNS = ("record", "experiment", "cell", "metric", "k", "recorded", "recomputed", "ok", "reason", "atol", "rtol")


@dataclass(frozen=True)
class Row:
    """One cell-filling measurement.

    `experiment`  a trained network of the registry, or the name of a baseline that learns nothing.
    `cell`        what varies inside it.
    `n`           samples of the full measurement.   `k` samples of the check; 0: too long to repeat.
    `ships`       False: its weights do not ship, the record will be marked `recorded`.
    `weights`     hash of the checkpoint used, None where nothing was learned.
    """

    room: str
    experiment: str
    cell: Mapping[str, Any]
    n: int
    k: int
    data: str
    seed: int
    profile: str
    weights: str | None
    ships: bool

    def measure(self, k: int | None) -> Mapping[str, Values]:
        """metric name -> values of all samples (None) or of the first k, in fp32 on GPUs too (no TF32)."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return study_module(self.room, "measure").measure(self.experiment, self.cell, k, self.profile)

    def record(self) -> Record:
        """Measure in full, and on the first k."""
        with measured() as m:
            metrics = self.measure(None)
        return Record(
            room=self.room,
            experiment=self.experiment,
            cell=self.cell,
            metrics=metrics,
            n=self.n,
            seed=self.seed,
            profile=self.profile,
            checkpoint=self.weights,
            data=self.data,
            command=f"repro evaluate {self.experiment} --full{of_profile(self.profile)}",
            check={"k": self.k, "metrics": dict(self.measure(self.k))} if self.k else {},
            source="evaluated" if self.ships else "recorded",
            environment=environment(m),
        )


def of_profile(profile: str) -> str:
    """What a command has to say of that profile."""
    return "" if profile == "small" else f" --profile {profile}"


def rooms_with_rows() -> list[str]:
    """Rooms that measure something yet."""
    return [room for room in ROOMS if study_module(room, "measure")]


def rows(room: str, profile: str = "small") -> list[Row]:
    """Everything a room measures: one row per cell of its grid and training seed whose network is here."""
    known = {e.name: e for e in experiments()}  # another room's network may be measured here
    module, found = study_module(room, "measure"), {}
    places = [(each, cell) for name, cell in grid.cells(grid.load(room)) for each in grid.at_every_seed(name, known)]
    for small, cell in places:
        own = in_profile(small, profile)
        network = known.get(own)
        if network and (not trained(own) or (network.room == room and network.profile != profile)):
            continue
        sample = module.sample(own, cell, profile)
        if sample is None:
            continue
        weights, ships, seed = sample.weights, sample.ships, 0
        if network:
            weights, ships, seed = weights_hash(own), ships and network.ships, network.seed
        elif weights is None and small.startswith(f"{room}-"):
            raise ReproError(f"the tables of room {room!r} name {small!r}, which is no experiment")
        row = Row(room, own, cell, sample.n, sample.k, sample.data, seed, profile, weights, ships)
        found.setdefault(_key(row), row)
    return list(found.values())


def looked_up(room: str, profile: str = "small") -> list[Record]:
    """The room's committed records of a profile, under the small profile's names: tables and claims look for those."""
    found = records.select(records.load(room), profile=profile)
    if profile == "small":
        return found
    names = {in_profile(e.name, profile): e.name for e in experiments(room) if e.profile == "small"}
    aliases = getattr(study_module(room, "measure"), "ALIASES", {})
    return [record.under(names.get(record.experiment, record.experiment), aliases) for record in found]


def full(names: Iterable[str], profile: str = "small", missing_only: bool = False) -> Iterator[Record]:
    """Make the full records of rooms or experiments, saving each as it is done (a killed run keeps what it had)."""
    for row in [row for name in names for row in _named(name, profile)]:
        made = (_key(row), row.weights, row.data, row.profile)
        if missing_only and made in [(_key(r), r.checkpoint, r.data, r.profile) for r in records.load(row.room)]:
            continue
        record = row.record()
        records.upsert(row.room, [record])
        yield record


def _named(name: str, profile: str) -> list[Row]:
    if name in rooms_with_rows():
        return rows(name, profile)
    every = [row for room in rooms_with_rows() for row in rows(room, profile)]
    found = [row for row in every if row.experiment == name]
    if not found:
        known = ", ".join(sorted({row.experiment for row in every}))
        raise ReproError(f"nothing measures {name!r}: rooms are {', '.join(rooms_with_rows())}, rows {known}")
    return found


def _key(measured: Row | Record) -> str:
    """What is measured, of a row and of its record alike."""
    return str((measured.experiment, sorted(measured.cell.items()), measured.seed))


# The check


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
        lines = []
        for row in self.rows:
            inside = " ".join(f"{key}={value}" for key, value in row.record.cell.items())
            head = [row.record.id, row.record.experiment, inside, row.metric, row.record.check["k"]]
            values = [row.recorded, row.recomputed, "yes" if row.ok else "no", row.reason]
            lines.append([*head, *values, row.tolerance.absolute, row.tolerance.relative])
        path, text = _path(room), csv_text(COLUMNS, lines)
        if not path.exists() or _verdicts(path.read_text(encoding="utf-8")) != _verdicts(text):
            write_text(path, text)
        return path


def _path(room: str) -> Path:
    return paths.figures() / "checks" / f"{room}.csv"


def _verdicts(text: str) -> list[dict[str, Any]]:
    """A report without the recomputed values."""
    return [{k: v for k, v in row.items() if k != "recomputed"} for row in csv.DictReader(text.splitlines())]


def check_room(room: str, profile: str = "small", progress: bool = True, write: bool = True) -> CheckReport:
    """Recompute the first k of every committed record of a room from the shipped weights.

    `write`: whether figures/checks of the small profile, whose records ship, is written.
    """
    known = {_key(row): row for row in rows(room, profile)}

    def recompute(record: Record, k: int) -> Mapping[str, Values]:
        row = known.get(_key(record))
        if row is None:
            raise ReproError(f"no row measures {record.label} any more")
        for what, now, then in (("weights", row.weights, record.checkpoint), ("data", row.data, record.data)):
            if now != then:
                raise ReproError(f"{record.label} was measured with {what} {str(then)[:12]}…, other ones ship")
        return row.measure(k)

    committed = records.select(records.load(room), profile=profile)
    tolerance = getattr(study_module(room, "measure"), "TOLERANCE", Tolerance())
    report = check(committed, recompute, tolerance, progress=progress)
    if write and profile == "small":
        report.write(room)
    return report


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
            within = within or Tolerance()
            values = {"reason": why} if why else _compared(recorded, found.get(metric), within)
            rows.append(CheckRow(record, metric, within, **values))
    return CheckReport(tuple(rows), tuple(skipped))


def _compared(recorded: Values, recomputed: Values | None, tolerance: Tolerance) -> dict[str, Any]:
    """The two values furthest apart for what is allowed, or the reason why there are none."""
    if recomputed is None:
        return {"reason": "not recomputed"}
    old, new = ([*map(float, v)] if isinstance(v, list | tuple) else [float(v)] for v in (recorded, recomputed))
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
    reader = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ReproError(f"{path}, line 1: the header must read {','.join(COLUMNS)}")
    lines = list(reader)
    good = {record.id for record in records} - {line["record"] for line in lines if line["ok"] != "yes"}
    return frozenset((line["record"], line["metric"]) for line in lines if line["record"] in good)
