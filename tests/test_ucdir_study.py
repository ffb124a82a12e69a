"""Notebook 04's study, and the paper's profile: readers in the real layouts, the public code's weights by name."""

import pytest
import torch
from test_ucdir_network import TINY, tiny
from tiny import shaken
from torch.nn import functional as F

from repro.data.images import write_image
from repro.engine.rng import KeyedNoise
from repro.engine.train import Recipe, seeded, train
from repro.errors import ReproError
from repro.ucdir.model import UCDIR
from repro.ucdir.network import Stage
from repro.ucdir.study import measure
from repro.ucdir.study.experiments import EXPERIMENTS, SPEC, from_published, network_of, read, training_task

SMALL = {e.name: e for e in EXPERIMENTS if e.profile == "small"}
SMOKE = [e for e in EXPERIMENTS if e.profile == "smoke" and (e.task_name == "jpeg" or e.variant == "main")]


@pytest.mark.parametrize("experiment", SMOKE, ids=lambda e: f"{e.task_name}-{e.variant}")
def test_every_kind_of_experiment_trains(experiment):
    recipe = Recipe(images=8, batch=4, precision="bf16")
    steps = list(train(seeded(experiment.build, experiment.seed), experiment.task(), recipe, experiment.seed))
    assert len(steps) == 2 and torch.isfinite(torch.tensor([s.loss for s in steps])).all()


def test_networks_of_one_size_and_the_ablations_differ_from_ours_in_one_thing():
    sizes = {v: measure.cost(v)[measure.PARAMETERS] for v in ("main", "regression", "short")}
    assert len(set(sizes.values())) == 1
    for variant in [v for v in SPEC["variant"] if v.startswith("short-")]:
        changes = SPEC["variant"][variant]
        assert 1 <= len({**changes.get("network", {}), **changes.get("learning", {})}) <= 3
    assert network_of("jpeg", "main")["tasks"] == ["jpeg"]


def test_a_formula_scores_and_a_check_is_the_beginning_of_the_whole():
    whole = measure.measure("baseline-formula", {"task": "jpeg"}, 2, "smoke")
    first = measure.measure("baseline-formula", {"task": "jpeg"}, 1, "smoke")
    assert all(whole[name][:1] == first[name] for name in first)
    better = measure.measure("baseline-input", {"task": "jpeg"}, 2, "smoke")
    assert whole["psnr/rgb"][0] > better["psnr/rgb"][0]  # the filter removes blocks


def test_a_cell_may_name_a_size_and_the_settings_of_use(monkeypatch):
    monkeypatch.setattr(measure, "load_checkpoint", lambda name: tiny(tasks=("lowlight",)))
    run = lambda **cell: measure.method("ucdir", "lowlight", cell)(image("a", 184, 200), "a", torch.zeros(1))  # noqa: E731
    used, plain = run(output="used"), {"steps": 5, "start": 0.97}
    assert torch.equal(used, run(**plain, tones=True)) and not torch.equal(used, run(**plain))
    assert not torch.equal(run(output="initial"), run(output="initial", tones=True))
    cells = [{"task": "lowlight-sizes", "side": side} for side in (48, 64)]
    for profile, count in (("small", 2), ("smoke", 1)):
        assert len({measure.sample("ucdir", cell, profile).data for cell in cells}) == count
    assert len({measure.measure("baseline-input", cell, 1, "small")["psnr/rgb"][0] for cell in cells}) == 2


