"""Records: ids, rounding, refusals that name file and line, and a file that survives a full disk and two writers."""

import subprocess
import sys
from pathlib import Path

import pytest

from repro.engine import records
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
