"""From rows to records: the full evaluation that ships, and the first-k check that `make reproduce` repeats.

A room lists what it measures as data (`repro.engine.study`); a row measures itself on all its samples or on the first
k. Full records and checks come from the same function, so they cannot drift apart. `make reproduce` renders tables from
the full records only after the check has passed, so that nothing is shown which the shipped weights contradict; its
report goes to `figures/checks/<room>.csv`.
"""

import csv
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro import paths
from repro.engine import grid, records
from repro.engine.atomic import write_text
from repro.engine.checkpoint import trained, weights_hash
from repro.engine.records import PROFILES, ROOMS, Record, Values, environment, key_of, means, rounded, since
from repro.engine.registry import experiments, in_profile, study_module
from repro.engine.tables import csv_text
from repro.errors import ReproError, one_of

COLUMNS = ("record", "experiment", "cell", "metric", "k", "recorded", "recomputed", "ok", "reason", "atol", "rtol")


@dataclass(frozen=True)
class Sample:
    """What a measurement runs over: `n` images, the first `k` of which the check repeats (0: none), their hash.

    `weights`, `ships`: hash of the checkpoint used and whether it ships, where they are not those of the experiment of
    the cell's name (a sequence of several networks; a cell that takes too long to be repeated).
    """

    n: int
    k: int
    data: str
    weights: str | None = None
    ships: bool = True


@dataclass(frozen=True)
class Row:
    """One cell-filling measurement: of a trained network of the registry, or of a baseline that learns nothing."""

    room: str
    experiment: str
    cell: Mapping[str, Any]
    sample: Sample
    seed: int
    profile: str

    @property
    def key(self) -> str:
        """That of its record."""
        return key_of(self.experiment, self.cell, self.seed, self.profile)

    def measure(self, k: int | None) -> Mapping[str, Values]:
        """metric name -> values of all samples (None) or of the first k, in fp32 on GPUs too (no TF32)."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return study_module(self.room, "measure").measure(self.experiment, self.cell, k, self.profile)

    def record(self) -> Record:
        """Measure in full, and on the first k."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        start, over = time.perf_counter(), self.sample
        metrics = self.measure(None)
        cost = since(start)
        return Record(
            room=self.room,
            experiment=self.experiment,
            cell=self.cell,
            metrics=metrics,
            n=over.n,
            seed=self.seed,
            profile=self.profile,
            checkpoint=over.weights,
            data=over.data,
            command=f"repro evaluate {self.experiment} --full{of_profile(self.profile)}",
            check={"k": over.k, "metrics": dict(self.measure(over.k))} if over.k else {},
            source="evaluated" if over.ships else "recorded",
            environment=environment() | cost,
        )


def of_profile(profile: str) -> str:
    """What a command has to say of that profile."""
    return "" if profile == "small" else f" --profile {profile}"


def rooms_with_rows() -> list[str]:
    """Rooms that measure something yet."""
    return [room for room in ROOMS if study_module(room, "measure")]


def rows(room: str, profile: str = "small") -> list[Row]:
    """Everything a room measures: one row per cell of its grid and training seed whose network is here."""
    one_of("profile", profile, PROFILES)
    known = {e.name: e for e in experiments()}  # another room's network may be measured here
    module, found = study_module(room, "measure"), {}
    for name, cell in grid.cells(grid.load(room)):
        for small in [each for each in known if means(name, each)] or [name] * (not name.endswith("*")):
            own = in_profile(small, profile)
            network = known.get(own)
            if network and (not trained(own) or (network.room == room and network.profile != profile)):
                continue
            sample = module.sample(own, cell, profile)
            if sample is None:
                continue
            if network:
                sample = replace(sample, weights=weights_hash(own), ships=sample.ships and network.ships)
            elif sample.weights is None and small.startswith(f"{room}-"):
                raise ReproError(f"the tables of room {room!r} name {small!r}, which is no experiment")
            row = Row(room, own, cell, sample, network.seed if network else 0, profile)
            found.setdefault(row.key, row)
    return list(found.values())


def looked_up(room: str, profile: str = "small") -> list[Record]:
    """The room's committed records of a profile, under the small profile's names: tables and claims look for those."""
    found = records.select(records.load(room), profile=one_of("profile", profile, PROFILES))
    if profile == "small":
        return found
    names = {in_profile(e.name, profile): e.name for e in experiments(room) if e.profile == "small"}
    aliases = getattr(study_module(room, "measure"), "ALIASES", {})
    return [record.under(names.get(record.experiment, record.experiment), aliases) for record in found]


def full(names: Iterable[str], profile: str = "small", missing_only: bool = False) -> Iterator[Record]:
    """Make the full records of rooms or experiments, saving each as it is done (a killed run keeps what it had)."""
    rooms, chosen = rooms_with_rows(), []
    for name in names:
        every = [row for room in ([name] if name in rooms else rooms) for row in rows(room, profile)]
        chosen += (found := [row for row in every if name in (row.room, row.experiment)])
        if not found and name not in rooms:
            known = ", ".join(sorted({row.experiment for row in every}))
            raise ReproError(f"nothing measures {name!r}: rooms are {', '.join(rooms)}, rows {known}")
    for row in chosen:
        made = (row.key, row.sample.weights, row.sample.data)
        if missing_only and made in [(r.key, r.checkpoint, r.data) for r in records.load(row.room)]:
            continue
        record = row.record()
        records.upsert(row.room, [record])
        yield record


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


