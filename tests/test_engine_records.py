"""Records, their images and check: ids, rounding, refusals by line, two writers, `repro provenance`, re-evaluation."""

import json
import operator
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from repro.engine import evaluation, provenance, records
from repro.engine.commands import ShowProvenance, TablesCompare
from repro.engine.evaluation import Tolerance
from repro.engine.provenance import provenance_of, save_figure
from repro.engine.records import Record
from repro.errors import ReproError

FIELDS = {
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


def make(**changes: object) -> Record:
    return Record(**{**FIELDS, **changes})


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
    "schema": (lambda line: line.replace('"schema":1', '"schema":9'), "of another method or version"),
    "value": (lambda line: line.replace("12.3457", "11.0"), "changed after writing"),
    "field": (lambda line: line.replace('"seed"', '"seeds"'), "'seeds'"),
    "not finite": (lambda line: line.replace("12.3457", "NaN"), "metric 'fid' is nan"),
    "twice": (lambda line: make(cell={"steps": 10}).to_line(), "a second time"),
    "other room": (lambda line: make(room="rddm").to_line(), "of another method"),
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


WRITER = """
import json, pathlib, sys
from repro.engine import records
fields, worker = json.loads(sys.argv[1]), int(sys.argv[2])
pathlib.Path(f"here {worker}").touch()
while not pathlib.Path(f"here {1 - worker}").exists(): pass  # both write at once
for s in range(10):
    records.upsert("ddpm", [records.Record(**fields | {"cell": {"steps": s, "worker": worker}})])
"""


def test_two_processes_lose_no_line(home):
    command = [sys.executable, "-c", WRITER, json.dumps(FIELDS)]
    workers = [subprocess.Popen([*command, str(i)], cwd=home) for i in range(2)]
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
    path = save_figure(make_image(), "demo", [record, record], COMMAND, photograph=photograph)
    assert path == home / "figures" / "pictures" / ("demo.jpg" if photograph else "demo.png")
    before = path.read_bytes()
    assert save_figure(make_image(), "again", [record], COMMAND, photograph=photograph).read_bytes() == before
    assert provenance_of(path) == provenance.Provenance((record.id,), COMMAND)
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
    assert save(pixels, seed=5).read_bytes() != before and provenance_of(path).command == "repro 5"
    other = pixels.copy()
    other[8:16, 8:16] = 140
    assert np.asarray(Image.open(save(other, seed=5)))[12, 12, 0] > 130
    path.write_bytes(b"damaged")
    assert save(pixels).read_bytes() == before


@pytest.mark.parametrize(("count", "apart", "left"), [(1, 20, True), (1, 60, False), (8, 20, False)])
def test_a_few_pixels_may_differ_by_more(record, home, count, apart, left):
    """One in a thousand, by 32 grey levels at most: rounding that sampling and JPEG made larger."""
    pixels = np.full((40, 40, 3), 100, np.uint8)
    before = save_figure(pixels, "specks", [record], "repro").read_bytes()
    pixels[0, :count] += np.uint8(apart)
    assert (save_figure(pixels, "specks", [record], "repro").read_bytes() == before) == left


def test_a_result_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    image = torch.full((3, 4, 4), 0.2)
    for name in ("file/out.png", "file/out.jpg"):
        with pytest.raises(ReproError, match=r"the result was written to (\S+) instead") as caught:
            provenance.save_result(image, tmp_path / name, COMMAND)
        kept = Path(str(caught.value).split(" ")[-2])
        assert provenance_of(kept).command == COMMAND and np.asarray(Image.open(kept)).tolist() == [[[51] * 3] * 4] * 4
        kept.unlink()
    monkeypatch.setattr(provenance.tempfile, "NamedTemporaryFile", lambda **_: (tmp_path / "file/other").touch())
    with pytest.raises(ReproError, match=r"file/out.png could not be .*; nor could the result be kept elsewhere \("):
        provenance.save_result(image, tmp_path / "file/out.png", COMMAND)


def test_files_that_cannot_say_are_one_sentence(home, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "bare.png").read_bytes()[:40])
    Image.new("RGB", (4, 4)).save(tmp_path / "damaged.jpg", comment=b'<!-- repro {"records": 3} -->')
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "lonely.csv").write_text("a,b\n")
    (tmp_path / "a.txt").write_text("")
    for name, sentence in {
        "bare.png": "carries no provenance",
        "broken.png": "not a readable image",
        "binary.md": "carries no provenance",
        "damaged.jpg": "carries no provenance",
        "lonely.csv": "lonely.md: no such file",
        "a.txt": "carries no provenance",
        "none.png": "no such file",
    }.items():
        with pytest.raises(ReproError, match=sentence) as caught:
            ShowProvenance(tmp_path / name).run()
        assert name.split(".")[0] in str(caught.value) and "\n" not in str(caught.value)


