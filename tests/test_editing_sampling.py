"""Editing: an image depends on itself alone, holes stay closed, sequences and inversions are their steps by hand."""

from dataclasses import replace

import pytest
import torch
from tiny_editing import FULL, close, pictures, tiny_editor, tiny_network
from torch.nn import functional as F

from repro.ddpm.process import model_fn
from repro.ddpm.samplers import ddim
from repro.ddpm.steps import last
from repro.editing.effects.compose import Recipe
from repro.editing.sampling import in_sequence
from repro.editing.vector import EditingVector
from repro.engine.rng import KeyedNoise

VECTORS = [FULL, FULL.only("blur"), EditingVector()]
IMAGE = pictures(3, 24)
REFERENCE = pictures(3, 40, purpose="reference")
HOLE = torch.zeros(3, 1, 24, 24)
HOLE[:, :, 5:15, 3:17] = 1
GIVEN = dict(reference=REFERENCE, hole=HOLE, steps=3)


@pytest.fixture(scope="module")
def editor():
    return tiny_editor()


def differ(a, b):
    return (a - b).abs().amax(dim=(1, 2, 3)) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_picture_does_not_depend_on_its_batch(editor, eta):
    together = editor.edit(IMAGE, VECTORS, ["a", "b", 7], eta=eta, **GIVEN)
    assert together.shape == IMAGE.shape and together.min() >= 0 and together.max() <= 1
    for i, name in enumerate(["a", "b", 7]):
        own = dict(reference=REFERENCE[i : i + 1], hole=HOLE[i : i + 1], steps=3)
        close(editor.edit(IMAGE[i : i + 1], VECTORS[i : i + 1], [name], eta=eta, **own), together[i : i + 1])


def test_seed_id_and_request_decide(editor):
    plain = editor.edit(IMAGE, VECTORS, range(3), **GIVEN)
    assert torch.equal(editor.edit(IMAGE, VECTORS, range(3), **GIVEN), plain)
    assert differ(editor.edit(IMAGE, VECTORS, range(3), seed=1, **GIVEN), plain).all()
    assert differ(editor.edit(IMAGE, VECTORS, [0, 1, 3], **GIVEN), plain).tolist() == [False, False, True]
    assert differ(editor.edit(IMAGE, VECTORS, range(3), eta=1.0, **GIVEN), plain).all()
    asked = editor.edit(IMAGE, [VECTORS[0], FULL.only("grain"), VECTORS[2]], range(3), **GIVEN)
    moved = (asked - plain).abs().amax(dim=(1, 2, 3))
    assert moved[1] > 1e-4 and moved[0] == moved[2] == 0


def test_what_is_under_the_hole_is_never_looked_at(editor):
    plain = editor.edit(IMAGE, VECTORS, range(3), **GIVEN)
    vandalised = torch.where(HOLE.bool(), torch.nan, IMAGE)
    found = editor.edit(torch.cat([vandalised[:1], IMAGE[1:]]), VECTORS, range(3), **GIVEN)
    assert torch.equal(found, plain)
    # where inpainting is off, the image counts and the mask does not
    other = torch.where(HOLE.bool(), 1 - IMAGE, IMAGE)
    found = editor.edit(other, VECTORS, range(3), **GIVEN)
    assert differ(found, plain).tolist() == [False, True, True]
    assert torch.equal(editor.edit(IMAGE, VECTORS, range(3), **GIVEN | {"hole": HOLE.roll(3, dims=2)})[1:], plain[1:])


