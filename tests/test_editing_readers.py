"""What the benchmark is made from at paper scale, on small fixtures in the real layouts; how blurred a frame is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from repro.data import pack
from repro.data.crops import crop_places
from repro.data.flist import Entry, Pair
from repro.data.images import read_image, resize
from repro.data.known import check as known_check
from repro.data.layouts import LAYOUTS
from repro.data.writing import write_image
from repro.editing import build, readers
from repro.editing.benchmark import COMPOSITES, SPLITS, TINY, VERSION, levels, parameters, split
from repro.editing.blur import motion_blur
from repro.editing.build import check, definition, load, rows_of, write
from repro.editing.compose import Recipe
from repro.editing.degree import DECIMALS, blur_degree
from repro.editing.readers import FIELD, Pack, Reds, of_settings, unseen
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

SIDE, FRAMES = 32, 2
SEQUENCES = {"train": 8, "val": 2}


def picture(name: str, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth picture with fine detail in it, (3, H, W) at 256 levels."""
    coarse = KeyedNoise(seed, [name], "coarse").uniform((3, 9, 9))
    fine = KeyedNoise(seed, [name], "fine").uniform((3, height, width))[0]
    return levels((0.6 * resize(coarse[0], (height, width)) + 0.4 * fine).clamp(0, 1))


def files(name: str, counts: dict[str, int]):
    """The layout of a data set at other counts: tens of thousands of files take long to write."""
    layout = LAYOUTS[name]
    parts = tuple(
        dataclasses.replace(p, count=counts.get(p.label, p.count), folders=p.folders and None) for p in layout.parts
    )
    return dataclasses.replace(layout, parts=parts)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """REDS' layout with 8 training and 2 validation sequences of 2 frames, 48 x 40 pixels; degree 0.5 of blur."""
    root = tmp_path_factory.mktemp("reds")
    for part, sequences in SEQUENCES.items():
        for sequence in range(sequences):
            for frame in range(FRAMES):
                name = f"{sequence:03d}/{frame:08d}.png"
                sharp = picture(f"{part}/{name}", 40, 48)
                blurred = motion_blur(sharp[None], 0.5, 0, [name], longest=4.0)[0]
                write_image(root / part / f"{part}_sharp" / name, sharp)
                write_image(root / part / f"{part}_blur" / name, levels(blurred))
    counts = {
        f"{part}/{part}_{kind}": FRAMES * sequences
        for part, sequences in SEQUENCES.items()
        for kind in ("sharp", "blur")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYOUTS, "reds", files("reds", counts))
        yield root


@pytest.fixture
def reds(root):
    return Reds(root, crop=SIDE)


def whole(source: Reds, name: str):
    (part,) = source.blocks(name, 1000)
    return part


# -- the degree of blur -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs():
    crops = [pack.load(p)[:, 40:168, 40:168] for p in pack.photos("train")[::4]]
    return torch.stack(crops)


def test_the_degree_of_a_still_blurred_by_a_known_degree_is_found_again(photographs):
    """Straight motion of unknown direction stands for a shaken camera's: right for most crops, in order for each."""
    ids = [f"still {i}" for i in range(len(photographs))]
    asked = (0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 1.0)
    found = torch.tensor([blur_degree(photographs, motion_blur(photographs, b, VERSION, ids)) for b in asked])
    assert (found[0] == 0).all() and (found <= 1).all()
    assert ((found.diff(dim=0) > 0) | (found[1:] == 1)).all()
    for beta, row in zip(asked, found, strict=True):
        assert row.median().item() == pytest.approx(beta, abs=0.1)
        assert (row - beta).abs().mean() < 0.15


def test_the_degree_grows_with_the_difference_and_knows_no_contrast(photographs):
    blurred = motion_blur(photographs, 0.4, VERSION, list(range(len(photographs))))
    degrees = [torch.tensor(blur_degree(photographs, torch.lerp(photographs, blurred, w))) for w in (0.2, 0.5, 0.9)]
    assert (degrees[0] < degrees[1]).all() and (degrees[1] < degrees[2]).all()
    paler = blur_degree(0.3 + 0.4 * photographs, 0.3 + 0.4 * blurred)
    assert paler == pytest.approx(blur_degree(photographs, blurred), abs=10.0**-DECIMALS)
    alone = blur_degree(photographs[1:2], blurred[1:2])
    assert alone == blur_degree(photographs, blurred)[1:2]


