"""The engine's commands; `repro/cli.py` lists them."""

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import Positional, arg

from repro import paths
from repro.data import pack
from repro.engine import claims, evaluation, front, records
from repro.engine.checkpoint import experiments, find, load_checkpoint, rooms, run, trained
from repro.engine.notebooks import reproduce
from repro.engine.provenance import provenance_of, save_figure
from repro.engine.train import DEVICE, has_bf16, with_progress
from repro.errors import ReproError, one_of, whole


@dataclass
class List:
    """List experiments."""

    method: Positional[str | None] = None
    """One method, by the name of its folder in repro/; all of them when it is left out."""

    def run(self) -> int:
        for e in experiments(self.method):
            state = "trained" if trained(e.name) else "begun" if e.state.exists() else "untrained"
            ships = "weights ship" if e.ships else "records only"
            print(f"{e.name:<36} {e.profile:<6} {state:<10} {ships:<13} {e.recipe.images:>9,} images  {e.summary}")
        return 0


@dataclass
class Train:
    """Train an experiment; the same command goes on after a kill."""

    names: Positional[tuple[str, ...]] = ()
    """Experiments to train one after another; `repro list` lists them."""
    until: int | None = None
    """Stop, with the state saved, after this many images."""

    def run(self) -> int:
        if not self.names:
            raise ReproError("train takes experiment names: `repro list` lists them")
        whole("--until", 1 if self.until is None else self.until, 1, 10**12)
        for e in [find(name) for name in self.names]:
            seen = with_progress(run(e, self.until), e.recipe, e.name, e.state).images
            left = f"weights: {e.weights}" if seen >= e.recipe.images else f"state: {e.state}"
            print(f"{e.name}: {seen:,} of {e.recipe.images:,} images; {left}")
        return 0


@dataclass
class Evaluate:
    """Make records, of trained networks and of baselines that need none, or check those there are."""

    names: Positional[tuple[str, ...]]
    """Experiments, or methods (all their experiments and baselines)."""
    full: bool = False
    """Make the full records that ship (minutes to hours). Without it, the fixed first-k subset is recomputed and
    compared with the committed records of the methods named."""
    missing: bool = False
    """With --full, only records that are missing or were made with other weights or data."""
    profile: str = "small"
    """Profile of the records: smoke, small or paper."""

    def run(self) -> int:
        if not self.names:
            raise ReproError("evaluate takes names of experiments or methods: `repro list` lists them")
        if self.missing and not self.full:
            raise ReproError("--missing goes with --full: without it no record is made")
        if self.full:
            for record in evaluation.full(self.names, self.profile, missing_only=self.missing):
                print(record.label, {name: record.values(name)[:3] for name in record.metrics}, flush=True)
            return 0
        chosen = [one_of("without --full a whole method is checked:", name, rooms()) for name in self.names]
        reports = [evaluation.check_room(room, self.profile) for room in chosen]
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
    """Other parameters, for every notebook chosen, checked by name, type, range and choice before any runs. Their
    figures go to build/, with the parameters in the provenance."""
    update: bool = False
    """Copy the executed notebooks back into notebooks/, without papermill's cell."""

    def run(self) -> int:
        values: dict[str, str] = {}
        for text in self.parameters:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier() or name in (*values, "profile"):
                accepted = "NAME=VALUE, each name once, 'steps=50' for example; the profile by --profile"
                raise ReproError(f"parameter {text!r}; accepted: {accepted}")
            values[name] = value
        runs = reproduce(self.notebooks, self.profile, values, self.update)
        failed, seconds = [run.name for run in runs if run.error is not None], sum(run.seconds for run in runs)
        print(f"{len(runs) - len(failed)} of {len(runs)} notebooks done in {seconds:.0f} s", flush=True)
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
            return 1
        if self.profile == "small" and not self.notebooks and not self.parameters:
            # What stands on all notebooks together: verdicts, the README's figure and tables, the index of figures/.
            claims.write([verdict for room in rooms() for verdict in claims.verdicts(room)], "repro claims")
            save_figure(front.picture(), "overview", (), "repro reproduce", photograph=True)
            front.update()
        return 0


@dataclass
class Claims:
    """Judge the papers' claims by rule on the committed records, print the verdicts, write figures/claims.{csv,md}."""

    method: Positional[str] = ""
    """One method, by the name of its folder in repro/; all, and the files written, when it is left out."""
    profile: str = "small"
    """Judge the records of this profile; only the verdicts of the small one are written."""

    def run(self) -> int:
        chosen = [one_of("method", self.method, rooms())] if self.method else rooms()
        found = [verdict for room in chosen for verdict in claims.verdicts(room, profile=self.profile)]
        print(claims.to_markdown(found), end="")
        if not self.method and self.profile == "small":
            print(*(f"written: {p}" for p in claims.write(found, "repro claims")), sep="\n")
        return 0


@dataclass
class ShowProvenance:
    """Print which records and which command made a figure or a table."""

    file: Positional[Path]
    """A .png, .jpg, .md or .csv file of figures/."""

    def run(self) -> int:
        made = provenance_of(self.file)
        print(made.command)
        known = {record.id: record for room in rooms() * bool(made.records) for record in records.load(room)}
        for identity in made.records:
            about = "no longer among the committed records: the file is older than they are"
            if record := known.get(identity):
                network = f"checkpoint {record.checkpoint[:12]}" if record.checkpoint else "nothing learned"
                about = f"{record.label}, {record.profile}, {network}: {record.command}"
            print(f"  {identity}  {about}")
        return 0


