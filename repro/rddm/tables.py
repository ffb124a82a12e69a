"""The tables of notebook 03, read from `study/grid.toml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro.engine import grid
from repro.engine import records as ledger
from repro.engine.check import CheckReport
from repro.engine.evaluation import check_room
from repro.engine.records import Record, select
from repro.engine.tables import Table, Verified
from repro.errors import ReproError

if TYPE_CHECKING:
    from repro.rddm.lesson import Lesson


def of(lesson: Lesson) -> list[Record]:
    """The records of the lesson's profile."""
    return select(ledger.load("rddm"), profile=lesson.config.name)


def recheck(lesson: Lesson) -> CheckReport:
    """Measure the first k of every record again and compare; a profile that does not recheck verifies nothing.

    Raises `ReproError` where a record and the shipped weights disagree: no table may be rendered from it.
    """
    report = check_room("rddm", lesson.config.name) if lesson.recheck else CheckReport(())
    if report.failed:
        raise ReproError(f"the shipped weights contradict the records:\n{report.text()}")
    return report


def every(records: Sequence[Record], verified: Verified = (), now: Lesson | None = None) -> list[Table]:
    """All tables of the notebook."""
    return grid.tables("rddm", records, verified)
