"""`repro bench` and `repro doctor`: turns, medians and verdicts; what is broken is found and told. Nothing is timed."""

from __future__ import annotations

import importlib.machinery
import json
import shutil
import sys
import types

import pytest

from repro import paths
from repro.engine import bench, doctor
from repro.engine.bench import Bench, Benchmark, Block, Ratio, benches, interleave, measure, ratio
from repro.engine.checkpoint import WEIGHTS
from repro.engine.doctor import Doctor, findings
from repro.errors import ReproError


def test_arms_take_turns_after_their_setting_up():
    seen = []

    def arm(name):
        def start():
            while True:
                seen.append(name)
                yield 2.0

        return start

    found = interleave({"a": arm("a"), "b": arm("b"), "c": arm("c")}, rounds=3, say=lambda _: None)
    assert seen == list("aabbcc") + list("abc") + list("bca") + list("cab")
    assert all(len(blocks) == 3 for blocks in found.values())
    assert all(block.wall > 0 and block.cpu > 0 for block in found["a"])


def test_the_ratio_is_the_median_of_the_rounds_own_ratios():
    ours = [Block(2, 1), Block(30, 1), Block(4, 1)]  # the machine was ten times faster in the second round
    theirs = [Block(1, 2), Block(10, 2), Block(4, 2)]
    blocks = {"ours": ours, "theirs": theirs}
    assert ratio(blocks, "ours", "theirs") == {"median": 2, "q1": 1.5, "q3": 2.5}
    assert ratio(blocks, "ours", "theirs", "cpu")["median"] == 0.5
    assert ratio({"a": ours[:1], "b": theirs[:1]}, "a", "b") == {"median": 2, "q1": 2, "q3": 2}


def test_a_missed_target_is_said():
    assert Ratio("r", "a", "b", 1.0).verdict(1.0).startswith("met")
    assert Ratio("r", "a", "b", 1.0).verdict(0.99).startswith("MISSED")
    assert "comparison" in Ratio("r", "a", "b").verdict(0.1)


def _instant(_: str):
    def forever():
        while True:
            yield 1.0

    return {"a": forever, "b": forever}


def test_the_whole_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))
    for target, code in ((1e-9, 0), (1e9, 1)):
        one = Benchmark("instant", "nothing against nothing", "blocks", _instant, (Ratio("r", "a", "b", target),))
        monkeypatch.setattr(bench, "benches", lambda one=one: {"instant": one})
        assert Bench(("instant",), rounds=2, keep=True, memory=False).run() == code
    result = json.loads((tmp_path / "runs/bench/instant.json").read_text())
    assert result == json.loads((tmp_path / "figures/bench/instant.json").read_text())
    assert set(result["arms"]) == {"a", "b"} and result["ratios"]["r"]["verdict"].startswith("MISSED")
    assert {"versions", "hardware", "threads", "date"} <= set(result["environment"])
    assert "MISSED" in capsys.readouterr().out


def test_every_bench_compares_arms_it_has(monkeypatch):
    peer = types.ModuleType("denoising_diffusion_pytorch")  # optional, and not built here
    peer.__spec__ = importlib.machinery.ModuleSpec(peer.__name__, None)
    monkeypatch.setitem(sys.modules, peer.__name__, peer)
    for name, each in benches().items():
        arms = each.make("smoke")
        assert name == each.name and each.ratios
        assert {r.of for r in each.ratios} | {r.over for r in each.ratios} <= set(arms)


@pytest.mark.slow
def test_the_training_bench_runs(monkeypatch):
    """All arms of the smallest network, two blocks each, memory of one of them in its own process."""
    import repro.ddpm.bench as room

    monkeypatch.setattr(room, "STEPS_A_BLOCK", 1)
    result = measure(bench.find("training"), "smoke", rounds=1, threads=1, memory=False)
    assert len(result["arms"]) == 3 and all(arm["images/s"] > 0 for arm in result["arms"].values())
    found = bench.peak_memory("sampler", "bare forwards", "smoke", 1)
    assert found["peak_mb"] > found["before_mb"] * 0.9 > 50


def test_an_absent_peer_is_named():
    try:
        import denoising_diffusion_pytorch  # noqa: F401
    except ImportError:
        with pytest.raises(ReproError, match="needs the extra `bench`"):
            bench.find("training-peer").make("smoke")


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