# Together these columns of a table name a row; without them its position does. They and `TEXT` are compared as text.
KEYS = ("record", "id", "part", "row", "column", "metric")
TEXT = ("records", "atol", "rtol")


@dataclass
class TablesCompare:
    """Compare regenerated tables with the committed ones, cell by cell; exit status 1 where they differ: text at all,
    numbers by more than the table's own columns atol and rtol state (else 1e-6 and 1e-4)."""

    old: Positional[Path]
    """Folder with the committed .csv tables."""
    new: Positional[Path]
    """Folder with the regenerated ones."""

    def run(self) -> int:
        before, after, differences = self._cells(self.old), self._cells(self.new), []
        for place in {**before, **after}:
            (a, atol, rtol), (b, *_) = (side.get(place, ("no such cell", None, None)) for side in (before, after))
            apart = ""
            with suppress(TypeError, ValueError):  # text
                allowed = float(atol) + float(rtol) * abs(float(a))
                if abs(float(a) - float(b)) <= allowed:
                    continue
                apart = f" ({allowed:.2g} apart is allowed)"
            if a != b:
                differences.append(f"{place}: committed {a or 'nothing'}, regenerated {b or 'nothing'}{apart}")
        counts = f"{len({**before, **after})} cells compared, {len(differences)} differ"
        print("\n".join([*differences, counts]), file=sys.stderr if differences else sys.stdout)
        return int(bool(differences))

    @staticmethod
    def _cells(folder: Path) -> dict[str, tuple[str, Any, Any]]:
        """Every cell of a folder's tables: "table, row, column" -> its text and, of a number, its tolerances' texts."""
        found = {}
        for path in sorted(folder.rglob("*.csv")):
            for line, row in enumerate(csv.DictReader(path.read_text(encoding="utf-8").splitlines()), start=2):
                tolerances = row.get("atol") or 1e-6, row.get("rtol") or 1e-4
                name = " / ".join(row[key] for key in KEYS if row.get(key)) or f"line {line}"
                for column, text in row.items():
                    within = (None, None) if column in (*KEYS, *TEXT) else tolerances
                    found[f"{path.relative_to(folder)}, {name}, {column}"] = text, *within
        if not found:
            raise ReproError(f"{folder}: no .csv table lies there, there is nothing to compare")
        return found


Finding = tuple[str, str]  # ok, warn or fail; what was found and, where it is not ok, what to do


def _of(good: bool, text: str, otherwise: str) -> Finding:
    return ("ok", text) if good else ("warn", otherwise)


def _machine() -> Iterator[Finding]:
    """Python, packages against what pyproject.toml requires, processors, the clone."""
    import torchvision

    python = f"Python {platform.python_version()}"
    yield _of((3, 11) <= sys.version_info[:2] <= (3, 13), python, f"{python}: 3.11, 3.12 or 3.13 is tested")
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    problems = [line for line in done.stdout.splitlines() if line.startswith("repro-diffusion ")]
    yield from (("fail", f"{line}: run `make install`") for line in problems)
    unknown = "there is no pip here that compares packages"
    yield _of(bool(done.stdout), "the required packages were compared with their ranges", unknown)
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # fails where they were built for different versions
    yield ("ok", f"torch {torch.__version__} and torchvision {torchvision.__version__} belong together")
    about, threads = records.hardware(), torch.get_num_threads()
    here = f"{about['cpu']}, {about['cores']} cores, {threads} threads, {about.get('gpu', 'no GPU')}"
    yield _of(threads <= about["cores"], here, f"{here}: set OMP_NUM_THREADS={about['cores']}")
    yield _of(has_bf16(DEVICE), "bf16 faster than fp32", "bf16 not faster than fp32 here: trainings run in fp32")
    if not os.access(paths.root(), os.W_OK):
        yield ("warn", f"{paths.root()} cannot be written: nothing can be regenerated here")


def _files() -> Iterator[Finding]:
    """Every shipped checkpoint is loaded: hash against its card, weights against its config. The embedded images."""
    folders = {p.name: p for p in sorted(paths.checkpoints().glob("[!.]*")) if p.is_dir()}
    for name, folder in folders.items():
        try:
            load_checkpoint(folder)
        except ReproError as error:
            yield ("fail", f"{error}; restore it with `git checkout -- checkpoints/{name}`")
    yield _of(bool(folders), f"{len(folders)} checkpoints were loaded and compared with their cards", "no checkpoints")
    absent = [e for e in experiments() if e.ships and e.name not in folders]
    yield from (("warn", f"no weights of {e.name} are here: `{e.command}` makes them") for e in absent)
    problems = [("fail", f"{p}: restore it with `git checkout -- repro/data/pack`") for p in pack.verify()]
    yield from problems or [("ok", "the embedded images are as committed")]


CHECKS = (_machine, _files)


def findings() -> Iterator[Finding]:
    """All findings; a check that breaks is itself a failure, and the others still run."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # whatever is broken here is what this command is for
            name = check.__name__.strip("_")
            yield ("fail", f"the check of {name} broke ({type(error).__name__}: {error}): run `make install`")


@dataclass(frozen=True)
class Doctor:
    """Check this installation: versions, hardware, weights, images; exit status 1 where something fails."""

    def run(self) -> int:
        print(f"clone at {paths.root()}")
        states = set()
        for state, text in findings():
            print(f"{state:<4}  {text}", flush=True)
            states.add(state)
        return int("fail" in states)
