"""Crops depend on (seed, id) and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data.crops import crop_places, crops
from repro.errors import ReproError

IDS = st.lists(st.integers(0, 2**40) | st.text(max_size=8), min_size=1, max_size=8, unique=True)


def _coded(height: int, width: int) -> torch.Tensor:
    """(1, H, W) int64 whose every pixel tells where it was."""
    return torch.arange(height * width).view(1, height, width)


@settings(max_examples=60, deadline=None)
@given(ids=IDS, seed=st.integers(0, 2**32), data=st.data())
def test_any_batch_in_any_order_gives_the_same_crops(ids, seed, data):
    shapes = [data.draw(st.tuples(st.integers(8, 20), st.integers(8, 20))) for _ in ids]
    images = [_coded(*shape) for shape in shapes]
    together = crops(images, 8, ids, seed)
    assert together.shape == (len(ids), 1, 8, 8)
    order = data.draw(st.permutations(range(len(ids))))
    shuffled = crops([images[i] for i in order], 8, [ids[i] for i in order], seed)
    assert torch.equal(shuffled, together[list(order)])
    for i, image in enumerate(images):
        assert torch.equal(crops([image], 8, [ids[i]], seed)[0], together[i])


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    name=st.integers(0, 10**9),
    flip=st.booleans(),
)
def test_a_crop_is_a_piece_of_its_picture(height, width, size, seed, name, flip):
    image = _coded(height, width)
    if size > min(height, width):
        with pytest.raises(ReproError, match=f"{size}x{size} crop does not fit into sample {name} of {height}x{width}"):
            crops([image], size, [name], seed, flip=flip)
        return
    cut = crops([image], size, [name], seed, flip=flip)[0]
    (top,), (left,), (mirrored,) = crop_places([(height, width)], size, [name], seed)
    assert 0 <= top <= height - size and 0 <= left <= width - size
    piece = image[:, top : top + size, left : left + size]
    assert torch.equal(cut, piece.flip(-1) if flip and mirrored else piece)


def test_every_place_and_both_orientations_come_up_evenly():
    count = 6000
    tops, lefts, mirrored = crop_places([(10, 9)] * count, 8, range(count), seed=3)
    cells = torch.zeros(3, 2, 2)
    for top, left, mirror in zip(tops, lefts, mirrored, strict=True):
        cells[top, left, int(mirror)] += 1
    expected = count / 12
    assert (((cells - expected) ** 2) / expected).sum() < 31.3  # chi squared, 11 degrees of freedom, p = 0.001


def test_seed_and_id_change_the_crop():
    image = torch.rand(3, 200, 200)
    base = crops([image], 16, [5], 0)
    assert not torch.equal(base, crops([image], 16, [6], 0))
    assert not torch.equal(base, crops([image], 16, [5], 1))


def test_batch_tensor_and_list_agree_and_dtype_is_kept():
    images = torch.randint(0, 255, (4, 3, 20, 20), dtype=torch.uint8)
    assert torch.equal(crops(images, 8, torch.arange(4), 1), crops(list(images), 8, [0, 1, 2, 3], 1))
    assert crops(images, 8, torch.arange(4), 1).dtype == torch.uint8


def test_bad_calls_are_told():
    with pytest.raises(ReproError, match="2 pictures and 1 ids"):
        crops(torch.zeros(2, 3, 8, 8), 8, [1], 0)
    with pytest.raises(ReproError, match="no pictures"):
        crops([], 8, [], 0)
    with pytest.raises(ReproError, match="0x0 crop"):
        crops(torch.zeros(1, 3, 8, 8), 0, [1], 0)
