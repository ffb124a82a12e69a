"""No test subject leaks: by name, and by what the pictures show.

The embedding threshold. Similarity is the largest cosine between EfficientNet-Lite0 features of the views below.
Between a test or validation picture and every picture of another split, all of them different subjects, it reaches
0.70 (one domed building beside another). Copies mirrored, darkened and cropped to 70% of their side stay above 0.77.
The threshold stands in the middle of that gap, and the tests assert both sides. It finds copies, not two photographs of
one monument (the Taj Mahal from two sides: 0.69): for those there are the subject names, the check of names below, and
the contact sheets that were looked at when the split was made.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import resize
from repro.data.pack import Picture
from repro.metrics.features import efficientnet_lite0, extract

THRESHOLD = 0.735
HELD = ("test", "validation")
# Names that no spelling rule joins. Whatever is added to the pack under one of them shows the other's subject.
SAME = [{"cat", "kitten"}, {"cow", "calf", "cattle"}, {"qutub minar", "kutub minar", "qutb minar"}]
# Names that are alike and are not the same: the gateway stands in Mumbai, the gate in Delhi.
DIFFERENT = [{"gateway of india", "india gate"}]
FILLER = {"of", "the", "de", "du", "des", "china", "animals", "farm", "world", "erase", "monuments", "tools", "fishes"}


@cache
def _words(name: str) -> str:
    """ "monuments_statueofLiberty" and "statue of liberty" both give "liberty statue"."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.rsplit("/", 1)[-1])
    words = re.sub(r"[^a-z]+", " ", name.lower()).split()
    words = [re.sub(r"(?<=[a-z]{4})of$", "", w).rstrip("s") for w in words if w not in FILLER]
    return " ".join(sorted(w.replace("ae", "e") for w in words if w not in FILLER))


def _among(first: str, second: str, groups: list[set[str]]) -> bool:
    return any({first, second} <= {_words(name) for name in group} for group in groups)


@cache
def _same_subject(first: str, second: str) -> bool:
    a, b = _words(first), _words(second)
    if not a or not b or _among(a, b, DIFFERENT):
        return False
    matcher = difflib.SequenceMatcher(None, a, b)
    if _among(a, b, SAME) or (matcher.real_quick_ratio() >= 0.85 and matcher.ratio() >= 0.85):
        return True
    short, long = sorted((set(a.split()), set(b.split())), key=len)
    return len(short) > 1 and short <= long


def name_leaks(pictures: list[Picture]) -> list[tuple[str, str]]:
    """Pictures of two splits, one of them held out, whose subjects or files are called alike."""
    return [
        (held.id, other.id)
        for held in pictures
        for other in pictures
        if held.split in HELD and other.split != held.split
        and any(_same_subject(a, b) for a in (held.subject, held.id) for b in (other.subject, other.id))
    ]  # fmt: skip


def test_no_held_out_name_elsewhere_and_no_two_spellings():
    pictures = pack.photos(None, None)
    assert name_leaks(pictures) == []
    subjects = sorted({p.subject for p in pictures})
    assert len({(p.subject, p.split) for p in pictures}) == len(subjects), "a subject in two splits"
    plain = {s: re.sub(r"[^a-z]", "", s.lower()).replace("q", "k").replace("ae", "e").rstrip("s") for s in subjects}
    assert [pair for pair in combinations(subjects, 2) if plain[pair[0]] == plain[pair[1]]] == []


@pytest.mark.parametrize(
    ("id", "subject"),
    [
        ("thumbs/monuments_kutubMinar", "kutub tower"),
        ("thumbs/monuments_statueOfLiberty", "lady of new york"),
        ("thumbs/monuments_tajMahal", "tajmahal"),
        ("photos/erase_kitten", "kitten"),
        ("photos/world_animals_giraffe", "giraffes"),
    ],
)
def test_a_planted_name_is_caught(id, subject):
    """The file moved to the training set under another subject: the exact comparison sees nothing, this one does."""
    planted = [replace(p, split="train", subject=subject) if p.id == id else p for p in pack.photos(None, None)]
    assert any(other == id for _, other in name_leaks(planted))


# --- pictures ---------------------------------------------------------------------------------------------------------


def embed(image: Tensor, views: list[tuple[tuple[float, float], float]]) -> Tensor:
    """(V, 1280) unit vectors of square views ((down, right) in [0, 1], share of the shorter side); one of a thumbnail.

    The network knows a mirrored picture nearly as the picture: flips need no views.
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


@cache
def _held() -> tuple[list[Picture], list[Tensor]]:
    pictures = [p for p in pack.photos(None, None) if p.split in HELD]
    return pictures, [embed(pack.load(p), HELD_VIEWS) for p in pictures]


def similarity(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """(len(first), len(second)) largest cosine over views."""
    return torch.stack([torch.stack([(a @ b.T).max() for b in second]) for a in first])


@pytest.mark.slow
def test_no_held_out_picture_looks_like_one_elsewhere():
    held, held_features = _held()
    others = [p for p in pack.photos(None, None) if p.split not in HELD]
    found = similarity(held_features, [embed(pack.load(p), OTHER_VIEWS) for p in others])
    assert [(held[i].id, others[j].id) for i, j in (found >= THRESHOLD).nonzero().tolist()] == []
    split = torch.tensor([p.split == "test" for p in held])  # test and validation are held apart from each other too
    assert similarity(held_features, held_features)[split][:, ~split].max() < THRESHOLD


@pytest.mark.slow
def test_planted_copies_are_caught():
    """Held-out pictures mirrored, cropped off-centre to 70% and darkened, as if they were in the training set; and the
    thumbnails that are the same photograph, cut and shrunk by someone else (both are kept in the test split)."""
    held, features = _held()
    for number, i in enumerate([i for i, p in enumerate(held) if p.kind == "photo"][::5]):
        image = pack.load(held[i])
        place = [(0.0, 0.0), (1.0, 0.3), (0.3, 1.0), (0.9, 0.9), (0.5, 0.1)][number % 5]
        side = round(0.7 * min(image.shape[1:]))
        top, left = (round(u * (n - side)) for u, n in zip(place, image.shape[1:], strict=True))
        planted = image[:, top : top + side, left : left + side].flip(-1) * 0.9
        found = similarity(features, [embed(planted, OTHER_VIEWS)])[:, 0]
        assert found.argmax() == i and found[i] >= THRESHOLD, held[i].id
    place = {p.id: i for i, p in enumerate(held)}
    for name in ("colosseum", "brandenburgGate"):
        photo, thumb = (features[place[f"{kind}/monuments_{name}"]] for kind in ("photos", "thumbs"))
        assert similarity([photo], [thumb]).item() >= THRESHOLD
