"""The command line: every command explains itself, mistakes are one sentence; `repro bench` and `repro doctor`."""

import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from repro import __version__, benchmarks
from repro.benchmarks import BENCHES, Bench, interleave
from repro.cli import COMMANDS, PAIRS, main
from repro.engine import commands
from repro.engine.checkpoint import WEIGHTS, experiments
from repro.engine.commands import Doctor, findings

ROOT = Path(__file__).resolve().parents[1]


def run(argv: list[str], capsys) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as end:  # tyro's own way out of --help and of a wrong option
        code = end.code
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_in_words_and_examples(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run([*command.split(), "--help"], capsys)
    assert code == 0 and not err and f"repro {command}" in out and COMMANDS[command][2][:20] in out
    for sign in ("{", "None", "STR", "FLOAT", "(default: )", "(default: False)"):
        assert sign not in out, sign
    assert all(f"  repro {command} {example}".rstrip() in out for example in COMMANDS[command][3])
    for field in dataclasses.fields(getattr(importlib.import_module(COMMANDS[command][0]), COMMANDS[command][1])):
        if place := re.search(rf"^usage: .* (\[?){field.name.upper()}\b", out):  # a positional argument
            assert (place[1] == "[") == (field.default is not dataclasses.MISSING), field.name


@pytest.mark.parametrize(("command", "example"), [(c, e) for c in COMMANDS for e in COMMANDS[c][3]])
def test_examples_are_understood(command, example, monkeypatch):
    module, name, *_ = (PAIRS if "my.toml" in example else COMMANDS)[command]
    ran = []
    monkeypatch.setattr(getattr(importlib.import_module(module), name), "run", lambda self: ran.append(self))
    assert main([*command.split(), *example.split()]) == 0 and len(ran) == 1


@pytest.mark.parametrize("argv", [["edit", "--help"], ["claims", "ddpm"], ["provenance", "caf\udce9.png"]])
def test_a_terminal_without_the_signs_gets_the_nearest_ones(argv):
    """Not even Latin-1's, and names that are no text at all: nothing ends in UnicodeEncodeError."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "repro", *argv], capture_output=True, env=environment)
    assert done.returncode == (2 if argv[0] == "provenance" else 0), done.stderr
    assert b"Traceback" not in done.stderr and (done.stdout + done.stderr).isascii()


def test_usage_version_and_list(capsys):
    code, out, _ = run([], capsys)
    assert code == 2 and all(name in out for name in COMMANDS) and run(["--help"], capsys) == (0, out, "")
    assert run(["--version"], capsys) == (0, f"{__version__}\n", "")
    code, out, _ = run(["list"], capsys)
    assert code == 0 and len(out.splitlines()) == len(experiments())
    assert "ddpm-fashion-linear-s0" in out and "384,000" in out
    assert len(run(["list", "ddpm"], capsys)[1].splitlines()) == len(experiments("ddpm"))


MISTAKES = {
    "unknown command": (["trian"], "did you mean train"),
    "command like none": (["zzzzzz"], "there are doctor, list"),
    "half a command": (["data"], "data"),
    "unknown experiment": (["train", "ddpm-fashion-linaer-s0"], "did you mean ddpm-fashion-linear-s0"),
    "nothing to train": (["train"], "train takes experiment names"),
    "images below one": (["train", "ddpm-fashion-smoke-s0", "--until", "0"], "--until: got 0; accepted"),
    "unknown method": (["list", "dpdm"], "method 'dpdm' is unknown: choose one of ddpm"),
    "nothing to evaluate": (["evaluate"], ""),
    "unknown row": (["evaluate", "zebra", "--full"], "nothing measures 'zebra'"),
    "missing records of a check": (["evaluate", "ddpm", "--missing"], "--missing goes with --full"),
    "check of one experiment": (["evaluate", "ddpm-fashion-linear-s0"], "a whole method is checked"),
    "unknown profile": (["evaluate", "ddpm", "--full", "--profile", "huge"], "'huge' is unknown: choose one of smoke"),
    "of a check": (["evaluate", "ddpm", "--profile", "huge"], "'huge' is unknown: choose one of smoke, small, paper"),
    "of the ledger": (["claims", "--profile", "huge"], "'huge' is unknown: choose one of smoke, small, paper"),
    "of a notebook": (["reproduce", "01", "--parameters", "profile=smoke"], "'profile=smoke'; accepted: NAME=VALUE"),
    "of a bench": (["bench", "edit", "training", "--profile", "paper"], "'paper' is unknown: choose one of smoke,"),
    "absent folder": (["data", "flist", "/no/such/folder"], "/no/such/folder"),
    "unknown bench": (["bench", "trainign"], "choose one of training"),
    "no rounds": (["bench", "training", "--rounds", "0"], "--rounds: got 0; accepted: a whole number, 1 to"),
    "unknown option": (["train", "--untill", "3"], "untill"),
    "no number": (["train", "x", "--until", "many"], "many"),
    "surplus": (["doctor", "surplus"], "surplus"),
    "absent figure": (["provenance", "/no/such.png"], "/no/such.png"),
    "a name too long": (["edit", "n" * 255 + ".png", "--blur", "0.5"], "File name too long"),
    "a folder's name too long": (["data", "flist", "n" * 256], "File name too long"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, capsys):
    argv, words = MISTAKES[mistake]
    code, _, err = run(argv, capsys)
    assert code == 2
    assert words.lower() in err.lower() and "Traceback" not in err


def test_outside_a_clone_it_says_so(tmp_path: Path):
    command = [sys.executable, "-m", "repro", "list"]
    done = subprocess.run(command, capture_output=True, text=True, env={"REPRO_HOME": str(tmp_path)})
    assert done.returncode == 2 and not done.stdout
    assert str(tmp_path) in done.stderr and "pyproject.toml" in done.stderr and len(done.stderr.splitlines()) == 1


def test_arms_take_turns_after_a_warm_up():
    order = []
    found = interleave({name: partial(order.append, name) for name in "abc"}, rounds=2)
    assert order == list("abc") + list("bca") + list("cab")
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.values())


def test_the_whole_command(home, monkeypatch, capsys):
    for target, code in ((1e-9, 0), (1e9, 1)):
        arms = lambda _: {"a": lambda: None, "b": lambda: None}  # noqa: E731
        monkeypatch.setitem(BENCHES, "instant", (arms, [("a", "b", target)]))
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
    make, ratios = BENCHES[name]
    arms = make("smoke")
    assert {arm for of, over, _ in ratios for arm in (of, over)} <= set(arms)
    for run in arms.values():
        run()


def test_doctor_finds_nothing_wrong_here(capsys):
    assert Doctor().run() == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) >= 7 and {line.split()[0] for line in lines} <= {"ok", "warn"}


def test_doctor_finds_damaged_weights_and_a_broken_check(home, monkeypatch, capsys):
    name = "ddpm-fashion-classifier-s0"
    shutil.copytree(ROOT / "checkpoints" / name, home / "checkpoints" / name)
    weights = home / "checkpoints" / name / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])

    def _broken():
        raise OSError("no such luck")
        yield

    monkeypatch.setattr(commands, "CHECKS", (_broken, commands._files))
    broken, damaged = [text for state, text in findings() if state == "fail"]
    assert "the check of broken broke (OSError: no such luck)" in broken
    assert WEIGHTS in damaged and "git checkout" in damaged
    assert Doctor().run() == 1 and "Traceback" not in capsys.readouterr().out
