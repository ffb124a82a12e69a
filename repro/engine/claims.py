"""The claim ledger: what the papers claim, as inequalities over measured records, and verdicts that follow by rule.

`repro/<room>/study/claims.toml` holds one `[[claim]]` per row, with `id`, `paper` (or one for all, on top), `text`,
`evidence`, and one comparison, or several under `[[claim.part]]` with a `name` each (the claim then holds what they
share). A comparison is

    rule = "greater" | "less" | "equal" | "exact" | "unmeasured"
    metric = "psnr-rgb"                                   # its name in the records
    left = { experiment = "...", cell = { steps = 50 } }  # records: part of the cell is enough, "…-s*" is all seeds
    right = { ... } or a number
    margin = 0.01       # equal: fixed before the measurement
    tolerance = 1e-10   # exact
    min_seeds = 2       # training seeds that a trained network should have (default 2); the verdict names fewer
    reason = "..."      # unmeasured: why
    each = { ... }      # repeats the comparison, as in `repro.engine.grid`

greater / less   d = left - right, paired over images (or repetitions of a set metric such as FID): reproduced = its
                 95% interval excludes zero in the claimed direction, weaker = right sign, interval includes zero, not
                 reproduced = wrong sign.
equal            reproduced = the interval of d lies inside +-margin, weaker = only d does, not reproduced = d does not.
exact            reproduced = every |d| <= tolerance, else not reproduced.
What has no record is `not measured at this scale`, with the reason. A claim of several parts gets the worst of theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repro import paths
from repro.engine import evaluation, stats
from repro.engine.grid import expanded
from repro.engine.records import Record, place, rounded, select
from repro.engine.tables import RE_EVALUATED, RECORDED, Verified, csv_text, mark_of, table_line, write_pair
from repro.errors import ReproError, one_of

LEDGER = "claims.toml"
REPRODUCED, WEAKER, NOT_REPRODUCED = "reproduced", "weaker", "not reproduced"
NOT_MEASURED = "not measured at this scale"
WORST_FIRST = (NOT_REPRODUCED, NOT_MEASURED, WEAKER, REPRODUCED)
# A rule, and the field that it needs beside metric, left and right.
RULES = {"greater": "metric", "less": "metric", "equal": "margin", "exact": "tolerance", "unmeasured": "reason"}
COLUMNS = (
    *("id", "part", "room", "paper", "text", "evidence", "rule", "metric", "verdict"),
    *("estimate", "low", "high", "bound", "n", "seeds", "mark", "notes", "records"),
)
Side = Mapping[str, Any] | float  # what `select` takes, experiment and cell; or a constant


@dataclass(frozen=True)
class Comparison:
    """One inequality of a claim; fields that its rule does not use keep their defaults."""

    rule: str
    name: str = ""
    metric: str = ""
    left: Side = 0.0
    right: Side = 0.0
    margin: float | None = None
    tolerance: float | None = None
    min_seeds: int = 2
    reason: str = ""

    def __post_init__(self) -> None:
        if not getattr(self, RULES[one_of("rule", self.rule, RULES)]):
            raise ReproError(f"rule {self.rule!r} needs {RULES[self.rule]}, above 0 where it is a number")


@dataclass(frozen=True)
class Finding:
    """One comparison measured: d = left - right with its interval, and the notes on it."""

    part: Comparison
    verdict: str = NOT_MEASURED
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class Claim:
    """One row of the ledger; once judged it has one finding a part."""

    id: str
    room: str
    paper: str
    text: str
    evidence: str
    parts: tuple[Comparison, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> str:
        """The worst of its findings."""
        return min((finding.verdict for finding in self.findings), key=WORST_FIRST.index)


def load_ledger(room: str) -> tuple[Claim, ...]:
    """The room's claims. Raises `ReproError`, naming file and claim, for anything a ledger may not contain."""
    path, found = paths.room_file(room, LEDGER), []
    content = paths.read_toml(path)
    for entry in content["claim"]:
        head = {key: entry.pop(key, content.get(key)) for key in ("id", "paper", "text", "evidence")}
        given = entry.pop("part", [{}])
        try:
            parts = tuple(Comparison(**part) for part in expanded(content, [entry | part for part in given]))
        except (ReproError, TypeError) as error:
            raise ReproError(f"{path}, claim {head['id']}: {error}") from None
        found.append(Claim(room=room, parts=parts, **head))
    return tuple(found)


def verdicts(room: str, *, profile: str = "small", verified: Verified | None = None) -> list[Claim]:
    """The room's claims judged on its records of one profile. `verified`: (id, metric) re-evaluated in this run, by
    default those of the last written check. Raises `ReproError` for a bad ledger, a side that matches several cells, or
    a metric that its records do not have."""
    records = evaluation.records_of_profile(room, profile)
    known = evaluation.verified(room, records) if verified is None else verified
    judged = []
    for claim in load_ledger(room):
        try:
            judged.append(replace(claim, findings=tuple(_judged(part, records, known) for part in claim.parts)))
        except ReproError as error:
            raise ReproError(f"claim {claim.id}: {error}") from None
    return judged


def _judged(part: Comparison, records: Sequence[Record], verified: Verified) -> Finding:
    if part.rule == "unmeasured":
        return Finding(part, notes=(part.reason,))
    sides: list[list[Record]] = []
    for side in (side for side in (part.left, part.right) if isinstance(side, Mapping)):
        sides.append(group := sorted(select(records, **side), key=lambda record: record.seed))
        if not group:
            return Finding(part, notes=(f"no record of {place(**side)}",))
        if len({record.seed for record in group}) != len(group) or len({str(record.cell) for record in group}) > 1:
            labels = "; ".join(record.label for record in group[:3])
            raise ReproError(f"{place(**side)} matches several cells, name more of the cell: {labels}")
    ids = tuple(sorted({record.id for side in sides for record in side}))
    found = _measured(part, *sides)
    return replace(found, records=ids, mark=mark_of(ids, part.metric, verified))


