"""The published experiments of RDDM as configurations: one a task, with what is not known marked as such.

The appendix's table of settings exists as a picture only. These rows are what the released code, its folder names, its
maintainer's answers and the reproduction report together prove; where they leave a field open, it holds our choice and
its name stands in `unknown`.

What is not taken over, and what takes its place:
- gradients accumulated over two batches: one batch of twice the size (`batch` x `accumulation` images a step);
- RAdam, of the generation experiments: Adam with the linear warm-up of 2 / (1 - beta_2) steps that stands in for its
  rectification (Ma and Yarats 2021, "On the adequacy of untuned warmup for adaptive optimization");
- two optimizers for two networks: one. Adam treats each weight alone, so they differ in the clipped norm only, which
  is of both networks together;
- the average, decay 0.995 at every tenth step: the same half-life, 1383 steps, at every step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from repro.engine.recipe import Recipe
from repro.errors import ReproError
from repro.rddm.config import LINEAR_DDPM, RESTORATION
from repro.rddm.model import Layout
from repro.rddm.objectives import Objective, objective_of
from repro.rddm.published import PublishedNet
from repro.rddm.schedules import RDDMSchedule, by_config

CONVERTED: dict[str, Any] = {"T": 1000, "alpha": "ddpm", "beta2": "ddpm", "ddpm": LINEAR_DDPM}
# Protocol names; the report's are those on Y, with the ground truth resized to the output (`repro.metrics.matlab`).
ON_Y = ("psnr/y-uint8", "ssim/y-uint8-wang", "psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1")
ON_RGB8 = ("psnr/rgb-uint8", "ssim/rgb-uint8-matlab3d", "lpips/alex-v0.1")
ON_RGB = ("psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1")
OF_SETS = ("fid/inception", "kid/inception", "is/inception")
_HALF_LIFE = 10 * math.log(0.5) / math.log(0.995)  # steps


@dataclass(frozen=True)
class PaperSetting:
    """One published experiment.

    `data`        "lol", "raindrop", "istd", "gopro" (pairs), "celeba", "celeba-hq" (pictures), "" (no reader here).
    `size`        side in pixels that training and test pictures are resized to, without keeping proportions.
    `batch`       pictures of one pass, `accumulation` of which make a step; `steps` of the optimizer.
    `optimizer`   "adam" or "radam" (see above), `optimizers` how many.
    `condition`   the network sees I_in; `mask` it sees the mask behind it; `equalise` I_in is equalised before that.
    `hole`        I_in is the picture with its middle replaced by grey (inpainting).
    `sampling`    steps of the published numbers; `samples` pictures of a generated set (0: restoration).
    `metrics`     protocol names.
    `unknown`     fields whose value is our choice.
    `network`     changes to the published network, for tests.
    """

    name: str
    title: str
    data: str
    objective: Objective
    layout: Layout
    size: int = 256
    batch: int = 1
    accumulation: int = 2
    steps: int = 80_000
    norm: Literal["l1", "l2"] = "l1"
    optimizer: Literal["adam", "radam"] = "adam"
    optimizers: int = 1
    lr: float = 8e-5
    schedule: Mapping[str, Any] = field(default_factory=lambda: dict(RESTORATION))
    condition: bool = True
    mask: bool = False
    equalise: bool = False
    hole: bool = False
    sampling: int = 5
    samples: int = 0
    metrics: tuple[str, ...] = ON_Y
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stray = set(self.unknown) - {f.name for f in dataclasses.fields(self)}
        if stray:
            raise ReproError(f"setting {self.name!r} calls unknown what it has not: {', '.join(sorted(stray))}")

    @property
    def images(self) -> int:
        """Pictures shown in the whole training."""
        return self.steps * self.batch * self.accumulation

    @property
    def sum_scale(self) -> float:
        """bbar_T^2 of the schedule."""
        return schedule(self).sum_scale

    @property
    def recipe(self) -> Recipe:
        """The training as this repository's loop runs it."""
        batch = self.batch * self.accumulation
        return Recipe(
            images=self.images,
            batch=batch,
            lr=self.lr,
            warmup=200 * batch if self.optimizer == "radam" else 0,  # 2 / (1 - 0.99) steps
            decay="constant",
            betas=(0.9, 0.99),
            ema=_HALF_LIFE * batch,
            precision="fp32",
            threads=16,
            save_every=2_000 * batch,
        )


