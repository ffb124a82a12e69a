"""ADIR's study with a tiny network; the published network against an independent one, latent adaptation."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repro.adir import pipeline
from repro.adir.adapt import Adaptation, drawn, with_factors
from repro.adir.guidance import Guidance, distance, operator
from repro.adir.study import measure as m
from repro.adir.study import paper
from repro.adir.study.experiments import SMOKE, TINY
from repro.data.files import cut
from repro.engine import grid
from repro.engine.checkpoint import save_checkpoint
from repro.errors import ReproError
from repro.nn.unet import UNet

BASE = {"set": "adapted", "task": "sr4", "method": "gd", "adapt": "none", "setting": "default"}


def colours(images):
    return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


@pytest.fixture
def scratch(home, monkeypatch):
    """A scratch clone with a tiny untrained prior."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(**TINY)
        torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    save_checkpoint(home / "checkpoints" / SMOKE, network, {})
    # ten of the pack's gallery, embedded by mean colours: the real embedding has tests of its own
    images = {p.id: m.pack.load(p) for p in m.pack.photos("gallery", kind=None)[:10]}
    index = m.pipeline.index_images(images, colours)
    monkeypatch.setattr(m.pipeline, "gallery", lambda: index)
    cached = (m.index, m.private)
    for each in cached:
        each.cache_clear()
    yield home
    for each in cached:
        each.cache_clear()


def test_tables_claims_and_settings_name_the_same_things():
    spec = grid.load("adir")
    cells = grid.cells(spec)
    assert len(spec["table"]) == 8
    used = {cell["setting"] for _, cell in cells if "setting" in cell}
    assert used == set(m.SETTINGS["setting"])
    for _, cell in cells:
        if "setting" in cell:
            m.setting_of(cell)
    assert m.setting_of(BASE, "paper")["adaptation"].lr == 1e-4


def test_textures_and_their_neighbours_share_no_pixel():
    measured = [m.squares(places, 64) for places in m.SQUARES.values()]
    assert [len(found) for found in measured] == [6, 6, 6]
    every = [x for found in (*measured, m.squares(m.NEAR, 64)) for x in found.values()]
    assert len({tuple(x.flatten().tolist()[:200]) for x in every}) == len(every) == 18 + 24


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"method": "ddrm", "task": "box"},
        {"method": "dps"},
        {"adapt": "itself"},
        {"adapt": "neighbours", "set": "unseen"},
        {"adapt": "neighbours", "setting": "rank2"},
        {"adapt": "foreign"},
        {"setting": "wrong-A", "task": "box"},
        {"setting": "unlimited", "task": "colour"},
        {"set": "large", "task": "gauss"},
    ],
)
def test_every_kind_of_cell_is_measured(scratch, change):
    cell = {**BASE, **change}
    before = {k: v.clone() for k, v in m.private(SMOKE).state_dict().items()}
    found = m.measure(SMOKE, cell, None, "smoke")
    n = m.sample(SMOKE, cell, "smoke").n
    assert all(len(v) == n and all(map(math.isfinite, v)) for v in found.values())
    first = m.measure(SMOKE, cell, 1, "smoke")
    assert first[m.LPIPS][0] == pytest.approx(found[m.LPIPS][0], abs=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in m.private(SMOKE).state_dict().items())


def test_adapted_factors_are_kept_and_used_again(scratch):
    given = (SMOKE, {**BASE, "adapt": "neighbours"}, 0, "smoke")
    first = m.factors_of(*given)
    (file,) = (scratch / "runs/adir/lora").iterdir()
    stamp = file.stat().st_mtime_ns
    again = m.factors_of(*given)
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    assert file.stat().st_mtime_ns == stamp


def test_baselines_and_retrieval_need_no_network(scratch):
    for name in ("baseline-input", "baseline-pseudo-inverse"):
        assert m.measure(name, {"set": "photos", "task": "sr8"}, 1, "smoke")[m.PSNR][0] > 5
    assert m.measure("retrieval-efficientnet", {"blur": 3}, 1, "smoke")[m.OVERLAP] == [0.5]  # all ten, of twenty
    errors = m.measure("oracle-posterior", {"setting": "default", "steps": 5}, 1, "smoke")
    assert errors[m.MEAN_ERROR][0] == pytest.approx(distance(Guidance(), 5)[0])


