"""The engine's commands; `repro/cli.py` lists them."""

import csv
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from tyro.conf import Positional, arg

from repro import paths
from repro.errors import ReproError, one_of


@dataclass
class List:
    """List experiments."""

    room: Positional[str | None] = None
    """Only this room (ddpm, editing, rddm, ucdir, adir)."""

    def run(self) -> int:
        from repro.engine.checkpoint import experiments, trained

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
        from repro.engine.checkpoint import DEVICE, experiments, find, run, trained
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
        from repro.engine.records import ROOMS

        if not self.names:
            raise ReproError("evaluate takes experiment or room names: `repro list` shows them")
        if self.full:
            for record in evaluation.full(self.names, self.profile, missing_only=self.missing):
                print(record.label, {name: record.values(name)[:3] for name in record.metrics}, flush=True)
            return 0
        if other := [name for name in self.names if name not in ROOMS]:
            there = f"a check is of a whole room, one of {', '.join(ROOMS)}"
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
        from repro.engine.records import ROOMS

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
            claims.write([verdict for room in ROOMS for verdict in claims.verdicts(room)], "repro claims")
            save_figure(front.picture(), "overview", (), "repro reproduce", photograph=True)
            front.update()
        return 0


@dataclass
class Claims:
    """Judge the papers' claims by rule on the committed records, print the verdicts, write figures/claims.{csv,md}."""

    room: Positional[str] = ""
    """One room (ddpm, editing, rddm, ucdir, adir); all rooms, and the files written, when it is left out."""
    profile: str = "small"
    """Judge the records of this profile; what is written is of the small one alone."""
    write: bool = True
    """Write the overview of all rooms; --no-write only prints."""

    def run(self) -> int:
        from repro.engine import claims
        from repro.engine.records import ROOMS

        rooms = [one_of("room", self.room, ROOMS)] if self.room else ROOMS
        found = [verdict for room in rooms for verdict in claims.verdicts(room, profile=self.profile)]
        print(claims.to_markdown(found), end="")
        if self.write and not self.room and self.profile == "small":
            print(*(f"written: {p}" for p in claims.write(found, "repro claims")), sep="\n")
        return 0


@dataclass
class Whence:
    """Say which records and which command made a figure or a table."""

    file: Positional[Path]
    """A .png, .jpg, .md or .csv file of figures/."""

    def run(self) -> int:
        from repro.engine.provenance import whence
        from repro.engine.records import ROOMS, load

        made = whence(self.file)
        print(made.command)
        known = {record.id: record for room in ROOMS * bool(made.records) for record in load(room)}
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
    """Compare regenerated tables with the committed ones, cell by cell; exit status 1 where they differ.

    Text must be equal, numbers within what the table's own columns atol and rtol state (else 1e-6 and 1e-4).
    """

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
                allowed = atol + rtol * abs(float(a))
                if abs(float(a) - float(b)) <= allowed:
                    continue
                apart = f" ({allowed:.2g} apart is allowed)"
            if a != b:
                differences.append(f"{place}: committed {a or 'nothing'}, regenerated {b or 'nothing'}{apart}")
        counts = f"{len({**before, **after})} cells compared, {len(differences)} differ"
        print("\n".join([*differences, counts]), file=sys.stderr if differences else sys.stdout)
        return int(bool(differences))

    @staticmethod
    def _cells(folder: Path) -> dict[str, tuple[str, float | None, float | None]]:
        """Every cell of a folder's tables: "table, row, column" -> its text and, of a number, its tolerances."""
        found = {}
        for path in sorted(folder.rglob("*.csv")):
            for line, row in enumerate(csv.DictReader(path.read_text(encoding="utf-8").splitlines()), start=2):
                tolerances = float(row.get("atol") or 1e-6), float(row.get("rtol") or 1e-4)
                name = " / ".join(row[key] for key in KEYS if row.get(key)) or f"line {line}"
                for column, text in row.items():
                    within = (None, None) if column in (*KEYS, *TEXT) else tolerances
                    found[f"{path.relative_to(folder)}, {name}, {column}"] = text, *within
        if not found:
            raise ReproError(f"{folder}: no .csv table lies there, there is nothing to compare")
        return found


