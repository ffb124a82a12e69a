"""From a measurement to an image: retrieve, adapt, guide. What `repro restore --method adir` runs.

Neighbours are the K images of an external set whose embeddings lie nearest to the measurement's (eq. 19). The paper
embeds with CLIP and prints the distance 2 arcsin(||a - b||^2 / 2), on unit vectors 2 arcsin(1 - cos): it grows with
falling cosine and is not defined beyond 90 degrees. Here it is cosine, of EfficientNet-Lite0's features.
"""

import copy
import hashlib
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from repro import paths
from repro.adir.adapt import SCHEDULE, USE, Adaptation, with_factors
from repro.adir.adapt import adapt as adapt_to
from repro.adir.guidance import TASKS, Guidance, Separable, operator, reconstruct
from repro.data import pack
from repro.data.images import read_image, to_model, to_unit
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import sample
from repro.engine.checkpoint import load_checkpoint
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError, one_of, whole
from repro.metrics.features import efficientnet_lite0, extract

Adapt = Literal["neighbours", "itself", "none"]
LARGEST = 1024 * 1024  # pixels of the output: the network runs on the whole image at every step
# Half a minute on one core; chosen on validation photographs at x4, where adaptation raised LPIPS least with these.
QUICK = Adaptation(iterations=60, perceptual=0.0)
# Colorization has no noise, so s, which weighs the measurement as 1 / (2 sigma^2), is as large as its limit lets it be:
# what s = 10 reaches with the paper's 1000 steps, 10 x 0.02.
GUIDANCE = dict.fromkeys(TASKS, Guidance()) | {"colour": Guidance(scale=1000.0, limit=0.2)}
Embedding = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] -> (B, d)


def efficientnet(images: Tensor) -> Tensor:  # an Embedding
    return extract(efficientnet_lite0(), images)


class Neighbours(NamedTuple):
    """The images nearest to a query, nearest first."""

    names: tuple[str, ...]
    similarity: tuple[float, ...]
    images: tuple[Tensor, ...]  # (3, H, W) in [0, 1], at their own sizes


@dataclass(frozen=True)
class Index:
    """Embedded images: names, vectors (N, d) of length 1, and what reads an image by its name."""

    names: tuple[str, ...]
    vectors: Tensor
    read: Callable[[str], Tensor]
    embedding: Embedding = efficientnet
    skipped: tuple[str, ...] = ()

    def nearest(self, query: Tensor, k: int) -> Neighbours:
        """The K images nearest to an image (3, H, W) in [0, 1], or to a vector (d,); fewer where the set is smaller."""
        whole("k, the number of neighbours", k, 1, 10**9)
        vector = F.normalize(query[None] if query.ndim == 1 else self.embedding(query[None]), dim=1)
        cosine, order = (vector @ self.vectors.T).sort(descending=True, stable=True)
        found = tuple(self.names[i] for i in order[0, :k].tolist())
        return Neighbours(found, tuple(cosine[0, : len(found)].tolist()), tuple(map(self.read, found)))


def index_images(images: Mapping[str, Tensor], embedding: Embedding = efficientnet) -> Index:
    """An index of images in memory, name -> (3, H, W) in [0, 1]."""
    vectors = torch.cat([F.normalize(embedding(x[None]), dim=1) for x in images.values()])
    return Index(tuple(images), vectors, images.__getitem__, embedding)


def index_files(files: Sequence[Path], embedding: Embedding = efficientnet, cache: Path | None = None) -> Index:
    """An index of image files; unreadable ones are skipped and named in `.skipped`.

    Vectors are kept in `cache` (runs/embeddings.safetensors) under each file's SHA-256 and the embedding's name.
    """
    cache = cache or paths.runs() / "embeddings.safetensors"
    known: dict[str, Tensor] = {}
    with suppress(FileNotFoundError, SafetensorError):  # of a damaged file all vectors are computed again
        known = load_file(cache)
    before, vectors, skipped = len(known), {}, []
    for file in files:
        try:
            key = f"{embedding.__name__}/{hashlib.sha256(file.read_bytes()).hexdigest()}"
            if key not in known:
                known[key] = F.normalize(embedding(read_image(file)[None]), dim=1)[0]
            vectors[str(file)] = known[key]
        except (ReproError, OSError):
            skipped.append(str(file))
    if not vectors:
        raise ReproError(f"no readable image among {len(files)} files: neighbours need at least one")
    if len(known) > before:
        paths.write_bytes(cache, save(known))
    return Index(tuple(vectors), torch.stack([*vectors.values()]), read_image, embedding, tuple(skipped))


