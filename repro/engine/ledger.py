"""Reading `claims.toml` strictly: what claims.py documents, and nothing else. Errors name the file and the claim."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repro import paths
from repro.engine.atomic import read_toml
from repro.engine.records import ROOMS, Scalar
from repro.errors import ReproError

# A rule, and the one field that it needs and no other rule takes.
RULES = {"greater": "", "less": "", "equal": "margin", "exact": "tolerance", "unmeasured": "reason"}
UNITS = ("image", "replicate")


@dataclass(frozen=True)
class Selector:
    """Records of one experiment whose cell contains `cell`; one cell, any number of seeds."""

    experiment: str
    cell: Mapping[str, Scalar] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.cell.items())
        return self.experiment + (f" ({inside})" if inside else "")


@dataclass(frozen=True)
class Comparison:
    """One inequality of a claim; the fields its rule does not use stay at their defaults."""

    rule: str
    name: str = ""
    metric: str = ""
    left: Selector | float = 0.0
    right: Selector | float = 0.0
    margin: float | None = None
    tolerance: float | None = None
    min_seeds: int = 2
    unit: str = "image"
    reason: str = ""

    def __post_init__(self) -> None:
        for side in ("left", "right"):
            if isinstance(value := getattr(self, side), Mapping):
                object.__setattr__(self, side, _made(Selector, value, side))
        if self.rule not in RULES:
            raise ReproError(f"rule is {self.rule!r}, accepted are {', '.join(RULES)}")
        for own in filter(None, RULES.values()):
            if (getattr(self, own) in (None, "")) == (own == RULES[self.rule]):
                verb = "needs" if own == RULES[self.rule] else "takes no"
                raise ReproError(f"rule {self.rule!r} {verb} {own}")
        if self.rule != "unmeasured" and not (self.metric and isinstance(self.left, Selector)):
            raise ReproError("a metric and left = { experiment = ..., cell = { ... } } are needed")
        margin, tolerance = (1.0 if self.margin is None else self.margin), self.tolerance or 0.0
        if not (0 < margin < math.inf and 0 <= tolerance < math.inf):
            raise ReproError(f"margin {margin}, tolerance {tolerance}: a number above 0, and one from 0, is needed")
        if self.unit not in UNITS or self.min_seeds < 1:
            raise ReproError(f"unit {self.unit!r}, min_seeds {self.min_seeds}: {' or '.join(UNITS)} and 1 or more")


@dataclass(frozen=True)
class Claim:
    """One row of the ledger."""

    id: str
    paper: str
    text: str
    evidence: str
    parts: tuple[Comparison, ...]


@dataclass(frozen=True)
class Headline:
    """The comparison that stands for the paper in the README: which, in words, and the paper's own two numbers."""

    name: str
    text: str
    claim: str
    part: str
    unit: str = ""
    paper: tuple[tuple[str, str, str], ...] = ()  # left and right: [table, row, column] of paper_numbers.csv


def path_of(room: str) -> Path:
    """The room's `claims.toml`, beside the study that it judges."""
    return paths.room_file(room, "claims.toml")


def rooms() -> tuple[str, ...]:
    """Rooms that have a ledger, in the notebooks' order."""
    return tuple(room for room in ROOMS if path_of(room).is_file())


def load_ledger(room: str, path: Path | None = None) -> tuple[Claim, ...]:
    """The room's claims. Raises `ReproError` for anything a ledger may not contain."""
    path = path or path_of(room)
    content = read_toml(path)
    if set(content) - {"headline"} != {"claim"}:
        raise ReproError(f"{path}: [[claim]] tables, one [headline] and nothing else, found {sorted(content)}")
    found: dict[str, Claim] = {}
    for entry in content["claim"]:
        where = f"{path}, claim {entry.get('id')}"
        head = {key: entry.pop(key) for key in ("id", "paper", "text", "evidence") if key in entry}
        parts = entry.pop("part", None) or [entry]
        if parts[0] is not entry and (entry or len({part.get("name") for part in parts}) < len(parts)):
            raise ReproError(f"{where}: one comparison, or [[claim.part]] tables of different names, are accepted")
        comparisons = tuple(_made(Comparison, part, f"{where} {part.get('name', '')}".rstrip()) for part in parts)
        claim = _made(Claim, {**head, "parts": comparisons}, where)
        if claim.id in found or not re.fullmatch(r"[A-Z][0-9]+", claim.id):
            raise ReproError(f"{where}: an id is a letter and a number, as in R4, and no id stands twice")
        found[claim.id] = claim
    return tuple(found.values())


def headline(room: str, path: Path | None = None) -> Headline | None:
    """The ledger's `[headline]`, None where it has none. Raises `ReproError` where it lacks a key or names no claim."""
    path = path or path_of(room)
    entry = read_toml(path).get("headline")
    if entry is None:
        return None
    chosen = _made(Headline, entry, f"{path}, headline")
    if (chosen.claim, chosen.part) not in {(c.id, p.name) for c in load_ledger(room, path) for p in c.parts}:
        raise ReproError(f"{path}, headline: no claim {chosen.claim!r} with a part {chosen.part!r} in this ledger")
    return replace(chosen, paper=tuple(map(tuple, chosen.paper)))


def _made(kind: type, entry: Mapping[str, Any], where: str) -> Any:
    """`kind(**entry)`; a field that is unknown, missing or of another type is one sentence."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    needed = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    missing, unknown = sorted(needed - {k for k, v in entry.items() if v != ""}), sorted(entry.keys() - fields)
    if missing or unknown:
        raise ReproError(f"{where}: missing {missing}, unknown {unknown}, accepted are {', '.join(fields)}")
    try:
        return kind(**entry)
    except (ReproError, TypeError) as error:
        raise ReproError(f"{where}: {error}") from None
