"""What a notebook works with: its room's records in one profile, checked again, as tables, verdicts and images
(`Lesson`); and its exercises, whose answer is a number or a function."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro import paths
from repro.engine import claims, grid
from repro.engine.checkpoint import study_module
from repro.engine.evaluation import CheckReport, check_room, of_profile, records_of_profile
from repro.engine.provenance import save_figure
from repro.engine.records import Record
from repro.engine.rng import KeyedNoise
from repro.engine.tables import Table, Verified
from repro.errors import ReproError, one_of
from repro.ui.pictures import Drawn, Photos

PARAMETERS = "REPRO_PARAMETERS"  # set by `repro reproduce`: how it was called beside the profile
UPDATE = "REPRO_UPDATE"  # set by `repro reproduce`: only then does a notebook write into figures/
Judge = Callable[[Any], bool]  # whether an answer is right
Exercise = tuple[str, Callable[[], Judge], str]  # what it is about, maker of its judge, a hint


@dataclass(frozen=True)
class Lesson:
    """One profile of a notebook."""

    room: str  # whose records it shows, "" for none
    notebook: str  # its name, "04_ucdir"
    profile: str
    minutes: float  # measured on two cores
    settings: Mapping[str, Any] = field(default_factory=dict)  # the profile's own numbers, read as `now["crop"]`
    check: bool = True  # whether the first k of every record are measured again

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    @property
    def command(self) -> str:
        """What draws the notebook's images and tables again."""
        return f"repro reproduce {self.notebook[:2]}{of_profile(self.profile)}{os.environ.get(PARAMETERS, '')}"

    @property
    def figures(self) -> Path:
        """figures/ under `repro reproduce` in the small profile; build/<profile>/ where a notebook is run by hand."""
        return paths.figures() if self.profile == "small" and os.environ.get(UPDATE) else paths.build() / self.profile

    def records(self) -> list[Record]:
        """The room's records of this profile, under the names that tables and claims use."""
        return records_of_profile(self.room, self.profile)

    def recheck(self) -> CheckReport:
        """Measure the first k of every record again and compare; verifies nothing where `check` is off. Raises
        `ReproError` where a record and the shipped weights disagree: no table may be rendered from it."""
        if not self.check or self.profile != "small":
            return CheckReport()
        report = check_room(self.room, self.profile, write=self.figures == paths.figures())
        if report.failed:
            raise ReproError(f"the shipped weights contradict the records:\n{report.text()}")
        return report

    def tables(self, verified: Verified = ()) -> dict[str, Table]:
        """Every table of the room by name, written to `figures`."""
        made = grid.tables(self.room, self.records(), verified)
        if self.profile != "small":  # other data, perhaps other metrics
            aliases = getattr(study_module(self.room, "measure"), "ALIASES", {}) if self.profile == "paper" else {}
            instead = "".join(f"; {own} in the place of {small}" for own, small in aliases.items())
            sizes = "data and sizes are those of its configuration, not those named here"
            note, here = f"Profile {self.profile}: {sizes}{instead}.", f"; here profile {self.profile}"
            made = [replace(table, caption=table.caption + here, notes=(*table.notes, note)) for table in made]
        for table in made:
            table.write(self.command, self.figures / "tables")
        return {table.name: table for table in made}

    def verdicts(self, words: Mapping[str, str], verified: Verified | None = None) -> Any:
        """The paper's claims as one coloured figure; `words`: claim -> a few words beside its bar, in order."""
        from repro.ui.plots import verdict_bars

        found = {claim.id: claim for claim in claims.verdicts(self.room, profile=self.profile, verified=verified)}
        return verdict_bars({f"{i} · {text}": [f.verdict for f in found[i].findings] for i, text in words.items()})

    def keep(self, drawing: Any, name: str, records: Sequence[Record] = ()) -> Any:
        """Save a drawing as <name>.png, photographs as .jpg, with its provenance; returns what displays it."""
        drawn, folder = drawing if isinstance(drawing, Drawn) else Drawn(drawing), self.figures / "pictures"
        save_figure(drawn.pixels, name, records, self.command, photograph=isinstance(drawn, Photos), folder=folder)
        return drawn


def lesson(lessons: Mapping[str, Lesson], profile: str) -> Lesson:
    """The lesson of that profile. Raises `ReproError` naming those there are."""
    return lessons[one_of("profile", profile, lessons)]


def lines(
    records: Sequence[Record], metric: str, parts: Mapping[float, Any], series: Mapping[str, grid.Place], **axes: Any
) -> Any:
    """A curve of means with intervals: x -> a part of a cell, name -> (experiment, rest of it); `axes`: of `curve`."""
    from repro.ui.plots import curve, nothing

    drawn = {}
    for name, (experiment, cell) in series.items():
        means = [grid.ours(records, metric, [(experiment, {**cell, **part})]) for part in parts.values()]
        if all(c.records for c in means):
            drawn[name] = tuple(zip(*((c.value, *(c.interval or (c.value, c.value))) for c in means), strict=True))
    return curve([*parts], drawn, **axes) if drawn else nothing("no records of this profile")


def tensors(count: int, shape: tuple[int, ...] = (1, 4, 4), key: str = "exercise", batch: int = 3) -> list[Tensor]:
    """Numbers to try a reader's function on, (batch, *shape) float64 each."""
    noise = KeyedNoise(0, range(batch), key)
    return [noise.normal(shape, step=i).double() for i in range(count)]


def same(answer: Any, target: Tensor) -> bool:
    """Whether an answer is this tensor, to rounding."""
    alike = torch.is_tensor(answer) and answer.shape == target.shape
    return alike and torch.allclose(answer.double(), target, atol=1e-6)


def like(right: Callable[..., Tensor], *cases: tuple) -> Judge:
    """Whether a reader's function gives what `right` gives in every case."""
    return lambda answer: all(same(answer(*case), right(*case)) for case in cases)


def near(number: float, allowed: float = 1e-4) -> Callable[[], Judge]:
    """Whether an answer is this number, give or take `allowed`."""
    return lambda: lambda answer: abs(float(answer) - number) < allowed


def check_answer(name: str, answer: Any, among: Mapping[str, Exercise]) -> None:
    """Print whether `answer` to the exercise of that name is right; None means that the reader has not answered yet."""
    about, make, hint = among[one_of("exercise", name, among)]
    if answer is None:
        print(f"{name}: {about} — waiting for your answer")
        return
    try:
        right = bool(make()(answer))
    except Exception as error:  # whatever a reader's function raises is part of the answer
        print(f"{name}: not yet, your answer raised {type(error).__name__}: {error}")
        return
    print(f"{name}: right" if right else f"{name}: not yet. Hint: {hint}")
