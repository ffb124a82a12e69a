"""Re-evaluation against committed records, and comparison of regenerated tables."""

from types import SimpleNamespace

import pytest
import torch
from test_engine_records import make

from repro.engine import evaluation
from repro.engine.commands import TablesCompare
from repro.engine.evaluation import Tolerance
from repro.errors import ReproError

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
    assert {(row.record.id, row.metric) for row in report.failed} == {
        (bad.id, "psnr"), (silent.id, "psnr"), (gone.id, "psnr"), (gone.id, "fid")
    }  # fmt: skip
    text = report.text()
    for sentence in ("recorded 21, recomputed 21.5, 0.022 apart is allowed", "not recomputed", "a-b-c is missing",
                     "its weights do not ship", "no first-k values were recorded"):  # fmt: skip
        assert sentence in text
    assert text.splitlines()[-1] == "1 of 4 records re-evaluated agree (4 of 8 values); 2 taken from committed records"


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
    assert [row.metric for row in report.failed] == ([] if ok else ["psnr"])


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
    path.write_text("a,b\n")
    with pytest.raises(ReproError, match="line 1: the header must read record,experiment"):
        evaluation.verified("ddpm", [good])


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
    for a, b, sentence in ((empty, empty, "there is nothing to compare"), (old, old / "b", "b: no such folder")):
        with pytest.raises(ReproError, match=sentence):
            TablesCompare(a, b).run()
