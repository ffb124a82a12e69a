"""Adaptation: a few hundred steps of low-rank training on the measurement itself or on its neighbours.

ADIR, eq. 18 (on y) and eq. 20 (on K retrieved images): the simple loss of DDPM plus 0.1 times LPIPS of the clean
estimate, Adam at 1e-4, batches of 6 random crops that share one timestep (Table 1 and section 4). The paper does not
say what LPIPS compares, nor at which noise levels: here the clean estimate, cut to [-1, 1], with the clean crop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from repro.adir import lora
from repro.adir.prior import SCALES, SIZE
from repro.data import crops
from repro.data.images import resize, to_model
from repro.ddpm import losses, process
from repro.ddpm.schedules import Schedule
from repro.engine.recipe import digest
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.metrics import lpips


@dataclass(frozen=True)
class Adaptation:
    """How the network is adapted; the defaults are the paper's, `variance` and `weighting` its silent choices.

    Args:
        iterations, lr, batch: of Adam.   rank, alpha: of LoRA.
        pointwise: whether 1 x 1 convolutions (attention's among them) get factors too.
        perceptual: weight of the LPIPS term; 0 leaves it out.
        weighting: of the LPIPS term over t: "uniform", or "signal", times alpha_bar_t.
        every: the LPIPS term is computed at each `every`-th iteration, with `every` times its weight.
        variance: whether the variance is trained too, by the hybrid loss. The simple loss does not reach its outputs.
        one_t: one timestep a batch.
    """

    iterations: int = 400
    lr: float = 1e-4
    batch: int = 6
    rank: int = 16
    alpha: float = 8
    pointwise: bool = True
    perceptual: float = 0.1
    weighting: Literal["uniform", "signal"] = "uniform"
    every: int = 1
    variance: bool = False
    one_t: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "rank", "every"):
            if getattr(self, name) < 1:
                raise ReproError(f"adaptation: {name} must be 1 or more: got {getattr(self, name)}")
        if self.weighting not in ("uniform", "signal") or self.perceptual < 0 or not self.lr > 0:
            raise ReproError(
                f"adaptation: weighting is uniform or signal, perceptual at least 0, lr above 0: got {asdict(self)}"
            )


@dataclass(frozen=True)
class AdaptStep:
    """After an iteration: its number from 1, the loss's two parts, the timestep of its first crop, the network."""

    iteration: int
    simple: float
    perceptual: float
    t: int
    network: nn.Module


def sizes(image: Tensor, scales: Sequence[int] = SCALES) -> list[Tensor]:
    """The sizes of an image (3, H, W) in [0, 1] that crops are cut from: the prior's, those not above its own."""
    side = min(image.shape[-2:])
    kept = [s for s in scales if s < side]
    return [*(resize(image, s) for s in kept), *([image] if side <= max(scales) else [])]


def adapt(
    network: nn.Module,
    images: Sequence[Tensor],
    schedule: Schedule,
    settings: Adaptation | None = None,
    seed: int = 0,
    *,
    scales: Sequence[int] = SCALES,
    crop: int = SIZE,
    state: Path | None = None,
) -> Iterator[AdaptStep]:
    """Adapt `network` to `images` (3, H, W) in [0, 1], one iteration at a time.

    The network carries its factors while the generator runs and after it: `repro.adir.lora.state` reads them, `detach`
    takes them off. With `state`, a file, an interrupted adaptation goes on by the same call.

    Raises:
        ReproError: no image; a state of another adaptation; a loss that is not finite.
    """
    settings = settings or Adaptation()
    if not images:
        raise ReproError("adaptation needs at least one image: got none")
    pictures = [sizes(x, scales) for x in images]
    side = min([crop, *(min(x.shape[-2:]) for all_ in pictures for x in all_)])
    parameters = lora.attach(network, settings.rank, settings.alpha, settings.pointwise, seed)
    optimizer = torch.optim.Adam(parameters, lr=settings.lr)
    identity = digest({"settings": asdict(settings), "seed": seed, "images": [float(x.sum()) for x in images]})
    done = _resume(state, identity, parameters, optimizer) if state else 0
    return _iterations(
        network, pictures, schedule, settings, seed, side, state, (parameters, optimizer, identity, done)
    )


@torch.enable_grad()  # also inside a caller's no_grad; not in the caller's code between steps
def _iterations(network, pictures, schedule, settings, seed, side, state, begun) -> Iterator[AdaptStep]:
    parameters, optimizer, identity, done = begun
    model = process.model_fn(network)
    for i in range(done, settings.iterations):
        places = range(i * settings.batch, (i + 1) * settings.batch)
        noise = {p: KeyedNoise(seed, places, f"adir/adapt/{p}") for p in ("image", "scale", "crop", "noise", "time")}
        chosen = noise["image"].integers(0, len(pictures)).tolist()
        at = noise["scale"].uniform().tolist()
        cut = [pictures[k][int(u * len(pictures[k]))] for k, u in zip(chosen, at, strict=True)]
        x0 = to_model(crops.cut(cut, side, noise["crop"].uniform((3,))))  # (B, 3, side, side)
        t = noise["time"].integers(0, schedule.T)
        t = t[:1].expand(len(t)) if settings.one_t else t
        eps = noise["noise"].normal(tuple(x0.shape[1:]))
        perceptual = settings.perceptual * settings.every if i % settings.every == 0 else 0.0
        simple, similar = loss(model, x0, t, eps, schedule, settings, perceptual > 0)
        total = simple + perceptual * similar
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if not torch.isfinite(total):
            raise ReproError(f"adaptation stopped at iteration {i + 1}: the loss is {total.item()}")
        optimizer.step()
        if state and ((i + 1) % 50 == 0 or i + 1 == settings.iterations):
            _save(state, identity, parameters, optimizer, i + 1)
        yield AdaptStep(i + 1, simple.item(), similar.item(), int(t[0]), network)


def loss(
    model: process.Model,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    schedule: Schedule,
    settings: Adaptation,
    with_lpips: bool = True,
) -> tuple[Tensor, Tensor]:
    """(simple or hybrid loss, LPIPS of the clean estimate), means over the batch (eqs. 6, 20)."""
    x_t = process.q_sample(x0, t, eps, schedule)
    output = model(x_t, t)
    if settings.variance:
        simple = losses.hybrid_loss(lambda _x, _t: output, x0, t, eps, schedule).total.mean()
    else:
        simple = losses.simple(output[:, :3], eps).mean()
    if not with_lpips:
        return simple, simple.new_zeros(())
    a, s = schedule.at(t, x0)
    estimate = ((x_t - s * output[:, :3]) / a).clamp(-1, 1)  # eq. 14
    small = min(x0.shape[-2:]) < lpips.SMALLEST
    pair = [F.interpolate(x, scale_factor=4, mode="bicubic") if small else x for x in (estimate, x0)]
    similar = lpips.shared(str(x0.device))(*pair)  # (B,)
    weight = schedule.gather("alpha_bar", t, similar).flatten() if settings.weighting == "signal" else 1.0
    return simple, (weight * similar).mean()


def adapted_to(
    network: nn.Module,
    images: Sequence[Tensor],
    schedule: Schedule,
    settings: Adaptation | None = None,
    seed: int = 0,
    *,
    progress: bool = False,
    **options: object,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(factors, {"seconds", "iterations", "simple"}) of a whole adaptation; the network is left as it was."""
    settings = settings or Adaptation()
    begun, simple = time.perf_counter(), float("nan")
    steps = adapt(network, images, schedule, settings, seed, **options)  # type: ignore[arg-type]
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=settings.iterations, desc="adapting", leave=False)
    try:
        for step in steps:
            simple = step.simple
        found = lora.state(network)
    finally:
        lora.detach(network)
    seconds = time.perf_counter() - begun
    return found, {"seconds": seconds, "iterations": settings.iterations, "simple": simple}


# -- the state of an interrupted adaptation


def _save(path: Path, identity: str, parameters: list[nn.Parameter], optimizer: torch.optim.Adam, done: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for i, p in enumerate(parameters):
        kept = optimizer.state[p]
        tensors |= {f"{i}.p": p.detach(), f"{i}.m": kept["exp_avg"], f"{i}.v": kept["exp_avg_sq"]}
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, metadata={"identity": identity, "done": str(done)})
        partial.replace(path)
    except OSError as error:
        raise ReproError(f"{path}: the adaptation's state cannot be written ({error.strerror or error})") from error


def _resume(path: Path, identity: str, parameters: list[nn.Parameter], optimizer: torch.optim.Adam) -> int:
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        kept = file.metadata() or {}
        if kept.get("identity") != identity:
            raise ReproError(
                f"{path} is the state of another adaptation: delete it, or give this one a file of its own"
            )
        done = int(kept["done"])
        for i, p in enumerate(parameters):
            p.data.copy_(file.get_tensor(f"{i}.p"))
            optimizer.state[p] = {
                "step": torch.tensor(float(done)),
                "exp_avg": file.get_tensor(f"{i}.m"),
                "exp_avg_sq": file.get_tensor(f"{i}.v"),
            }
    return done
