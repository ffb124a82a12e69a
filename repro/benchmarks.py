"""`repro bench`: our speed against a peer's, or against the bare network passes.

The arms of a bench take turns, a block each, in an order that changes every round, so that whatever else the machine
does falls on all of them; the median of the rounds' ratios is compared. Times enter no record and no table.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from accelerate import Accelerator
from diffusers import DDIMPipeline
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from repro import paths
from repro.ddpm.process import by_name, model_fn, to_diffusers
from repro.ddpm.samplers import ddim, sample, spaced
from repro.ddpm.study import experiments as ddpm
from repro.editing.autoencoder import Autoencoder
from repro.editing.model import EditingNet
from repro.editing.sampling import SCHEDULE, Editor, in_sequence
from repro.editing.study.benchmark import BENCH
from repro.editing.study.experiments import PROFILES
from repro.editing.vector import EditingVector
from repro.engine.records import environment
from repro.engine.rng import KeyedNoise
from repro.engine.train import DEVICE, has_bf16, seeded, train
from repro.errors import one_of, whole
from repro.rddm.samplers import Net
from repro.rddm.study import experiments as rddm
from repro.ucdir.model import UCDIR
from repro.ucdir.network import AdaptiveKernels
from repro.ucdir.pipeline import Tiles, restore
from repro.ucdir.study.experiments import network_of

Arm = Callable[[], object]  # one block of work
DDIM_STEPS, IMAGES = 50, 2048
OVERHEAD = 1 / 1.05
LAYERS = {32: 64, 64: 32, 128: 16}  # channels -> side


def _frozen(build: Callable[[], nn.Module]) -> nn.Module:
    """An untrained network for sampling: the values of its weights do not affect its speed."""
    return seeded(build).eval().requires_grad_(False).to(DEVICE, memory_format=torch.channels_last)


def _image(side: int) -> Tensor:
    return KeyedNoise(0, ["bench"], "bench/picture").uniform((3, side, side))


def _ddpm(name: str) -> Any:
    """The configuration of that profile, without a learned variance."""
    config = ddpm.PROFILES[name]
    return replace(config, network={**config.network, "out_channels": config.channels})


@torch.no_grad()
def _passes(network: nn.Module, count: int, *inputs: Any) -> None:
    for _ in range(count):
        network(*inputs)


def _training(name: str) -> dict[str, Arm]:
    """Training steps, ours against diffusers' example loop: one network, random images, batches of one size."""
    config = _ddpm(name)
    images = 2 * KeyedNoise(0, range(IMAGES), "bench").uniform((config.channels, config.size, config.size)) - 1

    def ours(precision: str) -> Iterator[Any]:
        task = ddpm.DenoisingTask(images, [str(i) for i in range(IMAGES)], ddpm.LINEAR, learned_variance=False)
        recipe = replace(config.recipe, images=10**9, precision=precision, threads=torch.get_num_threads())
        return train(seeded(partial(ddpm.build_network, config)), task, recipe, seed=0)

    def diffusers() -> Iterator[float]:
        """The unconditional example in fp32: loader, scheduler's noise, AdamW, clipping, EMAModel."""
        accelerator = Accelerator(mixed_precision="no")
        model = seeded(partial(ddpm.build_network, config)).train()
        average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, model_cls=type(model))
        noiser = to_diffusers(ddpm.LINEAR)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        loader = DataLoader(TensorDataset(images), batch_size=config.recipe.batch, shuffle=True, drop_last=True)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        average.to(accelerator.device)
        while True:
            for (clean,) in loader:
                noise = torch.randn_like(clean)
                t = torch.randint(0, noiser.config.num_train_timesteps, (len(clean),), device=clean.device)
                loss = F.mse_loss(model(noiser.add_noise(clean, noise, t), t).sample.float(), noise)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                average.step(model.parameters())
                yield loss.detach().item()  # logged at every step, as in ours

    loops = {"ours, fp32": ours("fp32"), "ours, defaults": ours("bf16"), "diffusers": diffusers()}
    return {arm: lambda loop=loop: [next(loop) for _ in range(4)] for arm, loop in loops.items()}


