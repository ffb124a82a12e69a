"""One comparison of a claim, judged by the rules that claims.py states."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from repro.engine import stats
from repro.engine.ledger import Comparison, Selector
from repro.engine.records import Record, rounded, select
from repro.engine.tables import RE_EVALUATED, RECORDED
from repro.errors import ReproError

REPRODUCED, WEAKER, NOT_REPRODUCED = "reproduced", "weaker", "not reproduced"
NOT_MEASURED = "not measured at this scale"
WORST_FIRST = (NOT_REPRODUCED, NOT_MEASURED, WEAKER, REPRODUCED)


@dataclass(frozen=True)
class Finding:
    """One comparison measured: d = left - right with its interval, and what has to be said about it."""

    part: str
    rule: str
    metric: str
    verdict: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None  # the ledger's margin or tolerance
    n: int = 0
    seeds: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    mark: str = ""


def judge(part: Comparison, records: Sequence[Record], verified: Collection[tuple[str, str]], where: str) -> Finding:
    """The finding of one comparison on the records of one profile; `where` opens the sentence of an error."""
    where = f"{where} {part.name}".rstrip()
    bound = part.margin if part.rule == "equal" else part.tolerance
    blank = Finding(part.name, part.rule, part.metric, NOT_MEASURED, bound=bound)
    if part.rule == "unmeasured":
        return replace(blank, notes=(part.reason,))
    left, right = (_matching(side, records, where) for side in (part.left, part.right))
    for side, group in ((part.left, left), (part.right, right)):
        if group == []:
            return replace(blank, notes=(f"no record of {side}",))
    used = [*left, *(right or ())]
    ids = tuple(sorted({record.id for record in used}))
    mark = RE_EVALUATED if all((identity, part.metric) in verified for identity in ids) else RECORDED
    blank = replace(blank, records=ids, mark=mark)
    try:
        a = [record.values(part.metric) for record in left]
        b = None if right is None else [record.values(part.metric) for record in right]
    except ReproError as error:
        raise ReproError(f"{where}: {error}") from None
    if part.rule == "exact":
        return _exact(part, a, b, blank, where)
    return _statistical(part, left, right, a, b, blank, where)


def _matching(side: Selector | float, records: Sequence[Record], where: str) -> list[Record] | None:
    """The side's records, one per training seed; None for a constant."""
    if not isinstance(side, Selector):
        return None
    group = sorted(select(records, experiment=side.experiment, cell=side.cell), key=lambda record: record.seed)
    if len({record.seed for record in group}) != len(group):
        shown = "; ".join(record.label for record in group[:3])
        raise ReproError(f"{where}: {side} matches several cells, name more of the cell: {shown}")
    if len({tuple(sorted(record.cell.items(), key=str)) for record in group}) > 1:
        raise ReproError(
            f"{where}: {side} matches a different cell at every seed: {'; '.join(r.label for r in group[:3])}"
        )
    return group


def _exact(part: Comparison, a: list, b: list | None, blank: Finding, where: str) -> Finding:
    left = [value for row in a for value in row]
    right = [float(part.right)] * len(left) if b is None else [value for row in b for value in row]
    if len(left) != len(right):
        raise ReproError(f"{where}: an exact comparison of {len(left)} values with {len(right)}")
    worst = max((x - y for x, y in zip(left, right, strict=True)), key=abs)
    verdict = REPRODUCED if abs(worst) <= part.tolerance else NOT_REPRODUCED
    return replace(blank, verdict=verdict, estimate=rounded(worst), n=len(left), notes=("exact, from an oracle",))


def _statistical(
    part: Comparison,
    left: list[Record],
    right: list[Record] | None,
    a: list,
    b: list | None,
    blank: Finding,
    where: str,
) -> Finding:
    used = [*left, *(right or ())]
    lengths = {len(row) for row in [*a, *(b or [])]}
    if min(lengths) < stats.MIN_UNITS:
        unit = "replicates" if part.unit == "replicate" else "images"
        why = f"{min(lengths)} {unit} measured, an interval needs at least {stats.MIN_UNITS}"
        return replace(blank, notes=(why,))
    if part.unit == "image" and any(len(row) != r.n for r, row in zip(used, [*a, *(b or [])], strict=True)):
        raise ReproError(
            f"{where}: {part.metric} is not one value per image; repetitions of a set metric need unit = 'replicate'"
        )
    if b is not None and part.unit == "image" and len({record.data for record in used}) > 1:
        raise ReproError(f"{where}: the two sides were measured on different data, a paired comparison needs the same")
    try:
        if b is None:
            found = stats.mean_interval(a)
            d = stats.Interval(
                found.estimate - part.right, found.low - part.right, found.high - part.right, found.n, found.seeds
            )
        else:
            d = stats.paired_difference(a, b, same_networks=_same_networks(left, right))
    except ReproError as error:
        raise ReproError(f"{where}: {error}") from None
    verdict = _by_rule(part, d)
    bounds = {"estimate": rounded(d.estimate), "low": rounded(d.low), "high": rounded(d.high)}
    return replace(blank, verdict=verdict, n=d.n, seeds=d.seeds, notes=_said(part, left, right), **bounds)


def _by_rule(part: Comparison, d: stats.Interval) -> str:
    if part.rule == "equal":
        inside = -part.margin <= d.low and d.high <= part.margin
        return REPRODUCED if inside else WEAKER if abs(d.estimate) <= part.margin else NOT_REPRODUCED
    sign = 1 if part.rule == "greater" else -1
    if sign * d.estimate <= 0:
        return NOT_REPRODUCED
    return REPRODUCED if d.excludes_zero else WEAKER


def _same_networks(left: list[Record], right: list[Record]) -> bool:
    """Both sides sample the very same weights, seed by seed: their seeds vary together."""
    return [(r.seed, r.checkpoint) for r in left] == [(r.seed, r.checkpoint) for r in right]


def _said(part: Comparison, left: list[Record], right: list[Record] | None) -> tuple[str, ...]:
    notes = []
    trained = [group for group in (left, right or []) if any(record.checkpoint for record in group)]
    fewest = min(map(len, trained), default=None)
    if fewest is not None and fewest < part.min_seeds:
        notes.append("single seed" if fewest == 1 else f"{fewest} of {part.min_seeds} training seeds")
    if part.unit == "replicate":
        notes.append("interval over replicates of the set metric (disjoint sampling seeds), not over images")
    return tuple(notes)
