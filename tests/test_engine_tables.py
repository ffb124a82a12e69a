"""Tables, intervals and claims: exact text, refusals by line, every verdict of every rule."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_records import make
from tiny import refused

from repro.engine import claims, grid, records, stats
from repro.engine.commands import Claims
from repro.engine.provenance import Provenance, provenance_of
from repro.errors import ReproError

PSNR = {"name": "PSNR", "metric": "psnr", "protocol": "psnr-rgb", "better": "higher", "decimals": 2}
FID = {"name": "FID", "metric": "fid", "protocol": "fid-small", "better": "lower", "decimals": 1}


def measured(seed: int, task: str = "dark", steps: int = 5, shift: float = 0.0, **more):
    metrics = {"psnr": [20.0 + shift + seed + i / 10 for i in range(10)], "fid": 12.0, **more}
    return make(seed=seed, n=10, experiment=f"net-s{seed}", cell={"task": task, "steps": steps}, metrics=metrics)


RECORDS = [measured(s, steps=n, shift=n) for s in (0, 1) for n in (5, 50)]
SPEC = {
    "column": {"psnr": PSNR, "fid": FID},
    "also": [{"experiment": "net-s{seed}", "each": {"seed": [0, 1]}, "cell": {"task": "spread"}}],
    "table": [
        {
            "name": "dark",
            "caption": "Dark: {n} photographs",
            "corner": "method",
            "notes": ["a note"],
            "cell": {"task": "dark"},
            "columns": [{"use": "psnr", "name": "PSNR, {steps}", "for": {"steps": [5, 50]}}],
            "rows": [
                {"name": "ours", "experiment": "net-s*", "skip": ["PSNR, 50"], "dash": "too | slow"},
                {"name": "later", "experiment": "other-s0"},
                {"name": "quoted", "dash": "no code"},
            ],
        }
    ],
}


def table(columns=("psnr", "fid"), rows=({"name": "ours", "experiment": "net-s0"},), kept=RECORDS, verified=()):
    spec = {**SPEC, "table": [{"name": "demo", "caption": "A demo", "cell": {"task": "dark", "steps": 5},
                               "columns": list(columns), "rows": list(rows)}]}  # fmt: skip
    return grid.tables("ddpm", kept, verified, spec)[0]


def test_cells_are_means_over_images_and_seeds_or_dashes_with_their_reason():
    (made,) = grid.tables("ddpm", RECORDS, spec=SPEC)
    assert (made.caption, made.corner, made.notes) == ("Dark: 10 photographs", "method", ("a note",))
    assert "| method | PSNR, 5 ↑ | PSNR, 50 ↑ |" in made.to_markdown()
    cell = made.rows["ours"]["PSNR, 5"]
    assert cell.value == pytest.approx(20.0 + 5 + 0.5 + 0.45) and (cell.n, cell.seeds, cell.over) == (10, 2, "images")
    assert cell.interval[0] < cell.value < cell.interval[1]
    assert cell.records == tuple(sorted(r.id for r in RECORDS if r.cell["steps"] == 5))
    dashes = [made.rows[row]["PSNR, 50"].dash for row in ("ours", "later", "quoted")]
    assert dashes == ["too | slow", grid.NOT_YET, "no code"]
    assert table([{**FID, "metric": "lpips"}]).rows["ours"]["FID"].dash == "this profile does not measure it"
    for order in (RECORDS, RECORDS[::-1]):
        assert grid.tables("ddpm", order, spec=SPEC)[0].to_csv() == made.to_csv()


def test_a_mean_over_cells_is_of_the_seeds_that_all_have():
    parts = {"a": 1.0, "b": 2.0, "c": 0.0}
    kept = [measured(s, edit, shift=x) for s in (0, 1) for edit, x in parts.items()]
    kept.append(measured(2, "a", shift=99.0))  # a seed that the others lack
    ours = {"name": "ours", "experiment": "net-s*"}
    (cell,) = table([{**PSNR, "mean": {"task": ["a", "b", "c"]}, "scale": 1000}], [ours], kept).rows["ours"].values()
    assert cell.value == pytest.approx(1000 * (20 + 0.5 + 0.45 + 1.0)) and cell.seeds == 2
    twice = [*kept, measured(0, "a", steps=6)]
    with pytest.raises(ReproError, match="several cells of a place, in one cell"):
        table([{**PSNR, "cell": {"task": "a"}}], [{**ours, "without": ["steps"]}], twice)


def test_what_must_be_measured_is_enumerated_once():
    assert grid.cells(SPEC) == [
        ("net-s0", {"task": "spread"}),
        ("net-s1", {"task": "spread"}),
        ("net-s*", {"task": "dark", "steps": 5}),
        ("other-s0", {"task": "dark", "steps": 5}),
        ("other-s0", {"task": "dark", "steps": 50}),
    ]


@pytest.fixture
def papers(tmp_path, monkeypatch):
    numbers = "demo,ours,PSNR,15.56,unspecified,Table 1\ndemo,theirs,FID,36.05,FID 50k,Table 1\n"
    (tmp_path / "paper_numbers.csv").write_text("table,row,column,value,protocol,source\n" + numbers)
    monkeypatch.setattr("repro.paths.room_file", lambda room, name: tmp_path / name)
    rows = [{"name": "ours", "experiment": "net-s0"}, {"name": "theirs", "dash": "needs | SID"}]
    return lambda *verified: table(rows=rows, verified=verified)


def test_the_texts_tell_recorded_from_re_evaluated_and_name_both_protocols(papers):
    made = papers((RECORDS[0].id, "psnr"))
    text, low, high = made.to_markdown(), *made.rows["ours"]["PSNR"].interval
    for line in (
        f"| ours | 25.45 [{low:.2f}, {high:.2f}] · *15.56* | 12.0† |",
        "| theirs | — (1) | — (1) · *36.05* |",
        "- — (1): needs \\| SID",
        "- PSNR: ours psnr-rgb; paper unspecified",
        "† recorded: taken from the committed record",
        "Unmarked: the first k samples were re-evaluated",
    ):
        assert line in text
    assert "25.45† [" in papers().to_markdown(), "nothing verified: everything is marked"
    brief = made.brief(["PSNR"], ["ours"])
    assert f"| ours | 25.45 ± {(high - low) / 2:.2f} · *15.56* |" in brief
    assert "figures/tables/demo.md" in brief and "FID" not in brief and "†" not in brief
    assert made.points("PSNR") == {"ours": (25.45, low, high)}

    rows = list(csv.DictReader(io.StringIO(made.to_csv())))
    assert [(row["row"], row["column"], row["mark"]) for row in rows] == [
        ("ours", "PSNR", "re-evaluated"), ("ours", "FID", "recorded"), ("theirs", "PSNR", ""), ("theirs", "FID", "")
    ]  # fmt: skip
    first, fid, missing, _ = rows
    assert (first["ours"], first["paper"], first["paper_protocol"]) == ("25.45", "15.56", "unspecified")
    assert (first["records"], fid["low"]) == (RECORDS[0].id, ""), "one FID has no interval"
    assert (missing["ours"], missing["dash"]) == ("", "needs | SID")


def test_a_table_is_written_with_its_provenance(home):
    records.upsert("ddpm", RECORDS)
    files = table().write(command := "repro reproduce --cell '-->'", home)
    assert [provenance_of(path) for path in files] == 2 * [Provenance((RECORDS[0].id,), command)]
    assert files[1].read_text().splitlines()[0].count("-->") == 1


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=30))
@settings(max_examples=30)
def test_an_interval_is_deterministic_brackets_its_estimate_and_shifts_with_the_data(values):
    first, again = (stats.mean_interval(values) for _ in range(2))
    assert first == again
    assert first.low - 1e-9 <= first.estimate <= first.high + 1e-9
    shifted = stats.mean_interval([v + 100 for v in values])
    np.testing.assert_allclose([shifted.low, shifted.high], [first.low + 100, first.high + 100], atol=1e-9)


def covered(draw, truth: float, trials: int) -> float:
    found = [draw(np.random.default_rng(trial)) for trial in range(trials)]
    return sum(interval.low <= truth <= interval.high for interval in found) / trials


@pytest.mark.parametrize("n", [6, 60])
def test_the_interval_of_a_mean_covers_the_truth_95_times_in_100(n):
    rate = covered(lambda rng: stats.mean_interval(rng.normal(3.0, 2.0, n)), 3.0, 400)
    assert 0.92 <= rate <= 0.98, rate


def two_networks(rng, seeds: int):
    """Seeds shift a whole network by sigma 1, images by sigma 1 in common, every measurement by sigma 1 alone."""
    shifts, common = rng.normal(0, 1, (2, seeds, 1)), rng.normal(0, 1, 30)
    left, right = (shift + common + rng.normal(0, 1, (seeds, 30)) for shift in shifts)
    return stats.paired_difference(left, right)


def test_training_seeds_count_as_seeds_not_as_more_images():
    assert covered(lambda rng: two_networks(rng, 6), 0.0, 200) >= 0.90
    assert covered(lambda rng: two_networks(rng, 1), 0.0, 200) < 0.6, "one seed knows nothing of other seeds"


HEAD = '[[claim]]\nid = "R3"\npaper = "a paper"\ntext = "left beats right"\nevidence = "Table 1"\n'
SIDES = 'metric = "psnr"\nleft = { experiment = "left" }\nright = { experiment = "right" }\n'
GREATER = f'rule = "greater"\n{SIDES}'


@pytest.fixture
def judge(home, monkeypatch):
    """Write records and a ledger, return the verdict."""
    monkeypatch.setattr("repro.paths.room_file", lambda room, name: home / name)

    def run(body: str, measured: list, verified=()):
        records.upsert("rddm", measured)
        (home / "claims.toml").write_text(HEAD + body)
        (found,) = claims.verdicts("rddm", verified=verified)
        return found

    return run


def side(name: str, shift: float, seed: int = 0, spread: float = 0.1, n: int = 20, **changes):
    """Per-image PSNR: what the images share, the side's shift, and a little of its own."""
    shared = np.random.default_rng(0).normal(25, 5, n)
    own = np.random.default_rng([seed, *name.encode()]).normal(0, spread, n)
    values = (shared + shift + own - own.mean()).tolist()
    fields = {"checkpoint": f"{name}-{seed}", "experiment": name, "cell": {}, "seed": seed, "n": n, "room": "rddm"}
    return make(**{**fields, "metrics": {"psnr": values}, **changes})


