"""Checkpoints: written whole or not at all, read only when they are what their card says, never unpickled."""

import hashlib
import json
import os
import pickle
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from tiny import same_weights, tiny_net

from repro.engine.checkpoint import CARD, CONFIG, WEIGHTS, load_checkpoint, read_card, save_checkpoint, weights_hash
from repro.errors import ReproError
from repro.nn.unet import UNet


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "net", tiny_net(), {"command": "repro train net"})


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "net"))


def put(folder: Path, data: bytes) -> None:
    """Other weights, with a card that agrees with them: what is left to find is in the file itself."""
    (folder / WEIGHTS).write_bytes(data)
    card = read_card(folder) | {"sha256": hashlib.sha256(data).hexdigest()}
    (folder / CARD).write_text(json.dumps(card))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ReproError) as error:
        load_checkpoint(folder)
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_round_trip(saved):
    model = load_checkpoint(saved)
    half = tiny_net().half().float()  # stored in fp16
    assert same_weights(model, half) and same_weights(UNet.from_pretrained(saved), half)  # a diffusers folder
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert weights_hash(saved) == read_card(saved)["sha256"]
    assert read_card(saved)["parameters"] == sum(p.numel() for p in model.parameters())
    assert "repro train net" in (saved / "README.md").read_text()
    assert not list(saved.parent.glob(".*"))
    with pytest.raises(ReproError, match=r"no checkpoint nett .*did you mean net\?"):
        load_checkpoint(saved.parent / "nett")


def test_a_damaged_file_is_refused_by_hash_and_by_content_and_never_unpickled(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    whole = (folder / WEIGHTS).read_bytes()
    foreign = (pickle.dumps(Bomb()), (tmp_path / "w.pt").read_bytes())
    for data in (whole[:-1] + b"x", b"", whole[:7], whole[:1000], *foreign):
        (folder / WEIGHTS).write_bytes(data)
        refused(folder, "damaged", "SHA-256")
    for data in (b"", whole[:7], whole[:1000], *foreign):
        put(folder, data)
        refused(folder, "damaged", WEIGHTS)
    assert not (tmp_path / "executed").exists()


def test_missing_extra_and_misshapen_weights_are_named(folder):
    tensors = load_file(folder / WEIGHTS)
    others = {k: v for k, v in tensors.items() if k != "conv_in.bias"}
    for found, sentence in (
        (others, 'Missing key(s) in state_dict: "conv_in.bias"'),
        (tensors | {"surplus": torch.zeros(2)}, 'Unexpected key(s) in state_dict: "surplus"'),
        (others | {"conv_in.bias": torch.zeros(3)}, "size mismatch for conv_in.bias"),
    ):
        put(folder, save(found))
        refused(folder, "does not fit", sentence)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_format": 2}, ("format 2", "reads format 1")),
        ({"unheard_of": 3}, ("unheard_of",)),
        ({"_module": "antigravity", "_class_name": "system"}, ("repro or diffusers only",)),
        ({"_module": "reprobate.nn"}, ("repro or diffusers only",)),
        ({"_module": ""}, ("repro or diffusers only",)),
        ({"_class_name": "Missing"}, ("repro.nn.unet.Missing", "cannot build")),
        ({"_module": "repro.paths", "_class_name": "root"}, ("repro.paths.root", "not a network")),
    ],
)
def test_a_config_may_name_a_network_of_ours_or_of_diffusers_and_nothing_else(folder, change, words):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    refused(folder, *words)
    assert "antigravity" not in sys.modules
    (folder / CONFIG).write_text("{")
    refused(folder, CONFIG, "damaged")


@pytest.mark.parametrize("name", [CONFIG, CARD, WEIGHTS])
def test_an_absent_file_is_named(folder, name):
    (folder / name).unlink()
    refused(folder, name, "net")


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    net = tiny_net()
    net.conv_in.bias.data[0] = 1e6  # more than fp16 holds
    with pytest.raises(ReproError, match=r"conv_in\.bias is not finite"):
        save_checkpoint(tmp_path / "net", net, {})
    assert not list(tmp_path.iterdir())


def test_saving_again_replaces_all(folder):
    (folder / "left-over").touch()
    save_checkpoint(folder, tiny_net(seed=1), {})
    assert same_weights(load_checkpoint(folder), tiny_net(seed=1).half().float())
    assert sorted(p.name for p in folder.iterdir()) == sorted([WEIGHTS, CONFIG, CARD, "README.md"])


@pytest.mark.parametrize("killed", [False, True])
def test_a_full_disk_leaves_the_previous_checkpoint(folder, killed):
    """The kernel refuses to write past 8 kB: what a full disk does, in the middle of the weights."""
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    if killed:  # an earlier save, between its two renames
        folder.rename(folder.with_name(".net.old"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(ReproError, match="unchanged"):
            save_checkpoint(folder, tiny_net(1), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert not list(folder.parent.glob(".*"))
