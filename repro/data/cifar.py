"""CIFAR-10 from its binary version: 3,073 bytes a picture (label, 1,024 of red, of green, of blue); no pickles."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro import paths
from repro.errors import ReproError

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_BYTES = 1 + 3 * 32 * 32


def load_cifar10(split: str, folder: Path | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """CIFAR-10 of a split: pictures (N, 3, 32, 32) float32 in [-1, 1], labels (N,) int64 in 0..9, ids.

    Args:
        split: "train" (five files) or "test".
        folder: the unpacked archive; default: `cifar-10-batches-bin` in `repro.paths.data()`.

    Raises:
        ReproError: an unknown split, files that are absent (with what to download), cut short or no CIFAR-10.
    """
    if split not in FILES:
        raise ReproError(f"CIFAR-10 has no split {split!r}; accepted: {', '.join(FILES)}")
    folder = folder or paths.data() / FOLDER
    pictures, labels, ids = [], [], []
    for name in FILES[split]:
        raw = _read(folder / name)
        labels.append(raw[:, 0])
        pictures.append(raw[:, 1:].reshape(-1, 3, 32, 32))
        ids += [f"cifar10 {name.removesuffix('.bin')} {i}" for i in range(len(raw))]
    x = torch.from_numpy(np.concatenate(pictures)).float().div_(127.5).sub_(1.0)
    return x, torch.from_numpy(np.concatenate(labels).astype(np.int64)), ids


def data_hash(split: str, folder: Path | None = None) -> str:
    """SHA-256 over the split's files in order."""
    total = hashlib.sha256()
    for name in FILES[split]:
        total.update(_read((folder or paths.data() / FOLDER) / name).tobytes())
    return total.hexdigest()


def _read(path: Path) -> np.ndarray:
    """(N, 3073) uint8 of one file."""
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise ReproError(
            f"{path} cannot be read ({error.strerror}): download {ARCHIVE} (the binary version) from {PAGE} "
            f"and unpack it in {path.parent.parent}, or name another place with REPRO_DATA"
        ) from error
    if not len(data) or len(data) % _BYTES:
        raise ReproError(
            f"{path} has {len(data):,} bytes, not a multiple of {_BYTES:,}: it is cut short or no CIFAR-10"
        )
    raw = data.reshape(-1, _BYTES)
    if raw[:, 0].max() > 9:
        raise ReproError(f"{path} holds the label {raw[:, 0].max()}: CIFAR-10 has 0 to 9 (is it CIFAR-100?)")
    return raw