def test_the_degree_ends_at_one_and_is_none_where_nothing_is_to_be_seen(photographs):
    assert blur_degree(photographs, 1 - photographs) == [1.0] * len(photographs)
    flat = torch.full((1, 3, 32, 32), 0.4)
    assert blur_degree(flat, flat) == [0.0] and blur_degree(flat, flat + 0.2) == [0.0]
    with pytest.raises(ReproError, match=r"blur degree: got \(1, 3, 32, 32\) and \(1, 3, 16, 16\)"):
        blur_degree(flat, flat[..., :16, :16])


# -- REDS -------------------------------------------------------------------------------------------------------------


def test_the_published_sequences_are_split_210_30_30(monkeypatch):
    def pairs(root: Path, part: str):
        names = [f"{part}/{part}_sharp/{s:03d}/00000000.png" for s in range(240 if part == "train" else 30)]
        return tuple(Pair(Entry(root / n.replace("sharp", "blur"), root), Entry(root / n, root)) for n in names)

    monkeypatch.setattr(readers, "_reds_pairs", pairs)
    ids = {name: Reds(Path("x")).ids(name) for name in SPLITS}
    assert [len(ids[name]) for name in SPLITS] == [210, 30, 30]
    assert ids["train"] == tuple(f"train/{s:03d}/00000000" for s in range(210))
    assert ids["validation"] == tuple(f"train/{s:03d}/00000000" for s in range(210, 240))
    assert ids["test"] == tuple(f"val/{s:03d}/00000000" for s in range(30))


def test_a_pair_is_cut_alike_at_a_place_of_its_own(reds, root):
    part = whole(reds, "test")
    assert part.ids == ("val/000/00000000", "val/000/00000001", "val/001/00000000", "val/001/00000001")
    tops, lefts, _ = crop_places([(40, 48)] * 4, SIDE, part.ids, VERSION)
    assert len(set(zip(tops, lefts, strict=True))) > 1
    for i, id in enumerate(part.ids):
        _, sequence, frame = id.split("/")
        for kind, crop in (("sharp", part.sharp[i]), ("blur", part.blurred[i])):
            file = root / "val" / f"val_{kind}" / sequence / f"{frame}.png"
            assert torch.equal(crop, read_image(file)[:, tops[i] : tops[i] + SIDE, lefts[i] : lefts[i] + SIDE])


@pytest.mark.parametrize("name", SPLITS)
def test_it_is_the_same_in_any_blocks(reds, name):
    part, blocks = whole(reds, name), list(Reds(reds.root, crop=SIDE).blocks(name, 3))
    assert len(blocks) > 1 or len(part) <= 3
    assert sum((b.ids for b in blocks), ()) == part.ids == reds.ids(name)
    assert sum((b.vectors for b in blocks), ()) == part.vectors
    for tensor in ("sharp", "blurred", "reference", "hole"):
        assert torch.equal(torch.cat([getattr(b, tensor) for b in blocks]), getattr(part, tensor))


def test_beta_is_measured_and_the_rest_is_drawn(reds):
    part = whole(reds, "train")
    assert [v.blur for v in part.vectors] == blur_degree(part.sharp, part.blurred)
    assert all(0.1 < v.blur < 1 for v in part.vectors)
    for vector, drawn in zip(part.vectors, parameters(part.ids), strict=True):
        assert (vector.grain, vector.sharpen) == (drawn.grain, drawn.sharpen)


def test_references_come_from_the_training_sequences(reds):
    train = whole(reds, "train")
    for name in SPLITS:
        part = whole(reds, name)
        at = [train.ids.index(line[6]) for line in rows_of(reds, part)]
        assert torch.equal(part.reference, train.sharp[at])
        assert all(line[0] != line[6] for line in rows_of(reds, part))
    assert not {id.rsplit("/", 1)[0] for id in train.ids} & {id.rsplit("/", 1)[0] for id in reds.ids("validation")}


def test_effects_follow_on_the_blurred_frame(reds):
    part = whole(reds, "test")
    assert torch.equal(part.edit("blur").target, part.blurred) and torch.equal(part.edit("blur").source, part.sharp)
    plain = dataclasses.replace(part, sharp=part.blurred)
    for tasks in COMPOSITES:
        others = [task for task in tasks if task != "blur"]
        wanted = plain.edit(*others) if "blur" in tasks else part.edit(*tasks)
        assert torch.equal(part.edit(*tasks).target, wanted.target) and torch.equal(
            part.edit(*tasks).source, part.sharp
        )
    both = part.edit("blur", "inpaint")
    assert torch.equal(both.target, part.blurred) and torch.equal(both.hole, part.hole)
    assert torch.equal(both.source, part.sharp * (1 - part.hole))
    for k in (2, None, 99):
        assert torch.equal(part.first(k).edit("blur").target, part.blurred[:k])
    assert torch.equal(part.at([3, 1]).edit("blur", "grain").target, part.edit("blur", "grain").target[[3, 1]])


