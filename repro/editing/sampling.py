"""Images of any size edited: one joint pass of a multi-task network, or single-task networks one after another.

The result depends on (image, request, seed, id), not on the batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.ddpm.process import Kind, Model, Schedule, model_fn
from repro.ddpm.samplers import Step, ddim, ddim_invert, sample, spaced
from repro.editing.autoencoder import Autoencoder
from repro.editing.effects import TargetRules, cut_hole
from repro.editing.model import EditingNet
from repro.editing.vector import NAMES, EditingVector, batch
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.nn.unet import Box, pad_to_multiple, tiled, unpad

# Of latent diffusion models; its last alpha_bar is 0.0047, not 0.
SCHEDULE: dict[str, Any] = {"name": "scaled_linear", "T": 1000, "beta_1": 0.00085, "beta_T": 0.012}
STEPS = 5
# Further timesteps of 1000 for images with grain: the last of a few steps starts from noise far stronger than grain,
# and predicts the mean, which has none. Other effects keep more noise with them. Chosen on validation photographs.
LATE = (100, 20)
AT_ONCE = 8  # tiles that run together

Ids = Sequence[int | str]


@dataclass(frozen=True)
class Editor:
    """A trained network with what it needs to run.

    `fill`: value of holes in the source, in [0, 1].   `quantize`: whether latents pass the codebook before decoding.
    `late`: further timesteps for images with grain, see `refine`.
    `tile`: latents a side of the overlapping tiles that one large image goes through in, 0 in one piece. In every
    denoising step the network predicts all tiles of the one noisy latent, and its predictions are blended
    ("MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", Bar-Tal et al., 2023).
    """

    network: EditingNet
    autoencoder: Autoencoder
    schedule: Schedule
    prediction: Kind = "epsilon"
    fill: float = 0.0
    quantize: bool = False
    late: tuple[int, ...] = LATE
    tile: int = 0
    overlap: int = 8

    @property
    def multiple(self) -> int:
        """Pixels that an image is padded to multiples of."""
        return self.network.multiple * self.autoencoder.factor

    @property
    def _tiles(self) -> dict[str, int]:
        return {"tile": self.tile, "overlap": self.overlap, "batch": AT_ONCE}

    def conditions(
        self, image: Tensor, vectors: Sequence[EditingVector], reference: Tensor | None, hole: Tensor | None
    ) -> tuple[dict[str, Tensor], Box]:
        """The network's inputs beside the noisy latent, for images (B, 3, H, W) in [0, 1] whose holes are still whole.

        `reference` (B or 1, 3, h, w) in [0, 1] is used where colour is on; `hole` (B or 1, 1, H, W), 1 in the hole,
        where inpainting is. Raises `ReproError` for one that is needed and missing, or does not fit.
        """
        check_request(image, vectors, reference, hole)
        device = self.network.device
        image, reference, hole = (p if p is None else p.to(device) for p in (image, reference, hole))
        vector = batch(vectors, device)
        colour, inpaint = (vector[:, NAMES.index(task), None, None, None] > 0 for task in ("colour", "inpaint"))
        if hole is not None:
            hole = hole.to(image) * inpaint
            image = cut_hole(image, hole, self.fill)
        padded, box = pad_to_multiple(image * 2 - 1, self.multiple)
        source, factor = self.encode(padded), self.autoencoder.factor
        latent = self.network.config.reference == "latent"
        shape = (len(image), self.autoencoder.channels if latent else 3, *source.shape[2:])
        inputs = {"source": source, "vector": vector, "reference": torch.zeros(shape, device=device)}
        if reference is not None:  # brought to the source's size: its colours matter, its shapes do not
            fitted = reference * 2 - 1
            if fitted.shape[2:] != padded.shape[2:]:
                fitted = F.interpolate(fitted, padded.shape[2:], mode="bilinear", antialias=True, align_corners=False)
            fitted = self.autoencoder.encode(fitted) if latent else F.avg_pool2d(fitted, factor)
            inputs["reference"] = fitted.expand(shape) * colour
        if self.network.config.mask:
            mask = torch.zeros_like(image[:, :1]) if hole is None else hole
            inputs["mask"] = F.avg_pool2d(pad_to_multiple(mask, self.multiple)[0].float(), factor)
        return inputs, box

    @torch.no_grad()
    def edit(self, image: Tensor, vectors: Sequence[EditingVector], ids: Ids, **settings: Any) -> Tensor:
        """Edited images (B, 3, H, W) in [0, 1]; arguments as of `trajectory`."""
        steps, box = self.trajectory(image, vectors, ids, **settings)
        return self.decode(sample(steps), box)

    @torch.no_grad()
    def trajectory(
        self, image: Tensor, vectors: Sequence[EditingVector], ids: Ids, *, reference: Tensor | None = None,
        hole: Tensor | None = None, steps: int = STEPS, seed: int = 0, eta: float = 0.0, inversion: bool = False,
    ) -> tuple[Iterator[Step], Box]:  # fmt: skip
        """The steps of an edit on latents, and the padding that `decode` undoes.

        Args:
            image, vectors, reference, hole: as of `conditions`; what is under the hole is never used.
            ids: one per image; they key the noise.
            steps: of DDIM, with noise of `eta` added; images with grain take those of `late` besides.
            inversion: start from the source's own noise, found by DDIM upwards with the empty request (supplement,
                section E), instead of new noise.
        """
        if len(ids) != len(image):
            raise ReproError(f"edit: got {len(ids)} ids for {len(image)} images; accepted: one each")
        inputs, box = self.conditions(image, vectors, reference, hole)
        # "trailing" begins at the last timestep, where the start really is noise
        source, times = inputs["source"], spaced(self.schedule.T, steps, "trailing")
        if inversion:
            empty = {name: torch.zeros_like(inputs[name]) for name in ("vector", "reference")}
            upwards = self.model(inputs | empty)
            start = sample(ddim_invert(upwards, source, self.schedule, times, prediction=self.prediction))
        else:
            start = KeyedNoise(seed, list(ids), "sample/x_T", source.device).normal(tuple(source.shape[1:]))
        model, noise = self.model(inputs), KeyedNoise(seed, list(ids), "sample/noise", source.device)

        def down() -> Iterator[Step]:
            for step in self.ddim(model, start, times, eta=eta, noise=noise):
                yield step
            yield from self.refine(model, step.x_t, step.x0, step.t, inputs["vector"])

        return down(), box

    def ddim(self, model: Model, start: Tensor, times: Sequence[int], **more: Any) -> Iterator[Step]:
        """DDIM of this schedule and prediction; latents have no range to clip to."""
        return ddim(model, start, self.schedule, times, prediction=self.prediction, clip=False, **more)

    def refine(self, model: Model, x_t: Tensor, x0: Tensor, t: int, vectors: Tensor) -> Iterator[Step]:
        """Further denoising steps, by deterministic DDIM, from a run's last state x_t at timestep t and its sample x0,
        both (B, C, h, w), at the timesteps of `late` below t. Images whose `vectors` (B, 9) have no grain keep x0.
        """
        times, grain = [n for n in self.late if n < t], vectors[:, NAMES.index("grain"), None, None, None] > 0
        if not times or not grain.any():
            return
        ab, ab_late = (self.schedule.alpha_bar[n].item() for n in (t, times[0]))
        eps = torch.sub(x_t, x0, alpha=ab**0.5).div_((1 - ab) ** 0.5)
        start = torch.mul(x0, ab_late**0.5).add_(eps, alpha=(1 - ab_late) ** 0.5)
        for step in self.ddim(model, start, times):
            yield replace(step, x=torch.where(grain, step.x, x0))

    def model(self, inputs: Mapping[str, Tensor]) -> Model:
        """(x_t, t) -> the network's prediction with these inputs, see `conditions`."""
        if not self.tile:
            return model_fn(self.network, **inputs)
        maps = {name: value for name, value in inputs.items() if name != "vector"}

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            together = [x_t, *(value.to(x_t.dtype) for value in maps.values())]

            def of_tiles(tiles: Tensor) -> Tensor:
                x, *parts = tiles.split([part.shape[1] for part in together], dim=1)
                parts = dict(zip(maps, parts, strict=True))
                return self.network(x, t.expand(len(x)), vector=inputs["vector"].expand(len(x), -1), **parts).sample

            return tiled(of_tiles, torch.cat(together, dim=1), **self._tiles)

        return predict

    def encode(self, image: Tensor) -> Tensor:
        """Latents of images (B, 3, H, W) in [-1, 1], H and W being multiples of `multiple`."""
        encode, factor = self.autoencoder.encode, self.autoencoder.factor
        if not self.tile:
            return encode(image)
        blocks = F.pixel_unshuffle(image, factor)  # tiles are cut in latents
        return tiled(lambda x: encode(F.pixel_shuffle(x, factor)), blocks, **self._tiles)

    @torch.no_grad()
    def decode(self, latent: Tensor, box: Box) -> Tensor:
        """A latent as an image in [0, 1], its padding removed."""
        decode, factor = partial(self.autoencoder.decode, quantize=self.quantize), self.autoencoder.factor
        if self.tile:
            latent = tiled(lambda z: F.pixel_unshuffle(decode(z), factor), latent, **self._tiles)
        image = F.pixel_shuffle(latent, factor) if self.tile else decode(latent)
        return (unpad(image, box).float() + 1).mul_(0.5).clamp_(0, 1)  # pixels of a half-precision network, too

    def floor(self, image: Tensor) -> Tensor:
        """Images through the autoencoder alone: what no editing network can be better than."""
        padded, box = pad_to_multiple(image * 2 - 1, self.multiple)
        return self.decode(self.encode(padded), box)


