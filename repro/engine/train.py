"""What a training is (`Recipe`, `Task`), and the loop, a generator of its steps: the caller plots, stops, samples.

Exactly resumable: the state holds weights, average, optimizer and the number of images seen, and everything random is
keyed by (seed, place in the training), so a killed run continued by the same command ends bit for bit like one that was
never killed (CPU, same thread count). Runs on one process or, under `torchrun`, on several. The state is a safetensors
file, since Accelerate's own pickles optimizer and random state.
"""

import atexit
import contextlib
import copy
import functools
import hashlib
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from repro.engine.records import hardware
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.paths import write_bytes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SAVE_SECONDS = 300  # at most this much work is lost to a kill


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Progress is counted in images."""

    images: int  # in all
    batch: int = 128  # images a step, over all processes together
    lr: float = 1e-3  # AdamW's largest: linear warm-up over `warmup` images, then constant, or a cosine to zero
    warmup: int = 0
    decay: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 10_000  # half-life of the weight average, in images
    clip: float = 1.0  # largest norm of the gradient (0: not clipped)
    precision: Literal["bf16", "fp32"] = "bf16"  # of the forward pass; bf16 by autocast, where the hardware has it
    threads: int = 1  # of the CPU; another number rounds differently
    save_every: int = 20_000  # images between two states from which a killed run goes on

    def lr_at(self, images: int) -> float:
        """Learning rate of the step that begins after `images` images."""
        if images < self.warmup:
            return self.lr * (images + self.batch) / (self.warmup + self.batch)
        if self.decay == "constant":
            return self.lr
        done = (images - self.warmup) / max(1, self.images - self.warmup)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """An untrained network, initialised from its seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's initialisers know no other generator
        return build()


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class Task(Protocol):
    """A training set and a loss per sample.

    A sample is known by its *place*, its number in the whole training: noise, times and crops are keyed by it, so they
    depend neither on the batch nor on the process. A task may have `settings`, a dict of plain values on which the loss
    depends beside the recipe (objective, schedule, crop, …): a saved run is never continued with others.
    """

    ids: Sequence[str]  # names of the training images

    def loss(self, model: nn.Module, indices: Tensor, noise: Callable[[str], KeyedNoise]) -> Tensor:
        """(B,) loss of each image in `indices` (B,); `noise(purpose)` gives the batch's random numbers."""
        ...


class EMA:
    """Averaged copy of `model`; after n images its half-life is min(half_life, n / 20) (Karras et al., EDM, 2022): a
    fixed decay such as 0.9999 would keep the untrained weights in the first averages."""

    def __init__(self, model: nn.Module, half_life: float) -> None:
        self.model, self.half_life = copy.deepcopy(model).eval().requires_grad_(False), half_life

    @torch.no_grad()
    def update(self, model: nn.Module, images: int, batch: int) -> None:
        """Average in the weights of `model` after a step of `batch` images, `images` in all."""
        decay = 0.5 ** (batch / max(min(self.half_life, images * 0.05), 1e-8))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
        for ours, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)


@dataclass(frozen=True)
class TrainStep:
    """The outcome of a step."""

    images: int  # seen so far, this step included
    loss: float  # mean over the batch
    lr: float
    model: nn.Module  # being trained (unwrapped); do not change it
    ema: nn.Module  # its average, in eval mode: what is sampled and shipped


def places_to_indices(places: Tensor, size: int, seed: int) -> Tensor:
    """The training image at each place: a fresh keyed permutation of all images for every epoch."""
    epochs, indices = places // size, places % size
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        indices[here] = _permutation(epoch, size, seed)[indices[here]]
    return indices


@functools.lru_cache(maxsize=4)
def _permutation(epoch: int, size: int, seed: int) -> Tensor:
    """(size,) order of the images in one epoch; cached: sorting a large set at every step costs milliseconds."""
    return KeyedNoise(seed, [epoch], "epoch").integers(0, 2**62, (size,))[0].argsort(stable=True)


