"""File lists and pairs; data sets, complete and not, as `repro data check` finds them; crops of (seed, id) alone."""

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repro.cli import main
from repro.data.datasets import LAYOUTS, DataCheck, check
from repro.data.files import crops, cut, list_images, pair_folders, read_flist, read_pairs, write_flist
from repro.errors import ReproError


def _images(folder: Path, *names: str, size: tuple[int, int] = (8, 8)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / name, "PNG")
    return folder


def _list(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0\n\r", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda s: not s.startswith(".") and len(s.encode()) < 200)


@settings(max_examples=15)
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True), nested=st.booleans())
def test_what_is_written_is_read_back(names, nested):
    with tempfile.TemporaryDirectory() as folder:
        pictures = _images(Path(folder) / ("#pictures" if nested else "pictures"), *(f"{name}.png" for name in names))
        out = Path(folder) / "lists" / "all.flist" if nested else Path(folder) / "all.flist"
        assert write_flist(pictures, out) == len(names)
        files = read_flist(out)
        assert {file.name for file in files.values()} == {f"{n}.png" for n in names}
        assert [f.resolve() for f in files.values()] == [p.resolve() for p in list_images(pictures)]
        assert list(files) == list(range(1, len(names) + 1))


def test_a_list_moves_with_its_folder_and_names_others_by_their_whole_path(tmp_path, monkeypatch, capsys):
    _images(tmp_path / "old/set", "a/1.png", "a/2.png")
    assert main(["data", "flist", str(tmp_path / "old/set")]) == 0 and "2 images" in capsys.readouterr().out
    assert (tmp_path / "old/set.flist").read_text() == "set/a/1.png\nset/a/2.png\n"
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir("/")
    paths = [tmp_path / "new/set/a/1.png", tmp_path / "new/set/a/2.png"]
    assert list(read_flist(tmp_path / "new/set.flist").values()) == paths
    write_flist(tmp_path / "new/set", tmp_path / "elsewhere/x.flist")
    assert (tmp_path / "elsewhere/x.flist").read_text().splitlines() == [str(path) for path in paths]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a.png\n   \nb.png", "line 2: .* is no file"),
        (b"a.png\nno.png", r"line 2: .*no\.png' is no file"),
        (b"a\0.png", "line 1: .* is no file"),
        (b"# nothing\n\n", "is empty"),
        (b"\xff\xfe\0a", "not UTF-8"),
        (None, "No such file"),
        ("\ufeff# made by hand\r\na.png\r\n# in between\r\nb.png\r\n\r\n".encode(), ""),
    ],
)
def test_lists_are_read_as_people_write_them_and_bad_ones_name_list_and_line(tmp_path, content, words):
    _images(tmp_path, "a.png", "b.png", "sub/c.png")
    flist = tmp_path / "x.flist"
    if content is not None:
        flist.write_bytes(content)
    if words:
        with pytest.raises(ReproError, match=f"{re.escape(str(flist))}.*{words}"):
            read_flist(flist)
    else:
        assert {line: file.name for line, file in read_flist(flist).items()} == {2: "a.png", 4: "b.png"}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("123", "132", r"gt\.flist, line 2: 3\.png stands where the partner of 2\.png .*in\.flist, line 2"),
        ("123", "12", r"in\.flist lists 3 images and .*gt\.flist 2; accepted: equally many"),
        ("14", "14", r"in/4\.png is 8x8, its target .*gt/4\.png is 8x9"),
        ("15", "15", r"gt/5\.png: not an image"),
        ("12", "12", ""),
    ],
)
def test_lists_align_line_by_line(tmp_path, first, second, words):
    _images(tmp_path / "in", "1.png", "2.png", "3.png", "4.png", "5.png")
    _images(_images(tmp_path / "gt", "1.png", "2.png", "3.png"), "4.png", size=(8, 9))
    (tmp_path / "gt/5.png").write_bytes(b"not an image")
    both = [
        _list(tmp_path / f"{side}.flist", *(f"{side}/{n}.png" for n in names))
        for side, names in (("in", first), ("gt", second))
    ]
    if words:
        with pytest.raises(ReproError, match=words):
            read_pairs(*both)
    else:
        pairs = read_pairs(*both)
        assert [p.id for p in pairs] == ["1", "2"] and [x.shape for x in pairs[1].load()] == [(3, 8, 8)] * 2


