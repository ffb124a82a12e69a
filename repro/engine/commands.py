"""The engine's commands; `repro/cli.py` lists them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from repro.errors import ReproError


@dataclass
class Claims:
    """Judge the papers' claims by rule on the committed records, print the verdicts, write figures/claims.{csv,md}."""

    room: Annotated[str, tyro.conf.Positional] = ""
    """One room (ddpm, editing, rddm, ucdir, adir); all rooms, and the files written, when it is left out."""
    profile: str = "small"
    """Judge the records of this profile."""
    write: bool = True
    """Write the overview of all rooms; --no-write only prints."""

    def run(self) -> int:
        from repro.engine import claims, records
        from repro.engine.evaluation import of_profile

        if self.room and self.room not in records.ROOMS:
            raise ReproError(f"room {self.room!r} is unknown, accepted are {', '.join(records.ROOMS)}")
        if self.room:
            found = claims.verdicts(self.room, profile=self.profile)
        else:
            found = claims.all_verdicts(profile=self.profile)
        print(claims.to_markdown(found), end="")
        if self.write and not self.room:
            for path in claims.write(found, f"repro claims{of_profile(self.profile)}"):
                print(f"written: {path}")
        return 0


@dataclass
class Whence:
    """Say which records and which command made a picture or a table."""

    file: Annotated[Path, tyro.conf.Positional]
    """A .png, .jpg, .md or .csv file of figures/."""

    def run(self) -> int:
        from repro.engine import records
        from repro.engine.provenance import whence

        made = whence(self.file)
        print(made.command)
        known = records.by_id() if made.records else {}
        for identity in made.records:
            if identity not in known:
                print(f"  {identity}  no longer among the committed records: the file is older than they are")
                continue
            record = known[identity]
            network = f"checkpoint {record.checkpoint[:12]}" if record.checkpoint else "nothing learned"
            print(f"  {identity}  {record.label}, {record.profile}, {network}: {record.command}")
        return 0


@dataclass
class TablesCompare:
    """Compare regenerated tables with the committed ones, cell by cell; exit status 1 where they differ."""

    old: Annotated[Path, tyro.conf.Positional]
    """Folder with the committed .csv tables."""
    new: Annotated[Path, tyro.conf.Positional]
    """Folder with the regenerated ones."""
    absolute: float | None = None
    """Absolute tolerance for every number, instead of what each table states."""
    relative: float | None = None
    """Relative tolerance, likewise."""

    def run(self) -> int:
        from repro.engine.compare import Tolerance, compare

        for name in ("absolute", "relative"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ReproError(f"--{name} is {value}, a number from 0 is needed")
        given = self.absolute is not None or self.relative is not None
        found = compare(self.old, self.new, Tolerance(self.absolute or 0.0, self.relative or 0.0) if given else None)
        print(found.text(), file=sys.stdout if found.ok else sys.stderr)
        return 0 if found.ok else 1
