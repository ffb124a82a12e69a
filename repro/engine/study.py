"""A method's study, read from its data: what it measures (`grid.toml`), what a notebook's profile does (`Lesson`).

A method's folder `repro/<room>/study` holds `experiments.py` (`EXPERIMENTS`), `grid.toml` (tables), `claims.toml`,
`paper_numbers.csv`, and `measure.py` with

    measure(experiment, cell, k, profile) -> {metric: value or one value per image}   # k None: everything; else first k
    sample(experiment, cell, profile) -> Sample(n, k, data) or None: not measured in this profile
    ALIASES = {"fid/inception": "fid/fashion-classifier"}         # metrics of other profiles -> what tables look for
    TOLERANCE                                                                         # by metric, for the first-k check

`experiment` is a name of the registry in that profile, or a baseline's name. Everything else (rows, records, checks,
tables, claims, commands) follows from these.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from repro import paths
from repro.engine import grid, records
from repro.engine.check import CheckReport, Tolerance
from repro.engine.records import Record
from repro.engine.registry import experiments, in_profile, study_module
from repro.engine.tables import Table, Verified
from repro.errors import ReproError

PARAMETERS = "REPRO_PARAMETERS"  # set by `repro reproduce`: how it was called beside the profile
UPDATE = "REPRO_UPDATE"  # set by `repro reproduce`: only then does a notebook write into figures/


@dataclass(frozen=True)
class Sample:
    """What a measurement runs over: `n` images, the first `k` of which the check repeats (0: none), their hash.

    `weights`, `ships`: where they are not those of the experiment of the cell's name (a sequence of several networks; a
    cell that takes too long to be repeated).
    """

    n: int
    k: int
    data: str
    weights: str | None = None
    ships: bool = True


class Study:
    """One method's rows and tolerances, as the engine's evaluation takes them."""

    def __init__(self, room: str, module: Any) -> None:
        self.room, self.module = room, module

    @property
    def TOLERANCE(self) -> Mapping[str, Tolerance] | Tolerance:
        return getattr(self.module, "TOLERANCE", Tolerance())

    def rows(self, profile: str = "small") -> list[Any]:
        """One row per cell of the grid and training seed whose network is here; baselines need none."""
        from repro.engine.checkpoint import weights_hash
        from repro.engine.evaluation import Row, folders, trained

        known = {e.name: e for e in experiments()}  # another room's network may be measured here
        found: dict[tuple, Any] = {}
        for name, cell in grid.cells(grid.load(self.room)):
            for small in self._seeds(name, list(known)):
                own = in_profile(small, profile)
                network = known.get(own)
                if network is not None and not (network.profile == profile or network.room != self.room):
                    continue
                if network is not None and not trained(own):
                    continue
                sample = self.module.sample(own, cell, profile)
                if sample is None:
                    continue
                weights, ships, seed = sample.weights, sample.ships, 0
                if network is not None:
                    folder = next(f for f in folders(own) if (f / "config.json").exists())
                    weights, ships, seed = weights_hash(folder), ships and network.ships, network.seed
                elif weights is None and small.startswith(f"{self.room}-"):
                    raise ReproError(f"the tables of room {self.room!r} name {small!r}, which is no experiment")
                measure = partial(self._measure, own, cell, profile)
                about: dict[str, Any] = {"profile": profile, "weights": weights, "ships": ships, "seed": seed}
                row = Row(self.room, own, cell, measure, sample.n, sample.data, sample.k, **about)
                found.setdefault((own, *sorted(cell.items())), row)
        return list(found.values())

    def looked_up(self, found: Sequence[Record]) -> list[Record]:
        """Records of any profile under the small profile's names, which tables and claims look for."""
        small = {e.name for e in experiments(self.room) if e.profile == "small"}
        profiles = {r.profile for r in found} - {"small"}
        names = {in_profile(name, profile): name for profile in profiles for name in small}
        metrics = getattr(self.module, "ALIASES", {})
        return [r if r.profile == "small" else r.under(names.get(r.experiment, r.experiment), metrics) for r in found]

    def _measure(self, experiment: str, cell: Mapping[str, Any], profile: str, k: int | None) -> Any:
        return self.module.measure(experiment, cell, k, profile)

    @staticmethod
    def _seeds(name: str, known: Sequence[str]) -> list[str]:
        if not name.endswith("-s*"):
            return [name]
        stem = name.removesuffix("*")
        return [k for k in known if k.startswith(stem) and k.removeprefix(stem).isdigit()]