def test_with_any_names_the_numbers_of_a_pair_agree(tmp_path):
    def lists(*names: str) -> list[Path]:
        _images(tmp_path, *(f"{name}.png" for name in names))
        return [_list(tmp_path / f"{name}.flist", f"{name}.png") for name in names]

    for names in (("0_rain", "0_clean"), ("12", "12x2"), ("a", "7"), ("3", "03"), ("2_1", "a2_b0_c1")):
        assert len(read_pairs(*lists(*names), any_names=True)) == 1
    for names in (("1", "10_clean"), ("1_rain", "100_clean"), ("1_2", "2_1"), ("1_1", "1_2")):
        with pytest.raises(ReproError, match=r"line 1: .* stands where .*equal numbers"):
            read_pairs(*lists(*names), any_names=True)


def test_folders_pair_by_stem(tmp_path):
    _images(tmp_path / "in", "s/1.png", "2.png", ".hidden.png", "notes/.x/3.png")
    _images(tmp_path / "gt", "s/1.jpg", "2.bmp")
    pairs = pair_folders(tmp_path / "in", tmp_path / "gt")
    assert [(p.input.name, p.target.name) for p in pairs] == [("2.png", "2.bmp"), ("1.png", "1.jpg")]
    _images(tmp_path / "in", "4.png")
    for sides in ("in", "gt"), ("gt", "in"):
        with pytest.raises(ReproError, match=r"in/4\.png: no partner in .*gt"):
            pair_folders(*(tmp_path / side for side in sides))
    _images(tmp_path / "in", "2.jpg")
    with pytest.raises(ReproError, match="has the same name as"):
        pair_folders(tmp_path / "in", tmp_path / "gt")


def test_folders_without_a_list(tmp_path):
    (tmp_path / "empty").mkdir()
    _images(tmp_path / "odd", os.fsdecode(b"caf\xe9.png"))
    for bad, words in (("empty", "holds no image"), ("no", "does not exist"), ("odd", "is not UTF-8")):
        with pytest.raises(ReproError, match=words):
            write_flist(tmp_path / bad, tmp_path / "x.flist")
    assert not (tmp_path / "x.flist").exists()


def test_order_is_natural_and_linked_folders_count(tmp_path):
    names = [f"{n}_rain.png" for n in (1, 2, 3, 10, 100)]
    _images(tmp_path / "wet", *(name for name in names if name != "3_rain.png"))
    (tmp_path / "wet/3_rain.png").symlink_to(tmp_path / "gone")  # listed, so that it is refused and not left out
    (tmp_path / "all").mkdir()
    (tmp_path / "all/linked").symlink_to(tmp_path / "wet")
    (tmp_path / "wet/a").mkdir()
    for link, place in (("wet/back", "wet"), ("wet/a/round", "all")):  # links that lead back are not followed
        (tmp_path / link).symlink_to(tmp_path / place)
    assert [p.name for p in list_images(tmp_path / "all")] == names
    with pytest.raises(ReproError, match=r"3_rain\.png.*no such file"):
        pair_folders(tmp_path / "wet", tmp_path / "wet")


# As the real data sets name their files.
REAL = {
    "lol": "our485/low/2.png our485/high/2.png eval15/low/1.png eval15/high/1.png",
    "raindrop": "train/data/0_rain.png train/gt/0_clean.png test_a/data/1_rain.jpg test_a/gt/1_clean.jpg",
    "gopro": "train/GOPR0372_07_00/blur/000047.png train/GOPR0372_07_00/sharp/000047.png "
    "test/GOPR0384_11_00/blur/000001.png test/GOPR0384_11_00/sharp/000001.png",
    "reds": "train/train_sharp/000/00000000.png train/train_blur/000/00000000.png "
    "val/val_sharp/029/00000099.png val/val_blur/029/00000099.png",
    "sid": "Sony/short/00001_00_0.04s.ARW Sony/long/00001_00_10s.ARW "
    "Sony_train_list.txt Sony_val_list.txt Sony_test_list.txt",
    "istd": "train/train_A/1-1.png train/train_C/1-1.png train/train_B/1-1.png "
    "test/test_A/91-1.png test/test_C/91-1.png test/test_B/91-1.png",
}


