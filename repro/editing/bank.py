"""The training split kept on disk: every crop with its five edits as pixels, and all of them as latents.

Made once, so that the training loop never waits for grain or for the autoencoder: pixels are keyed by the benchmark's
digest, latents by that and by the autoencoder's weights. Both lie under the data folder (git-ignored) and are made
again wherever they are missing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from repro import paths
from repro.data.images import to_model
from repro.editing.autoencoder import Autoencoder
from repro.editing.benchmark import BENCH, Bench, split
from repro.editing.vector import batch as as_tensor
from repro.engine.atomic import write_bytes
from repro.errors import ReproError

TARGETS = ("blur", "grain", "colour", "sharpen")  # inpainting's target is the sharp crop itself
_BLOCK = 256


def folder(bench: Bench = BENCH) -> Path:
    """Where a build of the benchmark lies."""
    return paths.data() / "editing-bench" / f"v{bench.version}-{bench.digest()}"


def pixels(bench: Bench = BENCH) -> dict[str, Tensor]:
    """uint8 (N, 3, S, S) "sharp", "reference", "masked" and one per effect of TARGETS; bool "hole"; float32 "vector".

    The vectors (N, 9) have all five effects on: a task keeps those that it is about.
    """
    file = folder(bench) / "train.safetensors"
    if not file.exists():
        _save(file, _pixels(bench))
    return _load(file)


def latents(autoencoder: Autoencoder, key: str, bench: Bench = BENCH) -> dict[str, Tensor]:
    """float16 latents (N, C, S/4, S/4), scaled to unit deviation, of all pictures of `pixels`, and what stands beside.

    "rgb": the reference reduced to the latents' size, in [-1, 1]; "mask": the share of hole in each latent's pixels.
    `key` names the autoencoder's weights.
    """
    file = folder(bench) / f"train-latents-{key[:16]}.safetensors"
    if not file.exists():
        held = pixels(bench)
        found = {
            name: torch.cat([autoencoder.encode(to_model(unit(part))).half() for part in held[name].split(_BLOCK)])
            for name in ("sharp", *TARGETS, "reference", "masked")
        }
        down = autoencoder.factor
        found["rgb"] = F.avg_pool2d(to_model(unit(held["reference"])), down).half()
        found["mask"] = F.avg_pool2d(held["hole"].float(), down).half()
        found["vector"] = held["vector"]
        _save(file, found)
    return _load(file)


def unit(levels: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return levels.float() / 255


def _pixels(bench: Bench) -> dict[str, Tensor]:
    whole = split("train", bench)
    found = {"sharp": whole.sharp, "reference": whole.reference, "masked": whole.edit("inpaint").source}
    found |= {task: whole.edit(task).target for task in TARGETS}
    out = {name: (value * 255).round().to(torch.uint8) for name, value in found.items()}
    return {**out, "hole": whole.hole.bool(), "vector": as_tensor(whole.vectors)}


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
