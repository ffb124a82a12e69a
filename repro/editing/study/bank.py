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
from repro.editing.study.benchmark import BENCH, COMBINATIONS, Bench, levels, parameters, split
from repro.editing.vector import batch as as_tensor
from repro.engine.atomic import write_bytes
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

TARGETS = ("blur", "grain", "colour", "sharpen")  # inpainting's target is the sharp crop itself
ROUNDS = 4  # composites of a crop
_BLOCK = 256


def folder(source: Any = BENCH) -> Path:
    """Where what is made of a source lies."""
    return paths.data() / "editing-bench" / f"v{source.version}-{source.digest()}"


def pixels(source: Any = BENCH) -> dict[str, Tensor]:
    """uint8 (N, 3, S, S) "sharp", "reference", "masked" and one per effect of TARGETS; bool "hole"; float32 "vector".

    The vectors (N, 9) have all five effects on: a task keeps those that it is about.
    """
    return stored(folder(source) / "train.safetensors", lambda: _joined(_blocks(source)))


def latents(autoencoder: Autoencoder, key: str, source: Any = BENCH) -> dict[str, Tensor]:
    """What `encoded` gives of `pixels`, with "vector" beside it; `key` names the autoencoder's weights."""

    def make() -> dict[str, Tensor]:
        if isinstance(source, Bench):
            held = pixels(source)
            parts = ({k: v[i : i + _BLOCK] for k, v in held.items()} for i in range(0, len(held["sharp"]), _BLOCK))
        else:
            parts = _blocks(source)
        return _joined(encoded(autoencoder, [part]) | {"vector": part["vector"]} for part in parts)

    return stored(folder(source) / f"train-latents-{key[:16]}.safetensors", make)


def composites(autoencoder: Autoencoder, key: str, bench: Bench = BENCH) -> dict[str, Tensor]:
    """ROUNDS composites of every training crop, round after round: what the paper never trains on.

    float16 "composite" (ROUNDS N, C, S/f, S/f), the targets' latents, and "composite vector" (ROUNDS N, 9). Each round
    draws two effects or more and their amounts anew; hole and reference stay the crop's own.
    """

    def make() -> dict[str, Tensor]:
        whole, parts = split("train", bench), []
        for turn in range(ROUNDS):
            ids = [f"{id} round {turn}" for id in whole.ids]
            which = KeyedNoise(bench.version, ids, "bench/composite").integers(0, len(COMBINATIONS)).tolist()
            asked = parameters(ids, bench.version)
            vectors = [vector.only(*COMBINATIONS[i]) for vector, i in zip(asked, which, strict=True)]
            for at in range(0, len(ids), _BLOCK):
                some = slice(at, at + _BLOCK)
                target = compose(
                    whole.sharp[some],
                    vectors[some],
                    seed=bench.version,
                    ids=ids[some],
                    reference=whole.reference[some],
                    hole=whole.hole[some],
                    recipe=bench.recipe,
                ).target
                latent = autoencoder.encode(to_model(levels(target)).to(autoencoder.device)).half().cpu()
                parts.append({"composite": latent, "composite vector": as_tensor(vectors[some])})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return stored(folder(bench) / f"train-composites-{key[:16]}.safetensors", make)


def encoded(autoencoder: Autoencoder, blocks: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """float16 latents (N, C, S/f, S/f), scaled to unit deviation, of pictures block by block, and what stands beside.

    Blocks are as `pixels` gives all of them at once. "rgb": the reference reduced to the latents' size, in [-1, 1];
    "mask": the share of hole in each latent's pixels.
    """
    down, parts = autoencoder.factor, []
    for block in blocks:
        found = {
            name: autoencoder.encode(to_model(unit(block[name])).to(autoencoder.device))
            for name in ("sharp", *TARGETS, "reference", "masked")
        }
        found["rgb"] = F.avg_pool2d(to_model(unit(block["reference"])), down)
        found["mask"] = F.avg_pool2d(block["hole"].float(), down)
        parts.append({name: value.half().cpu() for name, value in found.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def stored(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a file; what `make` gives is written there first where there is none."""
    if not file.exists():
        _save(file, make())
    return _load(file)


def unit(levels: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return levels.float() / 255


def _blocks(source: Any) -> Iterator[dict[str, Tensor]]:
    """The training split as `pixels` has it, in parts."""
    for part in [split("train", source)] if isinstance(source, Bench) else source.blocks("train", _BLOCK):
        found = {"sharp": part.sharp, "reference": part.reference, "masked": part.edit("inpaint").source}
        found |= {task: part.edit(task).target for task in TARGETS}
        out = {name: (value * 255).round().to(torch.uint8) for name, value in found.items()}
        yield {**out, "hole": part.hole.bool(), "vector": as_tensor(part.vectors)}


def _joined(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _save(file: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, save({name: value.contiguous() for name, value in tensors.items()}))


def _load(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ReproError(f"{file} is damaged ({error}): remove it and it is made again") from error
