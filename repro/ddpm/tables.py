"""The tables of notebook 01, pure functions of records, of the papers' numbers and of what was re-evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from repro.ddpm.config import SMALL
from repro.ddpm.evaluation import NOISE_ERROR
from repro.ddpm.experiments import CLASSIFIER, COSINE, MAIN
from repro.ddpm.lesson import LESSONS, Lesson
from repro.ddpm.probes import SWITCHES
from repro.ddpm.scores import FID, KID, NEAREST
from repro.engine import records as ledger
from repro.engine import stats
from repro.engine.check import CheckReport
from repro.engine.evaluation import check_room
from repro.engine.records import Record, select
from repro.engine.tables import Column, Table, Verified, finder
from repro.errors import ReproError
from repro.metrics.protocols import FEATURE_NETWORKS

STEPS = (*SMALL.steps, *SMALL.full_steps)
NOT_YET = "no record of this profile: `repro evaluate ddpm --full` makes it"
SAMPLERS = {
    "DDIM, η = 0": {"sampler": "ddim", "eta": 0},
    "DDIM, η = 0.5": {"sampler": "ddim", "eta": 0.5},
    "DDPM, small variance (DDIM, η = 1)": {"sampler": "ddpm"},
    "DDPM, large variance": {"sampler": "ddpm-large"},
    "DDPM, learned variance": {"sampler": "ddpm-learned"},
    "DDIM, η = 0, cosine schedule": {"sampler": "ddim", "eta": 0},
}
REAL, GAUSSIAN = "real pictures, not trained on", "Gaussian fitted to the pixels"
BASELINES = {
    REAL: "baseline-real",
    GAUSSIAN: "baseline-gaussian",
    "noise": "baseline-noise",
    "ideal denoiser of the training split": "baseline-ideal-denoiser",
}
PREDICTORS = {
    "says no noise": "baseline-zero",
    "best affine predictor (fitted Gaussian)": "baseline-gaussian",
    "ideal denoiser of the training split": "baseline-ideal-denoiser",
    "the shipped network": MAIN,
}
DEFAULT = LESSONS["small"]


def experiment_of(row: str, now: Lesson) -> str:
    """The experiment behind a row of the samplers or of the baselines."""
    if row in SAMPLERS:
        return COSINE if "cosine" in row else now.network
    return now.real if row == REAL else BASELINES[row]


def fid_of(now: Lesson) -> str:
    """The FID protocol of the lesson's records."""
    return f"fid/{now.config.features}"


def of(lesson: Lesson) -> list[Record]:
    """The records of the lesson's profile."""
    return select(ledger.load("ddpm"), profile=lesson.config.name)


def recheck(lesson: Lesson) -> CheckReport:
    """Sample the first k of every record again and compare; a profile that does not recheck verifies nothing.

    Raises `ReproError` where a record and the shipped weights disagree: no table may be rendered from it.
    """
    report = check_room("ddpm", lesson.config.name) if lesson.recheck else CheckReport(())
    if report.failed:
        raise ReproError(f"the shipped weights contradict the records:\n{report.text()}")
    return report


def fid_table(records: Sequence[Record], verified: Verified = (), now: Lesson = DEFAULT) -> Table:
    """FID of each sampler at each number of network calls."""
    cell = finder("ddpm", "ddpm_fid", records, verified)
    known = {(r.cell.get("sampler"), r.cell.get("steps")) for r in records}
    columns = tuple(Column(f"{steps} steps", _protocol("FID", now), "lower", decimals=1) for steps in STEPS)

    def why(name: str, part: Mapping[str, Any], steps: int) -> str:
        if not any(sampler == part["sampler"] for sampler, _ in known):
            return NOT_YET
        if "cosine" in name and steps > 100:
            return "long runs were made on the linear schedule only"
        if part.get("eta") == 0.5:
            return "η = 0.5 was measured at one number of steps"
        return "long runs were made for DDIM and for DDPM with small variance only" if steps > 100 else NOT_YET

    rows = {
        name: {
            f"{steps} steps": cell(
                name,
                f"{steps} steps",
                fid_of(now),
                experiment_of(name, now),
                {"task": "generation", "steps": steps, **part},
                why(name, part, steps),
            )
            for steps in STEPS
        }
        for name, part in SAMPLERS.items()
    }
    notes = (
        "Ours and the paper's FID are different rulers (data, features, sample size): compare their order, not values.",
        f"{now.config.n:,} samples a replicate, {now.config.replicates} replicates.",
    )
    return Table(
        "ddpm_fid", f"FID against network calls, {_DATA[now.config.data]}", columns, rows, notes, corner="sampler"
    )


