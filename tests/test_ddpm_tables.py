"""Tables, figures and probes of notebook 01 on records made here, with planted gaps and planted faults."""

from __future__ import annotations

import math

import pytest
import torch

from repro import paths
from repro.ddpm import evaluation, exercises, figures, lesson, oracles, probes, scores, tables
from repro.ddpm.config import PROFILES
from repro.ddpm.experiments import COSINE, MAIN
from repro.ddpm.schedules import linear
from repro.engine import provenance, records
from repro.engine.claims import verdicts
from repro.engine.records import Record
from repro.engine.rng import KeyedNoise
from repro.engine.tables import RE_EVALUATED, RECORDED, paper_numbers
from repro.errors import ReproError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))
    return tmp_path


def made(experiment: str, cell: dict, metrics: dict, checkpoint: str | None = None, **more) -> Record:
    fields = {"n": 500, "seed": 0, "profile": "small", "data": "d", "command": "repro evaluate"} | more
    return Record("ddpm", experiment, cell, metrics, checkpoint=checkpoint, **fields)


def generation(experiment: str, fid: list[float], **cell) -> Record:
    found = {scores.FID: fid, scores.KID: 30.0, scores.IS: 5.0, scores.NEAREST: 0.1}
    return made(experiment, {"task": "generation", **cell}, found, "w" if cell else None)


def some_records() -> list[Record]:
    found = [generation(name, [2.0, 4.0]) for name in tables.BASELINES.values()]
    for sampler, eta in (("ddim", 0.0), ("ddpm", 1.0)):
        for steps in (10, 20, 50, 100, 1000):
            found.append(generation(MAIN, [1000 / steps, 1002 / steps], sampler=sampler, steps=steps, eta=eta))
    found.append(generation(MAIN, [33.0], sampler="ddim", steps=20, eta=0.5))
    found.append(generation(MAIN, [34.0], sampler="ddim", steps=20, eta=1.0))
    found.append(generation(COSINE, [7.0], sampler="ddim", steps=10, eta=0.0))
    return found


def test_each_cell_shows_its_own_record_and_the_papers_number():
    known = some_records()
    wanted = next(r for r in known if r.cell.get("steps") == 50 and r.cell["sampler"] == "ddim")
    table = tables.fid_table(known, verified={(wanted.id, scores.FID)})
    cell = table.rows["DDIM, η = 0"]["50 steps"]
    assert cell.value == pytest.approx((1000 + 1002) / 2 / 50)
    assert (cell.mark, cell.records, cell.paper.value) == (RE_EVALUATED, (wanted.id,), 4.67)
    assert table.rows["DDIM, η = 0"]["20 steps"].mark == RECORDED
    assert table.rows["DDIM, η = 0.5"]["20 steps"].value == 33.0  # neither η = 0 nor η = 1 of the same steps
    assert table.rows["DDIM, η = 0, cosine schedule"]["10 steps"].value == 7.0


def test_what_was_not_measured_is_a_dash_with_its_reason():
    table = tables.fid_table(some_records())
    assert table.rows["DDIM, η = 0.5"]["50 steps"].dash == "η = 0.5 was measured at one number of steps"
    assert table.rows["DDPM, large variance"]["10 steps"].dash == tables.NOT_YET
    twin = table.rows["DDIM, η = 0, cosine schedule"]
    assert twin["50 steps"].dash == tables.NOT_YET and "linear schedule only" in twin["1000 steps"].dash
    assert all(cell.dash == tables.NOT_YET for table in tables.every([]) for _, _, cell in table)


def test_orders_are_told_apart_from_ties():
    def row(sampler: str, eta: float, values: list[float]) -> Record:
        return generation(MAIN, values, sampler=sampler, steps=10, eta=eta)

    clear = [row("ddpm", 1.0, [9, 9.1, 9.2, 9, 9]), row("ddim", 0.0, [11, 12, 13, 12, 11])]
    known = [*clear, row("ddpm-large", 1.0, [12, 11, 13, 14, 12])]
    (line,) = tables.orders(tables.fid_table(known), known, scores.FID)
    assert "ours:  DDPM, small variance < DDIM, η = 0 ≈ DDPM, large variance" in line
    assert "paper: DDIM, η = 0 < DDPM, small variance < DDPM, large variance   (another order)" in line
    # two rows make no order worth printing
    assert tables.orders(tables.fid_table(clear), clear, scores.FID) == []


def test_two_records_for_one_cell_are_refused():
    twice = [*some_records(), generation(MAIN, [5.0], sampler="ddim", steps=50, eta=0.0, extra=1)]
    with pytest.raises(ReproError, match="ddpm_fid, DDIM, η = 0: 2 cells match"):
        tables.fid_table(twice)


def test_every_paper_number_has_its_cell():
    table = tables.fid_table([])
    for name, row, column in paper_numbers("ddpm"):
        assert name == table.name and column in table.rows[row], (name, row, column)