def _sampler(name: str, batch: int = 16) -> dict[str, Arm]:
    """50 steps of DDIM on one network and one start, batch 16, ours and diffusers', over 50 bare passes."""
    config = _ddpm(name)
    network = _frozen(partial(ddpm.build_network, config))
    x = KeyedNoise(0, range(batch), "bench/x_T").normal((config.channels, config.size, config.size)).to(DEVICE)
    pipe = DDIMPipeline(network, to_diffusers(ddpm.LINEAR, "ddim", set_alpha_to_one=True))
    pipe.set_progress_bar_config(disable=True)
    settings = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": DDIM_STEPS, "output_type": "pt"}
    return {
        "bare passes": partial(_passes, network, DDIM_STEPS, x, torch.full((batch,), 500, device=DEVICE)),
        "ours": lambda: sample(ddim(model_fn(network), x, ddpm.LINEAR, DDIM_STEPS)),
        "diffusers": partial(pipe, batch, **settings),
    }


def _restoration(name: str) -> dict[str, Arm]:
    """An image of 256 x 256 restored in 5 steps by SM-Res, over 5 bare passes."""
    task = rddm.PROFILES[name if name == "smoke" else "small"]["raindrop"]
    network, learning = _frozen(partial(rddm.build_network, task, "smres")), rddm.learning_of(task, "smres")
    y, net = 2 * _image(task.side).to(DEVICE) - 1, Net(network, learning, task.steps)
    return {
        "bare passes": partial(_passes, network, task.steps, y, torch.full((1,), 500, device=DEVICE), y),
        "ours": partial(net.restore, y, ["bench"]),
    }


def _edit(name: str) -> dict[str, Arm]:
    """Four effects in one joint edit, over its bare passes and over four edits in sequence."""
    config = PROFILES[name if name == "smoke" else "small"]
    networks = partial(EditingNet, **config.network), partial(Autoencoder, **config.autoencoder)
    network, autoencoder = (seeded(each).eval().requires_grad_(False) for each in networks)
    editor = Editor(network, autoencoder, by_name(**SCHEDULE), "v_prediction")
    vector = EditingVector(blur=0.5, grain=0.05, colour=True, sharpen=(2.0, 0.02))
    image, editors = _image(config.bench.crop[2]), dict.fromkeys(vector.active, editor)
    last = spaced(editor.schedule.T, config.steps, "trailing")[-1]
    count = config.steps + sum(t < last for t in editor.late)

    @torch.no_grad()
    def bare() -> Tensor:
        latent = autoencoder.encode(image * 2 - 1)
        reference = torch.zeros(1, 3, *latent.shape[2:])
        for _ in range(count):
            network(latent, torch.full((1,), 500), latent, reference, vector.tensor()[None])
        return autoencoder.decode(latent)

    shared: dict[str, Any] = {"reference": image, "steps": config.steps}
    return {
        "bare passes": bare,
        "joint": partial(editor.edit, image, [vector], ["bench"], **shared),
        "in sequence": partial(in_sequence, editors, image, [vector], ["bench"], rules=BENCH.rules, **shared),
    }


def _kernels(name: str) -> dict[str, Arm]:
    """Adaptive kernels, forward and backward as in training, over one 3 x 3 convolution of equal MACs."""

    def both_ways(layer: nn.Module, *inputs: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16("cpu")):
            total = layer(*inputs).sum()
        total.backward()

    arms: dict[str, Arm] = {}
    for c, side in LAYERS.items():
        noise = KeyedNoise(0, range(1 if name == "smoke" else 8), "bench")
        x = noise.normal((c, side, side)).contiguous(memory_format=torch.channels_last).requires_grad_()
        adaptive, plain = partial(AdaptiveKernels, c, 32, 3), partial(nn.Conv2d, c, c, 3, padding=1)
        guide = torch.ones(len(x), 32), noise.normal((3, side, side))
        arms |= {f"kernels {c}": partial(both_ways, seeded(adaptive), x, *guide)}
        arms |= {f"convolution {c}": partial(both_ways, seeded(plain), x)}
    return arms


