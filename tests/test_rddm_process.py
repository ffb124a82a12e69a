"""RDDM's coefficients, forward process, objectives and networks: published values, identities, plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from repro.ddpm import schedules as ddpm
from repro.engine.checkpoint import load_checkpoint, save_checkpoint
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.model import RDDMNet
from repro.rddm.schedules import FAMILIES, RDDMSchedule, by_config, family_of, indi
from repro.rddm.study.published import LinearAttention, PublishedNet

DEFAULT = by_config()
CONVERTED = RDDMSchedule.from_ddpm(ddpm.linear())
SCHEDULES = [
    by_config(60),
    by_config(60, "average", "normal", sum_scale=0.01),
    RDDMSchedule.from_ddpm(ddpm.linear(60, 1e-3, 0.2)),
]
NOISE = KeyedNoise(0, range(4), "noise")


def draw(step: int) -> torch.Tensor:
    return NOISE.normal((2, 3, 3), step).double()


I_0, I_IN = draw(1).clamp(-1, 1), draw(2).clamp(-1, 1)
I_RES, EPS = process.residual(I_IN, I_0), draw(6)
IMAGE = torch.zeros(1, 3, 8, 8)
ALL = tuple(process.STRATEGIES.values())


def close(found, wanted, atol=1e-12):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


# -- schedules --------------------------------------------------------------------------------------------------------


def test_check_values_and_closed_forms_of_the_restoration_schedule():
    for t, abar, bbar in [(0, 0.001998, 0.001414), (199, 0.35984, 0.200399), (499, 0.74975, 0.50025), (999, 1, 1)]:
        assert DEFAULT.levels(t) == pytest.approx((abar, bbar), abs=6e-7, rel=1e-5)
    T, t = 1000, torch.arange(1, 1001, dtype=torch.float64)
    close(DEFAULT.abar, 1 - (T - t) * (T - t + 1) / (T * (T + 1)), 1e-13)
    close(DEFAULT.bbar2, t * (t + 1) / (T * (T + 1)), 1e-13)
    assert all(by_config(n).abar[-1] == 1.0 for n in (1, 3, 10, 49, 997)) and DEFAULT.levels(-1) == (0.0, 0.0)


@given(
    T=st.integers(1, 300), alpha=st.sampled_from(FAMILIES), beta2=st.sampled_from(FAMILIES), scale=st.floats(0.001, 10)
)
def test_every_family_sums_grows_and_has_no_zero(T, alpha, beta2, scale):
    schedule = by_config(T, alpha, beta2, sum_scale=scale)
    assert schedule.alpha.dtype == schedule.abar.dtype == schedule.bbar.dtype == torch.float64
    assert (schedule.alpha > 0).all() and (schedule.beta2 > 0).all()  # no zero at index 0, nor at the end
    assert schedule.abar[-1] == 1.0 and schedule.sum_scale == pytest.approx(scale, rel=1e-12)
    again = by_config(**schedule.config)
    assert torch.equal(again.alpha, schedule.alpha) and torch.equal(again.beta2, schedule.beta2)


def test_families_have_their_shapes():
    up, down, bump = (family_of(name, 100) for name in ("increased", "decreased", "normal"))
    t = torch.arange(1, 101, dtype=torch.float64)
    torch.testing.assert_close(up, t / t.sum())
    assert torch.equal(down, up.flip(0))
    torch.testing.assert_close(bump, bump.flip(0), rtol=1e-12, atol=0)
    assert bump.argmax().item() in (49, 50) and bump[0] < bump.max() / 50
    torch.testing.assert_close(indi(100, 0.25).bbar, 0.5 * t / 100, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [ddpm.linear(), ddpm.cosine(100), ddpm.zero_terminal_snr(ddpm.scaled_linear())])
def test_a_converted_schedule_is_the_ddpms(schedule):
    there = RDDMSchedule.from_ddpm(schedule)
    close(there.abar, 1 - schedule.alpha_bar.sqrt(), 1e-13)
    torch.testing.assert_close(there.bbar, (1 - schedule.alpha_bar).sqrt(), rtol=1e-11, atol=0)
    close(there.alpha_bar, schedule.alpha_bar)
    again = by_config(**there.config)
    assert torch.equal(again.abar, there.abar) and torch.equal(again.bbar, there.bbar)


def test_readjust_swaps_one_and_keeps_the_other():
    """And the converted schedule's two properties: it stops short of I_in, and its noise ends near 1."""
    assert CONVERTED.partial and CONVERTED.abar[-1].item() == pytest.approx(0.993647, abs=5e-7)
    assert CONVERTED.sum_scale == pytest.approx(0.99996, abs=5e-6)
    swapped = CONVERTED.readjust(alpha="decreased")
    assert torch.equal(swapped.bbar, CONVERTED.bbar) and swapped.abar[-1] == 1.0 and not swapped.partial
    swapped = by_config(50, sum_scale=0.01).readjust(beta2="average")
    assert torch.equal(swapped.abar, by_config(50).abar) and swapped.sum_scale == pytest.approx(0.01)
    with pytest.raises(ReproError, match=r"no DDPM counterpart.*at t="):
        _ = DEFAULT.alpha_bar
    with pytest.raises(ReproError, match="name a family"):
        DEFAULT.readjust()


