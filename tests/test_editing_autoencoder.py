"""The VQ autoencoder: scale of the latents, codes that are used and revived, its loss."""

import pytest
import torch
from tiny_editing import pictures, tiny_autoencoder
from torch.nn import functional as F

from repro.editing.autoencoder import (
    CODEBOOK_WEIGHT,
    JITTER,
    LPIPS_WEIGHT,
    STATISTICS,
    UNQUANTISED,
    Autoencoder,
    AutoencoderTask,
    lpips,
)
from repro.engine.rng import KeyedNoise

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

    def noises(purpose):
        return KeyedNoise(1, ids, purpose)

    found = task.loss(model, at, noises)
    image = images[at].float() / 127.5 - 1
    jitter = JITTER * noises("level").uniform().view(2, 1, 1, 1) * noises("jitter").normal((4, 8, 8))
    output, distance, _ = model(image, noises("drop").uniform() < UNQUANTISED, jitter)
    l1 = torch.stack([F.l1_loss(a, b) for a, b in zip(output, image, strict=True)])
    down, right = noises("corner").integers(0, 4, (2,))[0].tolist()
    perceptual = lpips()(*(F.pad(p, (right, 0, down, 0), mode="reflect") for p in (output, image)))
    torch.testing.assert_close(found, l1 + LPIPS_WEIGHT * perceptual + CODEBOOK_WEIGHT * distance)
    assert task.names(at) == ["crop 2", "crop 0"] and torch.equal(model.vq.quantize.embedding.weight, table)
    for seed in range(60):  # codes are revived in training, at some batches
        task.loss(model.train(), at, lambda purpose, seed=seed: KeyedNoise(seed, ids, purpose))
        if not torch.equal(model.vq.quantize.embedding.weight, table):
            break
    assert 0 < seed < 59
