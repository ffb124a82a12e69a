"""The editing networks: the vector and its mapping, the U-Net, the VQ autoencoder, the pix2pix baseline."""

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st
from tiny import noises, refused
from tiny_editing import FULL, pictures, tiny_autoencoder, tiny_network
from torch import Tensor, nn
from torch.nn import functional as F

from repro.editing.autoencoder import (
    CODEBOOK_WEIGHT,
    JITTER,
    LPIPS_WEIGHT,
    STATISTICS,
    UNQUANTISED,
    Autoencoder,
    AutoencoderTask,
)
from repro.editing.model import VectorMapping
from repro.editing.study.experiments import SMALL, build_network
from repro.editing.study.pix2pix import Pix2Pix, Pix2PixGenerator, Pix2PixTask, condition
from repro.editing.vector import HIGHS, LENGTH, NAMES, SCALARS, TASKS, EditingVector, batch
from repro.engine.checkpoint import Experiment, load_checkpoint, run
from repro.engine.rng import KeyedNoise
from repro.engine.train import Recipe
from repro.errors import ReproError
from repro.metrics.pixel import lpips_network

DEFAULT = EditingVector(blur=0.5, grain=0.05, colour=True, inpaint=True, sharpen=(2.0, 0.02))
SIZE = (6, 8)
VECTORS = st.builds(
    EditingVector,
    blur=st.none() | st.floats(0, 1),
    grain=st.none() | st.floats(0, 0.1),
    colour=st.booleans(),
    inpaint=st.booleans(),
    sharpen=st.none() | st.tuples(st.floats(1, 3), st.floats(0, 0.1)),
)


def test_names_and_order_are_the_papers():
    assert NAMES == ("beta", "sigma", "lambda", "mu", "blur", "grain", "colour", "inpaint", "sharpen")
    assert HIGHS == (1.0, 0.1, 3.0, 0.1, 1, 1, 1, 1, 1) and LENGTH == 9
    assert FULL.tensor().tolist() == pytest.approx([0.3, 0.05, 2.5, 0.04, 1, 1, 1, 1, 1]) and FULL.active == TASKS
    for i, task in enumerate(TASKS):
        assert FULL.only(task).tensor()[4:].tolist() == [float(i == j) for j in range(5)]


@drawn(vector=VECTORS, kept=st.sets(st.sampled_from(TASKS)))
def test_only_switches_the_others_off_and_what_is_off_is_zero(vector, kept):
    part = vector.only(*kept)
    assert set(part.active) == set(vector.active) & kept
    mask = torch.tensor([float(e.task in part.active) for e in SCALARS] + [float(t in part.active) for t in TASKS])
    assert torch.equal(part.tensor(), vector.tensor() * mask) and torch.equal(part.tensor()[4:], mask[4:])


def test_out_of_range_is_refused():
    cases = {
        r"beta \(degree of motion blur\): got 1.2; accepted: 0 to 1": dict(blur=1.2),
        "beta .*: got nan": dict(blur=float("nan")),
        "beta .*: got True": dict(blur=True),
        r"sigma .*: got 0.2; accepted: 0 to 0.1": dict(grain=0.2),
        r"lambda .*: got 0.5; accepted: 1 to 3": dict(sharpen=(0.5, 0.0)),
        r"mu .*: got 0.3; accepted: 0 to 0.1": dict(sharpen=(2.0, 0.3)),
        "sharpen is a pair": dict(sharpen=2.0),
    }
    refused(cases, lambda arguments: EditingVector(**arguments))
    assert EditingVector(blur=np.float32(0.5)).active == ("blur",)


def rows() -> Tensor:
    return batch([EditingVector(), EditingVector(blur=0.5), EditingVector(blur=0.9), DEFAULT])


def test_layers_by_hand_and_a_token_has_its_own_entry_and_no_other():
    c = rows()
    assert torch.equal(VectorMapping(LENGTH, 0, "single")(c), c[:, None])  # without layers the vector itself
    assert torch.equal(VectorMapping(LENGTH, 0, "entry")(c), torch.diag_embed(c))
    scaled = VectorMapping(LENGTH, 0, "single", scaled=True)(c)
    assert scaled.max().item() == 1 and torch.allclose(scaled[3, 0, :4], torch.tensor([0.5, 0.5, 2 / 3, 0.2]))
    net = VectorMapping(16, 2, "single")
    assert torch.equal(net(c)[:, 0], nn.Sequential(net.first, nn.SiLU(), net.rest[0])(c))
    net = VectorMapping(16, 4, "entry")
    for i in range(LENGTH):
        changed = c.clone()
        changed[:, i] += 0.1
        assert (net(changed) != net(c)).any(dim=2).all(dim=0).tolist() == [i == j for j in range(LENGTH)]


