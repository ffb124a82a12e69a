"""The prior, and its adaptation: low-rank factors trained on the measurement itself or its neighbours.

The prior is a pixel-space DDPM trained on crops of photographs at several scales, by the hybrid loss of Nichol and
Dhariwal, "Improved Denoising Diffusion Probabilistic Models", eq. 16, like guided-diffusion's unconditional model.

Adaptation is ADIR's eq. 18 (on y) and eq. 20 (on K retrieved images). The paper does not say what LPIPS compares, nor
at which noise levels: here the clean estimate, clipped to [-1, 1], with the clean crop.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from tqdm.auto import tqdm

from repro.data import pack
from repro.data.files import cut
from repro.data.images import resize, to_model
from repro.ddpm import process
from repro.engine.checkpoint import load_checkpoint
from repro.engine.rng import KeyedNoise, Noises
from repro.engine.train import digest, load_state, save_state
from repro.errors import ReproError, one_of
from repro.metrics.pixel import LPIPS_SIDE, lpips_network

PRIOR = "adir-prior-main-s0"  # what the tables measure
USE = "adir-prior-use-s0"  # what users get: the same network with factors learned on recoloured photographs
RECOLOURED = 0.3  # share of the crops that those factors are trained on
SCHEDULE = process.by_name("linear", T=1000, beta_1=1e-4, beta_T=0.02)  # of DDPM and of guided-diffusion
SIZE = 64  # side of the crops, in pixels
SCALES = (64, 80, 96, 128, 160, 192)  # a photograph's shorter side before it is cut
NETWORK = {  # of `repro.nn.unet.UNet`; it predicts noise and variance
    "in_channels": 3, "out_channels": 6, "base_channels": 32, "channel_mults": (1, 2, 2), "blocks": 1,
    "attention_levels": (2,), "heads": 4, "patch": 2, "input_skip": True, "sample_size": SIZE,
}  # fmt: skip
SAVE_EVERY = 20  # iterations between two states of an adaptation that may be interrupted


def sizes(image: Tensor) -> list[Tensor]:
    """The sizes of an image (3, H, W) in [0, 1] that crops are cut from; none is larger than the image."""
    side = min(image.shape[-2:])
    return [resize(image, s) for s in SCALES if s < side] + [image] * (side <= max(SCALES))


def cut_at_a_size(images: Sequence[Sequence[Tensor]], side: int, noise: Noises) -> Tensor:
    """(B, 3, side, side) in [-1, 1]: a random crop of one of the sizes of each image, (3, H, W) in [0, 1]."""
    chosen = [some[int(u * len(some))] for some, u in zip(images, noise("scale").uniform().tolist(), strict=True)]
    return to_model(cut(chosen, side, noise("crop").uniform((3,)).cpu()))


def recoloured(images: Tensor, noise: KeyedNoise, share: float = 1.0) -> Tensor:
    """(B, 3, H, W) in [-1, 1] of equal luma, that share of them with another hue and half to twice the saturation."""
    # RGB to luma and two axes of colour (NTSC's YIQ), in whose plane a hue is an angle
    yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    u = noise.uniform((3,)).to(images)  # (B, 3)
    angle, saturation = 2 * math.pi * u[:, 1], 2 ** (2 * u[:, 2] - 1)
    cos, sin, zero = saturation * angle.cos(), saturation * angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], dim=-1).view(-1, 3, 3)
    matrix = (torch.linalg.inv(yiq) @ turn.cpu() @ yiq).to(images)
    made = torch.einsum("bij,bjhw->bihw", matrix, images).clamp(-1, 1)
    return torch.where((u[:, 0] < share)[:, None, None, None], made, images)


class PriorTask:
    """The engine's training task: noise and variance of crops of the training split, each at a size of its own, the
    share `recolour` of them `recoloured`."""

    def __init__(self, recolour: float = 0.0) -> None:
        photos, self.recolour = pack.photos("train", kind=None), recolour
        self.ids, self.images = [p.id for p in photos], [sizes(pack.load(p)) for p in photos]
        self.settings = {"schedule": SCHEDULE.name, "crop": SIZE, "scales": list(SCALES), "learned variance": True}
        self.settings |= {"recolour": recolour} if recolour else {}

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        drawn = noise("noise")
        x0 = cut_at_a_size([self.images[i] for i in indices.tolist()], SIZE, noise).to(drawn.device)  # (B, 3, H, W)
        x0 = recoloured(x0, noise("colour"), self.recolour) if self.recolour else x0
        t = noise("time").integers(0, SCHEDULE.T)  # (B,) 0 .. T-1
        return process.hybrid_loss(process.model_fn(model), x0, t, drawn.normal(x0.shape[1:]), SCHEDULE)


# -- low-rank factors: W + (alpha / r) B A. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models". As in the
# package peft, A of a k x k convolution is one to r channels and B a 1 x 1 convolution. Factors are a dictionary,
# "<convolution>.down" (r, in, k, k) and "<convolution>.up" (out, r).


def fresh_factors(network: nn.Module, rank: int = 16, pointwise: bool = True, seed: int = 0) -> dict[str, nn.Parameter]:
    """Factors to train of every convolution, or of those wider than 1 x 1; `up` is 0, so they change nothing yet."""
    made = {}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d) or not (pointwise or max(module.kernel_size) > 1):
            continue
        out, *rest = module.weight.shape
        bound = 1 / math.sqrt(math.prod(rest))  # kaiming_uniform with a = sqrt(5), as nn.Conv2d and peft have it
        down = KeyedNoise(seed, [name], "adir/lora").uniform((rank, *rest))[0] * 2 * bound - bound
        made[f"{name}.down"] = nn.Parameter(down.to(module.weight))
        made[f"{name}.up"] = nn.Parameter(module.weight.new_zeros(out, rank))
    return made


def adapted_weights(network: nn.Module, factors: Mapping[str, Tensor], alpha: float = 8) -> dict[str, Tensor]:
    """The adapted weights, "<convolution>.weight": W + (alpha / r) up @ down. Refuses factors of another network."""
    known, found = dict(network.named_modules()), {}
    for name in sorted({key.rsplit(".", 1)[0] for key in factors}):
        weight = getattr(known.get(name), "weight", torch.empty(0))
        up, down = (factors.get(f"{name}.{k}", torch.empty(0)).to(weight) for k in ("up", "down"))
        if (made := (len(up), *down.shape[1:])) != (needed := tuple(weight.shape)):
            raise ReproError(f"LoRA of another network: its factors of {name!r} make {made}, {needed} is needed")
        found[f"{name}.weight"] = weight + (alpha / up.shape[1]) * (up @ down.flatten(1)).view_as(weight)
    return found


def with_factors(network: nn.Module, factors: Mapping[str, Tensor], alpha: float = 8) -> nn.Module:
    """A copy of the network with the factors merged into its weights."""
    made = copy.deepcopy(network)
    made.load_state_dict(adapted_weights(network, factors, alpha), strict=False)
    return made


class Adapted(ModelMixin, ConfigMixin):
    """A network that ships with low-rank factors on: these alone are trained, and kept in a checkpoint of their own;
    `base` names the network's."""

    @register_to_config
    def __init__(self, base: str = PRIOR, rank: int = 8, alpha: float = 4) -> None:
        super().__init__()
        self._base = [copy.deepcopy(load_checkpoint(base))]  # in a list: no part of this checkpoint
        made = fresh_factors(self._base[0], rank)
        self._names, self.factors = tuple(made), nn.ParameterList(made.values())

    def _parts(self) -> tuple[nn.Module, dict[str, Tensor], float]:
        return self._base[0].to(self.device), dict(zip(self._names, self.factors, strict=True)), self.config.alpha

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return functional_call(self._base[0], adapted_weights(*self._parts()), inputs, named)

    def merged(self) -> nn.Module:
        """The network itself, a copy with the factors in its weights."""
        return with_factors(*self._parts())