@pytest.mark.parametrize(
    ("rule", "shift", "spread", "verdict"),
    [
        ("greater", 0.5, 0.1, "reproduced"),
        ("greater", 0.1, 5.0, "weaker"),
        ("greater", -0.1, 5.0, "not reproduced"),
        ("less", -0.5, 0.1, "reproduced"),
        ("less", -0.1, 5.0, "weaker"),
        ("less", 0.5, 0.1, "not reproduced"),
        ("equal", -0.1, 0.1, "reproduced"),
        ("equal", 0.1, 5.0, "weaker"),
        ("equal", -1.5, 0.1, "not reproduced"),
    ],
)
def test_the_verdict_follows_from_the_interval(judge, rule, shift, spread, verdict):
    margin = "margin = 0.5\n" if rule == "equal" else ""
    sides = [side("left", shift, spread=spread), side("right", 0, spread=spread)]
    found = judge(f'rule = "{rule}"\n{SIDES}{margin}', sides)
    (finding,) = found.findings
    assert found.verdict == verdict, finding
    assert finding.estimate == pytest.approx(shift, abs=1e-4) and finding.low < shift < finding.high
    assert finding.notes == ("single seed",)


def test_an_exact_claim_has_a_tolerance_and_no_interval(judge):
    body = 'rule = "exact"\nmetric = "gap"\nleft = { experiment = "left" }\nright = 0\ntolerance = 1e-10\n'
    for value, verdict in ((-9e-11, "reproduced"), (2e-10, "not reproduced")):
        (finding,) = judge(body, [side("left", 0, metrics={"gap": [0.0, value]}, n=2)]).findings
        assert (finding.verdict, finding.low, finding.estimate) == (verdict, None, pytest.approx(value))


