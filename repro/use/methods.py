"""What each method offers to a user's own images: a line a method in `LEARNERS`. Imports happen when one is chosen."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

Noises = Callable[[str], KeyedNoise]


@dataclass(frozen=True)
class Learner:
    """How a method learns to restore from pairs.

    `build`     width -> the untrained network.
    `loss`      (network, target, input, noises) -> (B,) loss of pairs (B, 3, H, W) in [-1, 1].
    `pipeline`  trained network -> the diffusers pipeline that is saved and used.
    `defaults`  batch, crop, width, lr and sampling steps where the file names none. `multiple`  of which a crop is one.
    """

    build: Callable[[int], nn.Module]
    loss: Callable[[nn.Module, Tensor, Tensor, Noises], Tensor]
    pipeline: Callable[[nn.Module], Any]
    defaults: Mapping[str, Any]
    multiple: int


def _rddm() -> Learner:
    """SM-Res: the residual is predicted, little noise is added (sum_scale 0.01), two sampling steps."""
    from repro.rddm.model import RDDMNet
    from repro.rddm.pipeline import RDDMPipeline
    from repro.rddm.scheduler import RDDMScheduler
    from repro.rddm.schedules import by_config
    from repro.rddm.tasks import Learning, restoration_loss

    learning = Learning("res", by_config(sum_scale=0.01), "l2")

    def build(width: int) -> nn.Module:
        return RDDMNet(
            objective="res", base_channels=width, channel_mults=(1, 1, 2, 2), attention_levels=(3,), patch=2,
            input_skip=True,
        )  # fmt: skip

    return Learner(
        build=build,
        loss=lambda model, target, given, noise: restoration_loss(model, target, given, noise, learning),
        pipeline=lambda network: RDDMPipeline(network, RDDMScheduler(objective="res", sum_scale=0.01)),
        defaults={"batch": 8, "crop": 64, "width": 32, "lr": 1e-3, "steps": 2},
        multiple=16,
    )


LEARNERS: dict[str, Callable[[], Learner]] = {"rddm": _rddm}
PIPELINES = {"RDDMPipeline": "repro.rddm.pipeline"}  # class -> where it is


def load(folder: Path) -> Any:
    """The pipeline that a folder holds, as `repro train my.toml` or `save_pretrained` wrote it.

    Raises `ReproError` where there is none, or one of no method here.
    """
    from diffusers.utils import logging as diffusers_logging

    index = Path(folder) / "model_index.json"
    try:
        name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ReproError(f"{folder}: holds no pipeline; accepted: a folder that `repro train my.toml` wrote") from None
    if name not in PIPELINES:
        raise ReproError(f"{folder}: holds a {name}; accepted: {', '.join(PIPELINES)}")
    cls = getattr(importlib.import_module(PIPELINES[name]), name)
    diffusers_logging.disable_progress_bar()
    try:
        pipe = cls.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise ReproError(f"{folder}: the pipeline cannot be read ({error})") from error
    finally:
        diffusers_logging.enable_progress_bar()
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda") if torch.cuda.is_available() else pipe


def restore_image(pipe: Any, image: Tensor, steps: int, seed: int = 0) -> Tensor:
    """(3, H, W) in [0, 1] -> the same restored, on the CPU."""
    generator = torch.Generator("cpu").manual_seed(seed)
    out = pipe(image, num_inference_steps=steps, generator=generator, output_type="pt").images[0]
    return out.float().clamp(0, 1).cpu()
