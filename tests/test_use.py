"""`repro restore`, and own pairs from one TOML file to a restored image; every mistake is one sentence."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageCms
from tiny import refused, shaken

from repro.cli import main
from repro.data import pack
from repro.data.images import read_image, read_srgb, resize, write_image
from repro.engine.checkpoint import trained
from repro.engine.provenance import provenance_of
from repro.engine.records import locked
from repro.engine.rng import KeyedNoise
from repro.rddm.model import RDDMNet
from repro.rddm.pipeline import RDDMPipeline, RDDMScheduler
from repro.use import restore as methods
from repro.use import training as pairs
from repro.use.restore import RESTORERS

SIZE = (75, 51)
QUICK = {"adir": ["--adapt", "none"]}  # an adaptation takes a quarter of a minute
PAIRS = [(name, task) for name, restorer in RESTORERS.items() for task in restorer.tasks]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """An untrained network of a few weights, saved as a pipeline."""
    torch.manual_seed(0)
    net = RDDMNet(objective="res", base_channels=8, channel_mults=(1, 1), attention_levels=(), input_skip=True)
    folder = tmp_path_factory.mktemp("own") / "network"
    RDDMPipeline(shaken(net, 0.02), RDDMScheduler(objective="res", sum_scale=0.01)).save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.open(pack.photos("test")[0].path).resize(SIZE).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_every_shipped_network_restores_a_photo(method, task, photo, capsys):
    try:
        name = RESTORERS[method].shipped(task)[1]
    except methods.ReproError as error:
        pytest.skip(f"no weights here: {error}")
    assert trained(name)
    out = photo.with_name("out.png")
    argv = ["restore", str(photo), "--task", task, "--method", method, "--steps", "2", "-o", str(out)]
    argv += QUICK.get(method, [])
    assert main(argv) == 0
    assert f"network: {name}: " in capsys.readouterr().out
    assert Image.open(out).size == tuple(n * {"sr4": 4, "sr8": 8}.get(task, 1) for n in SIZE)
    assert "--task" in provenance_of(out).command
    first = out.read_bytes()
    assert main(argv) == 0 and out.read_bytes() == first


def test_a_folder_goes_in_and_out_upright_and_one_bad_file_stops_no_other(network, tmp_path, photo, capsys):
    source, exif = tmp_path / "photos", Image.Exif()
    exif[0x0112] = 6
    (source / "deep").mkdir(parents=True)
    Image.open(photo).save(source / "a.jpg")
    Image.open(photo).save(source / "deep/b.png", exif=exif)
    (source / "bad.png").write_bytes(b"no image")
    assert main(["restore", str(source), "--checkpoint", str(network), "-o", str(photo / "made")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["restore", str(source), "--checkpoint", str(network), "--steps", "1"]) == 1
    made = tmp_path / "restored-photos"
    assert sorted(p.relative_to(made).as_posix() for p in made.rglob("*.png")) == ["a.png", "deep/b.png"]
    printed = capsys.readouterr()
    assert "bad.png: not an image" in printed.err and "2 of 3 images" in printed.out
    turned = Image.open(made / "deep/b.png")
    assert turned.size == SIZE[::-1] and turned.getexif().get(0x0112) is None


def swapped() -> bytes:
    """sRGB with the primaries red and green exchanged, under another name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    at = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = at[b"rXYZ"], at[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(data).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


def test_colour_profiles_are_converted_to_srgb_and_reported(tmp_path):
    path, plain, exif = tmp_path / "a.png", Image.new("RGB", (30, 20), (200, 90, 60)), Image.Exif()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    broken = "a.png: its colour profile cannot be applied, values are taken as sRGB"
    for profile, expected in ((None, ""), (srgb, ""), (b"nonsense", broken)):
        plain.save(path, icc_profile=profile)
        image, note = read_srgb(path)
        assert note == expected and torch.equal(image, read_image(plain))
    exif[0x0112] = 6
    for mode in ("RGB", "RGBA"):
        plain.convert(mode).save(path, icc_profile=swapped(), exif=exif)
        image, note = read_srgb(path)
        wanted = torch.tensor([90, 200, 60]).reshape(3, 1, 1).expand(3, 30, 20) / 255  # turned, too
        assert (image - wanted).abs().max() < 1.01 / 255
        assert note.startswith("a.png: converted from swap") and note.endswith(" to sRGB")
    linear = swapped().replace("swap".encode("utf-16-be"), "sRGB".encode("utf-16-be"))
    linear = linear.replace("built-in".encode("utf-16-be"), "linear..".encode("utf-16-be"))
    clear = Image.new("P", (4, 4), 0)
    clear.putpalette([0, 0, 0] * 256)
    clear.save(path, icc_profile=linear, transparency=0)
    image, note = read_srgb(path)
    assert image.min() == 1 and "converted from" in note and note.endswith("; transparent parts are put on white")


def test_tiles_leave_no_seam_and_a_seed_is_the_generator_that_it_makes(network):
    pipe = methods.load(network)
    image = torch.rand(3, 180, 220, generator=torch.Generator().manual_seed(0))

    def run(tile):
        made = torch.Generator().manual_seed(0)
        return pipe(image, num_inference_steps=2, generator=made, tile=tile, output_type="pt").images[0]

    whole = run(None)
    assert torch.allclose(run(512), whole, atol=1e-6)
    # group normalisation sees a tile's statistics, so tiles may differ a little everywhere, but no line may stand out
    error = (run(128) - whole).abs().mean(dim=(0, 1))
    assert error.max() < 0.05 and (error[1:] - error[:-1]).abs().max() < 0.02
    made = pipe(image, generator=torch.Generator().manual_seed(7), output_type="pt").images
    assert torch.equal(pipe(image, seed=7, output_type="pt").images, made)
    with pytest.raises(methods.ReproError, match="a generator and a seed"):
        pipe(image, seed=7, generator=torch.Generator())


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["photo.jpg"], "--task is missing: say what the image suffers from (ucdir: lowlight, deblur, jpeg; rddm:"),
        (["photo.jpg", "--task", "snow"], "--task 'snow' is unknown; accepted: ucdir: lowlight, deblur"),
        (["photo.jpg", "--task", "jpeg", "--method", "rddm"], "--task 'jpeg' is unknown; accepted: rddm: lowlight"),
        (["photo.jpg", "--task", "jpeg", "--method", "x"], "--method 'x' is unknown: choose one of ucdir, rddm, adir"),
        (["photo.jpg", "--task", "jpeg", "--checkpoint", "x"], "accepted: it without method, task and adir's options"),
        (["photo.jpg", "--checkpoint", "NETWORK", "--adapt", "none"], "without method, task and adir's options"),
        (["photo.jpg", "--task", "jpeg", "--adapt", "none"], "--adapt is no option of ucdir"),
        (["photo.jpg", "--task", "sr4", "--adapt", "foo"], "--adapt 'foo' is unknown: choose one of neighbours"),
        (["photo.jpg", "--checkpoint", "nowhere"], "nowhere: holds no pipeline"),
        (["photo.jpg", "--task", "jpeg", "--seed", str(2**64)], "--seed: got 18446744073709551616; accepted"),
        (["photo.jpg", "--task", "jpeg", "--steps", "0"], "--steps: got 0; accepted: a whole number, 1 to 1000"),
        (["photo.jpg", "-o", "photo.jpg"], "is the image that was given"),
        (["photos", "-o", "photos"], "is the folder that was given"),
        (["photos", "-o", "x.png"], "accepted: a folder for the results"),
        (["photos", "-o", ""], ".: holds photos; accepted: a folder for the results beside or inside that"),
        (["nothing.png", "--checkpoint", "NETWORK"], "nothing.png: no such file"),
        (["photo.jpg", "-o", "photo.tga", "--checkpoint", "NETWORK"], "cannot write .tga"),
    ],
)
def test_a_mistake_is_one_sentence(argv, sentence, network, photo, capsys, monkeypatch):
    monkeypatch.chdir(photo.parent)
    (photo.parent / "photos").mkdir()
    (photo.parent / "photos" / "a.jpg").write_bytes(photo.read_bytes())
    assert main(["restore", *(str(network) if word == "NETWORK" else word for word in argv)]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


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


BRIEF = "[train]\nimages = 240\nbatch = 8\ncrop = 32\nwidth = 8\nlr = 2e-3\nthreads = 1\n[evaluate]\nheld_out = 0.25\n"


@pytest.mark.parametrize("method", METHODS)
def test_from_a_folder_of_pairs_to_a_restored_image(tmp_path, capsys, method):
    # the predictor of UCDIR learns by the diffusion's loss alone, and more slowly
    body = BRIEF if method == "rddm" else BRIEF.replace("240", "480").replace("2e-3", "3e-3") + "steps = 4\n"
    file = toml(folder(tmp_path), body, method)
    assert main(["train", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "6 pairs for training, 2 held out" in printed and "crops of 32" in printed
    assert Image.open(tmp_path / "run/first_batch.png").size == (6 * 32 + 5 * 4, 2 * 32 + 4)

    assert main(["evaluate", str(toml(tmp_path, body.replace("0.25", "0.4"), method))]) == 2
    assert "other pairs are held out than in the training" in capsys.readouterr().err
    assert main(["evaluate", str(toml(tmp_path, body, method))]) == 0
    printed = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "run/results.csv").open()))
    assert [r["what"] for r in rows] == ["input", "result"] * 2 and "2 held-out pairs" in printed
    psnr = {what: sum(float(r["psnr/rgb"]) for r in rows if r["what"] == what) for what in ("input", "result")}
    assert psnr["result"] > psnr["input"] + 2  # dB, summed over two: it learned to brighten

    pipe = methods.load(tmp_path / "run/network")
    given = read_image(tmp_path / "low/0.png")
    out = methods.restore_image(pipe, given, steps=2)
    assert out.shape == given.shape and out.mean() > 1.3 * given.mean()


