"""What the three strategies learn, and how their outputs are read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.nn.unet import UNet
from repro.rddm import objectives, process
from repro.rddm.model import RDDMNet
from repro.rddm.schedules import by_config

SCHEDULE = by_config(50)
NOISE = KeyedNoise(0, range(4), "noise")
I_0 = NOISE.normal((3, 4, 4), 1).double().clamp(-1, 1)
I_IN = NOISE.normal((3, 4, 4), 2).double().clamp(-1, 1)
EPS = NOISE.normal((3, 4, 4), 3).double()
I_RES = I_IN - I_0
T = torch.tensor([0, 10, 30, 48])
ALL = ("res", "noise", "res_noise")


def test_names_and_weights():
    assert [objectives.objective_of(s) for s in ("SM-Res", "SM-N", "SM-Res-N")] == list(ALL)
    assert objectives.WEIGHTS["res_noise"] == (1.0, 1.0)  # the report prints (0, 1)
    assert [objectives.heads(o) for o in ALL] == [1, 1, 2]
    with pytest.raises(ReproError, match="objective 'x0' is unknown"):
        objectives.objective_of("x0")


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("objective", ALL)
def test_losses_are_the_mean_differences_per_sample(objective, norm):
    output = objectives.target(I_RES, EPS, objective) + torch.tensor([0.0, 0.1, 0.2, 0.3]).double()[:, None, None, None]
    found = objectives.losses(output, I_RES, EPS, objective, norm)
    power = 1 if norm == "l1" else 2
    wanted = torch.tensor([0.0, 0.1, 0.2, 0.3]).double() ** power
    assert found.total.shape == (4,)
    torch.testing.assert_close(found.total, wanted * objectives.heads(objective), rtol=0, atol=1e-8)
    assert (found.res is None) == (objective == "noise") and (found.noise is None) == (objective == "res")


def test_weights_scale_their_own_part():
    output = torch.cat([I_RES + 1, EPS + 2], dim=1)
    found = objectives.losses(output, I_RES, EPS, "res_noise", "l1", (3.0, 0.5))
    torch.testing.assert_close(found.total, torch.full((4,), 3 * 1 + 0.5 * 2).double())
    for objective, weights in (("res", (1, 1)), ("noise", (1, 0)), ("res_noise", (0, 1)), ("res", (-1, 0))):
        with pytest.raises(ReproError, match="loss weights"):
            objectives.losses(objectives.target(I_RES, EPS, objective), I_RES, EPS, objective, "l2", weights)


@pytest.mark.parametrize("objective", ALL)
def test_a_perfect_network_has_no_loss_and_is_read_exactly(objective):
    seen = []

    def perfect(x, t):
        seen.append((x, t))
        return objectives.target(I_RES, EPS, objective)

    found = objectives.training_losses(perfect, I_0, I_IN, T, EPS, SCHEDULE, objective)
    assert (found.total == 0).all()
    I_t = process.q_sample(I_0, I_RES, T, EPS, SCHEDULE)
    assert torch.equal(seen[0][0], I_t) and torch.equal(seen[0][1], T)
    read = objectives.estimate(perfect(I_t, T), I_t, I_IN, T, SCHEDULE, objective)
    for got, wanted in ((read.I_0, I_0), (read.I_res, I_RES), (read.eps, EPS)):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_wrong_shapes_and_readings_are_refused():
    with pytest.raises(ReproError, match="answers 6 channels"):
        objectives.split(I_0, I_0, "res_noise")
    with pytest.raises(ReproError, match="answers 3 channels"):
        objectives.split(torch.cat([I_0, I_0], 1), I_0, "res")
    with pytest.raises(ReproError, match="'res' cannot be sampled as 'noise'"):
        objectives.split(I_0, I_0, "res", "noise")
    both = torch.cat([I_RES, EPS], 1)
    assert torch.equal(objectives.split(both, I_0, "res_noise", "res")[0], I_RES)
    assert objectives.split(both, I_0, "res_noise", "res")[1] is None
    assert torch.equal(objectives.split(both, I_0, "res_noise", "noise")[1], EPS)


SMALL = dict(base_channels=8, channel_mults=(1, 2), norm_groups=4)


def test_a_network_is_refused_for_what_it_did_not_learn():
    net = RDDMNet("res", **SMALL)
    objectives.check_objective(net, "res")
    with pytest.raises(ReproError, match="trained for objective 'res': it cannot be used as 'noise'"):
        objectives.check_objective(net, "SM-N")
    with pytest.raises(ReproError, match="6 output channels: got 3"):
        objectives.check_objective(UNet(3, 3, 3, **SMALL), "res_noise", 3)
    objectives.check_objective(UNet(3, 6, 3, **SMALL), "res_noise", 3)


@pytest.mark.parametrize("layout", ["one", "two", "shared"])
def test_layouts_answer_both_heads_and_learn(layout):
    net = RDDMNet("res_noise", layout, **SMALL)
    x = torch.rand(2, 3, 9, 7)
    assert net(x, torch.tensor([3, 4]), x).sample.shape == (2, 6, 9, 7)
    loss = (net(x, torch.tensor([3, 4]), x).sample - 1).square().mean()
    loss.backward()
    outs = {"one": ["net"], "two": ["res_net", "noise_net"], "shared": ["net"]}[layout]
    for name in outs:
        assert getattr(net, name).conv_out.weight.grad.abs().sum() > 0
    if layout == "shared":
        assert net.net.res_conv_out.weight.grad.abs().sum() > 0


def test_layouts_share_what_they_say():
    one, shared, two = (
        sum(p.numel() for p in RDDMNet("res_noise", layout, **SMALL).parameters())
        for layout in ("one", "shared", "two")
    )
    assert one < shared < two
    single = sum(p.numel() for p in RDDMNet("res", **SMALL).parameters())
    assert two == 2 * single


def test_the_heads_of_a_shared_encoder_are_residual_then_noise():
    net = RDDMNet("res_noise", "shared", **SMALL)
    nn.init.constant_(net.net.res_conv_out.bias, 1.0)
    nn.init.constant_(net.net.conv_out.bias, 2.0)
    out = net(torch.rand(1, 3, 8, 8), 5, torch.rand(1, 3, 8, 8)).sample
    assert (out[:, :3] == 1).all() and (out[:, 3:] == 2).all()


def test_network_settings_are_checked():
    for settings, message in (
        ({"objective": "res", "layout": "two"}, "takes layout 'one'"),
        ({"layout": "three"}, "'three' is unknown"),
        ({"objective": "x0"}, "'x0' is unknown"),
        ({"objective": "SM-Res"}, "names the objective 'res'"),
    ):
        with pytest.raises(ReproError, match=message):
            RDDMNet(**settings, **SMALL)
    with pytest.raises(ReproError, match="built with I_in"):
        RDDMNet("res", **SMALL)(I_0.float(), 3)
