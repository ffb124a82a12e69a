"""Figures, probes and claims of notebook 01 on records made here, with planted gaps and planted faults."""

from __future__ import annotations

import math

import pytest
import torch

from repro.ddpm import oracles
from repro.ddpm.schedules import linear
from repro.ddpm.study import exercises, figures, lesson, measure, probes, scores
from repro.ddpm.study.experiments import COSINE, MAIN
from repro.engine import grid, provenance, records
from repro.engine.claims import verdicts
from repro.engine.records import Record
from repro.engine.rng import KeyedNoise
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


BLIND = lambda x, t: torch.zeros_like(x)  # noqa: E731 — its error is that of no learning
BASELINES = tuple(f"baseline-{name}" for name in ("real", "gaussian", "noise", "ideal-denoiser"))


def some_records() -> list[Record]:
    found = [generation(name, [2.0, 4.0]) for name in BASELINES]
    for sampler, eta in (("ddim", 0.0), ("ddpm", 1.0)):
        for steps in (10, 20, 50, 100, 1000):
            found.append(generation(MAIN, [1000 / steps, 1002 / steps], sampler=sampler, steps=steps, eta=eta))
    found.append(generation(MAIN, [33.0], sampler="ddim", steps=20, eta=0.5))
    found.append(generation(MAIN, [34.0], sampler="ddim", steps=20, eta=1.0))
    found.append(generation(COSINE, [7.0], sampler="ddim", steps=10, eta=0.0))
    return found


def fid_table(known):
    return next(t for t in grid.tables("ddpm", known) if t.name == "ddpm_fid")


def test_orders_are_told_apart_from_ties():
    def row(sampler: str, eta: float, values: list[float]) -> Record:
        return generation(MAIN, values, sampler=sampler, steps=10, eta=eta)

    clear = [row("ddpm", 1.0, [9, 9.1, 9.2, 9, 9]), row("ddim", 0.0, [11, 12, 13, 12, 11])]
    known = [*clear, row("ddpm-large", 1.0, [12, 11, 13, 14, 12])]
    (line,) = figures.orders(fid_table(known), known)
    assert "ours:  DDPM, small variance < DDIM, η = 0 ≈ DDPM, large variance" in line
    assert "paper: DDIM, η = 0 < DDPM, small variance < DDPM, large variance   (another order)" in line
    # two rows make no order worth printing
    assert figures.orders(fid_table(clear), clear) == []


def test_a_lesson_ends_where_its_demonstration_ends():
    for each in lesson.LESSONS.values():
        assert each["looks"][-1] == each["demo"].images and all(
            look % each["demo"].batch == 0 for look in each["looks"]
        )
    with pytest.raises(ReproError, match="profile is 'tiny': accepted are smoke, small, paper"):
        lesson.lesson("tiny")


def test_a_record_that_the_weights_contradict_stops_the_notebook(monkeypatch):
    record = made(
        "baseline-zero", {"task": "noise-prediction"}, {measure.NOISE_ERROR: [1.0] * 8}, n=8,
        data=scores.data_hash(), check={"k": 4, "metrics": {measure.NOISE_ERROR: [5.0] * 4}},
    )  # fmt: skip
    records.upsert("ddpm", [record])
    monkeypatch.setattr("repro.engine.evaluation.trained", lambda name: False)
    with pytest.raises(ReproError, match=r"contradict the records(.|\n)*baseline-zero"):
        lesson.lesson("small").recheck()
    assert lesson.lesson("smoke").recheck().verified == frozenset()


def test_a_kept_figure_names_its_records():
    known = records.upsert("ddpm", some_records())
    fid, quality = grid.tables("ddpm", known)[:2]
    now = lesson.lesson("smoke")
    now.keep(figures.fid_curve(fid, quality), "fid", figures.generation_records(known))
    made_by = provenance.whence(now.figures / "pictures" / "fid.png")
    assert set(made_by.records) == {r.id for r in known} and made_by.command == now.command
    assert figures.fid_curve(*grid.tables("ddpm", [])[:2]).png()  # no record yet: a sentence instead of curves


def test_the_blind_predictor_is_wrong_by_the_variance_of_the_noise():
    pictures = KeyedNoise(0, range(200), "p").uniform((1, 8, 8)) * 2 - 1
    errors = probes.noise_errors(BLIND, pictures, linear())
    assert errors.shape == (200,) and abs(errors.mean().item() - 1) < 0.03
    assert not torch.equal(errors, probes.noise_errors(BLIND, pictures, linear(), seed=1))


def test_the_fitted_gaussian_beats_the_blind_and_memory_is_perfect_at_home():
    schedule, pictures = linear(), (KeyedNoise(0, range(120), "p").uniform((1, 4, 4)) > 0.5).float() * 2 - 1
    found = {
        name: probes.noise_errors(model, pictures, schedule).mean().item()
        for name, model in {
            "blind": BLIND,
            "gaussian": probes.fitted_gaussian(pictures, schedule).model(),
            "memory": oracles.FiniteData(pictures, schedule).model(),
        }.items()
    }
    assert found["memory"] < found["gaussian"] < found["blind"]
    curve = probes.denoising_curve({"blind": BLIND}, pictures, schedule, [10, 900])
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
        return made(experiment, {"task": "noise-prediction"}, {measure.NOISE_ERROR: values}, weights, n=50)

    chain = made("oracle-chain-vs-closed-form", {}, {"max_abs_difference": 1e-13}, n=1)
    records.upsert("ddpm", [chain, noise(MAIN, 0.05, "w"), noise("baseline-gaussian", 0.09, None)])
    (found,) = [v for v in verdicts("ddpm") if v.claim.id == "D1"]
    assert found.verdict == "reproduced" and [f.part for f in found.findings][1] == "the network predicts the noise"
    records.upsert("ddpm", [noise(MAIN, 0.2, "w")])
    (found,) = [v for v in verdicts("ddpm") if v.claim.id == "D1"]
    assert found.verdict == "not reproduced"
