"""`repro list`, `repro train`, `repro evaluate`."""

from __future__ import annotations

import dataclasses
import sys

from tyro.conf import Positional

from repro.errors import ReproError


@dataclasses.dataclass(frozen=True)
class List:
    """List experiments.

    Args:
        room: only this room (ddpm, editing, rddm, ucdir, adir).
    """

    room: Positional[str | None] = None

    def run(self) -> int:
        from repro import paths
        from repro.engine.registry import experiments
        from repro.engine.run import state_path

        for e in experiments(self.room):
            shipped = (paths.checkpoints() / e.name).is_dir()
            state = "trained" if shipped else "begun" if state_path(e).exists() else "untrained"
            ships = "weights ship" if e.ships else "records only"
            print(f"{e.name:<36} {e.profile:<6} {state:<10} {ships:<13} {e.recipe.images:>9,} images  {e.summary}")
        return 0


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an experiment; the same command goes on after a kill.

    Args:
        names: experiments to train one after another; `repro list` shows them.
        all: every experiment that is not trained yet.
        until: stop, with the state saved, once this many images are seen.
    """

    names: Positional[tuple[str, ...]] = ()
    all: bool = False
    until: int | None = None

    def run(self) -> int:
        from tqdm import tqdm

        from repro import paths
        from repro.engine.registry import experiments, find
        from repro.engine.run import precision_note, run

        if bool(self.names) == self.all:
            raise ReproError("train takes experiment names or --all, one of the two: `repro list` shows the names")
        if self.until is not None and self.until < 1:
            raise ReproError(f"--until counts images and must be positive: got {self.until}")
        chosen = [find(name) for name in self.names] or [
            e for e in experiments() if e.profile == "small" and not (paths.checkpoints() / e.name).is_dir()
        ]
        for experiment in chosen:
            if note := precision_note(experiment):
                print(note, flush=True)
            total = experiment.recipe.images
            with tqdm(total=total, unit="img", desc=experiment.name, mininterval=5, file=sys.stdout) as bar:
                for step in run(experiment, self.until):
                    bar.update(step.images - bar.n)
                    bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
        return 0


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Make records: of a trained network, or of a room's rows that need none.

    Args:
        names: experiments, or rooms (all their experiments and baselines).
        full: make the full records that ship (minutes to hours). Without it, the fixed first-k subset is recomputed
            and compared with the committed records of the rooms named.
        missing: with --full, only records that are missing or were made with other weights or data.
        profile: smoke, small or paper.
    """

    names: Positional[tuple[str, ...]]
    full: bool = False
    missing: bool = False
    profile: str = "small"

    def run(self) -> int:
        from repro.engine import evaluation

        if not self.names:
            raise ReproError("evaluate takes experiment or room names: `repro list` shows them")
        if self.full:
            for record in evaluation.full(self.names, self.profile, missing_only=self.missing):
                print(record.label, {name: record.values(name)[:3] for name in record.metrics}, flush=True)
            return 0
        for name in self.names:
            if name not in evaluation.rooms_with_rows():
                raise ReproError(
                    f"a check is of a whole room, one of {', '.join(evaluation.rooms_with_rows())}: got {name!r}; "
                    "--full measures one experiment"
                )
        failed = 0
        for room in self.names:
            report = evaluation.check_room(room, self.profile)
            print(report.text())
            failed += len(report.failed)
        return 1 if failed else 0
