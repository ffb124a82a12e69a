"""The embedded pack: counts, credits, loading, hashes, and no test subject that leaks."""

import io
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from repro.data import pack
from repro.data.images import resize
from repro.errors import ReproError
from repro.metrics.features import efficientnet_lite0, extract


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the pack that a test may damage."""
    folder = tmp_path / "pack"
    shutil.copytree(pack.PACK, folder)
    monkeypatch.setattr(pack, "PACK", folder)
    caches = (pack._images, pack.fashion, pack.pack_hash)
    for cache in caches:
        cache.cache_clear()
    yield folder
    for cache in caches:
        cache.cache_clear()


def test_every_file_is_in_one_split_and_credited():
    pictures = pack.photos(None, None)
    listed = [p.path for p in pictures]
    on_disk = {*(pack.PACK / "photos").iterdir(), *(pack.PACK / "thumbs").iterdir()}
    assert len(listed) == len(set(listed)) == 102 + 138 and set(listed) == on_disk
    assert len(pack.photos()) == 102 and len(pack.photos(kind="thumb")) == 138
    for p in pictures:
        assert p.split in pack.SPLITS and p.kind in pack.KINDS and p.id.startswith(f"{p.kind}s/")
        assert p.source.startswith("http") and p.licence.lower().startswith(("public domain", "cc0", "cc-by"))
        assert p.author and p.credit == f"{p.author}, {p.licence}, {p.source}"
    assert Counter(p.licence for p in pack.photos())["CC-BY-SA-4.0"] == 27


def test_the_split_is_settled_and_large_enough():
    """A later change would retrain everything: this is its hash as it was when the first network was trained."""
    assert pack.file_hash(pack.PACK / "split.csv") == "bd8994d227b8e129b4c31ab780629484393e4bafadad0bc41d39e003037f5a86"
    subjects = {s: {p.subject for p in pack.photos(s)} for s in pack.SPLITS}
    assert len(subjects["test"]) >= 24 and len(subjects["validation"]) >= 8
    assert len(pack.photos("gallery", None)) >= 60 and len(pack.photos("train")) >= 54
    for split in pack.SPLITS:
        assert {p.category for p in pack.photos(split)} == {"animal", "monument"}


def test_pictures_load_in_range_and_wrong_names_are_refused():
    for p in [*pack.photos("test")[:3], *pack.photos("train", "thumb")[:2]]:
        image = pack.load(p)
        assert image.dtype == torch.float32 and image.shape[0] == 3
        assert min(image.shape[1:]) == (384 if p.kind == "photo" else 128)
    with pytest.raises(ReproError, match="train, validation, test, gallery"):
        pack.photos("tset")
    with pytest.raises(ReproError, match="names 2 images"):
        pack.image("monuments_colosseum")
    assert pack.image("erase_bee") is pack.image("photos/erase_bee")


def test_fashion_is_the_public_data_set_in_balanced_disjoint_splits():
    with np.load(pack.PACK / "fashion_mnist_subset.npz", allow_pickle=False) as file:
        assert file["train_labels"][:8].tolist() == [9, 0, 0, 3, 0, 2, 7, 2] and pack.class_names[9] == "Ankle boot"
        assert abs(file["train_images"].mean() / 255 - 0.2860) < 0.002  # as every copy of Fashion-MNIST has it
        images = torch.from_numpy(np.concatenate([file["train_images"], file["test_images"]]))
        labels = np.concatenate([file["train_labels"], file["test_labels"]])
    parts = {}
    for name, each in (("train", 1100), ("validation", 100), ("test", 300)):
        x, y, ids = pack.fashion(name)
        assert x.dtype == torch.float32 and x.shape == (10 * each, 1, 28, 28) and y.dtype == torch.int64
        assert y.bincount().tolist() == [each] * 10 and len(ids) == 10 * each
        # an id is a place in the file, so that image and label are what they say
        places = torch.tensor([int(i.removeprefix("fashion ")) for i in ids])
        assert torch.equal(images[places], ((x[:, 0] + 1) * 127.5).round().byte())
        assert (labels[places] == y.numpy()).all()
        parts[name] = places, y
    places = torch.cat([places for places, _ in parts.values()])
    assert len(places.unique()) == len(places) == 15000
    (kept, y), (held, z) = parts["train"], parts["validation"]
    assert all(held[z == c].min() > kept[y == c].max() for c in range(10))


def test_pack_hash_follows_the_data_and_only_the_data(copy):
    hashed = pack.pack_hash.__wrapped__  # not remembered
    whole = hashed()
    assert whole == pack.pack_hash() and len(whole) == 64 and pack.verify() == []
    split = copy / "split.csv"
    split.write_bytes(split.read_bytes().replace(b"\n", b"\r\n"))  # a checkout on Windows
    assert hashed() == whole and pack.verify() == []
    (copy / "ATTRIBUTION.csv").write_text((copy / "ATTRIBUTION.csv").read_text() + "\n")
    assert hashed() == whole and len(pack.verify()) == 1
    picture = copy / "photos" / "erase_bee.jpg"
    data = bytearray(picture.read_bytes())
    data[-1] ^= 1
    picture.write_bytes(data)
    assert hashed() != whole and any("erase_bee.jpg: not part" in line for line in pack.verify())
    picture.unlink()
    (copy / "photos" / "stranger.jpg").write_bytes(b"x")
    lines = "\n".join(pack.verify())
    assert "erase_bee.jpg: missing" in lines and "stranger.jpg: not part of the pack" in lines


THRESHOLD = 0.735
HELD = ("test", "validation")


def test_a_damaged_file_is_one_sentence(copy):
    arrays = copy / "fashion_mnist_subset.npz"
    whole, pickled = arrays.read_bytes(), io.BytesIO()
    np.savez(pickled, train_images=np.array([object()]))  # a pickle inside is never opened
    for data in (pickled.getvalue(), whole[:9000], whole[:5000] + b"damaged" + whole[5007:], b""):
        arrays.write_bytes(data)
        with pytest.raises(ReproError, match=r"fashion_mnist_subset\.npz: damaged .*git checkout"):
            pack.fashion("train")
    for name, data in (("split.csv", b"file\nphotos/x.jpg\n"), ("ATTRIBUTION.csv", b"\xff"), ("split.csv", b"a\nb")):
        (copy / name).write_bytes(data)
        with pytest.raises(ReproError, match=r"damaged .*git checkout"):
            pack.photos()


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