def test_inputs_follow_network_and_settings(editor):
    masked = tiny_editor(tiny_network(mask=True))
    inputs, _ = masked.conditions(IMAGE[..., :21, :], VECTORS, REFERENCE, HOLE[..., :21, :])
    share = F.avg_pool2d(F.pad(HOLE[:1, :, :21], (0, 0, 0, 3)), 4)
    close(inputs["mask"], torch.cat([share, torch.zeros(2, 1, 6, 6)]))  # inpainting is off for two
    latent = tiny_editor(tiny_network(reference="latent"))
    inputs, _ = latent.conditions(IMAGE, VECTORS, IMAGE, HOLE)
    close(inputs["reference"][:1], latent.autoencoder.encode(IMAGE[:1] * 2 - 1))
    assert not inputs["reference"][1:].any()
    flat = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None].expand(1, 3, 70, 31)
    inputs, _ = tiny_editor(fill=0.5).conditions(IMAGE, [FULL] * 3, flat, HOLE)
    close(inputs["reference"], (flat[:, :, :6, :6] * 2 - 1).expand(3, -1, -1, -1))
    close(inputs["source"], editor.autoencoder.encode(torch.where(HOLE.bool(), 0.5, IMAGE) * 2 - 1))
    coded, autoencoder = replace(editor, quantize=True), editor.autoencoder
    close(coded.floor(IMAGE), (autoencoder.decode(autoencoder.encode(IMAGE * 2 - 1), True) + 1) / 2)


def test_grain_takes_further_steps(editor):
    """DDIM at uneven timesteps for the images that have grain, the even steps alone for the others."""
    inputs, _ = editor.conditions(IMAGE, VECTORS, REFERENCE, HOLE)
    start = KeyedNoise(0, range(3), "sample/x_T").normal(tuple(inputs["source"].shape[1:]))
    even = [999, 666, 332]
    steps = list(editor.trajectory(IMAGE, VECTORS, range(3), **GIVEN)[0])
    assert [step.t for step in steps] == [*even, 100, 20]
    for i, times in enumerate(([*even, 100, 20], even)):
        model = model_fn(editor.network, **{name: value[[i]] for name, value in inputs.items()})
        by_hand = ddim(model, start[[i]], editor.schedule, times, prediction=editor.prediction, clip=False)
        close(steps[-1].x[[i]], last(by_hand).x)
    plain = replace(editor, late=())
    found, without = (made.edit(IMAGE, VECTORS, range(3), **GIVEN) for made in (editor, plain))
    assert differ(found, without).tolist() == [True, False, False] and torch.equal(found[1:], without[1:])
    many = GIVEN | {"steps": 50}  # the last of them is at t = 19: nothing is left to look at
    assert torch.equal(editor.edit(IMAGE, VECTORS, range(3), **many), plain.edit(IMAGE, VECTORS, range(3), **many))


@pytest.fixture(scope="module")
def singles():
    return {task: tiny_editor(tiny_network(seed)) for seed, task in enumerate(("inpaint", "grain", "colour"), start=1)}


@pytest.mark.parametrize("order", [("blur", "grain", "colour", "sharpen"), ("sharpen", "colour", "grain", "blur")])
def test_a_sequence_is_its_steps_by_hand(singles, order):
    tasks = ("inpaint", "grain", "colour")
    vectors = [FULL.only(*tasks), EditingVector(grain=0.1, colour=True, inpaint=True)]
    found = in_sequence(
        singles, IMAGE[:2], vectors, ["x", "y"], recipe=Recipe(order=order), reference=REFERENCE[:2], hole=HOLE[:2],
        steps=2, seed=5,
    )  # fmt: skip
    image = singles["inpaint"].edit(
        IMAGE[:2], [v.only("inpaint") for v in vectors], ["x", "y"], hole=HOLE[:2], steps=2, seed=5
    )
    for task in ("grain", "colour") if order[0] == "blur" else ("colour", "grain"):
        reference = REFERENCE[:2] if task == "colour" else None
        ids = [f"x {task}", f"y {task}"]  # every network its own noise
        image = singles[task].edit(image, [v.only(task) for v in vectors], ids, reference=reference, steps=2, seed=5)
    assert torch.equal(found, image)


def test_inversion_comes_back_to_the_source():
    """With the empty request, the way up and the way down are one ODE: what is left is the autoencoder's own error."""
    editor = tiny_editor(tiny_network(scale=0.2), prediction="epsilon")
    image, vectors, floor = IMAGE[:1], [EditingVector()], editor.floor(IMAGE[:1])
    error = [
        (editor.edit(image, vectors, [0], inversion=True, steps=steps) - floor).abs().mean() for steps in (3, 9, 27)
    ]
    assert error[0] > 2 * error[1] > 4 * error[2] and error[2] < 0.01  # first order: a third, three times
    assert (editor.edit(image, vectors, [0], steps=27) - floor).abs().mean() > 10 * error[2]
