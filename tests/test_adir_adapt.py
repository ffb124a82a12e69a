"""ADIR's adaptation: LoRA's formula, its removal, its files, the loss, resuming; retrieval; the whole pipeline."""

from pathlib import Path

import pytest
import torch
from tiny import refused, same_weights, shaken
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from repro.adir import adapt as adaptation
from repro.adir import pipeline
from repro.adir.adapt import (
    NETWORK,
    SCHEDULE,
    Adaptation,
    Adapted,
    adapt,
    adapted_weights,
    fresh_factors,
    load_factors,
    loss,
    recoloured,
    save_factors,
    with_factors,
)
from repro.adir.guidance import Guidance, operator, reconstruct
from repro.adir.pipeline import ADIR, Index, degrade
from repro.adir.study.experiments import TINY
from repro.data.images import write_image
from repro.ddpm import process
from repro.ddpm.samplers import sample
from repro.engine.checkpoint import load_checkpoint, save_checkpoint
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.metrics.pixel import lpips
from repro.nn.unet import UNet

FAST = Adaptation(iterations=4, rank=2, batch=2)
IMAGES = [KeyedNoise(0, [i], "image").uniform((3, 40, 48))[0] for i in range(3)]


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shaken(UNet(**TINY))


@pytest.mark.parametrize("conv", [nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Conv2d(6, 9, 1), nn.Conv1d(6, 9, 1)])
def test_lora_is_pefts_formula(conv):
    """conv(x) + alpha / r * B(A(x)), A a convolution to r channels of conv's kernel, stride and padding, B 1 x 1."""
    x = KeyedNoise(0, range(2), "x").normal((6, 10) if isinstance(conv, nn.Conv1d) else (6, 10, 12))
    plain, call = conv(x), F.conv1d if isinstance(conv, nn.Conv1d) else F.conv2d
    net = nn.Sequential(conv)
    made = fresh_factors(net, rank=4)
    down, up = made["0.down"], made["0.up"]
    torch.testing.assert_close(with_factors(net, made, 8)(x), plain)  # up starts at zero
    nn.init.normal_(up)
    through = call(x, down, stride=conv.stride, padding=conv.padding)
    expected = plain + 2 * call(through, up.view(*up.shape, *[1] * (x.ndim - 2)))
    torch.testing.assert_close(with_factors(net, made, 8)(x), expected, atol=1e-5, rtol=1e-4)
    assert float(down.detach().abs().max()) <= 1 / (6 * conv.kernel_size[0] ** (x.ndim - 2)) ** 0.5
    assert len(fresh_factors(net, pointwise=False)) == (2 if max(conv.kernel_size) > 1 else 0)


def test_adaptation_leaves_no_trace_and_its_factors_make_another_network():
    net = network()
    steps = list(adapt(net, IMAGES, FAST))
    assert same_weights(net, network())
    assert not any(p.requires_grad for p in net.parameters())
    assert [step.iteration for step in steps] == [1, 2, 3, 4]
    x, t = KeyedNoise(0, [0], "x").normal((3, 32, 32)), torch.tensor([300])
    changed = with_factors(net, steps[-1].factors)
    assert same_weights(net, network())
    assert float((changed(x, t).sample - net(x, t).sample).detach().abs().max()) > 1e-5


def test_factors_live_in_a_small_file_and_fit_one_network_only(tmp_path):
    net = UNet(**NETWORK)
    factors = {k: torch.randn_like(v) for k, v in fresh_factors(net).items()}
    path = save_factors(tmp_path / "a.safetensors", factors, 8, "main")
    assert path.stat().st_size < 400_000
    found = load_factors(path)
    for name, kept in found.items():  # eight bits a number
        whole = factors[name].flatten(1)
        assert ((kept.flatten(1) - whole).abs() <= whole.abs().amax(dim=1, keepdim=True) / 253).all()
    with_factors(net, found)
    for wrong in (found, {k: v for k, v in fresh_factors(network()).items() if "down" in k}):
        with pytest.raises(ReproError, match="LoRA of another network"):
            with_factors(network(), wrong)
    with pytest.raises(ReproError, match="no LoRA file"):
        load_factors(Path(__file__))


def test_the_loss_is_the_simple_one_and_lpips_of_the_clean_estimate():
    net = network()
    x0 = torch.stack([x[:, :32, :32] for x in IMAGES[:2]]) * 2 - 1
    eps, t = KeyedNoise(0, range(2), "e").normal((3, 32, 32)), torch.tensor([100, 700])
    simple, similar = loss(process.model_fn(net), x0, t, eps, SCHEDULE, Adaptation())
    a, s = SCHEDULE.at(t, x0)
    output = net(a * x0 + s * eps, t).sample[:, :3]
    torch.testing.assert_close(simple, F.mse_loss(output, eps))
    estimate = ((a * x0 + s * eps - s * output) / a).clamp(-1, 1)
    expected = lpips((estimate + 1) / 2, (x0 + 1) / 2)
    assert similar.item() == pytest.approx(float(expected.mean()), abs=1e-5)
    _, weighted = loss(process.model_fn(net), x0, t, eps, SCHEDULE, Adaptation(weighting="signal"))
    assert weighted.item() == pytest.approx(float((expected * SCHEDULE.alpha_bar[t]).mean()), abs=1e-5)


