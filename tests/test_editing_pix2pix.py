"""The pix2pix baseline: each loss's gradient, inputs of one task, what ships."""

import pytest
import torch
from tiny_editing import FULL
from torch import Tensor
from torch.nn import functional as F

from repro.editing.study.pix2pix import Pix2Pix, Pix2PixGenerator, Pix2PixTask, condition, generate
from repro.editing.vector import EditingVector, batch
from repro.engine.checkpoint import load_checkpoint
from repro.engine.registry import Experiment, run
from repro.engine.rng import KeyedNoise
from repro.engine.train import Recipe

RECIPE = Recipe(images=48, batch=4, lr=1e-3, betas=(0.5, 0.999), clip=0.0, ema=20, threads=1, save_every=12)


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def network() -> Pix2Pix:
    return seeded(lambda: Pix2Pix(widths=(8, 8, 16), critic=4))


def bank(count: int = 5, side: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    names = ("sharp", "blur", "grain", "colour", "sharpen", "masked", "reference")
    held = {n: torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8) for n in names}
    return {**held, "vector": batch([FULL] * count)}


def noises(ids):
    return lambda purpose: KeyedNoise(7, ids, purpose)


@pytest.fixture
def given() -> tuple[Tensor, ...]:
    return Pix2PixTask(bank()).inputs(torch.arange(4), noises(range(4)))


def test_one_backward_of_the_sum_is_the_two_backwards(given):
    """Against the original's alternation: separate graphs, the discriminator frozen for the generator."""
    model = network()
    sum(model(*given)).mean().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    source, reference, vector, target = given
    critic, stack = model.discriminator, condition(source, reference, vector)
    fake, real = F.pixel_unshuffle(model.generator(source, reference, vector), 2), F.pixel_unshuffle(target, 2)
    halves = [
        F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
        for logits, label in ((critic(stack, real), 1.0), (critic(stack, fake.detach()), 0.0))
    ]
    (sum(halves) / 2).backward()
    critic.requires_grad_(False)
    logits = critic(stack, fake)
    adversarial = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    (adversarial + 100 * F.l1_loss(fake, real)).backward()
    for one, other in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(13, 21), (1, 1)])
def test_generate_takes_any_size(size):
    generator = network().generator.eval()
    source, reference = torch.rand(2, 3, *size), torch.rand(1, 3, 9, 7)
    vectors = [EditingVector(colour=True), EditingVector(blur=0.5)]
    out = generate(generator, source, vectors, reference)
    assert out.shape == source.shape and out.min() >= 0 and out.max() <= 1
    torch.testing.assert_close(out[1:], generate(generator, source[1:], vectors[1:], torch.rand(1, 3, 9, 7)))
    assert not torch.allclose(out[:1], generate(generator, source[:1], vectors[:1], 1 - reference), atol=1e-4)


def test_only_the_generator_ships(home):
    about = dict(room="editing", task_name="bench", variant="pix2pix", data="photos", profile="smoke", seed=0)
    build = {"build": network, "task": lambda: Pix2PixTask(bank())}
    experiment = Experiment(name="editing-bench-pix2pix-s0", recipe=RECIPE, summary="", ships=True, **about, **build)
    *_, last = run(experiment)
    kept, half = load_checkpoint(experiment.name), last.ema.generator
    assert isinstance(kept, Pix2PixGenerator)
    assert all(torch.equal(a, b.half().float()) for a, b in zip(kept.parameters(), half.parameters(), strict=True))