def test_every_row_that_is_measured_stands_in_a_table(monkeypatch):
    monkeypatch.setattr(evaluation, "trained", lambda name: True)
    monkeypatch.setattr(evaluation, "load_checkpoint", lambda name: torch.nn.Identity())
    monkeypatch.setattr(evaluation, "weights_hash", lambda name: "w")
    monkeypatch.setattr(evaluation, "folders", lambda name: [paths.root()])
    (paths.root() / "config.json").write_text("{}")
    names = {
        "generation": [scores.FID, scores.KID, scores.IS, scores.NEAREST],
        "noise-prediction": [evaluation.NOISE_ERROR],
        "inversion": ["l1/grey01", "psnr/grey"],
        "guidance": ["accuracy/asked", scores.FID],
        "switches": [scores.FID, scores.KID],
    }
    rows = evaluation.rows("small")
    known = [
        made(row.experiment, dict(row.cell), dict.fromkeys(names[row.cell["task"]], 1.0), row.weights)
        for row in rows
        if row.cell.get("task") in names
    ]
    shown = {identity for table in tables.every(known) for identity in table.record_ids()}
    missing = [r.label for r in known if r.id not in shown]
    # η = 1 is DDPM by another name; the quality table shows a choice of steps, the FID table all.
    assert [label for label in missing if "eta=1, sampler=ddim" not in label] == []
    assert not any(cell.dash == tables.NOT_YET for table in tables.every(known) for _, _, cell in table)


def test_profiles_write_apart_and_only_the_default_rechecks():
    homes = {name: each.home for name, each in lesson.LESSONS.items()}
    assert homes["small"] == "figures" and len(set(homes.values())) == 3 and set(homes) == set(PROFILES)
    assert [name for name, each in lesson.LESSONS.items() if each.recheck] == ["small"]
    for each in lesson.LESSONS.values():
        assert each.looks[-1] == each.demo.images and all(look % each.demo.batch == 0 for look in each.looks)
    with pytest.raises(ReproError, match="unknown profile 'tiny': there are smoke, small, paper"):
        lesson.lesson("tiny")


def test_a_record_that_the_weights_contradict_stops_the_notebook(monkeypatch):
    record = made(
        "baseline-zero", {"task": "noise-prediction"}, {evaluation.NOISE_ERROR: [1.0] * 8}, n=8,
        data=evaluation._data_hash(), check={"k": 4, "metrics": {evaluation.NOISE_ERROR: [5.0] * 4}},
    )  # fmt: skip
    records.upsert("ddpm", [record])
    monkeypatch.setattr(evaluation, "trained", lambda name: False)
    with pytest.raises(ReproError, match=r"contradict the records(.|\n)*baseline-zero"):
        tables.recheck(lesson.lesson("small"))
    assert tables.recheck(lesson.lesson("smoke")).verified == frozenset()


def test_a_kept_figure_names_its_records():
    known = records.upsert("ddpm", some_records())
    drawing = figures.fid_curve(known, lesson.lesson("small"))
    now = lesson.lesson("smoke")
    assert figures.keep(drawing, "fid", now, figures.generation_records(known)) is drawing
    made_by = provenance.whence(now.figures / "pictures" / "fid.png")
    assert set(made_by.records) == {r.id for r in known} and made_by.command == figures.command(now)
    assert figures.fid_curve([], now).png()  # no record yet: a sentence instead of curves


def test_the_blind_predictor_is_wrong_by_the_variance_of_the_noise():
    pictures = KeyedNoise(0, range(200), "p").uniform((1, 8, 8)) * 2 - 1
    errors = probes.noise_errors(probes.blind, pictures, linear())
    assert errors.shape == (200,) and abs(errors.mean().item() - 1) < 0.03
    assert not torch.equal(errors, probes.noise_errors(probes.blind, pictures, linear(), seed=1))


def test_the_fitted_gaussian_beats_the_blind_and_memory_is_perfect_at_home():
    schedule, pictures = linear(), (KeyedNoise(0, range(120), "p").uniform((1, 4, 4)) > 0.5).float() * 2 - 1
    found = {
        name: probes.noise_errors(model, pictures, schedule).mean().item()
        for name, model in {
            "blind": probes.blind,
            "gaussian": probes.fitted_gaussian(pictures, schedule).model(),
            "memory": oracles.FiniteData(pictures, schedule).model(),
        }.items()
    }
    assert found["memory"] < found["gaussian"] < found["blind"]
    curve = probes.denoising_curve({"blind": probes.blind}, pictures, schedule, [10, 900])
    assert curve["blind"][0] == pytest.approx(curve["blind"][1])  # the same noise at every time