def test_a_build_of_it_is_checked_against_its_frames(reds, root, tmp_path):
    made = write(tmp_path / "build", reds, profile="paper")
    assert made.source == "reds" and made.digest == reds.digest() and made.settings["crop"] == SIDE
    assert [made.splits[name]["crops"] for name in SPLITS] == [14, 2, 4]
    assert made.splits["test"]["definition"] == definition(rows_of(reds, whole(reds, "test")))
    report = check(tmp_path / "build", root)
    assert report.ok and "test: parameters, holes and crops of 4 made again" in report.found
    ((ids, pictures),) = load(tmp_path / "build", "test", ("blur",))
    assert torch.equal(pictures["blur"].float() / 255, whole(reds, "test").blurred) and tuple(ids) == reds.ids("test")
    said = (tmp_path / "build" / "README.md").read_text()
    assert "measured: the length of the motion" in said and "REDS" in said and "photographs of this" not in said
    report = check(tmp_path / "build", tmp_path / "nowhere")
    assert report.ok and "were not made again" in report.found[-1] and str(tmp_path / "nowhere") in report.found[-1]


def test_other_frames_are_another_source(reds, root, tmp_path, monkeypatch):
    write(tmp_path / "build", reds)
    file = root / "val/val_sharp/000/00000000.png"
    before = file.read_bytes()
    try:
        write_image(file, picture("another", 40, 48))
        assert any("another definition or other data" in p for p in check(tmp_path / "build", root).problems)
        monkeypatch.setattr(Reds, "digest", lambda self: reds_digest)
        reds_digest = build.manifest.read(tmp_path / "build").digest
        problems = check(tmp_path / "build", root).problems
        assert any("sharp of val/000/00000000: not what reds gives" in p for p in problems)
        assert any("parameters of val/000/00000000" in p for p in problems)  # beta is measured
    finally:
        file.write_bytes(before)


