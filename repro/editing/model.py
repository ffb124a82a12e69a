"""The editing network, a conditional U-Net on latents with two ways for the editing vector to enter, and its training.

"Multi-task image-to-image diffusion models with fine-grained control", Fig. 1 and Table 1. Concatenated to the noisy
latent of the target are the latent of the source and the colour reference, reduced to the latents' size. The editing
vector C goes through f_theta into the cross-attention ("cross", the paper's model), or is spread over the positions and
concatenated too ("concat", its baseline Palette++); cross-attention then attends to a zero token and adds its bias.

Training (section 4; the loss is l1 on the noise, Eq. 2): at every step each sharp image gets one of six editing
vectors, the identity among them; composites are never trained. The paper does not give the probabilities: uniform here.
A visit's label is 0 for the identity, then 1 to 5 in the order of `TASKS`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from torch.nn import functional as F

from repro.ddpm.process import Kind, Schedule, q_sample, target
from repro.editing.vector import HIGHS, LENGTH, NAMES, SCALARS, TASKS
from repro.engine.rng import Noises
from repro.errors import one_of
from repro.nn.unet import InputSkip, sinusoid

_TIMES = 32  # width of the sinusoid that scales the bypass
NPAIR_WEIGHT = 0.1  # the paper states none
COUNT = 1 + len(TASKS)  # labels that a visit may have
COLOUR = 1 + TASKS.index("colour")
_OWNER = tuple(entry.task for entry in SCALARS) + TASKS  # the task that each of the nine entries belongs to
_KEEP = torch.tensor([[owner == task for owner in _OWNER] for task in ("none", *TASKS)])  # (6, 9)


class VectorMapping(ModelMixin, ConfigMixin):
    """f_theta: the editing vector C (B, 9) -> context tokens (B, tokens, width) of cross-attention (section 3.2).

    The paper does not say how many tokens, and it matters: the softmax over a *single* token is 1 whatever the query,
    so to_q and to_k never receive a gradient and cross-attention adds one learned vector at every position.

    Args:
        width: of a token, the U-Net's `cross_attention_dim`, and of the hidden layers.
        layers: linear layers, SiLU between them (Table 4: 0, 1, 2 or 4); with 0 a token holds the entries themselves,
            filled up with zeros.
        tokens: "entry": one token per entry, its first layer with a weight and a bias of each entry's own, so that an
            entry is known by more than its magnitude. "single": one token of all entries, the literal reading.
        labels: False drops the five flags (Table 4 without "binary labels"): four entries remain.
        scaled: True divides each entry by its largest value. As written in the paper, raw magnitudes differ 30-fold.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 128,
        layers: int = 2,
        tokens: Literal["entry", "single"] = "entry",
        labels: bool = True,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.entries = entries = LENGTH if labels else len(SCALARS)
        self.register_buffer("scale", torch.tensor(HIGHS[:entries]) if scaled else torch.ones(entries), False)
        self.first = self.weight = self.bias = None
        if layers and tokens == "single":
            self.first = nn.Linear(entries, width)
        elif layers:  # a linear layer of one input each, initialised as torch initialises one
            self.weight, self.bias = (nn.Parameter(torch.empty(entries, width)) for _ in range(2))
            nn.init.uniform_(self.weight, -1, 1)
            nn.init.uniform_(self.bias, -1, 1)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))

    def forward(self, vector: Tensor) -> Tensor:
        c = vector[:, : self.entries].to(self.scale.dtype) / self.scale
        if self.weight is not None:
            h = torch.addcmul(self.bias, c[:, :, None], self.weight)  # (B, entries, width)
        elif self.first is not None:
            h = self.first(c[:, None])  # (B, 1, width)
        else:
            h = torch.diag_embed(c) if self.config.tokens == "entry" else c[:, None]
            h = F.pad(h, (0, self.config.width - self.entries))
        for linear in self.rest:
            h = linear(F.silu(h))
        return h


