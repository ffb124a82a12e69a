"""ADIR at paper scale: the published network against an independent one, and latent adaptation on tiny networks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repro.adir import lora, operators, retrieval
from repro.adir.adapt import Adaptation
from repro.adir.study import paper
from repro.errors import ReproError

TINY = {
    **paper.ADM,
    "sample_size": 16,
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 16,
}


class Published:
    """guided-diffusion's forward pass, written from its layout alone, on a state of random weights."""

    def __init__(self, widths=(32, 32, 64), layers=2, attends=(1, 2), head=16, seed=0):
        self.g, self.state = torch.Generator().manual_seed(seed), {}
        self.head, self.blocks = head, {"in": [], "out": []}
        emb = 4 * widths[0]
        self.linear("time_embed.0", widths[0], emb), self.linear("time_embed.2", emb, emb)
        self.conv("input_blocks.0.0", 3, widths[0], 3)
        at, c, skips = 1, widths[0], [widths[0]]
        for i, w in enumerate(widths):
            for _ in range(layers):
                self.block(f"input_blocks.{at}", c, w, emb, i in attends, "")
                self.blocks["in"].append((f"input_blocks.{at}", i in attends, ""))
                c, at = w, at + 1
                skips.append(c)
            if i < len(widths) - 1:
                self.resnet(f"input_blocks.{at}.0", c, c, emb)
                self.blocks["in"].append((f"input_blocks.{at}", False, "down"))
                at += 1
                skips.append(c)
        self.resnet("middle_block.0", c, c, emb), self.attention("middle_block.1", c)
        self.resnet("middle_block.2", c, c, emb)
        at = 0
        for i, w in reversed(list(enumerate(widths))):
            for j in range(layers + 1):
                up = "up" if i and j == layers else ""
                self.block(f"output_blocks.{at}", c + skips.pop(), w, emb, i in attends, up)
                self.blocks["out"].append((f"output_blocks.{at}", i in attends, up))
                c, at = w, at + 1
        self.norm("out.0", c), self.conv("out.2", c, 6, 3)

    def put(self, name, *shape):
        self.state[name] = torch.randn(shape, generator=self.g) * 0.1

    def conv(self, name, i, o, k, dims=2):
        self.put(f"{name}.weight", o, i, *[k] * dims), self.put(f"{name}.bias", o)

    def linear(self, name, i, o):
        self.put(f"{name}.weight", o, i), self.put(f"{name}.bias", o)

    def norm(self, name, c):
        self.put(f"{name}.weight", c), self.put(f"{name}.bias", c)

    def resnet(self, name, i, o, emb):
        self.norm(f"{name}.in_layers.0", i), self.conv(f"{name}.in_layers.2", i, o, 3)
        self.linear(f"{name}.emb_layers.1", emb, 2 * o)
        self.norm(f"{name}.out_layers.0", o), self.conv(f"{name}.out_layers.3", o, o, 3)
        if i != o:
            self.conv(f"{name}.skip_connection", i, o, 1)

    def attention(self, name, c):
        (
            self.norm(f"{name}.norm", c),
            self.conv(f"{name}.qkv", c, 3 * c, 1, 1),
            self.conv(f"{name}.proj_out", c, c, 1, 1),
        )

    def block(self, name, i, o, emb, attends, up):
        self.resnet(f"{name}.0", i, o, emb)
        if attends:
            self.attention(f"{name}.1", o)
        if up:
            self.resnet(f"{name}.{1 + attends}", o, o, emb)

    def apply(self, kind, name, x, **options):
        return kind(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def normed(self, name, x):
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-5)

    def run_resnet(self, name, x, emb, change):
        resize = {"up": lambda v: F.interpolate(v, scale_factor=2), "down": lambda v: F.avg_pool2d(v, 2)}
        resize = resize.get(change, lambda v: v)
        h = self.apply(
            F.conv2d, f"{name}.in_layers.2", resize(F.silu(self.normed(f"{name}.in_layers.0", x))), padding=1
        )
        scale, shift = self.apply(F.linear, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None].chunk(2, 1)
        h = F.silu(self.normed(f"{name}.out_layers.0", h) * (1 + scale) + shift)
        h = self.apply(F.conv2d, f"{name}.out_layers.3", h, padding=1)
        x = resize(x)
        return h + (
            self.apply(F.conv2d, f"{name}.skip_connection", x) if f"{name}.skip_connection.bias" in self.state else x
        )

    def run_attention(self, name, x):
        b, c, h, w = x.shape
        qkv = self.apply(F.conv1d, f"{name}.qkv", self.normed(f"{name}.norm", x).flatten(2))
        q, k, v = qkv.reshape(b * c // self.head, 3 * self.head, h * w).split(self.head, dim=1)
        weight = (torch.einsum("bct,bcs->bts", q, k) / self.head**0.5).softmax(-1)
        out = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, h * w)
        return x + self.apply(F.conv1d, f"{name}.proj_out", out).view(b, c, h, w)

    def __call__(self, x, t):
        half = len(self.state["time_embed.0.weight"][0]) // 2
        angle = t[:, None].float() * torch.exp(-torch.arange(half) / half * torch.tensor(10000.0).log())
        emb = self.apply(F.linear, "time_embed.0", torch.cat([angle.cos(), angle.sin()], 1))
        emb = self.apply(F.linear, "time_embed.2", F.silu(emb))
        h = self.apply(F.conv2d, "input_blocks.0.0", x, padding=1)
        skips = [h]
        for name, attends, change in self.blocks["in"]:
            h = self.run_resnet(f"{name}.0", h, emb, change)
            h = self.run_attention(f"{name}.1", h) if attends else h
            skips.append(h)
        h = self.run_resnet("middle_block.0", h, emb, "")
        h = self.run_resnet("middle_block.2", self.run_attention("middle_block.1", h), emb, "")
        for name, attends, change in self.blocks["out"]:
            h = self.run_resnet(f"{name}.0", torch.cat([h, skips.pop()], 1), emb, "")
            h = self.run_attention(f"{name}.1", h) if attends else h
            h = self.run_resnet(f"{name}.{1 + attends}", h, emb, "up") if change else h
        return self.apply(F.conv2d, "out.2", F.silu(self.normed("out.0", h)), padding=1)


