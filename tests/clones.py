"""Scratch clones, in which everything generated goes its own way; small untrained networks and photographs for them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import clone
from tiny_editing import tiny_autoencoder, tiny_network

from repro.adir.study import experiments as adir
from repro.ddpm.study import experiments as ddpm
from repro.editing.study import experiments as editing
from repro.editing.study.pix2pix import Pix2PixGenerator
from repro.engine.checkpoint import save_checkpoint
from repro.metrics.features import CLASSIFIER
from repro.nn.classifier import Classifier
from repro.nn.unet import UNet
from repro.rddm.study import experiments as rddm
from repro.ucdir.model import UCDIR
from repro.ucdir.study import experiments as ucdir
from repro.ui.controls import UploadedFile

# Left out below: notebooks and explorers have to say so and go on.
MISSING = {"02": editing.name_of("single-sharpen", 0, "smoke"), "03": rddm.name_of("raindrop", "sr3", 0, "smoke")}


def fill(number: str, home: Path) -> None:
    """Every network that a notebook's smoke profile needs, untrained, in `home`/checkpoints, but the one `MISSING`."""
    made: dict[str, torch.nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if number in ("01", "03"):
            made[ddpm.MAIN] = ddpm.build_network(ddpm.SMOKE)
        if number == "01":
            made[CLASSIFIER] = Classifier(base_channels=8, channel_mults=(1, 1))
        elif number == "02":
            made[editing.autoencoder_name("smoke")] = tiny_autoencoder()
            made[editing.name_of("pix2pix", 0, "smoke")] = Pix2PixGenerator(widths=editing.SMOKE.pix2pix["widths"])
            for i, v in enumerate(v for v in editing.VARIANTS if editing.VARIANTS[v].ships):
                made[editing.name_of(v, 0, "smoke")] = tiny_network(i, **editing.network_of(editing.SMOKE, v))
        elif number == "03":
            for task, variant in ((t, v) for t, v, ships in rddm.TRAINED if ships):
                made[rddm.name_of(task, variant, 0, "smoke")] = rddm.build_network(rddm.SMOKE[task], variant)
        elif number == "04":  # none for JPEG
            for task, variant in (("lowlight", "use"), ("lowlight", "regression"), ("deblur", "use")):
                made[f"ucdir-{task}-smoke-{variant}-s0"] = UCDIR(**ucdir.network_of(task, variant, "smoke"))
        elif number == "05":
            made[adir.SMOKE] = UNet(**adir.TINY)
    for name, network in made.items():
        if name != MISSING.get(number):
            save_checkpoint(home / "checkpoints" / name, network, {"images": 0})


@contextmanager
def smoke_networks(number: str, home: Path) -> Iterator[None]:
    """A scratch clone at `home` with the networks of `fill`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_HOME", str(clone(home)))
        fill(number, home)
        yield


def photo(width: int, height: int, name: str = "mine.png") -> UploadedFile:
    """A ramp as a reader would upload it."""
    row, file = np.linspace(0, 255, width).astype(np.uint8), io.BytesIO()
    Image.fromarray(np.repeat(np.repeat(row[None], height, 0)[..., None], 3, 2)).save(file, format="PNG")
    return UploadedFile(name, file.getvalue())