@pytest.mark.parametrize(
    ("alpha", "beta2", "message"),
    [
        ([0.5, 0.4], [0.5, 0.5], "sums to 0.9.*: it must sum to 1"),
        ([1.5, -0.5], [0.5, 0.5], "got -0.5 at t=1"),
        ([0.5, 0.5], [0.5, -0.1], "beta2 must be at least 0.*got -0.1 at t=1"),
        ([0.5, float("nan")], [0.5, 0.5], "got nan at t=1"),
        ([0.5, 0.5], [0.0, 0.5], "beta2 of schedule 'made' is 0 at t=0"),
        ([0.5, 0.5], [1.0], "equally long: got 2 and 1"),
        ([], [], "at least one number"),
    ],
)
def test_wrong_tables_are_refused(alpha, beta2, message):
    with pytest.raises(ReproError, match=message):
        RDDMSchedule("made", torch.tensor(alpha), torch.tensor(beta2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: by_config(alpha="cosine"), "family 'cosine' is unknown"),
        (lambda: by_config(T=0), "at least 1: got 0"),
        (lambda: by_config(sum_scale=-1.0), "got -1.0"),
        (lambda: by_config(sum_scale=float("nan")), "got nan"),
        (lambda: by_config(alpha="ddpm"), "need both families"),
        (lambda: by_config(T=10, alpha="ddpm", beta2="ddpm", ddpm={"name": "linear"}), "got T=10"),
        (lambda: by_config(alpha="ddpm", beta2="ddpm", ddpm={"name": "linear"}, sum_scale=0.01), r"sum_scale 0\.01"),
        (lambda: DEFAULT.at(1000, torch.zeros(2, 1)), r"0\.\.999"),
        (lambda: DEFAULT.levels(1000), "got 1000"),
        (lambda: process.split(I_0, I_0, "res_noise"), "answers 4 channels"),
        (lambda: process.split(I_0, I_0, "res", "noise"), "'res' cannot be sampled as 'noise'"),
        (lambda: RDDMNet("res", "two", **SMALL), "takes layout 'one'"),
        (lambda: RDDMNet(layout="three", **SMALL), "'three' is unknown"),
        (lambda: RDDMNet("x0", **SMALL), "objective 'x0' is unknown"),
        (lambda: RDDMNet("res", **SMALL)(IMAGE, 3), "built with I_in"),
        (lambda: PublishedNet("res", "two", **TINY), "layout 'two' predicts residual and noise"),
        (lambda: PublishedNet(dim=12), "dim 12 is not a multiple"),
        (lambda: PublishedNet(mask_channels=3, **TINY)(IMAGE, 0, IMAGE), "6 channels: got 3"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ReproError, match=message):
        make()


# -- forward process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_chain_of_single_steps_is_the_closed_form(schedule):
    """Exactly: the chain's mean and variance, carried along, and its noise gathered into one eps (Eq. 7)."""
    state, gathered, variance = I_0, torch.zeros_like(I_0), 0.0
    for t in range(schedule.T):
        eps = draw(100 + t)
        state = process.q_step(state, I_RES, t, eps, schedule)
        gathered = gathered + float(schedule.beta2[t]) ** 0.5 * eps
        variance += float(schedule.beta2[t])
        assert variance == pytest.approx(schedule.levels(t)[1] ** 2, rel=1e-12)
        close(state, process.q_sample(I_0, I_RES, t, gathered / schedule.levels(t)[1], schedule))
    t = torch.tensor([0, 17, 41, schedule.T - 1])
    abar, bbar = schedule.at(t, I_IN)
    close(process.q_sample(I_0, I_RES, t, EPS, schedule), I_IN + (abar - 1) * I_RES + bbar * EPS, 1e-14)  # Eq. 16


def test_the_start_holds_the_noise_that_training_ends_with():
    z = draw(4)
    for scale in (1.0, 0.01, 4.0):
        schedule = by_config(60, sum_scale=scale)
        start = process.start(I_IN, z, schedule)
        close(start, I_IN + scale**0.5 * z)
        close(start, process.q_sample(I_0, I_RES, schedule.T - 1, z, schedule))
    close(process.start(I_IN, z, SCHEDULES[2], sum_scale=0.01), I_IN + 0.1 * z)  # a start that was not trained for
    gap = process.start(I_IN, z, SCHEDULES[0], 50) - process.q_sample(I_0, I_RES, 50, z, SCHEDULES[0])
    close(gap, (1 - SCHEDULES[0].levels(50)[0]) * I_RES)  # an earlier start is wrong by the rest of the residual


# -- objectives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ALL)
def test_a_perfect_network_has_no_loss_and_is_read_exactly(objective):
    schedule, T, seen = SCHEDULES[0], torch.tensor([0, 10, 30, 58]), []

    def perfect(x, t, off=0.0):
        seen.append((x, t))
        return process.target(I_RES, EPS, objective) + off

    assert (process.loss(perfect, I_0, I_IN, T, EPS, schedule, objective) == 0).all()
    I_t = process.q_sample(I_0, I_RES, T, EPS, schedule)
    assert torch.equal(seen[0][0], I_t) and torch.equal(seen[0][1], T)
    read = process.estimate(perfect(I_t, T), I_t, I_IN, T, schedule, objective)
    for got, wanted in ((read.I_0, I_0), (read.I_res, I_RES), (read.eps, EPS)):
        close(got, wanted, 1e-9)
    off = torch.tensor([0.0, 0.1, 0.2, 0.3]).double()
    for norm, power in (("l1", 1), ("l2", 2)):  # per sample, the heads' losses added
        found = process.output_loss(perfect(I_t, T, off[:, None, None, None]), I_RES, EPS, objective, norm)
        close(found, off**power * process.heads(objective), 1e-8)


def test_estimates_refuse_where_they_are_undefined():
    with pytest.raises(ReproError, match="1 - abar_t = 0"):
        process.estimate(EPS, I_IN, I_IN, 59, SCHEDULES[0], "noise")
    with pytest.raises(ReproError, match="bbar_t = 0"):
        process.estimate(I_RES, I_IN, I_IN, 3, by_config(60, sum_scale=0.0), "res")
    # the other published family has bbar = 0 at index 0; its noise from the residual is 0 / 0
    assert process.estimate(I_RES, I_IN, I_IN, 0, SCHEDULES[0], "res").eps.isfinite().all()


# -- networks ---------------------------------------------------------------------------------------------------------

SMALL = dict(base_channels=8, channel_mults=(1, 2), norm_groups=4)
TINY = dict(dim=8, mults=(1, 2))


def parameters(net) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("layout", ["one", "two", "shared"])
def test_layouts_have_both_heads_and_learn(layout):
    net = RDDMNet("res_noise", layout, **SMALL)
    x = torch.rand(2, 3, 9, 7)
    out = net(x, torch.tensor([3, 4]), x).sample
    assert out.shape == (2, 6, 9, 7)
    (out - 1).square().mean().backward()
    heads = {"one": [net.net], "shared": [net.net]}.get(layout) if layout != "two" else [net.res_net, net.noise_net]
    assert all(head.conv_out.weight.grad.abs().sum() > 0 for head in heads)
    if layout == "shared":
        assert net.net.res_conv_out.weight.grad.abs().sum() > 0
        torch.nn.init.constant_(net.net.res_conv_out.bias, 1.0)
        torch.nn.init.constant_(net.net.conv_out.bias, 2.0)
        out = RDDMNet.forward(net, torch.zeros(1, 3, 8, 8), 5, torch.zeros(1, 3, 8, 8)).sample
        assert (out[:, :3] == 1).all() and (out[:, 3:] == 2).all()  # residual, then noise


def test_layouts_share_what_they_say():
    one, shared, two = (parameters(RDDMNet("res_noise", layout, **SMALL)) for layout in ("one", "shared", "two"))
    assert one < shared < two == 2 * parameters(RDDMNet("res", **SMALL))


def fixed(net, scale=0.2):
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = scale * torch.randn(p.shape, generator=generator)
    return net.eval().requires_grad_(False)


def random(*shape, purpose="x"):
    return KeyedNoise(0, [0], purpose).normal(shape)[0]


def wave(*shape, k=0.0):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * i + 0.0021 * i * i + k).float().reshape(shape)


