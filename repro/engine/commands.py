"""The engine's commands; `repro/cli.py` lists them."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

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
        from repro.engine.registry import experiments, find

        if bool(self.names) == self.all:
            raise ReproError("train takes experiment names or --all, one of the two: `repro list` shows the names")
        if self.until is not None and self.until < 1:
            raise ReproError(f"--until counts images and must be positive: got {self.until}")
        untrained = [e for e in experiments() if self.all and e.profile == "small" and not trained(e.name)]
        for experiment in [find(name) for name in self.names] or untrained:
            if not self._train(experiment):
                return 130
        return 0

    def _train(self, experiment: Any) -> bool:
        """Whether the training came to its end, or to `until`."""
        from tqdm import tqdm

        from repro.engine.registry import precision_note, run

        if note := precision_note(experiment):
            print(note, flush=True)
        name, total, seen, state = experiment.name, experiment.recipe.images, 0, experiment.state
        try:
            with (
                closing(run(experiment, self.until)) as steps,
                tqdm(total=total, unit="img", desc=name, mininterval=5, file=sys.stdout) as bar,
            ):
                for step in steps:
                    seen = step.images
                    bar.update(seen - bar.n)
                    bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
        except KeyboardInterrupt:
            kept = f"the same command goes on from {state}" if state.exists() else "nothing was to be kept yet"
            print(f"repro train: {name} is stopped; {kept}", file=sys.stderr)
            return False
        left = f"weights: {experiment.weights}" if seen >= total else f"state: {state}"
        print(f"{name}: {seen:,} of {total:,} images; {left}")
        return True


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
        for name in self.names:
            if name not in known:
                there = f"a check is of a whole room, one of {', '.join(known)}"
                raise ReproError(f"{there}: got {name!r}; --full measures one experiment")
        failed = 0
        for room in self.names:
            report = evaluation.check_room(room, self.profile)
            print(report.text())
            failed += len(report.failed)
        return 1 if failed else 0


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
            claims.write(claims.all_verdicts(), "repro claims")
            front.draw()
            print("README.md and figures/README.md:", "updated" if front.update() else "unchanged", flush=True)
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

        made = whence(self.file)
        print(made.command)
        known = by_id() if made.records else {}
        for identity in made.records:
            if record := known.get(identity):
                network = f"checkpoint {record.checkpoint[:12]}" if record.checkpoint else "nothing learned"
                print(f"  {identity}  {record.label}, {record.profile}, {network}: {record.command}")
            else:
                print(f"  {identity}  no longer among the committed records: the file is older than they are")
        return 0


@dataclass
class TablesCompare:
    """Compare regenerated tables with the committed ones, cell by cell; exit status 1 where they differ."""

    old: Positional[Path]
    """Folder with the committed .csv tables."""
    new: Positional[Path]
    """Folder with the regenerated ones."""

    def run(self) -> int:
        from repro.engine.compare import compare

        found = compare(self.old, self.new)
        print(found.text(), file=sys.stderr if found.differences else sys.stdout)
        return 1 if found.differences else 0
