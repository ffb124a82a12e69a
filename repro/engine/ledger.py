"""Reading `claims.toml` strictly: what claims.py documents, and nothing else. Errors name the file and the claim."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro import paths
from repro.engine.records import ROOMS, Scalar
from repro.errors import ReproError

RULES = ("greater", "less", "equal", "exact", "unmeasured")
UNITS = ("image", "replicate")
_CLAIM_KEYS = ("id", "paper", "text", "evidence")
# What each rule needs, and what it may have besides.
_NEEDS = {
    "greater": ({"metric", "left", "right"}, {"min_seeds", "unit"}),
    "less": ({"metric", "left", "right"}, {"min_seeds", "unit"}),
    "equal": ({"metric", "left", "right", "margin"}, {"min_seeds", "unit"}),
    "exact": ({"metric", "left", "right", "tolerance"}, set()),
    "unmeasured": ({"reason"}, set()),
}


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

    name: str
    rule: str
    metric: str = ""
    left: Selector | float = 0.0
    right: Selector | float = 0.0
    margin: float | None = None
    tolerance: float | None = None
    min_seeds: int = 2
    unit: str = "image"
    reason: str = ""


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
    paper: tuple[tuple[str, ...], ...] = ()


def path_of(room: str) -> Path:
    """The room's `claims.toml`, beside the study that it judges."""
    return paths.room_file(room, "claims.toml")


def rooms() -> tuple[str, ...]:
    """Rooms that have a ledger, in the notebooks' order."""
    return tuple(room for room in ROOMS if path_of(room).is_file())


def load_ledger(room: str, path: Path | None = None) -> tuple[Claim, ...]:
    """The room's claims. Raises `ReproError` for anything a ledger may not contain."""
    path = path or path_of(room)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReproError(f"room {room!r} has no claim ledger ({path}); rooms with one: {', '.join(rooms())}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReproError(f"{path}: not TOML ({error})") from None
    if set(content) - {"headline"} != {"claim"} or not isinstance(content["claim"], list):
        raise ReproError(
            f"{path}: a ledger holds [[claim]] tables, one [headline] and nothing else, found {sorted(content)}"
        )
    claims: list[Claim] = []
    for number, entry in enumerate(content["claim"], start=1):
        where = f"{path}, claim {entry.get('id', f'number {number}')}"
        claim = _claim(entry, where)
        if claim.id in {other.id for other in claims}:
            raise ReproError(f"{where}: the id stands twice")
        claims.append(claim)
    return tuple(claims)


def headline(room: str, path: Path | None = None) -> Headline | None:
    """The ledger's `[headline]`, None where it has none. Raises `ReproError` where it lacks a key or names no claim."""
    path = path or path_of(room)
    claims = load_ledger(room, path)
    entry = tomllib.loads(path.read_text(encoding="utf-8")).get("headline")
    if entry is None:
        return None
    where = f"{path}, headline"
    texts = {key: _text(entry, key, where) for key in ("name", "text", "claim", "part")}
    if (texts["claim"], texts["part"]) not in {(claim.id, part.name) for claim in claims for part in claim.parts}:
        raise ReproError(f"{where}: no claim {texts['claim']!r} with a part {texts['part']!r} in this ledger")
    unit, paper = entry.get("unit", ""), tuple(map(tuple, entry.get("paper", ())))
    if len(paper) not in (0, 2) or any(len(cell) != 3 for cell in paper):
        raise ReproError(f"{where}: paper is two cells [table, row, column] of paper_numbers.csv, left and right")
    return Headline(**texts, unit=unit, paper=paper)


def _claim(entry: dict[str, Any], where: str) -> Claim:
    texts = {key: _text(entry, key, where) for key in _CLAIM_KEYS}
    if not re.fullmatch(r"[A-Z][0-9]+", texts["id"]):
        raise ReproError(f"{where}: an id is a letter and a number, as in R4")
    rest = {key: value for key, value in entry.items() if key not in _CLAIM_KEYS}
    if "part" not in rest:
        return Claim(**texts, parts=(_comparison("", rest, where),))
    if set(rest) != {"part"} or not isinstance(rest["part"], list) or not rest["part"]:
        raise ReproError(f"{where}: a claim has one comparison or [[claim.part]] tables, not {sorted(rest)}")
    parts = []
    for part in rest["part"]:
        name = _text(part, "name", where)
        if name in {other.name for other in parts}:
            raise ReproError(f"{where}: part {name!r} stands twice")
        parts.append(_comparison(name, {k: v for k, v in part.items() if k != "name"}, f"{where}, part {name!r}"))
    return Claim(**texts, parts=tuple(parts))


def _comparison(name: str, entry: dict[str, Any], where: str) -> Comparison:
    rule = entry.get("rule")
    if rule not in RULES:
        raise ReproError(f"{where}: rule is {rule!r}, accepted are {', '.join(RULES)}")
    needed, possible = _NEEDS[rule]
    given = set(entry) - {"rule"}
    if needed - given:
        raise ReproError(f"{where}: rule {rule!r} needs {', '.join(sorted(needed - given))}")
    if given - needed - possible:
        accepted = ", ".join(sorted(needed | possible))
        raise ReproError(
            f"{where}: {', '.join(sorted(given - needed - possible))} unknown for rule {rule!r}, accepted: {accepted}"
        )
    values: dict[str, Any] = {"name": name, "rule": rule}
    for key in given & {"metric", "reason", "unit"}:
        values[key] = _text(entry, key, where)
    if values.get("unit", "image") not in UNITS:
        raise ReproError(f"{where}: unit is {values['unit']!r}, accepted are {', '.join(UNITS)}")
    for key in given & {"margin", "tolerance"}:
        values[key] = _positive(entry[key], key, where, zero=key == "tolerance")
    if "min_seeds" in given:
        seeds = entry["min_seeds"]
        if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
            raise ReproError(f"{where}: min_seeds is {seeds!r}, a whole number from 1 is needed")
        values["min_seeds"] = seeds
    for key in given & {"left", "right"}:
        values[key] = _side(entry[key], key, where)
    return Comparison(**values)


def _side(value: Any, key: str, where: str) -> Selector | float:
    if key == "right" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if not isinstance(value, dict) or not {"experiment"} <= set(value) <= {"experiment", "cell"}:
        number = " or a number" if key == "right" else ""
        raise ReproError(f"{where}: {key} is {value!r}, {{ experiment = ..., cell = {{ ... }} }}{number} is needed")
    cell = value.get("cell", {})
    if not isinstance(cell, dict) or not all(isinstance(v, str | int | float) for v in cell.values()):
        raise ReproError(f"{where}: {key}.cell is {cell!r}, a table of text, numbers, true and false is needed")
    return Selector(_text(value, "experiment", f"{where}, {key}"), cell)


def _positive(value: Any, key: str, where: str, *, zero: bool) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise ReproError(f"{where}: {key} is {value!r}, a number {'from 0' if zero else 'above 0'} is needed")
    return float(value)


def _text(entry: Any, key: str, where: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ReproError(f"{where}: {key} is {value!r}, a text is needed")
    return value.strip()
