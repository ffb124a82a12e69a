"""What notebook 03 does live: its sizes, networks and photographs in each profile, measurements, its exercises."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import pack
from repro.data.images import center_crop, resize, to_model
from repro.ddpm.process import model_fn, prediction_part
from repro.ddpm.samplers import ddim, sample, spaced
from repro.ddpm.study.experiments import LINEAR
from repro.engine import exercises, study
from repro.engine.checkpoint import load_checkpoint, trained
from repro.engine.exercises import Exercise, Judge, like, near, same
from repro.engine.rng import KeyedNoise
from repro.rddm import process
from repro.rddm.process import RDDMSchedule, by_config, indi
from repro.rddm.samplers import Net, Sampler, Step
from repro.rddm.study import experiments
from repro.rddm.study.experiments import BASELINES, STRATEGIES, TaskConfig, degraded, learning_of, name_of

# What figures and menus call the variants; tables have longer words.
NAMES = {"smres": "SM-Res", "smn": "SM-N", "smresn": "SM-Res-N", "regression": "regression", "sr3": "pure noise"}
PHOTO, SECOND = "photos/erase_kitten", "photos/monuments_brandenburgGate"  # held out from every training
OWN = "photos/monuments_mountRushmore"  # held out too; stands in until a reader uploads one


@dataclass(frozen=True)
class Lesson(study.Lesson):
    """One profile of the notebook; the live cells of the paper profile are the small one's. Its settings:

    `side`, `play`   sides of the whole photographs, cut to squares, of the figures and of the explorer.
    `drawn`     generated images a row.   `few` images of the transformation's cells, drawn with `calls` steps.
    `many`      steps of diffusion from pure noise, beside the strategies' own number.
    """

    @property
    def live(self) -> str:
        """The profile whose networks the cells run."""
        return "smoke" if self.profile == "smoke" else "small"

    def task(self, name: str, variant: str = "") -> TaskConfig:
        """The configuration of a task; networks for use have their own."""
        return experiments.USE[name] if variant == "use" else experiments.profile(self.live)[name]

    def net(self, task: str, variant: str) -> Net | None:
        """The trained network of a variant, None where its weights are not here."""
        config, name = self.task(task, variant), name_of(task, variant, 0, self.live)
        return Net(load_checkpoint(name), learning_of(config, variant), config.steps) if trained(name) else None

    def nets(self, task: str) -> dict[str, Net]:
        """label -> network of what is here; of others the command that makes them is printed."""
        variants = STRATEGIES if task == "fashion" else (*STRATEGIES, *BASELINES)
        found = {variant: self.net(task, variant) for variant in variants}
        for variant in (v for v, net in found.items() if net is None):
            command = f"repro train {name_of(task, variant, 0, self.live)}"
            print(f"— {NAMES[variant]}: no weights here; `{command}` makes them")
        return {NAMES[variant]: net for variant, net in found.items() if net is not None}

    def restorations(self, task: str, nets: Mapping[str, Net], photo: str, seed: int = 0) -> dict[str, Tensor]:
        """Input, every network's result on one start noise, and the truth, (1, 3, H, W) in [-1, 1], by name.

        Diffusion from pure noise appears twice: with as many steps as the strategies, and with `many`.
        """
        y, x0 = self.pair(task, photo)
        images = {"input": y}
        for label, net in nets.items():
            for steps in (net.steps, self["many"]) if label == NAMES["sr3"] else (None,):
                name = label if steps is None else f"{label} ({steps})"
                images[name] = net.restore(y, [photo], steps, seed)
        return {**images, "truth": x0}

    def pair(self, task: str, photo: str = PHOTO, crop: int = 0, side: int = 0) -> tuple[Tensor, Tensor]:
        """(y, x0) of a held-out photograph, each (1, 3, H, W) in [-1, 1].

        Degraded as in the test set, with the settings keyed by its name. `crop` cuts the middle square out of the
        pair, 0 leaves the whole photograph; `side` of the whole one, the task's own by default.
        """
        config = self.task(task)
        pair = _pair(config.degradation, photo, side or config.side)
        pair = (center_crop(x, min(crop, *x.shape[-2:])) for x in pair) if crop else pair
        return tuple(to_model(x)[None] for x in pair)  # type: ignore[return-value]


@lru_cache(maxsize=16)
def _pair(degradation: str, photo: str, side: int) -> tuple[Tensor, Tensor]:
    clean = resize(pack.load(pack.picture(photo)), side)
    return degraded(degradation, clean, photo), clean


def credits() -> str:
    """Who took the photographs that the notebook shows."""
    return "\n".join(f"{photo}: {pack.picture(photo).credit}" for photo in (PHOTO, SECOND, OWN))


def psnr(image: Tensor, truth: Tensor) -> float:
    """PSNR in dB on RGB of images in [-1, 1], for captions; tables have their own protocols."""
    return 10 * torch.log10(4 / (image.clamp(-1, 1) - truth).square().mean()).item()


_SMALL = {"side": 160, "play": 256, "drawn": 12, "few": 8, "calls": 50, "many": 20}
_SMOKE = {"side": 48, "play": 32, "drawn": 4, "few": 2, "calls": 4, "many": 3}
_of = partial(Lesson, "rddm", "03_rddm_sampling")
LESSONS = {
    "smoke": _of("smoke", 0.4, _SMOKE, check=False),
    "small": _of("small", 2.3, _SMALL),
    "paper": _of("paper", 2.3, _SMALL, check=False),
}


# -- small measurements: how far two rules part (claim R4), where a state stands ---------------------------------------

# DDIM with the network's noise kept is diffusers' default, with the noise made again from the cut image it is
# diffusers' use_clipped_model_output. Without clipping the two are one.
DDIM = {"ddim": False, "ddim-rederived": True}
RULES = {
    "ddim": "DDIM",
    "ddim-rederived": "DDIM, noise re-derived",
    "eq12": "RDDM, Eq. 12",
    "compose": "RDDM, compose",
    "rederive": "RDDM, rederive",
}


def transferred(network: nn.Module, x_T: Tensor, steps: int, rule: str, clip: bool) -> Iterator[Any]:
    """Steps of notebook 01's DDPM sampled from x_T by DDIM, or by RDDM with one of its rules and without retraining.

    Both visit diffusers' timesteps, eta = 0. A variance head of the network is left unread.
    """
    model = model_fn(network)
    if rule in DDIM:
        return ddim(model, x_T, LINEAR, steps, clip=clip, eps_from_clipped=DDIM[rule])
    sampler = Sampler(RDDMSchedule.from_ddpm(LINEAR), "noise", clip=2.0 if clip else None, rule=rule)
    noise_of = lambda x, t: prediction_part(model(x, t), x)  # noqa: E731
    return sampler.run(noise_of, x_T, torch.zeros_like(x_T), spaced(LINEAR.T, steps))


def draw(network: nn.Module, x_T: Tensor, steps: int, rule: str, clip: bool) -> Tensor:
    """The result of `transferred`."""
    return sample(transferred(network, x_T, steps, rule, clip))


def gaps(
    network: nn.Module, x_T: Tensor, steps: int, rule: str, other: str, *, clip: bool, dtype: torch.dtype
) -> list[Tensor]:
    """How far two rules are apart after each step from one start, (B, …) a step, for images in [-1, 1]."""
    # A copy, since the loaded one is shared; cast by torch, since diffusers' own cast warns of what is not there.
    network = nn.Module.to(copy.deepcopy(network), dtype)
    ours, theirs = (transferred(network, x_T.to(dtype), steps, each, clip) for each in (rule, other))
    return [(a.x - b.x).abs() for a, b in zip(ours, theirs, strict=True)]


def indi_gap(steps: int = 10) -> float:
    """Largest difference of SM-Res from InDI along one run, both with the same arbitrary predictor, float64.

    A step of InDI from time t to s is x_s = (t - s) / t x0 + (1 - (t - s) / t) x_t.
    """
    schedule = indi()
    y, z = KeyedNoise(0, [0, 1], "oracle/indi").normal((2, 3, 8, 8)).double().unbind(1)

    def predict(x: Tensor, t: Tensor) -> Tensor:  # some nonlinear guess of the clean image
        return torch.tanh(0.7 * x.roll(1, -1) - 0.2 * y + t.double().view(-1, 1, 1, 1) / 1000)

    x, worst = process.start(y, z, schedule), 0.0
    for step in Sampler(schedule, "res", clip=None).run(lambda x, t: y - predict(x, t), x, y, steps):
        t, s = schedule.levels(step.t)[0], schedule.levels(step.t_prev)[0]
        x = (t - s) / t * predict(x, torch.full((len(x),), step.t)) + (1 - (t - s) / t) * x
        worst = max(worst, (x - step.x).abs().max().item())
    return worst


def path(steps: Iterable[Step], x0: Tensor, y: Tensor, eps: Tensor) -> list[tuple[float, float, float]]:
    """(a, b, rest) of every state of a run, the start first: least squares, x = x0 + a r + b eps + remainder.

    `rest` is the root mean square of the remainder: what is neither image, residual, nor the start's noise. Tensors
    of one shape, any range.
    """
    basis = torch.stack([(y - x0).flatten(), eps.flatten()], dim=1).double()  # (N, 2)
    run, places = list(steps), []
    for x in (run[0].x_t, *(step.x for step in run)):
        offset = (x - x0).flatten().double()
        a, b = solution = torch.linalg.lstsq(basis, offset).solution  # (2,)
        places.append((a.item(), b.item(), (offset - basis @ solution).square().mean().sqrt().item()))
    return places


# -- exercises --------------------------------------------------------------------------------------------------------

_tensors = partial(exercises.tensors, shape=(3, 4, 4), key="exercise/rddm", batch=2)


def _noise() -> Judge:
    right = lambda x_t, y, r, u, s: (x_t - y - (u - 1) * r) / s  # noqa: E731
    return like(right, (*_tensors(3), 0.75, 0.5), (*_tensors(3), 0.36, 0.2))


def _step() -> Judge:
    (x_t, y, r, eps), schedule = _tensors(4), by_config()
    right = Sampler(schedule, "res_noise", clip=None).step(torch.cat([r, eps], dim=1), x_t, y, 700, 300).x
    return lambda answer: same(answer(x_t, r, eps, *schedule.levels(700), *schedule.levels(300)), right)


def _translate() -> Judge:
    converted, some = RDDMSchedule.from_ddpm(LINEAR), [0, 400, 999]
    right = torch.stack([converted.u[some], converted.s[some]])
    return lambda answer: same(torch.stack(answer(LINEAR.alpha_bar[some])), right)


EXERCISES: dict[str, Exercise] = {
    "half": (
        "the first t with more than half of the residual",
        near(int((by_config().u > 0.5).nonzero()[0])),
        "alpha is decreased: most of the residual comes early; look at schedule.u",
    ),
    "noise": ("the noise from the residual", _noise, "solve x_t = y + (u - 1) r + s eps for eps"),
    "step": ("one deterministic step", _step, "Eq. 13: take away the share of each that s holds less than t"),
    "indi": (
        "how much of the state InDI keeps",
        lambda: lambda answer: near(0.75)()(answer(0.8, 0.6)),
        "of the way t to 0, the step goes t - s",
    ),
    "translate": ("RDDM's coefficients of a DDPM", _translate, "with y = 0, r = -x0: compare the factors of x0"),
    "ends": (
        "what a converted schedule leaves",
        near(float(LINEAR.alpha_bar[-1] ** 0.5), 5e-4),
        "1 - u at T is the square root of alpha_bar there",
    ),
}
check = partial(exercises.check, among=EXERCISES)
