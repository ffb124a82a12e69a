"""`repro restore`: every shipped network on a photograph; folders, orientation, colour profiles, tiles; refusals."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageCms

from repro.cli import main
from repro.data import pack
from repro.data.images import read_image
from repro.data.inputs import read_srgb
from repro.engine.checkpoint import trained
from repro.engine.provenance import whence
from repro.rddm.model import RDDMNet
from repro.rddm.pipeline import RDDMPipeline
from repro.rddm.scheduler import RDDMScheduler
from repro.use import methods
from repro.use.methods import RESTORERS

SIZE = (75, 51)
QUICK = {"adir": ["--adapt", "none"]}  # an adaptation takes a quarter of a minute
PAIRS = [(name, task) for name, restorer in RESTORERS.items() for task in restorer.tasks]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """An untrained network of a few weights, saved as a pipeline."""
    torch.manual_seed(0)
    net = RDDMNet(objective="res", base_channels=8, channel_mults=(1, 1), attention_levels=(), input_skip=True)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))
    folder = tmp_path_factory.mktemp("own") / "network"
    RDDMPipeline(net.eval(), RDDMScheduler(objective="res", sum_scale=0.01)).save_pretrained(folder)
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
    assert "--task" in whence(out).command
    first = out.read_bytes()
    assert main(argv) == 0 and out.read_bytes() == first


def test_a_folder_goes_in_and_out_upright_and_one_bad_file_stops_no_other(network, tmp_path, photo, capsys):
    source, exif = tmp_path / "photos", Image.Exif()
    exif[0x0112] = 6
    (source / "deep").mkdir(parents=True)
    Image.open(photo).save(source / "a.jpg")
    Image.open(photo).save(source / "deep/b.png", exif=exif)
    (source / "bad.png").write_bytes(b"no image")
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
        (["photo.jpg", "--task", "jpeg", "--method", "x"], "--method 'x' is unknown; accepted: ucdir, rddm, adir"),
        (["photo.jpg", "--task", "jpeg", "--checkpoint", "x"], "it alone, without --method and --task"),
        (["photo.jpg", "--task", "jpeg", "--adapt", "none"], "--adapt is no option of ucdir"),
        (["photo.jpg", "--checkpoint", "nowhere"], "nowhere: holds no pipeline"),
        (["photo.jpg", "--task", "jpeg", "--steps", "0"], "--steps is 0; accepted: 1 to 1000"),
        (["photo.jpg", "-o", "photo.jpg"], "is the image that was given"),
        (["photos", "-o", "photos"], "is the folder that was given"),
        (["photos", "-o", "x.png"], "accepted: a folder for the results"),
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
