"""From rows to records: the full evaluation that ships, and the first-k check that `make reproduce` repeats.

A room lists what it measures as data (`repro.engine.study`); a row knows how to measure itself on all its samples or on
the first k. Full records and checks come from the same function, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from repro import paths
from repro.engine import records
from repro.engine.check import CheckReport, Tolerance, check
from repro.engine.environment import environment, measured
from repro.engine.records import ROOMS, Record, Values
from repro.engine.registry import study_module
from repro.errors import ReproError


@dataclass(frozen=True)
class Row:
    """One cell-filling measurement.

    `experiment`  a trained network of the registry, or the name of a baseline that learns nothing.
    `cell`        what varies inside it.
    `measure`     called with None for the full measurement, with k for the first k samples: metric name -> values.
    `n`           samples of the full measurement.   `k` samples of the check; 0: too long to repeat.
    `ships`       False: its weights do not ship, the record will be marked `recorded`.
    `weights`     hash of the checkpoint used, None where nothing was learned.
    """

    room: str
    experiment: str
    cell: Mapping[str, Any]
    measure: Callable[[int | None], Mapping[str, Values]]
    n: int
    data: str
    k: int = 0
    seed: int = 0
    profile: str = "small"
    weights: str | None = None
    ships: bool = True

    def record(self) -> Record:
        """Measure in full, and on the first k."""
        with measured() as m:
            metrics = self.measure(None)
        block = {"k": self.k, "metrics": dict(self.measure(self.k))} if self.k else {}
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
            check=block,
            source="evaluated" if self.ships else "recorded",
            environment=environment(m),
        )


def of_profile(profile: str) -> str:
    """What a command needs to be said in that profile."""
    return "" if profile == "small" else f" --profile {profile}"


def rooms_with_rows() -> list[str]:
    """Rooms that measure something yet."""
    return [room for room in ROOMS if _module(room) is not None]


def rows(room: str, profile: str = "small") -> list[Row]:
    """Everything a room measures."""
    module = _module(room)
    if module is None:
        raise ReproError(f"room {room!r} measures nothing: there are {', '.join(rooms_with_rows())}")
    return module.rows(profile)


def looked_up(room: str, profile: str = "small") -> list[Record]:
    """The room's committed records of a profile, under the names that its tables and claims look for.

    Those are the small profile's.
    """
    module, found = _module(room), records.select(records.load(room), profile=profile)
    return module.looked_up(found) if module else found


def full(names: Iterable[str], profile: str = "small", missing_only: bool = False) -> Iterator[Record]:
    """Make the full records of rooms or experiments, saving each as it is done (a killed run keeps what it had)."""
    chosen = [row for name in names for row in _named(name, profile)]
    for row in chosen:
        if missing_only and _stored(row):
            continue
        record = row.record()
        records.upsert(row.room, [record])
        yield record


def check_room(
    room: str,
    profile: str = "small",
    tolerance: Tolerance | Mapping[str, Tolerance] | None = None,
    progress: bool = True,
    write: bool = True,
) -> CheckReport:
    """Recompute the first k of every committed record of a room from the shipped weights.

    `write`: whether figures/checks of the small profile, whose records ship, is written.
    """
    by_key = {_key(row): row for row in rows(room, profile)}
    committed = [r for r in records.load(room) if r.profile == profile]

    def recompute(record: Record, k: int) -> Mapping[str, Values]:
        row = by_key.get((record.experiment, _cell(record.cell), record.seed))
        if row is None:
            raise ReproError(f"no row measures {record.label} any more")
        if row.weights != record.checkpoint:
            raise ReproError(
                f"{record.label} was measured with weights {str(record.checkpoint)[:12]}…, other ones ship"
            )
        if row.data != record.data:
            raise ReproError(f"{record.label} was measured on data {record.data[:12]}…, other data ship")
        return row.measure(k)

    module = _module(room)
    report = check(committed, recompute, tolerance or getattr(module, "TOLERANCE", Tolerance()), progress=progress)
    if write and profile == "small":
        report.write(room)
    return report


def _named(name: str, profile: str) -> list[Row]:
    if name in ROOMS:
        return rows(name, profile)
    found = [row for room in rooms_with_rows() for row in rows(room, profile) if row.experiment == name]
    if not found:
        known = sorted({row.experiment for room in rooms_with_rows() for row in rows(room, profile)})
        raise ReproError(
            f"nothing measures {name!r}: rooms are {', '.join(rooms_with_rows())}, rows {', '.join(known)}"
        )
    return found


def _stored(row: Row) -> bool:
    same = [r for r in records.load(row.room) if (r.experiment, _cell(r.cell), r.seed) == _key(row)]
    return any(r.checkpoint == row.weights and r.data == row.data and r.profile == row.profile for r in same)


def _key(row: Row) -> tuple[str, tuple, int]:
    return row.experiment, _cell(row.cell), row.seed


def _cell(cell: Mapping[str, Any]) -> tuple:
    return tuple(sorted(cell.items()))


def _module(room: str) -> Any:
    measure = study_module(room, "measure") if room in ROOMS else None
    if measure is None:
        return None
    from repro.engine.study import Study

    return Study(room, measure)


def trained(name: str) -> bool:
    """Whether the experiment's weights are here: in checkpoints/, or (recorded ones) in runs/."""
    return any((folder / "config.json").exists() for folder in folders(name))


def folders(name: str) -> list[Any]:
    """Where an experiment's weights may lie, the shipped place first."""
    return [paths.checkpoints() / name, paths.runs() / name / "checkpoint"]
