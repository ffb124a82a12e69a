"""Records: what was measured, one line of JSON per evaluation in `figures/records/<room>.jsonl`.

Tables, figures and claims are pure functions of these lines. A record's id hashes what is deterministic about it;
times, memory, versions and hardware lie beside it in `environment` and never enter an id or a compared table.
"""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import torch

from repro import paths
from repro.errors import ReproError

PACKAGES = ("torch", "torchvision", "diffusers", "accelerate", "numpy", "torchmetrics", "lpips", "scikit-image")
SCHEMA = 1
PROFILES = ("smoke", "small", "paper")

Scalar = str | int | float | bool | None
Values = float | list[float]


def rounded(value: float, what: str = "a measured value") -> float:
    """`value` to six significant digits: below these lies the noise of summation order; -0.0 becomes 0.0. Raises
    `ReproError` on NaN and infinity."""
    if not math.isfinite(value):
        raise ReproError(f"{what} is {float(value)}: a record holds finite numbers only")
    return float(f"{float(value):.6g}") + 0.0


@dataclasses.dataclass(frozen=True)
class Record:
    """One evaluation of one experiment. A metric is one number, one per image (in the order of the data), or, of a set
    metric such as FID, one per replicate (disjoint sampling seeds)."""

    room: str
    experiment: str
    cell: Mapping[str, Scalar]  # what varies inside the experiment, e.g. {"sampler": "ddim", "steps": 50, "eta": 0.0}
    metrics: Mapping[str, Values]  # by name
    n: int  # images measured
    seed: int  # of the training where a network was trained, else of the sampling
    profile: str
    checkpoint: str | None  # SHA-256 of the weights; None where nothing was learned
    data: str  # SHA-256 of the data measured on
    command: str
    # {"k": int, "metrics": {...}}: the same on the first k samples, which `make reproduce` recomputes; or {}
    check: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: Literal["evaluated", "recorded"] = "evaluated"  # recorded: its weights do not ship
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:  # frozen: normalised once, here
        self.__dict__["cell"] = {key: _plain(self.cell[key]) for key in sorted(self.cell)}
        self.__dict__["metrics"] = _rounded_metrics(self.metrics)
        if self.check:
            metrics = _rounded_metrics(self.check["metrics"])
            self.__dict__["check"] = {"k": int(self.check["k"]), "metrics": metrics}

    @property
    def key(self) -> str:
        return key_of(self.experiment, self.cell, self.seed, self.profile)

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits over the deterministic fields: all but `environment` and `source` (do weights ship)."""
        fields = {name: value for name, value in vars(self).items() if name not in ("environment", "source")}
        return hashlib.sha256(_canonical(fields).encode()).hexdigest()[:16]

    def under(self, experiment: str, names: Mapping[str, str]) -> Self:
        """The same record, id included, under other names of experiment and metrics: to be looked up, not stored."""
        metrics = {names.get(name, name): values for name, values in self.metrics.items()}
        alias = dataclasses.replace(self, experiment=experiment, metrics=metrics, check={})
        alias.__dict__["id"] = self.id
        return alias

    def values(self, metric: str) -> list[float]:
        """The metric's values as a list. Raises `ReproError` naming the protocols there are."""
        if metric not in self.metrics:
            raise ReproError(f"{self.label} has no metric {metric!r}, it has {', '.join(sorted(self.metrics))}")
        value = self.metrics[metric]
        return list(value) if isinstance(value, list) else [value]

    @property
    def label(self) -> str:
        """For sentences: room/experiment (what varies), seed."""
        return f"{self.room}/{place(self.experiment, self.cell)} seed {self.seed}"

    def to_line(self) -> str:
        """The record as its line of JSON, keys in a fixed order."""
        fields = {"schema": SCHEMA, "id": self.id, **dataclasses.asdict(self)}
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def place(experiment: str, cell: Mapping[str, Scalar] | None = None) -> str:
    """An experiment and its cell, or a part of it, for sentences."""
    inside = ", ".join(f"{key}={value}" for key, value in (cell or {}).items())
    return experiment + (f" ({inside})" if inside else "")


