"""The editing vector and its mapping network; what a single context token does to cross-attention."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from repro.editing.mapping import DEPTHS, VectorMapping
from repro.editing.vector import HIGHS, LENGTH, NAMES, SCALARS, TASKS, EditingVector, batch
from repro.errors import ReproError


def off_or(strategy):
    return st.none() | strategy


VECTORS = st.builds(
    EditingVector,
    blur=off_or(st.floats(0, 1)),
    grain=off_or(st.floats(0, 0.1)),
    colour=st.booleans(),
    inpaint=st.booleans(),
    sharpen=off_or(st.tuples(st.floats(1, 3), st.floats(0, 0.1))),
)


# -- the vector -------------------------------------------------------------------------------------------------------


def test_names_and_order_are_the_papers():
    assert NAMES == ("beta", "sigma", "lambda", "mu", "blur", "grain", "colour", "inpaint", "sharpen")
    assert HIGHS == (1.0, 0.1, 3.0, 0.1, 1, 1, 1, 1, 1) and LENGTH == 9
    full = EditingVector(blur=0.6, grain=0.05, colour=True, inpaint=True, sharpen=(2.0, 0.02))
    assert full.tensor().tolist() == pytest.approx([0.6, 0.05, 2.0, 0.02, 1, 1, 1, 1, 1])
    assert full.active == TASKS
    assert EditingVector().tensor().tolist() == [0.0] * 9
    for i, task in enumerate(TASKS):
        vector = EditingVector.of(task)
        assert vector.active == (task,) and vector.tensor()[4:].tolist() == [float(i == j) for j in range(5)]
    for entry in SCALARS:
        assert entry.low <= entry.default <= entry.high


@given(vector=VECTORS)
def test_what_is_off_is_zero_and_the_label_follows(vector):
    row = vector.tensor()
    assert row.dtype == torch.float32 and row.shape == (LENGTH,)
    for i, task in enumerate(TASKS):
        assert row[4 + i].item() == float(task in vector.active)
    for i, entry in enumerate(SCALARS):
        if entry.task not in vector.active:
            assert row[i].item() == 0
        else:
            assert entry.low - 1e-6 <= row[i].item() <= entry.high + 1e-6


@given(vector=VECTORS, kept=st.sets(st.sampled_from(TASKS)))
def test_only_switches_the_others_off(vector, kept):
    part = vector.only(*kept)
    assert set(part.active) == set(vector.active) & kept
    mask = torch.tensor([float(e.task in kept) for e in SCALARS] + [float(t in kept) for t in TASKS])
    assert torch.equal(part.tensor(), vector.tensor() * mask)


def test_frozen_and_comparable():
    vector = EditingVector(blur=1, sharpen=[2, 0])
    assert vector == EditingVector(blur=1.0, sharpen=(2.0, 0.0)) and hash(vector) == hash(
        EditingVector(1, sharpen=(2, 0))
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        vector.blur = 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(blur=1.2), r"beta \(degree of motion blur\) is 1.2; accepted: 0 to 1"),
        (dict(blur=-0.1), "beta .* is -0.1"),
        (dict(blur=float("nan")), "beta .* is nan"),
        (dict(blur=True), "beta .* is True"),
        (dict(blur="much"), "beta .* is 'much'"),
        (dict(grain=0.2), r"sigma .* is 0.2; accepted: 0 to 0.1"),
        (dict(sharpen=(0.5, 0.0)), r"lambda .* is 0.5; accepted: 1 to 3"),
        (dict(sharpen=(2.0, 0.3)), r"mu .* is 0.3; accepted: 0 to 0.1"),
        (dict(sharpen=2.0), "sharpen is a pair"),
        (dict(sharpen=(1, 2, 3)), "sharpen is a pair"),
        (dict(colour=0.5), "colour is a switch; got 0.5"),
    ],
)
def test_out_of_range_is_refused(arguments, message):
    with pytest.raises(ReproError, match=message):
        EditingVector(**arguments)


def test_batches():
    vectors = [EditingVector(), EditingVector(blur=0.2), EditingVector.of("sharpen", "grain")]
    rows = batch(vectors)
    assert rows.shape == (3, LENGTH) and torch.equal(rows[1], vectors[1].tensor())
    with pytest.raises(ReproError, match="no requests"):
        batch([])
    with pytest.raises(ReproError, match="no effect 'glow'"):
        EditingVector.of("glow")


# -- the mapping network ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def rows() -> torch.Tensor:
    return batch([EditingVector(), EditingVector.of("blur"), EditingVector(blur=0.9), EditingVector.of(*TASKS)])


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("tokens", ["single", "entry"])
@pytest.mark.parametrize("layers", DEPTHS)
def test_shapes_and_parameters(layers, tokens, labels):
    entries = LENGTH if labels else 4
    width = 16 if layers else entries
    net = VectorMapping(width, layers, tokens, labels)
    out = net(rows())
    assert out.shape == (4, entries if tokens == "entry" else 1, width)
    first = (2 if tokens == "entry" else 1) * entries * width + (width if tokens == "single" else 0)
    wanted = first + (layers - 1) * (width * width + width) if layers else 0
    assert sum(p.numel() for p in net.parameters()) == wanted
    assert not torch.allclose(out[1], out[2])  # another degree, another context


def test_without_layers_the_vector_itself_is_the_context():
    c = rows()
    assert torch.equal(VectorMapping(LENGTH, 0, "single")(c), c[:, None])
    assert torch.equal(VectorMapping(LENGTH, 0, "entry")(c), torch.diag_embed(c))
    assert torch.equal(VectorMapping(4, 0, "single", labels=False)(c), c[:, None, :4])
    scaled = VectorMapping(LENGTH, 0, "single", scaled=True)(c)
    assert scaled.max().item() == 1 and torch.allclose(scaled[3, 0, :4], torch.tensor([0.5, 0.5, 2 / 3, 0.2]))


def test_two_layers_are_linear_silu_linear():
    net = VectorMapping(16, 2, "single")
    by_hand = nn.Sequential(net.first, nn.SiLU(), net.rest[0])
    assert torch.equal(net(rows())[:, 0], by_hand(rows()))


def test_a_token_sees_its_own_entry_and_no_other():
    net = VectorMapping(16, 4, "entry")
    c = rows()
    for i in range(LENGTH):
        changed = c.clone()
        changed[:, i] += 0.1
        differs = (net(changed) != net(c)).any(dim=2).all(dim=0)
        assert differs.tolist() == [i == j for j in range(LENGTH)]
    empty = net(c[:1])[0]  # all entries zero: the tokens are still told apart
    assert torch.cdist(empty, empty).fill_diagonal_(1).min() > 0.01


def test_saved_and_loaded(tmp_path):
    net = VectorMapping(16, 4, "entry", labels=False, scaled=True)
    net.save_pretrained(tmp_path)
    again = VectorMapping.from_pretrained(tmp_path)
    for name in ("width", "layers", "tokens", "labels", "scaled"):
        assert again.config[name] == net.config[name]
    assert torch.equal(again(rows()), net(rows()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(layers=3), "3 layers; accepted: 0, 1, 2, 4"),
        (dict(tokens="word"), "tokens 'word'"),
        (dict(layers=0, width=16), "9 wide, the entries; got width 16"),
    ],
)
def test_unknown_layouts_are_refused(arguments, message):
    with pytest.raises(ReproError, match=message):
        VectorMapping(**arguments)


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ReproError, match=r"\(2, 4\); accepted: \(B, 9\)"):
        VectorMapping(16)(torch.zeros(2, 4))


# -- one token against many -------------------------------------------------------------------------------------------


def gradients(tokens: str) -> dict[str, float]:
    """Largest gradient in each projection of diffusers' cross-attention behind f_theta with such tokens."""
    from diffusers.models.attention_processor import Attention, AttnProcessor

    net = VectorMapping(16, 2, tokens)
    attention = Attention(query_dim=32, cross_attention_dim=16, heads=2, dim_head=8, processor=AttnProcessor())
    features = torch.randn(4, 10, 32, generator=torch.Generator().manual_seed(1))  # (B, positions, channels)
    wanted = torch.randn(4, 10, 32, generator=torch.Generator().manual_seed(2))
    out = attention(features, encoder_hidden_states=net(rows()))
    (out - wanted).square().mean().backward()
    projections = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "out": attention.to_out[0]}
    return {name: layer.weight.grad.abs().max().item() for name, layer in projections.items()} | {
        "varies": out.std(dim=1).max().item()
    }


def test_a_single_token_leaves_queries_and_keys_untrained():
    single = gradients("single")
    assert single["q"] == 0.0 and single["k"] == 0.0  # exactly: the softmax of one number is 1
    assert single["v"] > 1e-4 and single["out"] > 1e-4
    assert single["varies"] < 1e-6  # the same vector at every position: a bias


def test_one_token_per_entry_trains_them():
    entry = gradients("entry")
    assert min(entry[name] for name in ("q", "k", "v", "out")) > 1e-5
    assert entry["varies"] > 1e-4


def test_a_planted_fault_is_seen(monkeypatch):
    """Tokens that all carry the whole vector are one token nine times: queries and keys stay untrained, noticed."""

    def collapsed(self, vector):
        return nn.functional.linear(vector, torch.ones(16, LENGTH))[:, None].expand(-1, LENGTH, -1)

    monkeypatch.setattr(VectorMapping, "forward", collapsed)
    with pytest.raises(AssertionError):
        test_one_token_per_entry_trains_them()
