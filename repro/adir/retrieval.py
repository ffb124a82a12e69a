"""Neighbours: the K images of an external set whose embeddings lie nearest to the measurement's (ADIR, eq. 19).

The paper embeds with CLIP and prints the distance 2 arcsin(||a - b||^2 / 2). On unit vectors ||a - b||^2 / 2 is
1 - cos, so it grows with falling cosine, and is not defined beyond 90 degrees, where 1 - cos exceeds 1. Cosine gives
the same order and always exists: that is what is used here, on EfficientNet-Lite0, which comes with the dependencies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from repro import paths
from repro.adir.operators import Separable
from repro.data import pack
from repro.data.images import read_image, to_unit
from repro.engine.atomic import write_bytes
from repro.errors import ReproError

Embedding = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] -> (B, d)


def efficientnet(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, 1280)."""
    from repro.metrics.features import efficientnet_lite0, extract

    return extract(efficientnet_lite0(), images)


@dataclass(frozen=True)
class Neighbours:
    """The answer to one query: names and cosine similarities, nearest first."""

    names: tuple[str, ...]
    similarity: tuple[float, ...]
    images: tuple[Tensor, ...]  # (3, H, W) in [0, 1], at their own sizes


@dataclass(frozen=True)
class Index:
    """Embedded images: names, vectors (N, d) of length 1, and where each image is read from."""

    names: tuple[str, ...]
    vectors: Tensor
    read: Callable[[str], Tensor]
    embedding: Embedding = efficientnet
    skipped: tuple[str, ...] = ()
    searcher: Any = None  # an index of the package faiss over the same vectors

    def nearest(self, query: Tensor, k: int) -> Neighbours:
        """The K images nearest to an image (3, H, W) in [0, 1], or to a vector (d,); fewer where the set is smaller."""
        if k < 1:
            raise ReproError(f"K must be 1 or more: got {k}")
        vector = F.normalize(query[None] if query.ndim == 1 else self.embedding(query[None]), dim=1)
        if self.searcher is None:
            cosine, order = (vector @ self.vectors.T).sort(descending=True, stable=True)
        else:
            cosine, order = map(torch.from_numpy, self.searcher.search(vector.numpy(), min(k, len(self.names))))
        found = tuple(self.names[i] for i in order[0, :k].tolist() if i >= 0)
        return Neighbours(found, tuple(cosine[0, : len(found)].tolist()), tuple(map(self.read, found)))

    def by_faiss(self, kind: str = "HNSW32") -> Index:
        """The same set, searched by the optional package faiss: for millions of images. `kind`: of its factory."""
        import faiss

        searcher = faiss.index_factory(self.vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        searcher.train(self.vectors.numpy())
        searcher.add(self.vectors.numpy())
        return replace(self, searcher=searcher)


def index_images(images: Mapping[str, Tensor], embedding: Embedding = efficientnet) -> Index:
    """An index of images in memory, name -> (3, H, W) in [0, 1]."""
    vectors = torch.cat([F.normalize(embedding(x[None]), dim=1) for x in images.values()])
    return Index(tuple(images), vectors, images.__getitem__, embedding)


def index_files(files: Sequence[Path], embedding: Embedding = efficientnet, cache: Path | None = None) -> Index:
    """An index of image files; unreadable ones are skipped and named in `.skipped`.

    Vectors are kept in `cache` (runs/embeddings.safetensors) under each file's SHA-256 and the embedding's name.
    """
    cache = cache or paths.runs() / "embeddings.safetensors"
    known = load_file(cache) if cache.exists() else {}
    vectors, skipped, fresh = {}, [], False
    for file in files:
        key = f"{embedding.__name__}/{hashlib.sha256(file.read_bytes()).hexdigest()}"
        try:
            if key not in known:
                known[key], fresh = F.normalize(embedding(read_image(file)[None]), dim=1)[0], True
            vectors[str(file)] = known[key]
        except ReproError:
            skipped.append(str(file))
    if not vectors:
        raise ReproError(f"no readable image among {len(files)} files: neighbours need at least one")
    if fresh:
        write_bytes(cache, save(known))
    return Index(tuple(vectors), torch.stack([*vectors.values()]), read_image, embedding, tuple(skipped))


def gallery(embedding: Embedding = efficientnet) -> Index:
    """The pack's gallery: photographs and thumbnails that share no subject with training, validation or test."""
    return index_files([p.path for p in pack.photos("gallery", kind=None)], embedding)


def as_image(y: Tensor, operator: Separable) -> Tensor:
    """What is embedded of a measurement (B, …): y at the image's size, (B, 3, H, W) in [0, 1]."""
    return to_unit(operator.transpose(y, "upsampling") if operator.back is not None else y)
