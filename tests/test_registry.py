"""Every listed experiment can be built and named; the smallest one goes all the way from the command line."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from repro.cli import main
from repro.engine.checkpoint import load_checkpoint, read_card
from repro.engine.records import ROOMS
from repro.engine.registry import experiments, find

SMOKE = "ddpm-fashion-smoke-s0"


def test_names_are_unique_and_tell_the_room_and_the_seed():
    names = [e.name for e in experiments()]
    assert len(set(names)) == len(names) > 0
    for e in experiments():
        room, *middle, seed = e.name.split("-")
        assert room == e.room in ROOMS and seed == f"s{e.seed}" and len(middle) >= 2, e.name
        # a further word names the profile, or belongs to the variant
        assert len(middle) == 2 or not e.ships or "-".join(middle[1:]) == e.variant, e.name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", e.name)
        assert e.command == f"repro train {e.name}" and e.summary and find(e.name) is e


@pytest.mark.parametrize("name", [e.name for e in experiments()])
def test_it_can_be_built_at_full_size_without_memory(name):
    with torch.device("meta"):
        net = find(name).build()
    assert all(p.is_meta for p in net.parameters()) and sum(p.numel() for p in net.parameters()) > 0


@pytest.mark.slow
def test_trained_by_command_and_killed_and_trained_on(tmp_path, monkeypatch, capsys):
    """SIGKILL while it trains; the same command goes on; the checkpoint is that of a run nobody killed, to the bit."""
    for name in ("straight", "killed"):
        (tmp_path / name / "notebooks").mkdir(parents=True)
        (tmp_path / name / "pyproject.toml").touch()
    folders = [tmp_path / name / "runs" / SMOKE / "checkpoint" for name in ("straight", "killed")]
    monkeypatch.setenv("REPRO_HOME", str(tmp_path / "straight"))
    assert main(["train", SMOKE]) == 0
    assert f"{SMOKE}: 100%" in capsys.readouterr().out

    monkeypatch.setenv("REPRO_HOME", str(tmp_path / "killed"))
    state = tmp_path / "killed" / "runs" / SMOKE / "state.safetensors"
    process = subprocess.Popen([sys.executable, "-m", "repro", "train", SMOKE], stdout=subprocess.DEVNULL)
    while not state.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was still at it
    saved = state.read_bytes()
    assert not folders[1].exists()
    for _ in range(2):  # the second time nothing is left to do, and nothing breaks
        assert main(["train", SMOKE]) == 0 and saved != state.read_bytes()
        a, b = (read_card(folder) for folder in folders)
        assert a["sha256"] == b["sha256"] and a["images"] == b["images"] == 512
    assert a["experiment"] == SMOKE and a["command"] == f"repro train {SMOKE}" and a["seed"] == 0
    assert load_checkpoint(folders[1]).config.base_channels == 8
    lines = [json.loads(line) for line in state.with_name("log.jsonl").read_text().splitlines()]
    assert lines[-1]["images"] == 512
    assert not (tmp_path / "killed" / "checkpoints").exists()  # it does not ship
