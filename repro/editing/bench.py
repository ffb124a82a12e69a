"""What notebook 02 measures about speed: a joint edit over its bare network passes and over a sequence, grain, and how
much of a training step the network itself is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from repro.ddpm.schedules import by_name
from repro.ddpm.steps import spaced
from repro.editing import bank
from repro.editing.autoencoder import Autoencoder
from repro.editing.benchmark import BENCH
from repro.editing.compose import Recipe
from repro.editing.config import EditingConfig, profile
from repro.editing.experiments import learning_of, schedule_of
from repro.editing.grain import film_grain
from repro.editing.grain_law import gaussian_grain
from repro.editing.model import EditingNet
from repro.editing.pipeline import EditingPipeline, scheduler_of
from repro.editing.sampling import Editor, in_sequence, late_times
from repro.editing.tasks import Drawn, EditTask, Noises
from repro.editing.vector import LENGTH, EditingVector
from repro.engine.bench import Arm, Benchmark, Ratio
from repro.engine.rng import KeyedNoise
from repro.engine.train import train

BARE, JOINT, SEQUENCE, PIPELINE = "bare passes", "joint edit", "in sequence", "EditingPipeline"
LOOP, READY = "training", "training on a batch that is ready"
FILM, FIELD = "film_grain, N = 100", "gaussian_grain"
REQUEST = EditingVector(blur=0.5, grain=0.05, colour=True, sharpen=(2.0, 0.02))
_STEPS = 10  # of training, a block
RADIUS = 0.05  # the largest of the published sizes at which eight bits cannot tell the field from grains


def editor(config: EditingConfig) -> Editor:
    """Untrained networks of the profile's size: what they have learned costs no time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, autoencoder = EditingNet(**config.network), Autoencoder(**config.autoencoder)
    network.eval().requires_grad_(False)
    autoencoder.eval().requires_grad_(False)
    return Editor(network, autoencoder, by_name(**config.schedule), "v_prediction")


def picture(side: int) -> Tensor:
    """(1, 3, side, side) in [0, 1]."""
    return KeyedNoise(0, ["bench"], "bench/picture").uniform((3, side, side))


@torch.no_grad()
def bare(made: Editor, image: Tensor, steps: int) -> Tensor:
    """Encoder, the network's own passes, those for grain included, decoder, and nothing else."""
    latent = made.autoencoder.encode(image * 2 - 1)
    shown, t = torch.zeros(1, 3, *latent.shape[2:]), torch.full((1,), 500)
    vector = REQUEST.tensor()[None]
    last = spaced(made.schedule.T, steps, "trailing")[-1]
    for _ in range(steps + len(late_times(last, made.late))):
        made.network(latent, t, latent, shown, vector)
    return made.autoencoder.decode(latent)


def _edit(profile_name: str) -> dict[str, Arm]:
    config = profile("small" if profile_name == "paper" else profile_name)
    side, steps = config.bench.crop[2], config.steps

    def arm(prepare: Callable[[Editor, Tensor], Callable[[], object]]) -> Arm:
        def blocks() -> Iterator[float]:
            run = prepare(editor(config), picture(side))
            while True:
                run()
                yield 1.0

        return blocks

    def by_sequence(made: Editor, image: Tensor) -> Callable[[], object]:
        editors = dict.fromkeys(REQUEST.active, made)
        recipe: Recipe = BENCH.recipe
        return lambda: in_sequence(editors, image, [REQUEST], ["bench"], recipe=recipe, reference=image, steps=steps)

    def by_pipeline(made: Editor, image: Tensor) -> Callable[[], object]:
        pipe = EditingPipeline(made.network, made.autoencoder, scheduler_of(made.schedule, made.prediction))
        pipe.set_progress_bar_config(disable=True)
        return lambda: pipe(
            image,
            blur=0.5,
            grain=0.05,
            reference=image,
            sharpen=(2.0, 0.02),
            num_inference_steps=steps,
            output_type="pt",
        )

    return {
        BARE: arm(lambda made, image: lambda: bare(made, image, steps)),
        JOINT: arm(lambda made, image: lambda: made.edit(image, [REQUEST], ["bench"], reference=image, steps=steps)),
        SEQUENCE: arm(by_sequence),
        PIPELINE: arm(by_pipeline),
    }


def _grain(profile_name: str) -> dict[str, Arm]:
    side = 32 if profile_name == "smoke" else 256
    image = picture(side)

    def arm(run: Callable[[], object]) -> Arm:
        def blocks() -> Iterator[float]:
            while True:
                run()
                yield float(side * side)

        return blocks

    return {
        FILM: arm(lambda: film_grain(image, RADIUS, seed=0, n_samples=100)),
        FIELD: arm(lambda: gaussian_grain(image, RADIUS, seed=0)),
    }


class _Ready(EditTask):
    """The first batch again and again: a step without what comes before the network."""

    _kept: Drawn | None = None

    def draw(self, indices: Tensor, noise: Noises) -> Drawn:
        self._kept = self._kept or super().draw(indices, noise)
        return self._kept


def _loop(profile_name: str) -> dict[str, Arm]:
    config = profile("small" if profile_name == "paper" else profile_name)
    made, count = editor(config), 16 * config.recipe.batch
    side = config.bench.crop[0] // made.autoencoder.factor
    noise = KeyedNoise(0, range(count), "bench/latents")
    names = ("sharp", "reference", "masked", *bank.TARGETS)
    held = {name: noise.normal((made.autoencoder.channels, side, side)) for name in names}
    held |= {"rgb": noise.normal((3, side, side)), "mask": noise.uniform((1, side, side))}
    held["vector"] = noise.uniform((LENGTH,))

    def arm(kind: type[EditTask]) -> Arm:
        def blocks() -> Iterator[float]:
            task = kind(held, schedule_of(config, "mult"), learning_of("mult", config))
            endless = replace(config.recipe, images=10**9)
            for number, _ in enumerate(train(EditingNet(**config.network), task, endless, seed=0)):
                if number % _STEPS == _STEPS - 1:
                    yield float(_STEPS * endless.batch)

        return blocks

    return {LOOP: arm(EditTask), READY: arm(_Ready)}


BENCHES = (
    Benchmark(
        "edit",
        "four effects on 128 x 128 pixels in 5 steps, 7 with grain: one joint pass, four of one task (smoke: smaller)",
        "images",
        _edit,
        (
            Ratio("the joint edit's speed over its bare network passes'", JOINT, BARE, at_least=1 / 1.05),
            Ratio("the joint edit's speed over the sequence's", JOINT, SEQUENCE),
            Ratio("EditingPipeline's speed over the joint edit's", PIPELINE, JOINT),
        ),
    ),
    Benchmark(
        "grain",
        "film grain of radius 0.05 on a colour picture of 256 x 256: grains with 100 samples, and their Gaussian field",
        "pixels",
        _grain,
        (Ratio("the field's speed over the grains'", FIELD, FILM),),
    ),
    Benchmark(
        "editing-training",
        "training steps of the editing network: with all that is drawn and gathered, and with one batch kept",
        "images",
        _loop,
        (Ratio("share of a step that is the network's (utilisation)", LOOP, READY, at_least=0.95),),
    ),
)
