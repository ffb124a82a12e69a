"""A degraded image in, a restored one out: samplers, tiles, a plain function, and the same as a diffusers pipeline."""

import copy
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor
from torch.nn import functional as F

from repro.data.images import ImageSource, read_image, resize, to_model, to_unit
from repro.engine.checkpoint import load_checkpoint
from repro.engine.rng import KeyedNoise, check_generator
from repro.errors import ReproError, one_of, within
from repro.nn.unet import pad_to_multiple, tile_starts, tiled, unpad
from repro.ucdir.model import TRAINING, UCDIR, linear_levels
from repro.ucdir.network import BASES, statistics

SHIPPED = "ucdir-{task}-use-s0"  # the networks for use
WHOLE = 640  # pixels a side up to which the pipeline does not split
SAMPLER = "ancestral"
# How the networks for use sample, chosen on validation photographs: more noise adds blotches.
STEPS, START = 5, 0.97
TONED = ("lowlight",)  # tasks whose first estimate gets `tones`; deblurring and JPEG gain nothing by them
SIDE, PART, TONE = 256, 176, 4  # pixels a side of the copy, of its squares, and of the places that have a tone each
CLIP = 1.0  # the predicted residual, as published; the true one may reach 2
Noise = Callable[[int, Tensor], Tensor]  # (step, like) -> standard normals


@dataclass
class Step:
    """One step from level `gamma`: the state before it, what was predicted from that, and the new state, `residual`."""

    i: int
    gamma: float
    noisy: Tensor
    eps: Tensor
    clean: Tensor
    residual: Tensor = field(init=False)


def ancestral(now: Step, g_next: float, before: Step | None, noise: Noise) -> Tensor:
    """DDPM's posterior, variance (1 - g') / (1 - g) beta; the last step, to g' = 1, adds none."""
    g, beta = now.gamma, 1 - now.gamma / g_next
    mean = now.clean * (math.sqrt(g_next) * beta / (1 - g))
    mean = mean + now.noisy * (math.sqrt(1 - beta) * (1 - g_next) / (1 - g))
    sigma = math.sqrt((1 - g_next) / (1 - g) * beta)
    return mean + sigma * noise(now.i + 1, now.noisy) if sigma > 0 else mean


def ddim(now: Step, g_next: float, before: Step | None, noise: Noise) -> Tensor:
    """Song et al., deterministic (eta = 0)."""
    return math.sqrt(g_next) * now.clean + math.sqrt(1 - g_next) * now.eps


def dpm_solver(now: Step, g_next: float, before: Step | None, noise: Noise) -> Tensor:
    """DPM-Solver++(2M) of Lu et al.: second order from the last two predictions, first order at both ends."""
    if g_next == 1:
        return now.clean
    level = lambda gamma: 0.5 * math.log(gamma / (1 - gamma))  # log(a / s)  # noqa: E731
    g, h, D = now.gamma, level(g_next) - level(now.gamma), now.clean
    if before is not None:
        D = D + (h / (2 * (level(g) - level(before.gamma)))) * (D - before.clean)
    return math.sqrt((1 - g_next) / (1 - g)) * now.noisy - math.sqrt(g_next) * math.expm1(-h) * D


SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "dpm": dpm_solver}


@torch.no_grad()
def sample(
    name: str, denoise: Callable, r: Tensor, levels: Sequence[float], noise: Noise, clip: float | None = None
) -> Iterator[Step]:
    """The steps of a sampler, the last one with the result as its `residual`.

    Args:
        denoise: (noisy (B, 3, H, W), sqrt_gamma (B,)) -> predicted noise.   r: the state at the first level.
        levels: gamma, from the noisiest up to 1.   noise: the deterministic samplers do not use it.
        clip: largest absolute residual predicted, in the units of `r`; eps is made to agree with it. None: unlimited.
    """
    advance, before = SAMPLERS[one_of("sampler", name, SAMPLERS)], None
    for i, (g, g_next) in enumerate(itertools.pairwise(levels)):
        a, s = math.sqrt(g), math.sqrt(1 - g)
        eps = denoise(r, torch.full((len(r),), a, device=r.device))
        clean = (r - s * eps) / a
        if clip is not None:
            clean = clean.clamp(-clip, clip)
            eps = (r - a * clean) / s
        step = Step(i, g, r, eps, clean)
        r = step.residual = advance(step, g_next, before, noise)
        yield step
        before = step


@dataclass(frozen=True)
class Tiles:
    """Square tiles of `size` pixels, of which `margin` pixels a side are dropped, except at the image's border."""

    size: int = 256
    margin: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.size + self.margin, int) or self.margin < 0 or self.size <= 2 * self.margin:
            raise ReproError(f"tiles: a margin lies between 0 and half the tile: got {self}")

    def along(self, length: int) -> list[tuple[int, int, int]]:
        """(first pixel of the tile, first and last + 1 of those kept) along an axis; what is kept covers it once."""
        starts = tile_starts(length, self.size, self.size - 2 * self.margin)
        ends = [s + self.size - self.margin for s in starts[:-1]] + [length]
        return list(zip(starts, [0, *ends[:-1]], ends, strict=True))


