"""The benchmark set: sharp crops, their five edits, masks, references and split; frozen, versioned, made from the pack.

"Multi-task image-to-image diffusion models with fine-grained control" calls such a set its fourth contribution, built
from REDS, and leaves out what it draws its parameters from. Written down here, the same law in training and test:

    beta     uniform in [0, 1]              sigma   one of the five radii 0.010 … 0.100
    lambda   uniform in [1, 3]              mu      0.1 u^2, u uniform: most thresholds bite, none hides the effect
    hole     free-form strokes              reference   another crop, of the training split, in every split

An image's own parameters are those of all five effects at once: single edits and composites switch some of them on
(`EditingVector.only`), so a composite has the same blur, grain and reference as the single edits of the same image.
Every draw is keyed by (VERSION, id): a change of anything below is a new version.

Training reads files that are made once under the data folder (git-ignored): the pixels of every training crop with its
five edits, keyed by the digest of the source, a `Bench` or `Reds`, and their latents, keyed by the autoencoder, too.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from repro import paths
from repro.data import pack
from repro.data.files import crops
from repro.data.grain import RADII
from repro.data.images import resize, to_model
from repro.editing.autoencoder import Autoencoder
from repro.editing.effects import TargetRules, compose, cut_hole, free_form_mask
from repro.editing.vector import TASKS, EditingVector, batch
from repro.engine.rng import KeyedNoise
from repro.engine.train import digest
from repro.errors import ReproError

VERSION = 1
SPLITS = ("train", "validation", "test")
COMPOSITES = (("blur", "grain"), ("blur", "grain", "colour"), ("grain", "colour"), ("grain", "colour", "sharpen"))
COMBINATIONS = tuple(c for n in range(2, len(TASKS) + 1) for c in combinations(TASKS, n))  # of two and more, 26
TARGETS = ("blur", "grain", "colour", "sharpen")  # inpainting's target is the sharp crop itself
ROUNDS = 4  # composites of a training crop
_BLOCK = 256

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """The crops of a split, with the request of each.

    ids (N), `sharp` (N, 3, S, S) in [0, 1] with 256 levels, `reference` of the same shape, `hole` (N, 1, S, S) with 1
    in the hole, `vectors` (N) with all five effects on. `bench` is a `Bench` or `Reds`: its rules and version make the
    effects. `blurred` (N, 3, S, S): frames that stand where blur would be computed.
    """

    ids: tuple[int | str, ...]
    sharp: Tensor
    reference: Tensor
    hole: Tensor
    vectors: tuple[EditingVector, ...]
    bench: Any
    blurred: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: Sequence[int]) -> Self:
        """The crops at these places."""
        rows = list(places)
        ids, vectors = (tuple(every[i] for i in rows) for every in (self.ids, self.vectors))
        tensors = {name: getattr(self, name) for name in ("sharp", "reference", "hole", "blurred")}
        tensors = {name: None if x is None else x[rows] for name, x in tensors.items()}
        return replace(self, ids=ids, vectors=vectors, **tensors)

    def first(self, k: int | None) -> Self:
        """The first k crops (None: all)."""
        return self if k is None else self.at(range(min(k, len(self))))

    def parts(self, most: int) -> Iterator[Self]:
        """The crops, at most so many at once."""
        return (self.at(range(len(self))[start : start + most]) for start in range(0, len(self), most))

    def source(self, tasks: Sequence[str]) -> Tensor:
        """What an edit with these tasks on starts from."""
        return cut_hole(self.sharp, self.hole) if "inpaint" in tasks else self.sharp

    def target(self, tasks: Sequence[str]) -> Tensor:
        """What it is to give, in 256 levels."""
        image, bench = self.sharp, self.bench
        if self.blurred is not None and "blur" in tasks:
            image, tasks = self.blurred, tuple(t for t in tasks if t != "blur")
        inputs = {"seed": bench.version, "ids": self.ids, "reference": self.reference, "rules": bench.rules}
        return levels(compose(image, [vector.only(*tasks) for vector in self.vectors], **inputs))


@dataclass(frozen=True)
class Bench:
    """What a build is made of.

    crop: side of the crops of each split. sides: shorter sides that the photographs are brought to. each: crops a
    photograph and side. limit: photographs a split at most (0: all).
    """

    crop: tuple[int, int, int] = (64, 128, 128)
    sides: tuple[tuple[int, ...], ...] = ((256, 384), (256,), (256,))
    each: tuple[int, int, int] = (32, 4, 4)
    rules: TargetRules = field(default_factory=lambda: TargetRules(longest=20.0))
    limit: int = 0
    version: int = VERSION

    def digest(self) -> str:
        """Short hash of everything above and of the images it is made from."""
        settings = asdict(self) | {"recipe": self.rules.hashed(), "pack": pack.pack_hash()}
        settings.pop("rules")
        return digest(settings)

    def blocks(self, name: str, most: int) -> Iterator[Split]:
        """The crops of a split, at most so many at once."""
        yield from split(name, self).parts(most)

    def first(self, name: str, each: int) -> Split:
        """The first `each` crops of every photograph of a split with one side, photograph by photograph."""
        whole, count = split(name, self), self.each[SPLITS.index(name)]
        return whole.at([i for i in range(len(whole)) if i % count < each])


BENCH = Bench()
TINY = Bench((32, 32, 32), ((96,), (96,), (96,)), each=(2, 1, 1), rules=TargetRules(longest=8.0), limit=2)


def levels(image: Tensor) -> Tensor:
    """Rounded to 256 levels, as a file would store it."""
    return (image * 255).round() / 255


def parameters(ids: Sequence[str], version: int = VERSION) -> list[EditingVector]:
    """The request of each id: all five effects, drawn from the laws above."""
    u = KeyedNoise(version, list(ids), "bench/parameters").uniform((4,)).double()
    radius = torch.tensor(RADII, dtype=torch.float64)[(u[:, 1] * len(RADII)).long()]
    rows = torch.stack([u[:, 0], radius, 1 + 2 * u[:, 2], 0.1 * u[:, 3] ** 2], dim=1).tolist()
    return [EditingVector(beta, sigma, True, True, (amount, threshold)) for beta, sigma, amount, threshold in rows]


def reference_rows(name: str, ids: Sequence[str], pool: int, version: int = VERSION) -> Tensor:
    """int64 (N,): which of the `pool` crops of the training split each id of split `name` takes its colours from.

    The ids of "train" are those of the pool, in its order: none of them is its own reference.
    """
    same = name == "train"
    drawn = KeyedNoise(version, list(ids), "bench/reference").integers(0, pool - same)
    return drawn + (drawn >= torch.arange(len(ids))) if same else drawn


@lru_cache(maxsize=6)
def split(name: str, bench: Bench = BENCH) -> Split:
    """One split of the benchmark, made from the pack."""
    return as_split(name, *_sharp(name, bench, bench.crop[SPLITS.index(name)]), bench)


def as_split(name: str, ids: Sequence[str], sharp: Tensor, bench: Bench) -> Split:
    """Square images (N, 3, S, S) as a split: requests, holes and references as the benchmark draws them."""
    size, pool = sharp.shape[-1], crop_ids("train", bench)
    own = [pool[row] for row in reference_rows(name, ids, len(pool), bench.version).tolist()]
    cut_ids, cut = _sharp("train", bench, size, set(own))
    reference = cut[[cut_ids.index(id) for id in own]]
    parts = [free_form_mask(bench.version, ids[i : i + 256], (size, size)) for i in range(0, len(ids), 256)]
    return Split(tuple(ids), sharp, reference, torch.cat(parts), tuple(parameters(ids, bench.version)), bench)


def crop_ids(name: str, bench: Bench = BENCH) -> tuple[str, ...]:
    """The ids of a split."""
    return tuple(id for *_, ids in _named(name, bench) for id in ids)


def _named(name: str, bench: Bench) -> Iterator[tuple[pack.PackImage, int, list[str]]]:
    """The photographs of a split at each side, with the ids of their crops: "photos/erase_bee@256#0" is the first."""
    at = SPLITS.index(name)
    for photo in pack.photos(name)[: bench.limit or None]:
        for side in bench.sides[at]:
            yield photo, side, [f"{photo.id}@{side}#{i}" for i in range(bench.each[at])]


def _sharp(name: str, bench: Bench, crop: int, needed: Collection[str] | None = None) -> tuple[tuple[str, ...], Tensor]:
    """Ids (those `needed`, None: all) and crops (N, 3, crop, crop) of a split; mirrored in training only."""
    ids, parts = [], []
    for photo, side, own in _named(name, bench):
        if own := [id for id in own if needed is None or id in needed]:
            whole = levels(resize(pack.load(photo), side).clamp(0, 1))
            parts.append(crops([whole] * len(own), crop, own, bench.version, flip=name == "train"))
            ids += own
    return tuple(ids), torch.cat(parts)


# Images that scikit-image carries, for the claim that edits carry over (E12). The paper shows faces and cars, which may
# not ship here. Nothing like these is in the training split of animals and monuments.
UNSEEN = ("astronaut", "motorcycle", "coffee", "rocket", "retina", "tissue")


def load_unseen(name: str) -> Tensor:
    """(3, H, W) in [0, 1], whole, of a name of UNSEEN."""
    from skimage import data

    special = {"tissue": data.immunohistochemistry, "motorcycle": lambda: data.stereo_motorcycle()[0]}
    return torch.from_numpy(special.get(name, getattr(data, name, None))()).permute(2, 0, 1).float() / 255


@lru_cache(maxsize=2)
def unseen(bench: Bench) -> Split:
    """One crop of each of UNSEEN, with requests, references (of the training split) and holes as the test split's."""
    ids = [f"skimage/{name}" for name in UNSEEN]
    whole = [levels(resize(load_unseen(name), bench.sides[2][0]).clamp(0, 1)) for name in UNSEEN]
    return as_split("unseen", ids, crops(whole, bench.crop[2], ids, bench.version, flip=False), bench)


