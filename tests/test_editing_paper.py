"""The editing model at paper scale: REDS, pretrained networks, and the whole path on a small copy of both."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from repro.data.datasets import LAYOUTS
from repro.data.files import Pair, crops
from repro.data.images import read_image, resize, write_image
from repro.editing.effects import motion_blur
from repro.editing.model import EditingNet
from repro.editing.study import benchmark, experiments, measure, paper
from repro.editing.study.benchmark import VERSION, levels, parameters
from repro.editing.study.experiments import PAPER
from repro.editing.study.pix2pix import Pix2PixGenerator
from repro.editing.vector import LENGTH, EditingVector
from repro.editing.vector import batch as as_tensor
from repro.engine import evaluation
from repro.engine.checkpoint import load_checkpoint, run, save_checkpoint
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.metrics.features import FeatureNet

SMALL = {"layers_per_block": 1, "norm_num_groups": 4}
UNET = paper.LDM.unet | SMALL | {"cross_attention_dim": 12, "attention_head_dim": 2, "block_out_channels": [8, 16]}
UNET["down_block_types"] = ["CrossAttnDownBlock2D", "DownBlock2D"]
UNET["up_block_types"] = ["UpBlock2D", "CrossAttnUpBlock2D"]
KL = paper.LDM.autoencoder | SMALL | {"block_out_channels": [8, 8]}
KL |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
TINY = paper.Pretrained("nobody/tiny", "vqvae", UNET, KL)
SIDE, FRAMES = 32, 2
SEQUENCES = {"train": 8, "val": 2}


def seeded(make, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(**settings).eval()


def rand(*shape: int, of: str = "x") -> torch.Tensor:
    return KeyedNoise(0, [of], "test").normal(shape)[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What a user has: the tiny model in diffusers' layout, and REDS' layout with sequences of two small frames."""
    root = tmp_path_factory.mktemp("data")
    seeded(UNet2DConditionModel, **UNET).save_pretrained(root / "tiny" / "unet")
    seeded(AutoencoderKL, **KL).save_pretrained(root / "tiny" / "vqvae")
    counts = {}
    for part, sequences in SEQUENCES.items():
        for sequence in range(sequences):
            for frame in range(FRAMES):
                name = f"{sequence:03d}/{frame:08d}.png"
                fine = KeyedNoise(0, [f"{part}/{name}"], "fine").uniform((3, 40, 48))
                coarse = resize(KeyedNoise(0, [f"{part}/{name}"], "coarse").uniform((3, 9, 9))[0], (40, 48))
                sharp = levels((0.6 * coarse + 0.4 * fine[0]).clamp(0, 1))
                write_image(root / "reds" / part / f"{part}_sharp" / name, sharp)
                blurred = motion_blur(sharp[None], 0.5, 0, [name], longest=4.0)[0]
                write_image(root / "reds" / part / f"{part}_blur" / name, levels(blurred))
        counts |= {f"{part}/{part}_{kind}": FRAMES * sequences for kind in ("sharp", "blur")}
    reds = LAYOUTS["reds"]
    parts = tuple(dataclasses.replace(p, count=counts[p.label]) for p in reds.parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYOUTS, "reds", dataclasses.replace(reds, parts=parts))
        patch.setenv("REPRO_DATA", str(root))
        yield root


@pytest.fixture
def home(home, monkeypatch, data):
    """A clone without weights; the profile "paper" with tiny networks of the same classes."""
    recipe = dataclasses.replace(PAPER.recipe, images=4, batch=2, threads=1, warmup=0)
    small = dataclasses.replace(
        PAPER,
        bench=dataclasses.replace(PAPER.bench, crop=(SIDE, SIDE, SIDE)),
        network={**TINY.network, "tokens": "single"},
        recipe=recipe,
        pix2pix={"widths": (8, 8, 8), "critic": 4},
        pix2pix_recipe=dataclasses.replace(recipe, clip=0.0),
        steps=2,
        pretrained=TINY,
    )
    monkeypatch.setitem(experiments.PROFILES, "paper", small)
    return home


def experiment(name: str):
    """As the registry has it, of the tiny profile."""
    return next(e for e in experiments._all(experiments.PROFILES["paper"]) if e.name == name)


