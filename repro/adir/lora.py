"""Low-rank adaptation of a network's convolutions: W + (alpha / r) B A, without a trace on the network.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models"; for a k x k convolution A is a k x k convolution to r
channels and B a 1 x 1 convolution, as the package peft has it. Factors are a plain dictionary, "<convolution>.down"
(r, in, k, k) and "<convolution>.up" (out, r); the network runs with the sums in the place of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


def convolutions(network: nn.Module, pointwise: bool = True) -> dict[str, nn.Module]:
    """The convolutions of a network by name; without `pointwise`, only those wider than 1 x 1 (1-D: wider than 1)."""
    found = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d)}
    return {n: m for n, m in found.items() if pointwise or max(m.kernel_size) > 1}


def fresh(network: nn.Module, rank: int = 16, pointwise: bool = True, seed: int = 0) -> dict[str, nn.Parameter]:
    """Factors of every convolution that can be trained; `up` is 0, so they change nothing yet."""
    made = {}
    for name, module in convolutions(network, pointwise).items():
        out, *rest = module.weight.shape
        bound = 1 / math.sqrt(math.prod(rest))  # kaiming_uniform with a = sqrt(5), as nn.Conv2d and peft have it
        down = KeyedNoise(seed, [name], "adir/lora").uniform((rank, *rest))[0] * 2 * bound - bound
        made[f"{name}.down"] = nn.Parameter(down.to(module.weight))
        made[f"{name}.up"] = nn.Parameter(module.weight.new_zeros(out, rank))
    return made


def weights(network: nn.Module, factors: Mapping[str, Tensor], alpha: float = 8) -> dict[str, Tensor]:
    """The adapted weights, "<convolution>.weight": W + (alpha / r) up @ down. Refuses factors of another network."""
    known, found = convolutions(network), {}
    for name in sorted({key.rsplit(".", 1)[0] for key in factors}):
        if name not in known or not {f"{name}.up", f"{name}.down"} <= factors.keys():
            raise ReproError(f"LoRA of another network: it has factors of {name!r}, which this network lacks")
        weight = known[name].weight
        up, down = (factors[f"{name}.{k}"].to(weight) for k in ("up", "down"))
        if (len(up), *down.shape[1:]) != tuple(weight.shape):
            raise ReproError(
                f"LoRA of another network: its factors of {name!r} make a weight of {(len(up), *down.shape[1:])}, "
                f"this network has {tuple(weight.shape)}"
            )
        found[f"{name}.weight"] = weight + (alpha / up.shape[1]) * (up @ down.flatten(1)).view_as(weight)
    return found


@contextmanager
def adapted(network: nn.Module, factors: Mapping[str, Tensor], alpha: float = 8) -> Iterator[nn.Module]:
    """The network with the factors on, inside the block; afterwards its weights are what they were, bit for bit.

    The sums are made once, so the network runs at its own speed.
    """
    with torch.no_grad():
        changed = weights(network, factors, alpha)
    kept = {name: network.get_parameter(name).data for name in changed}
    try:
        for name, weight in changed.items():
            network.get_parameter(name).data = weight
        yield network
    finally:
        for name, weight in kept.items():
            network.get_parameter(name).data = weight


def save(path: Path, factors: Mapping[str, Tensor], alpha: float, base: str) -> Path:
    """Write factors as safetensors; `base` names the network that they belong to.

    Numbers are kept in eight bits with a scale a row: half the size of fp16, an error of 1/254 of a row's largest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scales = {k: v.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127 for k, v in factors.items()}
    rounded = {k: (v / scales[k].view(-1, *[1] * (v.ndim - 1))).round().to(torch.int8) for k, v in factors.items()}
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
