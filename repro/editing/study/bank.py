"""The training split kept on disk: every crop with its five edits as pixels, and all of them as latents.

Made once, so that the training loop never waits for grain or for the autoencoder: pixels are keyed by the source's
digest, latents by that and by the autoencoder's weights. Both lie under the data folder (git-ignored) and are made
again wherever they are missing. At paper scale latents of 24,000 crops take some minutes of a GPU; only pix2pix needs
the pixels, 35 GB of them. A source is a `Bench` or `Reds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro import paths
from repro.data.images import to_model
from repro.editing.autoencoder import Autoencoder
from repro.editing.effects.compose import compose
from repro.editing.study.benchmark import BENCH, COMBINATIONS, Bench, Split, levels, parameters, split
from repro.editing.vector import batch as as_tensor
from repro.engine.atomic import write_bytes
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

TARGETS = ("blur", "grain", "colour", "sharpen")  # inpainting's target is the sharp crop itself
ROUNDS = 4  # composites of a crop
_BLOCK = 256

Tensors = dict[str, Tensor]


def pixels(source: Any = BENCH) -> Tensors:
    """uint8 (N, 3, S, S) "sharp", "reference", "masked" and one per effect of TARGETS; bool "hole"; float32 "vector".

    The vectors (N, 9) have all five effects on.
    """
    return _stored(source, "train", lambda: _edited(source))


def _edited(source: Any) -> Iterable[Tensors]:
    return map(edits, [split("train", source)] if isinstance(source, Bench) else source.blocks("train", _BLOCK))


def latents(autoencoder: Autoencoder, key: str, source: Any = BENCH) -> Tensors:
    """`encoded` of the training split; `key` names the autoencoder's weights."""

    def make() -> Iterator[Tensors]:
        for held in [pixels(source)] if isinstance(source, Bench) else _edited(source):
            for at in range(0, len(held["sharp"]), _BLOCK):
                yield encoded(autoencoder, {name: value[at : at + _BLOCK] for name, value in held.items()})

    return _stored(source, f"train-latents-{key[:16]}", make)


def composites(autoencoder: Autoencoder, key: str, bench: Bench = BENCH) -> Tensors:
    """ROUNDS composites of every training crop, round after round: what the paper never trains on.

    float16 "composite" (ROUNDS N, C, S/f, S/f), the targets' latents, and "composite vector" (ROUNDS N, 9). Each round
    draws two effects or more and their amounts anew; hole and reference stay the crop's own.
    """

    def make() -> Iterator[Tensors]:
        whole = split("train", bench)
        for turn in range(ROUNDS):
            ids = [f"{id} round {turn}" for id in whole.ids]
            which = KeyedNoise(bench.version, ids, "bench/composite").integers(0, len(COMBINATIONS)).tolist()
            drawn = zip(parameters(ids, bench.version), which, strict=True)
            vectors = [vector.only(*COMBINATIONS[i]) for vector, i in drawn]
            for at in range(0, len(ids), _BLOCK):
                some = slice(at, at + _BLOCK)
                extra = {"reference": whole.reference[some], "hole": whole.hole[some], "recipe": bench.recipe}
                target = compose(whole.sharp[some], vectors[some], seed=bench.version, ids=ids[some], **extra).target
                latent = autoencoder.encode(to_model(levels(target)).to(autoencoder.device)).half().cpu()
                yield {"composite": latent, "composite vector": as_tensor(vectors[some])}

    return _stored(bench, f"train-composites-{key[:16]}", make)


def edits(data: Split) -> Tensors:
    """Crops with their five edits, as `pixels` keeps them."""
    found = {"sharp": data.sharp, "reference": data.reference, "masked": data.edit("inpaint").source}
    found |= {task: data.edit(task).target for task in TARGETS}
    out = {name: (value * 255).round().to(torch.uint8) for name, value in found.items()}
    return {**out, "hole": data.hole.bool(), "vector": as_tensor(data.vectors)}


def encoded(autoencoder: Autoencoder, part: Mapping[str, Tensor]) -> Tensors:
    """float16 latents (N, C, S/f, S/f), scaled to unit deviation, of what `edits` gives; its "vector" as it is.

    "rgb": the reference reduced to the latents' size, in [-1, 1]; "mask": the share of hole in each latent's pixels.
    """
    image = {name: to_model(part[name].float() / 255) for name in ("sharp", *TARGETS, "reference", "masked")}
    found = {name: autoencoder.encode(x.to(autoencoder.device)) for name, x in image.items()}
    found["rgb"] = F.avg_pool2d(image["reference"], autoencoder.factor)
    found["mask"] = F.avg_pool2d(part["hole"].float(), autoencoder.factor)
    return {name: value.half().cpu() for name, value in found.items()} | {"vector": part["vector"]}


def _stored(source: Any, name: str, make: Callable[[], Iterable[Tensors]]) -> Tensors:
    """The tensors of a source's file; the parts that `make` gives are joined and written where there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    file: Path = paths.data() / "editing-bench" / f"v{source.version}-{source.digest()}" / f"{name}.safetensors"
    if not file.exists():
        parts = list(make())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, save({name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}))
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ReproError(f"{file} is damaged ({error}): remove it and it is made again") from error
