"""Adaptation: a few hundred steps of low-rank training on the measurement itself or on its neighbours.

ADIR, eq. 18 (on y) and eq. 20 (on K retrieved images): the simple loss of DDPM plus 0.1 times LPIPS of the clean
estimate, Adam at 1e-4, batches of 6 random crops that share one timestep (Table 1 and section 4). The paper does not
say what LPIPS compares, nor at which noise levels: here the clean estimate, cut to [-1, 1], with the clean crop.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from tqdm.auto import tqdm

from repro.adir import lora, prior
from repro.adir.prior import SIZE
from repro.ddpm import losses, process
from repro.ddpm.schedules import Schedule
from repro.engine.rng import KeyedNoise
from repro.engine.train import digest, load_state, save_state
from repro.errors import ReproError, one_of
from repro.metrics import lpips

SAVE_EVERY = 20  # iterations between two states of an adaptation that may be interrupted


@dataclass(frozen=True)
class Adaptation:
    """How the network is adapted; the defaults are the paper's, `variance` and `weighting` its silent choices.

    Args:
        iterations, lr, batch: of Adam.   rank, alpha: of LoRA.
        pointwise: whether 1 x 1 convolutions (attention's among them) get factors too.
        perceptual: weight of the LPIPS term; 0 leaves it out.
        weighting: of the LPIPS term over t: "uniform", or "signal", times alpha_bar_t.
        variance: whether the variance is trained too, by the hybrid loss. The simple loss does not reach its outputs.
    """

    iterations: int = 400
    lr: float = 1e-4
    batch: int = 6
    rank: int = 16
    alpha: float = 8
    pointwise: bool = True
    perceptual: float = 0.1
    weighting: Literal["uniform", "signal"] = "uniform"
    variance: bool = False

    def __post_init__(self) -> None:
        one_of("adaptation weighting", self.weighting, ("uniform", "signal"))
        if min(self.iterations, self.batch, self.rank) < 1:
            raise ReproError(f"adaptation: iterations, batch and rank are 1 or more: got {asdict(self)}")


@dataclass(frozen=True)
class AdaptStep:
    """After an iteration: its number from 1, the loss's two parts, and the factors, which the next one changes."""

    iteration: int
    simple: float
    perceptual: float
    factors: dict[str, Tensor]


def adapt(
    network: nn.Module,
    images: Sequence[Tensor],
    settings: Adaptation,
    seed: int = 0,
    *,
    crop: int = SIZE,
    state: Path | None = None,
    progress: bool = False,
) -> Iterator[AdaptStep]:
    """Adapt a prior to `images` (3, H, W) in [0, 1], one iteration at a time; its own weights stay what they are.

    With `state`, a folder, an interrupted adaptation goes on by the same call. `progress` shows a bar. Raises
    `ReproError` for a damaged state and a loss that is not finite.
    """
    pictures, schedule, device = [prior.sizes(x) for x in images], prior.SCHEDULE, next(network.parameters()).device
    side = min(crop, *(min(x.shape[-2:]) for some in pictures for x in some))

    def loss_of(model: Callable[..., Any], i: int) -> tuple[Tensor, Tensor]:
        noise = drawn(("image", "scale", "crop", "noise", "time"), "adir/adapt", settings.batch, i, seed)
        chosen = [pictures[k] for k in noise["image"].integers(0, len(pictures)).tolist()]
        x0 = prior.cut_at_a_size(chosen, side, noise.__getitem__).to(device)  # (B, 3, side, side)
        t = noise["time"].integers(0, schedule.T)[:1].expand(settings.batch)  # one for the whole batch
        eps = noise["noise"].normal(tuple(x0.shape[1:])).to(device)
        return loss(process.model_fn(model), x0, t.to(device), eps, schedule, settings)

    summed = {"sums": images, "weights": [p.detach() for p in network.parameters()]}
    about = {name: [float(x.sum()) for x in tensors] for name, tensors in summed.items()}
    return train(network, loss_of, settings, seed, about, state, progress)


def drawn(purposes: Sequence[str], room: str, batch: int, i: int, seed: int) -> dict[str, KeyedNoise]:
    """The random numbers of iteration `i`, by purpose."""
    places = range(i * batch, (i + 1) * batch)
    return {p: KeyedNoise(seed, places, f"{room}/{p}") for p in purposes}


@torch.enable_grad()  # also inside a caller's no_grad; not in the caller's code between steps
def train(
    network: nn.Module,
    loss_of: Callable[[Callable[..., Any], int], tuple[Tensor, Tensor]],
    settings: Adaptation,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    state: Path | None = None,
    progress: bool = False,
) -> Iterator[AdaptStep]:
    """Train fresh factors of a network by Adam.

    Args:
        loss_of: (the network with its factors on, number of the iteration from 0) -> the loss's two parts.
        about: what the loss follows from; with `settings` and `seed` it names the file in the folder `state`.
    """
    network.requires_grad_(False)
    factors = lora.fresh(network, settings.rank, settings.pointwise, seed)
    carried, optimizer = nn.ParameterList(factors.values()), torch.optim.Adam(factors.values(), lr=settings.lr)
    identity = {**(about or {}), "settings": asdict(settings), "seed": seed}
    file = state / f"{digest(identity)}.safetensors" if state else None
    done = load_state(file, identity, carried, nn.Module(), optimizer) if file else 0  # no average is kept
    for i in tqdm(range(done, settings.iterations), desc="adapting", leave=False, disable=not progress):
        changed = lora.weights(network, factors, settings.alpha)
        simple, similar = loss_of(lambda *args, now=changed, **named: functional_call(network, now, args, named), i)
        total = simple + settings.perceptual * similar
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if not torch.isfinite(total):
            raise ReproError(f"adaptation stopped at iteration {i + 1}: the loss is {total.item()}")
        optimizer.step()
        if file and (i + 1) % SAVE_EVERY == 0:
            save_state(file, identity, i + 1, carried, nn.Module(), optimizer)
        if file and i + 1 == settings.iterations:
            file.unlink(missing_ok=True)
        yield AdaptStep(i + 1, simple.item(), similar.item(), {k: v.detach() for k, v in factors.items()})


def loss(
    model: process.Model, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, settings: Adaptation
) -> tuple[Tensor, Tensor]:
    """(simple or hybrid loss, LPIPS of the clean estimate), means over the batch (eqs. 6, 20)."""
    x_t = process.q_sample(x0, t, eps, schedule)
    output = model(x_t, t)
    if settings.variance:
        simple = losses.hybrid_loss(lambda _x, _t: output, x0, t, eps, schedule).total.mean()
    else:
        simple = losses.simple(output[:, :3], eps).mean()
    if settings.perceptual == 0:
        return simple, simple.new_zeros(())
    a, s = schedule.at(t, x0)
    estimate = ((x_t - s * output[:, :3]) / a).clamp(-1, 1)  # eq. 14
    small = min(x0.shape[-2:]) < lpips.SMALLEST
    pair = [F.interpolate(x, scale_factor=4, mode="bicubic") if small else x for x in (estimate, x0)]
    similar = lpips.shared(str(x0.device))(*pair)  # (B,)
    weight = schedule.gather("alpha_bar", t, similar).flatten() if settings.weighting == "signal" else 1.0
    return simple, (weight * similar).mean()
