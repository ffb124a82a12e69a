"""How blurred a frame is whose sharp frame is known."""

from __future__ import annotations

import pytest
import torch

from repro.data import pack
from repro.editing.effects.blur import motion_blur
from repro.editing.study.benchmark import VERSION
from repro.editing.study.degree import DECIMALS, blur_degree
from repro.errors import ReproError


@pytest.fixture(scope="module")
def photographs():
    crops = [pack.load(p)[:, 40:168, 40:168] for p in pack.photos("train")[::4]]
    return torch.stack(crops)


def test_the_degree_of_a_still_blurred_by_a_known_degree_is_found_again(photographs):
    """Straight motion of unknown direction stands for a shaken camera's: right for most crops, in order for each."""
    ids = [f"still {i}" for i in range(len(photographs))]
    asked = (0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 1.0)
    found = torch.tensor([blur_degree(photographs, motion_blur(photographs, b, VERSION, ids)) for b in asked])
    assert (found[0] == 0).all() and (found <= 1).all()
    assert ((found.diff(dim=0) > 0) | (found[1:] == 1)).all()
    for beta, row in zip(asked, found, strict=True):
        assert row.median().item() == pytest.approx(beta, abs=0.1)
        assert (row - beta).abs().mean() < 0.15


def test_the_degree_grows_with_the_difference_and_knows_no_contrast(photographs):
    blurred = motion_blur(photographs, 0.4, VERSION, list(range(len(photographs))))
    degrees = [torch.tensor(blur_degree(photographs, torch.lerp(photographs, blurred, w))) for w in (0.2, 0.5, 0.9)]
    assert (degrees[0] < degrees[1]).all() and (degrees[1] < degrees[2]).all()
    paler = blur_degree(0.3 + 0.4 * photographs, 0.3 + 0.4 * blurred)
    assert paler == pytest.approx(blur_degree(photographs, blurred), abs=10.0**-DECIMALS)
    alone = blur_degree(photographs[1:2], blurred[1:2])
    assert alone == blur_degree(photographs, blurred)[1:2]


def test_the_degree_ends_at_one_and_is_none_where_nothing_is_to_be_seen(photographs):
    assert blur_degree(photographs, 1 - photographs) == [1.0] * len(photographs)
    flat = torch.full((1, 3, 32, 32), 0.4)
    assert blur_degree(flat, flat) == [0.0] and blur_degree(flat, flat + 0.2) == [0.0]
    with pytest.raises(ReproError, match=r"blur degree: got \(1, 3, 32, 32\) and \(1, 3, 16, 16\)"):
        blur_degree(flat, flat[..., :16, :16])
