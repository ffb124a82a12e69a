"""The benches of notebook 02 run in the smoke profile; no time is asserted."""

from __future__ import annotations

import pytest
import torch

from repro.editing.bench import BENCHES, REQUEST, editor, picture
from repro.editing.config import SMOKE


@pytest.mark.parametrize("bench", BENCHES, ids=lambda b: b.name)
def test_every_arm_does_its_work(bench):
    arms = bench.make("smoke")
    assert {r.of for r in bench.ratios} | {r.over for r in bench.ratios} <= set(arms)
    for start in arms.values():
        blocks = start()
        assert next(blocks) > 0 and next(blocks) > 0


def test_the_work_is_that_of_the_notebook():
    made, image = editor(SMOKE), picture(32)
    out = made.edit(image, [REQUEST], ["bench"], reference=image, steps=2)
    assert out.shape == image.shape and torch.isfinite(out).all()
    assert not any(p.requires_grad for p in made.network.parameters())