def key_of(experiment: str, cell: Mapping[str, Scalar], seed: int, profile: str) -> str:
    """What is measured, without the outcome: a second measurement of the same key replaces the first."""
    return _canonical([experiment, cell, seed, profile])


def path_of(room: str) -> Path:
    """`figures/records/<room>.jsonl`."""
    return paths.figures() / "records" / f"{room}.jsonl"


def load(room: str) -> list[Record]:
    """All records of a room, sorted. Raises `ReproError` naming file and line for a line that is no record, was changed
    by hand, or is there twice."""
    path, found = path_of(room), {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            identity = [fields.pop(name) for name in ("schema", "id")]
            record = Record(**fields)
            if identity != [SCHEMA, record.id] or record.room != room or record.key in found:
                raise ReproError("changed after writing, of another method or version, or a second time")
        except (ReproError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ReproError(f"{path}, line {number}: no record ({error})") from None
        found[record.key] = record
    return sorted(found.values(), key=_order)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold the folder for this process; without `wait` one that another process holds is refused by `ReproError`. The
    lock is on the folder itself, leaves no file behind and ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ReproError(f"{folder} is held by another process that runs: wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def upsert(room: str, records: Iterable[Record]) -> list[Record]:
    """Add records to the room's file, replacing those of the same key; returns the room's records. A result equal to
    the one on file keeps the old line, environment included, so that a repeated evaluation leaves no trace in git."""
    path = path_of(room)
    with locked(path.parent):
        kept = {record.key: record for record in load(room)}
        for record in records:
            old = kept.get(record.key)
            if old is None or (old.id, old.source) != (record.id, record.source):
                kept[record.key] = record
        merged = sorted(kept.values(), key=_order)
        paths.write_text(path, "".join(record.to_line() + "\n" for record in merged))
    return merged


def select(
    records: Sequence[Record], *, experiment: str | None = None, cell: Mapping[str, Scalar] | None = None
) -> list[Record]:
    """Those of an experiment ("…-s*": that network at every training seed) whose cell has all that `cell` has."""
    parts = {(key, _canonical(_plain(value))) for key, value in (cell or {}).items()}
    named = [record for record in records if experiment is None or means(experiment, record.experiment)]
    return [r for r in named if parts <= {(key, _canonical(value)) for key, value in r.cell.items()}]


def means(pattern: str, experiment: str) -> bool:
    """Whether a name, or a network at every training seed, "rddm-fashion-smn-s*", means this experiment."""
    stem = pattern.removesuffix("*")
    return experiment == pattern or (stem != pattern and experiment.removeprefix(stem).isdigit())


def _order(record: Record) -> tuple:
    """By experiment, then by cell with numbers in the order of numbers (10 steps before 100), then seed, profile."""
    cell = [(k, (0, v, "") if type(v) in (int, float) else (1, 0, str(v))) for k, v in record.cell.items()]
    return record.experiment, cell, record.seed, record.profile


def _plain(value: Scalar) -> Scalar:
    """A cell's value; 0.0 and 0 name the same cell, so whole floats are stored as whole numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rounded_metrics(metrics: Mapping[str, Any]) -> dict[str, Values]:
    made: dict[str, Values] = {}
    for name, value in sorted(metrics.items()):
        what, several = f"metric {name!r}", isinstance(value, list | tuple)
        made[name] = [rounded(item, what) for item in value] if several else rounded(value, what)
    return made


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def environment() -> dict[str, Any]:
    """A record's `environment`: versions, hardware, threads, commit, date."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, and the accelerator if torch has one."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text(errors="replace") if info.exists() else "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {"cpu": model[1].strip() if model else platform.processor() or platform.machine(), "cores": cores}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def commit() -> str | None:
    """The clone's commit, with "+" where tracked files differ from it; None outside git."""
    describe = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return None
