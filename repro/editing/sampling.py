"""Pictures edited: one joint pass of a multi-task network, or single-task networks one after another.

The result depends on (picture, request, seed, id), not on the batch. Pictures of any size: their edge is repeated up to
whole latents on the way in, and cut off on the way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.ddpm.process import Kind, Model, model_fn
from repro.ddpm.samplers import ddim, ddim_invert
from repro.ddpm.schedules import Schedule
from repro.ddpm.steps import Step, sample
from repro.editing.autoencoder import Autoencoder
from repro.editing.effects.compose import Recipe
from repro.editing.effects.masks import cut_hole
from repro.editing.model import EditingNet
from repro.editing.vector import NAMES, EditingVector
from repro.editing.vector import batch as as_tensor
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.nn.padding import Box, pad_to_multiple, unpad

# Of latent diffusion models; its last alpha_bar is 0.0047, not 0.
SCHEDULE: dict[str, Any] = {"name": "scaled_linear", "T": 1000, "beta_1": 0.00085, "beta_T": 0.012}
STEPS = 5
# Timesteps of 1000 at which a picture with grain is looked at again. The last of a few steps looks through noise far
# stronger than grain, and a network that cannot tell the two apart answers with the mean, which has none. Every effect
# with these steps: more grain, more noise left in everything else. Chosen on validation photographs.
LATE = (100, 20)


@dataclass(frozen=True)
class Editor:
    """A trained network with what it needs to run.

    `quantize`: whether latents go through the codebook before they are decoded.
    `late`: timesteps at which pictures with grain are looked at again, see `seen_again`.
    """

    network: EditingNet
    autoencoder: Autoencoder
    schedule: Schedule
    prediction: Kind = "epsilon"
    fill: float = 0.0  # of holes, in [0, 1]
    quantize: bool = False
    late: tuple[int, ...] = LATE

    @property
    def device(self) -> torch.device:
        """Where the networks are; images are brought there."""
        return self.network.device

    @property
    def multiple(self) -> int:
        """Pixels that a picture is padded to multiples of."""
        return self.network.multiple * self.autoencoder.factor

    def conditions(
        self,
        image: Tensor,
        vectors: Sequence[EditingVector],
        reference: Tensor | None = None,
        hole: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Box]:
        """What the network is shown, for pictures (B, 3, H, W) in [0, 1] whose holes are still whole.

        `reference` (B or 1, 3, h, w) in [0, 1] is looked at where colour is on; `hole` (B or 1, 1, H, W), 1 in the
        hole, where inpainting is.

        Raises:
            ReproError: a reference or a hole that is needed and missing, or does not fit.
        """
        check_request(image, vectors, reference, hole)
        image, reference, hole = (p if p is None else p.to(self.device) for p in (image, reference, hole))
        count, device = len(image), image.device
        on = {
            task: torch.tensor([getattr(v, task) for v in vectors], device=device)[:, None, None, None]
            for task in ("colour", "inpaint")
        }
        if hole is not None:
            hole = hole.to(image) * on["inpaint"]
            image = cut_hole(image, hole, self.fill)
        padded, box = pad_to_multiple(image * 2 - 1, self.multiple)
        source = self.autoencoder.encode(padded)
        size = source.shape[2:]
        latent = self.network.config.reference == "latent"
        shown = {"source": source, "vector": as_tensor(vectors, device)}
        shape = (count, self.autoencoder.channels if latent else 3, *size)
        shown["reference"] = torch.zeros(shape, device=device)
        if reference is not None:
            at_size = tuple(self.autoencoder.factor * n for n in size)
            brought = _fit(reference * 2 - 1, at_size)
            brought = self.autoencoder.encode(brought) if latent else F.avg_pool2d(brought, self.autoencoder.factor)
            shown["reference"] = brought.expand(shape) * on["colour"]
        if self.network.config.mask:
            mask = torch.zeros(count, 1, *padded.shape[2:], device=device)
            if hole is not None:
                mask = pad_to_multiple(hole, self.multiple)[0]
            shown["mask"] = F.avg_pool2d(mask.float(), self.autoencoder.factor)
        return shown, box

    @torch.no_grad()
    def edit(
        self,
        image: Tensor,
        vectors: Sequence[EditingVector],
        ids: Sequence[int | str],
        *,
        reference: Tensor | None = None,
        hole: Tensor | None = None,
        steps: int = STEPS,
        seed: int = 0,
        eta: float = 0.0,
        inversion: bool = False,
    ) -> Tensor:
        """Edited pictures (B, 3, H, W) in [0, 1].

        Args:
            image: (B, 3, H, W) in [0, 1]; what is under the hole is never looked at.
            vectors, ids: one per picture; ids key the noise.
            steps: of DDIM, with noise of `eta` added; pictures with grain take those of `late` besides.
            inversion: start from the source's own noise, found by DDIM upwards with the empty request (supplement,
                section E), instead of fresh noise.
        """
        shown, box = self.conditions(image, vectors, reference, hole)
        start = self._inverted(shown, steps) if inversion else self._noise(shown, ids, seed)
        latent = sample(self._run(start, shown, ids, steps, seed, eta))
        return self.picture(latent, box)

    def trajectory(
        self,
        image: Tensor,
        vectors: Sequence[EditingVector],
        ids: Sequence[int | str],
        *,
        reference: Tensor | None = None,
        hole: Tensor | None = None,
        steps: int = STEPS,
        seed: int = 0,
        eta: float = 0.0,
    ) -> tuple[Iterator[Step], Box]:
        """The steps of `edit` on latents, to be watched, and the padding that `picture` undoes."""
        shown, box = self.conditions(image, vectors, reference, hole)
        return self._run(self._noise(shown, ids, seed), shown, ids, steps, seed, eta), box

    @torch.no_grad()
    def picture(self, latent: Tensor, box: Box) -> Tensor:
        """A latent as a picture in [0, 1], its padding removed."""
        decoded = self.autoencoder.decode(latent, self.quantize)
        return (unpad(decoded, box) + 1).mul_(0.5).clamp_(0, 1)

    @torch.no_grad()
    def floor(self, image: Tensor) -> Tensor:
        """Pictures through the autoencoder alone: what no editing network can be better than."""
        padded, box = pad_to_multiple(image * 2 - 1, self.multiple)
        return self.picture(self.autoencoder.encode(padded), box)

    def _noise(self, shown: Mapping[str, Tensor], ids: Sequence[int | str], seed: int) -> Tensor:
        source = shown["source"]
        return KeyedNoise(seed, list(ids), "sample/x_T", source.device).normal(tuple(source.shape[1:]))

    def _run(
        self,
        start: Tensor,
        shown: Mapping[str, Tensor],
        ids: Sequence[int | str],
        steps: int,
        seed: int,
        eta: float,
    ) -> Iterator[Step]:
        if len(ids) != (count := len(shown["source"])):
            raise ReproError(f"edit: got {len(ids)} ids for {count} pictures; accepted: one each")
        return self._steps(model_fn(self.network, **shown), start, shown["vector"], ids, steps, seed, eta)

    def _steps(
        self, model: Model, start: Tensor, vectors: Tensor, ids: Sequence[int | str], steps: int, seed: int, eta: float
    ) -> Iterator[Step]:
        for step in ddim(
            model,
            start,
            self.schedule,
            steps,
            eta=eta,
            noise=KeyedNoise(seed, list(ids), "sample/noise", start.device),
            spacing="trailing",  # begins at the last timestep, where the start really is noise
            prediction=self.prediction,
            clip=False,  # latents have no range
        ):
            yield step
        yield from seen_again(model, step.x_t, step.x0, step.t, vectors, self.schedule, self.prediction, self.late)

    def _inverted(self, shown: Mapping[str, Tensor], steps: int) -> Tensor:
        still = {
            **shown,
            "vector": torch.zeros_like(shown["vector"]),
            "reference": torch.zeros_like(shown["reference"]),
        }
        way = ddim_invert(
            model_fn(self.network, **still),
            shown["source"],
            self.schedule,
            steps,
            spacing="trailing",
            prediction=self.prediction,
        )
        return sample(way)


def seen_again(
    model: Model,
    x_t: Tensor,
    x0: Tensor,
    t: int,
    vectors: Tensor,
    schedule: Schedule,
    prediction: Kind,
    late: Sequence[int] = LATE,
) -> Iterator[Step]:
    """Go on from a run's last state x_t at timestep t and its sample x0, both (B, C, h, w), at the timesteps of `late`
    below t, by deterministic DDIM: all steps together are DDIM at uneven timesteps.

    Pictures whose `vectors` (B, 9) ask for no grain keep x0; where none does, there are no steps.
    """
    times, grain = late_times(t, late), vectors[:, NAMES.index("grain")] > 0
    if not times or not grain.any():
        return
    ab, ab_late = (schedule.alpha_bar[n].item() for n in (t, times[0]))
    eps = torch.sub(x_t, x0, alpha=ab**0.5).div_((1 - ab) ** 0.5)
    start = torch.mul(x0, ab_late**0.5).add_(eps, alpha=(1 - ab_late) ** 0.5)
    on = grain[:, None, None, None]
    for step in ddim(model, start, schedule, timesteps=times, prediction=prediction, clip=False):
        yield replace(step, x=torch.where(on, step.x, x0))


def late_times(last: int, late: Sequence[int] = LATE) -> list[int]:
    """The timesteps of `late` that a run whose last one is `last` has not reached."""
    return [t for t in late if t < last]


def in_sequence(
    editors: Mapping[str, Editor],
    image: Tensor,
    vectors: Sequence[EditingVector],
    ids: Sequence[int | str],
    *,
    recipe: Recipe,
    reference: Tensor | None = None,
    hole: Tensor | None = None,
    **settings: object,
) -> Tensor:
    """Ours-single: the requests' tasks one after another, each by its own network, in the order of `recipe`.

    All requests of a batch must have the same tasks on.
    """
    active = {vector.active for vector in vectors}
    if len(active) != 1:
        raise ReproError("a sequence of single-task networks: the requests of one batch must have the same tasks on")
    for number, step in enumerate(recipe.sequence(vectors[0])):
        (task,) = step.active
        if task not in editors:
            raise ReproError(f"no single-task network for {task} here; there are {', '.join(editors) or 'none'}")
        image = editors[task].edit(
            image,
            [vector.only(task) for vector in vectors],
            [f"{i} {task}" for i in ids] if number else ids,
            reference=reference if task == "colour" else None,
            hole=hole if task == "inpaint" else None,
            **settings,  # type: ignore[arg-type]
        )
    return image


def check_request(
    image: Tensor, vectors: Sequence[EditingVector], reference: Tensor | None, hole: Tensor | None
) -> None:
    """Refuse what cannot be edited, in one sentence. Raises `ReproError`."""
    if image.dim() != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ReproError(f"edit: got {image.dtype} {tuple(image.shape)}; accepted: floating point (B, 3, H, W)")
    if len(vectors) != len(image):
        raise ReproError(f"edit: got {len(vectors)} requests for {len(image)} pictures; accepted: one each")
    if any(v.colour for v in vectors) and reference is None:
        raise ReproError("edit: colour transfer is on and there is no reference picture; one is needed")
    if any(v.inpaint for v in vectors) and hole is None:
        raise ReproError("edit: inpainting is on and there is no mask; one is needed, 1 in the hole")
    if hole is not None:
        if tuple(hole.shape[2:]) != tuple(image.shape[2:]) or hole.shape[1] != 1 or len(hole) not in (1, len(image)):
            raise ReproError(
                f"edit: got a mask of shape {tuple(hole.shape)} for pictures of {tuple(image.shape)}; accepted: "
                "(B or 1, 1, H, W) of the pictures' size"
            )
        if not ((hole == 0) | (hole == 1)).all():
            raise ReproError("edit: the mask has values beside 0 and 1; accepted: 1 in the hole, 0 elsewhere")
    if reference is not None and (
        reference.dim() != 4 or reference.shape[1] != 3 or len(reference) not in (1, len(image))
    ):
        raise ReproError(
            f"edit: got a reference of shape {tuple(reference.shape)}; accepted: (B or 1, 3, h, w) for {len(image)} "
            "pictures"
        )


def _fit(reference: Tensor, size: tuple[int, int]) -> Tensor:
    """A reference brought to the source's size; its colours matter, its shapes do not."""
    if tuple(reference.shape[2:]) == size:
        return reference
    return F.interpolate(reference, size=size, mode="bilinear", antialias=True, align_corners=False)
