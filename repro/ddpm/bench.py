"""What notebook 01 measures about speed: its training loop and its samplers against those people know.

All arms of a training bench learn the same thing (noise of random pictures, so no data set is needed) with batches of
the same size. `ours` goes through `repro.engine.train`, the peers through loops written as their projects show them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.ddpm.config import DDPMConfig, profile
from repro.ddpm.experiments import build_network, schedule_of
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import ddim, sample
from repro.ddpm.schedules import to_diffusers
from repro.ddpm.tasks import DenoisingTask
from repro.engine.bench import Arm, Benchmark, Ratio
from repro.engine.recipe import Recipe
from repro.engine.rng import KeyedNoise
from repro.engine.train import train
from repro.errors import ReproError

PICTURES = 2048
STEPS_A_BLOCK = 4
SAMPLING_STEPS = 50


def _config(name: str) -> DDPMConfig:
    """The profile with a network that predicts the noise alone, as the peers' do."""
    config = profile(name)
    return dataclasses.replace(config, network={**config.network, "out_channels": config.channels})


def _network(config: DDPMConfig) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(config)


def _pictures(config: DDPMConfig) -> Tensor:
    shape = (config.channels, config.size, config.size)
    return KeyedNoise(0, range(PICTURES), "bench/pictures").uniform(shape).mul_(2).sub_(1)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# --- training -------------------------------------------------------------------------------------------------------


def _ours(config: DDPMConfig, precision: str) -> Iterator[float]:
    """Our loop. Both sides keep their average at every step and clip the gradient."""
    pictures = _pictures(config)
    task = DenoisingTask(pictures, [str(i) for i in range(PICTURES)], schedule_of(config), learned_variance=False)
    recipe: Recipe = dataclasses.replace(
        config.recipe, images=10**9, precision=precision, threads=torch.get_num_threads()
    )
    work = 0
    for i, _ in enumerate(train(_network(config), task, recipe, seed=0), start=1):
        work += recipe.batch
        if i % STEPS_A_BLOCK == 0:
            yield float(work)
            work = 0


