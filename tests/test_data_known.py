"""`repro data check`: complete, incomplete, misnamed and absent data sets are told apart."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from repro.data import pack
from repro.data.commands import DataCheck
from repro.data.known import check, names
from repro.data.layouts import LAYOUTS
from repro.errors import ReproError


def _touch(folder: Path, *files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).write_bytes(b"x")


def _lol(root: Path) -> Path:
    for part, count in (("our485", 485), ("eval15", 15)):
        for kind in ("low", "high"):
            _touch(root / part / kind, *(f"{i}.png" for i in range(count)))
    return root


def _raindrop(root: Path) -> Path:
    for part, count in (("train", 861), ("test_a", 58)):
        for folder, kind in (("data", "rain"), ("gt", "clean")):
            _touch(root / part / folder, *(f"{i}_{kind}.png" for i in range(count)))
    return root


@pytest.fixture
def lol(tmp_path):
    return _lol(tmp_path / "lol")


def test_complete_sets_pass(lol, tmp_path, capsys):
    report = check("lol", lol)
    assert report.ok and not report.problems and len(report.found) == 4
    assert DataCheck("lol", lol).run() == 0
    assert "complete" in capsys.readouterr().out
    report = check("raindrop", _raindrop(tmp_path / "rain"))
    assert report.ok, report.problems


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ReproError) as error:
        check("loll", "x")
    assert all(name in str(error.value) for name in names()) and "loll" in str(error.value)


def test_without_a_root_it_looks_where_data_sets_lie(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    assert DataCheck("lol").run() == 1 and str(tmp_path / "lol") in capsys.readouterr().out
    assert check("cifar10").root == tmp_path / "cifar-10-batches-bin"
    _lol(tmp_path / "lol")
    assert DataCheck("lol").run() == 0


def test_absent_says_what_to_get_from_where(tmp_path, capsys):
    report = check("lol", tmp_path / "no")
    assert not report.present and not report.ok
    assert DataCheck("lol", tmp_path / "no").run() == 1
    out = capsys.readouterr().out
    assert "absent" in out and "LOLdataset.zip" in out and LAYOUTS["lol"].page in out and "our485/low" in out


def test_missing_and_extra_files_are_counted(lol):
    (lol / "our485/low/7.png").unlink()
    problems = "\n".join(check("lol", lol).problems)
    assert "484 found, 485 files expected (1 missing)" in problems
    assert re.search(r"high/7\.png: no partner in .*low/\*, 1 of 485", problems)
    _touch(lol / "our485/low", "7.png", "copy.png")
    problems = "\n".join(check("lol", lol).problems)
    assert "(1 too many)" in problems and "copy.png: no partner" in problems


def test_pairs_that_only_count_right_are_caught(lol):
    """Equal counts are not enough: the public GoPro copies came with wrong files in right numbers."""
    (lol / "eval15/high/3.png").rename(lol / "eval15/high/three.png")
    report = check("lol", lol)
    assert "eval15/high: 15 files" in report.found
    assert any("low/3.png: no partner" in p for p in report.problems)
    assert any("high/three.png: no partner" in p for p in report.problems)


def test_misnamed_folder_one_level_deeper_and_other_formats(lol, tmp_path):
    (lol / "our485").rename(lol / "Our_485")
    assert any("Our_485 should be named our485" in p for p in check("lol", lol).problems)
    (lol / "Our_485").rename(lol / "our485")
    report = check("lol", tmp_path)
    assert not report.present and report.problems == [
        f"{tmp_path}: the data set lies one level deeper; give --root {lol}"
    ]
    for file in list((lol / "eval15/low").iterdir()):
        file.rename(file.with_suffix(".npy"))
    problems = check("lol", lol).problems
    assert any("nothing found" in p and "15 files of another kind (.npy)" in p for p in problems)


def test_empty_files_and_names_of_another_form(tmp_path):
    root = _raindrop(tmp_path)
    (root / "train/data/5_rain.png").write_bytes(b"")
    (root / "train/data/6_rain.png").rename(root / "train/data/six.png")
    problems = "\n".join(check("raindrop", root).problems)
    assert re.search(r"5_rain\.png: empty, 1 of 861", problems)
    assert re.search(r"six\.png: misnamed, 1 of 861", problems)
    assert re.search(r"6_clean\.png: no partner", problems)


def test_headers_are_opened_on_request(lol):
    assert check("lol", lol).ok
    for file in lol.rglob("*.png"):
        file.unlink()
    for part, count in (("our485", 485), ("eval15", 15)):
        for kind in ("low", "high"):
            Image.new("RGB", (2, 2)).save(lol / part / kind / "0.png")
            data = (lol / part / kind / "0.png").read_bytes()
            for i in range(count):
                (lol / part / kind / f"{i}.png").write_bytes(data)
    assert check("lol", lol, headers=True).ok
    (lol / "our485/low/9.png").write_bytes(b"<html>")
    assert check("lol", lol).ok
    assert any("low/9.png: not an image" in p for p in check("lol", lol, headers=True).problems)


def test_fashion_mnist_headers_are_read(tmp_path):
    shapes = {
        "train-images-idx3-ubyte": (2051, 60000, 28, 28),
        "train-labels-idx1-ubyte": (2049, 60000),
        "t10k-images-idx3-ubyte": (2051, 10000, 28, 28),
        "t10k-labels-idx1-ubyte": (2049, 10000),
    }
    for name, numbers in shapes.items():
        head = b"".join(n.to_bytes(4, "big") for n in numbers)
        with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
            file.write(head + b"pixels")
    assert check("fashion-mnist", tmp_path).ok
    with gzip.open(tmp_path / "t10k-labels-idx1-ubyte.gz", "wb") as file:
        file.write((2049).to_bytes(4, "big") + (9999).to_bytes(4, "big"))
    assert any("(2049, 9999), (2049, 10000) expected" in p for p in check("fashion-mnist", tmp_path).problems)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>")
    assert any("cannot be read" in p for p in check("fashion-mnist", tmp_path).problems)


# One file of each part, as the real data sets name them; the second column pairs with the first.
REAL = {
    "gopro": [
        ("train/GOPR0372_07_00/blur/000047.png", "train/GOPR0372_07_00/sharp/000047.png"),
        ("test/GOPR0384_11_00/blur/000001.png", "test/GOPR0384_11_00/sharp/000001.png"),
    ],
    "reds": [
        ("train/train_sharp/000/00000000.png", "train/train_blur/000/00000000.png"),
        ("val/val_sharp/029/00000099.png", "val/val_blur/029/00000099.png"),
    ],
    "sid": [("Sony/short/00001_00_0.04s.ARW", "Sony/long/00001_00_10s.ARW")],
    "istd": [
        ("train/train_A/1-1.png", "train/train_C/1-1.png", "train/train_B/1-1.png"),
        ("test/test_A/91-1.png", "test/test_C/91-1.png", "test/test_B/91-1.png"),
    ],
}
TEXTS = {"sid": ("Sony_train_list.txt", "Sony_val_list.txt", "Sony_test_list.txt")}


@pytest.mark.parametrize("name", REAL)
def test_real_names_pair_up_and_broken_ones_do_not(name, tmp_path, monkeypatch):
    layout = LAYOUTS[name]
    parts = tuple(replace(p, count=1, folders=1 if p.folders else None) for p in layout.parts)
    monkeypatch.setitem(LAYOUTS, name, replace(layout, parts=parts))
    for group in REAL[name]:
        for file in group:
            _touch(tmp_path / Path(file).parent, Path(file).name)
    _touch(tmp_path, *TEXTS.get(name, ()))
    report = check(name, tmp_path)
    assert report.ok, report.text()
    first = tmp_path / REAL[name][0][0]
    first.rename(first.with_name(first.name.replace("1", "2").replace("0", "3")))
    assert any("no partner" in p for p in check(name, tmp_path).problems)


def test_counts_are_those_of_the_data_sets():
    counts = {name: {p.label: p.count for p in layout.parts} for name, layout in LAYOUTS.items()}
    assert counts["lol"] == {"our485/low": 485, "our485/high": 485, "eval15/low": 15, "eval15/high": 15}
    assert counts["raindrop"]["train/data"] == 861 and counts["raindrop"]["test_a/gt"] == 58
    assert counts["gopro"]["train blur"] == 2103 and counts["gopro"]["test sharp"] == 1111
    assert counts["reds"]["train/train_sharp"] == 24000 and counts["reds"]["val/val_blur"] == 3000
    assert counts["div2k"] == {"DIV2K_train_HR": 800, "DIV2K_valid_HR": 100}
    assert counts["celeba"]["img_align_celeba"] == 202599
    assert counts["istd"]["train/train_B"] == 1330 and counts["istd"]["test/test_A"] == 540
    assert counts["sid"]["Sony/short"] == 2697 and counts["sid"]["Sony/long"] == 231


def test_the_command_names_every_data_set():
    import inspect

    source = inspect.getsource(DataCheck)
    assert all(name in source for name in names())


def test_any_subset_of_open_images_is_accepted(tmp_path):
    assert not check("open-images", tmp_path).ok
    _touch(tmp_path / "validation", "a.jpg")
    assert check("open-images", tmp_path).ok


def test_pack_is_verified_against_its_manifest(tmp_path, monkeypatch):
    assert check("pack").ok and check("pack", pack.PACK).ok
    with pytest.raises(ReproError, match="takes no --root"):
        check("pack", tmp_path)
