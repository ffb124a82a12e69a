"""What the editing networks learn: single edits, labels drawn from the six vectors, l1 on the noise (paper, Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.ddpm.process import Kind, q_sample, target
from repro.ddpm.schedules import Schedule
from repro.editing import labels
from repro.editing.vector import NAMES, TASKS
from repro.engine.rng import KeyedNoise

Noises = Callable[[str], KeyedNoise]
Drawn = tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]  # noisy latent, shown, time, wanted, label
NPAIR_WEIGHT = 0.1  # the paper states none


@dataclass(frozen=True)
class Learning:
    """How a variant is trained.

    norm: of the loss; the paper prefers l1. only: the one task of an Ours-single, None for all six labels.
    npair: which features the N-pair loss pulls at: "bottleneck" (config A), "label" (config B), None.
    prediction: what the network says of the noisy latent.
    low: share of the times that is drawn among the lowest fifth alone; the rest, as in the paper, among all.
    composites: share of the visits that ask for two effects or more; in the paper none does.
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

    Args:
        held: latents of the training split; with `learning.composites` those of composites too.
        schedule: of the diffusion.
        learning: how.
        latent_reference, mask: inputs that the network was built for.
    """

    def __init__(
        self,
        held: dict[str, Tensor],
        schedule: Schedule,
        learning: Learning,
        latent_reference: bool = False,
        mask: bool = False,
    ) -> None:
        self.held = {name: value.float() for name, value in held.items()}
        self.schedule, self.learning = schedule, learning
        self.latent_reference, self.mask = latent_reference, mask
        self.size = len(held["sharp"])
        self.settings: dict[str, Any] = {**asdict(learning), "schedule": schedule.name}
        for choice in ("low", "composites"):  # runs that began before there was the choice go on
            if not self.settings[choice]:
                del self.settings[choice]

    def names(self, indices: Tensor) -> list[str]:
        return [f"crop {i}" for i in indices.tolist()]

    def label(self, noise: Noises, count: int) -> Tensor:
        """(B,) 0 for none, 1 .. 5 for the tasks."""
        if self.learning.only is not None:
            return torch.full((count,), 1 + TASKS.index(self.learning.only))
        return labels.draw(noise, count)

    def inputs(self, indices: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The target's latent, and what the network is shown beside the noisy one."""
        label = label.to(indices.device)  # drawn where the noise is; `held` stays where the indices are
        held, colour = self.held, label == labels.COLOUR
        source, z_B = labels.pair(held, indices, label)
        reference = held["reference" if self.latent_reference else "rgb"][indices]
        shown = {
            "source": source,
            "reference": reference * colour[:, None, None, None],
            "vector": labels.only(held["vector"][indices], label),
        }
        if self.mask:
            shown["mask"] = held["mask"][indices] * (label == labels.INPAINT)[:, None, None, None]
        return z_B, shown

    def draw(self, indices: Tensor, noise: Noises) -> Drawn:
        """What a step learns from: the noisy latent, what is shown beside it, its time, what is wanted, the labels."""
        label = self.label(noise, len(indices))
        z_B, shown = self.inputs(indices, label)
        if self.learning.composites:
            z_B, shown = self._composites(indices, noise, z_B, shown)
        drawn = noise("noise")
        z_B, shown = z_B.to(drawn.device), {name: value.to(drawn.device) for name, value in shown.items()}
        t = noise("time").integers(0, self.schedule.T)
        if self.learning.low:
            t = torch.where(noise("low").uniform((1,))[:, 0] < self.learning.low, t % (self.schedule.T // 5), t)
        eps = drawn.normal(tuple(z_B.shape[1:]))
        z_t = q_sample(z_B, t, eps, self.schedule)
        return z_t, shown, t, target(self.learning.prediction, z_B, eps, t, self.schedule), label

    def _composites(
        self, indices: Tensor, noise: Noises, z_B: Tensor, shown: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, a share of the visits exchanged for one of the crop's composites."""
        held, rounds = self.held, len(self.held["composite"]) // self.size
        chosen = noise("composite").uniform((1,))[:, 0].to(indices.device) < self.learning.composites
        rows = indices + self.size * noise("round").integers(0, rounds).to(indices.device)
        vector = held["composite vector"][rows]
        colour, inpaint = (vector[:, NAMES.index(task), None, None, None] > 0 for task in ("colour", "inpaint"))
        reference = held["reference" if self.latent_reference else "rgb"][indices]
        both = {
            "source": torch.where(inpaint, held["masked"][indices], held["sharp"][indices]),
            "reference": reference * colour,
            "vector": vector,
        }
        if self.mask:
            both["mask"] = held["mask"][indices] * inpaint
        wide = chosen[:, None, None, None]
        shown = {k: torch.where(chosen[:, None] if k == "vector" else wide, both[k], v) for k, v in shown.items()}
        return torch.where(wide, held["composite"][rows], z_B), shown

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        z_t, shown, t, wanted, label = self.draw(indices, noise)
        if self.learning.npair is None:
            return self._error(model(z_t, t, **shown).sample, wanted)
        out, bottleneck, tokens = model(z_t, t, **shown, features=True)
        chosen = bottleneck.mean(dim=(2, 3)) if self.learning.npair == "bottleneck" else tokens.flatten(1)
        return self._error(out, wanted) + NPAIR_WEIGHT * npair_loss(chosen.float(), label.to(chosen.device))

    def _error(self, out: Tensor, wanted: Tensor) -> Tensor:
        error = out.float() - wanted
        return (error.abs() if self.learning.norm == "l1" else error.square()).mean(dim=(1, 2, 3))
