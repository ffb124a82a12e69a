"""The editing model at paper scale: pretrained networks as they are read, and the whole path on a small REDS."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, VQModel

from repro.data.images import resize
from repro.data.layouts import LAYOUTS
from repro.data.writing import write_image
from repro.editing import bank, build, config, evaluation, experiments, paper, paper_rows, weights
from repro.editing.benchmark import levels
from repro.editing.blur import motion_blur
from repro.editing.config import PAPER, PAPER_SD1, SCHEDULE
from repro.editing.measure import KID, L1, edited, editor_of, scored, untouched
from repro.editing.pipeline import EditingPipeline
from repro.editing.pix2pix import Pix2PixGenerator, Pix2PixTask
from repro.editing.pretrained import (
    PretrainedAutoencoder,
    PretrainedEditingNet,
    initialise,
    load_autoencoder,
    widened,
)
from repro.editing.readers import Reds
from repro.editing.vector import LENGTH, TASKS, EditingVector
from repro.editing.vector import batch as as_tensor
from repro.editing.weights import MODELS, SCHEDULER, Pretrained, located, weights_hash
from repro.engine.checkpoint import load_checkpoint, save_checkpoint
from repro.engine.rng import KeyedNoise
from repro.engine.run import run
from repro.engine.tables import finder
from repro.errors import ReproError
from repro.metrics.features import FeatureNet

UNET = {
    **weights.UNET,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
KL = {
    **weights.KL,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
TINY = Pretrained("a tiny one", "nobody/nothing-here", "tiny", part="vqvae", unet=UNET, autoencoder=KL)
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
    DDIMScheduler(**SCHEDULER).save_pretrained(root / "tiny" / "scheduler")
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
    parts = tuple(dataclasses.replace(p, count=counts[p.label], folders=None) for p in reds.parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYOUTS, "reds", dataclasses.replace(reds, parts=parts))
        patch.setitem(MODELS, "tiny", TINY)
        patch.setenv("REPRO_DATA", str(root))
        build.write(build.home_of("paper"), Reds(root / "reds", crop=SIDE), profile="paper")
        yield root


@pytest.fixture
def home(tmp_path, monkeypatch, data):
    """A clone without weights; the profile "paper" with tiny networks of the same classes."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))
    recipe = dataclasses.replace(PAPER.recipe, images=4, batch=2, threads=1, warmup=0)
    small = dataclasses.replace(
        PAPER,
        bench=dataclasses.replace(PAPER.bench, crop=(SIDE, SIDE, SIDE)),
        network={**TINY.network, "tokens": "single"},
        recipe=recipe,
        pix2pix={"widths": (8, 8, 8), "critic": 4},
        pix2pix_recipe=dataclasses.replace(recipe, clip=0.0),
        steps=2,
        pretrained="tiny",
    )
    monkeypatch.setitem(config.PROFILES, "paper", small)
    return tmp_path


def experiment(name: str):
    """As the registry has it, of the tiny profile."""
    return next(e for e in experiments._all(config.profile("paper")) if e.name == name)


# -- the network ------------------------------------------------------------------------------------------------------

