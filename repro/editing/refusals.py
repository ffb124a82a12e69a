"""What `EditingPipeline` refuses, each in one sentence that says what it accepts."""

from __future__ import annotations

import difflib
from typing import Any

from diffusers import SchedulerMixin
from torch import Tensor

from repro.editing.autoencoder import Autoencoder
from repro.editing.model import EditingNet
from repro.editing.vector import EditingVector
from repro.errors import ReproError

EFFECTS = ("blur", "grain", "colour", "reference", "mask", "sharpen")


def request(
    blur: float | None,
    grain: float | None,
    colour: bool | None,
    reference: Any,
    mask: Any,
    sharpen: tuple[float, float] | None,
) -> EditingVector:
    """The editing vector that these arguments ask for. Raises `ReproError`."""
    if colour is not None and not isinstance(colour, bool):
        raise ReproError(f"EditingPipeline: colour is a switch, got {colour!r}; accepted: reference=… beside it")
    if colour is not None and colour != (reference is not None):
        found = "colour=True without a reference" if colour else "colour=False and a reference"
        raise ReproError(
            f"EditingPipeline: got {found}; accepted: reference=…, which turns colour transfer on, or none"
        )
    return EditingVector(blur, grain, reference is not None, mask is not None, sharpen)


def unknown(name: str) -> str:
    """The sentence for an argument that there is not."""
    near = difflib.get_close_matches(name, EFFECTS, n=1)
    hint = f", did you mean {near[0]}" if near else ""
    return f"EditingPipeline: no effect or setting {name!r}{hint}; accepted effects: {', '.join(EFFECTS)}"


def check_size(picture: Tensor, hole: Tensor | None, least: int) -> None:
    """Refuse pictures below `least` pixels a side and masks of another size. Raises `ReproError`."""
    height, width = picture.shape[2:]
    if min(height, width) < least:
        raise ReproError(
            f"EditingPipeline: the picture is {width}x{height}; accepted: at least {least} pixels a side, one tile of "
            "the network"
        )
    if hole is not None and hole.shape[2:] != picture.shape[2:]:
        raise ReproError(
            f"EditingPipeline: the mask is {hole.shape[3]}x{hole.shape[2]} and the picture {width}x{height}; accepted: "
            "a mask of the picture's size"
        )


def check_parts(network: Any, autoencoder: Any, scheduler: Any) -> None:
    """Refuse parts that do not belong together. Raises `ReproError`."""
    for part, kind in ((network, EditingNet), (autoencoder, Autoencoder), (scheduler, SchedulerMixin)):
        if not isinstance(part, kind):
            raise ReproError(f"EditingPipeline: got a {type(part).__name__}; accepted here: {kind.__name__}")
    if network.config.reference != "rgb":
        raise ReproError(
            "EditingPipeline: the network was built for a latent colour reference; accepted: RGB reference (the other "
            "runs in repro.editing.sampling.Editor)"
        )
    if network.config.channels != autoencoder.channels:
        raise ReproError(
            f"EditingPipeline: the autoencoder's latents have {autoencoder.channels} channels; accepted: "
            f"{network.config.channels}, those of the network"
        )
    config = scheduler.config
    if "prediction_type" not in config or getattr(scheduler, "betas", None) is None:
        raise ReproError(
            f"EditingPipeline: got {type(scheduler).__name__}; accepted: schedulers with betas and a prediction_type"
        )
    if config.get("clip_sample") or config.get("thresholding"):
        raise ReproError(
            "EditingPipeline: the scheduler clips the sample, and latents have no range; accepted: clip_sample=False, "
            "thresholding=False (repro.editing.pipeline.scheduler_of makes one)"
        )