def save_factors(path: Path, factors: Mapping[str, Tensor], alpha: float, base: str) -> Path:
    """Write factors as safetensors, `base` naming their network: eight bits a number and a scale a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scales = {k: v.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127 for k, v in factors.items()}
    rounded = {k: (v / scales[k].view(-1, *[1] * (v.ndim - 1))).round().to(torch.int8) for k, v in factors.items()}
    kept = rounded | {f"{k}.scale": v for k, v in scales.items()}
    save_file(kept, path, metadata={"alpha": f"{alpha:g}", "base": base})
    return path


def load_factors(path: Path) -> dict[str, Tensor]:
    """The factors of a file, in fp32."""
    try:
        kept = load_file(path)
        whole = {k: v for k, v in kept.items() if not k.endswith(".scale")}
        return {k: v * kept[f"{k}.scale"].view(-1, *[1] * (v.ndim - 1)) for k, v in whole.items()}
    except (OSError, KeyError, SafetensorError) as error:
        raise ReproError(f"{path}: no LoRA file can be read there ({error})") from error


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
        if min(self.iterations, self.rank, self.batch) < 1:
            raise ReproError(f"an adaptation's iterations, rank and batch are positive: got {self}")


class AdaptStep(NamedTuple):
    """After an iteration: its number from 1, the loss's two parts, and the factors, which the next one changes."""

    iteration: int
    simple: float
    perceptual: float
    factors: dict[str, Tensor]