def make_accelerator():
    """Accelerate's handle on processes and devices. Raises `ReproError` where a launcher started several processes that
    do not find each other: each would train the whole run and write over the others."""
    from accelerate import Accelerator

    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # else Accelerate sees no devices, and one process each
    accelerator = Accelerator(mixed_precision="no")
    if (joined := accelerator.num_processes) != started:
        how = "launch with `torchrun` or `accelerate launch`, one GPU a process or none"
        raise ReproError(f"{started} processes were started, Accelerate joins {joined}: {how}")
    if started > 1:
        atexit.register(accelerator.end_training)  # threads of a process group still open may abort the exit
    return accelerator


def train(
    model: nn.Module, task: Task, recipe: Recipe, seed: int, state: Path | None = None, until: int | None = None
) -> Iterator[TrainStep]:
    """Train `model` on `task`, until `until` images at most. `state`: file from which the run goes on, written every
    `recipe.save_every` images, every SAVE_SECONDS, at the end, and where the caller or Ctrl-C stops the run. Raises
    `ReproError` for a loss or gradient that is not finite (naming the images), a state of another recipe, seed, network
    or task, and a batch that the processes cannot share equally."""
    accelerator = make_accelerator()
    ranks, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    if recipe.batch % ranks:
        raise ReproError(f"a batch of {recipe.batch} cannot be shared equally by {ranks} processes: choose a multiple")
    identity = {
        "recipe": asdict(recipe),
        "seed": seed,
        "network": digest({k: list(v.shape) for k, v in model.state_dict().items()}),
        "size": len(task.ids),
        "task": digest(dict(getattr(task, "settings", {}))),
    }
    with contextlib.ExitStack() as after:
        if device.type == "cpu":
            after.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(recipe.threads)
        # Channels-last pays, but not in bf16 on CPUs: there GroupNorm is eight times slower, the whole step by a third.
        slow = device.type == "cpu" and precision_here(recipe, device) == "bf16"
        layout = torch.contiguous_format if slow else torch.channels_last
        model = model.to(device=device, memory_format=layout).train()
        ema = EMA(model, recipe.ema)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
        images = begun = load_state(state, identity, model, ema.model, optimizer) if state else 0
        wrapped, optimizer = accelerator.prepare(model, optimizer)
        if device.type == "cuda":  # measured slower on CPUs
            wrapped = torch.compile(wrapped)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision_here(recipe, device) == "bf16")
        local, end = recipe.batch // ranks, min(until or recipe.images, recipe.images)
        saved, saved_at = images, time.monotonic()

        def keep() -> None:
            nonlocal saved, saved_at
            if state and accelerator.is_main_process and images > saved:
                save_state(state, identity, images, model, ema.model, optimizer)
            saved, saved_at = images, time.monotonic()

        while images < end:
            with _whole_step() as interrupted:
                places = torch.arange(images + rank * local, images + (rank + 1) * local)  # (b,)
                indices = places_to_indices(places, len(task.ids), seed)
                lr = recipe.lr_at(images)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                with autocast:
                    noise = lambda purpose, at=places: KeyedNoise(seed, at, f"train/{purpose}", device)  # noqa: E731
                    loss = task.loss(wrapped, indices, noise).float().mean()
                optimizer.zero_grad(set_to_none=True)
                accelerator.backward(loss)
                norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or math.inf)
                mean_loss = accelerator.reduce(loss.detach(), "mean").item()
                if not (math.isfinite(mean_loss) and math.isfinite(norm)):
                    kept = f"the last good state, {saved} images in, is {state}" if state and saved else "none was kept"
                    what = f"training stopped after {images} images: loss {mean_loss}, gradient norm {norm.item()}"
                    some = ", ".join(task.ids[i] for i in indices[:8].tolist())
                    raise ReproError(f"{what} on the batch of {some}, …; {kept}")
                optimizer.step()
                images += recipe.batch
                ema.update(model, images, recipe.batch)
                due = images - saved >= recipe.save_every or time.monotonic() - saved_at >= SAVE_SECONDS
                if due or images >= end or interrupted:
                    keep()
            try:
                yield TrainStep(images, mean_loss, lr, model, ema.model)
            except GeneratorExit:  # the caller stops here
                keep()
                raise
        if images == begun:  # nothing left to do: the caller still gets the networks
            yield TrainStep(images, math.nan, 0.0, model, ema.model)