VARIANTS = {
    "mult": {},
    "latent reference and mask": {"reference": "latent", "mask": True},
    "without layers": {"layers": 0},
    "without layers and labels": {"layers": 0, "labels": False},
    "single token": {"tokens": "single"},
    "C itself": {"tokens": "single", "layers": 0},
    "palette": {"condition": "concat"},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_training_begins_at_the_pretrained_network(data, changes):
    original = UNet2DConditionModel.from_pretrained(data / "tiny", subfolder="unet").eval()
    net = initialise(seeded(PretrainedEditingNet, **TINY.network, **changes), TINY)
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


def test_only_the_mapping_and_the_inputs_weights_are_new(data):
    original = UNet2DConditionModel.from_pretrained(data / "tiny", subfolder="unet")
    net = initialise(seeded(PretrainedEditingNet, **TINY.network), TINY)
    own = net.unet.state_dict()
    assert own.keys() == original.state_dict().keys() and net.unet.config.in_channels == 11 and net.bypass is None
    for key, value in original.state_dict().items():
        assert torch.equal(own[key][:, :4] if key == "conv_in.weight" else own[key], value), key
    assert not own["conv_in.weight"][:, 4:].any()
    net.train()
    vector = as_tensor([EditingVector(blur=0.4)])
    net(rand(1, 4, 8, 8), 3, rand(1, 4, 8, 8, of="s"), rand(1, 3, 8, 8, of="r"), vector).sample.sum().backward()
    assert (net.unet.conv_in.weight.grad.abs().amax(dim=(0, 2, 3)) > 0).all()  # new weights learn from the first step
    assert all(p.grad is not None for p in net.mapping.parameters())
    assert widened(torch.ones(2, 3, 1, 1), 5)[:, :, 0, 0].tolist() == [[1, 1, 1, 0, 0]] * 2


def test_gradient_checkpointing_changes_no_gradient(data):
    vector, found = as_tensor([EditingVector(grain=0.05)]), []
    for checkpointing in (True, False):
        net = initialise(seeded(PretrainedEditingNet, **TINY.network, checkpointing=checkpointing), TINY).train()
        passes = []
        net.unet.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        net(rand(1, 4, 8, 8), 3, rand(1, 4, 8, 8), rand(1, 3, 8, 8), vector).sample.square().sum().backward()
        assert len(passes) == 1 + checkpointing  # once more in the backward pass
        found.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_checkpoint_needs_no_pretrained_files(data, tmp_path, monkeypatch):
    net = initialise(seeded(PretrainedEditingNet, **TINY.network, layers=0), TINY)
    save_checkpoint(tmp_path / "editing-paper-x-s0", net, {"command": "repro train x"})
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "elsewhere"))
    again = load_checkpoint(tmp_path / "editing-paper-x-s0")
    assert type(again) is PretrainedEditingNet and again.multiple == 2 and again.config.context == 12
    vector = as_tensor([EditingVector(blur=0.4)])
    given = rand(1, 4, 8, 8), 3, rand(1, 4, 8, 8), rand(1, 3, 8, 8), vector
    with torch.no_grad():
        torch.testing.assert_close(again(*given).sample, net.half().float()(*given).sample, rtol=1e-4, atol=1e-5)


def test_settings_that_do_not_belong_together_are_refused():
    with pytest.raises(ReproError, match="got context 768 for a U-Net of 12"):
        PretrainedEditingNet(UNET, context=768)
    with pytest.raises(ReproError, match="got condition 'add'; accepted: cross, concat"):
        PretrainedEditingNet(UNET, context=12, condition="add")


# -- the autoencoder --------------------------------------------------------------------------------------------------


def test_latents_are_the_mode_times_the_scale(data):
    original = AutoencoderKL.from_pretrained(data / "tiny", subfolder="vqvae").eval()
    autoencoder = load_autoencoder(data / "tiny", "tiny")
    assert (autoencoder.factor, autoencoder.channels) == (2, 4)
    picture = rand(2, 3, 16, 24).clamp(-1, 1)
    with torch.no_grad():
        wanted = original.encode(picture).latent_dist.mode() * 0.18215
        latent = autoencoder.encode(picture)
        torch.testing.assert_close(latent, wanted)
        back = original.decode(wanted / 0.18215).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.decode(latent), back)
    torch.testing.assert_close(autoencoder(picture), back)
    assert not any(p.requires_grad for p in autoencoder.parameters())
    with pytest.raises(ReproError, match="no codebook"):
        autoencoder.decode(latent, quantize=True)
    with pytest.raises(ReproError, match="multiples of 2"):
        autoencoder.encode(picture[..., 1:])