def gallery(embedding: Embedding = efficientnet) -> Index:
    """The pack's gallery: photographs and thumbnails that share no subject with training, validation or test."""
    return index_files([p.path for p in pack.photos("gallery", kind=None)], embedding)


def as_image(y: Tensor, operator: Separable) -> Tensor:
    """What is embedded of a measurement (B, …): y at the image's size, (B, 3, H, W) in [0, 1]."""
    return to_unit(operator.transpose(y, "upsampling") if operator.back is not None else y)


class ADIR:
    """Reconstruction by a network that predicts noise and variance, 6 channels from 3; a private copy is kept."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @classmethod
    def shipped(cls) -> Self:
        """The prior that this repository trains and ships, for use."""
        return cls(load_checkpoint(USE).merged())

    def __call__(
        self,
        measurement: Tensor,
        task: str,
        adapt: Adapt = "neighbours",
        *,
        steps: int = 100,
        guidance: Guidance | None = None,
        adaptation: Adaptation | None = None,
        neighbours: Index | None = None,
        k: int = 20,
        seed: int = 0,
        progress: bool = False,
        state: Path | None = None,
    ) -> Tensor:
        """The reconstruction (3, H, W) in [0, 1] of one image.

        Args:
            measurement: (3, h, w) in [0, 1]: the small image, the blurred one, or, for "colour", a grey one.
            task: one of `repro.adir.guidance.TASKS`.
            adapt: to K `neighbours` (the pack's gallery by default), to the measurement itself, or not at all.
            state: a folder; an adaptation that was interrupted goes on by the same call.
        """
        factor = {"sr4": 4, "sr8": 8}.get(one_of("task", task, TASKS), 1)
        whole("number of sampling steps", steps, 2, SCHEDULE.T)
        if measurement.ndim != 3 or measurement.shape[0] != 3:
            raise ReproError(f"a measurement is one image (3, h, w) in [0, 1]: got {tuple(measurement.shape)}")
        height, width = (n * factor for n in measurement.shape[1:])
        if height * width > LARGEST or min(height, width) < 32:
            found = f"{TASKS[task]} would make an image of {width} x {height} pixels"
            raise ReproError(f"{found}; accepted: at least 32 a side and at most {LARGEST:,} in all")
        op, settings, y = operator(task, height, width), adaptation or QUICK, to_model(measurement[None])
        y = y.mean(dim=1, keepdim=True) if task == "colour" else y
        factors: dict[str, Tensor] = {}
        if one_of("adapt", adapt, get_args(Adapt)) != "none":
            images = (as_image(y, op)[0],)
            if adapt == "neighbours" and len(images := (neighbours or gallery()).nearest(images[0], k).images) < k:
                print(f"{len(images)} neighbours are used, {k} were asked for: the set holds no more")
            begun = time.perf_counter()
            *_, (_, _, _, factors) = adapt_to(self.network, images, settings, seed, state=state, progress=progress)
            if progress:
                seconds, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                print(f"adapted to {len(images)} images: {seconds:.0f} s, at most {peak:.1f} GiB in all")
        model = model_fn(with_factors(self.network, factors, settings.alpha))
        noise = KeyedNoise(seed, [task], "adir/sample")
        run = reconstruct(model, y, op, SCHEDULE, noise, guidance or GUIDANCE[task], steps)
        return to_unit(sample(tqdm(run, total=steps, desc="sampling", leave=False, disable=not progress)))[0]


@torch.no_grad()
def degrade(image: Tensor, task: str, seed: int = 0) -> Tensor:
    """The measurement of a clean image (3, H, W) in [0, 1] as `ADIR` takes it: (3, h, w) in [0, 1], noise clipped."""
    noise = KeyedNoise(seed, ["image"], "adir/measure")
    return to_unit(operator(task, *image.shape[1:]).measure(to_model(image[None]), noise))[0].expand(3, -1, -1)
