"""The editing model in the face of a diffusers pipeline: a picture, and the effects by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, SchedulerMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from repro.data import inputs
from repro.data.images import ImageSource
from repro.ddpm.process import Kind, model_fn
from repro.ddpm.samplers import ddim
from repro.ddpm.schedules import Schedule, by_name, to_diffusers
from repro.ddpm.steps import sample
from repro.editing import refusals
from repro.editing.autoencoder import Autoencoder
from repro.editing.carry import DETAIL, ForUse
from repro.editing.effects.masks import cut_hole
from repro.editing.model import EditingNet
from repro.editing.sampling import SCHEDULE, STEPS, Editor, check_request, seen_again
from repro.editing.tiling import TiledAutoencoder, TiledNetwork, Tiling, references
from repro.editing.vector import EditingVector
from repro.engine.checkpoint import load_checkpoint
from repro.engine.evaluation import folders
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.nn.padding import pad_to_multiple

WHOLE = 48  # latents a side (192 pixels) up to which a picture goes through in one piece

Pictures = ImageSource | Sequence[ImageSource]


def scheduler_of(schedule: Schedule, prediction: Kind) -> DDIMScheduler:
    """diffusers' DDIM as `repro.editing.sampling` runs ours: from the last timestep, latents unclipped, to alpha_bar 1.

    diffusers steps from t to t - T // steps, ours to the next timestep of the run: the same where the number of steps
    divides T = 1000, and up to one timestep off elsewhere.
    """
    return to_diffusers(
        schedule,
        "ddim",
        prediction_type=prediction,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


@dataclass(frozen=True)
class _Chance:
    """Where the noise of the pictures `ids` comes from, see `EditingPipeline.__call__`."""

    ids: tuple[int, ...]
    generator: torch.Generator | list[torch.Generator] | None
    seed: int | None
    latents: Tensor | None
    eta: float

    def of(self, i: int) -> _Chance:
        """That of one picture."""
        own = [self.generator[i]] if isinstance(self.generator, list) else self.generator
        return replace(self, ids=(i,), generator=own, latents=_own(self.latents, i))


def _own(batch: Tensor | None, i: int) -> Tensor | None:
    """Picture i of a batch, or the one that stands for all."""
    return None if batch is None else batch[[i if len(batch) > 1 else 0]]


class EditingPipeline(DiffusionPipeline):
    """Edits pictures: `pipe(image, blur=0.6, grain=0.05, seed=0).images[0]`.

    Args:
        network: an `EditingNet` that is shown an RGB reference; with or without a mask.
        autoencoder: the one whose latents it was trained on.
        scheduler: diffusers', of the schedule and kind of prediction that the network was trained with.
        fill: what holes are filled with, in [0, 1].
        quantize: whether latents go through the codebook before they are decoded.
    """

    model_cpu_offload_seq = "network->autoencoder"

    def __init__(
        self,
        network: EditingNet,
        autoencoder: Autoencoder,
        scheduler: SchedulerMixin,
        fill: float = 0.0,
        quantize: bool = False,
    ) -> None:
        super().__init__()
        refusals.check_parts(network, autoencoder, scheduler)
        self.register_modules(network=network, autoencoder=autoencoder, scheduler=scheduler)
        self.register_to_config(fill=fill, quantize=quantize)

    @classmethod
    def shipped(cls, profile: str = "small", variant: str = "taught-long") -> EditingPipeline:
        """The pipeline of weights that ship, by default of the network for use; of profile "smoke", of those in runs/.

        Raises `ReproError` where they are not here.
        """
        if profile not in ("small", "smoke"):
            raise ReproError(f"unknown profile {profile!r} of networks for use; accepted: small, smoke")
        edits = "edits" if profile == "small" else profile
        names = (f"editing-{edits}-{variant}-s0", f"editing-{edits}-autoencoder-vq-s0".replace("-edits-", "-"))
        found = [next((f for f in folders(name) if (f / "config.json").exists()), None) for name in names]
        for name, folder in zip(names, found, strict=True):
            if folder is None:
                raise ReproError(f"{name}: no weights here; `repro train {name}` makes them (see `repro list editing`)")
        # Copies: a pipeline may be moved or cast, what `load_checkpoint` gave is shared.
        network, autoencoder = (copy.deepcopy(load_checkpoint(folder)) for folder in found)
        return cls(network, autoencoder, scheduler_of(by_name(**SCHEDULE), "v_prediction"))

    @property
    def editor(self) -> Editor:
        """The same parts for the plain-tensor path, which draws what this pipeline draws with exact=False."""
        return self._editor(None)

    def _editor(self, tiling: Tiling | None) -> Editor:
        network: Any = self.network
        autoencoder: Any = self.autoencoder
        if tiling is not None:
            network, autoencoder = TiledNetwork(network, tiling), TiledAutoencoder(autoencoder, tiling)
        schedule = Schedule("of the scheduler", self.scheduler.betas)
        kind = self.scheduler.config.prediction_type
        return Editor(network, autoencoder, schedule, kind, self.config.fill, self.config.quantize)

    @torch.no_grad()
    def __call__(
        self,
        image: Pictures,
        *,
        blur: float | None = None,
        grain: float | None = None,
        colour: bool | None = None,
        reference: Pictures | None = None,
        mask: Pictures | None = None,
        sharpen: tuple[float, float] | None = None,
        num_inference_steps: int = STEPS,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        latents: Tensor | None = None,
        tiling: Tiling | Literal["auto"] | None = "auto",
        exact: bool = True,
        output_type: str = "pil",
        return_dict: bool = True,
        **unknown: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Edited pictures, `.images`, of the sizes they came in.

        Amounts are shares of the picture, as in the formulas: a number is the same effect at every resolution. Grain
        alone has a size in pixels.

        Args:
            image: one picture, a batch or a list of one size, as `repro.data.inputs.pictures` accepts.
            blur: degree of motion blur in [0, 1]. grain: radius in [0, 0.1]. sharpen: (amount in [1, 3], threshold in
                [0, 0.1]). None is off.
            reference: a picture, or one each, of any size, whose colours are wanted; turns colour transfer on.
                `colour` may say so too.
            mask: of the pictures' size, or one each; 1 or white is the hole that is filled anew, see
                `repro.data.inputs.masks`; turns inpainting on.
            num_inference_steps, eta: of DDIM; eta 0 is deterministic, 1 has DDPM's variance. Where grain is on, two
                more may follow (`repro.editing.sampling.seen_again`).
            generator: one, or one a picture.
            seed: instead of a generator the house's noise, keyed by seed and place in the batch: what `Editor.edit`
                draws with the ids 0, 1, ….
            latents: instead of either, the start noise (B, channels, h, w), of a single pass.
            tiling: how large pictures are cut; None does them in one piece. "auto" does so up to 192 pixels a side;
                beyond, the edit is made on a reduced copy and carried over, grain tile by tile.
            exact: with the last corrections of `repro.editing.carry`, which are not in the records: a colour transfer
                has the exact mean and deviation of each channel, outside its hole a picture stays as it is, large holes
                are filled coarse to fine, detail that only the autoencoder lost is given back, and without an effect
                the picture comes back. False: what the network draws in one pass, as the tables measure it.
            output_type: "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W), the last two float in [0, 1].

        Raises:
            ReproError: an effect that does not exist or is out of its range, a reference or mask that does not fit, a
                picture of less than one network tile.
        """
        if unknown:
            raise ReproError(refusals.unknown(next(iter(unknown))))
        if output_type not in ("pil", "np", "pt"):
            raise ReproError(f"EditingPipeline: got output_type {output_type!r}; accepted: pil, np, pt")
        vector = refusals.request(blur, grain, colour, reference, mask, sharpen)
        device, dtype = self._execution_device, self.network.dtype
        picture, given, hole = (
            None if source is None else read(source, name).to(device, dtype)
            for source, read, name in (
                (image, inputs.pictures, "picture"),
                (reference, inputs.pictures, "reference"),
                (mask, inputs.masks, "mask"),
            )
        )
        refusals.check_size(picture, hole, self.editor.multiple)
        self._set_steps(num_inference_steps, device)
        if isinstance(tiling, Tiling):
            tiling.check(self.network.multiple)
        count = len(picture)
        check_request(picture, [vector] * count, given, hole)
        chance = _Chance(tuple(range(count)), generator, seed, latents, eta)
        self._check_chance(self._latent_shape(picture), chance)

        images: Any
        if exact:
            images = torch.cat([
                self._for_use(chance.of(i)).edit(picture[i : i + 1], vector, _own(given, i), _own(hole, i), tiling)
                for i in range(count)
            ])  # fmt: skip
        else:
            large = max(picture.shape[2:]) > WHOLE * self.autoencoder.factor
            tiles = (Tiling() if large else None) if tiling == "auto" else tiling
            images = self._pass(picture, vector, given, hole, tiles, chance)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _for_use(self, chance: _Chance) -> ForUse:
        return ForUse(
            lambda *asked: self._pass(*asked, chance),
            lambda x, tiling: self._editor(tiling).floor(x),
            lambda x, hole: self._detailed(x, hole, chance),
            WHOLE * self.autoencoder.factor,
        )

    def _pass(
        self,
        picture: Tensor,
        vector: EditingVector,
        given: Tensor | None,
        hole: Tensor | None,
        tiling: Tiling | None,
        chance: _Chance,
    ) -> Tensor:
        """What the network draws in one pass, (B, 3, H, W) in [0, 1]."""
        editor, count = self._editor(tiling), len(picture)
        shown, box = editor.conditions(picture, [vector] * count, given, hole)
        if tiling is not None:
            shown["reference"] = self._references(picture, given, hole, tiling)
        x, settings = self._noise(shown["source"], chance)
        predict = model_fn(editor.network, **shown)
        self.scheduler.set_timesteps(self.scheduler.num_inference_steps, device=x.device)  # a scheduler has a memory
        for t in self.progress_bar(self.scheduler.timesteps):
            seen = self.scheduler.scale_model_input(x, t)
            x = self.scheduler.step(predict(seen, t.expand(count)), t, x, **settings(t, x)).prev_sample
        parts = (shown["vector"], editor.schedule, editor.prediction)
        for step in seen_again(predict, seen, x, round(float(t)), *parts):
            x = step.x
        return editor.picture(x, box)

    def _detailed(self, picture: Tensor, hole: Tensor, chance: _Chance) -> Tensor:
        """A smooth filling with the network's detail: its latent, noisy as at timestep DETAIL, denoised by DDIM."""
        editor = self.editor
        shown, box = editor.conditions(picture, [EditingVector(inpaint=True)] * len(picture), None, hole)
        smooth = editor.autoencoder.encode(pad_to_multiple(picture * 2 - 1, editor.multiple)[0])
        noise, _ = self._noise(smooth, chance)
        ab = float(editor.schedule.alpha_bar[DETAIL])
        start = ab**0.5 * smooth + (1 - ab) ** 0.5 * noise / self.scheduler.init_noise_sigma
        model, times = model_fn(editor.network, **shown), [DETAIL * k // STEPS for k in range(STEPS, 0, -1)]
        kind = editor.prediction
        return editor.picture(
            sample(ddim(model, start, editor.schedule, timesteps=times, prediction=kind, clip=False)), box
        )

    def _latent_shape(self, picture: Tensor) -> tuple[int, ...]:
        height, width = (-(-n // self.editor.multiple) * self.network.multiple for n in picture.shape[2:])
        return len(picture), self.autoencoder.channels, height, width

    def _references(self, picture: Tensor, reference: Tensor | None, hole: Tensor | None, tiling: Tiling) -> Tensor:
        """Per tile; holes are filled with the mean of what is kept, which moves no mean."""
        if hole is not None and reference is not None:
            cut = cut_hole(picture, hole)
            mean = cut.sum(dim=(2, 3), keepdim=True) / (1 - hole).sum(dim=(2, 3), keepdim=True).clamp(min=1)
            picture = cut + hole * mean
        whole = pad_to_multiple(picture, self.editor.multiple)[0]
        return references(whole, reference, tiling, self.autoencoder.factor)

    def _set_steps(self, steps: int, device: torch.device) -> None:
        most = self.scheduler.config.num_train_timesteps
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
            raise ReproError(f"EditingPipeline: got num_inference_steps {steps!r}; accepted: 1 to {most}")
        self.scheduler.set_timesteps(steps, device=device)

    def _check_chance(self, shape: tuple[int, ...], chance: _Chance) -> None:
        generator, seed, latents, eta, count = (
            chance.generator,
            chance.seed,
            chance.latents,
            chance.eta,
            len(chance.ids),
        )
        if isinstance(generator, list) and len(generator) != count:
            raise ReproError(
                f"EditingPipeline: got {len(generator)} generators for {count} pictures; accepted: one, or one each"
            )
        if generator is not None and seed is not None:
            raise ReproError("EditingPipeline: got a generator and a seed; accepted: one of the two")
        if latents is not None and tuple(latents.shape) != shape:
            raise ReproError(f"EditingPipeline: got latents of shape {tuple(latents.shape)}; accepted: {shape}")
        takes_eta = "eta" in inspect.signature(self.scheduler.step).parameters
        if not 0 <= eta <= 1 or (eta > 0 and not takes_eta):
            accepted = "0 to 1" if takes_eta else f"0 with {type(self.scheduler).__name__}"
            raise ReproError(f"EditingPipeline: got eta {eta}; accepted: {accepted}")
        if seed is not None:
            KeyedNoise(seed, chance.ids, "sample/x_T")  # refuses what is no seed

    def _noise(self, source: Tensor, chance: _Chance) -> tuple[Tensor, Callable[[Tensor, Tensor], dict[str, Any]]]:
        """The start, and what `scheduler.step` is given beside its state."""
        ids, generator, seed, latents, eta = (getattr(chance, f.name) for f in fields(chance))
        shape = tuple(source.shape)
        self._check_chance(shape, chance)
        takes = inspect.signature(self.scheduler.step).parameters
        if latents is not None:
            start = latents.to(source)
        elif seed is not None:
            start = KeyedNoise(seed, ids, "sample/x_T", source.device)(0, source)
        else:
            start = randn_tensor(shape, generator=generator, device=source.device, dtype=source.dtype)
        start = start * self.scheduler.init_noise_sigma
        keyed = None if seed is None else KeyedNoise(seed, ids, "sample/noise", source.device)
        own = generator if seed is None else torch.Generator(source.device).manual_seed((seed + ids[0]) % 2**64)

        def settings(t: Tensor, x: Tensor) -> dict[str, Any]:
            out: dict[str, Any] = {"eta": eta} if "eta" in takes else {}
            if keyed is not None and "variance_noise" in takes:
                return {**out, "variance_noise": keyed(int(t), x)} if eta > 0 else out
            return {**out, "generator": own} if "generator" in takes else out

        return start, settings
