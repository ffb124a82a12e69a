"""The diffusers pipeline and its command: equal to the plain-tensor path, saved and loaded, what is refused."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image
from tiny_editing import FULL, PREDICTION, close, pictures, tiny_autoencoder, tiny_editor, tiny_network

from repro import cli, paths
from repro.ddpm.schedules import by_name
from repro.editing import sampling
from repro.editing.autoencoder import Autoencoder
from repro.editing.pipeline import EditingPipeline, scheduler_of
from repro.editing.sampling import STEPS, Editor
from repro.editing.study import experiments
from repro.editing.study.experiments import SMOKE
from repro.editing.vector import EditingVector
from repro.engine import atomic
from repro.engine.checkpoint import load_checkpoint, save_checkpoint
from repro.engine.provenance import whence
from repro.errors import ReproError

SCHEDULE = by_name(**sampling.SCHEDULE)
IMAGE = pictures(2, 19, 24)
REFERENCE = pictures(2, 31, purpose="reference")
HOLE = torch.zeros(2, 1, 19, 24)
HOLE[:, :, 4:12, 3:15] = 1
ALL = dict(blur=0.3, grain=0.05, reference=REFERENCE, mask=HOLE, sharpen=(2.5, 0.04))


def make(network=None, autoencoder=None, scheduler=None, prediction=PREDICTION):
    pipe = EditingPipeline(
        network or tiny_network().requires_grad_(False),
        autoencoder or tiny_autoencoder(),
        scheduler or scheduler_of(SCHEDULE, prediction),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return make()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("prediction", "changes", "eta"),
    [("epsilon", {}, 0.0), ("v_prediction", {"condition": "concat"}, 0.0), ("v_prediction", {"mask": True}, 0.8)],
)
def test_it_draws_what_the_editor_draws(prediction, changes, eta):
    network = tiny_network(scale=0.3, **changes).requires_grad_(False)
    pipe = make(network, prediction=prediction)
    found = pipe(IMAGE, seed=4, eta=eta, exact=False, output_type="pt", **ALL).images
    for editor in (tiny_editor(network, prediction=prediction), pipe.editor()):
        inputs = dict(reference=REFERENCE, hole=HOLE, steps=STEPS, seed=4, eta=eta)
        close(found, editor.edit(IMAGE, [FULL] * 2, [0, 1], **inputs))
    assert found.std() > 0.01


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_generator_each_and_a_picture_does_not_depend_on_its_batch(pipe, eta):
    common = dict(num_inference_steps=3, eta=eta, output_type="pt", blur=0.3)
    one = pipe(IMAGE, generator=[seeded(1), seeded(2)], **common).images
    alone = pipe(IMAGE[1:], generator=[seeded(2)], **common).images
    other = pipe(IMAGE, generator=[seeded(1), seeded(3)], **common).images
    close(one[1:], alone)
    assert torch.equal(one[0], other[0]) and (one[1] - other[1]).abs().max() > 0.01


def test_another_scheduler_of_diffusers_samples_too(pipe):
    """DPM-Solver and many steps of DDIM solve the same equation; Euler's states are scaled otherwise and its steps are
    DDIM's, those that grain has more too."""
    network = tiny_network(scale=0.3).requires_grad_(False)
    common = dict(blur=0.5, seed=0, exact=False, output_type="pt")
    config = {**scheduler_of(SCHEDULE, PREDICTION).config, "timestep_spacing": "trailing"}
    exact, coarse = (make(network)(IMAGE, num_inference_steps=n, **common).images for n in (60, 4))
    solver = make(network, scheduler=DPMSolverMultistepScheduler.from_config(config))
    found = solver(IMAGE, num_inference_steps=20, **common).images
    assert (found - exact).abs().mean() < 0.25 * (coarse - exact).abs().mean()
    ancestral = make(network, scheduler=EulerAncestralDiscreteScheduler.from_config(config))
    with pytest.raises(ReproError, match=r"got eta 0\.5; accepted: 0 to 0 with EulerAncestralDiscreteScheduler"):
        ancestral(IMAGE, eta=0.5, **common)
    euler, settings = make(network, scheduler=EulerDiscreteScheduler.from_config(config)), common | {"grain": 0.1}
    found, ddim = (each(IMAGE[:1], num_inference_steps=4, **settings).images for each in (euler, make(network)))
    close(found, ddim, atol=3e-3)  # Euler starts from a deviation that is 0.2 % off