class EditingNet(ModelMixin, ConfigMixin):
    """eps_theta(z_0^A, I_ref, C, z_t^B, t) (paper, Eq. 2).

    Args:
        channels: of a latent.
        widths: of the U-Net's levels; latents halve between them.
        attention_levels: levels with transformer blocks, beside the bottleneck, which has one.
        heads: of attention. (diffusers' `attention_head_dim` is the number of heads in this U-Net.)
        context: width of a context token.
        condition: "cross" or "concat": how the editing vector enters.
        reference: "rgb", the image reduced to the latents' size, or "latent", its code.
        mask: whether the inpainting mask is an input channel, as in section 3.2 of the paper; in Table 1 it is not.
        layers, tokens, labels, scaled: of `VectorMapping`; with "concat", `scaled` scales C there too.
        input_skip: whether the inputs also reach the output by a 1x1 convolution, scaled by time: most of an edit is
            the source itself, which a narrow network otherwise has to carry through.
        published: configuration of a published `UNet2DConditionModel` instead of widths, attention_levels and heads.
        checkpointing: whether activations are computed again in the backward pass: a batch of 12 of a published size
            then fits the paper's 24 GB.

    Raises `ReproError` for an unknown condition, reference or tokens.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 16,
        widths: tuple[int, ...] = (32, 32, 32),
        attention_levels: tuple[int, ...] = (0, 1, 2),
        heads: int = 1,
        context: int = 64,
        condition: Literal["cross", "concat"] = "cross",
        reference: Literal["rgb", "latent"] = "rgb",
        mask: bool = False,
        layers: int = 2,
        tokens: Literal["entry", "single"] = "entry",
        labels: bool = True,
        scaled: bool = True,
        input_skip: bool = True,
        published: Mapping[str, Any] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        choices = {"condition": ("cross", "concat"), "reference": ("rgb", "latent"), "tokens": ("entry", "single")}
        for name, accepted in choices.items():
            one_of(f"editing network: {name}", self.config[name], accepted)
        self.mapping = VectorMapping(context, layers, tokens, labels, scaled) if condition == "cross" else None
        self.register_buffer("scale", torch.tensor(HIGHS) if scaled else torch.ones(LENGTH), persistent=False)
        down = tuple("CrossAttnDownBlock2D" if i in attention_levels else "DownBlock2D" for i in range(len(widths)))
        up = tuple(block.replace("Down", "Up") for block in reversed(down))
        blocks = {"down_block_types": down, "up_block_types": up, "block_out_channels": tuple(widths)}
        sizes = {"layers_per_block": 1, "cross_attention_dim": context, "attention_head_dim": heads}
        settings = published or {"out_channels": channels, **blocks, **sizes, "norm_num_groups": 8}
        inputs = 2 * channels + (3 if reference == "rgb" else channels) + mask + LENGTH * (condition == "concat")
        self.unet = UNet2DConditionModel(**{**settings, "in_channels": inputs})
        self.bypass = InputSkip(inputs, channels, _TIMES) if input_skip else None
        # Cross-attention by two products: exact, where the fused kernel leaves 1e-6 of gradient on a single token's
        # queries. Self-attention by the fused kernel: an edit of 128 x 128 pixels takes three fifths of the time.
        names = self.unet.attn_processors
        self.unet.set_attn_processor({n: AttnProcessor() if ".attn2." in n else AttnProcessor2_0() for n in names})
        if checkpointing:
            self.unet.enable_gradient_checkpointing()

    @property
    def multiple(self) -> int:
        """Latents are padded to multiples of this."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        source: Tensor,
        reference: Tensor,
        vector: Tensor,
        mask: Tensor | None = None,
        features: bool = False,
    ) -> UNet2DConditionOutput | tuple[Tensor, ...]:
        """The prediction (B, channels, h, w), as `.sample`; with `features` the tuple (prediction, bottleneck, tokens).

        Args:
            sample, source: (B, channels, h, w) the noisy latent of the target, the latent of the source.
            timestep: a number or (B,).
            reference: (B, 3 or channels, h, w) as the configuration says; zeros where colour is off.
            vector: (B, 9), as `EditingVector.tensor` gives it.
            mask: (B, 1, h, w) share of hole, for a network with `mask`.
        """
        parts = [sample, source, reference] + ([mask] if mask is not None else [])
        if self.mapping is None:
            parts.append((vector / self.scale)[:, :, None, None].expand(-1, -1, *sample.shape[2:]))
            tokens = vector.new_zeros(len(sample), 1, self.config.context)
        else:
            tokens = self.mapping(vector)
        x, bottleneck = torch.cat([part.to(sample.dtype) for part in parts], dim=1), []
        with self.unet.mid_block.register_forward_hook(lambda *a: bottleneck.append(a[-1])):
            out = self.unet(x, timestep, encoder_hidden_states=tokens.to(sample.dtype)).sample
        if self.bypass is not None:
            t = torch.as_tensor(timestep, device=x.device).reshape(-1).expand(len(x))
            out = out + self.bypass(x, sinusoid(t, _TIMES).to(x.dtype))
        return (out, bottleneck[0], tokens) if features else UNet2DConditionOutput(sample=out)


def only(vectors: Tensor, label: Tensor) -> Tensor:
    """Editing vectors (B, 9) with every entry zeroed that is not of the task `label` (B,) names; 0 leaves none."""
    return vectors * _KEEP.to(label.device)[label].to(vectors)