ADM = {
    **paper.ADM,
    "sample_size": 16,
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 16,
}
RESIZE = {"up": partial(F.interpolate, scale_factor=2), "down": partial(F.avg_pool2d, kernel_size=2), "": nn.Identity()}


class Residual(nn.Module):
    """guided-diffusion's residual block, written from its layout: its names are those of its file."""

    def __init__(self, i, o, change=""):
        super().__init__()
        self.resize = RESIZE[change]
        self.in_layers = nn.Sequential(nn.GroupNorm(32, i), nn.SiLU(), nn.Conv2d(i, o, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(128, 2 * o))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, o), nn.SiLU(), nn.Identity(), nn.Conv2d(o, o, 3, padding=1))
        self.skip_connection = nn.Identity() if i == o else nn.Conv2d(i, o, 1)

    def forward(self, x, emb):
        h = self.in_layers[2](self.resize(self.in_layers[:2](x)))
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, 1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.skip_connection(self.resize(x)) + h


class Attention(nn.Module):
    """Its attention: query, key and value of each head together."""

    def __init__(self, c, head=16):
        super().__init__()
        self.head, self.norm = head, nn.GroupNorm(32, c)
        self.qkv, self.proj_out = nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x, emb):
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).flatten(2)).reshape(b * c // self.head, 3 * self.head, h * w)
        q, k, v = qkv.split(self.head, dim=1)
        weight = (torch.einsum("bct,bcs->bts", q, k) / self.head**0.5).softmax(-1)
        out = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, h * w)
        return x + self.proj_out(out).view(b, c, h, w)


class Published(nn.Module):
    """Three levels of 32, 32 and 64 channels, two blocks each, attention on the lower two; every weight random."""

    def __init__(self):
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
        levels, c, skips = ((32, False), (32, True), (64, True)), 32, [32]
        down, up = [[nn.Conv2d(3, 32, 3, padding=1)]], []
        for i, (w, attends) in enumerate(levels):
            for _ in range(2):
                down.append([Residual(c, w), *([Attention(w)] if attends else [])])
                c = w
                skips.append(c)
            if i < 2:
                down.append([Residual(c, c, "down")])
                skips.append(c)
        middle = [Residual(c, c), Attention(c), Residual(c, c)]
        for i, (w, attends) in reversed(list(enumerate(levels))):
            for j in range(3):
                grow = [Residual(w, w, "up")] if i and j == 2 else []
                up.append([Residual(c + skips.pop(), w), *([Attention(w)] if attends else []), *grow])
                c = w
        self.input_blocks, self.output_blocks = (nn.ModuleList(map(nn.ModuleList, side)) for side in (down, up))
        self.middle_block = nn.ModuleList(middle)
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, 6, 3, padding=1))
        for name, p in self.named_parameters():
            nn.init.normal_(p, std=0.5 if "qkv" in name else 0.1)  # else every position would attend to all alike

    def forward(self, x, t):
        angle = t[:, None].float() * torch.exp(-torch.arange(16) / 16 * torch.tensor(10000.0).log())
        emb, skips = self.time_embed(torch.cat([angle.cos(), angle.sin()], 1)), []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, emb)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for layer in block:
                x = layer(x, emb)
        return self.out(x)


@torch.no_grad()
def test_converted_weights_give_the_published_networks_output(tmp_path):
    theirs = Published()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = paper.from_file(tmp_path / "w.pt", ADM)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    torch.testing.assert_close(ours(x, t).sample, theirs(x, t), atol=1e-3, rtol=1e-3)
    with pytest.raises(ReproError, match="0 were found"):
        paper.converted({"a": torch.zeros(1)}, ADM)


