"""File lists, pairs of lists, pairs of folders."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repro.data.commands import DataFlist
from repro.data.flist import list_images, pair_folders, read_flist, read_pairs, write_flist
from repro.errors import ReproError


def _images(folder: Path, *names: str, size: tuple[int, int] = (8, 8)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (len(name), 0, 0)).save(folder / name)
    return folder


def _list(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0\n\r", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda s: not s.startswith(".") and len(s.encode()) < 200)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True), nested=st.booleans())
def test_what_is_written_is_read_back(names, nested):
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / ("#pictures" if nested else "pictures")
        pictures.mkdir()
        for name in names:
            (pictures / f"{name}.png").write_bytes(b"x")
        out = Path(folder) / "lists" / "all.flist" if nested else Path(folder) / "all.flist"
        assert write_flist(pictures, out) == len(names)
        entries = read_flist(out)
        assert {e.path.name for e in entries} == {f"{n}.png" for n in names}
        assert [e.path.resolve() for e in entries] == [p.resolve() for p in list_images(pictures)]
        assert [e.line for e in entries] == list(range(1, len(names) + 1))


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.text("ab-._ 01", min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_equal_stems_come_in_equal_order_whatever_the_suffix(names):
    names = [f"x{name}x" for name in names]  # no hidden files, no suffix of its own
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "in", Path(folder) / "out"
        for place, suffix in ((first, ".png"), (second, ".jpg")):
            place.mkdir()
            for name in names:
                (place / (name + suffix)).write_bytes(b"x")
        for place in (first, second):
            write_flist(place, place.with_suffix(".flist"))
        pairs = read_pairs(first.with_suffix(".flist"), second.with_suffix(".flist"), check_sizes=False)
        assert len(pairs) == len(names)
        by_name = pair_folders(first, second, check_sizes=False)
        assert [p.input.path.name for p in by_name] == [p.input.path.name for p in pairs]


def test_entries_are_relative_to_the_list(tmp_path, monkeypatch):
    _images(tmp_path / "set", "a/1.png", "a/2.png")
    write_flist(tmp_path / "set", tmp_path / "set.flist")
    assert (tmp_path / "set.flist").read_text() == "set/a/1.png\nset/a/2.png\n"
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "set").rename(moved / "set")
    (tmp_path / "set.flist").rename(moved / "set.flist")
    monkeypatch.chdir("/")
    assert [e.path for e in read_flist(moved / "set.flist")] == [moved / "set/a/1.png", moved / "set/a/2.png"]
    outside = tmp_path / "elsewhere" / "x.flist"
    write_flist(moved / "set", outside)
    assert outside.read_text().splitlines()[0] == str(moved / "set/a/1.png")


def test_comments_line_ends_and_byte_order_mark(tmp_path):
    _images(tmp_path, "a.png", "b.png")
    flist = _list(tmp_path / "x.flist", "\ufeff# made by hand", "a.png", "# in between", "b.png", "", "", end="\r\n")
    assert [(e.path.name, e.line) for e in read_flist(flist)] == [("a.png", 2), ("b.png", 4)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a.png", "", "b.png"], "line 2: the entry is empty"),
        (["a.png", "   ", "b.png"], "line 2: the entry is empty"),
        (["a.png", "no.png"], r"line 2: .*no\.png does not exist"),
        (["a.png", "sub"], "line 2: .*sub is a folder"),
        ([], "is empty"),
        (["", ""], "is empty"),
        (["# nothing"], "is empty"),
        (["a\0.png"], "line 1: holds a zero byte"),
    ],
)
def test_bad_entries_name_list_and_line(tmp_path, lines, words):
    _images(tmp_path, "a.png", "b.png", "sub/c.png")
    flist = _list(tmp_path / "x.flist", *lines)
    with pytest.raises(ReproError, match=words) as error:
        read_flist(flist)
    assert str(flist) in str(error.value)


def test_bad_lists_are_told(tmp_path):
    with pytest.raises(ReproError, match="no such file list"):
        read_flist(tmp_path / "no.flist")
    with pytest.raises(ReproError, match="is a folder"):
        read_flist(tmp_path)
    (tmp_path / "x.flist").write_bytes(b"\xff\xfe\0a")
    with pytest.raises(ReproError, match="not UTF-8"):
        read_flist(tmp_path / "x.flist")


def _pair_lists(tmp_path: Path, first: list[str], second: list[str]) -> tuple[Path, Path]:
    return (
        _list(tmp_path / "in.flist", *(f"in/{n}" for n in first)),
        _list(tmp_path / "gt.flist", *(f"gt/{n}" for n in second)),
    )


@pytest.fixture
def pictures(tmp_path):
    names = ("1.png", "2.png", "3.png")
    _images(tmp_path / "in", *names)
    _images(tmp_path / "gt", *names)
    return tmp_path


def test_aligned_pairs(pictures):
    pairs = read_pairs(*_pair_lists(pictures, ["1.png", "2.png"], ["1.png", "2.png"]))
    assert [p.id for p in pairs] == ["1", "2"]
    first, second = pairs[1].load()
    assert first.shape == second.shape == (3, 8, 8)


def test_misaligned_pairs_name_the_line(pictures):
    lists = _pair_lists(pictures, ["1.png", "2.png", "3.png"], ["1.png", "3.png", "2.png"])
    with pytest.raises(ReproError, match=r"gt\.flist, line 2: 3\.png stands where the partner of 2\.png .*line 2"):
        read_pairs(*lists)
    with pytest.raises(ReproError, match=r"3\.png stands beside 2\.png .*numbers differ"):
        read_pairs(*lists, any_names=True)


def test_a_dropped_line_is_named_where_it_is(pictures):
    lists = _pair_lists(pictures, ["1.png", "2.png", "3.png"], ["1.png", "3.png"])
    with pytest.raises(ReproError, match=r"gt\.flist, line 2: 3\.png stands where"):
        read_pairs(*lists)
    lists = _pair_lists(pictures, ["1.png", "2.png", "3.png"], ["1.png", "2.png"])
    with pytest.raises(ReproError, match=r"has 3 entries and .* has 2: 3\.png .*in\.flist, line 3\) has no partner"):
        read_pairs(*lists)


def test_sizes_and_unreadable_files_name_the_line(pictures):
    _images(pictures / "gt", "2.png", size=(8, 9))
    lists = _pair_lists(pictures, ["1.png", "2.png"], ["1.png", "2.png"])
    with pytest.raises(ReproError, match=r"in\.flist, line 2: 2\.png is 8x8 but .*gt\.flist, line 2\) is 8x9"):
        read_pairs(*lists)
    late = read_pairs(*lists, check_sizes=False)
    with pytest.raises(ReproError, match=r"is 8x8 but .* is 8x9"):
        late[1].load()
    (pictures / "gt" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(ReproError, match=r"2\.png \(.*gt\.flist, line 2\): not an image"):
        read_pairs(*lists)
    with pytest.raises(ReproError, match=r"2\.png \(.*gt\.flist, line 2\): not an image"):
        late[1].load()


def test_folders_pair_by_stem(tmp_path):
    _images(tmp_path / "in", "s/1.png", "2.png", ".hidden.png", "notes/.x/3.png")
    _images(tmp_path / "gt", "s/1.jpg", "2.bmp")
    pairs = pair_folders(tmp_path / "in", tmp_path / "gt")
    assert [(p.input.path.name, p.target.path.name) for p in pairs] == [("2.png", "2.bmp"), ("1.png", "1.jpg")]
    _images(tmp_path / "in", "4.png")
    with pytest.raises(ReproError, match=r"in/4\.png: has no partner named 4\.\* in .*gt \(1 of 3"):
        pair_folders(tmp_path / "in", tmp_path / "gt")
    with pytest.raises(ReproError, match=r"in/4\.png: has no partner"):
        pair_folders(tmp_path / "gt", tmp_path / "in")
    _images(tmp_path / "in", "2.jpg")
    with pytest.raises(ReproError, match="has the same name as"):
        pair_folders(tmp_path / "in", tmp_path / "gt")


def test_folder_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    for bad, words in (("empty", "holds no image"), ("no", "does not exist")):
        with pytest.raises(ReproError, match=words):
            write_flist(tmp_path / bad, tmp_path / "x.flist")
    _images(tmp_path / "odd", "a\nb.png")
    with pytest.raises(ReproError, match="line break"):
        write_flist(tmp_path / "odd", tmp_path / "x.flist")
    assert not (tmp_path / "x.flist").exists()
    with pytest.raises(ReproError, match="is a folder"):
        write_flist(tmp_path / "odd", tmp_path)


def test_command_writes_beside_the_folder(tmp_path, capsys):
    _images(tmp_path / "set", "a.png")
    assert DataFlist(tmp_path / "set").run() == 0
    assert (tmp_path / "set.flist").read_text() == "set/a.png\n"
    assert "1 image" in capsys.readouterr().out


def test_order_is_natural_and_linked_folders_count(tmp_path):
    for folder, end in (("wet", "rain"), ("dry", "clean")):
        (tmp_path / folder).mkdir()
        for n in (1, 2, 10, 100):
            Image.new("RGB", (4, 4)).save(tmp_path / folder / f"{n}_{end}.png")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "linked").symlink_to(tmp_path / "wet")
    (tmp_path / "all" / "linked" / "back").symlink_to(tmp_path / "all")  # a circle
    assert [p.name for p in list_images(tmp_path / "all")] == [f"{n}_rain.png" for n in (1, 2, 10, 100)]
    (tmp_path / "wet" / "back").unlink()
    for folder in ("wet", "dry"):
        write_flist(tmp_path / folder, tmp_path / f"{folder}.flist")
    pairs = read_pairs(tmp_path / "wet.flist", tmp_path / "dry.flist", any_names=True)
    assert [(p.input.path.stem, p.target.path.stem) for p in pairs] == [
        (f"{n}_rain", f"{n}_clean") for n in (1, 2, 10, 100)
    ]
    lines = (tmp_path / "dry.flist").read_text().splitlines(keepends=True)
    (tmp_path / "dry.flist").write_text("".join(sorted(lines)))  # 100, 10, 1, 2: as text
    with pytest.raises(
        ReproError, match=r"dry\.flist, line 1: 100_clean\.png stands beside 1_rain\.png .*numbers differ"
    ):
        read_pairs(tmp_path / "wet.flist", tmp_path / "dry.flist", any_names=True)


@pytest.mark.parametrize(
    ("first", "second", "other"),
    [
        ("1", "10_clean", True),
        ("0_rain", "0_clean", False),
        ("12", "12x2", False),
        ("a", "7", False),
        ("3", "03", False),
    ],
)
def test_numbers_of_a_pair(first, second, other, tmp_path):
    for name in (first, second):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.flist").write_text(f"{name}.png\n")
    lists = (tmp_path / f"{first}.flist", tmp_path / f"{second}.flist")
    if other:
        with pytest.raises(ReproError, match="numbers differ"):
            read_pairs(*lists, any_names=True)
    else:
        assert len(read_pairs(*lists, any_names=True)) == 1
