"""What notebook 02 measures, row by row. How it is measured stands in `repro.editing.measure`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from repro.editing import inner, sliders, unseen
from repro.editing.benchmark import COMBINATIONS, COMPOSITES, Split, crop_ids
from repro.editing.config import EditingConfig, profile
from repro.editing.experiments import (
    ABLATIONS,
    LONGER,
    LOW,
    MASKED,
    SINGLES,
    TAUGHT,
    VARIANTS,
    autoencoder_name,
    folder_of,
    load_autoencoder,
    name_of,
)
from repro.editing.inner import SILHOUETTE, SPREAD
from repro.editing.measure import (
    CRISP,
    DRIFT,
    EXCESS,
    GAP,
    HOLE,
    HUE,
    KID,
    PROTOCOLS,
    STRENGTH,
    Method,
    Metrics,
    by_pix2pix,
    crops,
    edited,
    editor_of,
    floored,
    kept,
    label,
    scored,
    sequenced,
    untouched,
)
from repro.editing.sliders import EVEN_SLIDER, LONG, LONG_SLIDER, RANK, SLIDERS, SPAN
from repro.editing.vector import TASKS
from repro.engine.check import Tolerance
from repro.engine.checkpoint import load_checkpoint, weights_hash
from repro.engine.evaluation import Row, trained
from repro.engine.records import Record

SWEEP = (1, 2, 5, 10, 20, 50)  # evenly spaced, without the later steps that grain has elsewhere
SINGLE = [(task,) for task in TASKS]
SEQUENCE = "singles"
ONE_CROP = [*SINGLE, *COMPOSITES[:2]]  # measured on one crop a photograph too, beside what is measured on no more
DEPTHS = ("layers0", "layers1", "layers4")  # of f_theta, beside the two of everything else
MAIN = ("mult", "palette", TAUGHT, LONGER)
REFERENCE = "short"  # what the ablations, trained as briefly, are compared with
SLID = (*MAIN, "entry", MASKED, LOW, REFERENCE, *DEPTHS)  # whose sliders are measured
PAIRS = [c for c in COMBINATIONS if "inpaint" in c and len(c) == 2]
_SMALL = Tolerance(absolute=2e-2, relative=1e-2)
TOLERANCE = {
    **dict.fromkeys((*PROTOCOLS, HOLE, EXCESS, KID), Tolerance(absolute=2e-3, relative=5e-3)),
    SPREAD: Tolerance(absolute=2e-4, relative=1e-2),
    **dict.fromkeys((HUE, CRISP, *STRENGTH.values(), *GAP.values(), *DRIFT.values()), _SMALL),
    **dict.fromkeys((*RANK.values(), *SPAN.values(), *SILHOUETTE.values()), _SMALL),
}


@dataclass(frozen=True)
class _Maker:
    """Rows of one profile: what they share."""

    config: EditingConfig

    @cached_property
    def measured_on(self) -> str:
        return hashlib.sha256(self.config.bench.digest().encode()).hexdigest()

    @property
    def count(self) -> int:
        """Photographs, or sequences."""
        return len(crop_ids("test", self.config.bench)) // self.config.bench.each[2]

    @property
    def each(self) -> int:
        return min(2, self.config.bench.each[2])

    def row(
        self,
        experiment: str,
        cell: Mapping[str, Any],
        measure: Callable[[int | None], Metrics],
        weights: str | None,
        ships: bool = True,
        k: int | None = None,
        n: int | None = None,
        seed: int = 0,
    ) -> Row:
        return Row(
            "editing",
            experiment,
            cell,
            measure,
            n=n or self.count,
            data=self.measured_on,
            k=self.config.k if k is None else k,
            seed=seed,
            profile=self.config.name,
            weights=weights,
            ships=ships and not self.config.pretrained,
        )

    def data(self, each: int, k: int | None) -> Split:
        whole = crops(self.config.bench, each)
        return whole if k is None else whole.first(k * each)

    def unseen(self) -> list[tuple[dict[str, Any], int, Callable[[], Split]]]:
        """Pictures of other domains: what a cell says of them, how many, and themselves."""
        return [({}, len(unseen.NAMES), lambda: unseen.pictures(self.config.bench))]

    def table(
        self,
        experiment: str,
        method: Method,
        cells: Sequence[tuple[str, ...]],
        weights: str | None,
        kind: str = "edit",
        each: int | None = None,
        **more: Any,
    ) -> Iterator[Row]:
        """One row per edit."""
        ships, seed = more.pop("ships", True), more.pop("seed", 0)
        for tasks in cells:
            crop_count = each or self.each

            def measure(k: int | None, tasks: tuple[str, ...] = tasks, crop_count: int = crop_count) -> Metrics:
                return scored(self.data(crop_count, k), crop_count, tasks, method)

            cell = {"task": kind, "edit": label(tasks), **more}
            yield self.row(experiment, cell, measure, weights, ships, seed=seed)


def rows(profile_name: str = "small") -> list[Row]:
    """Every row of notebook 02 whose networks are here."""
    config = profile(profile_name)
    if config.pretrained:  # other pictures, other baselines: its rows have a module of their own
        from repro.editing import paper_rows

        return paper_rows.rows(config)
    if not trained(autoencoder_name(config.name)):
        return []
    make = _Maker(config)
    return [*_baselines(make), *_networks(make), *_sequence(make)]


def looked_up(records: Sequence[Record]) -> list[Record]:
    """Records under the small profile's names, which tables, curves and claims look for.

    Where every variant is trained on all images, Ours-mult is also what its ablations are compared with.
    """
    found = []
    for record in records:
        prefix, own = f"editing-{record.profile}-", record.experiment
        variant = own.removeprefix(prefix).rpartition("-s")[0] if own.startswith(prefix) else ""
        alike = [name_of(variant, record.seed)] if variant else [own]
        if variant == "mult" and profile(record.profile).pretrained:
            alike.append(name_of(REFERENCE, record.seed))
        kids = {name: KID for name in record.metrics if name.startswith("paired-kid/")}
        found += [record if record.profile == "small" else record.under(each, kids) for each in alike]
    return found


def _baselines(make: _Maker) -> Iterator[Row]:
    cells = [*SINGLE, *COMPOSITES]
    name = autoencoder_name(make.config.name)
    autoencoder, weights = load_autoencoder(make.config.name), weights_hash(folder_of(name))
    floor: Method = partial(floored, autoencoder, False)
    for name, method, used in (("baseline-input", untouched, None), ("baseline-floor", floor, weights)):
        yield from make.table(name, method, cells, used)
        yield from make.table(name, method, ONE_CROP, used, "one crop", each=1)
        yield from make.table(name, method, COMBINATIONS, used, "combination", each=1)
        yield from _unseen(make, name, method, cells, used, True)
        yield from _kept(make, name, method, used)
    yield from sliders.rows(make, "baseline-target", sliders.aimed_at, None)
    yield from sliders.rows(make, "baseline-floor", floor, weights)
    quantised: Method = partial(floored, autoencoder, True)
    yield from make.table("baseline-floor-quantised", quantised, cells, weights)
    yield from make.table("baseline-floor-quantised", quantised, ONE_CROP, weights, "one crop", each=1)
    if trained(name_of("pix2pix", 0, make.config.name)):
        folder = folder_of(name_of("pix2pix", 0, make.config.name))
        method = partial(by_pix2pix, load_checkpoint(folder))
        yield from make.table(name_of("pix2pix", 0, make.config.name), method, cells, weights_hash(folder))


def _sequence(make: _Maker) -> Iterator[Row]:
    """Ours-single: each task's own network, one after another on composites; its single edits are `_networks`'."""
    config = make.config
    names = [name_of(f"single-{task}", 0, config.name) for task in TASKS]
    if not all(trained(name) for name in names):
        return
    weights = hashlib.sha256("".join(weights_hash(folder_of(name)) for name in names).encode()).hexdigest()
    editors = {task: editor_of(config, f"single-{task}") for task in TASKS}
    method = partial(sequenced, editors, steps=config.steps)
    yield from make.table(name_of(SEQUENCE, 0, config.name), method, COMPOSITES, weights)


def _networks(make: _Maker) -> Iterator[Row]:
    config = make.config
    for variant, found in VARIANTS.items():
        for seed in found.seeds:
            name = name_of(variant, seed, config.name)
            if not trained(name):
                continue
            editor, weights = editor_of(config, variant, seed), weights_hash(folder_of(name))
            more = {"ships": found.ships and seed == 0 and config.name == "small", "seed": seed}
            method = partial(edited, editor, steps=config.steps)
            if variant in SINGLES:
                own = variant.removeprefix("single-")
                yield from make.table(name, method, [(own,)], weights, **more)
                if own in SLIDERS:
                    alone: dict[str, Any] = {"tasks": (own,), "inside": (False,), **more}
                    yield from sliders.rows(make, name, method, weights, **alone)
                    if config.steps < LONG:
                        long = partial(edited, editor, steps=LONG)
                        yield from sliders.rows(make, name, long, weights, kind=LONG_SLIDER, steps=LONG, **alone)
                continue
            each = 1 if variant in (*ABLATIONS, MASKED, LOW) else None  # no row of the main tables
            yield from make.table(name, method, [*SINGLE, *COMPOSITES], weights, each=each, **more)
            if variant in SLID:
                yield from sliders.rows(make, name, method, weights, **more)
            if variant in MAIN:
                yield from _kept(make, name, method, weights, **more)
            if variant in ("mult", REFERENCE, "npair-a", "npair-b") and seed == 0:
                yield inner.clusters(make, name, editor, weights, **more)
            if variant == "entry" and seed == 0:
                yield from inner.attended(make, name, editor, weights, **more)
            if variant in ("mult", REFERENCE, "l2") and seed == 0:
                yield inner.spread(make, name, editor, weights, **more)
        if trained(name_of(variant, 0, config.name)):
            yield from _once(make, variant)


def _once(make: _Maker, variant: str) -> Iterator[Row]:
    """What is measured for seed 0 of a few networks: one crop a photograph."""
    config, name = make.config, name_of(variant, 0, make.config.name)
    if variant not in ("mult", "palette", REFERENCE, "mask", MASKED, TAUGHT, LONGER, *SINGLES):
        return
    editor, weights = editor_of(config, variant), weights_hash(folder_of(name))
    more = {"each": 1, "ships": VARIANTS[variant].ships and config.name == "small"}
    method = partial(edited, editor, steps=config.steps)
    if variant in (REFERENCE, "mask", MASKED):
        cells = [("inpaint",), *PAIRS]
        yield from make.table(name, method, cells, weights, "combination", **more)
        return
    if variant in (TAUGHT, LONGER):  # its rows of the main tables and its sliders are measured again, these are not
        more["ships"] = False
        yield from make.table(name, method, [*SINGLE, COMPOSITES[1]], weights, "one crop", **more)
        yield from make.table(name, method, COMBINATIONS, weights, "combination", **more)
        return
    own = [(variant.removeprefix("single-"),)] if variant in SINGLES else [*SINGLE, *COMPOSITES]
    yield from _unseen(make, name, method, own, weights, more["ships"])
    if variant != "mult":
        return
    yield from make.table(name, method, ONE_CROP, weights, "one crop", **more)
    yield from make.table(name, method, COMBINATIONS, weights, "combination", **more)
    inverted = partial(edited, editor, steps=config.steps, inversion=True)
    yield from make.table(name, inverted, SINGLE, weights, "inversion", **more)
    switches = {
        "quantised": replace(editor, quantize=True),
        "hole filled with grey": replace(editor, fill=0.5),
        "eta 1": editor,
        "even steps": replace(editor, late=()),
    }
    if config.steps < LONG:  # elsewhere the last of the even steps is late enough
        even = partial(edited, switches["even steps"], steps=config.steps)
        yield from sliders.rows(make, name, even, weights, kind=EVEN_SLIDER, tasks=("grain",), ships=more["ships"])
    for steps in SWEEP:
        way = partial(edited, switches["even steps"], steps=steps)
        yield from make.table(name, way, [("blur",), COMPOSITES[1]], weights, "steps", steps=steps, **more)
    for switch, used in switches.items():
        settings = {"eta": 1.0} if switch == "eta 1" else {}
        cells = [("inpaint",)] if "hole" in switch else [("blur",), ("grain",), COMPOSITES[1]]
        cells = cells[1:] if switch == "even steps" else cells
        way = partial(edited, used, steps=config.steps, **settings)
        yield from make.table(name, way, cells, weights, "switch", switch=switch, **more)


def _unseen(
    make: _Maker, name: str, method: Method, cells: Sequence[tuple[str, ...]], weights: str | None, ships: bool
) -> Iterator[Row]:
    """Pictures of another domain (claim E12): too few for a KID."""
    for where, count, data in make.unseen():
        for tasks in cells:

            def measure(k: int | None, tasks: tuple[str, ...] = tasks, data: Callable[[], Split] = data) -> Metrics:
                return scored(data().first(k), 1, tasks, method, kid=False)

            yield make.row(name, {"task": "unseen", "edit": label(tasks), **where}, measure, weights, ships, n=count)


def _kept(
    make: _Maker, name: str, method: Method, weights: str | None, ships: bool = True, seed: int = 0
) -> Iterator[Row]:
    """How far the composites leave the strength of their single edits (claim E14)."""
    for tasks in COMPOSITES:

        def measure(k: int | None, tasks: tuple[str, ...] = tasks) -> Metrics:
            return kept(make.data(1, k), tasks, method)

        yield make.row(name, {"task": "kept", "edit": label(tasks)}, measure, weights, ships, seed=seed)