def test_the_published_network_gives_what_the_released_one_gives():
    """The numbers are the released network's, of experiment 2, with these weights brought to its names."""
    net = PublishedNet(dim=16, mults=(1, 2))
    for k, p in enumerate(net.parameters()):
        i = torch.arange(p.numel(), dtype=torch.float64)
        p.data = (0.3 * torch.cos(1.7 * i + 0.9 * k) * torch.cos(0.013 * i * i + k)).float().reshape(p.shape)
    with torch.no_grad():
        found = net(wave(2, 3, 16, 16), torch.tensor([3, 801]), wave(2, 3, 16, 16, k=1)).sample
    released = torch.tensor([[3.045591, 8.247635, 1.919072], [-1.661063, -4.556086, -2.328403]])
    close(found[:, :, 5, 7], released, 1e-4)
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
    with torch.device("meta"):
        net = PublishedNet(**settings)
        x = torch.zeros(1, 3, 64, 64)
        cond = torch.zeros(1, 6 if "mask_channels" in settings else 3, 64, 64) if net.config.condition else None
        assert net(x, torch.zeros(1), cond).sample.shape == (1, 3 * process.heads(net.config.objective), 64, 64)
    assert parameters(net) == exact and round(exact / 1e6, 2) == published


def test_any_size_is_padded_and_cropped_and_kept(tmp_path):
    net, t = fixed(PublishedNet("res_noise", "shared", **TINY), 0.1), torch.tensor([3, 900])
    x, cond = random(2, 3, 7, 9), random(2, 3, 7, 9, purpose="cond")
    out = net(x, t, cond).sample
    padded = [F.pad(p, (0, 1, 0, 1), mode="replicate") for p in (x, cond)]
    torch.testing.assert_close(out, net(padded[0], t, padded[1]).sample[..., :7, :9])
    assert not torch.equal(net(x, 5, cond).sample, net(x, 6, cond).sample)
    save_checkpoint(tmp_path / "net", net, {})
    torch.testing.assert_close(load_checkpoint(tmp_path / "net")(x, t, cond).sample, out, rtol=1e-2, atol=1e-2)


def test_linear_attention_depends_on_the_resolution():
    """The same content four times over: softmax over space alone would not notice, the division by H W does."""
    layer, x, seen = fixed(LinearAttention(8)), random(1, 8, 4, 4), []
    layer.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    once, four = layer(x), layer(x.repeat(1, 1, 2, 2))[..., :4, :4]
    torch.testing.assert_close(seen[1][..., :4, :4], seen[0] / 4)
    assert (once - four).abs().max() > 1e-3  # and the norm behind does not undo it, since a bias lies between


def test_of_the_shared_layout_only_the_noise_decoder_has_skips():
    net = fixed(PublishedNet("res_noise", "shared", **TINY)).net
    x, t = random(1, 6, 8, 8), torch.tensor([400])
    h, skips, emb = net.encoder(x, t)
    for i in range(len(skips)):
        other = [s + (j == i) for j, s in enumerate(skips)]
        assert torch.equal(net.res_decoder(h, other, emb), net.res_decoder(h, skips, emb))
        assert not torch.equal(net.decoder(h, other, emb), net.decoder(h, skips, emb))
    torch.testing.assert_close(net(x, t), torch.cat([d(h, skips, emb) for d in (net.res_decoder, net.decoder)], dim=1))