def test_a_vq_model_takes_its_place():
    settings = {
        **{k: v for k, v in KL.items() if k != "scaling_factor"},
        "num_vq_embeddings": 16,
        "scaling_factor": 1.0,
    }
    autoencoder = seeded(PretrainedAutoencoder, settings=settings, kind="VQModel")
    picture = rand(1, 3, 16, 16).clamp(-1, 1)
    latent = autoencoder.encode(picture)
    assert isinstance(autoencoder.vq, VQModel) and latent.shape == (1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(latent, autoencoder.vq.encode(picture).latents)
        through = autoencoder.vq.decode(latent).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.decode(latent, quantize=True), through)
    assert not torch.equal(autoencoder.decode(latent), through)
    with pytest.raises(ReproError, match="got the kind 'VAE'"):
        PretrainedAutoencoder(settings, "VAE")


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(data, tmp_path):
    """A copy of the tiny model's folder, to be damaged."""
    import shutil

    return shutil.copytree(data / "tiny", tmp_path / "model")


def test_published_bin_files_are_read_as_data_with_their_old_names(data, model):
    """The LDM's weights are published so: a torch file, attention called query, key, value and proj_attn."""
    old = {new: name for name, new in weights._OLD.items()}
    for part, net in (("unet", UNet2DConditionModel), ("vqvae", AutoencoderKL)):
        tensors = net.from_pretrained(model, subfolder=part).state_dict()
        if part == "vqvae":
            for new, name in old.items():
                tensors = {key.replace(new, name): value for key, value in tensors.items()}
            assert any(".proj_attn." in key for key in tensors)
        (model / part / "diffusion_pytorch_model.safetensors").unlink()
        torch.save(tensors, model / part / "diffusion_pytorch_model.bin")
    a, b = (load_autoencoder(folder, "tiny").state_dict() for folder in (data / "tiny", model))
    assert all(torch.equal(a[key], b[key]) for key in a)
    nets = (initialise(seeded(PretrainedEditingNet, **TINY.network), TINY, root) for root in (data / "tiny", model))
    a, b = (net.state_dict() for net in nets)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert weights_hash(model / "unet") != weights_hash(data / "tiny" / "unet")


def test_absent_weights_are_one_sentence(data, monkeypatch, tmp_path):
    """HF_HUB_OFFLINE is set for all tests, so the hub cannot be reached."""
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    with pytest.raises(ReproError, match=r"tiny: the pretrained weights \(a tiny one\) are not there and the Hugging"):
        located(TINY)
    with pytest.raises(ReproError, match="get the folders unet, vqvae and scheduler of nobody/nothing-here") as caught:
        initialise(seeded(PretrainedEditingNet, **TINY.network), TINY)
    assert "\n" not in str(caught.value)


def test_other_models_are_refused(model):
    net = seeded(PretrainedEditingNet, **TINY.network)

    def says(file, **changes):
        path = model / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    says("unet/config.json", cross_attention_dim=24)
    with pytest.raises(ReproError, match=r"config\.json: cross_attention_dim is 24; accepted: 12"):
        initialise(net, TINY, model)
    says("unet/config.json", cross_attention_dim=12, sample_size=64)
    initialise(net, TINY, model)  # the size asks nothing of the weights
    says("scheduler/scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(ReproError, match="prediction_type is 'v_prediction'; accepted: 'epsilon'"):
        initialise(net, TINY, model)
    says("scheduler/scheduler_config.json", prediction_type="epsilon")
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    with pytest.raises(ReproError, match="safetensors is damaged"):
        initialise(net, TINY, model)
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ReproError, match=r"unet: holds no diffusion_pytorch_model\.safetensors or \.bin"):
        initialise(net, TINY, model)
    torch.save({"conv_in.bias": torch.zeros(8)}, model / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ReproError, match=r"bin lacks the weight conv_in\.weight"):
        initialise(net, TINY, model)
    (model / "unet" / "config.json").unlink()
    with pytest.raises(ReproError, match=r"unet/config\.json: not found"):
        initialise(net, TINY, model)


# -- the profile ------------------------------------------------------------------------------------------------------


PINNED = {  # the originals' counts are those that their authors' code prints: 872.30 M and 859.52 M
    ("ldm", "mult"): (872_300_484, 1_652_480),
    ("ldm", "palette"): (872_300_484, 0),
    ("sd1", "mult"): (859_520_964, 598_272),
}