def single_edit(held: Mapping[str, Tensor], indices: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(source, target) of the crops `indices` (B,) under their labels (B,), each (B, ...), pixels or latents as `held`.

    The source is "masked" for inpainting, else "sharp"; the target is the effect's, "sharp" for none and inpainting.
    """
    source = held["sharp"][indices]
    goal = source.clone()
    for value, task in enumerate(TASKS, start=1):
        on = label == value
        changed, kind = (source, "masked") if task == "inpaint" else (goal, task)
        changed[on] = held[kind][indices[on]]
    return source, goal


@dataclass(frozen=True)
class EditLoss:
    """How a variant is trained.

    norm: of the loss; the paper prefers l1. only: the one task of an Ours-single, None for all six labels.
    npair: features that the N-pair loss pulls at: "bottleneck" (config A), "label" (config B), None.
    prediction: what the network predicts from the noisy latent.
    low: share of the times that is drawn among the lowest fifth alone; the rest, as in the paper, among all.
    composites: share of the visits with two effects or more; in the paper none.
    """

    norm: Literal["l1", "l2"] = "l1"
    only: str | None = None
    npair: Literal["bottleneck", "label"] | None = None
    prediction: Kind = "epsilon"
    low: float = 0.0
    composites: float = 0.0


def npair_loss(features: Tensor, label: Tensor) -> Tensor:
    """(B,) N-pair loss of features (B, D) with labels (B,) (paper, Eq. 3), each sample's mean over the others.

    log((1 + exp d) / 2) for equal labels, log((1 + exp -d) / 2) for different ones, d = ||f_p - f_q||. The second
    term's brackets are misprinted in the paper; written with softplus, since exp overflows beyond d = 88.
    """
    difference = features[:, None] - features[None, :]
    distance = (difference.square().sum(dim=2) + 1e-12).sqrt()  # the root has no gradient at 0
    same = label[:, None] == label[None, :]
    loss = F.softplus(torch.where(same, distance, -distance)) - torch.log(torch.tensor(2.0))
    others = ~torch.eye(len(features), dtype=torch.bool, device=features.device)
    return (loss * others).sum(dim=1) / max(1, len(features) - 1)


class EditTask:
    """Latents of the training split, one label a visit.

    `held`, a row a crop: the latents "sharp", "masked", "reference" and of each effect's target ("blur", "grain", …);
    "rgb" (the reference) and "mask" at their size; "vector". With `learning.composites` also rounds of "composite" and
    "composite vector". `colours`: "rgb", or "reference" for its latent. `mask`: whether the network takes one.
    """

    def __init__(
        self, held: dict[str, Tensor], schedule: Schedule, learning: EditLoss, colours: str = "rgb", mask: bool = False
    ) -> None:
        self.held = {name: value.float() for name, value in held.items()}
        self.schedule, self.learning = schedule, learning
        self.ids = [f"crop {i}" for i in range(len(held["sharp"]))]
        self.colours, self.mask = colours, mask
        # Runs that began before there were the last two choices go on.
        chosen = {k: v for k, v in asdict(learning).items() if v or k not in ("low", "composites")}
        self.settings: dict[str, Any] = {**chosen, "schedule": schedule.name}

    def draw(self, indices: Tensor, noise: Noises) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]:
        """What a step learns from: noisy latent, the network's other inputs, times, training target, labels (B,)."""
        learning, device = self.learning, indices.device  # noise may lie elsewhere; `held` stays where the indices are
        label = noise("label").integers(0, COUNT)
        if learning.only is not None:
            label = torch.full_like(label, 1 + TASKS.index(learning.only))
        vector = only(self.held["vector"][indices], label.to(device))
        z_B = single_edit(self.held, indices, label.to(device))[1]
        if learning.composites:  # a share of the visits takes one of the crop's composites instead
            chosen = noise("composite").uniform((1,)).to(device) < learning.composites  # (B, 1)
            turn = noise("round").integers(0, len(self.held["composite"]) // len(self.ids)).to(device)
            rows = indices + len(self.ids) * turn
            vector = torch.where(chosen, self.held["composite vector"][rows], vector)
            z_B = torch.where(chosen[:, :, None, None], self.held["composite"][rows], z_B)
        drawn = noise("noise")
        inputs = {name: value.to(drawn.device) for name, value in self.inputs(indices, vector).items()}
        z_B, t = z_B.to(drawn.device), noise("time").integers(0, self.schedule.T)
        if learning.low:
            t = torch.where(noise("low").uniform((1,))[:, 0] < learning.low, t % (self.schedule.T // 5), t)
        eps = drawn.normal(tuple(z_B.shape[1:]))
        goal = target(learning.prediction, z_B, eps, t, self.schedule)
        return q_sample(z_B, t, eps, self.schedule), inputs, t, goal, label

    def inputs(self, indices: Tensor, vector: Tensor) -> dict[str, Tensor]:
        """What the network gets beside the noisy latent, for the effects that `vector` (B, 9) has on."""
        held = {name: self.held[name][indices] for name in ("sharp", "masked", "mask", self.colours)}
        colour, inpaint = (vector[:, NAMES.index(task), None, None, None] > 0 for task in ("colour", "inpaint"))
        inputs = {"source": torch.where(inpaint, held["masked"], held["sharp"]), "vector": vector}
        inputs |= {"reference": held[self.colours] * colour}
        return inputs | ({"mask": held["mask"] * inpaint} if self.mask else {})

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        z_t, inputs, t, goal, label = self.draw(indices, noise)
        npair, pairs = self.learning.npair, 0.0
        if npair is None:
            output = model(z_t, t, **inputs).sample
        else:
            output, bottleneck, tokens = model(z_t, t, **inputs, features=True)
            features = bottleneck.mean(dim=(2, 3)) if npair == "bottleneck" else tokens.flatten(1)
            pairs = NPAIR_WEIGHT * npair_loss(features.float(), label.to(features.device))
        error = output.float() - goal
        return (error.abs() if self.learning.norm == "l1" else error.square()).mean(dim=(1, 2, 3)) + pairs