def orders(table: Table, records: Sequence[Record], metric: str) -> list[str]:
    """Per column with three numbers or more on both sides: the rows from best to worst, ours and the paper's.

    `≈` stands between neighbours of ours whose paired difference over replicates (same start noise) may be zero.
    """
    measured = {record.id: record for record in records}
    lines = []
    for column in table.columns:
        cells = {row: cells[column.name] for row, cells in table.rows.items()}
        both = {row: cell for row, cell in cells.items() if cell.value is not None and cell.paper is not None}
        if len(both) < 3:
            continue
        mine = [row for _, row in sorted((cell.value, row) for row, cell in both.items())]
        theirs = [row for _, row in sorted((cell.paper.value, row) for row, cell in both.items())]
        values = {row: measured[cell.records[0]].values(metric) for row, cell in both.items()}
        signs = ["<" if _differ(values[better], values[worse]) else "≈" for better, worse in pairwise(mine)]
        text = mine[0].split(" (")[0]
        for sign, row in zip(signs, mine[1:], strict=True):
            text += f" {sign} {row.split(' (')[0]}"
        paper = " < ".join(row.split(" (")[0] for row in theirs)
        agree = "the same order" if mine == theirs else "another order"
        lines.append(f"{column.name:<11} ours:  {text}\n{'':<11} paper: {paper}   ({agree})")
    return lines


def _differ(a: Sequence[float], b: Sequence[float]) -> bool:
    if len(a) != len(b) or len(a) < stats.MIN_UNITS:
        return False
    return stats.paired_difference(list(a), list(b), same_networks=True).excludes_zero


def quality_table(records: Sequence[Record], verified: Verified = (), now: Lesson = DEFAULT) -> Table:
    """Four scores of sample sets, with what needs no learning above."""
    cell = finder("ddpm", "ddpm_quality", records, verified)
    columns = (
        Column("FID", _protocol("FID", now), "lower", decimals=1),
        Column("KID", f"{_protocol('KID', now)}, not scaled", "lower", decimals=2),
        Column("IS", f"Inception Score, class probabilities of {now.config.features}", "higher", decimals=2),
        Column("distance", "root mean square distance to the nearest training picture, pixels in [0, 1]", decimals=3),
    )
    net = now.config.features
    metrics = {"FID": fid_of(now), "KID": f"kid/{net}", "IS": f"is/{net}", "distance": NEAREST}
    chosen = {name: (experiment_of(name, now), {"task": "generation"}) for name in BASELINES}
    for label, sampler in (("DDPM, small variance", "ddpm"), ("DDIM, η = 0", "ddim")):
        for steps in (10, 100, 1000):
            eta = 0 if sampler == "ddim" else 1
            part = {"task": "generation", "sampler": sampler, "steps": steps, "eta": eta}
            chosen[f"{label}, {steps} steps"] = (now.network, part)
    rows = {
        name: {column: cell(name, column, metric, *where, NOT_YET) for column, metric in metrics.items()}
        for name, where in chosen.items()
    }
    notes = ("A distance far below that of real pictures means copies of training pictures, far above it a poor set.",)
    return Table("ddpm_quality", "What a good set of samples looks like in numbers", columns, rows, notes, corner="set")


def noise_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """How well each predictor tells the noise in test pictures."""
    cell = finder("ddpm", "ddpm_noise", records, verified)
    protocol = "mean squared error of the predicted noise, one uniform t and one draw per test picture"
    columns = (Column("error", protocol, "lower", decimals=4),)
    rows = {
        name: {"error": cell(name, "error", NOISE_ERROR, experiment, {"task": "noise-prediction"}, NOT_YET)}
        for name, experiment in PREDICTORS.items()
    }
    return Table("ddpm_noise", "Predicting the noise in pictures never seen", columns, rows, corner="predictor")