def test_a_stopped_training_ends_as_one_that_was_not_stopped(tmp_path, capsys, monkeypatch):
    once, twice = (toml(folder(tmp_path / name), BRIEF.replace("240", "48")) for name in ("once", "twice"))
    assert main(["train", str(once)]) == 0
    assert main(["train", str(twice), "--until", "24"]) == 0
    assert not (tmp_path / "twice/run/network").exists()
    (tmp_path / "twice/run/first_batch.png").unlink()
    with locked(tmp_path / "twice/run"):  # a second process that trains the same run
        assert main(["train", str(twice)]) == 2 and not (tmp_path / "twice/run/first_batch.png").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", str(twice)]) == 2 and "without torchrun" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")
    (tmp_path / "twice/other").symlink_to(tmp_path / "once/high")
    assert main(["train", str(toml(tmp_path / "twice", BRIEF.replace("240", "48"), targets="other"))]) == 2
    assert "take task back to go on" in capsys.readouterr().err  # other targets are another training
    toml(tmp_path / "twice", BRIEF.replace("240", "48"))
    assert [main(["train", str(twice)]) for _ in range(2)] == [0, 0]  # the second time there is nothing left to do
    assert "nan" not in capsys.readouterr().out
    a, b = (methods.load(tmp_path / f"{name}/run/network").unet.state_dict() for name in ("once", "twice"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_folders_and_lists_give_the_same_pairs_cut_alike(tmp_path):
    folder(tmp_path)
    for name in ("low", "high"):
        assert main(["data", "flist", str(tmp_path / name)]) == 0
    file = pairs.read(toml(tmp_path, BRIEF, inputs="low.flist", targets="high.flist"))
    (train, test, _), (other, held_out, _) = pairs.check(file), pairs.check(pairs.read(toml(tmp_path, BRIEF)))
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


def test_mistakes_are_found_before_training(tmp_path):
    folder(tmp_path, 3)
    cases = {
        "method 'nope' is unknown: choose one of rddm, ucdir": ("", {"method": "nope"}),
        "inputs is missing": ("", {"inputs": ""}),
        "is a folder and .*nowhere is none": ("", {"targets": "nowhere"}),
        "key 'colour' is unknown: choose one of method, inputs": ("colour = 3\n", {}),
        "key 'lrate' is unknown": ("[train]\nlrate = 3\n", {}),
        "out, .*low/run, lies among the images; accepted": ("", {"out": "low/run"}),
        "key 'train' is unknown": ("train = 3\n", {}),
        r"images is 0; accepted: a whole number from 1": ("[train]\nimages = 0\n", {}),
        r"images is 2.5": ("[train]\nimages = 2.5\n", {}),
        "lr is True": ("[train]\nlr = true\n", {}),
        "crop is 16; accepted: a whole number from 32": ("[train]\ncrop = 16\n", {}),
        "crop 40 and width .* multiples of 16 and of 8": ("[train]\ncrop = 40\n", {}),
        "smaller than the crop; accepted: at least 64": ("[train]\ncrop = 64\n", {}),
        "are needed together": ("[evaluate]\ntest_inputs = 'low'\n", {}),
        "training and of test": ("[evaluate]\ntest_inputs = 'low'\ntest_targets = 'high'\n[train]\ncrop = 32\n", {}),
        "the same files": ("[train]\ncrop = 32\n", {"targets": "low"}),
        "not a TOML file": ("[[train]\n", {}),
        "batch stands there twice, in two sections": ("[train]\nbatch = 2\n[evaluate]\nbatch = 9\n", {}),
    }
    refused(cases, lambda body, changes: pairs.check(pairs.read(toml(tmp_path, body, **changes))))
    damaged = tmp_path / "high/1.png"  # the one held out
    damaged.write_bytes(damaged.read_bytes()[:-200])
    refused(
        {"1.png: the image is truncated": "[train]\ncrop = 32\n[evaluate]\nheld_out = 0.4\n"},
        lambda body: pairs.check(pairs.read(toml(tmp_path, body))),
    )
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
        (["train", "my.TOML", "--until", "0"], "--until: got 0; accepted: a whole number, 1 to"),
        (["evaluate", "my.toml"], "no trained network"),
        (["restore", "high/0.png", "--checkpoint", "high"], "holds no pipeline"),
    ):
        assert main(command) == 2
        assert sentence in capsys.readouterr().err
