"""Claims: every verdict of every rule, notes on seeds and replicates, and a ledger that takes no nonsense."""

import csv

import numpy as np
import pytest
from test_engine_records import make

from repro.engine import claims, records
from repro.engine.commands import Claims
from repro.engine.provenance import Provenance, whence
from repro.errors import ReproError

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
    found = judge(f'{GREATER}unit = "replicate"\n', replicates)
    assert found.verdict == "reproduced" and "over replicates of the set metric" in found.findings[0].notes[1]
    with pytest.raises(ReproError, match=r"claim R3: psnr is not one value per image; .* need unit = 'replicate'"):
        judge(GREATER, replicates)
    constant = GREATER.replace('{ experiment = "right" }', "10") + 'unit = "replicate"\n'
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


UNMEASURED = 'rule = "unmeasured"\nreason = "x"\n'


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (f'rule = "equal"\n{SIDES}', "claim R3: rule 'equal' needs margin"),
        (f'rule = "equal"\n{SIDES}margin = 0\n', "a margin is above 0"),
        (f"{GREATER}marign = 1\n", r"'marign'; accepted are rule, name"),
        (f'rule = "bigger"\n{SIDES}', "rule 'bigger' is unknown: choose one of greater"),
        ('rule = "unmeasured"\nreason = ""\n', "needs reason"),
        (f'{GREATER}unit = "pixel"\n', "unit 'pixel' is unknown: choose one of image"),
        ('rule = "greater"\nmetric = "m"\nleft = 3\nright = 4\n', "a metric and left = "),
        ('rule = "greater"\nmetric = "m"\nleft = { experiment = "a", steps = 3 }\nright = 4\n', "left: .*'steps'"),
        (f'[[claim.part]]\nname = "a"\n{UNMEASURED}[[claim.part]]\nname = "a"\n{UNMEASURED}', "different names"),
        (UNMEASURED + HEAD + UNMEASURED, "no id stands twice"),
        ("rule = greater", "not TOML"),
        (UNMEASURED + "[other]\na = 1\n", "nothing else, found"),
    ],
)
def test_the_ledger_is_read_strictly(judge, tmp_path, body, sentence):
    with pytest.raises(ReproError, match=sentence) as caught:
        judge(body, [])
    assert str(tmp_path / "claims.toml") in str(caught.value)


def test_recorded_and_re_evaluated_findings_are_told_apart(judge):
    both = [side("left", 0.5), side("right", 0)]
    for verified, mark in (({(both[0].id, "psnr")}, "recorded"), ({(r.id, "psnr") for r in both}, "re-evaluated")):
        found = [judge(GREATER, both, verified)]
        assert ("†" in claims.to_markdown(found)) == (mark == "recorded")
        assert next(csv.DictReader(claims.to_csv(found).splitlines()))["mark"] == mark


def test_every_shipped_ledger_is_valid():
    assert claims.rooms() == records.ROOMS
    ids = [claim.id for room in claims.rooms() for claim in claims.load_ledger(room)]
    assert len(ids) == len(set(ids))


def test_the_command_writes_the_overview_twice_alike(home, capsys):
    oracle = "oracle-chain-vs-closed-form"
    assert Claims().run() == 0
    assert f"no record of {oracle}" in capsys.readouterr().out
    known = make(experiment=oracle, cell={}, checkpoint=None, n=1, metrics={"max_abs_difference": 3e-15})
    records.upsert("ddpm", [known])
    written = [home / "figures" / name for name in ("claims.csv", "claims.md")]
    first, second = ([Claims().run(), *(path.read_bytes() for path in written)] for _ in range(2))
    assert first == second and first[0] == 0
    assert whence(written[1]) == whence(written[0]) == Provenance((known.id,), "repro claims")
    with pytest.raises(ReproError, match="room 'dppm' is unknown: choose one of ddpm"):
        Claims(room="dppm").run()