@dataclass(frozen=True)
class Lesson:
    """What a notebook does in one profile, shared by all notebooks.

    `room`      whose records it shows, "" for none.   `notebook`  its name, "04_ucdir".
    `minutes`   measured duration on two cores.         `settings`  the profile's own numbers, read as `now["crop"]`.
    `check`     whether the first k of every record are measured again (a parameter of the notebook may switch it off).
    """

    room: str
    notebook: str
    profile: str
    minutes: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    check: bool = True

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    @property
    def command(self) -> str:
        """What draws the notebook's pictures and tables again."""
        from repro.engine.evaluation import of_profile

        return f"repro reproduce {self.notebook[:2]}{of_profile(self.profile)}{os.environ.get(PARAMETERS, '')}"

    @property
    def figures(self) -> Path:
        """figures/ under `repro reproduce` in the small profile; build/<profile>/ where a notebook is run by hand."""
        return paths.figures() if self.profile == "small" and os.environ.get(UPDATE) else paths.build() / self.profile

    def records(self) -> list[Record]:
        """The room's records of this profile, under the names that tables and claims use."""
        from repro.engine.evaluation import looked_up

        return looked_up(self.room, self.profile)

    def recheck(self) -> CheckReport:
        """Measure the first k of every record again and compare; verifies nothing where `check` is off.

        Raises `ReproError` where a record and the shipped weights disagree: no table may be rendered from it.
        """
        from repro.engine.evaluation import check_room

        if not self.check or self.profile != "small":
            return CheckReport(())
        report = check_room(self.room, self.profile, write=self.figures == paths.figures())
        if report.failed:
            raise ReproError(f"the shipped weights contradict the records:\n{report.text()}")
        return report

    def tables(self, verified: Verified = ()) -> dict[str, Table]:
        """Every table of the room by name, written to `figures`."""
        made = grid.tables(self.room, self.records(), verified)
        if self.profile != "small":
            made = [replace(t, caption=f"{t.caption}; here profile {self.profile}", notes=self._notes(t)) for t in made]
        for table in made:
            table.write(self.command, folder=self.figures / "tables")
        return {table.name: table for table in made}

    def _notes(self, table: Table) -> tuple[str, ...]:
        """What a table of another profile has to add: its data are other ones, its metrics perhaps, too."""
        aliases = getattr(study_module(self.room, "measure"), "ALIASES", {}) if self.profile == "paper" else {}
        instead = "; ".join(f"{own} in the place of {small}" for own, small in aliases.items())
        said = f"Profile {self.profile}: data and sizes are those of its configuration, not those named here"
        return (*table.notes, f"{said}; {instead}." if instead else f"{said}.")

    def verdicts(self, words: Mapping[str, str], verified: Verified | None = None) -> Any:
        """`verdict_figure` of this room and profile."""
        return verdict_figure(self.room, words, self.profile, verified)

    def keep(self, drawing: Any, name: str, shown: Sequence[Record] = ()) -> Any:
        """Save a drawing as <name>.png, photographs as .jpg, with its provenance, and hand it on to be shown."""
        from repro.engine.provenance import save_figure
        from repro.ui.photos import Drawn, Photos

        drawn = drawing if isinstance(drawing, Drawn) else Drawn(drawing)
        photograph = isinstance(drawn, Photos)
        save_figure(drawn.pixels, name, shown, self.command, photograph=photograph, folder=self.figures / "pictures")
        return drawn


def verdict_figure(
    room: str, words: Mapping[str, str], profile: str = "small", verified: Verified | None = None
) -> Any:
    """A paper's claims as one coloured figure; `words`: claim -> a few words beside its bar, in order."""
    from repro.engine import claims
    from repro.ui.plots import verdict_bars

    found = {v.claim.id: v for v in claims.verdicts(room, profile=profile, verified=verified)}
    if set(words) != set(found):
        raise ReproError(f"claims {sorted(found)} stand in the ledger, words were given for {sorted(words)}")
    return verdict_bars({f"{name} · {text}": [f.verdict for f in found[name].findings] for name, text in words.items()})


def lesson(lessons: Mapping[str, Lesson], profile: str) -> Lesson:
    """The lesson of that profile. Raises `ReproError` naming those there are."""
    if profile not in lessons:
        raise ReproError(f"profile is {profile!r}: accepted are {', '.join(lessons)}")
    return lessons[profile]


__all__ = ["Lesson", "Sample", "Study", "lesson", "records"]
