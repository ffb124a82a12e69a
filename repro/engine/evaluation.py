"""From rows to records: the full evaluation that ships, and the first-k check that `make reproduce` repeats.

A room lists what it measures as data (`repro.engine.study`); a row measures itself on all its samples or on the first
k. Full records and checks come from the same function, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import paths
from repro.engine import grid, records
from repro.engine.check import CheckReport, Tolerance, check
from repro.engine.environment import environment, measured
from repro.engine.records import ROOMS, Record, Values
from repro.engine.registry import experiments, in_profile, study_module
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

    @property
    def key(self) -> tuple:
        """What is measured, as `_key` of its record."""
        return self.experiment, sorted(self.cell.items()), self.seed

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
    from repro.engine.checkpoint import weights_hash

    known = {e.name: e for e in experiments()}  # another room's network may be measured here
    module, found = study_module(room, "measure"), {}
    for name, cell in grid.cells(grid.load(room)):
        for small in grid.at_every_seed(name, known):
            own = in_profile(small, profile)
            network = known.get(own)
            if network and (not trained(own) or (network.room == room and network.profile != profile)):
                continue
            sample = module.sample(own, cell, profile)
            if sample is None:
                continue
            weights, ships, seed = sample.weights, sample.ships, 0
            if network:
                folder = next(f for f in folders(own) if (f / "config.json").exists())
                weights, ships, seed = weights_hash(folder), ships and network.ships, network.seed
            elif weights is None and small.startswith(f"{room}-"):
                raise ReproError(f"the tables of room {room!r} name {small!r}, which is no experiment")
            measure = _by_k(module.measure, own, cell, profile)
            about = {"seed": seed, "profile": profile, "weights": weights, "ships": ships}
            row = Row(room, own, cell, measure, sample.n, sample.data, sample.k, **about)
            found.setdefault(str(row.key), row)
    return list(found.values())


def _by_k(measure: Callable, experiment: str, cell: Mapping[str, Any], profile: str) -> Callable:
    """`measure` of one experiment and cell in a profile, as a function of k."""
    return lambda k: measure(experiment, cell, k, profile)


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
        made = (row.key, row.weights, row.data, row.profile)
        if missing_only and made in [(_key(r), r.checkpoint, r.data, r.profile) for r in records.load(row.room)]:
            continue
        record = row.record()
        records.upsert(row.room, [record])
        yield record


def check_room(room: str, profile: str = "small", progress: bool = True, write: bool = True) -> CheckReport:
    """Recompute the first k of every committed record of a room from the shipped weights.

    `write`: whether figures/checks of the small profile, whose records ship, is written.
    """
    known = {str(row.key): row for row in rows(room, profile)}

    def recompute(record: Record, k: int) -> Mapping[str, Values]:
        row = known.get(str(_key(record)))
        if row is None:
            raise ReproError(f"no row measures {record.label} any more")
        for what, now, then in (("weights", row.weights, record.checkpoint), ("data", row.data, record.data)):
            if now != then:
                raise ReproError(f"{record.label} was measured with {what} {str(then)[:12]}…, other ones ship")
        return row.measure(k)

    committed = [r for r in records.load(room) if r.profile == profile]
    tolerance = getattr(study_module(room, "measure"), "TOLERANCE", Tolerance())
    report = check(committed, recompute, tolerance, progress=progress)
    if write and profile == "small":
        report.write(room)
    return report


def _named(name: str, profile: str) -> Sequence[Row]:
    if name in rooms_with_rows():
        return rows(name, profile)
    every = [row for room in rooms_with_rows() for row in rows(room, profile)]
    found = [row for row in every if row.experiment == name]
    if not found:
        known = ", ".join(sorted({row.experiment for row in every}))
        raise ReproError(f"nothing measures {name!r}: rooms are {', '.join(rooms_with_rows())}, rows {known}")
    return found


def _key(record: Record) -> tuple:
    return record.experiment, sorted(record.cell.items()), record.seed


def trained(name: str) -> bool:
    """Whether the experiment's weights are here: in checkpoints/, or (recorded ones) in runs/."""
    return any((folder / "config.json").exists() for folder in folders(name))


def folders(name: str) -> list[Path]:
    """Where an experiment's weights may lie, the shipped place first."""
    return [paths.checkpoints() / name, paths.runs() / name / "checkpoint"]
