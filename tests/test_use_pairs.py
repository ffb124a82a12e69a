"""Own pairs: one TOML file from the check to a restored image, in seconds; every mistake is one sentence."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from repro.cli import main
from repro.data import pack
from repro.data.images import read_image, resize, write_image
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.use import methods, pairs

METHODS = sorted(methods.LEARNERS)


def folder(tmp_path: Path, count: int = 8, side: int = 48) -> Path:
    """`count` pairs: photographs, and the same at a third of their brightness."""
    for i, photo in enumerate(pack.photos("train")[:count]):
        clean = resize(pack.load(photo), side)
        write_image(tmp_path / f"high/{i}.png", clean)
        write_image(tmp_path / f"low/{i}.png", clean / 3)
    return tmp_path


def toml(tmp_path: Path, body: str = "", method: str = "rddm", **changes: str) -> Path:
    lines = {"method": method, "inputs": "low", "targets": "high", "out": "run", **changes}
    path = tmp_path / "my.toml"
    path.write_text("".join(f'{key} = "{value}"\n' for key, value in lines.items() if value) + body)
    return path


QUICK = "[train]\nimages = 240\nbatch = 8\ncrop = 32\nwidth = 8\nlr = 2e-3\nthreads = 1\n[evaluate]\nheld_out = 0.25\n"


@pytest.mark.parametrize("method", METHODS)
def test_from_a_folder_of_pairs_to_a_restored_image(tmp_path, capsys, method):
    # the predictor of UCDIR learns by the diffusion's loss alone, and more slowly
    body = QUICK if method == "rddm" else QUICK.replace("240", "480").replace("2e-3", "3e-3") + "steps = 4\n"
    file = toml(folder(tmp_path), body, method)
    assert main(["train", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "6 pairs for training, 2 held out" in printed and "crops of 32" in printed
    assert Image.open(tmp_path / "run/first_batch.png").size == (6 * 32 + 5 * 4, 2 * 32 + 4)

    assert main(["evaluate", str(file)]) == 0
    printed = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "run/results.csv").open()))
    assert [r["what"] for r in rows] == ["input", "result"] * 2 and "2 held-out pairs" in printed
    psnr = {what: sum(float(r["psnr/rgb"]) for r in rows if r["what"] == what) for what in ("input", "result")}
    assert psnr["result"] > psnr["input"] + 2  # dB, summed over two: it learned to brighten

    pipe = methods.load(tmp_path / "run/network")
    given = read_image(tmp_path / "low/0.png")
    out = methods.restore_image(pipe, given, steps=2)
    assert out.shape == given.shape and out.mean() > 1.3 * given.mean()


def test_a_stopped_training_ends_as_one_that_was_not_stopped(tmp_path):
    once, twice = (toml(folder(tmp_path / name), QUICK.replace("240", "48")) for name in ("once", "twice"))
    assert main(["train", str(once)]) == 0
    assert main(["train", str(twice), "--until", "24"]) == 0
    assert not (tmp_path / "twice/run/network").exists()
    assert main(["train", str(twice)]) == 0
    a, b = (methods.load(tmp_path / f"{name}/run/network").unet.state_dict() for name in ("once", "twice"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_folders_and_lists_give_the_same_pairs_cut_alike(tmp_path):
    folder(tmp_path)
    for name in ("low", "high"):
        assert main(["data", "flist", str(tmp_path / name)]) == 0
    file = pairs.read(toml(tmp_path, QUICK, inputs="low.flist", targets="high.flist"))
    (train, test, _), (other, held_out, _) = pairs.check(file), pairs.check(pairs.read(toml(tmp_path, QUICK)))
    assert train.ids == other.ids and [p.id for p in test] == [p.id for p in held_out]
    task = pairs.PairTask(train, file)
    target, degraded = task.pair(torch.arange(4), lambda purpose: KeyedNoise(0, range(4), purpose))
    assert ((degraded + 1) / 2 * 3 - (target + 1) / 2).abs().max() < 3 * 1.01 / 255  # 8-bit rounding of the third


def test_held_out_pairs_are_never_trained_on(tmp_path):
    folder(tmp_path, 7)
    for share, count in {0.0: 0, 0.1: 1, 0.5: 4, 0.9: 6}.items():
        body = f"[train]\ncrop = 32\n[evaluate]\nheld_out = {share}\n"
        train, test, _ = pairs.check(pairs.read(toml(tmp_path, body)))
        assert len(test) == count and train.size == 7 - count
        assert set(train.ids).isdisjoint(p.id for p in test)


@pytest.mark.parametrize(
    "body, changes, sentence",
    [
        ("", {"method": "nope"}, "method 'nope' is unknown; accepted: "),
        ("", {"inputs": ""}, "inputs is missing"),
        ("", {"targets": "nowhere"}, "is a folder and .*nowhere is none"),
        ("colour = 3\n", {}, "'colour' is unknown; accepted here: method"),
        ("[train]\nimages = 0\n", {}, r"images is 0; accepted: a whole number from 1"),
        ("[train]\nimages = 2.5\n", {}, r"images is 2.5"),
        ("[train]\nlr = true\n", {}, "lr is True"),
        ("[train]\ncrop = 40\n", {}, "crop 40 and width .* multiples of 16 and of 8"),
        ("[train]\ncrop = 64\n", {}, "smaller than the crop; accepted: at least 64"),
        ("[evaluate]\ntest_inputs = 'low'\n", {}, "are needed together"),
        ("[evaluate]\ntest_inputs = 'low'\ntest_targets = 'high'\n[train]\ncrop = 32\n", {}, "training and of test"),
        ("[train]\ncrop = 32\n", {"targets": "low"}, "the same files"),
        ("[[train]\n", {}, "not a TOML file"),
    ],
)
def test_mistakes_are_found_before_training(tmp_path, body, changes, sentence):
    file = toml(folder(tmp_path, 3), body, **changes)
    with pytest.raises(ReproError, match=sentence):
        pairs.check(pairs.read(file))
    assert not (tmp_path / "run").exists()


def test_the_examples_are_complete_and_what_is_missing_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path, 3, 256)
    for method in METHODS:
        text = (pairs.EXAMPLES / f"{method}.toml").read_text(encoding="utf-8")
        (tmp_path / "my.toml").write_text(text)
        file = pairs.read(tmp_path / "my.toml")
        assert file.method == method and pairs.check(file)[0].size == 3
    (tmp_path / "high/2.png").unlink()
    for command, sentence in (
        (["train", "my.toml"], "2.png: no partner in"),
        (["train", "none.toml"], "no such file; examples to copy: "),
        (["evaluate", "my.toml"], "no trained network"),
        (["restore", "high/0.png", "--checkpoint", "high"], "holds no pipeline"),
    ):
        assert main(command) == 2
        assert sentence in capsys.readouterr().err
