"""Composites: the order that is stated, every effect its own function, nothing borrowed from the batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.editing.effects import compose as room
from repro.editing.effects.blur import motion_blur
from repro.editing.effects.colour import colour_transfer
from repro.editing.effects.compose import BLACK, GREY, ORDER, Recipe, compose
from repro.editing.effects.grain import film_grain
from repro.editing.effects.masks import free_form_mask
from repro.editing.effects.sharpen import unsharp_mask
from repro.editing.vector import TASKS, EditingVector
from repro.errors import ReproError

SIZE = 32
QUICK = Recipe(samples=8)
EVERYTHING = EditingVector(blur=0.4, grain=0.1, colour=True, inpaint=True, sharpen=(2.0, 0.02))


def picture(batch: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 1)


def test_the_order_is_the_one_stated():
    image, reference = picture(1), picture(1, seed=1)
    target = compose(image, EVERYTHING, seed=3, ids=["a"], reference=reference, recipe=QUICK).target
    by_hand = motion_blur(image, 0.4, 3, ["a"])
    by_hand = film_grain(by_hand, 0.1, seed=3, ids=["a"], n_samples=8)
    by_hand = colour_transfer(by_hand, reference)
    by_hand = unsharp_mask(by_hand, 2.0, 0.02)
    assert torch.allclose(target, by_hand, atol=1e-6)
    assert ORDER == ("blur", "grain", "colour", "sharpen")


def test_another_order_makes_another_target():
    image, reference = picture(1), picture(1, seed=1)
    targets = [
        compose(image, EVERYTHING, seed=3, ids=[0], reference=reference, recipe=Recipe(order=order, samples=8)).target
        for order in itertools.permutations(ORDER)
    ]
    stated = compose(image, EVERYTHING, seed=3, ids=[0], reference=reference, recipe=QUICK).target
    same = [torch.allclose(target, stated, atol=1e-3) for target in targets]
    assert same.count(True) == 1 and same[0]  # the first permutation is ORDER itself


def test_inpainting_is_in_the_source_alone():
    image = picture(2)
    hole = torch.zeros(1, 1, SIZE, SIZE)
    hole[..., 4:10, 6:20] = 1
    whole = EditingVector(sharpen=(2.0, 0.0))
    made = compose(image, [EditingVector(inpaint=True, sharpen=(2.0, 0.0)), whole], seed=0, ids=[0, 1], hole=hole)
    assert torch.equal(made.target, compose(image, whole, seed=0, ids=[0, 1]).target)
    assert torch.equal(made.source[0], image[0] * (1 - hole[0])) and torch.equal(made.source[1], image[1])
    assert torch.equal(made.hole, torch.cat([hole, torch.zeros_like(hole)]))
    grey = compose(image, EditingVector.of("inpaint"), seed=0, ids=[0, 1], hole=hole, recipe=Recipe(fill=GREY))
    # The product with the mask in [-1, 1] is this fill in [0, 1].
    assert torch.allclose(2 * grey.source - 1, (2 * image - 1) * (1 - hole), atol=1e-6)
    assert torch.equal(grey.target, image) and Recipe().fill == BLACK


def test_holes_are_drawn_from_seed_and_id():
    image = picture(3)
    made = compose(image, EditingVector.of("inpaint"), seed=5, ids=["x", 1, 2])
    assert torch.equal(made.hole, free_form_mask(5, ["x", 1, 2], (SIZE, SIZE)).to(image))
    assert set(made.hole.unique().tolist()) == {0.0, 1.0}
    assert made.hole.mean() < 0.6  # 1 is the hole, not what is kept
    assert not torch.equal(made.hole[0], made.hole[1])
    alone = compose(image[2:], EditingVector.of("inpaint"), seed=5, ids=[2])
    assert torch.equal(alone.hole[0], made.hole[2])


def test_nothing_asked_nothing_done():
    image = picture(2)
    for vector in (EditingVector(), EditingVector(blur=0.0, grain=0.0)):
        made = compose(image, vector, seed=0, ids=[0, 1])
        assert torch.equal(made.source, image) and torch.equal(made.target, image) and made.hole.sum() == 0


@settings(max_examples=12)
@given(
    asked=st.lists(st.sets(st.sampled_from(TASKS)), min_size=2, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_a_picture_does_not_depend_on_its_batch(asked, seed):
    count = len(asked)
    vectors = [EditingVector.of(*tasks) for tasks in asked]
    image, reference, ids = picture(count), picture(count, seed=1), [f"id {i}" for i in range(count)]
    together = compose(image, vectors, seed=seed, ids=ids, reference=reference, recipe=QUICK)
    for i in range(count):
        one = slice(i, i + 1)
        alone = compose(image[one], vectors[i], seed=seed, ids=ids[one], reference=reference[one], recipe=QUICK)
        for got, wanted in zip(alone, together, strict=True):
            # A rounding error may carry one Monte-Carlo point of grain, or one pixel's threshold, across.
            assert ((got[0] - wanted[i]).abs() > 1e-4).float().mean() < 0.01


def test_the_sequence_of_single_tasks_makes_the_target():
    image, reference, hole = picture(1), picture(1, seed=1), torch.zeros(1, 1, SIZE, SIZE)
    whole = compose(image, EVERYTHING, seed=0, ids=[0], reference=reference, hole=hole, recipe=QUICK)
    steps = QUICK.sequence(EVERYTHING)
    assert [step.active for step in steps] == [("inpaint",), ("blur",), ("grain",), ("colour",), ("sharpen",)]
    current = image
    for step in steps:
        current = compose(current, step, seed=0, ids=[0], reference=reference, hole=hole, recipe=QUICK).target
    assert torch.equal(current, whole.target)
    assert [s.active for s in QUICK.sequence(EditingVector.of("sharpen", "grain"))] == [("grain",), ("sharpen",)]
    assert QUICK.sequence(EditingVector()) == ()


def test_a_planted_fault_is_seen(monkeypatch):
    """Two effects exchanged behind the stated order: noticed."""
    monkeypatch.setattr(room.Recipe, "__post_init__", lambda self: object.__setattr__(self, "order", self.order[::-1]))
    monkeypatch.setitem(globals(), "QUICK", Recipe(samples=8))
    with pytest.raises(AssertionError):
        test_the_order_is_the_one_stated()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(vectors=EditingVector.of("colour")), "there is no reference picture"),
        (dict(vectors=EditingVector.of("colour"), reference=picture(3)), "3 references for 2 pictures"),
        (dict(vectors=[EditingVector()]), "2 pictures, 1 requests and 2 ids"),
        (dict(ids=[0]), "2 pictures, 2 requests and 1 ids"),
        (dict(image=picture(1)[0]), r"\(3, 32, 32\)"),
        (
            dict(vectors=EditingVector.of("inpaint"), hole=torch.zeros(2, 1, 8, 8)),
            r"the mask's shape \(2, 1, 8, 8\) does not fit",
        ),
        (
            dict(vectors=EditingVector.of("inpaint"), hole=torch.full((1, 1, SIZE, SIZE), 0.5)),
            "0 .* and 1 .* only: got values from 0.5",
        ),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ReproError, match=message):
        compose(**dict(image=picture(2), vectors=EditingVector(), seed=0, ids=[0, 1]) | arguments)


@pytest.mark.parametrize("order", [("blur", "grain"), ("blur", "blur", "grain", "colour"), (*ORDER, "inpaint")])
def test_an_order_names_each_effect_once(order):
    with pytest.raises(ReproError, match="each of blur, grain, colour, sharpen once"):
        Recipe(order=order)
    with pytest.raises(ReproError, match="filled with -1"):
        Recipe(fill=-1)
