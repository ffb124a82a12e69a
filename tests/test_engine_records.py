"""Records and the images that they stand behind: ids, rounding, refusals by line, two writers, `repro whence`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from repro.engine import provenance, records
from repro.engine.commands import Whence
from repro.engine.provenance import save_figure, whence
from repro.engine.records import Record
from repro.errors import ReproError


def make(**changes: object) -> Record:
    fields = {
        "room": "ddpm",
        "experiment": "fid",
        "cell": {"sampler": "ddim", "steps": 50, "eta": 0.0},
        "metrics": {"psnr": [20.123456789, 21.0, 22.0], "fid": 12.3456789},
        "n": 3,
        "seed": 0,
        "profile": "small",
        "checkpoint": "ab" * 32,
        "data": "cd" * 32,
        "command": "repro evaluate ddpm fid",
        "environment": {"wall_s": 1.5},
    }
    return Record(**{**fields, **changes})


def test_a_written_record_comes_back_equal_and_an_equal_result_leaves_the_file_alone(home):
    record = make(check={"k": 2, "metrics": {"psnr": [20.123456789, 21.0]}})
    records.upsert("ddpm", [record])
    assert records.load("ddpm") == [record] and records.load("ddpm")[0].id == record.id
    assert record.metrics["psnr"][0] == 20.1235, "six significant digits"
    assert records.load("rddm") == []
    before = records.path_of("ddpm").read_bytes()
    records.upsert("ddpm", [make(check=record.check, environment={"wall_s": 7.0})])
    assert records.path_of("ddpm").read_bytes() == before
    better = make(metrics={"fid": 9.0})
    records.upsert("ddpm", [better])
    assert records.load("ddpm") == [better]


def test_the_id_hashes_what_was_measured_and_nothing_else():
    record = make()
    same = {"environment": {"wall_s": 99}, "source": "recorded", "cell": {"eta": 0, "steps": 50, "sampler": "ddim"}}
    assert {make(**{name: value}).id for name, value in same.items()} == {record.id}
    different = {
        "cell": {"sampler": "ddim", "steps": 50, "eta": 1.0},
        "metrics": {"psnr": [20.1236, 21.0, 22.0], "fid": 12.3456789},
        "check": {"k": 1, "metrics": {"fid": 1.0}},
        **{"n": 4, "seed": 1, "profile": "paper", "checkpoint": None, "data": "ee", "command": "other"},
    }
    ids = {make(**{name: value}).id for name, value in different.items()}
    assert len(ids) == len(different) and record.id not in ids


def test_the_file_is_ordered_by_numbers_as_numbers(home):
    records.upsert("ddpm", [make(cell={"steps": s}) for s in (1000, 10, 2)])
    assert [record.cell["steps"] for record in records.load("ddpm")] == [2, 10, 1000]


DAMAGE = {
    "half a line": (lambda line: line[: len(line) // 2], "no record"),
    "a list": (lambda line: "[1, 2]", "no record"),
    "nothing": (lambda line: "", "no record"),
    "schema": (lambda line: line.replace('"schema":1', '"schema":9'), "schema 9, this version reads schema 1"),
    "value": (lambda line: line.replace("12.3457", "11.0"), "its content gives the id .* changed after writing"),
    "field": (lambda line: line.replace('"seed"', '"seeds"'), "'seeds'"),
    "not finite": (lambda line: line.replace("12.3457", "NaN"), "metric 'fid': a measured value is nan"),
    "twice": (lambda line: make(cell={"steps": 10}).to_line(), "a second time: ddpm/fid"),
    "other room": (lambda line: make(room="rddm").to_line(), "of another room"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_is_named(home, damage):
    records.upsert("ddpm", [make(cell={"steps": s}) for s in (10, 50)])
    path, (change, sentence) = records.path_of("ddpm"), DAMAGE[damage]
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{change(second)}\n")
    with pytest.raises(ReproError, match=f"line 2: .*{sentence}") as caught:
        records.load("ddpm")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metrics": {"fid": float("nan")}}, "metric 'fid': a measured value is nan"),
        ({"metrics": {"fid": []}}, "one value or more of each are needed"),
        ({"metrics": {}}, "one value or more of each are needed"),
        ({"cell": {"steps": [1, 2]}}, "cell value steps"),
        ({"cell": {"eta": float("inf")}}, "cell value eta=inf"),
    ],
)
def test_nonsense_is_refused_where_it_enters(changes, sentence):
    with pytest.raises(ReproError, match=sentence):
        make(**changes)


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_engine_records import make
from repro.engine import records
for s in range(10):
    records.upsert("ddpm", [make(cell={"steps": s, "worker": int(sys.argv[2])})])
"""