def adapt(
    network: nn.Module, images: Sequence[Tensor], settings: Adaptation, seed: int = 0, crop: int = SIZE, **run: Any
) -> Iterator[AdaptStep]:
    """Adapt a prior to `images` (3, H, W) in [0, 1], an iteration at a time; `run`: `state`, `progress` of `train`."""
    scaled, device = [sizes(x) for x in images], next(network.parameters()).device
    side = min(crop, *(min(x.shape[-2:]) for some in scaled for x in some))

    def loss_of(model: Callable[..., Any], i: int) -> tuple[Tensor, Tensor]:
        noise = drawn("adir/adapt", settings.batch, i, seed)
        chosen = [scaled[k] for k in noise("image").integers(0, len(scaled)).tolist()]
        x0 = cut_at_a_size(chosen, side, noise).to(device)  # (B, 3, side, side)
        t = noise("time").integers(0, SCHEDULE.T)[:1].expand(settings.batch)  # one for the whole batch
        eps = noise("noise").normal(tuple(x0.shape[1:])).to(device)
        return loss(process.model_fn(model), x0, t.to(device), eps, SCHEDULE, settings)

    about = {"sums": [float(x.sum()) for x in images], "weights": [p.sum().item() for p in network.parameters()]}
    return train(network, loss_of, settings, seed, about, **run)


def drawn(room: str, batch: int, i: int, seed: int) -> Noises:
    """The random numbers of iteration `i`, by purpose."""
    return lambda purpose: KeyedNoise(seed, range(i * batch, (i + 1) * batch), f"{room}/{purpose}")


@torch.enable_grad()  # also inside a caller's no_grad; not in the caller's code between steps
def train(
    network: nn.Module, loss_of: Callable[[Callable[..., Any], int], tuple[Tensor, Tensor]], settings: Adaptation,
    seed: int = 0, about: Mapping[str, Any] | None = None, state: Path | None = None, progress: bool = False,
) -> Iterator[AdaptStep]:  # fmt: skip
    """Train fresh factors of a network by Adam; its own weights do not change.

    Args:
        loss_of: (the network with its factors on, number of the iteration from 0) -> the two parts of the loss.
        about: what that depends on.   state: a folder; an interrupted training goes on by the same call.
        progress: shows a bar.
    """
    network.requires_grad_(False)
    factors = fresh_factors(network, settings.rank, settings.pointwise, seed)
    carried, optimizer = nn.ParameterList(factors.values()), torch.optim.Adam(factors.values(), lr=settings.lr)
    identity = {**(about or {}), "settings": asdict(settings), "seed": seed}
    file = state / f"{digest(identity)}.safetensors" if state else None
    done = load_state(file, identity, carried, nn.Module(), optimizer) if file else 0  # no average is kept
    for i in tqdm(range(done, settings.iterations), desc="adapting", leave=False, disable=not progress):
        changed = adapted_weights(network, factors, settings.alpha)
        simple, similar = loss_of(lambda *args, now=changed, **named: functional_call(network, now, args, named), i)
        total = simple + settings.perceptual * similar
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if not torch.isfinite(total):
            raise ReproError(f"adaptation stopped at iteration {i + 1}: the loss is {total.item()}")
        optimizer.step()
        if file and (i + 1) % SAVE_EVERY == 0 and i + 1 < settings.iterations:
            save_state(file, identity, i + 1, carried, nn.Module(), optimizer)
        if file and i + 1 == settings.iterations:
            file.unlink(missing_ok=True)
        yield AdaptStep(i + 1, simple.item(), similar.item(), {k: v.detach() for k, v in factors.items()})


def loss(
    model: process.Model, x0: Tensor, t: Tensor, eps: Tensor, schedule: process.Schedule, settings: Adaptation
) -> tuple[Tensor, Tensor]:
    """(simple or hybrid loss, LPIPS of the clean estimate), means over the batch (eqs. 6, 20)."""
    x_t = process.q_sample(x0, t, eps, schedule)
    output = model(x_t, t)
    if settings.variance:
        simple = process.hybrid_loss(lambda _x, _t: output, x0, t, eps, schedule).mean()
    else:
        simple = process.simple(output[:, :3], eps).mean()
    if settings.perceptual == 0:
        return simple, simple.new_zeros(())
    a, s = schedule.at(t, x0)
    pair = [((x_t - s * output[:, :3]) / a).clamp(-1, 1), x0]  # eq. 14
    if min(x0.shape[-2:]) < LPIPS_SIDE:
        pair = [F.interpolate(x, scale_factor=4, mode="bicubic") for x in pair]
    similar = lpips_network(str(x0.device))(*pair)  # (B,)
    weight = process.gather(schedule.alpha_bar, t, similar).flatten() if settings.weighting == "signal" else 1.0
    return simple, (weight * similar).mean()
