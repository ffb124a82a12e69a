"""Notebook 02's networks in small, of the same classes, with weights that say something."""

from typing import Any

import torch

from repro.ddpm.process import by_name
from repro.editing.autoencoder import Autoencoder
from repro.editing.model import EditingNet
from repro.editing.sampling import SCHEDULE, Editor
from repro.editing.study.experiments import SMOKE
from repro.editing.vector import EditingVector
from repro.engine.rng import KeyedNoise

PREDICTION = "v_prediction"
FULL = EditingVector(blur=0.3, grain=0.05, colour=True, inpaint=True, sharpen=(2.5, 0.04))


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def tiny_network(seed: int = 0, scale: float = 1.0, **changes: Any) -> EditingNet:
    """The smoke profile's network; its last layers times `scale`. A fresh bypass would be zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = EditingNet(**{**SMOKE.network, **changes}).eval()
        if net.bypass is not None:
            torch.nn.init.normal_(net.bypass.mix.weight, std=0.2)
    for layer in (net.unet.conv_out, *([net.bypass.mix] if net.bypass else [])):
        for p in layer.parameters():
            p.data *= scale
    return net


def tiny_autoencoder() -> Autoencoder:
    """The smoke profile's, with the statistics that its latents have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Autoencoder(**SMOKE.autoencoder).eval().requires_grad_(False)
    z = model.raw(2 * pictures(4, 32) - 1)
    model.mean.copy_(z.mean(dim=(0, 2, 3)))
    model.deviation.copy_(z.std(dim=(0, 2, 3)))
    return model


def tiny_editor(network: EditingNet | None = None, **settings: Any) -> Editor:
    network = (network or tiny_network()).requires_grad_(False)
    return Editor(network, tiny_autoencoder(), by_name(**SCHEDULE), **{"prediction": PREDICTION, **settings})


def pictures(count: int, *size: int, purpose: str = "picture") -> torch.Tensor:
    """(count, 3, H, W) in [0, 1]: noise on a slope."""
    height, width = size if len(size) == 2 else size * 2
    noise = KeyedNoise(0, range(count), purpose)
    slope = torch.linspace(0, 1, width).expand(height, width) * noise.uniform((3, 1, 1))
    return 0.7 * slope + 0.3 * noise.uniform((3, height, width), step=1)