def given(count: int = 2, channels: int = 4, reference: int = 3, **more: Tensor) -> dict[str, Tensor]:
    noise = KeyedNoise(0, range(count), "given")
    return {
        "sample": noise.normal((channels, *SIZE)),
        "timestep": torch.tensor([700, 20])[:count],
        "source": noise.normal((channels, *SIZE), step=1),
        "reference": noise.uniform((reference, *SIZE), step=2),
        "vector": batch([FULL, EditingVector(grain=0.1)][:count]),
        **more,
    }


def test_palette_gets_the_scaled_vector_at_every_position():
    net, inputs, got = tiny_network(condition="concat"), given(), []
    net.unet.register_forward_pre_hook(lambda module, args: got.append(args[0]))
    net(**inputs)
    spread = (inputs["vector"] / torch.tensor(HIGHS))[:, :, None, None].expand(-1, -1, *SIZE)
    parts = [inputs["sample"], inputs["source"], inputs["reference"], spread]
    assert net.mapping is None and torch.equal(got[0], torch.cat(parts, dim=1)) and spread.max() == 1


@pytest.mark.parametrize("condition", ["cross", "concat"])
def test_every_input_reaches_the_output(condition):
    net, inputs = tiny_network(condition=condition), given()
    before = net(**inputs).sample
    assert before.shape == inputs["sample"].shape
    changes = [(name, inputs[name] + 0.5) for name in ("sample", "source", "reference")]
    changes += [("timestep", inputs["timestep"] + 50)]
    changes += [("vector", inputs["vector"] + 0.5 * torch.eye(9)[i] * HIGHS[i]) for i in range(9)]
    for name, value in changes:
        found = net(**inputs | {name: value}).sample
        assert (found - before).abs().amax(dim=(1, 2, 3)).min() > 1e-6, name
    masked, mask = tiny_network(mask=True), torch.ones(2, 1, *SIZE)
    assert (masked(**given(mask=mask)).sample - masked(**given(mask=0 * mask)).sample).abs().max() > 1e-4
    assert tiny_network(reference="latent")(**given(reference=4)).sample.shape == before.shape


def test_unknown_choices_are_refused():
    for name in ("condition", "reference", "tokens"):
        with pytest.raises(ReproError, match=f"{name} 'sum' is unknown: choose one of "):
            tiny_network(**{name: "sum"})


PARAMETERS = {"mult": 649_328, "palette": 647_264, "mask": 649_632, "latent-ref": 653_280, "entry": 649_840}


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_of_the_small_profile(variant):
    with torch.device("meta"):
        net = build_network(SMALL, variant)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[variant]
    assert net.multiple == 4


IMAGE = pictures(3, 16, 24) * 2 - 1


@pytest.fixture
def model() -> Autoencoder:
    return tiny_autoencoder()


def nearest(model: Autoencoder, z: torch.Tensor) -> torch.Tensor:
    """Indices (B, h, w) of the codes nearest to raw latents, by every distance."""
    table = model.vq.quantize.embedding.weight
    return (z.permute(0, 2, 3, 1)[..., None, :] - table).square().sum(-1).argmin(-1)


def test_latents_have_unit_deviation_and_decoding_undoes_the_scale(model):
    latent = model.encode(pictures(4, 32) * 2 - 1)  # what the statistics were taken of
    assert latent.shape == (4, model.channels, 8, 8) and latent.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(latent.std(dim=(0, 2, 3)), torch.ones(4))
    plain = model.render(model.raw(IMAGE)).clamp(-1, 1)
    model.mean.copy_(torch.tensor([5.0, -3.0, 0.0, 1.0]))
    model.deviation.copy_(torch.tensor([0.1, 2.0, 7.0, 1.0]))
    torch.testing.assert_close(model.decode(model.encode(IMAGE)), plain, rtol=1e-4, atol=1e-5)
    with torch.device("meta"):
        assert sum(p.numel() for p in Autoencoder().parameters()) == 1_295_008  # the one that ships