def test_training_seeds_are_counted(judge):
    both = [side(name, shift, seed) for name, shift in (("left", 0.5), ("right", 0.0)) for seed in range(3)]
    found = judge(GREATER, both)
    assert (found.findings[0].seeds, found.findings[0].notes) == ((3, 3), ())
    assert judge(f"{GREATER}min_seeds = 5\n", both).findings[0].notes == ("3 of 5 training seeds",)
    records.path_of("rddm").unlink()
    untrained = [record for record in both if record.experiment == "left"] + [side("right", 0.0, checkpoint=None)]
    assert judge(GREATER, untrained).findings[0].notes == (), "a side without weights has no training seeds"


def test_a_set_metric_is_compared_over_its_replicates_and_a_constant_stands_on_the_right(judge):
    values = [30.0, 31.0, 29.5, 30.5, 30.2]
    left, right = ({"psnr": [value + shift for value in values]} for shift in (2.0, 0.0))
    replicates = [side("left", 0, metrics=left, n=500), side("right", 0, metrics=right, n=500)]
    found = judge(GREATER, replicates)
    assert found.verdict == "reproduced" and "over replicates of the set metric" in found.findings[0].notes[1]
    constant = GREATER.replace('{ experiment = "right" }', "10")
    assert judge(constant, replicates).findings[0].estimate == pytest.approx(np.mean(values) + 2 - 10, rel=1e-4)


