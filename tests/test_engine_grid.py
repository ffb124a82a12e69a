"""Tables as data: the interpreter against tables written by hand, expansion, enumeration, refusals."""

from __future__ import annotations

import pytest
from test_engine_records import make

from repro.engine import grid, tables
from repro.errors import ReproError

PSNR = {"name": "PSNR", "metric": "psnr", "protocol": "psnr-rgb", "better": "higher", "decimals": 2}
VALUES = {(s, n): [20.0 + n + s + i / 10 for i in range(10)] for s in (0, 1) for n in (5, 50)}
RECORDS = [
    make(seed=s, n=10, experiment=f"net-s{s}", cell={"task": "dark", "steps": n}, metrics={"psnr": VALUES[s, n]})
    for s, n in VALUES
]
SPEC = {
    "column": {"psnr": PSNR},
    "also": [{"experiment": "net-s{seed}", "each": {"seed": [0, 1]}, "cell": {"task": "spread"}}],
    "table": [
        {
            "name": "dark",
            "caption": "Dark",
            "corner": "method",
            "cell": {"task": "dark"},
            "columns": [{"use": "psnr", "name": "PSNR, {steps}", "for": {"steps": [5, 50]}}],
            "rows": [
                {"name": "ours", "experiment": "net-s*", "skip": ["PSNR, 50"], "dash": "too slow"},
                {"name": "later", "experiment": "other-s0"},
                {"name": "quoted", "dash": "no code"},
            ],
        }
    ],
}


def test_a_table_from_data_equals_the_one_written_by_hand():
    columns = tuple(tables.Column(f"PSNR, {n}", "psnr-rgb", "higher", decimals=2) for n in (5, 50))
    here = [record for record in RECORDS if record.cell["steps"] == 5]
    rows = {
        "ours": {"PSNR, 5": tables.ours(here, "psnr"), "PSNR, 50": tables.Cell(dash="too slow")},
        "later": {c.name: tables.Cell(dash=grid.NOT_YET) for c in columns},
        "quoted": {c.name: tables.Cell(dash="no code") for c in columns},
    }
    by_hand = tables.Table("dark", "Dark", columns, rows, corner="method")
    (made,) = grid.tables("ddpm", RECORDS, spec=SPEC)
    assert made.to_csv() == by_hand.to_csv()
    assert made.to_markdown() == by_hand.to_markdown()
    assert made.rows["ours"]["PSNR, 5"].seeds == 2


def test_what_must_be_measured_is_enumerated_once():
    assert grid.cells(SPEC) == [
        ("net-s0", {"task": "spread"}),
        ("net-s1", {"task": "spread"}),
        ("net-s*", {"task": "dark", "steps": 5}),
        ("other-s0", {"task": "dark", "steps": 5}),
        ("other-s0", {"task": "dark", "steps": 50}),
    ]
    assert grid.at_every_seed("net-s*", ["net-s0", "net-s12", "net-small-s0", "net-sx"]) == ["net-s0", "net-s12"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("columns = ['lpips']", "there is no column 'lpips', there are psnr"),
        ("colums = 3", "table 't': colums unknown"),
        ("rows = [{ name = 'a', experimnt = 'x' }]", "row 'a': experimnt unknown"),
    ],
)
def test_a_grid_with_a_mistake_is_refused_by_name(tmp_path, monkeypatch, change, sentence):
    lines = {"columns": "columns = ['psnr']", "rows": "rows = []"}
    lines[change.split()[0]] = change
    shared = "[column.psnr]\nname = 'PSNR'\nmetric = 'psnr'\nprotocol = 'p'\n"
    (tmp_path / "grid.toml").write_text(shared + "[[table]]\nname = 't'\ncaption = 'T'\n" + "\n".join(lines.values()))
    monkeypatch.setattr("repro.paths.room_file", lambda room, name: tmp_path / name)
    with pytest.raises(ReproError, match=sentence):
        grid.load("ddpm")