@pytest.mark.parametrize(("name", "variant"), PINNED)
def test_published_sizes_are_pinned(name, variant):
    with torch.device("meta"):
        net = experiments.build_network({"ldm": PAPER, "sd1": PAPER_SD1}[name], variant)
    counts = [sum(p.numel() for p in part.parameters()) for part in (net.unet, net)]
    original, mapping = PINNED[name, variant]
    inputs = 11 + (LENGTH if variant == "palette" else 0)
    assert counts[0] == original + 9 * 320 * (inputs - 4) and counts[1] - counts[0] == mapping
    assert net.unet.config.in_channels == inputs and net.multiple == 8 and net.unet.is_gradient_checkpointing
    assert mapping == 0 or net.mapping.config.width == {"ldm": 1280, "sd1": 768}[name]


def test_the_autoencoder_and_the_gan_have_published_sizes():
    with torch.device("meta"):
        autoencoder = PretrainedAutoencoder(MODELS["ldm"].autoencoder)
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
    table = experiments.schedule_of(PAPER, "mult")
    theirs = DDIMScheduler(**SCHEDULER).alphas_cumprod
    torch.testing.assert_close(table.alpha_bar.float(), theirs, rtol=1e-4, atol=0)
    assert theirs[-1].item() == pytest.approx(0.00466, abs=5e-6) and PAPER.schedule == SCHEDULE
    assert PAPER.bench.crop == (256, 256, 256) and Reds("x").recipe == PAPER.bench.recipe


def test_experiments_are_listed_and_begin_with_the_weights(home, monkeypatch):
    names = [e.name for e in experiments.EXPERIMENTS if e.profile == "paper"]
    singles = [f"single-{task}" for task in TASKS]
    tables = ["nolabels", "layers0", "layers1", "layers4", "npair-a", "npair-b"]
    assert {f"editing-paper-{v}-s0" for v in ("mult", "palette", *singles, *tables, "pix2pix")} <= set(names)
    listed = [e for e in experiments.EXPERIMENTS if e.profile.startswith("paper")]
    assert all(e.data == "reds" and not e.ships and e.recipe.images == 540_000 for e in listed)
    monkeypatch.setenv("REPRO_DATA", str(home / "nothing"))
    with pytest.raises(ReproError, match="tiny: the pretrained weights"):
        experiment("editing-paper-mult-s0").build()
    with pytest.raises(ReproError, match=r"no build of the benchmark from REDS; `repro data build editing-bench"):
        experiment("editing-paper-mult-s0").task()


# -- what they learn from ---------------------------------------------------------------------------------------------


def test_the_build_becomes_latents_and_vectors(home):
    where = paper.folder()
    (part,) = Reds(config_root(), crop=SIDE).blocks("train", 100)
    held = paper.latents("tiny")
    assert len(held["sharp"]) == len(part) == 14 and torch.equal(held["vector"], as_tensor(part.vectors))
    autoencoder = paper.load_autoencoder("tiny")
    pictures = {
        "sharp": part.sharp,
        "blur": part.edit("blur").target,
        "grain": part.edit("grain").target,
        "masked": part.edit("inpaint").source,
        "reference": part.reference,
    }
    for name, picture in pictures.items():
        torch.testing.assert_close(held[name], autoencoder.encode(picture * 2 - 1).half(), rtol=1e-2, atol=2e-3)
    assert held["rgb"].shape == (14, 3, 16, 16) and held["mask"].shape == (14, 1, 16, 16)
    files = list(where.parent.glob("v1-paper-latents-*.safetensors"))
    assert len(files) == 1
    before = files[0].stat().st_mtime_ns
    paper.latents("tiny")
    assert files[0].stat().st_mtime_ns == before  # made once
    rows = paper.pixels()
    assert torch.equal(rows["masked"][torch.tensor([13, 0, 13])], to_levels(pictures["masked"])[[13, 0, 13]])
    assert rows["blur"][torch.tensor([], dtype=torch.long)].shape == (0, 3, SIDE, SIDE) and len(rows["sharp"]) == 14


