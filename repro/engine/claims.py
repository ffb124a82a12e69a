"""The claim ledger: what the papers claim, as inequalities over measured records, and verdicts that follow by rule.

`repro/<room>/study/claims.toml` holds one `[[claim]]` per row, with `id`, `paper`, `text`, `evidence`, and either one
comparison in the claim itself or several under `[[claim.part]]` (each with a `name`). A comparison is

    rule = "greater" | "less" | "equal" | "exact" | "unmeasured"
    metric = "psnr-rgb"                                  # the protocol's name in the records
    left = { experiment = "...", cell = { steps = 50 } }  # which records; the cell may be given in part, and an
                                                          # experiment "…-s*" is the network at all its training seeds
    right = { ... } or a number
    margin = 0.01       # equal: fixed before the measurement
    tolerance = 1e-10   # exact
    min_seeds = 2       # training seeds wanted of a trained network (default 2); fewer are said in the verdict
    unit = "image"      # or "replicate": the values are repetitions of a set metric such as FID, not images
    reason = "..."      # unmeasured: why

greater / less   d = left - right, paired over units: reproduced = its 95% interval excludes zero in the claimed
                 direction, weaker = right sign, interval includes zero, not reproduced = wrong sign.
equal            reproduced = the interval of d lies inside +-margin, weaker = only d does, not reproduced = d does not.
exact            reproduced = every |d| <= tolerance, else not reproduced.
What has no record is `not measured at this scale`, with the reason. A claim of several parts gets the worst of theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro import paths
from repro.engine.atomic import locked, write_text
from repro.engine.check import verified as verified_by_check
from repro.engine.evaluation import looked_up
from repro.engine.judge import REPRODUCED, WORST_FIRST, Finding, judge
from repro.engine.ledger import Claim, load_ledger, rooms
from repro.engine.provenance import provenance
from repro.engine.tables import RE_EVALUATED, RECORDED, csv_text
from repro.errors import ReproError

COLUMNS = (
    *(
        "id",
        "part",
        "room",
        "paper",
        "text",
        "evidence",
        "rule",
        "metric",
        "verdict",
        "estimate",
        "low",
        "high",
        "bound",
    ),
    *("n", "seeds", "mark", "notes", "records"),
)


@dataclass(frozen=True)
class Verdict:
    """A claim with its findings; `verdict` is the worst of theirs."""

    claim: Claim
    room: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        return min((finding.verdict for finding in self.findings), key=WORST_FIRST.index)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for finding in self.findings for note in finding.notes))


def verdicts(
    room: str,
    *,
    profile: str = "small",
    verified: Collection[tuple[str, str]] | None = None,
    ledger: Path | None = None,
) -> list[Verdict]:
    """The room's claims judged on its records of one profile, in the ledger's order.

    `verified`: (id, metric) re-evaluated in this run, by default those of the last written check. Raises `ReproError`
    for a missing or damaged ledger, a selector that matches several cells, or a metric its records do not have.
    """
    records = looked_up(room, profile)
    known = verified_by_check(room, records) if verified is None else verified
    return [
        Verdict(claim, room, tuple(judge(part, records, known, f"claim {claim.id}") for part in claim.parts))
        for claim in load_ledger(room, ledger)
    ]


def all_verdicts(*, profile: str = "small") -> list[Verdict]:
    """The verdicts of every room that has a ledger. Raises `ReproError` where two rooms use one id."""
    found = [verdict for room in rooms() for verdict in verdicts(room, profile=profile)]
    owners: dict[str, str] = {}
    for verdict in found:
        if owners.setdefault(verdict.claim.id, verdict.room) != verdict.room:
            raise ReproError(
                f"claim {verdict.claim.id} stands in two ledgers: {owners[verdict.claim.id]}, {verdict.room}"
            )
    return found


def to_csv(found: Iterable[Verdict]) -> str:
    """One line per comparison."""
    rows = []
    for v in found:
        for f in v.findings:
            head = [
                v.claim.id,
                f.part,
                v.room,
                v.claim.paper,
                v.claim.text,
                v.claim.evidence,
                f.rule,
                f.metric,
                f.verdict,
            ]
            seeds = " / ".join(map(str, f.seeds))
            tail = [f.n or None, seeds, f.mark, "; ".join(f.notes), " ".join(f.records)]
            rows.append([*head, f.estimate, f.low, f.high, f.bound, *tail])
    return csv_text(COLUMNS, rows)


def to_markdown(found: Sequence[Verdict]) -> str:
    """The table for readers: a line per claim, with a line per part below it where there are several."""
    lines = ["| id | claim | paper | verdict | left − right [95% interval] | notes |", "|---|---|---|---|---|---|"]
    for v in found:
        several = len(v.findings) > 1
        first = v.findings[0]
        measured = (
            f"{sum(f.verdict == REPRODUCED for f in v.findings)} of {len(v.findings)} reproduced"
            if several
            else _d(first)
        )
        notes = "" if several else _notes(first)
        lines.append(
            _line(v.claim.id, v.claim.text, f"{v.claim.paper}; {v.claim.evidence}", f"**{v.verdict}**", measured, notes)
        )
        if several:
            lines += [_line("", f"– {f.part}", "", f.verdict, _d(f), _notes(f)) for f in v.findings]
    marks = {f.mark for v in found for f in v.findings}
    legend = [
        "Verdicts follow from the records by the rules of `repro/engine/claims.py`; nobody writes them by hand.",
        *(
            ["re-evaluated: a first-k subset was recomputed from the shipped weights and agreed."]
            * (RE_EVALUATED in marks)
        ),
        *(["† recorded: taken from committed records, not re-evaluated in this run."] * (RECORDED in marks)),
    ]
    return "\n".join([*lines, "", *(f"- {line}" for line in legend)]) + "\n"


def write(found: Sequence[Verdict], command: str, *, folder: Path | None = None) -> tuple[Path, Path]:
    """Write `figures/claims.csv` and `figures/claims.md` (with its provenance); returns both paths."""
    folder = folder or paths.figures()
    made = provenance([identity for v in found for f in v.findings for identity in f.records], command)
    with locked(folder):
        write_text(folder / "claims.csv", to_csv(found))
        write_text(folder / "claims.md", made.comment() + "\n\n" + to_markdown(found))
    return folder / "claims.csv", folder / "claims.md"


def _d(finding: Finding) -> str:
    if finding.estimate is None:
        return "—"
    sign = {RECORDED: "†"}.get(finding.mark, "")
    text = f"{finding.estimate:.3g}{sign}"
    text += "" if finding.low is None else f" [{finding.low:.3g}, {finding.high:.3g}]"
    limits = (
        {"equal": f", margin ±{finding.bound:g}", "exact": f", tolerance {finding.bound:g}"}
        if finding.bound is not None
        else {}
    )
    return text + limits.get(finding.rule, "")


def _notes(finding: Finding) -> str:
    units = "replicates" if any("replicates" in note for note in finding.notes) else "values"
    count = [f"{finding.metric}, {finding.n} {units}"] if finding.n else []
    return "; ".join([*count, *([finding.mark] if finding.mark and finding.n else []), *finding.notes])


def _line(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
