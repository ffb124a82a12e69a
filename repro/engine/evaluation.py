"""A method's study, from its data to its records: the full evaluation that ships, and the first-k check.

A method's folder `repro/<room>/study` holds `experiments.py` (`EXPERIMENTS`), `grid.toml` (tables), `claims.toml`,
`paper_numbers.csv`, and `measure.py` with

    measure(experiment, cell, k, profile) -> {metric: value or one value per image}   # k None: everything; else first k
    sample(experiment, cell, profile) -> Sample(n, k, data) or None: not measured in this profile
    ALIASES = {"fid/inception": "fid/fashion-classifier"}         # metrics of other profiles -> what tables look for
    TOLERANCE                                                                         # by metric, for the first-k check

`experiment` is a name of the registry in that profile, or a baseline's name. Full records and checks come from the same
`measure`; `make reproduce` renders tables only after the check, whose report goes to `figures/checks/<room>.csv`.
"""

import csv
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from repro import paths
from repro.engine import grid, records
from repro.engine.checkpoint import experiments, in_profile, rooms, study_module, trained, weights_hash
from repro.engine.records import PROFILES, Record, Values, environment, key_of, means, rounded
from repro.engine.tables import csv_text
from repro.errors import ReproError, nearest, one_of

COLUMNS = ("record", "experiment", "cell", "metric", "k", "recorded", "recomputed", "ok", "reason", "atol", "rtol")


@dataclass(frozen=True)
class Sample:
    """What is measured on."""

    n: int  # images
    k: int  # the first of them, which the check measures again; 0: none
    data: str  # hash of the images
    weights: str | None = None  # hash of the checkpoint, where it is not that of the cell's experiment
    ships: bool = True  # whether its weights ship, and the check does not take too long


class Row(NamedTuple):
    """What fills a cell: a measurement of a trained network, or of a baseline that learns nothing."""

    room: str
    experiment: str
    cell: Mapping[str, Any]
    sample: Sample
    seed: int
    profile: str

    @property
    def key(self) -> str:
        return key_of(self.experiment, self.cell, self.seed, self.profile)

    def measure(self, k: int | None) -> Mapping[str, Values]:
        """metric name -> values of all samples (None) or of the first k, in fp32 on GPUs too (no TF32)."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return study_module(self.room, "measure").measure(self.experiment, self.cell, k, self.profile)

    def record(self) -> Record:
        """Measure in full, with its cost (seconds; peak memory in MB of 10^6 bytes), and on the first k."""
        over, start, gpu = self.sample, time.perf_counter(), torch.cuda.is_available()
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        metrics, seconds = self.measure(None), round(time.perf_counter() - start, 3)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        cost = {"wall_s": seconds, "peak_mb": round(peak / 1e6, 1), "peak_of": "process"}
        cost |= {"peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1)} if gpu else {}
        return Record(
            **{name: getattr(self, name) for name in ("room", "experiment", "cell", "seed", "profile")},
            **{"metrics": metrics, "n": over.n, "checkpoint": over.weights, "data": over.data},
            command=f"repro evaluate {self.experiment} --full{of_profile(self.profile)}",
            check={"k": over.k, "metrics": dict(self.measure(over.k))} if over.k else {},
            source="evaluated" if over.ships else "recorded",
            environment=environment() | cost,
        )


def of_profile(profile: str) -> str:
    """The option that names the profile in a command."""
    return "" if profile == "small" else f" --profile {profile}"


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
            if (sample := module.sample(own, cell, profile)) is None:
                continue
            if network:
                sample = replace(sample, weights=weights_hash(own), ships=sample.ships and network.ships)
            row = Row(room, own, cell, sample, network.seed if network else 0, profile)
            found.setdefault(row.key, row)
    return list(found.values())


def records_of_profile(room: str, profile: str = "small") -> list[Record]:
    """The room's committed records of a profile, under the small profile's names: tables and claims look for those."""
    one_of("profile", profile, PROFILES)
    found = [record for record in records.load(room) if record.profile == profile]
    if profile == "small":
        return found
    names = {in_profile(e.name, profile): e.name for e in experiments(room) if e.profile == "small"}
    aliases = getattr(study_module(room, "measure"), "ALIASES", {})
    return [record.under(names.get(record.experiment, record.experiment), aliases) for record in found]


def full(names: Iterable[str], profile: str = "small", missing_only: bool = False) -> Iterator[Record]:
    """Make the full records of rooms or experiments, saving each as it is done (a killed run keeps what it had)."""
    chosen: list[Row] = []
    for name in names:
        every = [row for room in ([name] if name in rooms() else rooms()) for row in rows(room, profile)]
        chosen += (found := [row for row in every if name in (row.room, row.experiment)])
        if not found and name not in rooms():
            known = nearest(name, {row.experiment for row in every})
            raise ReproError(f"nothing measures {name!r}: {known}methods are {', '.join(rooms())}")
    for row in chosen:
        made = (row.key, row.sample.weights, row.sample.data)
        if not missing_only or made not in [(r.key, r.checkpoint, r.data) for r in records.load(row.room)]:
            record = row.record()
            records.upsert(row.room, [record])
            yield record


@dataclass(frozen=True)
class Tolerance:
    """|recomputed - recorded| <= absolute + relative |recorded|, for every single value of a list."""

    absolute: float = 1e-3
    relative: float = 1e-3


class CheckReport(NamedTuple):
    """`lines`: what the file has (`COLUMNS`) and the record's label, a line per metric of a record, with the value
    furthest beyond what is allowed. `skipped`: a sentence per record that cannot be re-evaluated."""

    lines: Sequence[Mapping[str, Any]] = ()
    skipped: Sequence[str] = ()

    @property
    def failed(self) -> list[Mapping[str, Any]]:
        return [line for line in self.lines if line["ok"] != "yes"]

    @property
    def verified(self) -> frozenset[tuple[str, str]]:
        """(record id, metric) re-evaluated, of records all of whose lines agree: what tables leave unmarked."""
        failed = {line["record"] for line in self.failed}
        return frozenset((line["record"], line["metric"]) for line in self.lines if line["record"] not in failed)

    def text(self) -> str:
        """The report for a terminal: a line per failure, then the counts."""
        lines = [f"  failed    {line['label']}, {line['metric']}: {line['reason']}" for line in self.failed]
        lines += [f"  recorded  {line}" for line in self.skipped]
        good, every = len({identity for identity, _ in self.verified}), len({line["record"] for line in self.lines})
        agree = f"{len(self.lines) - len(self.failed)} of {len(self.lines)} values"
        counts = f"{good} of {every} records re-evaluated agree ({agree})"
        return "\n".join([*lines, f"{counts}; {len(self.skipped)} taken from committed records"])

    def write(self, room: str) -> Path:
        """Write `figures/checks/<room>.csv`. A file with the same verdicts on the same records is left as it is: on
        another processor the recomputed values differ by less than is allowed."""
        path, text = _report(room)
        new = csv_text(COLUMNS, [map(line.get, COLUMNS) for line in self.lines])
        before, after = ([{**row, "recomputed": ""} for row in csv.DictReader(t.splitlines())] for t in (text, new))
        if not text or before != after:
            paths.write_text(path, new)
        return path


def _report(room: str) -> tuple[Path, str]:
    """The room's last written check, empty where there is none."""
    path = paths.figures() / "checks" / f"{room}.csv"
    return path, path.read_text(encoding="utf-8") if path.exists() else ""


