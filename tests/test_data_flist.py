"""File lists, pairs of lists, pairs of folders."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repro.cli import main
from repro.data.flist import list_images, pair_folders, read_flist, read_pairs, write_flist
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


@settings(max_examples=40)
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


@settings(max_examples=20)
@given(names=st.lists(st.text("ab-._ 01", min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_equal_stems_come_in_equal_order_whatever_the_suffix(names):
    with tempfile.TemporaryDirectory() as folder:
        sides = [Path(folder) / "in", Path(folder) / "out"]
        for side, suffix in zip(sides, (".png", ".jpg"), strict=True):
            _images(side, *(f"x{name}x{suffix}" for name in names))  # no hidden files, no suffix of its own
            write_flist(side, side.with_suffix(".flist"))
        pairs = read_pairs(*(side.with_suffix(".flist") for side in sides))
        assert [p.input.name for p in pair_folders(*sides)] == [p.input.name for p in pairs]
        assert len(pairs) == len(names)


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


def test_comments_line_ends_and_byte_order_mark(tmp_path):
    _images(tmp_path, "a.png", "b.png")
    flist = _list(tmp_path / "x.flist", "\ufeff# made by hand", "a.png", "# in between", "b.png", "", "", end="\r\n")
    assert {line: file.name for line, file in read_flist(flist).items()} == {2: "a.png", 4: "b.png"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a.png\n\nb.png", "line 2: the entry is empty"),
        (b"a.png\n   \nb.png", "line 2: the entry is empty"),
        (b"a.png\nno.png", r"line 2: .*no\.png' is no file"),
        (b"a.png\nsub", "line 2: .*sub' is no file"),
        (b"a\0.png", "line 1: .* is no file"),
        (b"\n\n", "is empty"),
        (b"# nothing", "is empty"),
        (b"\xff\xfe\0a", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_bad_lists_name_list_and_line(tmp_path, content, words):
    _images(tmp_path, "a.png", "b.png", "sub/c.png")
    if content is not None:
        (tmp_path / "x.flist").write_bytes(content)
    with pytest.raises(ReproError, match=words) as error:
        read_flist(tmp_path / "x.flist")
    assert str(tmp_path / "x.flist") in str(error.value)


@pytest.fixture
def lists(tmp_path):
    """(inputs, targets) named -> two lists of 8x8 images, of which gt/4.png is 8x9."""
    _images(tmp_path / "in", "1.png", "2.png", "3.png", "4.png")
    _images(_images(tmp_path / "gt", "1.png", "2.png", "3.png"), "4.png", size=(8, 9))

    def make(first: str, second: str) -> tuple[Path, Path]:
        return (
            _list(tmp_path / "in.flist", *(f"in/{n}.png" for n in first)),
            _list(tmp_path / "gt.flist", *(f"gt/{n}.png" for n in second)),
        )

    return make


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("123", "132", r"gt\.flist, line 2: 3\.png stands where the partner of 2\.png .*in\.flist, line 2"),
        ("123", "13", r"gt\.flist, line 2: 3\.png stands where"),
        ("123", "12", r"in\.flist, line 3: 3\.png has no partner"),
        ("12", "123", r"gt\.flist, line 3: 3\.png has no partner"),
        ("14", "14", r"in/4\.png is 8x8 but its target .*gt/4\.png is 8x9"),
    ],
)
def test_misaligned_lists_name_the_line(lists, first, second, words):
    with pytest.raises(ReproError, match=words):
        read_pairs(*lists(first, second))


def test_aligned_lists_and_a_file_that_is_no_image(lists, tmp_path):
    pairs = read_pairs(*lists("12", "12"))
    assert [p.id for p in pairs] == ["1", "2"] and [x.shape for x in pairs[1].load()] == [(3, 8, 8)] * 2
    (tmp_path / "gt/2.png").write_bytes(b"not a picture")
    for read in (pairs[1].load, lambda: read_pairs(*lists("12", "12"))):
        with pytest.raises(ReproError, match=r"gt/2\.png: not an image"):
            read()


def test_folders_pair_by_stem(tmp_path):
    _images(tmp_path / "in", "s/1.png", "2.png", ".hidden.png", "notes/.x/3.png")
    _images(tmp_path / "gt", "s/1.jpg", "2.bmp")
    pairs = pair_folders(tmp_path / "in", tmp_path / "gt")
    assert [(p.input.name, p.target.name) for p in pairs] == [("2.png", "2.bmp"), ("1.png", "1.jpg")]
    _images(tmp_path / "in", "4.png")
    for sides in ("in", "gt"), ("gt", "in"):
        with pytest.raises(ReproError, match=r"in/4\.png: has no partner named 4\.\* in .*gt \(1 of 3"):
            pair_folders(*(tmp_path / side for side in sides))
    _images(tmp_path / "in", "2.jpg")
    with pytest.raises(ReproError, match="has the same name as"):
        pair_folders(tmp_path / "in", tmp_path / "gt")


def test_folders_without_a_list(tmp_path):
    (tmp_path / "empty").mkdir()
    _images(tmp_path / "odd", "a\nb.png")
    for bad, words in (("empty", "holds no image"), ("no", "does not exist"), ("odd", "line break")):
        with pytest.raises(ReproError, match=words):
            write_flist(tmp_path / bad, tmp_path / "x.flist")
    assert not (tmp_path / "x.flist").exists()
    with pytest.raises(ReproError, match="could not be written"):
        write_flist(_images(tmp_path / "set", "a.png"), tmp_path)


def test_order_is_natural_and_linked_folders_count(tmp_path):
    names = [f"{n}_rain.png" for n in (1, 2, 10, 100)]
    _images(tmp_path / "wet", *names)
    (tmp_path / "all").mkdir()
    (tmp_path / "all/linked").symlink_to(tmp_path / "wet")
    (tmp_path / "wet/back").symlink_to(tmp_path / "all")  # a circle
    assert [p.name for p in list_images(tmp_path / "all")] == names


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [
        ("1", "10_clean", True),
        ("1_rain", "100_clean", True),
        ("0_rain", "0_clean", False),
        ("12", "12x2", False),
        ("a", "7", False),
        ("3", "03", False),
    ],
)
def test_with_any_names_the_numbers_of_a_pair_agree(first, second, differ, tmp_path):
    _images(tmp_path, f"{first}.png", f"{second}.png")
    lists = [_list(tmp_path / f"{name}.flist", f"{name}.png") for name in (first, second)]
    if differ:
        with pytest.raises(ReproError, match=r"line 1: .* stands where .*equal numbers"):
            read_pairs(*lists, any_names=True)
    else:
        assert len(read_pairs(*lists, any_names=True)) == 1
