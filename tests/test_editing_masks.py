"""Free-form masks: the published statistics, the slider, and that a mask is its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import repro.editing.effects.masks as masks
from repro.editing.effects.masks import box_mask, cut_hole, free_form_mask
from repro.errors import ReproError

SMALL = (64, 64)


def share(mask: torch.Tensor) -> torch.Tensor:
    return mask.mean((1, 2, 3))


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1500), ((256, 256), 120)])
def test_strokes_and_boxes_have_the_published_statistics(size, count):
    """1500 draws of the published code: strokes mean .150, 5/50/95% .036/.143/.288; boxes mean .192, .141 to .250."""
    strokes = share(free_form_mask(0, range(count), size))
    loose = (1500 / count) ** 0.5
    assert strokes.mean().item() == pytest.approx(0.150, abs=0.008 * loose)
    quantiles = strokes.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    for found, wanted, within in zip(quantiles, (0.036, 0.143, 0.288), (0.006, 0.011, 0.015), strict=True):
        assert found == pytest.approx(wanted, abs=within * loose)
    assert strokes.min() > 0
    assert strokes.max() < 0.5
    boxes = share(box_mask(0, range(count), size))
    assert boxes.mean().item() == pytest.approx(0.192, abs=0.003 * loose)
    assert boxes.min() >= 0.140
    assert boxes.max() <= 0.2501
    assert boxes.max() - boxes.min() > 0.1


def test_holes_are_one_and_kept_is_zero():
    mask = free_form_mask(1, range(50), SMALL)
    assert mask.shape == (50, 1, 64, 64)
    assert mask.dtype == torch.float32
    assert mask.unique().tolist() == [0, 1]
    assert share(mask).mean() < 0.3  # mostly kept


def test_published_counts_and_lengths():
    """What is drawn, before it is painted: all values that the constants allow, and no other."""
    start, end, brush, drawn = masks._strokes(0, range(2000), 256, 256, torch.device("cpu"))
    exists = (brush > 0).view(2000, 3, 11)
    assert exists.any(2).sum(1).unique().tolist() == [1, 2, 3]
    assert exists.sum(2)[exists.any(2)].unique().tolist() == list(range(4, 12))
    assert (brush[brush > 0] * 2).unique().tolist() == list(range(12, 40))
    assert (brush.view(2000, 3, 11)[exists.all(2)].std(1) == 0).all()  # one brush a stroke
    move = end - start
    inside = ((end > 0) & (end < 256)).all(2) & (brush > 0)  # not stopped by the border
    length = move.norm(dim=2)[inside]
    assert length.max() <= 2 * 45.2549
    assert 35 < length.median() < 47
    # Zig-zag about 2 pi / 5: up, down, up, ... and always to the right.
    angle = torch.atan2(move[..., 0], move[..., 1])[inside & (move.norm(dim=2) > 1)]
    assert (angle.abs() > torch.pi * (2 / 5 - 2 / 15) - 1e-3).all()
    assert (angle.abs() < torch.pi * (2 / 5 + 2 / 15) + 1e-3).all()
    number = torch.arange(33) % 11
    up = (move[..., 0] < 0)[inside & (number % 2 == 0) & (move.norm(dim=2) > 1)]
    assert up.all()
    assert (start >= 0).all()
    assert (end <= 256).all()
    assert drawn.view(2000, 3, 11, 2)[exists].max() == 1


@settings(max_examples=25)
@given(
    ids=st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=4)), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_a_mask_depends_on_seed_id_and_size_alone(ids, seed, data):
    order = data.draw(st.permutations(range(len(ids))))
    size = data.draw(st.sampled_from([(16, 16), (24, 40)]))
    options = data.draw(st.sampled_from([{}, {"box": True}, {"fraction": 0.2}]))
    together = free_form_mask(seed, ids, size, **options)
    assert torch.equal(free_form_mask(seed, [ids[i] for i in order], size, **options), together[order])
    assert torch.equal(torch.cat([free_form_mask(seed, [i], size, **options) for i in ids]), together)


def test_seeds_and_ids_differ_and_blocks_do_not(monkeypatch):
    first = free_form_mask(0, range(8), SMALL)
    assert len({tuple(m.flatten().tolist()) for m in first}) == 8
    assert not torch.equal(free_form_mask(1, range(8), SMALL), first)
    monkeypatch.setattr(masks, "_BLOCK", 1)
    assert torch.equal(free_form_mask(0, range(8), SMALL), first)


def test_the_slider_is_exact_and_grows_one_hole():
    """Every fraction to the pixel, each hole inside the next, and the published mask among them."""
    ids = range(6)
    published = free_form_mask(3, ids, (40, 56))
    same = free_form_mask(3, ids, (40, 56), fraction=share(published))
    assert torch.equal(same, published)
    before = torch.zeros_like(published)
    for fraction in (0.0, 0.01, 0.1, 0.3, 0.7, 1.0):
        mask = free_form_mask(3, ids, (40, 56), fraction=fraction)
        assert (mask.sum((1, 2, 3)) == round(fraction * 40 * 56)).all()
        assert (mask >= before).all()
        before = mask


def test_a_box_joins_the_strokes():
    both, strokes, box = (
        free_form_mask(0, range(20), SMALL, box=True),
        free_form_mask(0, range(20), SMALL),
        box_mask(0, range(20), SMALL),
    )
    assert torch.equal(both, torch.maximum(strokes, box))
    rows, columns = box[:, 0].amax(2).sum(1), box[:, 0].amax(1).sum(1)
    assert torch.equal(rows * columns, box.sum((1, 2, 3)))  # one solid rectangle each
    assert rows.min() >= 24
    assert max(rows.max(), columns.max()) <= 32


def test_an_oblong_mask_reaches_its_whole_picture():
    reach = free_form_mask(0, range(400), (32, 96)).amax((0, 1))
    assert reach.min() == 1


def test_cut_hole_fills_the_hole_and_keeps_the_rest():
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = free_form_mask(0, [1, 2], (16, 16))
    cut = cut_hole(image, mask, fill=-1.0)
    hole = mask.bool().expand_as(image)
    assert (cut[hole] == -1).all()
    assert torch.equal(cut[~hole], image[~hole])
    assert torch.equal(cut_hole(image[0], mask[0], fill=-1.0), cut[0])
    assert torch.equal(cut_hole(image, mask[:1])[0], cut_hole(image[:1], mask[:1])[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: free_form_mask(0, [], SMALL), "at least one"),
        (lambda: free_form_mask(0, [1], (64, 7)), r"whole numbers from 8: got \(64, 7\)"),
        (lambda: free_form_mask(0, [1], (64, 64.0)), "whole numbers"),
        (lambda: free_form_mask(0, [1], SMALL, fraction=1.1), r"\[0, 1\]: got 1.1"),
        (lambda: free_form_mask(0, [1, 2], SMALL, fraction=torch.ones(3)), "one number or one per mask"),
        (lambda: free_form_mask(0, [1], SMALL, fraction=0.2, box=True), "box"),
        (lambda: cut_hole(torch.zeros(3, 8, 8), torch.zeros(1, 8, 9)), "does not fit"),
        (lambda: cut_hole(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)), "does not fit"),
        (lambda: cut_hole(torch.zeros(3, 3, 8, 8), torch.zeros(2, 1, 8, 8)), "2 masks do not fit 3"),
        (lambda: cut_hole(torch.zeros(3, 8, 8), torch.full((1, 8, 8), 0.5)), "0 .kept. and 1 .hole. only"),
    ],
)
def test_refused(call, words):
    with pytest.raises(ReproError, match=words):
        call()
