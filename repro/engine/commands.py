"""The engine's commands; `repro/cli.py` lists them."""

import csv
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from repro.errors import ReproError, one_of


@dataclass
class List:
    """List experiments."""

    room: Positional[str | None] = None
    """Only this room (ddpm, editing, rddm, ucdir, adir)."""

    def run(self) -> int:
        from repro.engine.checkpoint import trained
        from repro.engine.registry import experiments

        for e in experiments(self.room):
            state = "trained" if trained(e.name) else "begun" if e.state.exists() else "untrained"
            ships = "weights ship" if e.ships else "records only"
            print(f"{e.name:<36} {e.profile:<6} {state:<10} {ships:<13} {e.recipe.images:>9,} images  {e.summary}")
        return 0


@dataclass
class Train:
    """Train an experiment; the same command goes on after a kill."""

    names: Positional[tuple[str, ...]] = ()
    """Experiments to train one after another; `repro list` shows them."""
    all: bool = False
    """Every experiment that is not trained yet."""
    until: int | None = None
    """Stop, with the state saved, once this many images are seen."""

    def run(self) -> int:
        from repro.engine.checkpoint import trained
        from repro.engine.registry import DEVICE, experiments, find, run
        from repro.engine.train import precision_here, with_progress

        if bool(self.names) == self.all:
            raise ReproError("train takes experiment names or --all, one of the two: `repro list` shows the names")
        if self.until is not None and self.until < 1:
            raise ReproError(f"--until counts images and must be positive: got {self.until}")
        untrained = [e for e in experiments() if self.all and e.profile == "small" and not trained(e.name)]
        for e in [find(name) for name in self.names] or untrained:
            if precision_here(e.recipe, DEVICE) != e.recipe.precision:
                print(f"{e.name}: this processor has no bf16 instructions, so the training runs in fp32", flush=True)
            try:
                seen = with_progress(run(e, self.until), e.recipe.images, e.name).images
            except KeyboardInterrupt:
                kept = f"the same command goes on from {e.state}" if e.state.exists() else "nothing was to be kept yet"
                print(f"repro train: {e.name} is stopped; {kept}", file=sys.stderr)
                return 130
            left = f"weights: {e.weights}" if seen >= e.recipe.images else f"state: {e.state}"
            print(f"{e.name}: {seen:,} of {e.recipe.images:,} images; {left}")
        return 0


@dataclass
class Evaluate:
    """Make records: of a trained network, or of a room's rows that need none."""

    names: Positional[tuple[str, ...]]
    """Experiments, or rooms (all their experiments and baselines)."""
    full: bool = False
    """Make the full records that ship (minutes to hours). Without it, the fixed first-k subset is recomputed and
    compared with the committed records of the rooms named."""
    missing: bool = False
    """With --full, only records that are missing or were made with other weights or data."""
    profile: str = "small"
    """smoke, small or paper."""

    def run(self) -> int:
        from repro.engine import evaluation

        if not self.names:
            raise ReproError("evaluate takes experiment or room names: `repro list` shows them")
        if self.full:
            for record in evaluation.full(self.names, self.profile, missing_only=self.missing):
                print(record.label, {name: record.values(name)[:3] for name in record.metrics}, flush=True)
            return 0
        known = evaluation.rooms_with_rows()
        if other := [name for name in self.names if name not in known]:
            there = f"a check is of a whole room, one of {', '.join(known)}"
            raise ReproError(f"{there}: got {other[0]!r}; --full measures one experiment")
        reports = [evaluation.check_room(room, self.profile) for room in self.names]
        print("\n".join(report.text() for report in reports))
        return int(any(report.failed for report in reports))


@dataclass
class Reproduce:
    """Run the notebooks in order; they recompute records from the shipped checkpoints and write tables and figures."""

    notebooks: Positional[tuple[str, ...]] = ()
    """Notebooks to run, by number or name; all of them by default."""
    profile: str = "small"
    """The notebooks' `profile` parameter: smoke, small or paper."""
    parameters: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """Other parameters, handed to every notebook chosen, checked by name, type, range and choice before any runs. What
    they draw goes to build/, with them in its provenance."""
    update: bool = False
    """Copy the executed notebooks back into notebooks/, without papermill's cell."""

    def run(self) -> int:
        from repro.engine import claims, front
        from repro.engine.notebooks import reproduce
        from repro.engine.provenance import save_figure

        values: dict[str, str] = {}
        for text in self.parameters:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier() or name in values:
                raise ReproError(f"parameter {text!r}: NAME=VALUE, each name once, is accepted, 'steps=50' for example")
            values[name] = value
        runs = reproduce(self.notebooks, self.profile, values, self.update)
        failed = [run.name for run in runs if run.error is not None]
        seconds = sum(run.seconds for run in runs)
        print(f"{len(runs) - len(failed)} of {len(runs)} notebooks done in {seconds:.0f} s", flush=True)
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
            return 1
        if self.profile == "small" and not self.notebooks and not self.parameters:
            # What stands on all notebooks together: verdicts, the README's figure and tables, the index of figures/.
            claims.write([verdict for room in claims.rooms() for verdict in claims.verdicts(room)], "repro claims")
            save_figure(front.picture(), "overview", (), "repro reproduce", photograph=True)
            front.update()
        return 0


