"""What the paper profile measures: the same rows as the small one, on REDS' published validation sequences.

A photograph of the small profile is a sequence here: its frames are averaged, since neighbouring frames are anything
but independent. What the small profile measures on one crop a photograph is measured on each sequence's first frame.
The main tables' thousands of crops go through block by block.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.data.flist import Pair
from repro.data.known import home
from repro.editing import paper, pix2pix, sliders
from repro.editing.benchmark import COMPOSITES, SPLITS, Split
from repro.editing.config import EditingConfig
from repro.editing.evaluation import (
    COMBINATIONS,
    ONE_CROP,
    SINGLE,
    _kept,
    _Maker,
    _networks,
    _sequence,
    _unseen,
)
from repro.editing.experiments import folder_of, name_of
from repro.editing.measure import Method, Metrics, by_photo, in_batches, label, request, scored, untouched
from repro.editing.readers import UNSEEN, PairedSplit, Reds
from repro.editing.readers import unseen as read_unseen
from repro.editing.weights import MODELS
from repro.engine.checkpoint import weights_hash
from repro.engine.evaluation import Row, trained
from repro.metrics import distribution, features
from repro.metrics.features import FeatureNet

PICTURES = 100  # of a data set never trained on
_BLOCK = 100  # crops that are edited and scored before the next are read


def rows(config: EditingConfig, net: Callable[[], FeatureNet] | None = None) -> list[Row]:
    """Every row whose network is here; none where nothing is trained.

    `net` stands in for Inception under its own name. Raises `ReproError` with what to download where REDS or the
    pretrained autoencoder is absent; Inception's missing weights are refused when a row is measured.
    """
    if not any(trained(name_of(variant, 0, config.name)) for variant in config.variants):
        return []
    make = _PaperMaker(config, net or (lambda: features.inception(device=paper.device())))
    found = [*_baselines(make), *_networks(make), *_sequence(make)]
    codebook = MODELS[config.pretrained].kind == "VQModel"
    return [row for row in found if codebook or row.cell.get("switch") != "quantised"]


@dataclass(frozen=True)
class _First(Reds):
    """The first `frames` frames of each sequence of one split; the others are whole, so references stay the same."""

    of: str = "test"
    frames: int = 1

    def _pairs(self, name: str) -> tuple[Pair, ...]:
        found = super()._pairs(name)
        if name != self.of:
            return found
        groups: dict[Path, list[Pair]] = defaultdict(list)
        for pair in found:
            groups[pair.target.path.parent].append(pair)
        return tuple(pair for group in groups.values() for pair in group[: self.frames])


@lru_cache(maxsize=4)
def _split(source: _First) -> PairedSplit:
    """All of the split that is thinned, in memory."""
    return next(source.blocks(source.of, len(source.ids(source.of))))


@lru_cache(maxsize=2)
def _digest(source: Reds) -> str:
    return hashlib.sha256(source.digest().encode()).hexdigest()


@dataclass(frozen=True)
class _PaperMaker(_Maker):
    """Rows on REDS."""

    net: Callable[[], FeatureNet]

    @property
    def source(self) -> Reds:
        bench = self.config.bench
        return Reds(home("reds"), bench.crop[SPLITS.index("test")], bench.recipe, bench.version)

    def first(self, frames: int, of: str = "test") -> _First:
        source = self.source
        return _First(source.root, source.crop, source.recipe, source.version, of=of, frames=frames)

    @property
    def each(self) -> int:
        """Frames of a sequence."""
        return min(Counter(id.rpartition("/")[0] for id in self.source.ids("test")).values())

    @property
    def count(self) -> int:
        return len(self.first(1).ids("test"))

    @property
    def measured_on(self) -> str:  # type: ignore[override]
        return _digest(self.source)

    def data(self, each: int, k: int | None) -> Split:
        whole = _split(self.first(each))
        return whole if k is None else whole.first(k * each)

    def unseen(self) -> list[tuple[dict[str, Any], int, Callable[[], Split]]]:
        """FFHQ and Stanford Cars, where they are."""
        here = [name for name in UNSEEN if home(name).is_dir()]
        pool = self.first(1, "train")
        return [({"data": name}, PICTURES, partial(_unseen_split, self.source, pool, name)) for name in here]

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
        """One row per edit; of the main tables', ablations' too, on every frame and with both KIDs."""
        if kind != "edit":
            yield from super().table(experiment, method, cells, weights, kind, each, **more)
            return
        seed = (more.pop("ships", None), more.pop("seed", 0))[1]
        for tasks in cells:
            measure = partial(self.streamed, method, tasks)
            yield self.row(experiment, {"task": kind, "edit": label(tasks), **more}, measure, weights, seed=seed)

    def streamed(self, method: Method, tasks: Sequence[str], k: int | None) -> Metrics:
        """Every protocol per sequence, on the frames of the first k (None: of all).

        "kid/…" is one number for all frames, as published; "paired-kid/…" each sequence's share in the estimate that
        leaves out the pairs of an edit and its own target.
        """
        each, net = self.each, self.net()
        source = self.first(each)
        left = len(source.ids("test")) if k is None else k * each
        found: dict[str, list[float]] = defaultdict(list)
        made, real = [], []
        for part in source.blocks("test", _BLOCK):
            part = part.first(left)
            left -= len(part)
            output = method(part, tasks).clamp(0, 1)
            for name, values in scored(part, 1, tasks, lambda *_, output=output: output, kid=False).items():
                found[name] += values
            made.append(features.extract(net, output))
            real.append(features.extract(net, part.edit(*tasks).target))
            if not left:
                break
        a, b = torch.cat(made), torch.cat(real)
        metrics: dict[str, Any] = {name: by_photo(torch.tensor(v), each) for name, v in found.items()}
        metrics[f"kid/{net.name}"] = distribution.kid(a, b, subset_size=min(len(a), 1000), subsets=50, seed=0)[0]
        metrics[f"paired-kid/{net.name}"] = by_photo(distribution.paired_kid(a, b), each)
        return metrics


@lru_cache(maxsize=2)
def _unseen_split(source: Reds, pool: _First, name: str) -> Split:
    return read_unseen(name, source, _split(pool), count=PICTURES)


def _baselines(make: _PaperMaker) -> Iterator[Row]:
    """The source as it is, the target through the autoencoder, pix2pix."""
    cells = [*SINGLE, *COMPOSITES]
    name = make.config.pretrained
    floor = partial(_floored, name)
    for experiment, method, weights in (
        ("baseline-input", untouched, None),
        ("baseline-floor", floor, paper.autoencoder_hash(name)),
    ):
        yield from make.table(experiment, method, cells, weights)
        yield from make.table(experiment, method, ONE_CROP, weights, "one crop", each=1)
        yield from make.table(experiment, method, COMBINATIONS, weights, "combination", each=1)
        yield from _unseen(make, experiment, method, cells, weights, False)
        yield from _kept(make, experiment, method, weights)
    yield from sliders.rows(make, "baseline-target", sliders.aimed_at, None)
    yield from sliders.rows(make, "baseline-floor", floor, paper.autoencoder_hash(name))
    gan = name_of("pix2pix", 0, make.config.name)
    if trained(gan):
        yield from make.table(gan, partial(_by_pix2pix, folder_of(gan)), cells, weights_hash(folder_of(gan)))


def _floored(name: str, data: Split, tasks: Sequence[str]) -> Tensor:
    """The target itself through the autoencoder of MODELS[name]: what no editing network can be better than."""
    autoencoder = paper.autoencoder_on(name, paper.device())

    def run(part: Split) -> Tensor:
        target = part.edit(*tasks).target.to(paper.device())
        return (autoencoder.decode(autoencoder.encode(target * 2 - 1)).cpu() + 1) / 2

    return in_batches(data, run)


@torch.no_grad()
def _by_pix2pix(trained_at: Path, data: Split, tasks: Sequence[str]) -> Tensor:
    generator: Any = paper.network_on(trained_at, paper.device())

    def run(part: Split) -> Tensor:
        asked, source = request(part, tasks), part.edit(*tasks).source.to(paper.device())
        return pix2pix.generate(generator, source, asked["vectors"], asked["reference"]).cpu()

    return in_batches(data, run)