def test_provenance_prints_the_command_and_what_the_records_are(record, capsys):
    path = save_figure(np.zeros((4, 4), np.uint8), "x", [record], COMMAND)
    assert ShowProvenance(path).run() == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == COMMAND
    assert record.label in out[1] and record.command in out[1]
    records.path_of("ddpm").unlink()
    assert ShowProvenance(path).run() == 0
    assert "no longer among the committed records" in capsys.readouterr().out


VALUES = {"psnr": [20.0, 21.0], "fid": 12.0}


def checked(steps: int = 0, **changes):
    return make(check={"k": 2, "metrics": VALUES}, cell={"steps": steps}, **changes)


def test_agreement_disagreement_and_silence_are_told_apart():
    good, bad, silent, gone = map(checked, (1, 2, 3, 4))
    ablation, unchecked = checked(5, source="recorded"), make(cell={"steps": 6})
    calls = []

    def recompute(record, k):
        calls.append((record.id, k))
        if record is gone:
            raise ReproError("checkpoint a-b-c is missing")
        worse = {"psnr": [20.0, 21.5]} if record is bad else {}
        return {**VALUES, **worse} if record is not silent else {"fid": 12.01}

    report = evaluation.check([good, bad, silent, gone, ablation, unchecked], recompute)
    assert calls == [(record.id, 2) for record in (good, bad, silent, gone)]
    assert report.verified == {(good.id, "psnr"), (good.id, "fid")}
    assert {(line["record"], line["metric"]) for line in report.failed} == {
        (bad.id, "psnr"), (silent.id, "psnr"), (gone.id, "psnr"), (gone.id, "fid")
    }  # fmt: skip
    text = report.text()
    for sentence in ("recorded 21, recomputed 21.5, 0.022 apart is allowed", "not recomputed", "a-b-c is missing",
                     "its weights do not ship", "no first-k values were recorded"):  # fmt: skip
        assert sentence in text
    assert text.splitlines()[-1] == "1 of 4 records re-evaluated agree (4 of 8 values); 2 taken from committed records"
    # Whichever value is furthest apart on a processor: the written line is the same.
    either = ({**VALUES, "psnr": near} for near in ([20.001, 21.0], [20.0, 21.001]))
    assert operator.eq(*(evaluation.check([good], lambda *_, near=near: near).lines for near in either))


def test_rows_are_measured_in_true_fp32_on_gpus_too(monkeypatch):
    """cuDNN's convolutions may otherwise round to TF32."""
    flag = lambda *_: {"tf32": float(torch.backends.cudnn.allow_tf32)}  # noqa: E731
    monkeypatch.setattr(evaluation, "study_module", lambda room, name: SimpleNamespace(measure=flag))
    row = evaluation.Row("ddpm", "baseline-input", {}, evaluation.Sample(1, 1, "0" * 64), 0, "small")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        assert row.measure(1) == {"tf32": 0.0} and torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("found", "tolerance", "ok"),
    [
        ([20.1, 21.0], Tolerance(0.11, 0), True),
        ([20.1, 21.0], Tolerance(0.09, 0), False),
        ([20.1, 21.0], Tolerance(0, 0.006), True),
        ([20.1, 21.0], {"fid": Tolerance(0, 0), "psnr": Tolerance(0.2, 0)}, True),
        ([20.1, 21.0], {"fid": Tolerance(9, 9)}, False),
        ([20.0], Tolerance(9, 9), False),
        ([20.0, float("nan")], Tolerance(9, 9), False),
    ],
)
def test_the_tolerance_is_absolute_plus_relative_and_per_protocol(found, tolerance, ok):
    report = evaluation.check([checked()], lambda record, k: {**VALUES, "psnr": found}, tolerance)
    assert [line["metric"] for line in report.failed] == ([] if ok else ["psnr"])