def verified(room: str, committed: Iterable[Record]) -> frozenset[tuple[str, str]]:
    """(record id, metric) that the room's last written check found in agreement, of records that still are the same."""
    known, lines = {record.id for record in committed}, csv.DictReader(_report(room)[1].splitlines())
    return CheckReport([line for line in lines if line["record"] in known]).verified


def check_room(room: str, profile: str = "small", write: bool = True) -> CheckReport:
    """Recompute the first k of every committed record of a room from the shipped weights; `write` figures/checks."""
    known = {row.key: row for row in rows(room, profile)}

    def recompute(record: Record, k: int) -> Mapping[str, Values]:
        if (row := known.get(record.key)) is None:
            raise ReproError(f"no row measures {record.label} any more")
        if (row.sample.weights, row.sample.data) != (record.checkpoint, record.data):
            raise ReproError(f"{record.label} was measured with other weights or data than those that are here")
        return row.measure(k)

    tolerance = getattr(study_module(room, "measure"), "TOLERANCE", Tolerance())
    report = check([record for record in records.load(room) if record.profile == profile], recompute, tolerance)
    if write and profile == "small":
        report.write(room)
    return report


def check(
    committed: Sequence[Record],
    recompute: Callable[[Record, int], Mapping[str, Values]],
    tolerance: Tolerance | Mapping[str, Tolerance] = Tolerance(),
) -> CheckReport:
    """Call `recompute(record, k)` for every record that can be re-evaluated and compare with its `check` values, within
    one tolerance or one per metric (else `Tolerance()`). A `ReproError` of `recompute` fails that record alone."""
    lines, skipped = [], []
    for record in tqdm(committed, desc="re-evaluating", unit="record"):
        if record.source == "recorded" or not record.check:
            why = "its weights do not ship" if record.source == "recorded" else "no first-k values were recorded"
            skipped.append(f"{record.label}: {why}")
            continue
        inside = " ".join(f"{key}={value}" for key, value in record.cell.items())
        about = {"label": record.label, "record": record.id, "experiment": record.experiment, "cell": inside}
        try:
            found, why = recompute(record, record.check["k"]), "not recomputed"
        except ReproError as error:
            found, why = {}, str(error)
        for metric, values in sorted(record.check["metrics"].items()):
            within = tolerance if isinstance(tolerance, Tolerance) else tolerance.get(metric, Tolerance())
            line = {"metric": metric, "k": record.check["k"], "atol": within.absolute, "rtol": within.relative}
            line |= _compared(values, found[metric], within) if metric in found else {"ok": "no", "reason": why}
            lines.append(about | line)
    return CheckReport(lines, skipped)


def _compared(recorded: Values, recomputed: Values, within: Tolerance) -> dict[str, Any]:
    """The means, which are the same file on every processor, and the verdict on the two values furthest apart."""
    old, new = (np.atleast_1d(values).astype(float) for values in (recorded, recomputed))
    if len(old) != len(new) or not np.isfinite(new).all():
        return {"ok": "no", "reason": f"{len(old)} values recorded, recomputed {new.tolist()}"}
    allowed = within.absolute + within.relative * abs(old)
    new = np.array([rounded(value) for value in new])
    a, b, within = max(zip(old, new, allowed, strict=True), key=lambda three: abs(three[1] - three[0]) - three[2])
    why = "" if (good := abs(b - a) <= within) else f"recorded {a:g}, recomputed {b:g}, {within:.2g} apart is allowed"
    means = {"recorded": rounded(old.mean()), "recomputed": rounded(new.mean())}
    return means | {"ok": "yes" if good else "no", "reason": why}