def _generation(name: str, title: str, **changes: Any) -> PaperSetting:
    common: dict[str, Any] = dict(
        data="celeba", objective="res_noise", layout="two", size=64, batch=128, steps=100_000, norm="l2", lr=2e-4,
        optimizer="radam", optimizers=2, condition=False, sampling=10, samples=50_000, metrics=OF_SETS,
    )  # fmt: skip
    return PaperSetting(name, title, **{**common, **changes})


SETTINGS: dict[str, PaperSetting] = {
    s.name: s
    for s in (
        PaperSetting(
            "raindrop",
            "raindrop removal, RainDrop: 861 training pairs, test-a",
            data="raindrop",
            objective="res_noise",
            layout="two",
            steps=120_000,
            notes=(
                "one Adam for both networks, on the sum of both losses",
                "the training script says 120,000 steps, the test script loads step 140,000 in one place and 80,000 "
                "in another",
            ),
        ),
        PaperSetting(
            "lol",
            "low-light enhancement, LOL: 485 training and 15 test pairs",
            data="lol",
            objective="res",
            layout="one",
            equalise=True,
            sampling=2,
            notes=("the report's own table favours SM-Res-N here, by 0.7 dB",),
        ),
        PaperSetting(
            "istd",
            "shadow removal, ISTD: the mask is a further input",
            data="istd",
            objective="res_noise",
            layout="two",
            schedule={**RESTORATION, "sum_scale": 0.01},
            mask=True,
            metrics=ON_RGB,
            unknown=("steps", "layout"),
        ),
        PaperSetting(
            "gopro",
            "deblurring, GoPro: 2,103 training and 1,111 test pairs of the folder blur, not blur_gamma",
            data="gopro",
            objective="res_noise",
            layout="two",
            optimizers=2,
            sampling=2,
            metrics=ON_RGB8,
            unknown=("batch", "steps", "lr", "norm", "schedule"),
        ),
        PaperSetting(
            "sid-rgb",
            "low-light enhancement, See-in-the-Dark as RGB pictures",
            data="",
            objective="res",
            layout="one",
            unknown=("objective", "layout", "steps", "norm", "lr", "schedule", "sampling", "equalise"),
            notes=("how the raw files become RGB pictures is not described: there is no reader",),
        ),
        _generation("celeba64", "generation, CelebA at 64 px, its own schedule"),
        _generation(
            "celeba64-two-stage",
            "generation, CelebA at 64 px, partially path-independent",
            data="",
            schedule=CONVERTED,
            unknown=("sampling",),
            notes=("each diffusion is undone on its own, its network given its coefficient as time: not sampled here",),
        ),
        _generation(
            "inpainting",
            "inpainting, CelebA-HQ at 64 px, grey middle, the mask not given",
            data="celeba-hq",
            batch=64,
            hole=True,
            samples=0,
            metrics=ON_RGB,
        ),
        _generation(
            "dog-to-cat",
            "translation of dogs to cats at 64 px, in pairs drawn at random",
            data="",
            batch=64,
            schedule=CONVERTED,
            samples=0,
            notes=("the pairs are drawn anew, so that there is no reference to measure against: there is no reader",),
        ),
    )
}


def setting(name: str) -> PaperSetting:
    """The published experiment of that name."""
    if name not in SETTINGS:
        raise ReproError(f"no published setting {name!r}: there are {', '.join(SETTINGS)}")
    return SETTINGS[name]


def strategies(setting: PaperSetting) -> dict[str, PaperSetting]:
    """The same experiment under each strategy, as the report's table compares them: "SM-Res", "SM-N", "SM-Res-N".

    The last one has two networks, the others one of the same size: the report does not equal the parameters.
    """
    layouts: dict[str, Layout] = {"SM-Res": "one", "SM-N": "one", "SM-Res-N": "two"}
    return {
        label: dataclasses.replace(setting, objective=objective_of(label), layout=layout)
        for label, layout in layouts.items()
    }


def schedule(setting: PaperSetting) -> RDDMSchedule:
    """The coefficients that it is trained and sampled with."""
    return by_config(**setting.schedule)


def build_network(setting: PaperSetting) -> PublishedNet:
    """The untrained network at its published size."""
    return PublishedNet(
        objective=setting.objective,
        layout=setting.layout,
        condition=setting.condition,
        mask_channels=3 if setting.mask else 0,
        **setting.network,
    )