def edits(data: Split) -> Tensors:
    """uint8 (N, 3, S, S) "sharp", "reference", "masked" and one per effect of TARGETS; bool "hole"; float32 "vector"
    (N, 9), with all five effects on."""
    images = {"sharp": data.sharp, "reference": data.reference, "masked": data.source(["inpaint"])}
    images |= {task: data.target([task]) for task in TARGETS}
    out = {name: (value * 255).round().to(torch.uint8) for name, value in images.items()}
    return {**out, "hole": data.hole.bool(), "vector": batch(data.vectors)}


def encoded(autoencoder: Autoencoder, part: Mapping[str, Tensor]) -> Tensors:
    """float16 latents (N, C, S/f, S/f), scaled to unit deviation, of what `edits` gives; its "vector" as it is.

    "rgb": the reference reduced to the latents' size, in [-1, 1]; "mask": the share of hole in each latent's pixels.
    """
    image = {name: to_model(part[name].float() / 255) for name in ("sharp", *TARGETS, "reference", "masked")}
    latents = {name: autoencoder.encode(x.to(autoencoder.device)) for name, x in image.items()}
    latents["rgb"] = F.avg_pool2d(image["reference"], autoencoder.factor)
    latents["mask"] = F.avg_pool2d(part["hole"].float(), autoencoder.factor)
    return {name: value.half().cpu() for name, value in latents.items()} | {"vector": part["vector"]}