VARIANTS = {
    "mult": {},
    "latent reference and mask": {"reference": "latent", "mask": True},
    "C itself": {"tokens": "single", "layers": 0},
    "palette": {"condition": "concat"},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_training_begins_at_the_pretrained_network(data, changes):
    original = UNet2DConditionModel.from_pretrained(data / "tiny", subfolder="unet").eval()
    TINY.initialise(net := seeded(EditingNet, **TINY.network, **changes))
    x, t = rand(2, 4, 8, 8), torch.tensor([10, 900])
    vector = as_tensor([EditingVector(blur=0.4), EditingVector(colour=True)])
    colours = 4 if changes.get("reference") else 3
    for scale in (0.0, 5.0):
        shown = {"source": scale * rand(2, 4, 8, 8, of="s"), "reference": scale * rand(2, colours, 8, 8, of="r")}
        if changes.get("mask"):
            shown["mask"] = torch.ones(2, 1, 8, 8)
        with torch.no_grad():
            out = net(x, t, **shown, vector=vector).sample
            tokens = torch.zeros(2, 1, 12) if net.mapping is None else net.mapping(vector)
            assert tokens.shape[2] == 12
            wanted = original(x, t, encoder_hidden_states=tokens).sample
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_needs_no_pretrained_files(data, tmp_path, monkeypatch):
    TINY.initialise(net := seeded(EditingNet, **TINY.network, layers=0))
    save_checkpoint(tmp_path / "editing-paper-x-s0", net, {"command": "repro train x"})
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "elsewhere"))
    again = load_checkpoint(tmp_path / "editing-paper-x-s0")
    assert again.multiple == 2 and again.config.context == 12
    given = rand(1, 4, 8, 8), 3, rand(1, 4, 8, 8), rand(1, 3, 8, 8), as_tensor([EditingVector(blur=0.4)])
    with torch.no_grad():
        torch.testing.assert_close(again(*given).sample, net.half().float()(*given).sample, rtol=1e-4, atol=1e-5)


def test_latents_are_the_mode_times_the_scale(data):
    original = AutoencoderKL.from_pretrained(data / "tiny", subfolder="vqvae").eval()
    autoencoder, image = TINY.frozen, rand(2, 3, 16, 24).clamp(-1, 1)
    assert (autoencoder.factor, autoencoder.channels) == (2, 4)
    with torch.no_grad():
        latent = original.encode(image).latent_dist.mode() * 0.18215
        back = original.decode(latent / 0.18215).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.encode(image), latent)
    torch.testing.assert_close(autoencoder.decode(latent), back)
    assert not any(p.requires_grad for p in autoencoder.parameters())


def test_absent_and_other_models_are_one_sentence(data, tmp_path, monkeypatch):
    other = dataclasses.replace(TINY, unet={**UNET, "norm_num_groups": 8})
    with pytest.raises(ReproError, match=r"norm_num_groups is 4; accepted: 8"):
        other.initialise(seeded(EditingNet, **TINY.network))
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ReproError, match=r"tiny/unet: no pretrained weights .* the folder unet of nobody/tiny"):
        TINY.initialise(seeded(EditingNet, **TINY.network))
    with pytest.raises(ReproError, match="train_sharp"):
        paper.Reds(tmp_path).digest()


@pytest.mark.parametrize(("variant", "mapping"), [("mult", 1_652_480), ("palette", 0)])
def test_published_sizes_are_pinned(variant, mapping):
    """The original's count is the one that its authors' code prints: 872.30 M."""
    with torch.device("meta"):
        net = experiments.build_network(PAPER, variant)
    counts = [sum(p.numel() for p in part.parameters()) for part in (net.unet, net)]
    inputs = 11 + (LENGTH if variant == "palette" else 0)
    assert counts[0] == 872_300_484 + 9 * 320 * (inputs - 4) and counts[1] - counts[0] == mapping
    assert net.unet.config.in_channels == inputs and net.multiple == 8 and net.unet.is_gradient_checkpointing
    assert mapping == 0 or net.mapping.config.width == 1280


def test_the_autoencoder_and_the_gan_have_published_sizes():
    with torch.device("meta"):
        autoencoder = paper.PretrainedAutoencoder(**paper.LDM.autoencoder)
        generator = Pix2PixGenerator(widths=PAPER.pix2pix["widths"])
    assert sum(p.numel() for p in autoencoder.parameters()) == 83_653_863 and autoencoder.factor == 8
    assert sum(p.numel() for p in generator.parameters()) == 54_444_108 and generator.factor == 256  # Isola's: 54.4 M