def test_a_quantised_picture_is_made_of_codes(model):
    latent = model.encode(IMAGE)
    codes = model.vq.quantize.embedding.weight[nearest(model, model.raw(IMAGE))].permute(0, 3, 1, 2)
    torch.testing.assert_close(model.decode(latent, quantize=True), model.render(codes).clamp(-1, 1))
    assert (model.decode(latent, quantize=True) - model.decode(latent)).abs().max() > 1e-3


def test_training_decodes_codes_or_shaken_latents_and_the_codebook_follows(model):
    """The codebook's loss reaches the codes alone; quantised samples teach the decoder alone."""
    drop, jitter = torch.tensor([True, False, True]), KeyedNoise(0, range(3), "jitter").normal((4, 4, 6))
    mean, deviation = model.mean.clone(), model.deviation.clone()
    output, distance, z = model(IMAGE, drop, jitter)
    codes = model.vq.quantize.embedding.weight[nearest(model, z)].permute(0, 3, 1, 2)
    shaken = z + jitter * z.std(dim=(0, 2, 3), keepdim=True)
    torch.testing.assert_close(output, model.render(torch.where(drop[:, None, None, None], shaken, codes)))
    assert distance.ndim == 0 and distance > 0 and torch.equal(model.mean, mean)  # statistics run in training only
    model.train().requires_grad_(True)
    output, distance, z = model(IMAGE, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(model.mean, (1 - STATISTICS) * mean + STATISTICS * z.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(model.deviation, (1 - STATISTICS) * deviation + STATISTICS * z.std(dim=(0, 2, 3)))
    taught = []
    for loss in (distance, output.square().sum()):
        model.zero_grad()
        loss.backward(retain_graph=True)
        taught.append({name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()})
    assert taught[0] == {"vq.quantize.embedding.weight"}
    assert taught[1] > {"straight_out.weight", "vq.decoder.conv_in.weight"}
    assert not any(name.startswith(("straight_in", "vq.encoder", "vq.quantize")) for name in taught[1])


def test_the_loss_is_l1_lpips_and_the_codebooks_distance(model):
    images = (pictures(4, 32) * 255).round().byte()
    task = AutoencoderTask(images, [f"crop {i}" for i in range(4)])
    at, ids = torch.tensor([2, 0]), [2, 0]
    table = model.vq.quantize.embedding.weight.clone()
    noise = noises(ids)
    found = task.loss(model, at, noise)
    image = images[at].float() / 127.5 - 1
    jitter = JITTER * noise("level").uniform().view(2, 1, 1, 1) * noise("jitter").normal((4, 8, 8))
    output, distance, _ = model(image, noise("drop").uniform() < UNQUANTISED, jitter)
    l1 = torch.stack([F.l1_loss(a, b) for a, b in zip(output, image, strict=True)])
    down, right = noise("corner").integers(0, 4, (2,))[0].tolist()
    perceptual = lpips_network("cpu")(*(F.pad(p, (right, 0, down, 0), mode="reflect") for p in (output, image)))
    torch.testing.assert_close(found, l1 + LPIPS_WEIGHT * perceptual + CODEBOOK_WEIGHT * distance)
    assert [task.ids[i] for i in at] == ["crop 2", "crop 0"] and torch.equal(model.vq.quantize.embedding.weight, table)
    for seed in range(60):  # codes are revived in training, at some batches
        task.loss(model.train(), at, lambda purpose, seed=seed: KeyedNoise(seed, ids, purpose))
        if not torch.equal(model.vq.quantize.embedding.weight, table):
            break
    assert 0 < seed < 59


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


@pytest.fixture
def shown() -> tuple[Tensor, ...]:
    return Pix2PixTask(bank()).inputs(torch.arange(4), noises(range(4)))


def test_one_backward_of_the_sum_is_the_two_backwards(shown):
    """Against the original's alternation: separate graphs, the discriminator frozen for the generator."""
    model = network()
    sum(model(*shown)).mean().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    source, reference, vector, target = shown
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


def test_only_the_generator_ships(home):
    about = dict(room="editing", task_name="bench", variant="pix2pix", data="photos", profile="smoke", seed=0)
    build = {"build": network, "task": lambda: Pix2PixTask(bank())}
    experiment = Experiment(name="editing-bench-pix2pix-s0", recipe=RECIPE, summary="", ships=True, **about, **build)
    *_, last = run(experiment)
    kept, half = load_checkpoint(experiment.name), last.ema.generator
    assert isinstance(kept, Pix2PixGenerator)
    assert all(torch.equal(a, b.half().float()) for a, b in zip(kept.parameters(), half.parameters(), strict=True))