@pytest.mark.parametrize(
    ("measured", "note"),
    [
        ([], "no record of left"),
        ([side("left", 0), side("right", 0, profile="paper")], "no record of right"),
        ([side("left", 0, n=4), side("right", 0, n=4)], "4 images measured, an interval needs at least 5"),
    ],
)
def test_what_has_no_record_is_not_measured_and_says_why(judge, measured, note):
    found = judge(GREATER, measured)
    assert (found.verdict, found.findings[0].notes) == ("not measured at this scale", (note,))


def test_the_worst_part_decides(judge):
    up, down = (f'[[claim.part]]\nname = "{r}"\nrule = "{r}"\n{SIDES}' for r in ("greater", "less"))
    both = [side("left", 0.5), side("right", 0)]
    found = judge(up + down, both)
    assert [f.verdict for f in found.findings] == ["reproduced", "not reproduced"]
    assert found.verdict == "not reproduced"
    found = judge(up + '[[claim.part]]\nname = "sd"\nrule = "unmeasured"\nreason = "needs Stable Diffusion"\n', both)
    assert found.verdict == "not measured at this scale" and found.findings[1].notes == ("needs Stable Diffusion",)


def test_ambiguous_selectors_and_wrong_metrics_are_errors(judge):
    two = [side("left", 0, cell={"steps": s}) for s in (5, 10)]
    with pytest.raises(ReproError, match="claim R3: left matches several cells, name more of the cell"):
        judge(GREATER, [*two, side("right", 0)])
    with pytest.raises(ReproError, match="claim R3: rddm/right seed 0 has no metric 'ssim', it has psnr"):
        judge('rule = "greater"\nmetric = "ssim"\nleft = { experiment = "right" }\nright = 0\n', [])
    body = GREATER.replace('"left" }', '"left", cell = { steps = 5 } }')
    assert judge(body, []).findings[0].records
    with pytest.raises(ReproError, match="measured on different data"):
        judge(body, [side("right", 0, data="ff")])


def test_the_ledger_is_read_strictly(judge, tmp_path):
    cases = {
        "claim R3: rule 'equal' needs margin": f'rule = "equal"\n{SIDES}',
        "unexpected keyword argument 'marign'": f"{GREATER}marign = 1\n",
        "rule 'bigger' is unknown: choose one of greater": f'rule = "bigger"\n{SIDES}',
        "needs reason": 'rule = "unmeasured"\nreason = ""\n',
    }
    refused({f"{tmp_path}/claims.toml.*{words}": body for words, body in cases.items()}, lambda body: judge(body, []))


def test_recorded_and_re_evaluated_findings_are_told_apart(judge):
    both = [side("left", 0.5), side("right", 0)]
    for verified, mark in (({(both[0].id, "psnr")}, "recorded"), ({(r.id, "psnr") for r in both}, "re-evaluated")):
        found = [judge(GREATER, both, verified)]
        assert ("†" in claims.to_markdown(found)) == (mark == "recorded")
        assert next(csv.DictReader(claims.to_csv(found).splitlines()))["mark"] == mark


def test_the_command_writes_the_overview_twice_alike(home, capsys):
    oracle = "oracle-chain-vs-closed-form"
    assert Claims().run() == 0
    assert f"no record of {oracle}" in capsys.readouterr().out
    known = make(experiment=oracle, cell={}, checkpoint=None, n=1, metrics={"max_abs_difference": 3e-15})
    records.upsert("ddpm", [known])
    written = [home / "figures" / name for name in ("claims.csv", "claims.md")]
    first, second = ([Claims().run(), *(path.read_bytes() for path in written)] for _ in range(2))
    assert first == second and first[0] == 0
    assert provenance_of(written[1]) == provenance_of(written[0]) == Provenance((known.id,), "repro claims")
    refused({"method 'dppm' is unknown: choose one of ddpm": Claims(method="dppm").run})
