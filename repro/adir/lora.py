"""Low-rank adaptation of a network's convolutions: W + (alpha / r) B A, without a trace on the network.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models"; for a k x k convolution A is a k x k convolution to r
channels and B a 1 x 1 convolution, as the package peft has it. Factors are a plain dictionary, "<convolution>.down"
(r, in, k, k) and "<convolution>.up" (out, r); the network runs with the sums in the place of its weights.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError


def fresh(network: nn.Module, rank: int = 16, pointwise: bool = True, seed: int = 0) -> dict[str, nn.Parameter]:
    """Factors to train of every convolution, or of those wider than 1 x 1; `up` is 0, so they change nothing yet."""
    made = {}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d) or not (pointwise or max(module.kernel_size) > 1):
            continue
        out, *rest = module.weight.shape
        bound = 1 / math.sqrt(math.prod(rest))  # kaiming_uniform with a = sqrt(5), as nn.Conv2d and peft have it
        down = KeyedNoise(seed, [name], "adir/lora").uniform((rank, *rest))[0] * 2 * bound - bound
        made[f"{name}.down"] = nn.Parameter(down.to(module.weight))
        made[f"{name}.up"] = nn.Parameter(module.weight.new_zeros(out, rank))
    return made


def weights(network: nn.Module, factors: Mapping[str, Tensor], alpha: float = 8) -> dict[str, Tensor]:
    """The adapted weights, "<convolution>.weight": W + (alpha / r) up @ down. Refuses factors of another network."""
    known, found = dict(network.named_modules()), {}
    for name in sorted({key.rsplit(".", 1)[0] for key in factors}):
        weight = getattr(known.get(name), "weight", torch.empty(0))
        up, down = (factors.get(f"{name}.{k}", torch.empty(0)).to(weight) for k in ("up", "down"))
        if (made := (len(up), *down.shape[1:])) != (needed := tuple(weight.shape)):
            raise ReproError(f"LoRA of another network: its factors of {name!r} make {made}, {needed} is needed")
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
    """Write factors as safetensors, `base` naming their network: eight bits a number (half of fp16, an error of 1/254
    of a row's largest) and a scale a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scales = {k: v.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127 for k, v in factors.items()}
    rounded = {k: (v / scales[k].view(-1, *[1] * (v.ndim - 1))).round().to(torch.int8) for k, v in factors.items()}
    kept = rounded | {f"{k}.scale": v for k, v in scales.items()}
    save_file(kept, path, metadata={"alpha": f"{alpha:g}", "base": base})
    return path


def load(path: Path) -> dict[str, Tensor]:
    """The factors of a file, in fp32."""
    try:
        kept = load_file(path)
        names = [k for k in kept if not k.endswith(".scale")]
        return {k: kept[k] * kept[f"{k}.scale"].view(-1, *[1] * (kept[k].ndim - 1)) for k in names}
    except (OSError, KeyError, SafetensorError) as error:
        raise ReproError(f"{path}: no LoRA file can be read there ({error})") from error
