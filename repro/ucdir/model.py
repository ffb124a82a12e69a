"""Noise levels; predictor and diffusion network together, trained jointly and kept in one checkpoint; their loss.

A noisy residual is r_g = sqrt(gamma) r + sqrt(1 - gamma) eps; gamma runs from 1 (no noise) towards 0, continuously in
training (as in WaveGrad). Inference uses a part of the training levels at equal distances of t ("uniform
interpolation", the paper's words), or a new linear schedule of betas from 1e-6 to 0.4 over 50 steps (the public code):
they agree as long as the sum of the betas does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data.degradations import lamp_light
from repro.data.images import to_model
from repro.engine.rng import KeyedNoise, Noises
from repro.errors import one_of, whole
from repro.metrics.pixel import lpips_network
from repro.ucdir.network import ACTIVATIONS, CONDITIONING, GUIDANCE, NORMS, DiffusionUNet, Predictor


@dataclass(frozen=True)
class NoiseSchedule:
    """Betas from 1e-6 to `end`, linear over `T` steps; the published training has T = 2000 and end = 0.01."""

    T: int = 2000
    end: float = 0.01

    @cached_property
    def gamma(self) -> Tensor:
        """(T + 1,) float64: gamma[t] = prod of (1 - beta_i) over i <= t, gamma[0] = 1."""
        betas = torch.linspace(1e-6, self.end, self.T, dtype=torch.float64)
        return F.pad((1 - betas).cumprod(0), (1, 0), value=1)

    def draw(self, noise: KeyedNoise, shared: bool = False) -> Tensor:
        """(B,) sqrt(gamma) of a training batch: t uniform in 1 .. T, then uniform between its root and that of t - 1.

        `shared`: one t for the whole batch, as published (that of its first sample), instead of one a sample.
        """
        t, u, root = noise.integers(1, self.T + 1).cpu(), noise.uniform((), step=1), self.gamma.sqrt()
        t = t[:1].expand_as(t) if shared else t
        high, low = root[t - 1].to(u), root[t].to(u)
        return low + (high - low) * u

    def levels(self, steps: int, start: float = 0.0) -> tuple[float, ...]:
        """gamma at `steps` + 1 equal distances of t, from gamma_T up to 1: a part of this schedule, for inference.

        `start`: begin at the level whose gamma is nearest to it instead.
        """
        first = int((self.gamma - start).abs().argmin()) if start else self.T
        whole("number of sampling steps", steps, 1, first)
        t = torch.linspace(first, 0, steps + 1, dtype=torch.float64).round().long()
        return tuple(self.gamma[t].tolist())


TRAINING = NoiseSchedule()


def linear_levels(steps: int = 50, end: float = 0.4) -> tuple[float, ...]:
    """The public code's inference: new betas from 1e-6 to `end`; `steps` + 1 gammas, from the noise up to 1."""
    return NoiseSchedule(steps, end).levels(steps)


CHOICES = {"norm": NORMS, "activation": ACTIVATIONS, "guidance": GUIDANCE, "conditioning": CONDITIONING}
CHOICES["level_input"] = ("sqrt_gamma", "gamma")


