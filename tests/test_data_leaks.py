"""No test subject leaks: by what the images show. The split itself is frozen by its hash (`test_data_pack`).

Similarity is the largest cosine between EfficientNet-Lite0 features of the views below. Between different subjects it
reaches 0.70 (one domed building beside another); copies mirrored, darkened and cropped to 70% of their side stay above
0.77. It finds copies, not two photographs of one monument (the Taj Mahal from two sides: 0.69): for those there are the
subject names, and the contact sheets that were inspected when the split was made.
"""

import re

import pytest
import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import resize
from repro.metrics.features import efficientnet_lite0, extract

THRESHOLD = 0.735
HELD = ("test", "validation")


def test_subjects_are_in_one_split_and_spelled_in_one_way():
    pictures = pack.photos(None, None)
    subjects = sorted({p.subject for p in pictures})
    assert len({(p.subject, p.split) for p in pictures}) == len(subjects), "a subject in two splits"
    plain = {re.sub(r"[^a-z]", "", s.lower()).replace("q", "k").replace("ae", "e").rstrip("s") for s in subjects}
    assert len(plain) == len(subjects)


def embed(image: Tensor, views: list[tuple[tuple[float, float], float]]) -> Tensor:
    """(V, 1280) unit vectors of square views ((down, right) in [0, 1], share of the shorter side); one of a thumbnail.

    The network knows a mirrored image nearly as the image: flips need no views.
    """
    squares = []
    for place, part in views if min(image.shape[-2:]) > 128 else [((0.5, 0.5), 1.0)]:
        side = round(part * min(image.shape[-2:]))
        top, left = (round(u * (n - side)) for u, n in zip(place, image.shape[-2:], strict=True))
        squares.append(resize(image[..., top : top + side, left : left + side], 224))
    return torch.nn.functional.normalize(extract(efficientnet_lite0(), torch.stack(squares)), dim=1)


OTHER_VIEWS = [((0.5, 0.15), 1.0), ((0.5, 0.85), 1.0), ((0.5, 0.5), 0.7)]
HELD_VIEWS = [((0.5, x), 1.0) for x in (0.0, 0.5, 1.0)] + [((0.5, 0.5), 0.7)]
HELD_VIEWS += [((y, x), 0.7) for y in (0.15, 0.85) for x in (0.2, 0.8)]


def similarity(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """(len(first), len(second)) largest cosine over views."""
    return torch.stack([torch.stack([(a @ b.T).max() for b in second]) for a in first])


@pytest.mark.slow
def test_no_held_out_picture_looks_like_one_elsewhere():
    held = [p for p in pack.photos(None, None) if p.split in HELD]
    held_features = [embed(pack.load(p), HELD_VIEWS) for p in held]
    others = [p for p in pack.photos(None, None) if p.split not in HELD]
    found = similarity(held_features, [embed(pack.load(p), OTHER_VIEWS) for p in others])
    assert [(held[i].id, others[j].id) for i, j in (found >= THRESHOLD).nonzero().tolist()] == []
    split = torch.tensor([p.split == "test" for p in held])  # test and validation are held apart from each other too
    assert similarity(held_features, held_features)[split][:, ~split].max() < THRESHOLD
