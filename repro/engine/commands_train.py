"""`repro list`, `repro train`, `repro evaluate`."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import closing

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
        from repro.engine.evaluation import trained
        from repro.engine.registry import experiments
        from repro.engine.run import state_path

        for e in experiments(self.room):
            state = "trained" if trained(e.name) else "begun" if state_path(e).exists() else "untrained"
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

        from repro.engine.evaluation import trained
        from repro.engine.registry import experiments, find
        from repro.engine.run import precision_note, run, state_path, weights_path

        if bool(self.names) == self.all:
            raise ReproError("train takes experiment names or --all, one of the two: `repro list` shows the names")
        if self.until is not None and self.until < 1:
            raise ReproError(f"--until counts images and must be positive: got {self.until}")
        chosen = [find(name) for name in self.names] or [
            e for e in experiments() if e.profile == "small" and not trained(e.name)
        ]
        for experiment in chosen:
            if note := precision_note(experiment):
                print(note, flush=True)
            total, seen = experiment.recipe.images, 0
            try:
                with (
                    closing(run(experiment, self.until)) as steps,
                    tqdm(total=total, unit="img", desc=experiment.name, mininterval=5, file=sys.stdout) as bar,
                ):
                    for step in steps:
                        seen = step.images
                        bar.update(seen - bar.n)
                        bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
            except KeyboardInterrupt:
                state = state_path(experiment)
                kept = f"the same command goes on from {state}" if state.exists() else "nothing was to be kept yet"
                print(f"repro train: {experiment.name} is stopped; {kept}", file=sys.stderr)
                return 130
            where = weights_path(experiment) if seen >= total else state_path(experiment)
            print(
                f"{experiment.name}: {seen:,} of {total:,} images; {'weights' if seen >= total else 'state'}: {where}"
            )
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