def test_saved_and_loaded_it_draws_the_same(tmp_path):
    pipe = make(tiny_network(condition="concat"))
    before = pipe(IMAGE, seed=0, num_inference_steps=2, output_type="pt", **ALL).images
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = EditingPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    close(again(IMAGE, seed=0, num_inference_steps=2, output_type="pt", **ALL).images, before, 1e-6)
    array = again(IMAGE, seed=0, num_inference_steps=2, output_type="np", **ALL).images
    close(torch.from_numpy(array).permute(0, 3, 1, 2), before, 1e-6)
    (images,) = again(IMAGE, seed=0, num_inference_steps=2, return_dict=False, **ALL)  # Pillow's
    assert np.array_equal(np.asarray(images[1]), (array[1] * 255).round().astype(np.uint8))


@pytest.fixture
def shipping(tmp_path, monkeypatch):
    """A clone whose smoke profile is trained."""
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    for name, model in (
        (experiments.autoencoder_name("smoke"), tiny_autoencoder()),
        (experiments.name_of("mult", 0, "smoke"), tiny_network()),
        (experiments.name_of("taught-long", 0, "smoke"), tiny_network(1, mask=True)),
    ):
        save_checkpoint(paths.checkpoints() / name, model, {})
    return tmp_path


def test_what_ships_is_what_the_experiments_say(shipping):
    pipe = EditingPipeline.shipped("smoke")
    pipe.set_progress_bar_config(disable=True)
    network = load_checkpoint(experiments.name_of("taught-long", 0, "smoke"))
    prediction = experiments.learning_of("taught-long", SMOKE).prediction
    editor = Editor(network, experiments.load_autoencoder("smoke"), SCHEDULE, prediction)
    found = pipe(IMAGE, seed=0, exact=False, output_type="pt").images
    close(found, editor.edit(IMAGE, [EditingVector()] * 2, [0, 1]))
    next(pipe.network.parameters()).data.zero_()  # a pipeline may be changed; what others share is not
    assert next(network.parameters()).any()
    assert not EditingPipeline.shipped("smoke", "mult").network.config.mask and pipe.network.config.mask
    with pytest.raises(ReproError, match="editing-smoke-palette-s0: no weights here; `repro list"):
        EditingPipeline.shipped("smoke", "palette")
    with pytest.raises(ReproError, match="unknown profile 'large'"):
        EditingPipeline.shipped("large")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": HOLE[..., :20]}, r"a mask of shape \(2, 1, 19, 20\); accepted: \(2 or 1, 1, 19, 24\)"),
        ({"reference": torch.cat([REFERENCE, REFERENCE])}, r"reference of shape \(4, 3, 31, 31\)"),
        ({"image": IMAGE * 300}, "values range from"),
        ({"image": IMAGE[..., :5, :]}, "got 24x5 pixels; accepted: at least 8 a side"),
        ({"image": [IMAGE[0], IMAGE[0, :, :9]]}, "got 24x9, 24x19 in one batch"),
        ({"output_type": "jpg"}, "got output_type 'jpg'"),
        ({"generator": [torch.Generator()]}, "got 1 generators; accepted: one, or 2"),
        ({"generator": torch.Generator(), "seed": 0}, "a generator and a seed; accepted: one of the two"),
        ({"eta": 1.5}, "got eta 1.5; accepted: 0 to 1"),
    ],
)
def test_wrong_calls_are_refused(pipe, settings, message):
    with pytest.raises(ReproError, match=message):
        pipe(**{"image": IMAGE} | settings)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: {"network": tiny_network(reference="latent")}, "a reference of kind 'latent'"),
        (lambda: {"autoencoder": Autoencoder(16, 8, 16)}, "latents of 4 channels, the autoencoder 8"),
        (lambda: {"scheduler": FlowMatchEulerDiscreteScheduler()}, "accepted: schedulers with betas"),
        (lambda: {"scheduler": DDIMScheduler()}, "clip_sample=False, since latents have no range"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts, message):
    with pytest.raises(ReproError, match=message):
        make(**parts())


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path, shipping, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray((IMAGE[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save("photo.png")
    Image.fromarray((REFERENCE[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save("other.jpg")
    Image.fromarray((HOLE[0, 0].numpy() * 255).astype(np.uint8)).save("hole.png")
    return tmp_path


def command(capsys, *argv):
    try:
        code = cli.main(["edit", *argv])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_command_edits_and_says_how(photo, capsys, monkeypatch):
    options = "--blur 0.6 --reference other.jpg --mask hole.png --sharpen 2.0 0.02 --seed 3 --steps 2 --profile smoke"
    code, out, _ = command(capsys, "photo.png", *options.split(), "-o", "a b.png")
    assert code == 0 and "written: a b.png" in out and "2/2" in out  # the progress bar
    made = whence("a b.png")
    assert made.command == f"repro edit photo.png {options} -o 'a b.png'" and made.records == ()
    found = np.asarray(Image.open("a b.png"))
    pipe = EditingPipeline.shipped("smoke")
    wanted = pipe(
        "photo.png", blur=0.6, reference="other.jpg", mask="hole.png", sharpen=(2.0, 0.02), seed=3,
        num_inference_steps=2,
    ).images[0]  # fmt: skip
    assert np.array_equal(found, np.asarray(wanted)) and found.shape == (19, 24, 3)
    options = "--blur 0.5 --seed 0 --steps 1 --profile smoke --variant mult"
    assert command(capsys, "photo.png", *options.split(), "-o", "x/y.jpg")[0] == 0
    assert Image.open("x/y.jpg").size == (24, 19)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["photo.png"], "nothing to do; accepted: at least one of --blur, --grain, --reference, --mask, --sharpen"),
        (["none.jpg", "--blur", "1", "-o", "other.jpg"], "none.jpg: no such file"),
        (["photo.png", "--blur", "2"], "beta (degree of motion blur) is 2; accepted: 0 to 1"),
        (["photo.png", "--mask", "other.jpg"], "grey; accepted: black (kept) and white (hole)"),
        (["photo.png", "--blur", "1", "-o", "out.doc"], "out.doc: cannot write .doc; use .png"),
        (["photo.png", "--blur", "1", "-o", "photo.png"], "photo.png: is one of the inputs"),
        (["photo.png", "--blur", "1", "-o", "folder.png"], "folder.png: is a folder"),
        (["photo.png", "--blur", "1", "--profile", "large"], "unknown profile 'large'"),
        (["photo.png", "--blur", "1", "--steps", "0"], "num_inference_steps 0; accepted: 1 to 1000"),
        (["photo.png", "--blur", "1", "--seed", str(2**64)], "a seed has 64 bits"),
    ],
)
def test_a_mistake_is_one_sentence(photo, capsys, argv, words):
    (photo / "folder.png").mkdir()
    code, _, err = command(capsys, "--profile", "smoke", *argv)
    assert code == 2 and words in err and err.startswith("repro edit: ") and len(err.splitlines()) == 1


def test_a_result_that_cannot_be_written_after_all_is_kept_elsewhere(photo, capsys, monkeypatch):
    def full(path, data):
        if path.name == "late.png":
            raise ReproError(f"{path} could not be written (No space left on device)")
        atomic.write_bytes(path, data)

    monkeypatch.setattr("repro.engine.provenance.write_bytes", full)
    monkeypatch.setattr("tempfile.tempdir", str(photo))
    options = "--blur 0.5 --seed 0 --steps 1 --profile smoke"
    code, _, err = command(capsys, "photo.png", *options.split(), "-o", "late.png")
    other = err.strip().removesuffix("\n").rsplit("written instead: ")[1]
    assert code == 1 and "No space left on device" in err and not (photo / "late.png").exists()
    assert whence(other).command == f"repro edit photo.png {options} -o {other}"


def test_a_name_that_is_no_text_stands_in_the_provenance_as_a_shell_reads_it(photo, capsys):
    shutil.copy("photo.png", name := os.fsdecode(b"caf\xe9 'x'.png"))
    options = ["--blur", "0.5", "--steps", "1", "--profile", "smoke"]
    assert command(capsys, name, *options, "-o", "out.png")[0] == 0
    word = r"$'caf\xe9 \x27x\x27.png'"
    assert whence("out.png").command.startswith(f"repro edit {word} --blur 0.5")
    assert subprocess.run(["bash", "-c", f"ls {word}"], capture_output=True).returncode == 0
