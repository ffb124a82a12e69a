"""The diffusers pipeline and its command: the editor's edits, saved and loaded; large images, photographs, refusals."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from PIL import Image
from tiny import refused
from tiny_editing import FULL, PREDICTION, close, pictures, tiny_autoencoder, tiny_editor, tiny_network

from repro import cli, paths
from repro.data import pack
from repro.data.grain import film_grain
from repro.data.images import read_image, resize
from repro.ddpm.process import by_name
from repro.editing import sampling
from repro.editing.autoencoder import Autoencoder
from repro.editing.effects import colour_transfer
from repro.editing.pipeline import (
    DETAIL,
    WHOLE,
    EditingPipeline,
    carried,
    enlarged,
    membrane,
    scheduler_of,
    thickness,
)
from repro.editing.sampling import STEPS, Editor
from repro.editing.study import experiments
from repro.editing.study.experiments import SMOKE
from repro.editing.vector import EditingVector
from repro.engine.checkpoint import load_checkpoint, save_checkpoint
from repro.engine.provenance import provenance_of, shell
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.use.edit import FILM_SAMPLES

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


def test_saved_and_loaded_it_draws_the_same(tmp_path):
    pipe = make(tiny_network(condition="concat"))
    before = pipe(IMAGE, seed=0, num_inference_steps=2, output_type="pt", **ALL).images
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = EditingPipeline.from_pretrained(tmp_path)
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
    network = load_checkpoint(experiments.name_of("taught-long", 0, "smoke"))
    prediction = experiments.learning_of("taught-long", SMOKE).prediction
    editor = Editor(network, experiments.load_autoencoder(SMOKE), SCHEDULE, prediction)
    found = pipe(IMAGE, seed=0, exact=False, output_type="pt").images
    close(found, editor.edit(IMAGE, [EditingVector()] * 2, [0, 1]))
    next(pipe.network.parameters()).data.zero_()  # a pipeline may be changed; what others share is not
    assert next(network.parameters()).any()
    assert not EditingPipeline.shipped("smoke", "mult").network.config.mask and pipe.network.config.mask
    with pytest.raises(ReproError, match="no checkpoint editing-smoke-palette-s0"):
        EditingPipeline.shipped("smoke", "palette")
    with pytest.raises(ReproError, match="profile of networks for use 'large' is unknown: choose one of small, smoke"):
        EditingPipeline.shipped("large")


def test_wrong_calls_are_refused(pipe):
    cases = {
        r"a mask of 20x19 pixels, .*; accepted: 24x19, shape \(1 or 2, 1, 19, 24\)": {"mask": HOLE[..., :20]},
        r"reference of shape \(4, 3, 31, 31\)": {"reference": torch.cat([REFERENCE, REFERENCE])},
        "values range from": {"image": IMAGE * 300},
        "image: got NoneType; accepted: a path": {"image": None},
        "got 24x5 pixels; accepted: at least 8 a side": {"image": IMAGE[..., :5, :]},
        "got 24x9, 24x19 in one batch": {"image": [IMAGE[0], IMAGE[0, :, :9]]},
        "output_type 'jpg' is unknown": {"output_type": "jpg"},
        "got 1 generators; accepted: one torch.Generator, or a list of 2": {"generator": [torch.Generator()]},
        "a generator and a seed; accepted: one of the two": {"generator": torch.Generator(), "seed": 0},
        "eta: got 1.5; accepted: 0 to 1": {"eta": 1.5},
    }
    refused(cases, lambda settings: pipe(**{"image": IMAGE} | settings))


def test_parts_that_do_not_belong_together_are_refused():
    cases = {
        "its reference 'latent'": lambda: {"network": tiny_network(reference="latent")},
        "latents 4; accepted: EditingNet, 'rgb', 8": lambda: {"autoencoder": Autoencoder(16, 8, 16)},
        "got Pix2PixGenerator": lambda: {"network": load_checkpoint("editing-edits-pix2pix-s0")},
        "got EulerDiscreteScheduler; accepted: a DDIMScheduler": lambda: {"scheduler": EulerDiscreteScheduler()},
        "clip_sample=False, as repro": lambda: {"scheduler": DDIMScheduler()},
    }
    refused(cases, lambda parts: make(**parts()))


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
    effects = "--blur 0.6 --reference other.jpg --mask hole.png --sharpen 2.0 0.02"
    options = f"{effects} --seed 3 --steps 2 --eta 0.0 --profile smoke"
    code, out, _ = command(capsys, "photo.png", *options.split(), "-o", "a b.png")
    assert code == 0 and "written: a b.png" in out and "2/2" in out  # the progress bar
    made = provenance_of("a b.png")
    assert made.command == f"repro edit photo.png {options} --variant taught-long -o 'a b.png'" and made.records == ()
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
        (["photo.png", "--blur", "0", "--grain", "0"], "nothing to do; accepted: at least one of --blur"),
        (["photo.png"], "nothing to do; accepted: at least one of --blur, --grain, --reference, --mask, --sharpen"),
        (["none.jpg", "--blur", "1", "-o", "other.jpg"], "none.jpg: no such file"),
        (["photo.png", "--blur", "2"], "beta (degree of motion blur): got 2.0; accepted: 0 to 1"),
        (["photo.png", "--mask", "other.jpg"], "grey; accepted: black (kept) and white (hole)"),
        (["photo.png", "--blur", "1", "-o", "out.doc"], "out.doc: cannot write .doc; use .png"),
        (["photo.png", "--blur", "1", "-o", "photo.png"], "photo.png: is one of the inputs"),
        (["photo.png", "--blur", "1", "-o", "folder.png"], "folder.png: is a folder"),
        (["photo.png", "--blur", "1", "--seed", str(2**64)], "--seed: got 18446744073709551616; accepted: a whole"),
        (["photo.png", "--blur", "1", "--variant", "single-grain"], "single-grain is trained for one effect: got blur"),
        (["photo.png", "--film", "0.01"], "accepted: 0.1 to 10"),
        (["photo.png", "--blur", "1", "--steps", "0", "--profile", "none"], "got 0; accepted: a whole number, 1 to"),
        (["photo.png", "--blur", "abc"], "repro edit: --blur: got 'abc'; accepted: NUMBER"),
    ],
)
def test_a_mistake_is_one_sentence(photo, capsys, argv, words):
    (photo / "folder.png").mkdir()
    code, _, err = command(capsys, "--profile", "smoke", *argv)
    assert code == 2 and words in err and err.startswith("repro edit: ") and len(err.splitlines()) == 1


def test_a_name_that_is_no_text_stands_in_the_provenance(photo, capsys):
    shutil.copy("photo.png", name := os.fsdecode(b"caf\xe9.png"))
    options = ["--blur", "0.5", "--steps", "1", "--profile", "smoke"]
    assert command(capsys, name, *options, "-o", "out.png")[0] == 0
    told = provenance_of("out.png").command
    assert told.startswith(r"repro edit $'caf\xe9.png' --blur 0.5")
    # What is told runs in bash as it stands: the words are those that were given.
    echoed = subprocess.run(["bash", "-c", f"printf '%s\\0' {told}"], capture_output=True, check=True).stdout
    assert echoed.split(b"\0")[2] == b"caf\xe9.png"
    words = shell("edit", Path("-a b.png"), {"mask": Path("-m.png"), "blur": 0.5}, Path("out.png"))
    assert words == "repro edit './-a b.png' --mask ./-m.png --blur 0.5 -o out.png"


SIDE = WHOLE * 4  # pixels up to which an image goes through in one piece
# A photograph of the validation split: what was chosen was chosen on these.
PHOTO = pack.load(next(p for p in pack.photos("validation") if p.kind == "photo"))[None]


@pytest.mark.parametrize("mask", [False, True])
def test_each_tile_is_the_networks_own_output(mask):
    """Without overlap and in a size that tiles fill, the prediction is put together from them."""
    editor = tiny_editor(tiny_network(mask=mask), tile=8, overlap=0)
    noise, channels = KeyedNoise(0, [0], "inputs"), {"sample": 4, "source": 4, "reference": 3, "mask": 1}
    maps = {name: noise.normal((n, 16, 24), i) for i, (name, n) in enumerate(channels.items()) if n > 1 or mask}
    x, t, vector = maps.pop("sample"), torch.tensor([600]), EditingVector(blur=0.4, colour=True).tensor()[None]
    found = editor.model({**maps, "vector": vector})(x, t)
    for row, column in itertools.product((0, 8), (0, 8, 16)):
        place = (..., slice(row, row + 8), slice(column, column + 8))
        parts = {name: value[place] for name, value in maps.items()}
        close(found[place], editor.network(x[place], t, vector=vector, **parts).sample)


def levels(x):
    return [(255 * f(x, dim=(0, 2, 3))).tolist() for f in (torch.mean, torch.std)]


def sharpness(x):
    """Mean gradient of the image at the size of a thumbnail."""
    x = resize(x, 96)
    return (x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()).item()


@pytest.fixture(scope="module")
def shipped():
    pipe = EditingPipeline.shipped()
    return lambda image, **asked: pipe(image, seed=0, output_type="pt", **asked).images


def test_a_transfer_has_the_statistics_of_the_formula(shipped):
    """A photograph as its own reference is no edit."""
    other = resize(pack.load(pack.photos("validation")[3])[None], 120)
    for side, reference, extra in ((300, None, {}), (96, other, {}), (96, other, {"blur": 0.4})):
        image = resize(PHOTO, side)
        found = shipped(image, reference=image if reference is None else reference, **extra)
        wanted = image if reference is None else colour_transfer(image, reference)
        for got, goal in zip(levels(found), levels(wanted), strict=True):
            np.testing.assert_allclose(got, goal, atol=2)


def test_strength_does_not_depend_on_the_resolution(shipped):
    """The formula keeps the same share at every size, by its definition; so does the network."""
    for asked, low, high in (({"blur": 0.6}, 0.1, 0.5), ({"sharpen": (2.0, 0.0)}, 1.15, 3)):
        kept = [sharpness(shipped(resize(PHOTO, n), **asked)) / sharpness(resize(PHOTO, n)) for n in (120, 900)]
        assert low < kept[0] < high and abs(kept[0] / kept[1] - 1) < 0.1, kept


def test_outside_its_hole_a_picture_stays_as_it_is(shipped):
    image = resize(PHOTO, 96)
    hole = torch.zeros(1, 1, *image.shape[2:])
    hole[..., 30:42, 20:90] = 1
    found = shipped(image, mask=hole)
    assert torch.equal(found * (1 - hole), image * (1 - hole)) and not torch.equal(found, image)
    assert torch.equal(shipped(image), image)  # and without an effect, or with none of it, all of it
    assert torch.equal(shipped(image, blur=0, grain=0.0), image)


def test_half_precision_draws_nearly_the_same_in_float32():
    pipe, image = EditingPipeline.shipped(), resize(PHOTO, 200)
    hole = (torch.arange(image.shape[3]) < 30).float().expand(1, 1, *image.shape[2:])
    for effects in ({"blur": 0.5, "reference": PHOTO}, {"grain": 0.05, "mask": hole}):  # by a copy, and by tiles
        settings = {"seed": 0, "num_inference_steps": 1, "output_type": "pt", **effects}
        whole, half = (pipe.to(kind)(image, **settings).images for kind in (torch.float32, torch.bfloat16))
        assert half.dtype == torch.float32 and 0 < (half - whole).abs().max() < 0.1, effects


@pytest.mark.parametrize(("variant", "edge"), [("taught-long", 1), ("single-inpaint", 0), ("mult", 1), ("palette", 0)])
def test_a_hole_larger_than_any_tile_is_filled_with_its_surroundings(variant, edge):
    """All-hole tiles, with and without a mask channel: no coloured noise, no smudge, at the edge neither."""
    pipe = EditingPipeline.shipped(variant=variant)
    image = resize(PHOTO, 384)
    hole = torch.zeros(1, 1, *image.shape[2:])
    hole[..., 60:320, (0 if edge else 100) : 400] = 1  # 260 pixels, where a tile has 128
    found = pipe(image, mask=hole, seed=0, output_type="pt").images
    smooth = membrane(image, 1 - hole)
    inside = hole.expand(-1, 3, -1, -1) > 0
    assert (found - smooth)[inside].abs().mean() < 12 / 255  # in its surroundings' colours
    grey = (found - smooth).mean(dim=1, keepdim=True)
    hue = (found - smooth - grey)[inside].square().mean().sqrt()
    assert hue < 12 / 255  # and no coloured noise
    inner = 1 - torch.nn.functional.max_pool2d(1 - hole, 5, 1, 2)
    rim = (inside & (inner == 0)).expand_as(inside)
    assert (found - smooth)[rim].abs().mean() < 0.3 * (found - smooth)[inside & ~rim].abs().mean()  # begins softly
    assert torch.equal(found[~inside], image[~inside])


def test_large_pictures_are_edited_by_a_copy_and_holes_never_looked_at():
    pipe, image, seen = make(), pictures(1, SIDE, SIDE + 60), []
    keep = lambda m, a, k: seen.append((a or tuple(k.values()))[0].shape)  # noqa: E731
    pipe.network.register_forward_pre_hook(keep, with_kwargs=True)
    common = dict(seed=0, num_inference_steps=1, output_type="pt")
    pipe(image, blur=0.5, **common)
    assert seen and all(max(shape[2:]) <= WHOLE for shape in seen)
    assert pipe(pictures(1, 20, 600), blur=0.5, **common).images.shape == (1, 3, 20, 600)  # a strip: 64 pixels high
    for thick in (4, 60):
        hole = torch.zeros(1, 1, SIDE, SIDE + 60)
        hole[..., 20 : 20 + thick, 30:180] = 1
        other = torch.where(hole > 0, 1 - image, image)
        assert torch.equal(*(pipe(x, mask=hole, blur=0.5, **common).images for x in (image, other)))
    times = []  # of the detail drawn into the thick hole's filling, which is as noisy as at the first
    pipe.network.register_forward_pre_hook(lambda m, args: times.append(int(args[1][0])))
    pipe(image, mask=hole, **common)
    assert times[0] == DETAIL and len(times) == STEPS and times == sorted(times, reverse=True)


def test_an_edit_is_carried_over_with_as_much_detail_as_it_keeps():
    """What changes nothing leaves the image; finer detail follows a gain of contrast, and the square of a loss."""
    image, size = 0.4 + 0.2 * pictures(1, 40, 56), (40, 56)
    for small in (image, resize(image, (20, 28))):
        plain = pictures(1, *small.shape[2:], purpose="plain")  # whatever the autoencoder makes of it
        close(carried(image, small, plain, plain), image)
        for contrast, kept in ((0.5, 0.25), (2.0, 2.0)):
            edited = contrast * (small - 0.5) + 0.5
            detail = image - enlarged(small, size)
            close(carried(image, small, small, edited), enlarged(edited, size) + kept * detail)


def test_a_hole_is_as_thick_as_the_way_to_what_is_known():
    hole = torch.zeros(2, 1, 1, 21, 40)
    hole[0, ..., 6:15, 20:29], hole[1, ..., :10] = 1, 1
    assert [thickness(each) for each in hole] == [5, 10]  # nothing is known beyond the image's edge


def test_a_scratch_is_filled_smoothly():
    image, hole = resize(PHOTO, 96), torch.zeros(1, 1, *resize(PHOTO, 96).shape[-2:])
    hole[..., 40:44, 10:80] = 1
    found = EditingPipeline.shipped()(image, mask=hole, seed=0, output_type="pt").images
    close(found, membrane(image.reshape(found.shape), 1 - hole))


def test_exact_film_grain_is_drawn_over_the_photo(photo):
    assert cli.main(["edit", "photo.png", "--film", "0.5", "--seed", "3", "-o", "film.png"]) == 0
    grain = film_grain(read_image("photo.png")[None], 0.5, seed=3, ids=[0], n_samples=FILM_SAMPLES)[0]
    assert (read_image("film.png") - grain).abs().max() <= 0.51 / 255


def test_a_membrane_is_what_is_known_and_smooth_between():
    slope = torch.linspace(0, 1, 33).expand(1, 3, 20, 33)
    known = torch.ones(1, 1, 20, 33)
    known[..., 5:15, 8:25] = 0
    found = membrane(slope + 5 * (1 - known), known)  # what is in the hole does not matter
    assert torch.equal(found * known, slope * known) and (found - slope).abs().max() < 0.1
    flat, some = torch.full((1, 2, 7, 9), 0.3), (torch.rand(1, 1, 7, 9) > 0.8).float()
    close(membrane(flat, some), flat)
