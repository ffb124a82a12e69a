"""The network at its published size: exact parameter counts, its parts against plain formulas, samplers, pipeline."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from repro.engine.checkpoint import load_checkpoint, save_checkpoint
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm.study.published import (
    HEAD_WIDTH,
    HEADS,
    ChannelNorm,
    Decoder,
    LinearAttention,
    PublishedNet,
    StandardisedConv,
)

TINY = dict(dim=8, mults=(1, 2))


def count(**settings) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in PublishedNet(**settings).parameters())


def fixed(net, seed=0, scale=0.2):
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = scale * torch.randn(p.shape, generator=generator)
    return net.eval().requires_grad_(False)


def random(*shape, purpose="x"):
    return KeyedNoise(0, [0], purpose).normal(shape)[0]


def wave(*shape, k=0.0):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * i + 0.0021 * i * i + k).float().reshape(shape)


def test_answers_what_the_released_network_answers():
    """The numbers are the released network's, of experiment 2, with these weights brought to its names."""
    net = PublishedNet(dim=16, mults=(1, 2))
    for k, p in enumerate(net.parameters()):
        i = torch.arange(p.numel(), dtype=torch.float64)
        p.data = (0.3 * torch.cos(1.7 * i + 0.9 * k) * torch.cos(0.013 * i * i + k)).float().reshape(p.shape)
    with torch.no_grad():
        found = net(wave(2, 3, 16, 16), torch.tensor([3, 801]), wave(2, 3, 16, 16, k=1)).sample
    released = torch.tensor([[3.045591, 8.247635, 1.919072], [-1.661063, -4.556086, -2.328403]])
    torch.testing.assert_close(found[:, :, 5, 7], released, rtol=0, atol=1e-4)
    assert found.std().item() == pytest.approx(3.431705, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "published", "exact"),
    [
        (dict(condition=False), 36.25, 36_251_779),  # I_t alone: 3 input channels
        (dict(condition=True), 36.26, 36_261_187),  # and I_in: 6
        (dict(condition=True, mask_channels=3), 36.27, 36_270_595),  # and the shadow mask: 9
        (dict(objective="res_noise", layout="two"), 72.52, 72_522_374),
        (dict(objective="res_noise", layout="shared"), 51.98, 51_980_614),
        (dict(objective="res_noise", layout="one"), 36.26, 36_261_382),  # never released: three more rows of 64 + 1
    ],
)
def test_parameters_are_the_published_ones(settings, published, exact):
    found = count(**settings)
    assert found == exact
    assert round(found / 1e6, 2) == published


def test_answers_at_the_published_size():
    with torch.device("meta"):
        net = PublishedNet("res_noise", "two")
        x = torch.zeros(1, 3, 256, 256)
        assert net(x, torch.zeros(1), x).sample.shape == (1, 6, 256, 256)


def test_any_size_is_padded_and_cropped():
    net = fixed(PublishedNet(**TINY))
    x, cond = random(2, 3, 7, 9), random(2, 3, 7, 9, purpose="cond")
    out = net(x, torch.tensor([3, 900]), cond).sample
    padded = [F.pad(p, (0, 1, 0, 1), mode="replicate") for p in (x, cond)]
    torch.testing.assert_close(out, net(padded[0], torch.tensor([3, 900]), padded[1]).sample[..., :7, :9])
    assert out.shape == x.shape and net(x, 5, cond, return_dict=False)[0].shape == x.shape
    assert not torch.equal(net(x, 5, cond).sample, net(x, 6, cond).sample)  # time is heard


def test_convolution_is_standardised():
    conv = fixed(StandardisedConv(3, 4, 3, padding=1))
    plain = conv(random(1, 3, 6, 6))
    conv.weight.mul_(7).add_(random(4, 1, 1, 1, purpose="shift"))  # scale and offset of a kernel do not matter
    torch.testing.assert_close(conv(random(1, 3, 6, 6)), plain, rtol=1e-3, atol=1e-3)
    kernel = conv.weight[1]
    kernel = (kernel - kernel.mean()) / (kernel.var(correction=0) + 1e-5).sqrt()
    by_hand = F.conv2d(random(1, 3, 6, 6), kernel[None], conv.bias[1:2], padding=1)
    torch.testing.assert_close(conv(random(1, 3, 6, 6))[:, 1:2], by_hand)


