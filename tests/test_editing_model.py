"""The editing network: what it is shown, what its attention can learn, what it refuses."""

from __future__ import annotations

import pytest
import torch
from tiny_editing import tiny_network
from torch import Tensor

from repro.editing.model import EditingNet
from repro.editing.study.config import SMALL
from repro.editing.study.experiments import build_network
from repro.editing.vector import HIGHS, EditingVector, batch
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

FULL = EditingVector(blur=0.3, grain=0.05, colour=True, inpaint=True, sharpen=(2.5, 0.04))
SIZE = (6, 8)


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


def cross_attentions(net: EditingNet) -> list[torch.nn.Module]:
    return [module for name, module in net.named_modules() if name.endswith("attn2")]


@pytest.mark.parametrize("tokens", ["single", "entry"])
def test_one_token_teaches_attention_nothing(tokens):
    """The softmax over one key is 1 whatever the query: exactly no gradient, not 1e-6 of it."""
    net = tiny_network(tokens=tokens)
    net(**given()).sample.square().sum().backward()
    found = cross_attentions(net)
    assert len(found) >= 3  # down, middle, up
    for attention in found:
        for layer in (attention.to_q, attention.to_k):
            assert bool(layer.weight.grad.any()) == (tokens == "entry")
        assert attention.to_v.weight.grad.any()


def test_palette_is_told_by_channels_and_ignores_the_context():
    net = tiny_network(condition="concat")
    assert net.mapping is None
    before = net(**given()).sample
    assert (net(**given() | {"vector": batch([FULL] * 2)}).sample[1] - before[1]).abs().max() > 1e-4
    for attention in cross_attentions(net):
        for layer in (attention.to_q, attention.to_k, attention.to_v):
            layer.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(**given()).sample, before)


def test_palette_sees_the_vector_scaled_at_every_position():
    net = tiny_network(condition="concat")
    seen = []
    net.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    shown = given()
    net(**shown)
    wanted = (shown["vector"] / torch.tensor(HIGHS))[:, :, None, None].expand(-1, -1, *SIZE)
    parts = [shown["sample"], shown["source"], shown["reference"], wanted]
    assert torch.equal(seen[0], torch.cat(parts, dim=1)) and wanted.max() == 1


@pytest.mark.parametrize("condition", ["cross", "concat"])
def test_every_condition_reaches_the_answer(condition):
    net = tiny_network(condition=condition)
    shown = given()
    before = net(**shown).sample
    assert before.shape == shown["sample"].shape
    changes = [(name, shown[name] + 0.5) for name in ("sample", "source", "reference")]
    changes += [("timestep", shown["timestep"] + 50)]
    for entry in range(9):
        moved = shown["vector"].clone()
        moved[:, entry] += 0.5 * HIGHS[entry]
        changes.append(("vector", moved))
    for name, value in changes:
        found = net(**shown | {name: value}).sample
        assert (found - before).abs().amax(dim=(1, 2, 3)).min() > 1e-6, name


def test_a_number_is_a_timestep_of_the_whole_batch():
    net, shown = tiny_network(), given()
    times = net(**shown | {"timestep": torch.full((2,), 20)}).sample
    assert torch.equal(net(**shown | {"timestep": 20}).sample, times)
    (plain,) = net(**shown, return_dict=False)
    assert torch.equal(plain, net(**shown).sample)


@pytest.mark.parametrize(("tokens", "count"), [("entry", 9), ("single", 1)])
def test_features_are_the_bottleneck_and_the_tokens(tokens, count):
    net, shown = tiny_network(tokens=tokens), given()
    out, bottleneck, found = net(**shown, features=True)
    assert torch.equal(out, net(**shown).sample)
    assert bottleneck.shape == (2, 16, 3, 4)
    assert torch.equal(found, net.mapping(shown["vector"])) and found.shape == (2, count, 16)
    with pytest.raises(RuntimeError):
        net(**shown | {"source": shown["source"][:, :, :-1]}, features=True)
    assert not net.unet.mid_block._forward_hooks


def test_the_bypass_is_a_convolution_of_one_pixel_beside_the_network():
    net, shown = tiny_network(), given()
    whole = net(**shown).sample
    net.bypass.mix.weight.data.zero_()  # as a fresh one is
    without = net(**shown).sample
    skip = whole - without
    shown["sample"][:, :, 2, 3] += 1
    net.bypass.mix.weight.data.copy_(tiny_network().bypass.mix.weight)
    moved = net(**shown).sample
    net.bypass.mix.weight.data.zero_()
    changed = ((moved - net(**shown).sample) - skip).abs().amax(dim=(0, 1)) > 1e-5
    assert changed.nonzero().tolist() == [[2, 3]]
    assert tiny_network(input_skip=False).bypass is None
    assert not EditingNet(**SMALL.network).bypass.mix.weight.any()


def test_other_inputs_by_configuration():
    masked = tiny_network(mask=True)
    mask = torch.ones(2, 1, *SIZE)
    one = masked(**given(mask=mask)).sample
    assert (one - masked(**given(mask=0 * mask)).sample).abs().max() > 1e-4
    latent = tiny_network(reference="latent")
    assert latent(**given(reference=4)).sample.shape == one.shape
    assert [net.unet.config.in_channels for net in (masked, latent, tiny_network())] == [12, 12, 11]


@pytest.mark.parametrize(
    ("changes", "shown", "message"),
    [
        ({"condition": "sum"}, {}, "condition 'sum'; accepted: cross, concat"),
        ({"reference": "grey"}, {}, "reference 'grey'; accepted: rgb, latent"),
        ({}, {"reference": torch.zeros(2, 4, *SIZE)}, r"reference of 4 channels; .* built for 3 \(rgb\)"),
        ({"reference": "latent"}, {}, r"reference of 3 channels; .* built for 4 \(latent\)"),
        ({"mask": True}, {}, "was built with a mask channel and got none"),
        ({}, {"mask": torch.zeros(2, 1, *SIZE)}, "was built without a mask"),
        ({}, {"vector": torch.zeros(2, 4)}, r"shape \(2, 4\); accepted: \(B, 9\)"),
        ({"layers": 3}, {}, "got 3 layers; accepted: 0, 1, 2, 4"),
    ],
)
def test_wrong_calls_are_refused(changes, shown, message):
    with pytest.raises(ReproError, match=message):
        tiny_network(**changes)(**given() | shown)


@pytest.mark.parametrize("changes", [{}, {"condition": "concat"}, {"labels": False, "scaled": False}])
def test_saved_and_loaded_it_answers_the_same(changes, tmp_path):
    """The scales are not saved: they follow from the configuration, also where loading begins on the meta device."""
    net = tiny_network(**changes)
    net.save_pretrained(tmp_path)
    again = EditingNet.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**given()).sample, net(**given()).sample, rtol=0, atol=1e-6)


# A network that ships keeps its size: another one belongs to other records.
PARAMETERS = {"mult": 649_328, "palette": 647_264, "mask": 649_632, "latent-ref": 653_280, "entry": 649_840}


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_of_the_small_profile(variant):
    with torch.device("meta"):
        net = build_network(SMALL, variant)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[variant]
    assert net.multiple == 4