def test_the_report_is_written_alike_and_read_back(home):
    good, bad = checked(1), checked(2)

    def report(near: float = 0.0):
        psnr = [value + near for value in VALUES["psnr"]]
        return evaluation.check([good, bad], lambda r, k: VALUES | {"psnr": psnr if r is good else [20.0, 0.0]})

    path = report().write("ddpm")
    assert path == home / "figures" / "checks" / "ddpm.csv"
    before = path.read_bytes()
    assert report(near=2e-4).write("ddpm").read_bytes() == before, "another processor: within tolerance"
    assert evaluation.verified("ddpm", [good, bad]) == report().verified == {(good.id, "psnr"), (good.id, "fid")}
    assert evaluation.verified("ddpm", [bad]) == frozenset(), "a record measured anew is no longer verified"
    assert evaluation.verified("rddm", [good]) == frozenset()
    evaluation.check([good, bad], lambda r, k: VALUES).write("ddpm")
    assert path.read_bytes() != before, "a verdict changed"


# Tables, regenerated against committed

TABLE = "row,column,ours,mark,records,atol,rtol\nDDIM,FID,12.0,recorded,12e4,0.1,0\nDDPM,FID,13.0,recorded,13e4,0,0\n"


@pytest.fixture
def folders(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        (folder / "tables").mkdir(parents=True)
        (folder / "tables" / "t.csv").write_text(TABLE)
    return old, new


@pytest.mark.parametrize(
    ("edit", "differences"),
    [
        (("12.0", "12.09"), []),
        (("12.0", "12.11"), ["DDIM / FID, ours: committed 12.0, regenerated 12.11 (0.1 apart is allowed)"]),
        (("12.0", "nan"), ["DDIM / FID, ours: committed 12.0, regenerated nan (0.1 apart is allowed)"]),
        (("12.0", ""), ["DDIM / FID, ours: committed 12.0, regenerated nothing"]),
        (("0.1", "?"), ["DDIM / FID, atol: committed 0.1, regenerated ?"]),
        (("12e4", "120000"), ["DDIM / FID, records: committed 12e4, regenerated 120000"]),
        (("mark", "sign"), [f"{row} / FID, {change}" for change in (
            "mark: committed recorded, regenerated no such cell", "sign: committed no such cell, regenerated recorded"
        ) for row in ("DDIM", "DDPM")]),
    ],
)  # fmt: skip
def test_a_changed_cell_is_found_and_named(folders, edit, differences, capsys):
    old, new = folders
    (new / "tables" / "t.csv").write_text(TABLE.replace(*edit))
    assert TablesCompare(old, new).run() == (1 if differences else 0)
    printed = capsys.readouterr()
    *lines, counts = (printed.err or printed.out).splitlines()
    assert lines == [f"tables/t.csv, {line}" for line in differences]
    assert counts.endswith(f"cells compared, {len(differences)} differ")


def test_a_missing_table_a_moved_row_and_nothing_to_compare(folders, capsys):
    old, new = folders
    head, first, second = TABLE.splitlines()
    (new / "tables" / "t.csv").write_text("\n".join([head, second, first]) + "\n")
    assert TablesCompare(old, new).run() == 0, "rows are matched by name"
    (old / "u.csv").write_text("a\n1\n")
    assert TablesCompare(old, new).run() == 1
    assert "u.csv, line 2, a: committed 1, regenerated no such cell\n" in capsys.readouterr().err
    (empty := old / "empty").mkdir()
    for other in (empty, old / "b"):
        with pytest.raises(ReproError, match="there is nothing to compare"):
            TablesCompare(old, other).run()
