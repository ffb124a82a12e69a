"""Paper scale: the frozen build of REDS as the training set, pretrained networks as the start.

Latents are banked, as in the small profile. The paper cuts one crop from each pair of frames and makes its effects
once, so its 540,000 training crops are 22 passes over 24,000: encoding each crop's seven pictures once costs a fraction
of encoding source and target at every visit, and leaves the GPU to the U-Net. Effects are those of the build
(`repro data build editing-bench --profile paper`), where each crop has one of the paper's five radii of grain.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.editing import bank, build, manifest, pretrained, weights
from repro.editing.benchmark import VERSION
from repro.editing.pretrained import PretrainedAutoencoder, PretrainedEditingNet
from repro.editing.sampling import Editor
from repro.editing.vector import TASKS, EditingVector
from repro.editing.vector import batch as as_tensor
from repro.editing.weights import MODELS
from repro.engine.checkpoint import load_checkpoint
from repro.errors import ReproError
from repro.nn.padding import Box

KINDS = ("sharp", *bank.TARGETS, "inpaint", "reference", "mask")  # of a build, that a network learns from
COMMAND = "repro data build editing-bench --profile paper"


def device() -> str:
    """Where networks of this size run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


# -- networks ---------------------------------------------------------------------------------------------------------


def build_network(arguments: Mapping[str, object], name: str) -> PretrainedEditingNet:
    """The network that training begins at, of MODELS[name]; on the meta device without its weights."""
    net = PretrainedEditingNet(**arguments)
    return net if next(net.parameters()).is_meta else pretrained.initialise(net, MODELS[name])


def load_autoencoder(name: str) -> PretrainedAutoencoder:
    """The frozen autoencoder of MODELS[name]; read-only."""
    return pretrained.load_autoencoder(weights.located(MODELS[name]), name)


def autoencoder_hash(name: str) -> str:
    """SHA-256 of the weights of MODELS[name]'s autoencoder."""
    return weights.weights_hash(weights.located(MODELS[name]) / MODELS[name].part)


@dataclass(frozen=True)
class DeviceEditor(Editor):
    """An editor whose networks lie on a device of their own; pictures come from the CPU and go back to it."""

    device: str = "cpu"

    def conditions(
        self,
        image: Tensor,
        vectors: Sequence[EditingVector],
        reference: Tensor | None = None,
        hole: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Box]:
        there = [None if part is None else part.to(self.device) for part in (image, reference, hole)]
        return super().conditions(there[0], vectors, there[1], there[2])  # type: ignore[arg-type]

    def picture(self, latent: Tensor, box: Box) -> Tensor:
        return super().picture(latent, box).cpu()


def editor(trained: Path, name: str, **parts: Any) -> DeviceEditor:
    """The editor of a trained network's folder and the autoencoder of MODELS[name]; `parts` of `Editor` beside them."""
    where = device()
    return DeviceEditor(Waiting(trained), autoencoder_on(name, where), **parts, device=where)  # type: ignore[arg-type]


class Waiting:
    """A trained network that is read when it is needed: only the last few that were asked for stay in memory."""

    def __init__(self, trained: Path) -> None:
        self.trained = trained

    def __getattr__(self, name: str) -> Any:
        return getattr(network_on(self.trained, device()), name)

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return network_on(self.trained, device())(*args, **settings)


@lru_cache(maxsize=len(TASKS))  # a sequence of single-task networks
def network_on(trained: Path, where: str) -> nn.Module:
    """The network of a checkpoint on a device, read-only."""
    return load_checkpoint.__wrapped__(trained).to(where)


@lru_cache(maxsize=1)
def autoencoder_on(name: str, where: str) -> PretrainedAutoencoder:
    """The frozen autoencoder of MODELS[name] on a device."""
    return copy.deepcopy(load_autoencoder(name)).to(where)


# -- what they learn from ---------------------------------------------------------------------------------------------


def folder() -> Path:
    """The build of the benchmark from REDS. Raises `ReproError` where there is none of this version."""
    found = build.home_of("paper")
    if not (found / manifest.NAME).is_file():
        raise ReproError(f"{found}: there is no build of the benchmark from REDS; `{COMMAND}` makes it")
    version = manifest.read(found).version
    if version != VERSION:
        raise ReproError(f"{found}: is version {version} of the benchmark, not {VERSION}; remove it, then `{COMMAND}`")
    return found


def vectors(where: Path) -> Tensor:
    """(N, 9) what is asked of each crop of the training split, all five effects on."""
    asked = [[float(number) for number in line[2:6]] for line in build.parameters_of(where, "train")]
    return as_tensor([EditingVector(b, s, colour=True, inpaint=True, sharpen=(a, t)) for b, s, a, t in asked])


def latents(name: str, where: Path | None = None) -> dict[str, Tensor]:
    """`repro.editing.bank.encoded` of the build's training split and its "vector", made once and kept beside it."""
    where = where or folder()
    total, key = manifest.read(where).total, autoencoder_hash(name)
    file = where.with_name(f"{where.name}-latents-{total[:16]}-{key[:16]}.safetensors")

    def make() -> dict[str, Tensor]:
        return {**bank.encoded(autoencoder_on(name, device()), _blocks(where)), "vector": vectors(where)}

    return bank.stored(file, make)


def _blocks(where: Path) -> Iterator[dict[str, Tensor]]:
    from tqdm import tqdm

    total = len(build.parameters_of(where, "train"))
    with tqdm(total=total, desc="latents", unit="crop", delay=1.0) as bar:
        for ids, pictures in build.load(where, "train", KINDS):
            yield _names(pictures)
            bar.update(len(ids))


def _names(found: dict) -> dict:
    """A build's kinds under the bank's names."""
    found["masked"] = found.pop("inpaint")
    if isinstance(found.get("mask"), Tensor):
        found["hole"] = found.pop("mask") > 0
    return found


def pixels(where: Path | None = None) -> dict[str, Rows | Tensor]:
    """The build's training split for `repro.editing.pix2pix`: pictures stay on the disk until they are asked for."""
    where = where or folder()
    count, block = len(build.parameters_of(where, "train")), manifest.read(where).block
    files = tuple(where / "train" / f"{number:05d}.safetensors" for number in range(-(-count // block)))
    if missing := [file for file in files if not file.is_file()]:
        raise ReproError(f"{missing[0]}: not found; pix2pix reads a build made without --png (`{COMMAND}`)")
    found = {kind: Rows(files, kind, block, count) for kind in KINDS if kind != "mask"}
    return {**_names(found), "vector": vectors(where)}


@dataclass(frozen=True)
class Rows:
    """uint8 pictures (N, 3, S, S) of one kind, in safetensors files of `block` each; indexed by (B,) numbers."""

    files: tuple[Path, ...]
    kind: str
    block: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Tensor) -> Tensor:
        from safetensors import safe_open

        parts = []
        for index in indices.tolist():
            with safe_open(self.files[index // self.block], framework="pt") as file:  # a map; what is read is one row
                parts.append(file.get_slice(self.kind)[index % self.block])
        if parts:
            return torch.stack(parts)
        with safe_open(self.files[0], framework="pt") as file:
            return torch.empty(0, *file.get_slice(self.kind).get_shape()[1:], dtype=torch.uint8)