def by_tiles(fn: Callable[..., Tensor], images: Sequence[Tensor], tiles: Tiles | None, stride: int) -> Tensor:
    """`fn(*images)` (B, 3, H, W), computed tile by tile; None computes it in one piece.

    With a margin as wide as the network's receptive field (and no statistics over the tile) the result is the same.
    """
    if tiles is None or max(images[0].shape[-2:]) <= tiles.size:
        return fn(*images)
    if tiles.size % stride or tiles.margin % stride:
        raise ReproError(f"tiles: size and margin must be multiples of the network's stride of {stride}: got {tiles}")
    padded, boxes = zip(*(pad_to_multiple(x, stride) for x in images), strict=True)
    out = torch.empty_like(padded[0])
    places = itertools.product(tiles.along(out.shape[-2]), tiles.along(out.shape[-1]))
    for (top, row, row_end), (left, col, col_end) in places:
        rows, cols = slice(top, top + tiles.size), slice(left, left + tiles.size)
        part = fn(*(x[..., rows, cols] for x in padded))
        out[..., row:row_end, col:col_end] = part[..., row - top : row_end - top, col - left : col_end - left]
    return unpad(out, boxes[0])


WIDE = Tiles(1024, 128)  # of the predictor, which is light: few places depend on where a tile ends


def scalars(model: UCDIR, task: str | None, strength: float | None = None) -> dict[str, Tensor]:
    """Task and strength as `trajectory` takes them, none for a network without tasks; an unknown strength is nan.

    Raises `ReproError` for a task that the network does not have, and a strength outside [0, 1].
    """
    if strength is not None:
        within("strength", strength, 0, 1)
    if not (tasks := model.unet.tasks):
        return {}
    number, known = tasks.index(one_of("this network's task", task, tasks)), torch.nan if strength is None else strength
    return {k: torch.tensor([v], device=model.device) for k, v in (("task", number), ("strength", known))}


