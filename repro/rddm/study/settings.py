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
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from repro.engine.recipe import Recipe
from repro.errors import ReproError
from repro.rddm.model import Layout
from repro.rddm.objectives import Objective, objective_of
from repro.rddm.schedules import RDDMSchedule, by_config
from repro.rddm.study.config import LINEAR_DDPM, QUIET, RESTORATION
from repro.rddm.study.published import PublishedNet

CONVERTED: dict[str, Any] = {"T": 1000, "alpha": "ddpm", "beta2": "ddpm", "ddpm": LINEAR_DDPM}
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
    metrics: tuple[str, ...] = ()
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


_SPEC = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
METRICS: dict[str, tuple[str, ...]] = {name: tuple(found) for name, found in _SPEC["metrics"].items()}
_SCHEDULES = {"restoration": RESTORATION, "quiet": QUIET, "converted": CONVERTED}


def _read(spec: Mapping[str, Any]) -> PaperSetting:
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    made["schedule"] = dict(_SCHEDULES[made.get("schedule", "restoration")])
    return PaperSetting(**made | {"metrics": METRICS[made.get("metrics", "on_y")]})


SETTINGS: dict[str, PaperSetting] = {spec["name"]: _read(spec) for spec in _SPEC["setting"]}


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