def in_sequence(
    editors: Mapping[str, Editor], image: Tensor, vectors: Sequence[EditingVector], ids: Ids, *, rules: TargetRules,
    **settings: Any,
) -> Tensor:  # fmt: skip
    """Ours-single: the tasks, the same for all images, one after another, each by its own network; `settings` as of
    `Editor.trajectory`."""
    for number, step in enumerate(rules.sequence(vectors[0])):
        (task,) = step.active
        own = [f"{i} {task}" for i in ids] if number else ids
        image = editors[task].edit(image, [vector.only(task) for vector in vectors], own, **settings)
    return image


def check_request(
    image: Tensor, vectors: Sequence[EditingVector], reference: Tensor | None, hole: Tensor | None
) -> None:
    """Refuse a reference or a mask that is missing or does not fit, in one sentence. Raises `ReproError`."""
    count, (h, w) = len(image), image.shape[-2:]
    for task, given, name in (("colour", reference, "reference image"), ("inpaint", hole, "mask, 1 in the hole")):
        if given is None and any(task in vector.active for vector in vectors):
            raise ReproError(f"edit: {task} is on and there is no {name}; one is needed")
    if hole is not None and (hole.dim() != 4 or hole.shape[1:] != (1, h, w) or len(hole) not in (1, count)):
        size = f"{'x'.join(map(str, hole.shape[:-3:-1]))} pixels, shape {tuple(hole.shape)}"
        raise ReproError(f"edit: got a mask of {size}; accepted: {w}x{h}, shape (1 or {count}, 1, {h}, {w})")
    if reference is not None and (reference.dim() != 4 or reference.shape[1] != 3 or len(reference) not in (1, count)):
        raise ReproError(f"edit: got a reference of shape {tuple(reference.shape)}; accepted: ({count} or 1, 3, h, w)")