def inversion_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Error after DDIM inversion and sampling back."""
    cell = finder("ddpm", "ddpm_inversion", records, verified)
    columns = (
        Column("l1", "mean absolute error, pixels in [0, 1]", "lower", decimals=4),
        Column("PSNR", "PSNR in dB on grey values in [0, 1]", "higher", decimals=1),
    )
    metrics = {"l1": "l1/grey01", "PSNR": "psnr/grey"}
    rows = {
        f"{steps} steps": {
            c: cell(f"{steps} steps", c, m, MAIN, {"task": "inversion", "steps": steps}, NOT_YET)
            for c, m in metrics.items()
        }
        for steps in SMALL.steps
    }
    caption = "A test picture to noise and back by DDIM, the same number of steps each way"
    return Table("ddpm_inversion", caption, columns, rows, corner="steps each way")


def guidance_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """Classifier guidance: obedience and its price."""
    cell = finder("ddpm", "ddpm_guidance", records, verified)
    asked = "share of samples that the guiding classifier names as asked (it judges its own work)"
    note = "Both columns flatter: the guiding classifier also gives FID its features."
    columns = (
        Column("as asked", asked, "higher", decimals=3),
        Column("FID", f"{_protocol('FID', DEFAULT)}, over all ten classes", "lower", decimals=1),
    )
    metrics = {"as asked": "accuracy/asked", "FID": FID}
    ways = {f"DDIM, scale {s}": {"sampler": "ddim", "scale": s} for s in (0, 1, 3, 10)}
    ways |= {
        f"DDPM, scale 3, gradient at {label}": {"sampler": "ddpm", "scale": 3, "at": at}
        for label, at in (("the mean", "mean"), ("x_t", "x_t"))
    }
    rows = {
        name: {c: cell(name, c, m, MAIN, {"task": "guidance", **part}, NOT_YET) for c, m in metrics.items()}
        for name, part in ways.items()
    }
    return Table("ddpm_guidance", "Classifier guidance, 20 steps", columns, rows, (note,), corner="sampler, scale")


def switches_table(records: Sequence[Record], verified: Verified = ()) -> Table:
    """What undocumented choices of the sampler cost."""
    cell = finder("ddpm", "ddpm_switches", records, verified)
    columns = (
        Column("FID", _protocol("FID", DEFAULT), "lower", decimals=1),
        Column("KID", f"{_protocol('KID', DEFAULT)}, not scaled", "lower", decimals=2),
    )
    metrics = {"FID": FID, "KID": KID}
    steps = SMALL.steps[1]

    def part(name: str) -> dict[str, Any]:
        if not SWITCHES[name]:  # the reference is a row of the samplers' table
            return {"task": "generation", "sampler": "ddim", "steps": steps, "eta": 0}
        return {"task": "switches", "switch": name}

    rows = {name: {c: cell(name, c, m, MAIN, part(name), NOT_YET) for c, m in metrics.items()} for name in SWITCHES}
    caption = f"Choices that papers leave to the code: DDIM, η = 0, {steps} steps, one thing changed at a time"
    return Table("ddpm_switches", caption, columns, rows, corner="DDIM")


def every(records: Sequence[Record], verified: Verified = (), now: Lesson = DEFAULT) -> list[Table]:
    """All tables of the notebook."""
    wide = [make(records, verified, now) for make in (fid_table, quality_table)]
    return wide + [make(records, verified) for make in (noise_table, inversion_table, guidance_table, switches_table)]


def accuracy(records: Sequence[Record]) -> float | None:
    """The classifier's recorded test accuracy, None where there is no record."""
    found = select(records, experiment=CLASSIFIER)
    return found[0].values("accuracy")[0] if found else None


_DATA = {"fashion": "Fashion-MNIST", "cifar10": "CIFAR-10"}
_AGAINST = {"fashion": "test", "cifar10": "training"}


def _protocol(measure: str, now: Lesson) -> str:
    """What the records' FID or KID is measured with."""
    net = FEATURE_NETWORKS[now.config.features].split(";")[0]
    return f"{measure} on features of {net}, against the {_AGAINST[now.config.data]} split"
