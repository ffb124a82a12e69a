"""The label drawn at a visit, and what it leaves of vector and pictures."""

from __future__ import annotations

import pytest
import torch

from repro.editing import labels
from repro.editing.vector import TASKS, EditingVector, batch
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

FULL = EditingVector(blur=0.3, grain=0.05, colour=True, inpaint=True, sharpen=(2.5, 0.04))


def noises(ids):
    return lambda purpose: KeyedNoise(3, ids, purpose)


def test_names_follow_the_order_of_the_vector():
    found = (labels.BLUR, labels.GRAIN, labels.COLOUR, labels.INPAINT, labels.SHARPEN)
    assert found == tuple(range(1, 6)) and labels.NONE == 0 and len(TASKS) == 5


def test_only_equals_the_vectors_own_only():
    label = torch.arange(labels.COUNT)
    wanted = batch([FULL.only(*name) for name in ((), *((task,) for task in TASKS))])
    assert torch.equal(labels.only(batch([FULL] * 6), label), wanted)


def test_labels_are_uniform_and_each_samples_own():
    drawn = labels.draw(noises(list(range(6000))), 6000)
    counts = torch.bincount(drawn, minlength=6)
    assert len(counts) == 6 and (counts - 1000).abs().max() < 120  # four deviations
    assert torch.equal(labels.draw(noises([17, 5]), 2), drawn[[17, 5]])


def test_pair_takes_what_the_label_names():
    held = {name: torch.full((3, 1), float(value)) for value, name in enumerate(("sharp", *TASKS))}
    held["masked"] = torch.full((3, 1), 9.0)
    source, target = labels.pair(held, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))
    assert source[:, 0].tolist() == [0, 0, 0, 0, 9, 0]
    assert target[:, 0].tolist() == [0, 1, 2, 3, 0, 5]
    assert held["sharp"].eq(0).all()  # the bank is left as it was


def test_mistakes_are_named():
    with pytest.raises(ReproError, match="noise of 2 samples for a batch of 3"):
        labels.draw(noises([1, 2]), 3)
    with pytest.raises(ReproError, match=r"vectors \(2, 4\)"):
        labels.only(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