def made(name: str, root: Path, monkeypatch) -> Path:
    """The files of `REAL`, and a layout that counts one of each part."""
    layout = LAYOUTS[name]
    monkeypatch.setitem(LAYOUTS, name, replace(layout, parts=tuple(replace(p, count=1) for p in layout.parts)))
    for file in (root / name for name in REAL[name].split()):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return root


@pytest.mark.parametrize("name", REAL)
def test_real_names_pair_up_and_broken_ones_do_not(name, tmp_path, monkeypatch):
    found, problems = check(name, made(name, tmp_path, monkeypatch))
    assert not problems and len(found) == sum(not part.optional for part in LAYOUTS[name].parts)
    first = tmp_path / REAL[name].split()[0]
    first.rename(first.with_name(first.name.replace("1", "2").replace("0", "3").replace("2.png", "7.png")))
    assert any("no partner" in p for p in check(name, tmp_path)[1])


def test_what_is_wrong_is_said(tmp_path, monkeypatch, capsys):
    root = made("raindrop", tmp_path / "rain", monkeypatch)
    assert main(["data", "check", "raindrop", "--root", str(root)]) == 0 and "complete" in capsys.readouterr().out
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
    assert main(["data", "check", "pack", "--root", str(tmp_path)]) == 2  # it lies in one place
    assert "cifar-10-batches-bin: no such folder" in check("cifar10")[1][0]
    assert main(["data", "check", "loll"]) == 2
    error = capsys.readouterr().err
    assert all(name in error and name in DataCheck.__doc__ for name in ("pack", *LAYOUTS))


def test_one_of_optional_parts_is_enough(tmp_path, monkeypatch):
    assert any("nothing found of images1024x1024" in p for p in check("ffhq", tmp_path)[1])
    monkeypatch.setitem(LAYOUTS, "ffhq", replace(LAYOUTS["ffhq"], parts=(replace(LAYOUTS["ffhq"].parts[1], count=1),)))
    (tmp_path / "thumbnails128x128/00000").mkdir(parents=True)
    (tmp_path / "thumbnails128x128/00000/00000.png").write_bytes(b"x")
    assert not check("ffhq", tmp_path)[1]


def _coded(height: int, width: int) -> torch.Tensor:
    """(1, H, W) int64 whose every pixel is its place."""
    return torch.arange(height * width).view(1, height, width)


@settings(max_examples=20)
@given(
    ids=st.lists(st.integers(0, 2**40) | st.text(max_size=8), min_size=1, max_size=6, unique=True),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_any_batch_in_any_order_gives_the_same_crops(ids, seed, data):
    images = [_coded(*data.draw(st.tuples(st.integers(8, 20), st.integers(8, 20)))) for _ in ids]
    together = crops(images, 8, ids, seed)
    assert together.shape == (len(ids), 1, 8, 8)
    order = data.draw(st.permutations(range(len(ids))))
    shuffled = crops([images[i] for i in order], 8, [ids[i] for i in order], seed)
    assert torch.equal(shuffled, together[list(order)])


@settings(max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(0, 40),
    draw=st.lists(st.floats(0, 1 - 2**-24, width=32), min_size=3, max_size=3),
    flip=st.booleans(),
)
def test_a_crop_is_a_piece_of_its_picture(height, width, size, draw, flip):
    image, drawn = _coded(height, width), torch.tensor([draw])
    if not 1 <= size <= min(height, width):
        with pytest.raises(ReproError, match=f"{size}x{size} crop does not fit into sample 'a' of {height}x{width}"):
            cut([image], size, drawn, flip=flip, names=["a"])
        return
    top, left = (int(u * (side - size + 1)) for u, side in zip(draw, (height, width), strict=False))
    piece = image[:, top : top + size, left : left + size]
    mirrored = flip and draw[2] < 0.5
    assert torch.equal(cut([image], size, drawn, flip=flip)[0], piece.flip(-1) if mirrored else piece)