def first_estimate(
    model: UCDIR, degraded: Tensor, task: Tensor | None = None, *, tones: bool = False, tiles: Tiles | None = None
) -> Tensor:
    """u(x) of images (B, 3, H, W) in [-1, 1]. `task`, `tiles`: see `trajectory`.

    With `tones` the brightness and colour of every larger place come from a copy with a shorter side of SIDE pixels,
    estimated in overlapping squares: the network was trained at that size. What is white already stays as bright.
    """
    u, view = model.predictor, statistics(degraded)
    made = by_tiles(lambda x: u(x, view, task), [degraded], tiles and WIDE, u.stride)
    if not tones:
        return made
    copies = to_model(resize(to_unit(degraded), min(SIDE, *degraded.shape[-2:]))).split(1)
    known = torch.cat([tiled(lambda x: u(x, statistics(x), task), one, PART, PART // 2) for one in copies])
    places = [-(-n // TONE) for n in known.shape[-2:]]
    aim, own = (F.interpolate(x.float(), places, mode="area").clamp(min=-1) + 1.1 for x in (known, made))
    toned = (made + 1) * F.interpolate(aim / own, made.shape[-2:], mode="bicubic") - 1
    white = ((degraded.amin(dim=1, keepdim=True) - 0.8) / 0.16).clamp(0, 1)  # 0 at 90 % of white, 1 at 98 %
    return toned + white * (degraded - toned).clamp(min=0)


def trajectory(
    model: UCDIR,
    degraded: Tensor,
    noise: Noise,
    *,
    steps: int = 50,
    sampler: str = SAMPLER,
    levels: tuple[float, ...] | None = None,
    start: float = 0.0,
    clip: float | None = CLIP,
    tones: bool = False,
    tiles: Tiles | None = None,
    **given: Tensor,
) -> Iterator[tuple[Step, Tensor]]:
    """Every step of the sampler and the image it stands for, (B, 3, H, W) in [-1, 1]: first estimate plus residual.

    Args:
        degraded: (B, 3, H, W) in [-1, 1], any size from the network's stride up.
        sampler, clip: see `sample`; here `clip` is in units of the image.
        levels: gamma, rising to 1; None: a part of the training schedule, or as published for 50 steps from noise.
        start: gamma of the first level, whose state is noise on a residual of zero: coarse structure stays that of the
            first estimate. 0: pure noise, as published.
        tones: see `first_estimate`.   tiles: split inside every step; None: in one piece.
        given: task and strength, see `scalars`.
    """
    scale, view = model.config.residual_scale, statistics(degraded)
    initial = first_estimate(model, degraded, given.get("task"), tones=tones, tiles=tiles)
    guide = model.guide(degraded, initial)

    def denoise(noisy: Tensor, level: Tensor) -> Tensor:
        call = lambda x, r, g=None: model.denoise(x, r, level, g, view=view, **given)  # noqa: E731
        return by_tiles(call, [degraded, noisy, *([] if guide is None else [guide])], tiles, model.unet.stride)

    if levels is None:
        levels = linear_levels() if steps == 50 and not start else TRAINING.levels(steps, start)
    first = noise(0, degraded) * ((1 - levels[0]) ** 0.5 if start else 1)
    for step in sample(sampler, denoise, first, levels, noise, None if clip is None else clip * scale):
        yield step, initial + step.residual / scale


@torch.no_grad()
def restore(model: UCDIR, degraded: Tensor, noise: Noise, *, outside: Tiles | None = None, **settings: Any) -> Tensor:
    """The last image of `trajectory`, clipped to [-1, 1].

    `outside`: tiles restored one by one from beginning to end and then joined, the common practice that leaves a grid;
    each draws noise, and has statistics and a first estimate, of its own.
    """
    starts = itertools.count(0, 1000)

    def whole(part: Tensor) -> Tensor:
        first = next(starts)
        steps = trajectory(model, part, lambda step, like: noise(first + step, like), **settings)
        return deque(steps, maxlen=1)[0][1].clamp(-1, 1)

    return by_tiles(whole, [degraded], outside, model.unet.stride)


class UCDIRPipeline(DiffusionPipeline):
    """Restores images: `UCDIRPipeline.shipped("lowlight")(image).images[0]`; `task`: what they suffer from where the
    call does not say, for a network built with tasks; `tones`: of `first_estimate`."""

    def __init__(self, model: UCDIR, task: str | None = None, tones: bool = False) -> None:
        super().__init__()
        self.register_modules(model=model)
        self.register_to_config(task=task, tones=tones)
        scalars(model, task)  # refuses a task that the network does not have

    @classmethod
    def shipped(cls, task: str = "lowlight") -> Self:
        """With the weights for use: lowlight, deblur (motion blur) or jpeg."""
        return cls(copy.deepcopy(load_checkpoint(SHIPPED.format(task=task))), task, task in TONED)

    @torch.no_grad()
    def __call__(
        self,
        image: ImageSource | Sequence[ImageSource],
        *,
        task: str | None = None,
        strength: float | None = None,
        num_inference_steps: int = STEPS,
        start: float = START,
        sampler: str = SAMPLER,
        clip: float | None = CLIP,
        tiles: Tiles | str | None = "auto",
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restored images, `.images`.

        Args:
            image: an image, a batch, or a list of images of any sizes, as `repro.data.images.read_image` takes them.
            task, strength: for a network that takes them; strength in [0, 1] as `repro.data.degradations` says;
                None: unknown.
            num_inference_steps, start, sampler, clip: see `trajectory`; published are 50 steps from 0.
            tiles: "auto" splits images of more than 640 pixels a side inside every step; None never splits.
            generator: torch's, or one an image; None: our noise, keyed by `seed` (None: 0) and the image's number.
            output_type: "pil", "np" (H, W, 3) or "pt" (3, H, W), the last two float in [0, 1].
        """
        one_of("output_type", output_type, ("pil", "np", "pt"))
        given: dict[str, Any] = scalars(self.model, task or self.config.task, strength)
        given["tones"], device = self.config.tones, self._execution_device
        listed = list(image) if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4 else [image]
        if not listed:
            raise ReproError("UCDIRPipeline: got no image; accepted: at least one")
        check_generator("UCDIRPipeline", generator, len(listed), seed)
        generators = generator if isinstance(generator, list) else [generator] * len(listed)
        if not (0 <= start <= 0.999 and (clip is None or clip > 0)):
            raise ReproError(f"UCDIRPipeline: got start {start}, clip {clip}; accepted: 0 to 0.999, above 0 or None")
        if not (tiles is None or tiles == "auto" or isinstance(tiles, Tiles)):
            raise ReproError(f"UCDIRPipeline: got tiles {tiles!r}; accepted: 'auto', None or Tiles(size, margin)")

        images: list[Any] = []
        half = torch.autocast(device.type, self.model.dtype, enabled=self.model.dtype != torch.float32)
        for i, (one, source) in enumerate(zip(listed, generators, strict=True)):
            x = to_model(read_image(one, min_side=self.model.unet.stride))[None].to(device)
            chosen = (Tiles() if max(x.shape[-2:]) > WHOLE else None) if tiles == "auto" else tiles
            # the widest layer alone: C N channels at the first level, twice
            need = 2 * 4 * BASES * self.model.config.base_channels * x[0, 0].numel() / self.model.config.patch**2 / 1e9
            have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
            if chosen is None and device.type == "cpu" and need > have / 2:
                needs = f"an image of {x.shape[-1]}x{x.shape[-2]} in one piece needs about {need:.0f} GB"
                raise ReproError(f"{needs}, this machine has {have:.0f}: use tiles")
            noise = KeyedNoise(seed or 0, [i], "sample", device) if source is None else partial(_drawn, source)
            settings = {"steps": num_inference_steps, "start": start, "sampler": sampler, "clip": clip, "tiles": chosen}
            with half:
                steps = self.progress_bar(trajectory(self.model, x, noise, **settings, **given))
                x = deque(steps, maxlen=1)[0][1]  # the last alone is kept: at 12 megapixels a step takes 0.6 GB
            images.extend(VaeImageProcessor().postprocess(x.cpu(), output_type))
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _drawn(source: torch.Generator, step: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=source, device=source.device).to(like)