def pixels(source: Any = BENCH) -> Tensors:
    """`edits` of the training split."""
    return _stored(source, "train", map(edits, source.blocks("train", _BLOCK)))


def latents(autoencoder: Autoencoder, key: str, source: Any = BENCH) -> Tensors:
    """`encoded` of the training split; `key` names the autoencoder's weights."""
    parts = (encoded(autoencoder, edits(block)) for block in source.blocks("train", _BLOCK))
    return _stored(source, f"train-latents-{key[:16]}", parts)


def composites(autoencoder: Autoencoder, key: str, bench: Bench = BENCH) -> Tensors:
    """ROUNDS composites of every training crop, round after round: what the paper never trains on.

    float16 "composite" (ROUNDS N, C, S/f, S/f), the targets' latents, and "composite vector" (ROUNDS N, 9). Each round
    draws two effects or more and their amounts anew; hole and reference stay the crop's own.
    """

    def make() -> Iterator[Tensors]:
        whole = split("train", bench)
        for turn in range(ROUNDS):
            ids = tuple(f"{id} round {turn}" for id in whole.ids)
            which = KeyedNoise(bench.version, ids, "bench/composite").integers(0, len(COMBINATIONS)).tolist()
            drawn = zip(parameters(ids, bench.version), which, strict=True)
            vectors = tuple(vector.only(*COMBINATIONS[i]) for vector, i in drawn)
            for part in replace(whole, ids=ids, vectors=vectors).parts(_BLOCK):
                latent = autoencoder.encode(to_model(part.target(TASKS)).to(autoencoder.device))
                yield {"composite": latent.half().cpu(), "composite vector": batch(part.vectors)}

    return _stored(bench, f"train-composites-{key[:16]}", make())


def _stored(source: Any, name: str, made: Iterable[Tensors]) -> Tensors:
    """The tensors of a source's file; where there is none, the parts are made, joined and written."""
    file = paths.data() / "editing-bench" / f"v{source.version}-{source.digest()}" / f"{name}.safetensors"
    if not file.exists():
        parts = list(made)
        joined = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
        paths.write_bytes(file, save(joined))
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ReproError(f"{file} is damaged ({error}): remove it and it is made again") from error