def config_root():
    from repro.data.known import home

    return home("reds")


def to_levels(picture: torch.Tensor) -> torch.Tensor:
    return (picture * 255).round().to(torch.uint8)


def test_pix2pix_learns_from_the_disk(home):
    task = experiment("editing-paper-pix2pix-s0").task()
    assert isinstance(task, Pix2PixTask) and task.size == 14
    whole = Pix2PixTask({name: value[torch.arange(14)] for name, value in paper.pixels().items()})
    indices = torch.tensor([3, 0, 11, 5])

    def noise(purpose):
        return KeyedNoise(0, range(4), purpose)

    for a, b in zip(task.inputs(indices, noise), whole.inputs(indices, noise), strict=True):
        assert torch.equal(a, b)


def test_a_pictures_only_build_is_refused_where_rows_are_read(home, tmp_path):
    where = tmp_path / "png"
    (where / "train").mkdir(parents=True)
    for name in ("manifest.json", "train/parameters.csv"):
        (where / name).write_bytes((paper.folder() / name).read_bytes())
    with pytest.raises(ReproError, match="pix2pix reads a build made without --png"):
        paper.pixels(where)


# -- rows -------------------------------------------------------------------------------------------------------------


def tiny_features() -> FeatureNet:
    return FeatureNet("tiny", 12, 3, "2 x 2 means", lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def test_nothing_is_measured_before_something_is_trained(home):
    assert evaluation.rows("paper") == [] and evaluation.rows("paper-sd1") == []


def test_the_whole_path(home, monkeypatch):
    """Build, train two steps, edit, score, record, one cell of a table."""
    steps = list(run(experiment("editing-paper-mult-s0")))
    assert [step.images for step in steps] == [2, 4] and all(0 < step.loss < 3 for step in steps)
    monkeypatch.setattr(paper_rows.features, "inception", lambda device: tiny_features())
    found = evaluation.rows("paper")
    assert len({(r.experiment, *sorted(map(str, r.cell.items()))) for r in found}) == len(found)
    assert {r.experiment for r in found} == {
        "baseline-input",
        "baseline-floor",
        "baseline-target",
        "editing-paper-mult-s0",
    }
    assert not any(r.cell.get("switch") == "quantised" or r.cell["task"] == "unseen" for r in found)
    cell = {"task": "edit", "edit": "blur+grain+colour"}
    (row,) = [r for r in found if r.experiment == "editing-paper-mult-s0" and r.cell == cell]
    record = row.record()
    assert record.profile == "paper" and record.source == "recorded" and record.n == 2
    assert len(record.metrics[L1]) == 2 and record.metrics["kid/tiny"] is not None and KID not in record.metrics
    made = finder("editing", "editing_composites", [record])("Ours-mult", "x", L1, row.experiment, cell)
    assert made.value == pytest.approx(sum(record.metrics[L1]) / 2, rel=1e-5)
    for kind in ("slider", "clusters", "spread", "kept", "inversion", "steps"):
        one = next(r for r in found if r.experiment == "editing-paper-mult-s0" and r.cell["task"] == kind)
        assert all(torch.tensor(values).isfinite().all() for values in one.measure(1).values()), kind


def test_blocks_score_as_the_whole(home, monkeypatch):
    make = paper_rows._PaperMaker(config.profile("paper"), tiny_features)
    monkeypatch.setattr(paper_rows, "_BLOCK", 3)
    (whole,) = make.source.blocks("test", 100)
    assert make.each == 2 and len(whole) == 4
    for tasks in (("blur", "colour"), ("inpaint",)):
        found = make.streamed(untouched, tasks, None)
        wanted = scored(whole, 2, tasks, untouched, kid=False)
        for name, values in wanted.items():
            assert found[name] == pytest.approx(values, rel=1e-5), name
        assert len(found["paired-kid/tiny"]) == 2
        first = make.streamed(untouched, tasks, 1)
        assert all(first[name] == pytest.approx(found[name][:1], rel=1e-5) for name in wanted)


def test_the_first_frames_are_those_of_the_whole(home):
    make = paper_rows._PaperMaker(config.profile("paper"), tiny_features)
    (whole,) = make.source.blocks("test", 100)
    part, wanted = make.data(1, None), whole.at([0, 2])
    assert part.ids == wanted.ids == ("val/000/00000000", "val/001/00000000")
    for name in ("sharp", "blurred", "reference", "hole"):
        assert torch.equal(getattr(part, name), getattr(wanted, name))
    assert torch.equal(wanted.edit("blur", "grain").target, whole.edit("blur", "grain").target[[0, 2]])
    assert make.data(1, 1).ids == part.ids[:1]


def test_a_network_is_read_when_it_is_needed(home):
    """At full size seventeen networks do not fit a memory at once; an edit is that of the network in hand."""
    chosen = config.profile("paper")
    net = initialise(seeded(PretrainedEditingNet, **TINY.network), TINY)
    folder = home / "runs" / "editing-paper-mult-s0" / "checkpoint"
    save_checkpoint(folder, net, {"command": "repro train x"})
    before = paper.network_on.cache_info().misses
    editor = editor_of(chosen, "mult")
    assert paper.network_on.cache_info().misses == before
    make = paper_rows._PaperMaker(chosen, tiny_features)
    data = make.data(1, None)
    found = edited(editor, data, ("grain", "colour"), steps=2)
    assert paper.network_on.cache_info().misses == before + 1
    parts = {"schedule": editor.schedule, "prediction": editor.prediction, "fill": editor.fill}
    plain = paper.Editor(load_checkpoint(folder), load_autoencoder(config_root().parent / "tiny", "tiny"), **parts)
    torch.testing.assert_close(found, edited(plain, data, ("grain", "colour"), steps=2))
    assert editor.prediction == "epsilon" and found.shape == (2, 3, SIDE, SIDE)
    pipe = EditingPipeline.shipped("paper")
    assert pipe.scheduler.config.prediction_type == "epsilon"
    again = pipe(data.sharp[:1], blur=0.5, seed=0, num_inference_steps=2, output_type="pt").images
    assert again.shape == (1, 3, SIDE, SIDE) and again.isfinite().all()


def test_unseen_pictures_where_they_are(home, data, monkeypatch):
    folder = home / "more" / "ffhq" / "thumbnails128x128" / "00000"
    for i in range(3):
        write_image(folder / f"{i:05d}.png", levels(KeyedNoise(0, [i], "face").uniform((3, 48, 40))[0]))
    (home / "more" / "reds").symlink_to(data / "reds")
    monkeypatch.setenv("REPRO_DATA", str(home / "more"))
    monkeypatch.setattr(paper_rows, "PICTURES", 2)
    make = paper_rows._PaperMaker(config.profile("paper"), tiny_features)
    ((where, count, pictures),) = make.unseen()
    assert where == {"data": "ffhq"} and count == 2
    split = pictures()
    assert split.sharp.shape == (2, 3, SIDE, SIDE) and all(i.startswith("ffhq/") for i in split.ids)
    assert L1 in scored(split, 1, ("blur", "colour"), untouched, kid=False)


def test_rows_say_what_is_missing(home, monkeypatch):
    save_checkpoint(
        home / "runs" / "editing-paper-mult-s0" / "checkpoint",
        seeded(PretrainedEditingNet, **TINY.network),
        {"command": "repro train x"},
    )
    monkeypatch.setenv("REPRO_DATA", str(home / "nothing"))
    with pytest.raises(ReproError, match="tiny: the pretrained weights"):
        evaluation.rows("paper")


def test_bank_blocks_do_not_matter(home):
    (blocks,) = [[b for _, b in build.load(paper.folder(), "train", paper.KINDS)]]
    whole = paper._names({k: torch.cat([b[k] for b in blocks]) for k in paper.KINDS})
    autoencoder = paper.load_autoencoder("tiny")
    halves = [{k: v[i : i + 7] for k, v in whole.items()} for i in (0, 7)]
    a, b = bank.encoded(autoencoder, [whole]), bank.encoded(autoencoder, halves)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-3)