def test_channel_norm_has_a_gain_and_no_bias():
    norm = fixed(ChannelNorm(6))
    x = random(2, 6, 3, 3)
    by_hand = F.layer_norm(x.movedim(1, -1), (6,), norm.gain.flatten(), None, 1e-5).movedim(-1, 1)
    torch.testing.assert_close(norm(x), by_hand)
    assert len(list(norm.parameters())) == 1


def test_linear_attention_by_hand():
    layer, x = fixed(LinearAttention(8)), random(1, 8, 3, 4)
    n = 12
    qkv = F.conv2d(layer.norm(x), layer.qkv.weight).reshape(3, HEADS, HEAD_WIDTH, n)
    out = torch.zeros(HEADS, HEAD_WIDTH, n)
    for head in range(HEADS):
        q, k, v = qkv[:, head]
        q, k = q.softmax(0) / HEAD_WIDTH**0.5, k.softmax(1)
        for position in range(n):
            for other in range(n):
                out[head, :, position] += (q[:, position] @ k[:, other]) * v[:, other] / n
    by_hand = x + layer.out(out.reshape(1, HEADS * HEAD_WIDTH, 3, 4))
    torch.testing.assert_close(layer(x), by_hand)


def test_linear_attention_depends_on_the_resolution():
    """The same content four times over: softmax over space alone would not notice, the division by H W does."""
    layer, x, seen = fixed(LinearAttention(8)), random(1, 8, 4, 4), []
    layer.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    once, four = layer(x), layer(x.repeat(1, 1, 2, 2))[..., :4, :4]
    torch.testing.assert_close(seen[1][..., :4, :4], seen[0] / 4)  # what is found in four times the area
    assert (once - four).abs().max() > 1e-3  # and the norm behind does not undo it, since a bias lies between


def test_of_the_shared_layout_only_the_noise_decoder_sees_skips():
    net = fixed(PublishedNet("res_noise", "shared", **TINY)).net
    x, t = random(1, 6, 8, 8), torch.tensor([400])
    h, skips, emb = net.encoder(x, t)
    assert len(skips) == 5
    for i in range(len(skips)):
        other = [s + (j == i) for j, s in enumerate(skips)]
        assert torch.equal(net.res_decoder(h, other, emb), net.res_decoder(h, skips, emb))
        assert not torch.equal(net.decoder(h, other, emb), net.decoder(h, skips, emb))
    out = net(x, t)
    torch.testing.assert_close(out[:, :3], net.res_decoder(h, skips, emb))
    torch.testing.assert_close(out[:, 3:], net.decoder(h, skips, emb))


def test_skips_meet_their_own_level():
    """Every skip has its level's width and size: concatenation would fail elsewhere, and none is left over."""
    with torch.device("meta"):
        net = PublishedNet().net
        h, skips, emb = net.encoder(torch.zeros(1, 6, 64, 64), torch.zeros(1))
        assert [tuple(s.shape[1:]) for s in skips] == [
            (64, 64, 64), (64, 64, 64), (64, 64, 64), (64, 32, 32), (64, 32, 32),
            (128, 16, 16), (128, 16, 16), (256, 8, 8), (256, 8, 8),
        ]  # fmt: skip
        assert h.shape[1:] == (512, 8, 8)
        assert isinstance(net.decoder, Decoder) and net.decoder(h, skips, emb).shape == (1, 3, 64, 64)


def test_what_cannot_work_is_refused():
    with pytest.raises(ReproError, match="layout 'two' predicts residual and noise"):
        PublishedNet("res", "two", **TINY)
    with pytest.raises(ReproError, match="objective 'res_noise': got 'SM-Res-N'"):
        PublishedNet("SM-Res-N", "two", **TINY)
    with pytest.raises(ReproError, match="dim 12 is not a multiple"):
        PublishedNet(dim=12)
    net, x = PublishedNet(mask_channels=3, **TINY), random(1, 3, 8, 8)
    with pytest.raises(ReproError, match="condition of 6 channels: got 3"):
        net(x, 0, x)


def test_it_is_kept_and_loaded(tmp_path):
    net, I_in = fixed(PublishedNet("res_noise", "shared", **TINY), scale=0.1), random(1, 3, 9, 10)
    save_checkpoint(tmp_path / "net", net, {})
    loaded = load_checkpoint(tmp_path / "net")
    torch.testing.assert_close(loaded(I_in, 7, I_in).sample, net(I_in, 7, I_in).sample, rtol=1e-2, atol=1e-2)
