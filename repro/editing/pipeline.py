"""The editing model as a diffusers pipeline: an image of any size, and the effects by name.

The network works on images of about 128 pixels a side through an autoencoder. What that costs is undone here (`exact`),
and none of it is in the records:

- an edit of a large image is made on a reduced copy and carried over, so that an amount means the same share of the
  image at every resolution; detail that the autoencoder loses is given back as far as the edit keeps it (`carried`);
- a colour transfer gets the mean and deviation of each channel that Reinhard's formula gives it (`matched`);
- a hole is filled in smoothly from its border (`membrane`), where the network alone would start from nothing.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from diffusers import DDIMScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import ImageSource, image_batch, masks, resize
from repro.ddpm.process import Kind, Schedule, by_name, q_sample, to_diffusers
from repro.ddpm.samplers import sample
from repro.editing.autoencoder import Autoencoder
from repro.editing.effects import colour_transfer
from repro.editing.model import EditingNet
from repro.editing.sampling import SCHEDULE, STEPS, Editor, check_request
from repro.editing.vector import EditingVector
from repro.engine.checkpoint import load_checkpoint
from repro.engine.rng import KeyedNoise, check_generator
from repro.errors import ReproError, one_of, whole, within
from repro.nn.unet import pad_to_multiple

WHOLE = 48  # latents a side (192 pixels) up to which an image goes through in one piece
TILE = 32  # latents a side of the tiles of a larger one
NARROW = 64  # pixels that a reduced copy's shorter side has at least
# Chosen by eye on validation photographs:
SCRATCH = 3  # pixels from what is known up to which a hole is only filled smoothly: the network leaves dashes there
THIN = 12  # pixels from what is known up to which the network fills a hole from noise alone, as in its training
DETAIL = 400  # timestep at which it starts in a smooth filling of a thicker hole; 600 brings back dark smudges
COARSE = 25  # pixels, on the reduced copy, that the network's drift is averaged over
FADE = 17  # the same, twice those over which the network's detail begins at the border of a thick hole
SWEEPS = 16  # of averaging, at each size of the smooth filling
MOST = 4.0  # times that contrast is raised or lowered at most

Images = ImageSource | Sequence[ImageSource]


def scheduler_of(schedule: Schedule, prediction: Kind) -> DDIMScheduler:
    """diffusers' DDIM as `repro.editing.sampling` runs ours, up to one timestep off where the steps do not divide T."""
    settings = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    return to_diffusers(schedule, "ddim", prediction_type=prediction, **settings)


@dataclass(frozen=True)
class _Noise:
    """Where the noise of the images `ids` comes from, see `EditingPipeline.__call__`."""

    ids: tuple[int, ...]
    generator: torch.Generator | list[torch.Generator] | None
    seed: int | None
    eta: float

    def draw(self, purpose: str, step: int, like: Tensor) -> Tensor:
        """Standard normals in the shape of `like`."""
        if self.seed is None:
            return randn_tensor(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)
        return KeyedNoise(self.seed, self.ids, purpose, like.device)(step, like)


