"""Experiments and the training loop: resuming, killing, several processes, NaN, refusals."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import RECIPE, TinyTask, clone, same_weights, tiny_net

from repro.cli import main
from repro.engine.checkpoint import experiments, find, load_checkpoint, read_card, rooms
from repro.engine.records import locked
from repro.engine.train import Recipe, has_bf16, load_state, make_accelerator, places_to_indices, save_state, train
from repro.errors import ReproError

SMOKE = "ddpm-fashion-smoke-s0"


def test_names_are_unique_and_tell_the_room_and_the_seed():
    names = [e.name for e in experiments()]
    assert len(set(names)) == len(names) > 0
    for e in experiments():
        assert re.fullmatch(rf"{e.room}(-[a-z0-9]+){{2,}}-s{e.seed}", e.name) and e.room in rooms()
        begins = [find(e.begins).name] if e.begins else []
        assert e.command.split() == ["repro", "train", *begins, e.name] and e.summary and find(e.name) is e


@pytest.mark.parametrize("name", [e.name for e in experiments() if e.name != "adir-prior-use-s0"])
def test_it_can_be_built_at_full_size_without_memory(name):
    with torch.device("meta"):
        net = find(name).build()
    assert all(p.is_meta for p in net.parameters()) and sum(p.numel() for p in net.parameters()) > 0


@pytest.mark.slow
def test_trained_by_command_and_killed_and_trained_on(tmp_path, monkeypatch, capsys):
    """SIGKILL while it trains; the same command goes on; the checkpoint is that of a run nobody killed, to the bit."""
    homes = [clone(tmp_path / name) for name in ("straight", "killed")]
    folders = [home / "runs" / SMOKE / "checkpoint" for home in homes]
    monkeypatch.setenv("REPRO_HOME", str(homes[0]))
    assert main(["train", SMOKE]) == 0
    assert f"{SMOKE}: 100%" in capsys.readouterr().out

    monkeypatch.setenv("REPRO_HOME", str(homes[1]))
    state = homes[1] / "runs" / SMOKE / "state.safetensors"
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
    assert not (homes[1] / "checkpoints").exists()  # it does not ship


HERE = Path(__file__).parent


def run(state: Path | None = None, until: int | None = None, recipe: Recipe = RECIPE, seed: int = 3):
    *_, last = train(tiny_net(), TinyTask(), recipe, seed, state, until)
    return last


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, precision: str) -> None:
    recipe, threads = dataclasses.replace(RECIPE, precision=precision), torch.get_num_threads()
    straight = run(recipe=recipe)
    state = tmp_path / "state.safetensors"
    for until in (100, 101, 210, 320):  # stopped thrice, once where it had just been stopped
        last = run(state, until, recipe)
    assert last.images == straight.images == 320
    assert torch.get_num_threads() == threads
    assert same_weights(last.model, straight.model)
    assert same_weights(last.ema, straight.ema)


def test_a_processor_without_bf16_trains_in_fp32(monkeypatch) -> None:
    """Emulated bf16 is many times slower: the same recipe then gives the very weights of an fp32 training."""
    monkeypatch.setattr("repro.engine.train.has_bf16", lambda device: False)
    slow = run(recipe=dataclasses.replace(RECIPE, precision="bf16"))
    assert same_weights(slow.model, run(recipe=dataclasses.replace(RECIPE, precision="fp32")).model)


@pytest.mark.parametrize(
    ("cpu", "amx", "fast"), [("AMD EPYC", False, True), ("Intel(R)", False, False), ("Intel(R)", True, True)]
)
def test_bf16_is_taken_by_the_kind_of_processor(monkeypatch, cpu, amx, fast):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("repro.engine.train.hardware", lambda: {"cpu": cpu})
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_bf16("cpu") == fast


def test_an_accelerator_that_is_not_cuda_does_not_take_its_precision_from_the_cpu():
    assert not has_bf16("mps") and not has_bf16("xpu")


def kept_images(state: Path) -> int:
    with safe_open(state, framework="pt") as file:
        return json.loads(file.metadata()["run"])["images"]


RARELY = dataclasses.replace(RECIPE, save_every=10_000)


def test_the_state_is_kept_where_the_caller_stops_and_by_time(tmp_path: Path, monkeypatch) -> None:
    state = tmp_path / "state.safetensors"
    steps = train(tiny_net(), TinyTask(), RARELY, 3, state)
    for _ in range(3):
        step = next(steps)
    assert not state.exists()
    steps.close()
    assert kept_images(state) == step.images == 3 * RARELY.batch
    monkeypatch.setattr("repro.engine.train.SAVE_SECONDS", 0)
    steps = train(tiny_net(), TinyTask(), RARELY, 3, state)
    assert next(steps).images == kept_images(state) == 4 * RARELY.batch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_step_and_keeps_it(tmp_path: Path, number: int) -> None:
    """The signal comes in the middle of a step, of the second one: the state holds it whole."""
    state = tmp_path / "state.safetensors"

    class Interrupted(TinyTask):
        def loss(self, model, indices, noise):
            if steps_begun.append(1) or len(steps_begun) == 2:
                signal.raise_signal(number)
            return super().loss(model, indices, noise)

    steps_begun: list[None] = []
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        list(train(tiny_net(), Interrupted(), RARELY, 3, state))
    assert kept_images(state) == 2 * RECIPE.batch and signal.getsignal(number) is before
    assert same_weights(run(state, recipe=RARELY).ema, run(recipe=RARELY).ema)


@pytest.fixture
def smoke(home):
    return find("ddpm-fashion-smoke-s0")


def test_a_run_goes_on_over_a_torn_log_and_says_how_it_is_trained_and_where_its_weights_are(
    smoke, tmp_path: Path, capsys, monkeypatch
) -> None:
    folder = tmp_path / "runs" / smoke.name
    with locked(folder):
        assert main(["train", smoke.name]) == 2
    assert f"{folder} is held by another process" in capsys.readouterr().err
    half = smoke.recipe.images // 2
    with monkeypatch.context() as patch:
        patch.setattr("repro.engine.train.has_bf16", lambda device: False)
        assert main(["train", smoke.name, "--until", str(half)]) == 0
    out = capsys.readouterr().out
    assert f"{smoke.name}: bf16 is not faster on this processor" in out
    assert f"state: {folder / 'state.safetensors'}" in out
    (folder / "log.jsonl").write_text('{"images": 100, "loss": 1.0, "seconds": 7.0}\n{"images": 2')
    assert main(["train", smoke.name]) == 0
    assert f"weights: {folder / 'checkpoint'}" in capsys.readouterr().out
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["seconds"] > 7 and json.loads(lines[-1])["images"] == smoke.recipe.images
    assert load_checkpoint(smoke.name).config.base_channels == 8  # by its name, though it does not ship
    assert main(["list", "ddpm"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(smoke.name)]
    assert " trained " in line


def test_processes_that_do_not_find_each_other_are_refused(monkeypatch) -> None:
    make_accelerator()  # alone, from now on
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(ReproError, match="2 processes were started, Accelerate joins 1"):
        make_accelerator()


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """torchrun with gloo: two processes share each batch; in fp32 only the order of summation differs."""
    recipe = dataclasses.replace(RECIPE, precision="fp32", images=160)
    script, files = tmp_path / "two.py", [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from pathlib import Path\nfrom tiny import TinyTask, tiny_net\n"
        "from repro.engine.train import Recipe, make_accelerator, train\n"
        f"list(train(tiny_net(), TinyTask(), {recipe!r}, 3, Path(sys.argv[1])))\n"
        "print(make_accelerator().num_processes, 'processes')\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"} | {"OMP_NUM_THREADS": "1"}
    for _ in range(3):  # torchrun picks a free port and binds it later: another test's server may have come between
        done = subprocess.run([*launch, str(script), str(files[1])], env=environment, capture_output=True, text=True)
        if "address already in use" not in done.stderr.lower() and "EADDRINUSE" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2 processes" in done.stdout  # `accelerate launch --cpu` starts one
    run(files[0], recipe=recipe)
    one, two = map(load_file, files)
    worst = max((two[f"model.{key}"] - one[f"model.{key}"]).abs().max().item() for key in tiny_net().state_dict())
    moved = max((one[f"model.{key}"] - value).abs().max().item() for key, value in tiny_net().state_dict().items())
    # AdamW divides by the root of tiny second moments, which magnifies the rounding of sums in another order.
    assert worst < 0.05 * moved, (worst, moved)


def test_nan_names_pictures_and_last_good_state(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    run(state, until=96)
    before = state.read_bytes()
    poison = int(places_to_indices(torch.arange(96, 112), len(TinyTask.ids), seed=3)[5])  # in the very next batch
    with pytest.raises(ReproError, match=rf"loss nan, .* image {poison}.*96 images in, is .*state"):
        list(train(tiny_net(), TinyTask(poison=poison), RECIPE, 3, state))
    assert state.read_bytes() == before


def test_every_epoch_shows_every_picture_once() -> None:
    indices = places_to_indices(torch.arange(150), 50, seed=1)
    for epoch in range(3):
        assert sorted(indices[50 * epoch : 50 * (epoch + 1)].tolist()) == list(range(50))
    assert indices[:50].tolist() != indices[50:100].tolist()
    assert torch.equal(places_to_indices(torch.arange(70, 90), 50, seed=1), indices[70:90])


def test_a_state_of_another_run_or_a_damaged_one_is_refused_and_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"

    class Other(TinyTask):
        settings = {"norm": "l1"}  # noqa: RUF012 - plain data

    run(state, until=48)
    for change in ({"lr": 2e-3}, {"batch": 32}, {"threads": 2}):
        with pytest.raises(ReproError, match=r"was made with (lr|batch|threads) "):
            run(state, recipe=dataclasses.replace(RECIPE, **change))
    with pytest.raises(ReproError, match="was made with seed 3, this run has 4"):
        run(state, seed=4)
    with pytest.raises(ReproError, match=r"was made with task .* remove it to start over"):
        next(train(tiny_net(), Other(), RECIPE, 3, state))
    blob = state.read_bytes()
    for damaged in (blob[: len(blob) // 2], b"", b"\x80\x04pickle"):
        state.write_bytes(damaged)
        with pytest.raises(ReproError, match="damaged"):
            run(state)
        assert state.read_bytes() == damaged


def test_the_state_round_trips_in_any_memory_format(tmp_path: Path) -> None:
    net = tiny_net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    net(torch.randn(2, 1, 8, 8), 3).sample.square().mean().backward()
    optimizer.step()
    path = tmp_path / "s.safetensors"
    save_state(path, {"seed": 0}, 17, net, tiny_net(1), optimizer)
    other, average = tiny_net(5).to(memory_format=torch.channels_last), tiny_net(6)
    second = torch.optim.AdamW(other.parameters(), fused=True)
    assert load_state(path, {"seed": 0}, other, average, second) == 17
    assert same_weights(other, net) and same_weights(average, tiny_net(1))
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        a, b = optimizer.state[p], second.state[q]
        assert torch.equal(a["exp_avg"], b["exp_avg"]) and torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
        assert a["exp_avg"].stride() == b["exp_avg"].stride()


def test_the_learning_rate_warms_up_and_decays() -> None:
    recipe = Recipe(images=1000, batch=10, lr=1.0, warmup=100)
    rates = [recipe.lr_at(i) for i in range(0, 1000, 10)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(1.0) and rates[-1] < 1e-3
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[11:]))
