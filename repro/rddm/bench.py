"""What notebook 03 measures about speed: one restoration, over the network passes that it cannot do without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from repro.engine.bench import Arm, Benchmark, Ratio
from repro.engine.checkpoint import load_checkpoint
from repro.engine.evaluation import folders, trained
from repro.engine.rng import KeyedNoise
from repro.rddm import paper
from repro.rddm.config import TaskConfig, profile
from repro.rddm.experiments import build_network, learning_of, name_of
from repro.rddm.pipeline import RDDMPipeline
from repro.rddm.sampling import restore
from repro.rddm.scheduler import RDDMScheduler
from repro.rddm.settings import PaperSetting, setting, strategies
from repro.rddm.settings import build_network as build_published

TASK, STRATEGY = "raindrop", "smres"  # five steps, as in the report
A_BLOCK = 4  # restorations between two looks at the clock
BARE, OURS, PIPELINE = "bare forwards", "ours, SM-Res", "RDDMPipeline"


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network_of(profile_name: str) -> nn.Module:
    """SM-Res of the profile for raindrops: the trained one where it is here, else one as it is built."""
    name = _setting_name() if profile_name == "paper" else name_of(TASK, STRATEGY, 0, profile(profile_name).name)
    if trained(name):
        folder = next(f for f in folders(name) if (f / "config.json").exists())
        return copy.deepcopy(load_checkpoint(folder))  # the loaded one is shared, and this one moves to the device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_published(_setting()) if profile_name == "paper" else build_network(_task(profile_name), STRATEGY)
    return net.eval().requires_grad_(False)


def _setting() -> PaperSetting:
    return strategies(setting(TASK))["SM-Res"]


def _setting_name() -> str:
    return paper.name_of(_setting())


def _task(profile_name: str) -> TaskConfig:
    return profile(profile_name).tasks[TASK]


def _work(profile_name: str) -> tuple[int, int]:
    """(side in pixels, steps) of one restoration."""
    if profile_name == "paper":
        return _setting().size, _setting().sampling
    return _task(profile_name).side, _task(profile_name).steps


def picture(side: int) -> Tensor:
    """A degraded picture (1, 3, side, side) in [-1, 1]: what it shows costs no time."""
    return KeyedNoise(0, ["bench"], "bench/picture").uniform((3, side, side)).mul_(2).sub_(1)


def bare(network: nn.Module, I_in: Tensor, steps: int) -> None:
    """The network's own passes and nothing else."""
    t = torch.full((len(I_in),), 500, device=I_in.device)
    with torch.no_grad():
        for _ in range(steps):
            network(I_in, t, I_in)


def restored(profile_name: str, network: nn.Module, I_in: Tensor, steps: int) -> Tensor:
    """What the notebook's rows are made by: (1, 3, side, side) in [-1, 1]."""
    if profile_name == "paper":
        return paper.restored(network, _setting(), I_in, ["bench"], steps=steps)
    return restore(network, I_in, ["bench"], learning_of(_task(profile_name), STRATEGY), steps)


def pipeline(profile_name: str, network: nn.Module) -> RDDMPipeline:
    """The same in the face of diffusers."""
    config = dict(_setting().schedule if profile_name == "paper" else _task(profile_name).schedule)
    scheduler = RDDMScheduler(config.pop("T"), objective="res", **config)
    pipe = RDDMPipeline(network, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _restoration(profile_name: str) -> dict[str, Arm]:
    side, steps = _work(profile_name)

    def arm(prepare: Callable[[nn.Module, Tensor], Callable[[], object]]) -> Arm:
        def blocks() -> Iterator[float]:
            run = prepare(network_of(profile_name).to(_device()), picture(side).to(_device()))
            while True:
                for _ in range(A_BLOCK):
                    run()
                yield float(A_BLOCK)

        return blocks

    def by_pipeline(network: nn.Module, I_in: Tensor) -> Callable[[], object]:
        pipe, given = pipeline(profile_name, network), (I_in + 1) / 2
        return lambda: pipe(given, num_inference_steps=steps, output_type="pt")

    return {
        BARE: arm(lambda network, I_in: lambda: bare(network, I_in, steps)),
        OURS: arm(lambda network, I_in: lambda: restored(profile_name, network, I_in, steps)),
        PIPELINE: arm(by_pipeline),
    }


BENCHES = (
    Benchmark(
        "restoration",
        "a picture of 256 x 256 restored in 5 steps by SM-Res, over 5 bare forward passes (smoke: smaller)",
        "images",
        _restoration,
        (
            Ratio("our sampler's speed over the bare forwards'", OURS, BARE, at_least=1 / 1.05),
            Ratio("RDDMPipeline's speed over the bare forwards'", PIPELINE, BARE),
        ),
    ),
)