def test_published_training_and_schedule():
    recipe = PAPER.recipe
    assert (recipe.images, recipe.batch, recipe.images // recipe.batch) == (540_000, 12, 45_000)
    assert 0.5 ** (12 / recipe.ema) == pytest.approx(0.9999) and recipe.lr_at(recipe.images) == 5e-5
    for variant in PAPER.variants[:-1]:
        learning = experiments.learning_of(variant, PAPER)
        assert learning.prediction == "epsilon" and learning.norm == ("l2" if variant == "l2" else "l1")
    table = experiments.schedule_of("mult")
    theirs = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear").alphas_cumprod
    torch.testing.assert_close(table.alpha_bar.float(), theirs, rtol=1e-4, atol=0)
    assert theirs[-1].item() == pytest.approx(0.00466, abs=5e-6)
    assert PAPER.bench.crop == (256, 256, 256) and paper.Reds("x").rules == PAPER.bench.rules
    listed = [e for e in experiments.EXPERIMENTS if e.profile.startswith("paper")]
    assert {f"editing-paper-{v}-s0" for v in PAPER.variants} <= {e.name for e in listed}
    assert all(e.data == "reds" and not e.ships and e.recipe.images == 540_000 for e in listed)


def test_the_published_sequences_are_split_210_and_30(monkeypatch, tmp_path):
    def pairs(root, part):
        names = [f"{part}/{part}_{{}}/{i:03d}/00000000.png" for i in range(240 if part == "train" else 30)]
        return tuple(Pair(*(root / n.format(kind) for kind in ("blur", "sharp"))) for n in names)

    monkeypatch.setattr(paper, "_pairs", pairs)
    reds = paper.Reds(tmp_path)
    assert {p.target.parent.name for p in reds.pairs("train")} == {f"{i:03d}" for i in range(210)}
    assert len(reds.pairs("test")) == 30


def test_a_pair_is_cut_alike_and_the_blurred_frame_is_the_target(data):
    source = paper.Reds(data / "reds", crop=SIDE)
    (whole,) = source.blocks("test", 100)
    id = whole.ids[1]
    sharp, blurred = (read_image(data / "reds" / "val" / f"val_{k}" / f"{id[4:]}.png") for k in ("sharp", "blur"))
    sharp, blurred = (crops([image], SIDE, [id], VERSION, flip=False)[0] for image in (sharp, blurred))
    assert torch.equal(whole.sharp[1], sharp) and torch.equal(whole.target(["blur"])[1], blurred)
    drawn, found = parameters([id], VERSION)[0], whole.vectors[1]
    assert found.only("grain", "sharpen") == drawn.only("grain", "sharpen")
    deviation = (sharp - sharp.mean(dim=(1, 2), keepdim=True)).norm()
    assert found.blur == pytest.approx(((sharp - blurred).norm() / deviation).item(), abs=1e-4)
    parts = list(source.blocks("test", 3))
    assert [len(p) for p in parts] == [3, 1] and torch.equal(torch.cat([p.reference for p in parts]), whole.reference)
    first = source.first("test", 1)
    assert first.ids == whole.ids[::FRAMES] and torch.equal(first.reference, whole.reference[::FRAMES])


def test_the_whole_path(home, data, monkeypatch):
    """Bank, train two steps, edit, score, record; and pix2pix from the same pixels."""
    steps = list(run(experiment("editing-paper-mult-s0")))
    assert [step.images for step in steps] == [2, 4] and all(0 < step.loss < 3 for step in steps)
    assert len(benchmark.pixels(experiments.PROFILES["paper"].source)["sharp"]) == (SEQUENCES["train"] - 1) * FRAMES
    list(run(experiment("editing-paper-pix2pix-s0")))
    pooled = lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)  # noqa: E731
    net = FeatureNet("tiny", 3, pooled, pooled)
    monkeypatch.setattr(measure, "inception", lambda device: net)
    measure._net.cache_clear()
    rows = {(r.experiment, *sorted(map(str, r.cell.items()))): r for r in evaluation.rows("editing", "paper")}
    names = {"baseline-input", "baseline-floor", "baseline-target", "editing-paper-mult-s0", "editing-paper-pix2pix-s0"}
    assert {r.experiment for r in rows.values()} == names
    for task in ("edit", "slider", "clusters", "spread", "kept", "inversion", "steps"):
        row = next(r for r in rows.values() if r.experiment == "editing-paper-mult-s0" and r.cell["task"] == task)
        record = row.record()
        assert record.profile == "paper" and record.source == "recorded" and record.n == 2
        if task == "edit":
            assert {"kid/inception", "paired-kid/inception", measure.L1} <= set(record.metrics)
    assert rows["editing-paper-pix2pix-s0", "('edit', 'blur')", "('task', 'edit')"].measure(1)[measure.L1]
    measure._net.cache_clear()