@dataclass(frozen=True)
class CheckReport:
    """Rows in the order of the records; `skipped` holds a line for each record that cannot be re-evaluated."""

    rows: tuple[CheckRow, ...] = ()
    skipped: tuple[str, ...] = ()

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
        lines = []
        for row in self.failed:
            within = "" if row.reason else f"{row.tolerance.allowed(row.recorded):.2g} apart is allowed"
            why = row.reason or f"recorded {row.recorded:g}, recomputed {row.recomputed:g}, {within}"
            lines.append(f"  failed    {row.record.label}, {row.metric}: {why}")
        good, every = len({identity for identity, _ in self.verified}), len({row.record.id for row in self.rows})
        agree = f"{len(self.rows) - len(self.failed)} of {len(self.rows)} values"
        counts = f"{good} of {every} records re-evaluated agree ({agree})"
        lines += [f"  recorded  {line}" for line in self.skipped]
        return "\n".join([*lines, f"{counts}; {len(self.skipped)} taken from committed records"])

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
        path, text = paths.figures() / "checks" / f"{room}.csv", csv_text(COLUMNS, lines)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        before, after = ([{**row, "recomputed": ""} for row in csv.DictReader(t.splitlines())] for t in (old, text))
        if not old or before != after:
            write_text(path, text)
        return path


def check_room(room: str, profile: str = "small", progress: bool = True, write: bool = True) -> CheckReport:
    """Recompute the first k of every committed record of a room from the shipped weights.

    `write`: whether figures/checks of the small profile, whose records ship, is written.
    """
    known = {row.key: row for row in rows(room, profile)}

    def recompute(record: Record, k: int) -> Mapping[str, Values]:
        row = known.get(record.key)
        if row is None:
            raise ReproError(f"no row measures {record.label} any more")
        over = row.sample
        for what, now, then in (("weights", over.weights, record.checkpoint), ("data", over.data, record.data)):
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
    committed: Iterable[Record],
    recompute: Callable[[Record, int], Mapping[str, Values]],
    tolerance: Tolerance | Mapping[str, Tolerance] = Tolerance(),
    *,
    progress: bool = False,
) -> CheckReport:
    """Call `recompute(record, k)` for every record that can be re-evaluated and compare with its `check` values.

    `tolerance`: one, or one per protocol name (`Tolerance()` for those not named). A `ReproError` of `recompute` (a
    missing checkpoint, say) fails that record and the others are still checked. Raises nothing itself.
    """
    from tqdm.auto import tqdm

    compared, skipped = [], []
    for record in tqdm(list(committed), desc="re-evaluating", unit="record", disable=not progress):
        if record.source == "recorded" or not record.check:
            ships = record.source != "recorded"
            why = "no first-k values were recorded" if ships else "its weights do not ship"
            skipped.append(f"{record.label}: {why}")
            continue
        try:
            found, why = recompute(record, record.check["k"]), "not recomputed"
        except ReproError as error:
            found, why = {}, str(error)
        for metric, values in sorted(record.check["metrics"].items()):
            within = tolerance if isinstance(tolerance, Tolerance) else tolerance.get(metric, Tolerance())
            numbers = _furthest(values, found[metric], within) if metric in found else {"reason": why}
            compared.append(CheckRow(record, metric, within, **numbers))
    return CheckReport(tuple(compared), tuple(skipped))


def _furthest(recorded: Values, recomputed: Values, within: Tolerance) -> dict[str, Any]:
    """The two values furthest apart for what is allowed, or the reason why there are none."""
    old, new = (np.atleast_1d(values).astype(float).tolist() for values in (recorded, recomputed))
    if len(old) != len(new):
        return {"reason": f"{len(old)} values recorded, {len(new)} recomputed"}
    if not all(map(math.isfinite, new)):
        return {"reason": "recomputed as a number that is not finite"}
    pairs = [(a, rounded(b)) for a, b in zip(old, new, strict=True)]
    a, b = max(pairs, key=lambda pair: abs(pair[1] - pair[0]) - within.allowed(pair[0]))
    return {"recorded": a, "recomputed": b}


def verified(room: str, committed: Iterable[Record]) -> frozenset[tuple[str, str]]:
    """(record id, metric) that the room's last written check found in agreement, of records that still are the same.

    An absent report verifies nothing. Raises `ReproError` for a report that is not one of ours.
    """
    path = paths.figures() / "checks" / f"{room}.csv"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else [",".join(COLUMNS)]
    reader = csv.DictReader(lines)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ReproError(f"{path}, line 1: the header must read {','.join(COLUMNS)}")
    found = list(reader)
    good = {record.id for record in committed} - {line["record"] for line in found if line["ok"] != "yes"}
    return frozenset((line["record"], line["metric"]) for line in found if line["record"] in good)