def test_switches_change_what_they_name_and_nothing_else():
    schedule, x_T = linear(), KeyedNoise(0, range(3), "x").normal((1, 6, 6))
    asked: list[int] = []

    def model(x, t):
        asked.append(int(t[0]))
        return 0.9 * x

    drawn = {name: probes.switched(model, x_T, schedule, 10, switch) for name, switch in probes.SWITCHES.items()}
    by_name = dict(zip(drawn, [asked[i : i + 10] for i in range(0, len(asked), 10)], strict=True))
    assert by_name["as elsewhere here"] == list(range(900, -1, -100))
    assert by_name["network told t + 1"] == [t + 1 for t in by_name["as elsewhere here"]]
    assert by_name["trailing timesteps"][0] == by_name["linspace timesteps"][0] == 999
    reference = drawn.pop("as elsewhere here")
    told = drawn.pop("network told t + 1")
    assert torch.equal(told, reference)  # this model does not listen to t
    assert all(not torch.equal(other, reference) for other in drawn.values())


def test_the_students_weights_come_from_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (probes.untrained(8, seed).conv_in.weight for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_the_walk_on_the_sphere_keeps_the_length_of_noise():
    a, b = KeyedNoise(0, range(2), "ends").normal((1, 28, 28))
    sphere, line = (probes.between(a, b, [0, 0.5, 1], spherical) for spherical in (True, False))
    for walk in (sphere, line):
        assert torch.allclose(walk[0], a, atol=1e-5) and torch.allclose(walk[2], b, atol=1e-5)
    assert sphere[1].norm() == pytest.approx(a.norm().item(), rel=0.05)
    assert line[1].norm() == pytest.approx(a.norm().item() / math.sqrt(2), rel=0.05)


def test_a_photograph_becomes_a_garment_on_black():
    bright = torch.ones(3, 50, 80)
    bright[:, 15:35, 30:50] = 0.2  # a dark thing on white paper
    small = probes.as_fashion(bright)
    assert small.shape == (1, 28, 28) and small[0, 0, 0] == -1 and small[0, 14, 14] == pytest.approx(0.6, abs=1e-5)
    dark = probes.as_fashion(1 - bright)
    assert torch.allclose(dark, small, atol=1e-6)
    with pytest.raises(ReproError, match="the picture"):
        probes.as_fashion(b"no picture")


@pytest.mark.parametrize(
    ("t", "calls", "wanted"), [(400, 5, [400, 300, 200, 100, 0]), (3, 12, [3, 2, 1, 0]), (0, 5, [0])]
)
def test_where_a_walk_down_stops(t, calls, wanted):
    assert probes.downward(t, calls) == wanted


def test_exercises_accept_the_solution_and_nothing_else(capsys):
    schedule = linear()
    half = int((schedule.alpha_bar < 0.5).nonzero()[0])
    answers = {
        "half": (half, half + 1),
        "estimate": (lambda x, e, a, s: (x - s * e) / a, lambda x, e, a, s: x - s * e),
        "ddim": (
            lambda x, e, ab, p: p**0.5 * (x - (1 - ab) ** 0.5 * e) / ab**0.5 + (1 - p) ** 0.5 * e,
            lambda x, e, ab, p: p * (x - (1 - ab) ** 0.5 * e) / ab**0.5 + (1 - p) * e,
        ),
        "gaussian": (lambda x, a, s, g: s / (a * a * g * g + s * s) * x, lambda x, a, s, g: s * x),
        "calls": (250, 100),
    }
    assert set(answers) == set(exercises.EXERCISES)
    for name, (right, wrong) in answers.items():
        for answer, word in ((right, ": right"), (wrong, "not yet. Hint"), (None, "waiting"), ("x", "not yet")):
            exercises.check(name, answer)
            assert word in capsys.readouterr().out, (name, word)
    with pytest.raises(ReproError, match="no exercise 'halves'"):
        exercises.check("halves", 1)


def test_claim_d1_follows_from_the_records():
    def noise(experiment: str, error: float, weights: str | None) -> Record:
        values = (KeyedNoise(1, range(50), experiment).uniform() * 0.01 + error).tolist()
        return made(experiment, {"task": "noise-prediction"}, {evaluation.NOISE_ERROR: values}, weights, n=50)

    chain = made("oracle-chain-vs-closed-form", {}, {"max_abs_difference": 1e-13}, n=1)
    records.upsert("ddpm", [chain, noise(MAIN, 0.05, "w"), noise("baseline-gaussian", 0.09, None)])
    (found,) = [v for v in verdicts("ddpm") if v.claim.id == "D1"]
    assert found.verdict == "reproduced" and [f.part for f in found.findings][1] == "the network predicts the noise"
    records.upsert("ddpm", [noise(MAIN, 0.2, "w")])
    (found,) = [v for v in verdicts("ddpm") if v.claim.id == "D1"]
    assert found.verdict == "not reproduced"
