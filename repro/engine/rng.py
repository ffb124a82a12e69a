"""Counter-based random numbers: one stream per sample, no generator state anywhere.

A draw is a hash of (seed, sample id, purpose, step, element index), so a sample's noise does not depend on the batch
it is in, on the order or number of workers and processes, on the device, or on how often a run was resumed. The hash
is the splitmix64 finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), vectorised
over the whole batch in int64 arithmetic that wraps; normals come from Box and Muller's transform.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from repro.errors import ReproError


def _signed(value: int) -> int:
    """The low 64 bits of a whole number, as int64 holds them."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_GOLDEN, _C1, _C2 = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(z: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically: the mask makes the shift logical.
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """splitmix64 of every element; consumes its argument."""
    z.add_(_GOLDEN)
    z.bitwise_xor_(_shift(z, 30)).mul_(_C1)
    z.bitwise_xor_(_shift(z, 27)).mul_(_C2)
    return z.bitwise_xor_(_shift(z, 31))


def _hashed(text: str) -> int:
    return _signed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def check_generator(owner: str, generator: Any, count: int, seed: int | None = None) -> None:
    """`ReproError` unless `generator` is None, one torch generator, or a list of one for each of `count` images; and
    where there is a `seed`, too."""
    if generator is not None and seed is not None:
        raise ReproError(f"{owner}: got a generator and a seed; accepted: one of the two")
    listed = generator if isinstance(generator, list) else [generator] * count
    if len(listed) != count or not all(isinstance(one, torch.Generator | None) for one in listed):
        found = f"{len(listed)} generators" if isinstance(generator, list) else f"generator {generator!r}"
        raise ReproError(f"{owner}: got {found}; accepted: one torch.Generator, or a list of {count}, one an image")


class KeyedNoise:
    """Random numbers of a batch of samples, made on `device`, keyed by `seed`, by `ids` (one per sample: whole numbers,
    text, or an int64 tensor (B,)) and by `purpose` ("noise", "time", "crop"), whose streams are independent."""

    def __init__(
        self, seed: int, ids: Sequence[int | str] | Tensor, purpose: str, device: torch.device | str = "cpu"
    ) -> None:
        if not isinstance(seed, Integral) or not 0 <= seed < 1 << 64:  # beyond, two seeds would be one
            raise ReproError(f"a seed has 64 bits, 0 to 18446744073709551615: got {seed}")
        self.device = torch.device(device)
        if not isinstance(ids, Tensor):  # text is hashed with SHA-256, whole numbers are mixed directly
            ids = torch.tensor([_hashed(f"id:{i}") if isinstance(i, str) else _signed(int(i)) for i in ids])
        base = _mix(_mix(torch.tensor(_signed(int(seed)))) ^ _hashed(purpose))
        self.keys = _mix(ids.to(self.device, torch.int64) ^ base.to(self.device))  # (B,)

    def _bits(self, count: int, step: int) -> Tensor:
        """(B, count) int64 of 64 random bits each."""
        start = _mix(self.keys ^ _mix(torch.tensor(_signed(step), device=self.device)))  # (B,) one stream per step
        counter = torch.arange(1, count + 1, dtype=torch.int64, device=self.device).mul_(_GOLDEN)
        return _mix(start[:, None] + counter[None, :])

    def uniform(self, shape: Sequence[int] = (), step: int = 0) -> Tensor:
        """(B, *shape) float32 in [0, 1), 24 bits each."""
        bits = self._bits(max(1, math.prod(shape)), step)
        return _shift(bits, 40).to(torch.float32).mul_(2.0**-24).view(len(self.keys), *shape)

    def integers(self, low: int, high: int, shape: Sequence[int] = (), step: int = 0) -> Tensor:
        """(B, *shape) int64 in [low, high); the modulo bias is below (high - low) / 2^62."""
        bits = self._bits(max(1, math.prod(shape)), step)
        return _shift(bits, 2).remainder_(high - low).add_(low).view(len(self.keys), *shape)

    def normal(self, shape: Sequence[int], step: int = 0) -> Tensor:
        """(B, *shape) float32 standard normals."""
        count = math.prod(shape)
        bits = self._bits((count + 1) // 2, step)  # one hash makes two normals
        # The radius takes 32 bits and is never zero, so the largest |value| is sqrt(2 ln 2^33) = 6.8.
        radius = _shift(bits, 32).to(torch.float32).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
        angle = bits.bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0 * math.pi * 2.0**-24)
        pair = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)  # (B, 2 * ceil(count / 2))
        return pair[:, :count].reshape(len(self.keys), *shape)

    def __call__(self, step: int, like: Tensor) -> Tensor:
        """The samplers' noise interface: standard normals of `like`'s shape and type for one step."""
        return self.normal(tuple(like.shape[1:]), step).to(like.dtype)


Noises = Callable[[str], KeyedNoise]  # purpose -> the random numbers of a batch