class EditingPipeline(DiffusionPipeline):
    """Edits images: `pipe(image, blur=0.6, grain=0.05, seed=0).images[0]`.

    Args:
        network: an `EditingNet` with an RGB reference; with or without a mask.
        autoencoder: the one whose latents it was trained on.
        scheduler: diffusers' DDIM, of the schedule and kind of prediction that the network was trained with.

    Raises `ReproError` for parts that do not belong together.
    """

    model_cpu_offload_seq = "network->autoencoder"

    def __init__(self, network: EditingNet, autoencoder: Autoencoder, scheduler: DDIMScheduler) -> None:
        super().__init__()
        reference, channels = (network.config.get(key) for key in ("reference", "channels"))
        if (reference, channels) != ("rgb", autoencoder.channels):  # another kind of network has neither
            found = f"got {type(network).__name__}, its reference {reference!r}, channels of its latents {channels}"
            raise ReproError(f"EditingPipeline: {found}; accepted: EditingNet, 'rgb', {autoencoder.channels}")
        if not isinstance(scheduler, DDIMScheduler) or scheduler.config.clip_sample:
            accepted = "a DDIMScheduler with clip_sample=False, as repro.editing.pipeline.scheduler_of makes"
            raise ReproError(f"EditingPipeline: got {type(scheduler).__name__}; accepted: {accepted}")
        self.register_modules(network=network, autoencoder=autoencoder, scheduler=scheduler)

    @classmethod
    def shipped(cls, profile: str = "small", variant: str = "taught-long") -> Self:
        """The pipeline of weights that ship, by default of the network for use; of profile "smoke", of those in runs/.

        Raises `ReproError` where they are not here.
        """
        one_of("profile of networks for use", profile, ("small", "smoke"))
        room, edits = ("editing", "editing-edits") if profile == "small" else ("editing-smoke",) * 2
        names = f"{edits}-{variant}-s0", f"{room}-autoencoder-vq-s0"
        # Copies: a pipeline may be moved or cast, what `load_checkpoint` gives is shared.
        parts = [copy.deepcopy(load_checkpoint(name)) for name in names]
        return cls(*parts, scheduler_of(by_name(**SCHEDULE), "v_prediction"))

    def editor(self, tile: int = 0) -> Editor:
        """The same parts for plain tensors: without tiles, its edits are those of this pipeline with exact=False."""
        schedule, prediction = Schedule("of the scheduler", self.scheduler.betas), self.scheduler.config.prediction_type
        return Editor(self.network, self.autoencoder, schedule, prediction, tile=tile)

    @torch.no_grad()
    def __call__(
        self,
        image: Images,
        *,
        blur: float | None = None,
        grain: float | None = None,
        reference: Images | None = None,
        mask: Images | None = None,
        sharpen: tuple[float, float] | None = None,
        num_inference_steps: int = STEPS,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        exact: bool = True,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Edited images, `.images`, of the sizes they came in.

        An amount is the same share of an image of 192 pixels or more; grain alone has a size in pixels.

        Args:
            image: one image, a batch or a list of one size, as `repro.data.images.image_batch` accepts.
            blur: degree of motion blur in [0, 1]. grain: radius in [0, 0.1]. sharpen: (amount in [1, 3], threshold in
                [0, 0.1]). None is off.
            reference: an image, or one each, of any size, that gives the colours.
            mask: of the images' size, or one each, as `repro.data.images.masks` accepts; 1 or white is filled anew.
            num_inference_steps, eta: of DDIM; eta 0 is deterministic, 1 has DDPM's variance. Where grain is on, two
                more steps may follow (`Editor.refine`).
            generator: one, or one an image. seed: instead of it deterministic per-sample noise, keyed by seed and place
                in the batch: that of `Editor.edit` with the ids 0, 1, ….
            exact: with the last corrections: a colour transfer has the exact mean and deviation of each channel,
                outside its hole an image stays as it is, and without an effect above 0 it comes back. False: the
                network's output in one pass and one piece, as the tables measure it.
            output_type: "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W), the last two float in [0, 1].

        Raises `ReproError` for an effect out of its range, a reference or mask that does not fit, an image of less than
        one network tile.
        """
        one_of("output_type", output_type, ("pil", "np", "pt"))
        vector = EditingVector(blur, grain, reference is not None, mask is not None, sharpen)
        device = self._execution_device
        x = image_batch(image, "image").to(device)
        target = None if reference is None else image_batch(reference, "reference").to(device)
        hole = None if mask is None else masks(mask, "mask").to(device)
        least, count = self.editor().multiple, len(x)
        if min(x.shape[2:]) < least:
            size = f"{x.shape[3]}x{x.shape[2]}"
            raise ReproError(f"EditingPipeline: got {size} pixels; accepted: at least {least} a side")
        check_request(x, [vector], target, hole)
        whole("EditingPipeline: num_inference_steps", num_inference_steps, 1, self.scheduler.config.num_train_timesteps)
        check_generator("EditingPipeline", generator, count, seed)
        within("EditingPipeline: eta", eta, 0, 1)
        self.scheduler.set_timesteps(num_inference_steps, device=x.device)
        edited = []
        for i in range(count) if exact else ():
            one = [p if p is None or len(p) == 1 else p[[i]] for p in (x, target, hole)]
            noise = _Noise((i,), [generator[i]] if isinstance(generator, list) else generator, seed, eta)
            edited.append(self._for_use(*one, vector, noise))
        if not exact:
            edited.append(self._pass(x, vector, _Noise(tuple(range(count)), generator, seed, eta), target, hole))
        images = VaeImageProcessor(do_normalize=False).postprocess(torch.cat(edited), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _for_use(
        self, image: Tensor, reference: Tensor | None, hole: Tensor | None, vector: EditingVector, noise: _Noise
    ) -> Tensor:
        """One image (1, 3, H, W) with the corrections. A large one is edited by a reduced copy, all but grain."""
        if hole is not None:
            image = self._fill(image, hole, noise)
        vector = replace(vector, inpaint=False, blur=vector.blur or None, grain=vector.grain or None)
        size, small, plain = image.shape[2:], image, self.editor().floor
        whole = WHOLE * self.autoencoder.factor
        is_large = max(size) > whole
        rest = replace(vector, grain=None) if is_large else vector
        if rest.active:
            if is_large:
                share = min(1.0, max(whole / max(size), NARROW / min(size)))
                small = resize(image, tuple(round(n * share) for n in size))
            edited = carried(image, small, plain(small), self._pass(small, rest, noise, reference))
            image = edited if reference is None else matched(edited, colour_transfer(image, reference))
        if not is_large or vector.grain is None:
            return image
        grained = self._pass(image, EditingVector(grain=vector.grain), noise, tile=TILE)
        return carried(image, image, self.editor(TILE).floor(image), grained)

    def _fill(self, image: Tensor, hole: Tensor, noise: _Noise) -> Tensor:
        """The image with its hole filled; outside it is left as it is, and what is in it is never used.

        The hole is filled smoothly from its border, and the network draws detail into it; the coarse part of what it
        adds, a drift into dark, is left out. A scratch is only filled smoothly. A thick hole, of which a tile would be
        nothing but hole, gets its detail on a reduced copy that goes through in one piece, and it is enlarged.
        """
        size = image.shape[2:]
        smooth, share = membrane(image, 1 - hole), min(1.0, WHOLE * self.autoencoder.factor / max(size))
        if (thick := thickness(hole)) <= SCRATCH:
            return torch.where(hole > 0, smooth, image)
        if thick > THIN:
            small = tuple(max(NARROW // 4, round(n * share)) for n in size)
            base = resize(smooth, small)
            there = hole if small == tuple(size) else (F.interpolate(hole, size=small, mode="area") > 0) * 1.0
            drawn = self._detailed(base, there, noise)
            fade = (2 * F.avg_pool2d(there, FADE, 1, FADE // 2, count_include_pad=False) - 1).clamp(min=0)
        else:
            base, there, fade = resize(smooth, tuple(size)), hole, 1.0
            drawn = self._pass(base, EditingVector(inpaint=True), noise, None, there, TILE if share < 1 else 0)
        added = (drawn - base) * there
        averages = (F.avg_pool2d(x, COARSE, 1, COARSE // 2, count_include_pad=False) for x in (added, there))
        coarse = next(averages) / next(averages).clamp(min=1e-6)
        return torch.where(hole > 0, (smooth + enlarged((added - coarse) * there * fade, size)).clamp(0, 1), image)

    def _pass(
        self, image: Tensor, vector: EditingVector, noise: _Noise, reference: Tensor | None = None,
        hole: Tensor | None = None, tile: int = 0,
    ) -> Tensor:  # fmt: skip
        """The network's output in one pass, (B, 3, H, W) in [0, 1]."""
        editor = self.editor(tile)
        conditions, box = editor.conditions(image, [vector] * len(image), reference, hole)
        x, predict = noise.draw("sample/x_T", 0, conditions["source"]), editor.model(conditions)
        for t in self.progress_bar(self.scheduler.timesteps):
            added = noise.draw("sample/noise", int(t), x) if noise.eta > 0 else None
            x_t, output = x, predict(x, t.expand(len(x)))
            x = self.scheduler.step(output, t, x, eta=noise.eta, variance_noise=added).prev_sample
        for step in editor.refine(predict, x_t, x, int(t), conditions["vector"]):
            x = step.x
        return editor.decode(x, box)

    def _detailed(self, image: Tensor, hole: Tensor, noise: _Noise) -> Tensor:
        """A smooth filling with the network's detail: its latent, noisy as at timestep DETAIL, denoised by DDIM."""
        editor = self.editor()
        conditions, box = editor.conditions(image, [EditingVector(inpaint=True)], None, hole)
        smooth = editor.encode(pad_to_multiple(image * 2 - 1, editor.multiple)[0])
        start = q_sample(smooth, DETAIL, noise.draw("sample/x_T", 0, smooth), editor.schedule)
        model, times = editor.model(conditions), [DETAIL * k // STEPS for k in range(STEPS, 0, -1)]
        return editor.decode(sample(editor.ddim(model, start, times)), box)


def carried(image: Tensor, small: Tensor, plain: Tensor, edited: Tensor) -> Tensor:
    """The edit of a reduced copy on the image (B, 3, H, W) itself, with the detail that the autoencoder lost as far as
    the edit kept detail.

    `small` is the copy, or the image itself, `plain` the same through the autoencoder alone, `edited` its edit,
    (B, 3, h, w) each. How much of the finest octave of `plain` is in `edited`, from 0 to MOST, is a regression over
    pixels. Detail finer than the copy keeps as much; of a blur, which takes more from every finer octave, the square.
    """
    fine, known = (
        x - enlarged(F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), x.shape[-2:])
        for x in (edited, plain)
    )
    over, under = (x.sum(dim=(2, 3), keepdim=True) for x in (fine * known, known.square()))
    kept, size = (over / under.clamp(min=1e-6)).clamp(0, MOST), image.shape[-2:]  # (B, C, 1, 1)
    base, detail = edited + kept * (small - plain), image - enlarged(small, size)
    return (enlarged(base, size) + torch.where(kept < 1, kept.square(), kept) * detail).clamp(0, 1)


def matched(image: Tensor, like: Tensor) -> Tensor:
    """`image` (B, 3, H, W) in [0, 1] with mean and deviation of each channel of `like`, which has any size."""
    deviation, mean = torch.std_mean(like, dim=(2, 3), keepdim=True, correction=0)
    for _ in range(3):  # what is cut off at 0 and 1 moves both a little
        own, middle = torch.std_mean(image, dim=(2, 3), keepdim=True, correction=0)
        scale = (deviation / own.clamp(min=1e-4)).clamp(1 / MOST, MOST)
        image = ((image - middle) * scale + mean).clamp(0, 1)
    return image


def membrane(values: Tensor, known: Tensor) -> Tensor:
    """`values` (B, C, H, W) where `known` (B, 1, H, W) is 1, and a smooth surface through its surroundings elsewhere.

    Averages of what is known, twice as wide at each level, come back down where nothing nearer is known (pull-push),
    and are averaged with their neighbours.
    """
    height, width = values.shape[-2:]
    if max(height, width) == 1 or bool(known.all()):
        return values * known
    even = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(known, even), 2)
    mean = F.avg_pool2d(F.pad(values * known, even), 2) / weight.clamp(min=1e-8)
    coarse = membrane(mean, (weight > 0).to(known))
    smooth = F.interpolate(coarse, scale_factor=2, mode="bilinear")[..., :height, :width]
    for _ in range(SWEEPS):  # towards the harmonic surface, which meets its border without a step
        smooth = torch.where(known > 0, values, smooth)
        smooth = F.avg_pool2d(smooth, 3, 1, 1, count_include_pad=False)
    return torch.where(known > 0, values, smooth)


def thickness(hole: Tensor) -> int:
    """Pixels from the innermost point of a hole (1, 1, H, W) to what is known; the image's edge is no border."""
    from scipy.ndimage import distance_transform_cdt

    return int(distance_transform_cdt(hole[0, 0].cpu().numpy(), metric="chessboard").max())


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) brought to that height and width by cubic interpolation; as it is where it has them."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, size=tuple(size), mode="bicubic")