def latent(inpaint):
    """A tiny pipeline of Stable Diffusion's classes, without its text encoder."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=9 if inpaint else 7, out_channels=4, block_out_channels=(16, 32),
        layers_per_block=1, cross_attention_dim=8, attention_head_dim=8, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **({} if inpaint else {"num_class_embeds": 1000}),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 16), latent_channels=4, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    scheduler = DDIMScheduler(prediction_type="epsilon" if inpaint else "v_prediction")
    return SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler, low_res_scheduler=DDPMScheduler())


@torch.no_grad()
def first_loss(pipe, images, prompt, inpaint):
    """By hand, before any factor differs from zero: the noise, or for the upscaler the velocity, is predicted."""
    noise = drawn("adir/latent", 2, 0, 0)
    x = cut([images[k] for k in noise("image").integers(0, 2).tolist()], 16, noise("crop").uniform((3,))) * 2 - 1
    encode = lambda x: pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor  # noqa: E731
    t, z, eps = noise("t").integers(0, 1000)[:1].expand(2), encode(x), noise("eps").normal((4, 8, 8))
    a, s = (v[:, None, None, None] ** 0.5 for ab in [pipe.scheduler.alphas_cumprod[t]] for v in (ab, 1 - ab))
    mask = F.interpolate((noise("mask").uniform((1, 4, 4)) < 0.5).float(), size=16)
    level, target, given = torch.full((2,), 20), eps, [F.interpolate(mask, size=8), encode(x * (1 - mask))]
    if not inpaint:
        low, target = operator("sr2", 16).A(x), a * eps - s * z
        given = [pipe.low_res_scheduler.add_noise(low, noise("low").normal((3, 8, 8)), level)]
    given, more = torch.cat([a * z + s * eps, *given], dim=1), {} if inpaint else {"class_labels": level}
    out = pipe.unet(given, t, encoder_hidden_states=prompt.expand(2, -1, -1), **more).sample
    return float((out - target).square().mean())


@pytest.mark.parametrize("inpaint", [False, True])
def test_latent_networks_adapt_and_are_left_as_they_were(inpaint):
    pipe = latent(inpaint)
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    images = [torch.rand(3, 24, 24), torch.rand(3, 20, 30)]
    settings = Adaptation(iterations=20, batch=2, rank=2, lr=1e-2, perceptual=0)
    given = (torch.randn(1, 4, 8), settings, 16, None if inpaint else operator("sr2", 16))
    steps = list(paper.adapt_latent(pipe, images, *given, empty=torch.zeros(1, 4, 8)))
    losses, factors = [step.simple for step in steps], steps[-1].factors
    assert losses[0] == pytest.approx(first_loss(pipe, images, given[0], inpaint), rel=1e-4)
    assert sum(losses[-8:]) < sum(losses[:8])
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert not any(isinstance(m, nn.Linear) and f"{n}.up" in factors for n, m in pipe.unet.named_modules())
    assert any(not torch.equal(v, before[k]) for k, v in with_factors(pipe.unet, factors).state_dict().items())


def test_clip_embeds_images_and_prompts_for_retrieval():
    """A random CLIP of the package's own class, with its tokenizer and its normalisation of images."""
    import open_clip

    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(16, vision, text)
    image, prompt = paper.clip(model=model)
    pictures = [torch.rand(3, 32, 32) * shade for shade in (0.2, 0.6, 1.0)]
    index = pipeline.index_images(dict(zip("abc", pictures, strict=True)), image)
    preprocess = open_clip.image_transform(32, is_train=False).transforms[-1]
    with torch.no_grad():
        theirs = F.normalize(model.eval().encode_image(torch.stack([preprocess(p) for p in pictures])), dim=1)
        words = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a cat"]))
    torch.testing.assert_close(index.vectors, theirs, atol=1e-5, rtol=1e-4)
    assert index.nearest(pictures[1], 1).names == ("b",)
    torch.testing.assert_close(prompt(["a cat"]), words)
    cosine = (theirs @ F.normalize(words, dim=1).T).flatten()
    assert index.nearest(prompt(["a cat"])[0], 1).names == ("abc"[int(cosine.argmax())],)