@dataclass
class Claims:
    """Judge the papers' claims by rule on the committed records, print the verdicts, write figures/claims.{csv,md}."""

    room: Positional[str] = ""
    """One room (ddpm, editing, rddm, ucdir, adir); all rooms, and the files written, when it is left out."""
    profile: str = "small"
    """Judge the records of this profile."""
    write: bool = True
    """Write the overview of all rooms; --no-write only prints."""

    def run(self) -> int:
        from repro.engine import claims
        from repro.engine.evaluation import of_profile

        rooms = [one_of("room", self.room, claims.rooms())] if self.room else claims.rooms()
        found = [verdict for room in rooms for verdict in claims.verdicts(room, profile=self.profile)]
        print(claims.to_markdown(found), end="")
        if self.write and not self.room:
            for path in claims.write(found, f"repro claims{of_profile(self.profile)}"):
                print(f"written: {path}")
        return 0


@dataclass
class Whence:
    """Say which records and which command made a figure or a table."""

    file: Positional[Path]
    """A .png, .jpg, .md or .csv file of figures/."""

    def run(self) -> int:
        from repro.engine.provenance import whence
        from repro.engine.records import by_id

        made, known = whence(self.file), by_id()
        print(made.command)
        for identity in made.records:
            about = "no longer among the committed records: the file is older than they are"
            if record := known.get(identity):
                network = f"checkpoint {record.checkpoint[:12]}" if record.checkpoint else "nothing learned"
                about = f"{record.label}, {record.profile}, {network}: {record.command}"
            print(f"  {identity}  {about}")
        return 0


# Together these columns of a table name a row, as text; without them its position does.
KEYS = ("record", "id", "part", "row", "column", "metric")


@dataclass
class TablesCompare:
    """Compare regenerated tables with the committed ones, cell by cell; exit status 1 where they differ.

    Text must be equal, numbers within what the table's own columns atol and rtol state (else 1e-6 and 1e-4).
    """

    old: Positional[Path]
    """Folder with the committed .csv tables."""
    new: Positional[Path]
    """Folder with the regenerated ones."""

    def run(self) -> int:
        before, after = (self._cells(folder) for folder in (self.old, self.new))
        if not before and not after:
            raise ReproError(f"neither {self.old} nor {self.new} holds a .csv table: there is nothing to compare")
        differences = []
        for place in {**before, **after}:
            (a, allowed), (b, number) = (side.get(place, ("no such cell", None)) for side in (before, after))
            near = None not in (allowed, number) and abs(float(a) - float(b)) <= allowed
            if a != b and not near:
                apart = "" if None in (allowed, number) else f" ({allowed:.2g} apart is allowed)"
                differences.append(f"{place}: committed {a or 'nothing'}, regenerated {b or 'nothing'}{apart}")
        counts = f"{len({**before, **after})} cells compared, {len(differences)} differ"
        print("\n".join([*differences, counts]), file=sys.stderr if differences else sys.stdout)
        return 1 if differences else 0

    @staticmethod
    def _cells(folder: Path) -> dict[str, tuple[str, float | None]]:
        """Every cell of a folder's tables: "table, row, column" -> its text and, of a number, what it may be off."""
        if not folder.is_dir():
            raise ReproError(f"{folder}: no such folder, a folder of .csv tables is needed")
        found: dict[str, tuple[str, float | None]] = {}
        for path in sorted(folder.rglob("*.csv")):
            for line, row in enumerate(csv.DictReader(path.read_text(encoding="utf-8").splitlines()), start=2):
                atol, rtol = (float(row.get(key) or usual) for key, usual in (("atol", 1e-6), ("rtol", 1e-4)))
                name = " / ".join(row[key] for key in KEYS if row.get(key)) or f"line {line}"
                for column, text in row.items():
                    allowed = None
                    if column not in (*KEYS, "records", "atol", "rtol"):
                        with suppress(TypeError, ValueError):  # text
                            allowed = atol + rtol * abs(float(text))
                    found[f"{path.relative_to(folder)}, {name}, {column}"] = text, allowed
        return found