def test_macs_are_those_of_the_convolutions_counted_by_hand():
    """One grouped convolution of N bases counts as one full convolution; addition of the guide costs its own layers."""
    ours, without = measure.cost("short")[measure.MACS], measure.cost("short-noguide")[measure.MACS]
    network = network_of("lowlight", "short")
    positions = [(64 // network["patch"] // 2**i) ** 2 for i in range(len(network["channel_mults"]))]
    per_level = [2] * (len(positions) - 1) + [3]  # one down, one up, and the middle at the last level
    guide = sum(n * p * (3 * 16 + 9 * 8 * 8) for n, p in zip(per_level, positions, strict=True))
    assert ours - without == guide


PARTS = ["noise_func.0", "noise_func.2", "norm1", "norm2", "conv1", "conv2.0", "conv2.2", "spdyconv"]


def image(name, height=40, width=48):
    return KeyedNoise(0, [name], "fixture").uniform((3, height, width))[0]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Where data sets lie; crops are of 16 pixels."""
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    monkeypatch.setitem(SPEC["profile"]["paper"], "crop", 16)
    return tmp_path


def write(folder, name, what):
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / name, image(what))


@pytest.mark.parametrize("task", ["lowlight", "jpeg"])
def test_a_training_runs_on_files_and_a_test_set_is_read(data, task):
    folders = {
        "lowlight": [f"sid-rgb/{split}/{part}" for split in ("train", "test") for part in ("input", "target")],
        "jpeg": ["imagenet/train/n01440764", "imagenet/val"],
    }[task]
    for folder in folders:
        for i in range(3):
            write(data / folder, f"{i:04d}.{'jpeg' if task == 'jpeg' else 'png'}", f"{folder} {i}")
    made = training_task(task, "main", "paper")
    assert len(made.ids) == 3
    (step,) = train(UCDIR(**TINY), made, Recipe(images=4, batch=4, precision="fp32"), seed=0)
    assert torch.isfinite(torch.tensor(step.loss))
    assert measure.sample("ucdir", {"task": task}, "paper").n == 3
    tested = measure.pairs(task, "paper", 2, 0)
    assert [name for _, name, *_ in tested] == ["0000", "0001"]
    for given, _, strength, clean in tested:
        assert given.shape == clean.shape and not torch.equal(given, clean)
        assert strength.item() == pytest.approx(0.9 if task == "jpeg" else 0)


def test_crops_of_a_pair_are_cut_alike(data):
    for part in ("input", "target"):
        write(data / "sid-rgb/train" / part, "a.png", "same")
    made = training_task("lowlight", "main", "paper")
    clean, degraded, _ = made.pair(torch.zeros(4, dtype=torch.long), lambda p: KeyedNoise(0, range(4), p))
    assert torch.equal(clean, degraded) and len({tuple(c.flatten()[:9].tolist()) for c in clean}) > 1


def test_what_is_not_there_is_said(data):
    for task, place in (("lowlight", "sid-rgb/test/input"), ("jpeg", "imagenet/val")):
        with pytest.raises(ReproError, match=f"{place}: does not exist"):
            read(task, "test")


def published_names(mults=(1, 2, 4, 8, 8), blocks=2, attended=3):
    """The names in the public code's state dict, written down from its structure."""
    names = [
        f"denoise_fn.{n}" for n in ("noise_level_mlp.1", "noise_level_mlp.3", "downs.0", "final_conv.0", "final_conv.3")
    ]

    def stage(place, changes_width, attention):
        names.extend(f"denoise_fn.{place}.res_block.{p}" for p in PARTS + ["res_conv"] * changes_width)
        names.extend(f"denoise_fn.{place}.attn.{p}" for p in ("norm", "qkv", "out") if attention)

    place, width = 1, 1
    for level, mult in enumerate(mults):
        for _ in range(blocks):
            stage(f"downs.{place}", width != mult, level == attended)
            place, width = place + 1, mult
        if level < len(mults) - 1:
            names.append(f"denoise_fn.downs.{place}.conv")
            place += 1
    stage("mid.0", False, True), stage("mid.1", False, False)
    place = 0
    for level in reversed(range(len(mults))):
        for _ in range(blocks + 1):
            stage(f"ups.{place}", True, level == attended)  # a skip is always concatenated
            place += 1
        if level:
            names.append(f"denoise_fn.ups.{place}.conv")
            place += 1
    names += [f"predictor.conv{k}_{j}" for k in range(1, 10) for j in (1, 2)]
    names += [f"predictor.upv{k}" for k in range(6, 10)] + ["predictor.conv10_1"]
    return [f"{n}.{kind}" for n in names for kind in ("weight", "bias") if not (n.endswith("qkv") and kind == "bias")]


def test_every_published_weight_has_its_place():
    with torch.device("meta"):
        ours = set(UCDIR().state_dict())
    assert from_published(dict.fromkeys([*published_names(), "betas"], torch.zeros(1))).keys() == ours


def test_a_block_in_the_published_layout_computes_what_its_public_form_says():
    """Random weights under published names, the block written out with them, against the block that they load into."""
    torch.manual_seed(0)
    model = UCDIR(base_channels=8, channel_mults=(1, 2), blocks=1, attention_levels=(), predictor_channels=4).eval()
    block = model.unet.downs[3].block  # 8 -> 16 channels
    place, names = "denoise_fn.downs.3.res_block", [*PARTS, "res_conv"]
    state = {}
    for name in [f"{place}.{part}.{kind}" for part in names for kind in ("weight", "bias")]:
        (ours,) = from_published({name: torch.zeros(1)})
        state[name] = torch.randn(model.state_dict()[ours].shape) * 0.3
    assert not model.load_state_dict(from_published(state), strict=False).unexpected_keys
    W = lambda name: (state[f"{place}.{name}.weight"], state[f"{place}.{name}.bias"])  # noqa: E731
    x, emb, guide = torch.randn(2, 8, 6, 6), torch.randn(2, 8), torch.randn(2, 3, 6, 6)
    swish = lambda z: z * torch.sigmoid(z)  # noqa: E731
    h = swish(F.conv2d(F.group_norm(x, 1, *W("norm1")), *W("conv1"), padding=1))
    h = F.conv2d(F.group_norm(h, 1, *W("norm2")), *W("spdyconv"), padding=1, groups=8)
    first, second = F.conv2d(guide, *W("conv2.0")).chunk(2, dim=1)
    G = F.conv2d(first * second, *W("conv2.2"), padding=1)
    S = F.linear(swish(F.linear(emb, *W("noise_func.0"))), *W("noise_func.2"))
    h = (h.view(2, 16, 8, 6, 6) * (G * S[:, :, None, None])[:, None]).sum(dim=2)
    assert torch.allclose(swish(h) + F.conv2d(x, *W("res_conv")), block(x, emb, guide), atol=1e-4)


@torch.no_grad()
def test_the_published_forms_run_in_the_public_order():
    """Degraded before noisy, a layer's own output before the skip; LeakyReLU 0.2 in the predictor; one head."""
    form = dict(base_channels=8, channel_mults=(1, 2), blocks=1, attention_levels=(1,), predictor_channels=4)
    model, (x, noisy) = shaken(UCDIR(**form)), torch.randn(2, 1, 3, 32, 32)
    u, unet, skips, h = model.predictor, model.unet, [], x
    two = lambda pair, h: F.leaky_relu(pair.conv2(F.leaky_relu(pair.conv1(h), 0.2)), 0.2)  # noqa: E731
    for i, pair in enumerate(u.down):
        skips.append(h := two(pair, F.max_pool2d(h, 2) if i else h))
    for up, pair, skip in zip(u.up, u.merge, skips[-2::-1], strict=True):
        h = two(pair, torch.cat([up(h), skip], dim=1))
    torch.testing.assert_close(u(x), u.out(h), atol=1e-5, rtol=1e-4)
    angle, skips, h = 0.6 * 10_000 ** (-torch.arange(4) / 4), [], torch.cat([x, noisy], dim=1)
    emb = unet.level[2](F.silu(unet.level[0](torch.cat([angle.sin(), angle.cos()])[None])))
    for side, module in [(name, m) for name in ("downs", "mid", "ups") for m in getattr(unet, name)]:
        guided = isinstance(module, Stage)
        h = torch.cat([h, skips.pop()], dim=1) if side == "ups" and guided else h
        h = module(h, emb, F.interpolate(x, h.shape[-2:], mode="bilinear")) if guided else module(h)
        skips += [h] if side == "downs" else []
    torch.testing.assert_close(unet(x, noisy, torch.tensor([0.6]), x), unet.head(h), atol=1e-5, rtol=1e-4)
    attention, h = unet.mid[0].attention, torch.randn(1, 16, 4, 5)
    q, k, v = attention.qkv(attention.norm(h)).flatten(2)[0].chunk(3)
    seen = v @ (q.T @ k / 16**0.5).softmax(dim=1).T
    torch.testing.assert_close(attention(h), h + attention.out(seen.view(1, 16, 4, 5)), atol=1e-5, rtol=1e-4)
