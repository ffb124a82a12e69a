"""Tables and intervals: exact text, order independence, coverage of the intervals, paper numbers refused by line."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_records import make

from repro.engine import records, stats, tables
from repro.engine.provenance import whence
from repro.errors import ReproError

PSNR = tables.Column("PSNR", "psnr-rgb", "higher", decimals=2)
FID = tables.Column("FID", "fid-small-classifier", "lower", decimals=1)
PAPER = tables.PaperNumber(15.56, "PSNR, unspecified", "Table 1")


def images(seed: int, **changes):
    values = [20.0 + 0.1 * i + seed for i in range(10)]
    return make(seed=seed, n=10, metrics={"psnr": values, "fid": 12.0}, **changes)


def example(verified=()):
    row = {
        "PSNR": replace(tables.ours(images(0), "psnr", verified=verified), paper=PAPER),
        "FID": tables.ours(images(0), "fid", verified=verified),
    }
    missing = {
        "PSNR": tables.Cell(dash="needs | SID"),
        "FID": tables.Cell(dash="needs | SID", paper=tables.PaperNumber(36.05, "FID 50k", "Table 1")),
    }
    return tables.Table(
        "demo", "A demo", (PSNR, FID), {"DDIM": row, "paper model": missing}, ("a note",), corner="method"
    )


def test_the_markdown_tells_recorded_from_re_evaluated_and_names_both_protocols():
    text = example(verified={(images(0).id, "psnr")}).to_markdown()
    assert "| method | PSNR ↑ | FID ↓ |" in text
    assert "| DDIM | 20.45 [" in text and "] · *15.56* | 12.0† |" in text
    assert "| paper model | — (1) | — (1) · *36.05* |" in text
    assert "- PSNR: ours psnr-rgb; paper PSNR, unspecified" in text
    assert "† recorded: taken from the committed record" in text
    assert "Unmarked: the first k samples were re-evaluated" in text
    assert "- — (1): needs \\| SID" in text
    assert "20.45† [" in example().to_markdown(), "nothing verified: everything is marked"


def test_the_brief_table_halves_the_interval_and_names_the_page():
    text = example(verified={(images(0).id, "psnr")}).brief(["PSNR"], ["DDIM"])
    (row,) = [line for line in text.splitlines() if line.startswith("| DDIM")]
    low, high = example().rows["DDIM"]["PSNR"].interval
    assert row == f"| DDIM | 20.45 ± {(high - low) / 2:.2f} · *15.56* |"
    assert "figures/tables/demo.md" in text and "FID" not in text and "†" not in text
    with pytest.raises(ReproError, match="table demo: no column 'SSIM', there are PSNR, FID"):
        example().brief(["SSIM"])


def test_an_interval_says_what_it_resamples_and_a_cell_is_one_measurement():
    assert tables.ours(images(0), "psnr").over == "images"
    fid = [make(seed=s, n=500, metrics={"fid": [9.0, 9.5, 10.0, 9.2, 9.9]}) for s in (0, 1)]
    cell = tables.ours(fid, "fid")
    assert (cell.over, cell.n, cell.seeds) == ("replicates", 500, 2)
    text = tables.Table("t", "t", (FID,), {"a": {"FID": cell}}).to_markdown()
    assert "- FID: interval over replicates with disjoint sampling seeds and training seeds." in text
    assert "paper" not in text
    with pytest.raises(ReproError, match="one cell of psnr from different measurements"):
        tables.ours([images(0), images(1, cell={"steps": 3})], "psnr")


def test_the_csv_holds_everything_once():
    rows = list(csv.DictReader(io.StringIO(example(verified={(images(0).id, "psnr")}).to_csv())))
    assert [(row["row"], row["column"], row["mark"]) for row in rows] == [
        ("DDIM", "PSNR", "re-evaluated"),
        ("DDIM", "FID", "recorded"),
        ("paper model", "PSNR", ""),
        ("paper model", "FID", ""),
    ]
    first = rows[0]
    assert float(first["low"]) < float(first["ours"]) == 20.45 < float(first["high"])
    assert (first["paper"], first["paper_protocol"], first["records"]) == ("15.56", "PSNR, unspecified", images(0).id)
    assert rows[1]["low"] == "", "one FID has no interval"
    assert rows[2]["ours"] == "" and rows[2]["dash"] == "needs | SID"


@given(st.permutations(range(4)))
@settings(max_examples=10)
def test_a_cell_does_not_depend_on_the_order_of_its_records(order):
    group = [images(seed) for seed in range(4)]
    assert tables.ours([group[i] for i in order], "psnr") == tables.ours(group, "psnr")


def test_a_table_is_written_with_its_provenance_and_twice_alike(home):
    with pytest.raises(ReproError, match="records that are not in"):
        example().write("repro reproduce")
    records.upsert("ddpm", [images(0)])
    paths = example().write("repro reproduce --cell '-->'")
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in example().write("repro reproduce --cell '-->'")] == before
    for path in paths:
        assert whence(path).records == (images(0).id,)
        assert whence(path).command == "repro reproduce --cell '-->'"
    assert before[1].decode().splitlines()[0].count("-->") == 1


def test_paper_numbers_are_read_and_refused_by_line(tmp_path):
    path = tmp_path / "paper_numbers.csv"
    good = "table,row,column,value,protocol,source\nt1,SM-N,PSNR,15.56,unspecified,Table 1\n"
    path.write_text(good)
    number = tables.PaperNumber(15.56, "unspecified", "Table 1")
    assert tables.paper_numbers("x", path) == {("t1", "SM-N", "PSNR"): number}
    assert tables.paper_numbers("x", tmp_path / "none.csv") == {}
    six = "line 3: six fields, none empty and the value a number, found"
    for bad, sentence in [
        ("t1,SM-N,PSNR,1,unspecified,Table 1\n", "line 3: t1, SM-N, PSNR stands twice"),
        ("t1,SM-N,SSIM,about 1,unspecified,Table 1\n", six),
        ("t1,SM-N,SSIM,nan,unspecified,Table 1\n", six),
        ("t1,SM-N,SSIM,1,,Table 1\n", six),
        ("t1,SM-N,SSIM,1\n", six),
    ]:
        path.write_text(good + bad)
        with pytest.raises(ReproError, match=sentence):
            tables.paper_numbers("x", path)
    path.write_text("a,b\n")
    with pytest.raises(ReproError, match="line 1: the header must read table,row"):
        tables.paper_numbers("x", path)


def test_small_values_are_not_shown_as_zero():
    assert [tables.shown(value, 3) for value in (0.0, 1.2345e-12, 0.5, -3.0)] == ["0.000", "1.2e-12", "0.500", "-3.000"]


# Intervals


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=30), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_an_interval_is_deterministic_brackets_its_estimate_and_shifts_with_the_data(values, seed):
    first, again = (stats.mean_interval(values, n_boot=200, seed=seed) for _ in range(2))
    assert first == again
    assert first.low - 1e-9 <= first.estimate <= first.high + 1e-9
    shifted = stats.mean_interval([v + 100 for v in values], n_boot=200, seed=seed)
    np.testing.assert_allclose([shifted.low, shifted.high], [first.low + 100, first.high + 100], atol=1e-9)


def covered(draw, truth: float, trials: int) -> float:
    hits = 0
    for trial in range(trials):
        interval = draw(np.random.default_rng(trial), trial)
        hits += interval.low <= truth <= interval.high
    return hits / trials


@pytest.mark.parametrize("n", [6, 12, 60])
def test_the_interval_of_a_mean_covers_the_truth_95_times_in_100(n):
    rate = covered(lambda rng, t: stats.mean_interval(rng.normal(3.0, 2.0, n), n_boot=500, seed=t), 3.0, 400)
    assert 0.92 <= rate <= 0.98, rate


def test_pairing_removes_what_the_images_share():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 10, 50)
    better, worse = difficulty + 0.5 + rng.normal(0, 0.1, 50), difficulty + rng.normal(0, 0.1, 50)
    paired = stats.paired_difference(better, worse)
    assert paired.low > 0.4 and paired.high < 0.6
    broken = stats.paired_difference(better, rng.permutation(worse))
    assert broken.low < 0 < broken.high, "the same numbers without their pairing say nothing"


def two_networks(rng, trial, seeds: int, same: bool = False):
    """Seeds shift a whole network by sigma 1, images by sigma 1 in common, every measurement by sigma 1 alone."""
    left_shift = rng.normal(0, 1, (seeds, 1))
    right_shift = left_shift if same else rng.normal(0, 1, (seeds, 1))
    common = rng.normal(0, 1, 30)
    left, right = (shift + common + rng.normal(0, 1, (seeds, 30)) for shift in (left_shift, right_shift))
    return stats.paired_difference(left, right, same_networks=same, n_boot=400, seed=trial)


def test_training_seeds_count_as_seeds_not_as_more_images():
    assert covered(lambda rng, t: two_networks(rng, t, 6), 0.0, 200) >= 0.90
    assert covered(lambda rng, t: two_networks(rng, t, 1), 0.0, 200) < 0.6, "one seed knows nothing of other seeds"


def test_the_spread_of_few_seeds_is_not_understated():
    """Resampled from S values, a mean shows (S - 1) / S of its variance s^2 / S; the scaled seeds show all of it."""
    seeds = np.array([1.0, 2.0, 4.0])
    draws = stats._means(np.repeat(seeds[:, None], 10, axis=1), None, False, 20_000, 0)
    assert draws.var() == pytest.approx(seeds.var(ddof=1) / 3, rel=0.03)
    assert draws.mean() == pytest.approx(seeds.mean(), rel=0.01)


def test_the_same_networks_on_both_sides_are_resampled_together():
    rng = np.random.default_rng(1)
    left = rng.normal(0, 5, (4, 1)) + rng.normal(0, 0.1, (4, 20))
    together = stats.paired_difference(left + 1, left, same_networks=True)
    apart = stats.paired_difference(left + 1, left)
    assert together.low > 0.99 and apart.low < 0 < apart.high


def test_what_does_not_pair_is_refused():
    with pytest.raises(ReproError, match="the same images are needed on both sides, found 6 and 7"):
        stats.paired_difference(range(6), range(7))
    with pytest.raises(ReproError, match="4 values, an interval needs at least 5"):
        stats.mean_interval(range(4))
    with pytest.raises(ReproError, match="different numbers of images"):
        stats.mean_interval([[1.0] * 6, [1.0] * 7])
    with pytest.raises(ReproError, match="2 and 3 training seeds"):
        stats.paired_difference(np.ones((2, 6)), np.ones((3, 6)), same_networks=True)
