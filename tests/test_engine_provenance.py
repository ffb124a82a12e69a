"""Images that say what made them: same bytes twice, `repro whence`, and files that cannot say."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_engine_records import make

from repro.engine import provenance, records
from repro.engine.commands import Whence
from repro.engine.provenance import save_figure, whence
from repro.errors import ReproError

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