def _measured(part: Comparison, left: Sequence[Record], right: Sequence[Record] = ()) -> Finding:
    """The verdict on records of one cell a side, one record per training seed; a constant stands for no `right`."""
    used = [*left, *right]
    a, b = ([record.values(part.metric) for record in side] for side in (left, right))
    if part.rule == "exact":
        worst = float(max(np.ravel(np.array(a) - (np.array(b) if right else part.right)), key=abs))
        verdict = REPRODUCED if abs(worst) <= part.tolerance else NOT_REPRODUCED
        return Finding(part, verdict, rounded(worst), n=sum(map(len, a)), notes=("exact, from an oracle",))
    # One value per image, or repetitions of a set metric such as FID.
    images = all(len(values) == record.n for record, values in zip(used, [*a, *b], strict=True))
    if (fewest := min(map(len, [*a, *b]))) < stats.MIN_UNITS:
        units = "images" if images else "replicates"
        return Finding(part, notes=(f"{fewest} {units} measured, an interval needs at least {stats.MIN_UNITS}",))
    if right and images and len({record.data for record in used}) > 1:
        raise ReproError("the two sides were measured on different data, a paired comparison needs the same")
    if right:  # the same networks on both sides: their seeds vary together
        same = [(r.seed, r.checkpoint) for r in left] == [(r.seed, r.checkpoint) for r in right]
        d = stats.paired_difference(a, b, same_networks=same)
    else:
        d = stats.mean_interval(np.array(a) - part.right)
    notes = []
    trained = [len(group) for group in (left, right) if any(r.checkpoint for r in group)]
    if (fewest := min(trained, default=part.min_seeds)) < part.min_seeds:
        notes.append("single seed" if fewest == 1 else f"{fewest} of {part.min_seeds} training seeds")
    if not images:
        notes.append("interval over replicates of the set metric (disjoint sampling seeds), not over images")
    if part.rule == "equal":
        inside = -part.margin <= d.low and d.high <= part.margin
        verdict = REPRODUCED if inside else WEAKER if abs(d.estimate) <= part.margin else NOT_REPRODUCED
    elif d.estimate * (1 if part.rule == "greater" else -1) <= 0:
        verdict = NOT_REPRODUCED
    else:
        verdict = REPRODUCED if d.excludes_zero else WEAKER
    return Finding(part, verdict, *map(rounded, (d.estimate, d.low, d.high)), d.n, d.seeds, tuple(notes))


def to_csv(found: Iterable[Claim]) -> str:
    """One line per comparison."""
    rows = []
    for c, f in ((claim, finding) for claim in found for finding in claim.findings):
        head = (c.id, f.part.name, c.room, c.paper, c.text, c.evidence, f.part.rule, f.part.metric, f.verdict)
        bound = f.part.margin if f.part.rule == "equal" else f.part.tolerance
        tail = (" / ".join(map(str, f.seeds)), f.mark, "; ".join(f.notes), " ".join(f.records))
        rows.append((*head, f.estimate, f.low, f.high, bound, f.n or None, *tail))
    return csv_text(COLUMNS, rows)


def to_markdown(found: Sequence[Claim]) -> str:
    """The table for readers: a line per claim, with a line per part below it where there are several."""
    lines = ["| id | claim | paper | verdict | left − right [95% interval] | notes |", "|---|---|---|---|---|---|"]
    for c in found:
        good, several = sum(f.verdict == REPRODUCED for f in c.findings), len(c.findings) > 1
        summary = (f"{good} of {len(c.findings)} reproduced", "") if several else _summary(c.findings[0])
        lines.append(table_line([c.id, c.text, f"{c.paper}; {c.evidence}", f"**{c.verdict}**", *summary]))
        lines += [table_line(["", f"– {f.part.name}", "", f.verdict, *_summary(f)]) for f in c.findings * several]
    marks = {f.mark for c in found for f in c.findings}
    again = "- re-evaluated: a first-k subset was recomputed from the shipped weights and agreed."
    once = "- † recorded: taken from committed records, not re-evaluated in this run."
    how = "- Verdicts follow from the records by the rules of `repro/engine/claims.py`; nobody writes them by hand."
    return "\n".join([*lines, "", how, *[again] * (RE_EVALUATED in marks), *[once] * (RECORDED in marks)]) + "\n"


def _summary(f: Finding) -> tuple[str, str]:
    """The difference with its interval, and the notes."""
    text = "—" if f.estimate is None else f"{f.estimate:.3g}" + "†" * (f.mark == RECORDED)
    text += "" if f.low is None else f" [{f.low:.3g}, {f.high:.3g}]"
    if f.estimate is not None and f.part.rule in ("equal", "exact"):
        text += f", margin ±{f.part.margin:g}" if f.part.rule == "equal" else f", tolerance {f.part.tolerance:g}"
    units = "replicates" if any("replicates" in note for note in f.notes) else "values"
    measured = [f"{f.part.metric}, {f.n} {units}", *([f.mark] if f.mark else [])] if f.n else []
    return text, "; ".join([*measured, *f.notes])


def write(found: Sequence[Claim], command: str) -> tuple[Path, Path]:
    """Write `figures/claims.csv` and `figures/claims.md` (with its provenance); returns both paths."""
    ids = [identity for c in found for f in c.findings for identity in f.records]
    return write_pair(paths.figures() / "claims", to_csv(found), to_markdown(found), ids, command)