def test_two_processes_lose_no_line(home):
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent)]
    workers = [subprocess.Popen([*command, str(i)]) for i in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    assert len(records.load("ddpm")) == 20


def test_a_part_of_a_cell_or_an_open_seed_selects():
    cells = [make(cell={"steps": s, "clip": True}) for s in (10, 50)]
    assert records.select(cells, experiment="fid", cell={"steps": 50}) == cells[1:]
    assert records.select(cells, cell={"clip": 1}) == [], "1 is not true"
    nets = [make(experiment=f"net-s{seed}", seed=seed) for seed in (0, 1, 12)]
    others = [make(experiment=name) for name in ("net-other-s0", "net-sx", "other-net-s0", "baseline")]
    assert records.select([*nets, *others], experiment="net-s*") == nets
    assert records.select([*nets, *others], experiment="net-s1") == [nets[1]]


COMMAND = "repro reproduce 01_ddpm_basics --größe 3"


@pytest.fixture
def record(home):
    (written,) = records.upsert("ddpm", [make()])
    return written


def plot():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


@pytest.mark.parametrize("photograph", [False, True])
@pytest.mark.parametrize("make_image", [plot, lambda: torch.linspace(0, 1, 48 * 64).view(1, 48, 64).expand(3, -1, -1)])
def test_a_picture_carries_its_provenance_and_equal_input_gives_equal_bytes(record, home, make_image, photograph):
    path = save_figure(make_image(), "demo", [record, record.id], COMMAND, photograph=photograph)
    assert path == home / "figures" / "pictures" / ("demo.jpg" if photograph else "demo.png")
    before = path.read_bytes()
    assert save_figure(make_image(), "again", [record], COMMAND, photograph=photograph).read_bytes() == before
    assert whence(path) == provenance.Provenance((record.id,), COMMAND)
    if not photograph:
        found = set(Image.open(path).text)
        assert found == {"Repro-Records", "Repro-Command", "Repro-Version"}, "no time, no software version"


@pytest.mark.parametrize("photograph", [False, True])
def test_a_picture_that_agrees_is_left_as_it_is(record, home, photograph):
    """Rounding of another processor leaves the tree clean; another image or another command does not."""
    pixels = np.full((24, 24, 3), 100, np.uint8)
    save = lambda pixels, seed=4: save_figure(pixels, "left", [record], f"repro {seed}", photograph=photograph)  # noqa: E731
    path = save(pixels)
    before = path.read_bytes()
    assert save(pixels + 2).read_bytes() == before
    assert save(pixels, seed=5).read_bytes() != before and whence(path).command == "repro 5"
    other = pixels.copy()
    other[8:16, 8:16] = 140
    assert np.asarray(Image.open(save(other, seed=5)))[12, 12, 0] > 130
    path.write_bytes(b"damaged")
    assert save(pixels).read_bytes() == before


def test_a_record_that_does_not_exist_cannot_stand_behind_a_picture(record):
    with pytest.raises(ReproError, match=r"records that are not in .*: 0123456789abcdef"):
        save_figure(np.zeros((4, 4), np.uint8), "x", ["0123456789abcdef"], COMMAND)


def test_files_that_cannot_say_are_one_sentence(home, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "bare.png").read_bytes()[:40])
    other = PngInfo()
    other.add_text("comment", "<!-- a text of somebody's -->")
    Image.new("RGB", (4, 4)).save(tmp_path / "commented.png", pnginfo=other)
    Image.new("RGB", (4, 4)).save(tmp_path / "damaged.jpg", comment=b'<!-- repro {"records": 3} -->')
    (tmp_path / "damaged.md").write_text('<!-- repro {"records": 3} -->\n')
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "lonely.csv").write_text("a,b\n")
    (tmp_path / "a.txt").write_text("")
    for name, sentence in {
        "bare.png": "carries no provenance",
        "commented.png": "carries no provenance",
        "broken.png": "not a readable image",
        "binary.md": "carries no provenance",
        "damaged.md": "provenance comment is damaged",
        "damaged.jpg": "provenance comment is damaged",
        "lonely.csv": "lonely.md: no such file",
        "a.txt": "provenance is kept in .png, .jpg, .md and .csv files, this is .txt",
        "none.png": "no such file",
    }.items():
        with pytest.raises(ReproError, match=sentence) as caught:
            Whence(tmp_path / name).run()
        assert name.split(".")[0] in str(caught.value) and "\n" not in str(caught.value)


def test_whence_prints_the_command_and_what_the_records_are(record, capsys):
    path = save_figure(np.zeros((4, 4), np.uint8), "x", [record], COMMAND)
    assert Whence(path).run() == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == COMMAND
    assert record.label in out[1] and record.command in out[1]
    records.path_of("ddpm").unlink()
    assert Whence(path).run() == 0
    assert "no longer among the committed records" in capsys.readouterr().out
