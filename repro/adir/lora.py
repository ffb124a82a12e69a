"""Low-rank adaptation of a network's convolutions: W + (alpha / r) B A, put on and taken off without a trace.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models"; for a k x k convolution A is a k x k convolution to r
channels and B a 1 x 1 convolution, as the package peft has it. The products are written into the convolution's weight
by torch's parametrizations, so the network runs at its own speed and its own weights are never touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


class LowRank(nn.Module):
    """weight (out, in, k, k) -> weight + (alpha / rank) * up @ down; `up` starts at 0, so nothing changes at first."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, noise: KeyedNoise) -> None:
        super().__init__()
        out, *rest = weight.shape
        self.scale = alpha / rank
        bound = 1 / math.sqrt(math.prod(rest))  # kaiming_uniform with a = sqrt(5), as nn.Conv2d and peft have it
        down = noise.uniform((rank, *rest))[0] * 2 * bound - bound
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down.flatten(1)).view_as(weight)


def convolutions(network: nn.Module, pointwise: bool = True) -> dict[str, nn.Module]:
    """The convolutions of a network by name; without `pointwise`, only those wider than 1 x 1 (1-D: wider than 1)."""
    kinds = (nn.Conv1d, nn.Conv2d)
    found = {name: m for name, m in network.named_modules() if isinstance(m, kinds)}
    return {n: m for n, m in found.items() if pointwise or max(m.kernel_size) > 1}


def attach(
    network: nn.Module, rank: int = 16, alpha: float = 8, pointwise: bool = True, seed: int = 0
) -> list[nn.Parameter]:
    """Put fresh factors on every convolution; returns them, the only parameters that ask for gradients."""
    if factors(network):
        raise ReproError("this network carries LoRA factors already: take them off first")
    network.requires_grad_(False)
    for name, module in convolutions(network, pointwise).items():
        low = LowRank(module.weight, rank, alpha, KeyedNoise(seed, [name], "adir/lora"))
        parametrize.register_parametrization(module, "weight", low)
    return [p for low in factors(network).values() for p in low.parameters()]


def factors(network: nn.Module) -> dict[str, LowRank]:
    """The factors that a network carries, by the convolution's name."""
    return {
        name: module.parametrizations.weight[0]
        for name, module in network.named_modules()
        if parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], LowRank)
    }


def detach(network: nn.Module) -> None:
    """Take the factors off: the weights are the tensors that they were."""
    for name in factors(network):
        parametrize.remove_parametrizations(network.get_submodule(name), "weight", leave_parametrized=False)
    network.requires_grad_(False)


def state(network: nn.Module) -> dict[str, Tensor]:
    """The factors as tensors, "<convolution>.up" (out, r) and "<convolution>.down" (r, in, k, k)."""
    found = {f"{n}.{k}": v.detach().cpu() for n, low in factors(network).items() for k, v in low.named_parameters()}
    return {k: v.contiguous() for k, v in found.items()}


def save(path: Path, tensors: dict[str, Tensor], alpha: float, base: str) -> Path:
    """Write factors as safetensors; `base` names the network that they belong to.

    Numbers are kept in eight bits with a scale a row: half the size of fp16, an error of 1/254 of a row's largest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scales = {k: v.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127 for k, v in tensors.items()}
    rounded = {k: (v / scales[k].view(-1, *[1] * (v.ndim - 1))).round().to(torch.int8) for k, v in tensors.items()}
    kept = rounded | {f"{k}.scale": v for k, v in scales.items()}
    save_file(kept, path, metadata={"alpha": f"{alpha:g}", "base": base})
    return path


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(factors in fp32, metadata) of a file."""
    try:
        with safe_open(path, framework="pt") as file:
            kept, about = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
        names = [k for k in kept if not k.endswith(".scale")]
        return {k: kept[k] * kept[f"{k}.scale"].view(-1, *[1] * (kept[k].ndim - 1)) for k in names}, about or {}
    except (OSError, KeyError, SafetensorError) as error:
        raise ReproError(f"{path}: no LoRA file can be read there ({error})") from error


@contextmanager
def adapted(network: nn.Module, tensors: dict[str, Tensor], alpha: float = 8) -> Iterator[nn.Module]:
    """The network with the factors on, inside the block; afterwards its weights are what they were, bit for bit.

    The sums are made once, so the network runs at its own speed. Raises `ReproError` for factors of another network.
    """
    names = {key.rsplit(".", 1)[0] for key in tensors}
    known = convolutions(network)
    for name in sorted(names):
        if name not in known or not {f"{name}.up", f"{name}.down"} <= tensors.keys():
            raise ReproError(f"LoRA of another network: it has factors of {name!r}, which this network lacks")
        up, down = tensors[f"{name}.up"], tensors[f"{name}.down"]
        if (up.shape[0], *down.shape[1:]) != tuple(known[name].weight.shape):
            raise ReproError(
                f"LoRA of another network: its factors of {name!r} make a weight of {(up.shape[0], *down.shape[1:])}, "
                f"this network has {tuple(known[name].weight.shape)}"
            )
    kept = {name: known[name].weight.data for name in names}
    try:
        with torch.no_grad():
            for name, weight in kept.items():
                up, down = (tensors[f"{name}.{k}"].to(weight) for k in ("up", "down"))
                known[name].weight.data = weight + (alpha / up.shape[1]) * (up @ down.flatten(1)).view_as(weight)
        yield network
    finally:
        for name, weight in kept.items():
            known[name].weight.data = weight