class Finding(NamedTuple):
    """`state` is ok, warn or fail; `text` says what `repro doctor` found and, where it is not ok, what to do."""

    state: str
    text: str


def _of(good: bool, text: str, otherwise: str) -> Finding:
    return Finding("ok", text) if good else Finding("warn", otherwise)


def _machine() -> Iterator[Finding]:
    """Python, packages against what pyproject.toml requires, processors, disk, browser."""
    import torch
    import torchvision

    from repro.engine.records import hardware
    from repro.engine.train import has_bf16

    python = f"Python {platform.python_version()}"
    yield _of((3, 11) <= sys.version_info[:2] <= (3, 13), python, f"{python}: 3.11, 3.12 or 3.13 is tested")
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    problems = [line for line in done.stdout.splitlines() if line.startswith("repro-diffusion ")]
    good, unknown = "the required packages are in their ranges", "there is no pip here that compares packages"
    yield from [Finding("fail", f"{line}: run `make install`") for line in problems] or [
        _of("No module named pip" not in done.stderr, good, unknown)
    ]
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # fails where they were built for different versions
    yield Finding("ok", f"torch {torch.__version__} and torchvision {torchvision.__version__} belong together")
    about, threads = hardware(), torch.get_num_threads()
    here = f"{about['cpu']}, {about['cores']} cores, {threads} threads, {about.get('gpu', 'no GPU')}"
    yield _of(threads <= about["cores"], here, f"{here}: set OMP_NUM_THREADS={about['cores']}")
    fast = has_bf16("cuda" if "gpu" in about else "cpu")
    yield _of(fast, "bf16 in hardware", "no bf16 in this processor: trainings run in fp32")
    free = f"{(gigabytes := shutil.disk_usage(paths.root()).free / 1e9):.1f} GB of disk free"
    yield _of(gigabytes >= 2, free, f"{free}: training may fill it")
    if not os.access(paths.root(), os.W_OK):
        yield Finding("warn", f"{paths.root()} cannot be written: nothing can be regenerated here")
    chromium = os.environ.get("REPRO_BROWSER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    missing = "no Chromium: the browser tests will be skipped (on Debian: apt-get install chromium)"
    yield _of(bool(chromium), f"Chromium at {chromium}, for the browser tests", missing)


def _checkpoints() -> Iterator[Finding]:
    """Every shipped checkpoint is loaded: hash against its card, weights against its config."""
    from repro.engine.checkpoint import experiments, load_checkpoint

    folders = {p.name: p for p in sorted(paths.checkpoints().glob("[!.]*")) if p.is_dir()}
    for name, folder in folders.items():
        try:
            load_checkpoint(folder)
        except ReproError as error:
            yield Finding("fail", f"{error}; restore it with `git checkout -- checkpoints/{name}`")
    yield _of(bool(folders), f"{len(folders)} checkpoints were loaded and compared with their cards", "no checkpoints")
    for missing in (e for e in experiments() if e.ships and e.name not in folders):
        yield Finding("warn", f"no weights of {missing.name} are here: `{missing.command}` makes them")


def _pack() -> Iterator[Finding]:
    from repro.data import pack

    problems = [Finding("fail", f"{p}: restore it with `git checkout -- repro/data/pack`") for p in pack.verify()]
    yield from problems or [Finding("ok", "the embedded images are as committed")]


CHECKS = (_machine, _checkpoints, _pack)


def findings() -> Iterator[Finding]:
    """All findings; a check that breaks is itself a failure, and the others still run."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # whatever is broken here is what this command is for
            name = check.__name__.strip("_")
            yield Finding("fail", f"the check of {name} broke ({type(error).__name__}: {error}): run `make install`")


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
