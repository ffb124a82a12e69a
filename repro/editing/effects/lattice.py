"""Random numbers on an unbounded integer lattice: the draw at (row, column) depends on the key and the place alone.

`KeyedNoise` hashes one axis of ids; a film has 10^8 cells per picture, so here each axis is hashed once (64 bits a row,
64 bits a column) and the two are combined per cell in 32-bit arithmetic that wraps, which is what makes a Monte-Carlo
sample cheap. The finaliser is the two-round multiply-xorshift hash "lowbias32" (Wellons, "Prospecting for hash
functions", 2018); the second pair of axis keys enters between its rounds, so that two rows or columns whose first keys
collide still differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise

_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)
_STEP = 0x9E3779B9 - (1 << 32)


def plane_keys(seed: int, ids: Sequence[int | str] | Tensor, channels: int, purpose: str) -> Tensor:
    """(B * channels,) int64: one key per picture and channel."""
    noise = KeyedNoise(seed, ids, purpose)
    return noise.integers(-(1 << 61), 1 << 61, (channels,)).flatten()


def axis_keys(keys: Tensor, index: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """Two int32 keys for every lattice index on one axis.

    Args:
        keys: (P,) int64 of `plane_keys`.
        index: (..., P, n) int64, any sign.
        axis: its name; rows and columns must differ in it.
    """
    ids = (index ^ keys[:, None]).flatten()
    pair = KeyedNoise(0, ids, f"lattice {axis}").integers(-(1 << 31), 1 << 31, (2,)).to(torch.int32)
    return pair[:, 0].view(index.shape), pair[:, 1].view(index.shape)


def cell_bits(rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    """int32 of 32 random bits for every cell, the high ones best; the keys broadcast, e.g. (P, H, 1) and (P, 1, W)."""
    bits = rows[0] + columns[0]
    _fold(bits, 16).mul_(_M1).add_(rows[1]).bitwise_xor_(columns[1])
    return _fold(bits, 15).mul_(_M2)


def further_bits(bits: Tensor, number: int) -> Tensor:
    """The cell's `number`-th further 32 random bits (number >= 1), from its `cell_bits`."""
    more = bits + _wrap(number * _STEP)
    _fold(more, 16).mul_(_M1)
    _fold(more, 15).mul_(_M2)
    return _fold(more, 16)


def _fold(bits: Tensor, by: int) -> Tensor:
    """bits ^= bits >> by, in place; the mask makes torch's arithmetic shift logical."""
    return bits.bitwise_xor_((bits >> by).bitwise_and_((1 << (32 - by)) - 1))


def _wrap(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)
