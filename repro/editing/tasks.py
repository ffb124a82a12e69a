"""What the editing networks learn: single edits, one of six labels a visit, l1 on the noise (paper, Eq. 2).

"Multi-task image-to-image diffusion models with fine-grained control", section 4: at every step each sharp image gets
one of six editing vectors, the identity among them; composites are never trained. The paper does not say with which
probabilities: uniform here. A label is 0 for none, then 1 to 5 in the order of `TASKS`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.ddpm.process import Kind, Schedule, q_sample, target
from repro.editing.autoencoder import Noises
from repro.editing.vector import NAMES, SCALARS, TASKS

NPAIR_WEIGHT = 0.1  # the paper states none
COUNT = 1 + len(TASKS)  # labels
COLOUR = 1 + TASKS.index("colour")
_OWNER = tuple(entry.task for entry in SCALARS) + TASKS  # the task that each of the nine entries belongs to
_KEEP = torch.tensor([[owner == task for owner in _OWNER] for task in ("none", *TASKS)])  # (6, 9)


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
class Learning:
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

    `held`: as `repro.editing.study.benchmark.latents`; with `learning.composites` those of composites too.
    `colours`: "rgb", or "reference" for its latent. `mask`: whether the network takes one.
    """

    def __init__(
        self, held: dict[str, Tensor], schedule: Schedule, learning: Learning, colours: str = "rgb", mask: bool = False
    ) -> None:
        self.held = {name: value.float() for name, value in held.items()}
        self.schedule, self.learning, self.size = schedule, learning, len(held["sharp"])
        self.colours, self.mask = colours, mask
        # Runs that began before there were the last two choices go on.
        chosen = {k: v for k, v in asdict(learning).items() if v or k not in ("low", "composites")}
        self.settings: dict[str, Any] = {**chosen, "schedule": schedule.name}

    def names(self, indices: Tensor) -> list[str]:
        return [f"crop {i}" for i in indices.tolist()]

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
            turn = noise("round").integers(0, len(self.held["composite"]) // self.size).to(device)
            rows = indices + self.size * turn
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