def test_the_paper_profile_from_the_command_line(root, tmp_path, monkeypatch, capsys):
    from repro.cli import main

    monkeypatch.setattr(build, "Reds", lambda folder: Reds(folder, crop=SIDE))
    arguments = ["data", "build", "editing-bench", "--profile", "paper", "--root", str(root)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "train 14, validation 2, test 4 crops" in capsys.readouterr().out
    assert main([*arguments[:-1], str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert "get train_sharp.zip, train_blur.zip" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_settings_make_the_source_again(reds, root):
    for source in (reds, Reds(root, recipe=Recipe(grain="film", fill=0.5)), Pack(TINY)):
        plain = build._plain(source.settings())
        assert of_settings(source.name, plain, root) == source
    with pytest.raises(ReproError, match="no source 'div2k'; accepted: pack, reds"):
        of_settings("div2k", {"recipe": {}})
    with pytest.raises(ReproError, match="settings that this version does not know"):
        of_settings("reds", {"recipe": {"colour": 1}})


def test_what_cannot_work_is_refused(reds, tmp_path):
    with pytest.raises(ReproError, match="blur comes first"):
        Reds(tmp_path, recipe=Recipe(order=("grain", "blur", "colour", "sharpen")))
    with pytest.raises(ReproError, match="no split 'gallery'"):
        reds.ids("gallery")
    with pytest.raises(ReproError, match="a 64x64 crop does not fit"):
        next(Reds(reds.root, crop=64).blocks("test", 1))
    with pytest.raises(ReproError, match=r"nothing found; get train_sharp\.zip"):
        Reds(tmp_path).ids("train")


# -- unseen domains ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pool():
    return split("train", TINY)


def faces(root: Path, folder: str, count: int, side: int) -> Path:
    for i in range(count):
        write_image(root / folder / f"{i // 4 * 1000:05d}" / f"{i:05d}.png", picture(f"face {i}", side, side))
    return root


def test_faces_and_cars_are_asked_for_the_same(pool, tmp_path):
    faces(tmp_path / "ffhq", "images1024x1024", 9, 64)
    for i in range(6):
        write_image(tmp_path / "cars" / "cars_test" / f"{i:05d}.jpg", picture(f"car {i}", 40 + i, 60))
    for name in ("ffhq", "cars"):
        some = unseen(name, TINY, pool, tmp_path / name, count=4)
        assert len(some) == 4 and some.sharp.shape == (4, 3, 32, 32) and all(id.startswith(name) for id in some.ids)
        assert torch.equal(some.sharp, levels(some.sharp)) and list(some.vectors) == parameters(some.ids)
        assert all(any(torch.equal(r, crop) for crop in pool.sharp) for r in some.reference)
        fewer = unseen(name, TINY, pool, tmp_path / name, count=2)
        assert fewer.ids == some.ids[:2] and torch.equal(fewer.edit("blur").target, some.edit("blur").target[:2])
        assert torch.equal(some.at([2, 3]).edit(*COMPOSITES[3]).target, some.edit(*COMPOSITES[3]).target[2:])
    stem = some.ids[0].split("/")[1]
    car = read_image(tmp_path / "cars" / "cars_test" / f"{stem}.jpg")
    height = car.shape[1]
    square = car[:, :, (60 - height) // 2 : (60 - height) // 2 + height]
    assert torch.equal(some.sharp[0], levels(resize(square, 32)))


def test_the_paper_s_definition_serves_too(pool, reds, tmp_path):
    faces(tmp_path, "images1024x1024", 3, 32)
    some = unseen("ffhq", dataclasses.replace(reds, recipe=FIELD), pool, tmp_path, count=2)
    assert (some.edit("blur").target != some.sharp).any() and some.edit("grain").target.shape == (2, 3, 32, 32)


def test_thumbnails_do_where_they_are_large_enough(pool, tmp_path):
    faces(tmp_path, "thumbnails128x128", 5, 33)
    assert len(unseen("ffhq", TINY, pool, tmp_path, count=5)) == 5
    faces(tmp_path, "images1024x1024", 5, 31)  # these come first where they are
    with pytest.raises(ReproError, match="0 of 5 pictures are at least 32 pixels wide and high; 5 were asked for"):
        unseen("ffhq", TINY, pool, tmp_path, count=5)


def test_absent_pictures_and_unknown_names(pool, tmp_path):
    with pytest.raises(ReproError, match=r"get images1024x1024 with .* from https://github.com/NVlabs/ffhq-dataset"):
        unseen("ffhq", TINY, pool, tmp_path)
    with pytest.raises(ReproError, match="accepted: ffhq, cars"):
        unseen("celeba", TINY, pool, tmp_path)


# -- repro data check -------------------------------------------------------------------------------------------------


def test_reds_is_checked(root, tmp_path):
    assert known_check("reds", root).ok
    report = known_check("reds", tmp_path)
    assert not report.present and "val_sharp.zip" in report.text() and "test ground truth is withheld" in report.text()


def test_faces_are_checked_and_one_part_is_enough(tmp_path, monkeypatch):
    counts = {
        label: part.count
        for label in ("images1024x1024", "thumbnails128x128")
        for part in [LAYOUTS["ffhq"].part(label)]
    }
    assert set(counts.values()) == {70_000}
    monkeypatch.setitem(LAYOUTS, "ffhq", files("ffhq", dict.fromkeys(counts, 5)))
    report = known_check("ffhq", tmp_path)
    assert not report.ok and "holds images1024x1024/**/* or thumbnails128x128/**/*" in report.text()
    assert "nothing found of images1024x1024/**/* or thumbnails128x128/**/*" in report.problems[0]
    faces(tmp_path / "inner", "thumbnails128x128", 5, 8)
    assert known_check("ffhq", tmp_path).problems == [
        f"{tmp_path}: the data set lies one level deeper; give --root {tmp_path / 'inner'}"
    ]
    (tmp_path / "inner" / "thumbnails128x128" / "00000" / "LICENSE.txt").touch()
    assert known_check("ffhq", tmp_path / "inner").ok
    faces(tmp_path / "inner", "images1024x1024", 4, 8)
    problems = known_check("ffhq", tmp_path / "inner").problems
    assert len(problems) == 1 and "4 found, 5 files expected (1 missing)" in problems[0]


def test_cars_are_checked(tmp_path, monkeypatch):
    assert [part.count for part in LAYOUTS["cars"].parts] == [8041, 8144]
    monkeypatch.setitem(LAYOUTS, "cars", files("cars", {"cars_test": 2}))
    report = known_check("cars", tmp_path)
    assert not report.present and "cars_test.tgz" in report.text() and "no longer served" in report.text()
    for i in (1, 2):
        write_image(tmp_path / "cars_test" / f"{i:05d}.jpg", torch.zeros(3, 4, 4))
    assert known_check("cars", tmp_path).ok