def _splitting(name: str) -> dict[str, Arm]:
    """A step with its first estimate in tiles of 256 pixels: one large image, over as many pixels in twelve."""
    network = _frozen(lambda: UCDIR(**network_of("jpeg", "long", name)))
    unknown = torch.full((1,), torch.nan, device=DEVICE)
    scalars = {"task": torch.zeros(1, dtype=torch.long, device=DEVICE), "strength": unknown}

    def arm(height: int, width: int, times: int) -> Arm:
        part = 8 if name == "smoke" else 1
        x = KeyedNoise(0, [0], "bench").uniform((3, height // part, width // part)).to(DEVICE)
        run = partial(restore, network, x, KeyedNoise(0, [0], "sample", DEVICE), steps=1, **scalars)
        return lambda: [run(tiles=Tiles(256, 32)) for _ in range(times)]

    return {"512 × 512, 12 times": arm(512, 512, 12), "2048 × 1536": arm(2048, 1536, 1)}  # as many pixels


# A profile's arms, and what is compared: the speed of one over another, its target, or None where there is none.
_OURS = ("ours", "bare passes", OVERHEAD)
BENCHES: dict[str, tuple[Callable[[str], dict[str, Arm]], list[tuple[str, str, float | None]]]] = {
    "training": (_training, [("ours, fp32", "diffusers", 1.0), ("ours, defaults", "diffusers", 1.5)]),
    "sampler": (_sampler, [_OURS, ("diffusers", "bare passes", None)]),
    "restoration": (_restoration, [_OURS]),
    "edit": (_edit, [("joint", "bare passes", OVERHEAD), ("joint", "in sequence", None)]),
    "kernels": (_kernels, [(f"kernels {c}", f"convolution {c}", 1 / (2.0 if c < 64 else 1.5)) for c in LAYERS]),
    "splitting": (_splitting, [("2048 × 1536", "512 × 512, 12 times", 1 / 1.1)]),
}


def interleave(arms: dict[str, Arm], rounds: int) -> dict[str, list[float]]:
    """Seconds of a block of each arm, round by round, the first block of each (a warm-up) left out."""
    names, seconds = list(arms), {name: [] for name in arms}
    for turn in range(rounds + 1):
        for place in range(len(names)):
            name, start = names[(turn + place) % len(names)], time.perf_counter()
            arms[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def peak(run: Callable[[], object]) -> float | None:
    """MB by which one call raises this process's resident memory; None where Linux does not count it."""
    # By hand: psutil cannot reset the peak.
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        return None
    reset.write_text("5")  # the peak counts from here
    before = int(status.read_text().split("VmRSS:")[1].split()[0])
    run()
    return round((int(status.read_text().split("VmHWM:")[1].split()[0]) - before) / 1024, 1)


@dataclass(frozen=True)
class Bench:
    """Measure speed against a peer in the same run; exit status 1 where a target is missed."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """benches to run; they are listed when none is named"""
    rounds: int = 15
    """turns of every arm; medians over them are compared"""
    profile: str = "small"
    """profile of the network: smoke, small or, of training and sampler, paper"""
    keep: bool = False
    """also write figures/bench/<name>.json, the copy that is committed"""

    def run(self) -> int:
        whole("--rounds", self.rounds, 1, 10_000)
        if not self.names:
            print("\n".join(f"{name:<16} {make.__doc__}" for name, (make, _) in BENCHES.items()))
        of_paper = {"training", "sampler"}.issuperset(self.names)
        one_of("profile of these benches", self.profile, ("smoke", "small") + ("paper",) * of_paper)
        verdicts = []
        for name in [one_of("bench", name, BENCHES) for name in self.names]:
            make, pairs = BENCHES[name]
            print(f"{name}: {make.__doc__}")
            seconds, ratios = interleave(make(self.profile), self.rounds), {}
            for of, over, least in pairs:
                values = [b / a for a, b in zip(seconds[of], seconds[over], strict=True)]
                low, middle, high = statistics.quantiles(values * 2, n=4, method="inclusive")
                verdicts.append("for comparison" if least is None else "met" if middle >= least else "MISSED")
                found = {"median": middle, "q1": low, "q3": high, "at least": least, "verdict": verdicts[-1]}
                ratios[f"{of} over {over}"] = found
                print(f"  {of} over {over}: {middle:.3f} [{low:.3f}, {high:.3f}], {verdicts[-1]}")
            memory = {arm: peak(run) for arm, run in make(self.profile).items()}
            print("  peak memory in MB: " + ", ".join(f"{arm} {mb}" for arm, mb in memory.items()))
            result = {"bench": name, "summary": make.__doc__, "profile": self.profile, "rounds": self.rounds}
            result |= {"seconds a block": {arm: statistics.median(times) for arm, times in seconds.items()}}
            result |= {"MB a block": memory, "ratios": ratios, "environment": environment()}
            for folder in [paths.runs() / "bench"] + [paths.figures() / "bench"] * self.keep:
                paths.write_text(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")
        return int("MISSED" in verdicts)