def _diffusers(config: DDPMConfig) -> Iterator[float]:
    """The loop of diffusers' unconditional example in fp32: loader, scheduler's noise, AdamW, clipping, EMAModel."""
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    from torch.utils.data import DataLoader, TensorDataset

    accelerator = Accelerator(mixed_precision="no")
    model = _network(config).train()
    average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, model_cls=type(model))
    noiser = to_diffusers(schedule_of(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=1_000_000)
    loader = DataLoader(TensorDataset(_pictures(config)), batch_size=config.recipe.batch, shuffle=True, drop_last=True)
    model, optimizer, loader, rate = accelerator.prepare(model, optimizer, loader, rate)
    average.to(accelerator.device)
    work, steps = 0, 0
    while True:
        for (clean,) in loader:
            noise = torch.randn_like(clean)
            t = torch.randint(0, noiser.config.num_train_timesteps, (len(clean),), device=clean.device)
            loss = F.mse_loss(model(noiser.add_noise(clean, noise, t), t).sample.float(), noise)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            average.step(model.parameters())
            loss.detach().item()  # logged at every step there, as here
            work, steps = work + len(clean), steps + 1
            if steps % STEPS_A_BLOCK == 0:
                yield float(work)
                work = 0


def _peer(config: DDPMConfig) -> Iterator[float]:
    """denoising-diffusion-pytorch as its trainer runs it (fp32, Adam, average every ten steps), equal in parameters."""
    from accelerate import Accelerator
    from denoising_diffusion_pytorch import GaussianDiffusion
    from ema_pytorch import EMA

    accelerator = Accelerator(mixed_precision="no")
    network = peer_network(config, sum(p.numel() for p in _network(config).parameters()))
    diffusion = GaussianDiffusion(
        network, image_size=config.size, timesteps=1000, objective="pred_noise", beta_schedule="linear"
    )
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    diffusion = diffusion.to(accelerator.device)
    average = EMA(diffusion, beta=0.995, update_every=10).to(accelerator.device)
    diffusion, optimizer = accelerator.prepare(diffusion, optimizer)
    pictures, batch = _pictures(config).add_(1).div_(2), config.recipe.batch
    work, steps = 0, 0
    while True:
        for part in torch.randperm(PICTURES).split(batch):
            loss = diffusion(pictures[part].to(accelerator.device))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(diffusion.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update()
            loss.item()
            work, steps = work + len(part), steps + 1
            if steps % STEPS_A_BLOCK == 0:
                yield float(work)
                work = 0


def peer_network(config: DDPMConfig, parameters: int) -> nn.Module:
    """Its U-Net on as many levels as ours has maps, in the width whose parameter count is nearest to `parameters`."""
    from denoising_diffusion_pytorch import Unet

    mults = (1, 2) if config.size % 4 else (1, 2, 4)

    def make(dim: int) -> nn.Module:
        return Unet(dim=dim, dim_mults=mults, channels=config.channels, flash_attn=False)

    def distance(dim: int) -> int:
        with torch.device("meta"):
            return abs(sum(p.numel() for p in make(dim).parameters()) - parameters)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(min(range(8, 257, 8), key=distance))


def _training(name: str) -> dict[str, Arm]:
    config = _config(name)
    return {
        "ours, fp32": partial(_ours, config, "fp32"),
        "ours, defaults": partial(_ours, config, "bf16"),
        "diffusers example loop, fp32": partial(_diffusers, config),
    }


def _training_peer(name: str) -> dict[str, Arm]:
    if not importlib.util.find_spec("denoising_diffusion_pytorch"):
        raise ReproError("bench training-peer needs the extra `bench`: pip install denoising-diffusion-pytorch")
    config = _config(name)
    return {
        "ours, fp32": partial(_ours, config, "fp32"),
        "ours, defaults": partial(_ours, config, "bf16"),
        "denoising-diffusion-pytorch, fp32": partial(_peer, config),
    }


# --- sampling -------------------------------------------------------------------------------------------------------


def _blocks(work: int, run: Callable[[], object]) -> Iterator[float]:
    while True:
        run()
        yield float(work)


def _sampling(name: str, batch: int = 16) -> dict[str, Arm]:
    """Fifty steps of DDIM on one network and one start: bare forwards, our sampler, diffusers' pipeline."""
    config = _config(name)
    schedule = schedule_of(config)
    shape = (batch, config.channels, config.size, config.size)

    def network() -> nn.Module:
        model = _network(config).eval().requires_grad_(False)
        return model.to(_device(), memory_format=torch.channels_last)

    def bare() -> Iterator[float]:
        model, x = network(), torch.zeros(shape, device=_device())
        t = torch.full((batch,), 500, device=_device())

        @torch.no_grad()
        def run() -> None:
            for _ in range(SAMPLING_STEPS):
                model(x, t)

        yield from _blocks(batch, run)

    def ours() -> Iterator[float]:
        model, x = network(), KeyedNoise(0, range(batch), "bench/x_T").normal(shape[1:]).to(_device())
        yield from _blocks(batch, lambda: sample(ddim(model_fn(model), x, schedule, SAMPLING_STEPS)))

    def pipeline() -> Iterator[float]:
        from diffusers import DDIMPipeline

        pipe = DDIMPipeline(network(), to_diffusers(schedule, "ddim", set_alpha_to_one=True))
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": SAMPLING_STEPS, "output_type": "pt"}
        yield from _blocks(batch, lambda: pipe(batch, generator=generator, **options))

    return {"bare forwards": bare, "ours, DDIM": ours, "diffusers DDIMPipeline": pipeline}


DEFAULTS, FP32 = "ours, defaults", "ours, fp32"
LOOP, PEER = "diffusers example loop, fp32", "denoising-diffusion-pytorch, fp32"

BENCHES = (
    Benchmark(
        "training",
        "one network, our loop against diffusers' example loop",
        "images",
        _training,
        (
            Ratio("our step over theirs, both fp32", FP32, LOOP, at_least=1.0),
            Ratio("our defaults (bf16, fused) over theirs", DEFAULTS, LOOP, at_least=1.5),
        ),
    ),
    Benchmark(
        "training-peer",
        "our loop against denoising-diffusion-pytorch, networks of equal parameter count",
        "images",
        _training_peer,
        (Ratio("our step over theirs, both fp32", FP32, PEER), Ratio("our defaults over theirs", DEFAULTS, PEER)),
    ),
    Benchmark(
        "sampler",
        f"{SAMPLING_STEPS} sampling steps over {SAMPLING_STEPS} bare forward passes, batch 16",
        "samples",
        _sampling,
        (
            Ratio("our sampler's speed over the bare forwards'", "ours, DDIM", "bare forwards", at_least=1 / 1.05),
            Ratio("diffusers' pipeline's speed over the bare forwards'", "diffusers DDIMPipeline", "bare forwards"),
        ),
    ),
)