def with_progress(steps: Iterator[TrainStep], recipe: Recipe, name: str, state: Path) -> TrainStep:
    """Run a training under a progress bar; its last step. After Ctrl-C a line says what the training goes on from."""
    if precision_here(recipe, DEVICE) != recipe.precision:
        print(f"{name}: bf16 is not faster on this processor, so the training runs in fp32", flush=True)
    other = os.getenv("RANK", "0") != "0"  # under torchrun the first process alone reports
    bar = tqdm(total=recipe.images, unit="img", desc=name, mininterval=5, file=sys.stdout, disable=other)
    try:
        with contextlib.closing(steps), bar:
            for step in steps:
                bar.update(step.images - bar.n)
                if math.isfinite(step.loss):  # of a finished run there is none
                    bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
    except KeyboardInterrupt:
        kept = f"the same command goes on from {state}" if state.exists() else "nothing was to be kept yet"
        print(f"{name} is stopped; {kept}", file=sys.stderr)
        raise
    return step


@contextlib.contextmanager
def _whole_step() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM wait for the end of the block, so that no step is kept half done; a second Ctrl-C does not.
    Yields a list, empty until a signal arrives (in the main thread; elsewhere none does)."""
    arrived: list[int] = []

    def wait(number: int, frame: Any) -> None:
        if arrived:
            raise KeyboardInterrupt
        arrived.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, wait) for number in numbers}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


def precision_here(recipe: Recipe, device: torch.device | str) -> str:
    """Precision of the forward pass: "bf16" where the recipe has it and the hardware is fast in it, else "fp32"."""
    return "bf16" if recipe.precision == "bf16" and has_bf16(torch.device(device).type) else "fp32"


def has_bf16(device: str) -> bool:
    """Whether a device type is fast in bf16, by what it is: a resumed run must not decide by a clock. Of x86 those with
    AVX512_BF16, of Intel's with AMX besides (without it, bf16 took twice as long as fp32); oneDNN knows other CPUs."""
    if device != "cpu":
        return device == "cuda" and torch.cuda.is_bf16_supported()
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    tiles = torch.cpu._is_amx_tile_supported() or "Intel" not in hardware()["cpu"]
    return tiles and torch.cpu._is_avx512_bf16_supported()


def save_state(
    path: Path, identity: dict[str, Any], images: int, model: nn.Module, ema: nn.Module, optimizer: Any
) -> None:
    """Write weights, average, optimizer moments and position; a full disk or a kill leaves the previous file."""
    moments = {f"optimizer.{index}": values for index, values in optimizer.state_dict()["state"].items()}
    # Strides are kept out of the file: channels-last weights are written in the ordinary order, laid out again on load.
    tensors = {
        f"{group}.{k}": torch.as_tensor(v).detach().to("cpu", memory_format=torch.contiguous_format)
        for group, values in {"model": model.state_dict(), "ema": ema.state_dict(), **moments}.items()
        for k, v in values.items()
    }
    run = json.dumps({"version": 1, "images": images, **identity}, sort_keys=True)
    write_bytes(path, save(tensors, metadata={"run": run}))


def load_state(path: Path, identity: dict[str, Any], model: nn.Module, ema: nn.Module, optimizer: Any) -> int:
    """Load the state in `path`; returns the images seen, 0 where there is no file yet. Raises `ReproError` where it is
    damaged or belongs to another recipe, seed, network or task."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("run", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ReproError(f"the training state {path} is damaged ({error}): remove it to start over") from error
    for key, value in json.loads(json.dumps({"version": 1, **identity})).items():
        found = meta.get(key)
        if isinstance(found, dict) and found != value:  # of a recipe, the first setting that differs
            key = next((k for k, v in value.items() if found.get(k) != v), min(found.keys() - value.keys(), default=""))
            found, value = found.get(key), value.get(key)
        if found != value:
            made = f"was made with {key} {found!r}, this run has {value!r}"
            raise ReproError(f"the training state {path} {made}: take {key} back to go on, or remove it to start over")

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    model.load_state_dict(under("model."))
    ema.load_state_dict(under("ema."))
    moments = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        moments[index] = under(f"optimizer.{index}.")
        for name, moment in moments[index].items():
            if moment.shape == parameter.shape:  # in its memory order: fused AdamW walks both in storage order
                moments[index][name] = torch.empty_like(parameter, dtype=moment.dtype, device="cpu").copy_(moment)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return int(meta["images"])