class UCDIR(ModelMixin, ConfigMixin):
    """Initial predictor u and noise predictor f; by default as published (7,760,163 and 97,354,699 parameters).

    Args:
        residual_scale: the diffusion runs on this many times the residual y - u(x) (published: 1).
        residual_std: standard deviation of the scaled residual; where it is given, f predicts that residual where there
            is much noise and the noise where there is little (published: 0, the noise everywhere).
        fine_std: the noise at which the one passes into the other: a narrow network cannot carry noise through.
        level_input: what f takes as the noise level, "sqrt_gamma" (the public code) or "gamma" (the paper's Eq. 1).
        predictor_channels, predictor_levels, predictor_widest: width of u's first level, which doubles at each of the
            following ones, up to a limit (0: none).
        base_channels, channel_mults, blocks: width of f's first level, factor and blocks of each (one more on the way
            up).
        light: our small form instead of the published one. u adds its output, zero at the start, to the degraded image
            and has a GroupNorm of one group behind each convolution; f has as many blocks up as down, one in the
            middle, and skip connections of blocks alone; both take `statistics` of the whole image.
        attention_levels: where f has self-attention, and then in the middle.   dropout: before f's last convolution.
        norm, activation, guidance, conditioning: see CHOICES.   patch: pixels a side of one position.
        tasks: those whose number the network takes, with the strength, which may be unknown; empty: neither.
    """

    @register_to_config
    def __init__(
        self,
        residual_scale: float = 1.0,
        residual_std: float = 0.0,
        fine_std: float = 0.02,
        level_input: str = "sqrt_gamma",
        predictor_channels: int = 32,
        predictor_levels: int = 5,
        predictor_widest: int = 0,
        base_channels: int = 64,
        channel_mults: tuple[int, ...] = (1, 2, 4, 8, 8),
        blocks: int = 2,
        light: bool = False,
        attention_levels: tuple[int, ...] = (3,),
        norm: str = "one-group",
        activation: str = "swish",
        guidance: str = "predictor",
        conditioning: str = "kernels",
        patch: int = 1,
        tasks: tuple[str, ...] = (),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for what, known in CHOICES.items():
            one_of(what, self.config[what], known)
        self.predictor, self.unet = Predictor(self.config), DiffusionUNet(self.config)

    def guide(self, degraded: Tensor, initial: Tensor) -> Tensor | None:
        """What guides the blocks: the first estimate as published, or what the ablation puts in its place."""
        return {"predictor": initial, "degraded": degraded}.get(self.config.guidance)

    def denoise(
        self, degraded: Tensor, noisy: Tensor, sqrt_gamma: Tensor, guide: Tensor | None, **scalars: Tensor | None
    ) -> Tensor:
        """Noise predicted in `noisy` (B, 3, H, W), the scaled residual at level `sqrt_gamma` (B,); `scalars`: view,
        task and strength, see `DiffusionUNet.embed`."""
        level = sqrt_gamma if self.config.level_input == "sqrt_gamma" else sqrt_gamma**2
        out = self.unet(degraded, noisy, level, guide, **scalars)
        if not self.config.residual_std:
            return out
        a, s = _weights(sqrt_gamma)
        total = s**2 + (a * self.config.fine_std) ** 2  # variance of a noisy residual of that deviation
        return noisy * (s / total) + out * (a * self.config.residual_std / total.sqrt())

    def forward(
        self,
        degraded: Tensor,
        clean: Tensor | None = None,
        sqrt_gamma: Tensor | None = None,
        eps: Tensor | None = None,
        detach: bool = False,
        **scalars: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One training pass (Eq. 1): (predicted noise, first estimate). Gradients reach the predictor through target
        and guide; `detach` cuts both off (the predictor then needs a loss of its own). Without a clean image it is the
        pass of the regression baseline: (estimate, first estimate)."""
        initial = self.predictor(degraded, task=scalars.get("task"))
        used = initial.detach() if detach else initial
        guide = self.guide(degraded, used)
        if clean is None:
            zero, level = torch.zeros_like(degraded), degraded.new_zeros(len(degraded))
            return initial + self.unet(degraded, zero, level, guide, **scalars), initial
        a, s = _weights(sqrt_gamma)
        noisy = a * self.config.residual_scale * (clean - used) + s * eps
        return self.denoise(degraded, noisy, sqrt_gamma, guide, **scalars), initial


def _weights(sqrt_gamma: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(gamma) and sqrt(1 - gamma), each (B, 1, 1, 1)."""
    a = sqrt_gamma[:, None, None, None]
    return a, (1 - a**2).clamp(min=0).sqrt()


@dataclass(frozen=True)
class UCDIRLoss:
    """The switches of the loss; distances are L1, as in the public code.

    `objective`  "noise" (Eq. 1) or "regression" (the baseline: the clean image itself, no diffusion).
    `squared`    squared error of what the objective names, instead of L1.
    `detach`     whether the predictor is cut off from the diffusion loss: a `pixel` loss must train it then.
    `pixel`      weight of an L1 loss between first estimate and clean image (published: 0).
    `perceptual` weight of LPIPS (AlexNet) between the two, of a quarter of each batch (published: 0).
    `grid`       weight of a grid with a period of 2 pixels in the first estimate's error (published: 0).
    `hidden`     share of the samples whose strength the network is not given (nan).
    `shared`     one t a batch (published) instead of one a sample.
    """

    objective: Literal["noise", "regression"] = "noise"
    squared: bool = False
    detach: bool = False
    pixel: float = 0.0
    perceptual: float = 0.0
    grid: float = 0.0
    hidden: float = 0.0
    shared: bool = False


def training_loss(
    model: nn.Module, degraded: Tensor, clean: Tensor, noise: Noises, learning: UCDIRLoss, **scalars: Tensor
) -> Tensor:
    """(B,) loss of pairs in [-1, 1]; `scalars`: task and strength for a network that takes them."""
    if learning.objective == "regression":
        target, (output, initial) = clean, model(degraded, **scalars)
    else:
        target = noise("noise").normal(tuple(clean.shape[1:])).to(clean)
        level = TRAINING.draw(noise("level"), learning.shared).to(clean)
        output, initial = model(degraded, clean, level, target, learning.detach, **scalars)
    distance = F.mse_loss if learning.squared else F.l1_loss
    loss = distance(output.float(), target, reduction="none").mean(dim=(1, 2, 3))
    if learning.pixel:
        loss = loss + learning.pixel * F.l1_loss(initial.float(), clean, reduction="none").mean(dim=(1, 2, 3))
    if learning.perceptual:
        few = -(-len(clean) // 4)
        # AlexNet's first layer takes steps of 4 pixels: the corner moves, or a grid of that period would be learned.
        down, right = noise("corner").integers(0, 4, (2,))[0].tolist()
        pair = (F.pad(x[:few], (right, 0, down, 0), mode="reflect") for x in (initial.float().clamp(-1, 1), clean))
        similar = lpips_network(str(clean.device))(*pair).float()
        loss = loss + learning.perceptual * len(clean) / few * F.pad(similar, (0, len(clean) - few))
    if learning.grid:
        error = F.avg_pool2d(F.pixel_unshuffle(initial.float() - clean, 2), 4).unflatten(1, (3, 4))
        loss = loss + learning.grid * (error - error.mean(dim=2, keepdim=True)).abs().mean(dim=(1, 2, 3, 4))
    return loss


@dataclass
class RestorationTask:
    """The engine's training task: crops of pairs, or of photographs that are degraded afresh at every visit."""

    ids: Sequence[str]  # names of the images
    # (indices (B,), crop, draw (B, 3)) -> clean crops (B, 3, crop, crop) in [0, 1], their degraded ones or None
    cut: Callable[[Tensor, int, Tensor], Sequence[Tensor | None]]
    crop: int  # side of the crops in pixels
    learning: UCDIRLoss
    # where `cut` gives no degraded crops, one for each task: (clean, noise) -> (degraded, strength (B,))
    degrade: Sequence[Callable[[Tensor, Noises], tuple[Tensor, Tensor]]] = ()
    scalars: bool = False  # whether the network takes the number of the task and the strength
    lamp: Mapping[str, float] | None = None  # changes to `lamp_light`, in which the crops are seen; None: they are not

    def __post_init__(self) -> None:
        # Runs that began before there were these go on.
        chosen = {k: v for k, v in asdict(self.learning).items() if v or k not in ("perceptual", "grid", "squared")}
        self.settings = chosen | {"crop": self.crop} | ({} if self.lamp is None else {"lamp": dict(self.lamp)})

    def pair(self, indices: Tensor, noise: Noises) -> tuple[Tensor, Tensor, Tensor | None]:
        """(clean, degraded) in [-1, 1], each (B, 3, crop, crop); the strength (B,) of what was degraded here."""
        clean, degraded, *_ = self.cut(indices, self.crop, noise("crop").uniform((3,)))
        strength = None
        if degraded is None:
            clean, scene = (clean, clean) if self.lamp is None else lamp_light(clean, noise, **self.lamp)
            made, own = [degrade(scene, noise) for degrade in self.degrade], self.tasks(clean, noise)
            degraded, strength = (torch.stack(parts)[own, range(len(clean))] for parts in zip(*made, strict=True))
        return to_model(clean), to_model(degraded), strength

    def tasks(self, clean: Tensor, noise: Noises) -> Tensor:
        """(B,) the number of each sample's task."""
        return noise("task").integers(0, max(1, len(self.degrade))).to(clean.device)

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        (clean, degraded, strength), given = self.pair(indices, noise), {}
        if self.scalars:
            hide = noise("strength").uniform(()).to(strength) < self.learning.hidden
            given = {"task": self.tasks(clean, noise), "strength": strength.masked_fill(hide, torch.nan)}
        return training_loss(model, degraded, clean, noise, self.learning, **given)