def test_the_published_network_has_the_published_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in paper.build().parameters()) == 552_814_086


def test_converted_weights_give_the_published_networks_output(tmp_path):
    theirs = Published()
    torch.save(theirs.state, tmp_path / "w.pt")
    ours = paper.from_file(tmp_path / "w.pt", TINY)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    torch.testing.assert_close(ours(x, t).sample, theirs(x, t), atol=1e-3, rtol=1e-3)
    with pytest.raises(ReproError, match="it lacks"):
        paper.converted({"a": torch.zeros(1)}, TINY)


def latent(inpaint):
    """A tiny pipeline of Stable Diffusion's classes, without its text encoder."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=9 if inpaint else 7,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=8,
        norm_num_groups=8,
        **({} if inpaint else {"num_class_embeds": 1000}),
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
    )
    kind = "epsilon" if inpaint else "v_prediction"
    return SimpleNamespace(
        unet=unet, vae=vae, scheduler=DDIMScheduler(prediction_type=kind), low_res_scheduler=DDPMScheduler()
    )


@pytest.mark.parametrize("inpaint", [False, True])
def test_latent_networks_adapt_and_are_left_as_they_were(inpaint):
    pipe = latent(inpaint)
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    images = [torch.rand(3, 24, 24), torch.rand(3, 20, 30)]
    operator = None if inpaint else operators.super_resolution(16, 16, 2)
    settings = Adaptation(iterations=20, batch=2, rank=2, lr=1e-2, perceptual=0)
    given = (torch.randn(1, 4, 8), settings, 16, operator)
    steps = list(paper.adapt_latent(pipe, images, *given, empty=torch.zeros(1, 4, 8)))
    losses, factors = [step.simple for step in steps], steps[-1].factors
    assert sum(losses[-8:]) < sum(losses[:8])
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert not any(isinstance(m, nn.Linear) and f"{n}.up" in factors for n, m in pipe.unet.named_modules())
    with lora.adapted(pipe.unet, factors):
        assert any(not torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())


def test_clip_embeds_images_and_prompts_for_retrieval():
    """A random CLIP of the package's own class, with its tokenizer and its normalisation of images."""
    import open_clip

    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(16, vision, text)
    image, prompt = paper.clip(model=model)
    pictures = [torch.rand(3, 32, 32) * shade for shade in (0.2, 0.6, 1.0)]
    index = retrieval.index_images(["a", "b", "c"], pictures, image)
    preprocess = open_clip.image_transform(32, is_train=False).transforms[-1]
    with torch.no_grad():
        theirs = F.normalize(model.eval().encode_image(torch.stack([preprocess(p) for p in pictures])), dim=1)
        words = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a cat"]))
    torch.testing.assert_close(index.vectors, theirs, atol=1e-5, rtol=1e-4)
    assert index.nearest(pictures[1], 1).names == ("b",)
    torch.testing.assert_close(prompt(["a cat"]), words)
    cosine = (theirs @ F.normalize(words, dim=1).T).flatten()
    assert index.nearest(prompt(["a cat"])[0], 1).names == ("abc"[int(cosine.argmax())],)


def test_masks_are_boxes_of_a_quarter_side_and_more():
    masks = paper._boxes(torch.rand(50, 4), 32)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert float(masks.mean(dim=(1, 2, 3)).min()) >= (7 / 32) ** 2
