"""The editing vector, its mapping network and the U-Net: inputs, tokens and their attention, sizes, bad input."""

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st
from tiny_editing import FULL, tiny_network
from torch import Tensor, nn

from repro.editing.model import VectorMapping
from repro.editing.study.experiments import SMALL, build_network
from repro.editing.vector import HIGHS, LENGTH, NAMES, SCALARS, TASKS, EditingVector, batch
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

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


# -- the vector -------------------------------------------------------------------------------------------------------


def test_names_and_order_are_the_papers():
    assert NAMES == ("beta", "sigma", "lambda", "mu", "blur", "grain", "colour", "inpaint", "sharpen")
    assert HIGHS == (1.0, 0.1, 3.0, 0.1, 1, 1, 1, 1, 1) and LENGTH == 9
    assert FULL.tensor().tolist() == pytest.approx([0.3, 0.05, 2.5, 0.04, 1, 1, 1, 1, 1]) and FULL.active == TASKS
    for i, task in enumerate(TASKS):
        assert FULL.only(task).tensor()[4:].tolist() == [float(i == j) for j in range(5)]
    assert EditingVector(blur=1, sharpen=[2, 0]) == EditingVector(blur=1.0, sharpen=(2.0, 0.0))


@drawn(vector=VECTORS, kept=st.sets(st.sampled_from(TASKS)))
def test_only_switches_the_others_off_and_what_is_off_is_zero(vector, kept):
    part = vector.only(*kept)
    assert set(part.active) == set(vector.active) & kept
    mask = torch.tensor([float(e.task in part.active) for e in SCALARS] + [float(t in part.active) for t in TASKS])
    assert torch.equal(part.tensor(), vector.tensor() * mask) and torch.equal(part.tensor()[4:], mask[4:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(blur=1.2), r"beta \(degree of motion blur\) is 1.2; accepted: 0 to 1"),
        (dict(blur=float("nan")), "beta .* is nan"),
        (dict(blur=True), "beta .* is True"),
        (dict(grain=0.2), r"sigma .* is 0.2; accepted: 0 to 0.1"),
        (dict(sharpen=(0.5, 0.0)), r"lambda .* is 0.5; accepted: 1 to 3"),
        (dict(sharpen=(2.0, 0.3)), r"mu .* is 0.3; accepted: 0 to 0.1"),
        (dict(sharpen=2.0), "sharpen is a pair"),
        (dict(colour=0.5), "colour is a switch; got 0.5"),
    ],
)
def test_out_of_range_is_refused(arguments, message):
    with pytest.raises(ReproError, match=message):
        EditingVector(**arguments)


# -- the mapping network ----------------------------------------------------------------------------------------------


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


# -- the network ------------------------------------------------------------------------------------------------------


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
        with pytest.raises(ReproError, match=f"got {name} 'sum'; accepted: "):
            tiny_network(**{name: "sum"})


PARAMETERS = {"mult": 649_328, "palette": 647_264, "mask": 649_632, "latent-ref": 653_280, "entry": 649_840}


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_of_the_small_profile(variant):
    with torch.device("meta"):
        net = build_network(SMALL, variant)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[variant]
    assert net.multiple == 4
