"""`repro bench` and `repro doctor`: turns and verdicts; what is broken is found and named. Nothing is timed."""

import json
import shutil
from functools import partial

import pytest

from repro import benchmarks, paths
from repro.benchmarks import BENCHES, Bench, Benchmark, interleave
from repro.engine import doctor
from repro.engine.checkpoint import WEIGHTS
from repro.engine.doctor import Doctor, findings


def test_arms_take_turns_after_a_warm_up():
    order = []
    found = interleave({name: partial(order.append, name) for name in "abc"}, rounds=2)
    assert order == list("abc") + list("bca") + list("cab")
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.values())


def test_the_whole_command(home, monkeypatch, capsys):
    for target, code in ((1e-9, 0), (1e9, 1)):
        arms = lambda _: {"a": lambda: None, "b": lambda: None}  # noqa: E731
        monkeypatch.setitem(BENCHES, "instant", Benchmark("nothing against nothing", arms, (("a", "b", target),)))
        assert Bench(("instant",), rounds=2, keep=True).run() == code
    result = json.loads((home / "runs/bench/instant.json").read_text())
    assert result == json.loads((home / "figures/bench/instant.json").read_text())
    assert result["ratios"]["a over b"]["verdict"] == "MISSED"
    assert {"versions", "hardware", "threads", "date"} <= set(result["environment"])
    assert "MISSED" in capsys.readouterr().out


@pytest.mark.parametrize("name", BENCHES)
def test_every_arm_does_its_work(name, monkeypatch):
    monkeypatch.setattr(benchmarks, "IMAGES", 64)
    monkeypatch.setattr(benchmarks, "DDIM_STEPS", 2)
    arms = BENCHES[name].arms("smoke")
    assert {arm for of, over, _ in BENCHES[name].ratios for arm in (of, over)} <= set(arms)
    for run in arms.values():
        run()


def test_doctor_finds_nothing_wrong_here(capsys):
    assert Doctor().run() == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) >= 8 and {line.split()[0] for line in lines} <= {"ok", "warn"}


def test_doctor_finds_damaged_weights_and_a_broken_check(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    name = "ddpm-fashion-classifier-s0"
    shutil.copytree(paths.checkpoints() / name, tmp_path / "checkpoints" / name)
    weights = tmp_path / "checkpoints" / name / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))

    def _broken():
        raise OSError("no such luck")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (_broken, doctor._checkpoints, doctor._disk))
    found = [f for f in findings() if f.state == "fail"]
    assert len(found) == 2
    assert "the check of broken broke (OSError: no such luck)" in found[0].text
    assert WEIGHTS in found[1].text and "git checkout" in found[1].text
    assert Doctor().run() == 1 and "Traceback" not in capsys.readouterr().out