def test_an_iteration_is_a_step_of_adam_on_the_weighted_loss_at_one_time(monkeypatch):
    settings, seen, net = Adaptation(iterations=1, rank=2, batch=3, lr=0.02, alpha=3), [], network()
    monkeypatch.setattr(adaptation, "loss", lambda *given: seen.append(given) or loss(*given))
    (step,), made = adapt(network(), IMAGES, settings), fresh_factors(net, 2)
    _, x0, t, eps, *_ = seen[0]
    assert len(x0) == 3 and len(t.unique()) == 1
    now = adapted_weights(net, made, 3)
    parts = loss(lambda x, t: functional_call(net, now, (x, t)).sample, x0, t, eps, SCHEDULE, settings)
    (parts[0] + 0.1 * parts[1]).backward()
    torch.optim.Adam(made.values(), lr=0.02).step()
    assert all(torch.allclose(step.factors[name], factor, atol=1e-3) for name, factor in made.items())


def test_the_variance_is_left_alone_unless_it_is_wanted():
    for variance in (False, True):
        *_, last = adapt(network(), IMAGES, Adaptation(iterations=2, rank=2, variance=variance, perceptual=0))
        up = last.factors["conv_out.up"]  # noise first, then variance
        assert float(up[: len(up) // 2].abs().max()) > 0
        assert (float(up[len(up) // 2 :].abs().max()) > 0) == variance


def test_an_interrupted_adaptation_ends_like_one_that_was_not(tmp_path, monkeypatch):
    settings = Adaptation(iterations=28, rank=1, batch=1, perceptual=0)
    *_, whole = adapt(network(), IMAGES, settings)
    for step in adapt(network(), IMAGES, settings, state=tmp_path):
        if step.iteration == 25:
            break
    rest = list(adapt(network(), IMAGES, settings, state=tmp_path))
    assert rest[0].iteration == 21  # from the last state
    assert all(torch.equal(v, whole.factors[k]) for k, v in rest[-1].factors.items())
    assert next(adapt(network(), IMAGES, settings, seed=1, state=tmp_path)).iteration == 1
    even = Adaptation(iterations=20, rank=1, batch=1, perceptual=0)  # no state of the last iteration is ever saved
    monkeypatch.setattr(adaptation, "save_state", None)
    assert [step.iteration for step in adapt(network(), IMAGES, even, seed=2, state=tmp_path)][-1] == 20


def plain(images):
    """A tiny embedding: mean colour and spread."""
    return torch.cat([images.mean(dim=(2, 3)) - 0.5, images.std(dim=(2, 3))], dim=1)


def test_nearest_is_by_cosine():
    index = pipeline.index_images({str(i): torch.rand(3, 8, 8) ** (i / 10) for i in range(40)}, plain)
    query = torch.rand(3, 8, 8)
    found = index.nearest(query, 12)
    vector = F.normalize(plain(query[None]), dim=1)
    cosine = (index.vectors @ vector[0]).tolist()
    assert found.names == tuple(str(i) for i in sorted(range(40), key=lambda i: -cosine[i])[:12])
    assert found.names == index.nearest(vector[0], 12).names
    assert len(index.nearest(query, 100).names) == 40


def test_files_are_cached_by_content_and_unreadable_ones_are_named(tmp_path):
    for i in range(3):
        write_image(tmp_path / f"{i}.png", torch.full((3, 16, 16), i / 4))
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    files = sorted(tmp_path.iterdir())
    calls, cache = [], tmp_path / "cache" / "e.safetensors"
    cache.parent.mkdir()
    cache.write_text("damaged")

    def counting(images):
        calls.append(len(images))
        return plain(images)

    first, second = (pipeline.index_files(files, counting, cache) for _ in range(2))
    assert calls == [1, 1, 1]
    assert [Path(p).name for p in (*first.names, *first.skipped)] == ["0.png", "1.png", "2.png", "bad.jpg", "gone.png"]
    assert torch.equal(first.vectors, second.vectors)
    with pytest.raises(ReproError, match="no readable image among 1 files"):
        pipeline.index_files([tmp_path / "bad.jpg"], plain, cache)


@pytest.mark.parametrize("task", ["sr4", "sr8", "box", "gauss", "colour"])
def test_the_pipeline_reconstructs_at_the_right_size_and_leaves_the_prior_alone(task, capsys):
    image = torch.rand(3, 32, 40)
    adir = ADIR(network())
    y, fast = degrade(image, task), {"steps": 3, "adaptation": FAST}
    run = {**fast, "neighbours": pipeline.index_images({"a": IMAGES[0], "b": IMAGES[1]}, plain)}
    found = adir(y, task, guidance=Guidance(), **run)
    assert "2 neighbours are used, 20 were asked for" in capsys.readouterr().out
    assert found.shape == image.shape
    assert same_weights(adir.network, network())
    assert torch.equal(found, adir(y, task, guidance=Guidance(), **run))
    for other in ("none", "itself"):
        assert not torch.equal(found, adir(y, task, other, **fast))


@pytest.mark.parametrize(("task", "guidance"), [("sr4", Guidance()), ("colour", Guidance(scale=1000, limit=10 * 0.02))])
def test_the_pipeline_embeds_the_enlarged_measurement_adapts_and_guides_as_its_task_needs(task, guidance):
    net, settings, asked = network(), Adaptation(iterations=2, rank=2, batch=2, alpha=40), []
    index = pipeline.index_images({"a": IMAGES[0]}, lambda x: asked.append(x) or plain(x))
    y = torch.rand(3, *((8, 8) if task == "sr4" else (32, 32)))
    found = ADIR(net)(y, task, steps=3, adaptation=settings, neighbours=index, k=1)
    seen = y[None] if task == "sr4" else y.mean(dim=0).expand(1, 1, -1, -1)
    enlarged = F.interpolate(seen, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1).expand(1, 3, -1, -1)
    torch.testing.assert_close(asked[-1], enlarged, atol=1e-5, rtol=1e-4)
    *_, last = adapt(net, IMAGES[:1], settings)
    given = (seen * 2 - 1, operator(task, 32), SCHEDULE, KeyedNoise(0, [task], "adir/sample"), guidance, 3)
    x = sample(reconstruct(process.model_fn(with_factors(net, last.factors, 40)), *given))
    torch.testing.assert_close(found, ((x + 1) / 2).clamp(0, 1)[0], atol=1e-5, rtol=1e-4)


def test_the_pipeline_refuses_what_it_cannot_work_on():
    cases = {
        "task 'sr3'": (8, "sr3", "none"),
        "8192 x 8192 pixels": (1024, "sr8", "none"),
        "adapt 'me'": (8, "sr4", "me"),
    }
    refused(cases, lambda side, task, adapt: ADIR(network())(torch.rand(3, side, side), task, adapt))
    refused({"neighbours: got 0": lambda: Index(("a",), torch.ones(1, 2), list).nearest(torch.ones(2), 0)})
    for name in ("iterations", "rank", "batch"):
        refused({f"are positive: .*{name}=0": lambda name=name: Adaptation(**{name: 0})})


def test_recoloured_images_keep_their_luma_and_their_greys():
    luma, noise = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1), KeyedNoise(0, range(64), "colour")
    images = KeyedNoise(0, range(64), "images").uniform((3, 6, 6)) * 0.4 - 0.2  # so weak that no colour is cut off
    made, grey = recoloured(images, noise), images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close((made * luma).sum(dim=1), (images * luma).sum(dim=1), atol=1e-6, rtol=0)
    strong, weak = ((x - (x * luma).sum(dim=1, keepdim=True)).abs().mean(dim=(1, 2, 3)) for x in (made, images))
    assert (strong / weak).log2().mean().abs() < 0.2
    torch.testing.assert_close(recoloured(grey, noise), grey, atol=1e-6, rtol=0)
    assert torch.equal((recoloured(images, noise, 0.3) != images).any(1).any(1).any(1), noise.uniform((3,))[:, 0] < 0.3)


def test_a_checkpoint_of_factors_alone_is_the_network_with_them_merged(tmp_path):
    base = save_checkpoint(tmp_path / "base", network(), {})
    model = Adapted(str(base), rank=2, alpha=6)
    for factor in model.factors:
        nn.init.normal_(factor, std=0.1)
    saved = load_checkpoint(save_checkpoint(tmp_path / "factors", model, {}))
    assert {name.split(".")[0] for name in saved.state_dict()} == {"factors"}
    factors = dict(zip(fresh_factors(load_checkpoint(base), 2), saved.factors, strict=True))
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 900])
    on = with_factors(load_checkpoint(base), factors, alpha=6)
    with torch.no_grad():
        for each in (saved, saved.merged()):
            torch.testing.assert_close(process.model_fn(each)(x, t), process.model_fn(on)(x, t), atol=1e-5, rtol=1e-4)
