"""Data sets, complete and not, as `repro data check` finds them; crops that depend on (seed, id) and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repro.cli import main
from repro.data import commands
from repro.data.crops import crop_places, crops
from repro.data.datasets import LAYOUTS, check
from repro.errors import ReproError

# As the real data sets name their files; those of a group pair.
REAL = {
    "lol": [("our485/low/2.png", "our485/high/2.png"), ("eval15/low/1.png", "eval15/high/1.png")],
    "raindrop": [
        ("train/data/0_rain.png", "train/gt/0_clean.png"),
        ("test_a/data/1_rain.jpg", "test_a/gt/1_clean.jpg"),
    ],
    "gopro": [
        ("train/GOPR0372_07_00/blur/000047.png", "train/GOPR0372_07_00/sharp/000047.png"),
        ("test/GOPR0384_11_00/blur/000001.png", "test/GOPR0384_11_00/sharp/000001.png"),
    ],
    "reds": [
        ("train/train_sharp/000/00000000.png", "train/train_blur/000/00000000.png"),
        ("val/val_sharp/029/00000099.png", "val/val_blur/029/00000099.png"),
    ],
    "sid": [
        ("Sony/short/00001_00_0.04s.ARW", "Sony/long/00001_00_10s.ARW"),
        ("Sony_train_list.txt",),
        ("Sony_val_list.txt",),
        ("Sony_test_list.txt",),
    ],
    "istd": [
        ("train/train_A/1-1.png", "train/train_C/1-1.png", "train/train_B/1-1.png"),
        ("test/test_A/91-1.png", "test/test_C/91-1.png", "test/test_B/91-1.png"),
    ],
}


def made(name: str, root: Path, monkeypatch) -> Path:
    """The files of `REAL`, and a layout that counts one of each part."""
    layout = LAYOUTS[name]
    parts = tuple(replace(p, count=1, folders=1 if p.folders else None) for p in layout.parts)
    monkeypatch.setitem(LAYOUTS, name, replace(layout, parts=parts))
    for file in (root / name for group in REAL[name] for name in group):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return root


@pytest.mark.parametrize("name", REAL)
def test_real_names_pair_up_and_broken_ones_do_not(name, tmp_path, monkeypatch):
    found, problems = check(name, made(name, tmp_path, monkeypatch))
    assert not problems and len(found) == sum(not part.optional for part in LAYOUTS[name].parts)
    first = tmp_path / REAL[name][0][0]
    first.rename(first.with_name(first.name.replace("1", "2").replace("0", "3").replace("2.png", "7.png")))
    assert any("no partner" in p for p in check(name, tmp_path)[1])


def test_what_is_wrong_is_said(tmp_path, monkeypatch, capsys):
    root = made("raindrop", tmp_path / "rain", monkeypatch)
    assert main(["data", "check", "raindrop", "--root", str(root)]) == 0 and "complete" in capsys.readouterr().out
    assert any("0_rain.png: not an image" in p for p in check("raindrop", root, headers=True)[1])
    assert check("raindrop", tmp_path)[1] == [f"{tmp_path}: the data set lies one level deeper; give --root {root}"]
    Image.new("RGB", (2, 2)).save(root / "train/gt/zero.png")
    (root / "train/data/0_rain.png").write_bytes(b"")
    problems = "\n".join(check("raindrop", root)[1])
    assert re.search(r"train/gt/\*: 2 images found, 1 expected", problems) and "0_rain.png: empty" in problems
    assert re.search(r"zero\.png: misnamed; names are expected to match", problems)
    for file in (root / "test_a/data/1_rain.jpg", root / "test_a/gt/1_clean.jpg"):
        file.rename(file.with_suffix(".npy"))
    assert main(["data", "check", "raindrop", "--root", str(root)]) == 1
    assert "test_a/gt/*: 0 images found, 1 expected" in capsys.readouterr().out


def test_absent_sets_say_what_to_get_from_where(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    assert main(["data", "check", "lol"]) == 1
    out = capsys.readouterr().out
    assert "absent" in out and "LOLdataset.zip" in out and LAYOUTS["lol"].page in out and "our485/low" in out
    made("lol", tmp_path / "lol", monkeypatch)
    assert main(["data", "check", "lol"]) == 0 and main(["data", "check", "pack"]) == 0
    assert "cifar-10-batches-bin: no such folder" in check("cifar10")[1][0]
    with pytest.raises(ReproError) as error:
        check("loll")
    assert all(name in str(error.value) and name in commands.DataCheck.__doc__ for name in ("pack", *LAYOUTS))


def test_one_of_optional_parts_is_enough(tmp_path, monkeypatch):
    assert any("nothing found of images1024x1024" in p for p in check("ffhq", tmp_path)[1])
    monkeypatch.setitem(LAYOUTS, "ffhq", replace(LAYOUTS["ffhq"], parts=(replace(LAYOUTS["ffhq"].parts[1], count=1),)))
    (tmp_path / "thumbnails128x128/00000").mkdir(parents=True)
    (tmp_path / "thumbnails128x128/00000/00000.png").write_bytes(b"x")
    assert not check("ffhq", tmp_path)[1]


# --- crops ------------------------------------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 2**40) | st.text(max_size=8), min_size=1, max_size=6, unique=True)


def _coded(height: int, width: int) -> torch.Tensor:
    """(1, H, W) int64 whose every pixel is its place."""
    return torch.arange(height * width).view(1, height, width)


@settings(max_examples=25)
@given(ids=IDS, seed=st.integers(0, 2**32), data=st.data())
def test_any_batch_in_any_order_gives_the_same_crops(ids, seed, data):
    images = [_coded(*data.draw(st.tuples(st.integers(8, 20), st.integers(8, 20)))) for _ in ids]
    together = crops(images, 8, ids, seed)
    assert together.shape == (len(ids), 1, 8, 8)
    order = data.draw(st.permutations(range(len(ids))))
    shuffled = crops([images[i] for i in order], 8, [ids[i] for i in order], seed)
    assert torch.equal(shuffled, together[list(order)])
    assert torch.equal(crops(images[:1], 8, ids[:1], seed)[0], together[0])


@settings(max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(0, 40),
    seed=st.integers(0, 2**32),
    name=st.integers(0, 10**9),
    flip=st.booleans(),
)
def test_a_crop_is_a_piece_of_its_picture(height, width, size, seed, name, flip):
    image = _coded(height, width)
    if not 1 <= size <= min(height, width):
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


def test_a_batch_is_a_list_and_its_dtype_is_kept():
    images = torch.randint(0, 255, (4, 3, 20, 20), dtype=torch.uint8)
    found = crops(images, 8, torch.arange(4), 1)
    assert torch.equal(found, crops(list(images), 8, [0, 1, 2, 3], 1)) and found.dtype == torch.uint8
    assert not torch.equal(found, crops(images, 8, torch.arange(4), 0))
