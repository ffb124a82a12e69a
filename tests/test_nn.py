"""The shared networks: any size, exact padding and tiling, the face of diffusers, the average of weights."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import same_weights, shaken, tiny_net

from repro.ddpm.process import linear, to_diffusers
from repro.engine.train import EMA
from repro.errors import ReproError
from repro.nn import unet
from repro.nn.classifier import Classifier
from repro.nn.unet import UNet, pad_to_multiple, tiled, unpad


@pytest.fixture(scope="module")
def net() -> UNet:
    # 4 groups of 8 channels: one group a channel would have nothing to normalise in a map of one position
    return shaken(UNet(3, 6, 2, 8, (1, 2), attention_levels=(1,), norm_groups=4, patch=2))


@settings(max_examples=15)
@given(h=st.integers(1, 21), w=st.integers(1, 21), batch=st.integers(1, 3))
def test_any_size_comes_back(net, h, w, batch):
    x, cond = torch.zeros(batch, 3, h, w), torch.zeros(batch, 2, h, w)
    assert net(x, 3, cond).sample.shape == (batch, 6, h, w)


def test_a_picture_does_not_see_its_batch(net):
    x, cond, t = torch.randn(3, 3, 9, 10), torch.randn(3, 2, 9, 10), torch.tensor([1, 500, 999])
    together = net(x, t, cond).sample
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], cond[i : i + 1]).sample for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, net(x, 1, cond).sample, atol=1e-3)  # time matters
    assert not torch.allclose(together, net(x, t, cond * 0).sample, atol=1e-3)  # the condition matters


def test_time_may_be_a_number_a_scalar_or_a_batch_and_the_condition_must_fit(net):
    x, cond = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8)
    wanted = net(x, torch.tensor([7, 7]), cond).sample
    for t in (7, 7.0, torch.tensor(7), torch.tensor([7])):
        assert torch.equal(net(x, t, cond).sample, wanted)
    assert torch.equal(net(x, 7, cond, return_dict=False)[0], wanted)
    for wrong, channels in ((None, 0), (cond[:, :1], 1)):
        with pytest.raises(ReproError, match=f"condition of 2 channels: got {channels}"):
            net(x, 0, wrong)
    assert tiny_net()(torch.randn(2, 1, 8, 8), 3).sample.abs().max() == 0  # an untrained one says nothing


@given(h=st.integers(1, 30), w=st.integers(1, 30), multiple=st.integers(1, 16))
def test_padding_is_undone_exactly(h, w, multiple):
    x = torch.arange(2.0 * h * w).view(1, 2, h, w)
    padded, box = pad_to_multiple(x, multiple)
    assert padded.shape[-2] % multiple == 0 and padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - h < multiple and padded.shape[-1] - w < multiple
    assert torch.equal(unpad(padded, box), x)
    assert torch.equal(padded[..., -1, :w], x[..., -1, :])  # the edge is repeated
    if (h % multiple, w % multiple) == (0, 0):
        assert padded is x


@settings(max_examples=60)
@given(h=st.integers(1, 40), w=st.integers(1, 40), tile=st.integers(1, 16), batch=st.integers(1, 5), data=st.data())
def test_tiling_reproduces_a_pointwise_function(h, w, tile, batch, data):
    overlap = data.draw(st.integers(0, tile - 1))
    x = torch.sin(torch.arange(3.0 * h * w)).view(1, 3, h, w)

    def pointwise(part):
        return torch.cat([part**2, part[:, :1] + 1], dim=1)

    def fn(part):
        assert part.shape[-2] <= tile and part.shape[-1] <= tile and len(part) <= batch
        return pointwise(part)

    assert torch.allclose(tiled(fn, x, tile, overlap, batch), pointwise(x), atol=1e-5)


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "ddpm with a learned variance"])
def test_it_drops_into_a_diffusers_pipeline_and_back(kind, tmp_path):
    from diffusers import DDIMPipeline, DDPMPipeline

    schedule, learned = linear(20), kind.endswith("variance")
    unet = shaken(UNet(1, 2 if learned else 1, base_channels=8, channel_mults=(1, 2), sample_size=8))
    if kind == "ddim":
        pipe = DDIMPipeline(unet, to_diffusers(schedule, "ddim"))
    else:
        extra = {"variance_type": "learned_range"} if learned else {}
        pipe = DDPMPipeline(unet, to_diffusers(schedule, **extra))

    def draw(pipe):
        generator = torch.Generator().manual_seed(0)
        return pipe(2, generator=generator, num_inference_steps=4, output_type="np").images

    first = draw(pipe)
    assert first.shape == (2, 8, 8, 1) and first.std() > 0
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    assert isinstance(again.unet, UNet) and same_weights(again.unet, unet)
    assert list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.bin"))
    assert (draw(again) == first).all()


def test_ema_is_the_formula():
    net = tiny_net()
    ema, wanted = EMA(net, half_life=3.0), copy.deepcopy(net)
    for step in range(1, 6):
        shaken(net)
        ema.update(net, images=16 * step, batch=16)
        decay = 0.5 ** (16 / min(3.0, 0.8 * step))
        with torch.no_grad():
            for p, q in zip(wanted.parameters(), net.parameters(), strict=True):
                p.mul_(decay).add_(q, alpha=1 - decay)
    for p, q in zip(ema.model.parameters(), wanted.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)
    assert not any(p.requires_grad for p in ema.model.parameters()) and not ema.model.training


def test_the_classifier_is_noise_aware():
    net = shaken(Classifier(base_channels=8, feature_width=5, classes=3))
    x = torch.randn(4, 1, 13, 15)
    assert net(x).shape == (4, 3) and net.features(x).shape == (4, 5)
    assert torch.equal(net(x), net(x, torch.zeros(4, dtype=torch.int64)))
    assert not torch.allclose(net(x), net(x, 500), atol=1e-4)


def test_attention_over_few_positions_equals_the_fused_kernel(monkeypatch):
    layer = unet.Attention(16, heads=2, groups=4)
    torch.nn.init.normal_(layer.out.weight)  # it starts at zero, where every attention is alike
    x = torch.randn(3, 16, 7, 7, generator=torch.Generator().manual_seed(0))
    few = layer(x)
    monkeypatch.setattr(unet, "FEW", 0)
    assert torch.allclose(few, layer(x), atol=1e-5)
    assert not torch.allclose(few, x, atol=1e-2)
