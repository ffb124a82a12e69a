"""Empty clones, networks that say something, and a real but tiny training: noise on eight-by-eight images."""

import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch import Tensor, nn

from repro import paths
from repro.engine.rng import KeyedNoise
from repro.engine.train import Recipe
from repro.errors import ReproError
from repro.nn.unet import UNet

RECIPE = Recipe(images=320, batch=16, lr=1e-3, warmup=64, ema=100, threads=1, save_every=48)


class TinyTask:
    """`poison` makes the loss of that image NaN."""

    ids = tuple(f"image {i}" for i in range(50))

    def __init__(self, poison: int | None = None) -> None:
        self.pictures = torch.rand(len(self.ids), 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.poison = poison

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        x0 = self.pictures[indices]
        eps = noise("noise").normal(x0.shape[1:])
        t = noise("time").integers(0, 1000)
        loss = (model(0.5 * x0 + eps, t).sample - eps).square().mean(dim=(1, 2, 3))
        if self.poison is not None:
            loss = torch.where(indices == self.poison, torch.nan, loss)
        return loss


def tiny_net(seed: int = 0) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(base_channels=8, channel_mults=(1, 2))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in pairs)


def noises(ids: Sequence[int | str], seed: int = 0) -> Callable[[str], KeyedNoise]:
    """What tasks and degradations draw with, by purpose."""
    return lambda purpose: KeyedNoise(seed, ids, purpose)


def shaken(net: nn.Module, scale: float = 0.1) -> nn.Module:
    """The network with every weight moved away from zero, where a fresh one hides mistakes."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = p.data + scale * torch.randn(p.shape, generator=generator)
    return net.eval().requires_grad_(False)


def clone(folder: Path) -> Path:
    """That folder as an empty clone, in which everything generated goes its own way."""
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(Path(__file__).resolve().parents[1] / "pyproject.toml", folder)
    return folder


def refused(cases: dict[str, Any], call: Callable = lambda case: case()) -> None:
    """Checked: `call` of each case (of the values of a tuple) raises one sentence, in which its pattern is found."""
    for pattern, case in cases.items():
        with pytest.raises(ReproError, match=pattern) as caught:
            call(*case) if isinstance(case, tuple) else call(case)
            pytest.fail(f"not refused: {pattern}")
        assert "\n" not in str(caught.value)


def first_cell() -> str:
    """The code that every notebook begins with: it fetches the repository and tag of pyproject.toml in Colab."""
    settings = tomllib.loads((paths.root() / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["repro"]
    notebook = nbformat.read(paths.root() / "notebooks/00_start_here.ipynb", as_version=4)
    cell = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert f'REPOSITORY, TAG, HOME = "{settings["repository"]}", "{settings["tag"]}", ' in cell
    return cell.strip() + "\n"
